"""PyTorch on one thread, for small work.

A fit of one photo is many small operations; on two threads each of them waits for the other one to wake up, which now
and then takes longer than the fit itself.

Once a program has called ``torch.set_num_threads``, the batched LU of PyTorch 2.13 fails on the CPU, inside MKL.
So nothing here calls it (``torch.linalg.solve``, ``inv``, ``det`` of batches): systems are positive and go by
Cholesky, matrices of cameras are inverted by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside of it PyTorch keeps to the caller's thread."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
