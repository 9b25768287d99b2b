"""The fast rasterizer for CPUs: compiled kernels on a thread pool, zero-copy on PyTorch's memory.

The kernels run on ordinary Python threads (they release the global lock) and not on Numba's own
parallel layer, whose default implementation must not be entered by two threads at once; this one may.
``NUMBA_NUM_THREADS`` sets the number of threads, the number of usable cores is the default.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

# Pixels below which waking another thread costs more than it saves.
PIXELS_PER_THREAD = 64 * 64

_lock = threading.Lock()


def thread_count() -> int:
    """Threads that the kernels use, from NUMBA_NUM_THREADS or the usable cores."""
    from numba import config

    return max(1, int(config.NUMBA_NUM_THREADS))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, thread_count() - 1), thread_name_prefix="rasterize")


def _run(tasks: Sequence[Callable[[], object]]) -> list[object]:
    """Run tasks on all threads, the calling one included; results in order."""
    if len(tasks) == 1:
        return [tasks[0]()]
    with _lock:
        pool = _pool()
    own = len(tasks) - 1
    if thread_count() == 1:
        return [task() for task in tasks]
    futures = [pool.submit(task) for task in tasks[:own]]
    last = tasks[own]()
    return [future.result() for future in futures] + [last]


# A forked child inherits the pool object but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _workers(pixels: int) -> int:
    return max(1, min(thread_count(), pixels // PIXELS_PER_THREAD))


def rasterize_arrays(
    vertices_image: np.ndarray,
    triangles: np.ndarray,
    ids: np.ndarray,
    barycentric: np.ndarray | None,
    depth: np.ndarray | None,
    cull_back: bool,
) -> None:
    """Fill ``ids`` (B, H, W) int32 and, unless None, ``barycentric`` (B, H, W, 3) and ``depth`` (B, H, W) float32.

    ``vertices_image`` (B, V, 3) float64 and ``triangles`` (T, 3) int32 are C-contiguous; indices are
    trusted here and checked by the caller.
    """
    from backend.rendering import cpu_kernels

    batch, height, width = ids.shape
    resolve = barycentric is not None and depth is not None
    if not resolve:
        barycentric, depth = np.zeros((batch, 0, 0, 3), np.float32), np.zeros((batch, 0, 0), np.float32)
    binned = _run(
        [
            lambda item=item: cpu_kernels.bin_triangles(vertices_image[item], triangles, height, width, cull_back)
            for item in range(batch)
        ]
    )
    splits = _workers(height * width) if batch < thread_count() else 1
    _run(
        [
            lambda item=item, part=part: cpu_kernels.draw_bands(
                part,
                splits,
                vertices_image[item],
                triangles,
                binned[item][2],
                binned[item][3],
                binned[item][0],
                binned[item][1],
                ids[item],
                barycentric[item],
                depth[item],
                resolve,
            )
            for item in range(batch)
            for part in range(splits)
        ]
    )


def rasterize_tensors(
    vertices_image: torch.Tensor, triangles: torch.Tensor, height: int, width: int, cull_back: bool, resolve: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(B, V, 3), (T, 3) -> ids, barycentric, depth on the CPU; the last two None unless ``resolve``."""
    batch = vertices_image.shape[0]
    vertices = vertices_image.detach().to("cpu", torch.float64).contiguous().numpy()
    ids = torch.empty((batch, height, width), dtype=torch.int32)
    barycentric = torch.empty((batch, height, width, 3)) if resolve else None
    depth = torch.empty((batch, height, width)) if resolve else None
    rasterize_arrays(
        vertices,
        triangles.to("cpu", torch.int32).contiguous().numpy(),
        ids.numpy(),
        None if barycentric is None else barycentric.numpy(),
        None if depth is None else depth.numpy(),
        cull_back,
    )
    return ids, barycentric, depth


def interpolate_tensors(
    attributes: torch.Tensor, triangle: torch.Tensor, barycentric: torch.Tensor, triangles: torch.Tensor
) -> torch.Tensor:
    """Forward-only twin of the PyTorch formula in ``rasterize.interpolate``, float32 on the CPU."""
    from backend.rendering import cpu_kernels

    batch, height, width = triangle.shape
    out = torch.empty((batch, height, width, attributes.shape[-1]))
    arrays = (
        attributes.detach().to(torch.float32).contiguous().numpy(),
        barycentric.detach().contiguous().numpy(),
        triangle.contiguous().numpy(),
        triangles.to(torch.int32).contiguous().numpy(),
        out.numpy(),
    )
    splits = _workers(batch * height * width)
    _run([lambda part=part: cpu_kernels.interpolate_rows(part, splits, *arrays) for part in range(splits)])
    return out
