"""One of several processes that train together; started by torchrun, writes what its own network became."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from training_runs import TINY

from backend.face_model.registry import get_model
from trainer.train.loop import Options, Run
from trainer.train.processes import joined

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    with joined("cpu") as processes:
        run = Run(TINY, get_model("open-head"), out, processes, Options(stop_at=2))
        run.go()
        tensors = {name: tensor.contiguous() for name, tensor in run.backbone.state_dict().items()}
        save_file(tensors, out / f"rank-{processes.rank}.safetensors")
