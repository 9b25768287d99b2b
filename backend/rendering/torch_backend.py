"""The reference rasterizer: plain PyTorch, any device, short enough to check by reading.

Every (triangle, pixel of its bounding box) pair is tested. The winner of a pixel is the maximum of one
64-bit key, 1 / depth above and the complement of the triangle id below, so that the order in which
pairs are seen does not matter. Pairs are made in chunks: memory does not grow with the image.
"""

from __future__ import annotations

import torch

from backend.rendering.fragments import BACKGROUND, GRID, HALF_PIXEL, TriangleSetup, set_up_triangles

# (triangle, pixel) pairs tested at a time, about 150 bytes each.
PAIRS_PER_CHUNK = 1 << 20

# Triangle ids fit the lower 32 bits of a key; the lower id gives the larger key.
LARGEST_ID = (1 << 31) - 1


def find_triangles(
    vertices_image: torch.Tensor, triangles: torch.Tensor, height: int, width: int, cull_back: bool
) -> torch.Tensor:
    """(B, V, 3), (T, 3) int64 -> (B, H, W) int32 triangle ids, -1 for background."""
    images = []
    for vertices in vertices_image:
        setup = set_up_triangles(vertices, triangles, height, width, cull_back)
        keys = torch.zeros(height * width, dtype=torch.int64, device=vertices.device)
        draw(setup, keys, width)
        images.append(triangle_of_key(keys).reshape(height, width))
    return torch.stack(images)


def draw(setup: TriangleSetup, keys: torch.Tensor, width: int) -> None:
    """Raise ``keys`` (H * W,) int64 to the winner of each pixel."""
    columns = setup.right - setup.left + 1
    ends = torch.cumsum(columns * (setup.bottom - setup.top + 1), dim=0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, PAIRS_PER_CHUNK):
        pair = torch.arange(start, min(start + PAIRS_PER_CHUNK, total), device=keys.device)
        owner = torch.searchsorted(ends, pair, right=True)
        box_columns = columns[owner]
        within = pair - (ends[owner] - box_columns * (setup.bottom - setup.top + 1)[owner])
        column = setup.left[owner] + within % box_columns
        row = setup.top[owner] + torch.div(within, box_columns, rounding_mode="floor")
        inside, inverse = test_pairs(setup, owner, column, row)
        key = (inverse.view(torch.int32).to(torch.int64) << 32) | (LARGEST_ID - setup.index[owner])
        pixel = row * width + column
        keys.scatter_reduce_(0, pixel[inside], key[inside], reduce="amax")


def test_pairs(
    setup: TriangleSetup, owner: torch.Tensor, column: torch.Tensor, row: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) pairs -> inside (P,) bool and 1 / depth (P,) float32."""
    pixel_x, pixel_y = column * GRID + HALF_PIXEL, row * GRID + HALF_PIXEL
    x, y = setup.x[owner], setup.y[owner]
    inside = torch.ones_like(owner, dtype=torch.bool)
    for first, second in ((0, 1), (1, 2), (2, 0)):
        edge_x, edge_y = x[:, second] - x[:, first], y[:, second] - y[:, first]
        side = edge_x * (pixel_y - y[:, first]) - edge_y * (pixel_x - x[:, first])
        # Rows grow downwards and the area is positive: a left edge goes up, a top edge goes right.
        owns_its_edge = (edge_y < 0) | ((edge_y == 0) & (edge_x > 0))
        inside &= (side > 0) | ((side == 0) & owns_its_edge)
    dx, dy = (pixel_x - x[:, 0]).to(torch.float64), (pixel_y - y[:, 0]).to(torch.float64)
    inverse = setup.inverse_a[owner] + (setup.slope_x[owner] * dx + setup.slope_y[owner] * dy)
    inverse = torch.minimum(torch.maximum(inverse, setup.inverse_low[owner]), setup.inverse_high[owner])
    return inside, inverse.to(torch.float32)


def triangle_of_key(keys: torch.Tensor) -> torch.Tensor:
    """(N,) int64 keys -> (N,) int32 triangle ids, -1 where no triangle was drawn."""
    ids = LARGEST_ID - (keys & 0xFFFFFFFF)
    return torch.where(keys > 0, ids, torch.full_like(ids, BACKGROUND)).to(torch.int32)
