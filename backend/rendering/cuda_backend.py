"""The rasterizer for NVIDIA GPUs, one Triton program per triangle window.

Triangles are prepared in PyTorch (``fragments.set_up_triangles``), cut into windows so that a triangle
that fills the screen keeps many multiprocessors busy, and drawn with 64-bit atomic maxima on the same
keys as the reference. The result does not depend on the order in which programs run.
"""

from __future__ import annotations

import torch

from backend.rendering.fragments import GRID, HALF_PIXEL, TriangleSetup, set_up_triangles
from backend.rendering.torch_backend import LARGEST_ID, triangle_of_key

# Pixels along each side of the piece of a triangle that one program draws. Triangles of a head are
# smaller than this up to 4096 px images.
WINDOW = 32


def find_triangles(
    vertices_image: torch.Tensor, triangles: torch.Tensor, height: int, width: int, cull_back: bool
) -> torch.Tensor:
    """(B, V, 3), (T, 3) int64 -> (B, H, W) int32 triangle ids, -1 for background."""
    from backend.rendering import cuda_kernels

    images = []
    for vertices in vertices_image:
        setup = set_up_triangles(vertices, triangles, height, width, cull_back)
        keys = torch.zeros(height * width, dtype=torch.int64, device=vertices.device)
        if len(setup.index):
            planes = [setup.inverse_a, setup.slope_x, setup.slope_y, setup.inverse_low, setup.inverse_high]
            tensors = (setup.x, setup.y, torch.stack(planes, dim=1), setup.right, setup.bottom, setup.index)
            tensors = tuple(tensor.contiguous() for tensor in tensors)
            work = cut_into_windows(setup)
            cuda_kernels.launch(work, tensors, keys, width, WINDOW, GRID, HALF_PIXEL, LARGEST_ID)
        images.append(triangle_of_key(keys).reshape(height, width))
    return torch.stack(images)


def cut_into_windows(setup: TriangleSetup) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The windows that cover every triangle's box: row of the setup, first column, first row; (P,) int64 each."""
    across = torch.div(setup.right - setup.left, WINDOW, rounding_mode="floor") + 1
    down = torch.div(setup.bottom - setup.top, WINDOW, rounding_mode="floor") + 1
    count = across * down
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    within = torch.arange(len(owner), device=count.device) - (torch.cumsum(count, dim=0) - count)[owner]
    left = setup.left[owner] + (within % across[owner]) * WINDOW
    top = setup.top[owner] + torch.div(within, across[owner], rounding_mode="floor") * WINDOW
    return owner.contiguous(), left.contiguous(), top.contiguous()
