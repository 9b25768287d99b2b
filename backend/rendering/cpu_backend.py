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
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch

# Pixels below which waking another thread costs more than it saves.
PIXELS_PER_THREAD = 64 * 64

_lock = threading.Lock()


@lru_cache(maxsize=1)
def _kernels() -> tuple[ModuleType, ModuleType]:
    """The compiled modules, ``cpu_kernels`` and ``cpu_gradients``, loaded on first use."""
    with _lock:
        names = ("backend.rendering.cpu_kernels", "backend.rendering.cpu_gradients")
        kernels, gradients = (import_module(name) for name in names)
    return kernels, gradients


def thread_count() -> int:
    """Threads that the kernels use, from NUMBA_NUM_THREADS or the usable cores."""
    return max(1, int(import_module("numba").config.NUMBA_NUM_THREADS))


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, thread_count() - 1), thread_name_prefix="rasterize")


def _run(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run tasks on all threads, the calling one included; results in order."""
    if len(tasks) == 1 or thread_count() == 1:
        return [task() for task in tasks]
    with _lock:
        pool = _pool()
    futures = [pool.submit(task) for task in tasks[:-1]]
    last = tasks[-1]()
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
    cpu_kernels, _ = _kernels()
    batch, height, width = ids.shape
    resolve = barycentric is not None and depth is not None
    weights = np.zeros((batch, 0, 0, 3), np.float32) if barycentric is None else barycentric
    depths = np.zeros((batch, 0, 0), np.float32) if depth is None else depth
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
                weights[item],
                depths[item],
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
    cpu_kernels, _ = _kernels()
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


class CompiledSurface(torch.autograd.Function):
    """Twin of ``rasterize`` followed by ``barycentric.surface_at_pixels``, with a compiled gradient.

    First order only: ask for the ``torch`` backend to differentiate twice.
    """

    @staticmethod
    def forward(ctx, vertices_image, triangles, height, width, cull_back):
        ids, barycentric, depth = rasterize_tensors(vertices_image, triangles, height, width, cull_back, True)
        ctx.save_for_backward(vertices_image, triangles, ids)
        ctx.mark_non_differentiable(ids)
        return ids, barycentric, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _, to_barycentric, to_depth):
        vertices_image, triangles, ids = ctx.saved_tensors
        return surface_gradient(vertices_image, triangles, ids, to_barycentric, to_depth), None, None, None, None


def surface_gradient(
    vertices_image: torch.Tensor,
    triangles: torch.Tensor,
    ids: torch.Tensor,
    to_barycentric: torch.Tensor,
    to_depth: torch.Tensor,
) -> torch.Tensor:
    """(B, V, 3) gradient of the vertices from those of barycentric (B, H, W, 3) and depth (B, H, W)."""
    _, cpu_gradients = _kernels()
    batch, height, width = ids.shape
    vertices = vertices_image.detach().to(torch.float64).contiguous().numpy()
    corners, found = triangles.to(torch.int32).contiguous().numpy(), ids.numpy()
    weights, depths = to_barycentric.contiguous().numpy(), to_depth.contiguous().numpy()
    splits = _workers(height * width) if batch < thread_count() else 1
    # Each task adds into an array of its own; the sum does not depend on which one ends first.
    out = np.zeros((batch, splits, vertices.shape[1], 3))
    _run(
        [
            lambda item=item, part=part: cpu_gradients.resolve_backward(
                part, splits, vertices[item], corners, found[item], weights[item], depths[item], out[item, part]
            )
            for item in range(batch)
            for part in range(splits)
        ]
    )
    return torch.from_numpy(out.sum(axis=1)).to(vertices_image.dtype)


def find_outlines(
    triangle: torch.Tensor,
    depth: torch.Tensor,
    vertices_image: torch.Tensor,
    triangles: torch.Tensor,
    neighbours: torch.Tensor,
    axis: int,
) -> tuple[torch.Tensor, ...]:
    """Near pixel, far pixel (flat over the batch), triangle, edge: (P,) int64 each, see ``antialias``."""
    _, cpu_gradients = _kernels()
    vertices = vertices_image.detach().to(torch.float64).contiguous().numpy()
    corners, across = triangles.to(torch.int32).contiguous().numpy(), neighbours.contiguous().numpy()
    ids, depths = triangle.contiguous().numpy(), depth.detach().contiguous().numpy()
    tables = _run(
        [
            lambda item=item: cpu_gradients.find_outlines(
                axis, vertices[item], corners, across, ids[item], depths[item]
            )
            for item in range(len(ids))
        ]
    )
    pixels = ids[0].size
    offset = np.array([1, 1, 0, 0]) * pixels
    table = np.concatenate([rows[:count] + item * offset for item, (count, rows) in enumerate(tables)])
    return torch.from_numpy(table).unbind(dim=1)
