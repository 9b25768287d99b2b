"""Several processes that train one network together, as ``torchrun`` starts them; or one alone.

Every process draws other people, gradients are averaged (PyTorch's DistributedDataParallel), and the first process
writes files and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from backend.errors import TrainingError


@dataclass(frozen=True)
class Processes:
    """This process among all: ``rank`` of ``count``, computing on ``device``."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def shared(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are averaged over all processes."""
        if self.count == 1:
            return network
        on_gpu = self.device.type == "cuda"
        return DistributedDataParallel(network, device_ids=[self.device.index] if on_gpu else None)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes; everybody gets it."""
        if self.count > 1:
            distributed.all_reduce(values)
            values /= self.count
        return values

    def anybody(self, said: bool) -> bool:
        """Whether any process says so; everybody gets the same answer."""
        return bool(self.mean(torch.tensor([float(said)], device=self.device)) > 0) if self.count > 1 else said

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, or be alone.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu`` or ``cuda``; every process of a machine gets a GPU of its own.
    """
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise TrainingError("PyTorch sees no GPU here; use --device cpu or install PyTorch's CUDA build.")
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu and local >= torch.cuda.device_count():
        raise TrainingError(
            f"There are {torch.cuda.device_count()} GPUs for {local + 1} processes; start as many processes as GPUs."
        )
    where = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(where)
    if count == 1:
        yield Processes(0, 1, where)
        return
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(rank, count, where)
    finally:
        distributed.destroy_process_group()
