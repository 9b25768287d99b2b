"""What a rasterizer finds, and the one rule that says which triangle owns which pixel.

Every backend follows this rule to the bit, so that they agree on every triangle id:

1. Vertices are snapped to a grid of ``1 / GRID`` pixel; the inside test is exact integer arithmetic.
2. A pixel is tested at its centre. A centre that lies exactly on an edge belongs to the triangle whose
   top or left edge it is, so that touching triangles share no pixel and leave none out.
3. The nearest surface wins: ``1 / depth`` is interpolated linearly over the image (in double
   precision, in the order of operations written in ``TriangleSetup``), clamped to the range of the
   three corners and rounded to float32; the largest value wins and a tie goes to the lower triangle id.
4. Both windings count, unless ``cull="back"``.
5. A triangle is left out when a corner is nearer than ``NEAR_PLANE`` (or behind the camera), farther
   than ``FAR_LIMIT``, more than ``IMAGE_LIMIT`` pixels from the origin, or not a number, and when its
   snapped area is zero. There is no clipping: a head is either in front of the camera or not.

Symbols: B batch, V vertices, T triangles, H and W image height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Sub-pixel positions per pixel. 1/4096 px is finer than what float32 pixel coordinates hold beyond
# 2048 px, and leaves room for IMAGE_LIMIT in int64 products.
GRID_BITS = 12
GRID = 1 << GRID_BITS
HALF_PIXEL = GRID // 2

# Metres. A millimetre before the lens no photo shows a head.
NEAR_PLANE = 1e-3

# Metres; keeps 1 / depth a positive normal float32.
FAR_LIMIT = 1e9

# Pixels. Grid coordinates stay below 2^30, edge functions below 2^63.
IMAGE_LIMIT = float(1 << 18)

# Triangle id of a pixel that shows none.
BACKGROUND = -1


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees.

    Attributes
    ----------
    triangle : (B, H, W) int32
        Index of the triangle in view, -1 for background.
    barycentric : (B, H, W, 3) float
        Perspective-correct weights of its corners, in [0, 1], sum 1; 0 for background.
    depth : (B, H, W) float
        Camera depth in metres; 0 for background.
    backend : str
        Who made it.
    """

    triangle: torch.Tensor
    barycentric: torch.Tensor
    depth: torch.Tensor
    backend: str = "torch"

    @property
    def mask(self) -> torch.Tensor:
        """(B, H, W) bool, True where a triangle is in view."""
        return self.triangle >= 0


@dataclass(frozen=True)
class TriangleSetup:
    """Triangles of one batch item, ready for the inside test; all tensors of length N.

    With ``(dx, dy)`` the grid vector from corner ``a`` to the pixel centre, in double precision:
    ``1/depth = inverse_a + (slope_x * dx + slope_y * dy)``.

    Attributes
    ----------
    index : (N,) int64
        Triangle ids, ascending; triangles that cannot cover any pixel are left out.
    x, y : (N, 3) int64
        Grid coordinates; corners b and c are exchanged where that is needed to make the area positive.
    inverse_a, slope_x, slope_y : (N,) float64
        The plane of 1 / depth.
    inverse_low, inverse_high : (N,) float64
        Range of 1 / depth over the corners.
    left, top, right, bottom : (N,) int64
        First and last pixel column and row that the triangle may cover, both inclusive.
    """

    index: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    inverse_a: torch.Tensor
    slope_x: torch.Tensor
    slope_y: torch.Tensor
    inverse_low: torch.Tensor
    inverse_high: torch.Tensor
    left: torch.Tensor
    top: torch.Tensor
    right: torch.Tensor
    bottom: torch.Tensor


def set_up_triangles(
    vertices_image: torch.Tensor, triangles: torch.Tensor, height: int, width: int, cull_back: bool
) -> TriangleSetup:
    """Snap, sort out and prepare the triangles of one batch item: (V, 3), (T, 3) -> :class:`TriangleSetup`."""
    vertices = vertices_image.detach().to(torch.float64)
    usable = (vertices[:, 2] >= NEAR_PLANE) & (vertices[:, 2] <= FAR_LIMIT)
    usable &= (vertices[:, :2].abs() <= IMAGE_LIMIT).all(dim=1)
    vertices = torch.where(usable[:, None], vertices, torch.ones_like(vertices))
    snapped = torch.floor(vertices[:, :2] * GRID + 0.5).to(torch.int64)
    inverse = 1.0 / vertices[:, 2]

    x, y = snapped[:, 0][triangles], snapped[:, 1][triangles]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
    # Rows grow downwards, so a triangle that is counter-clockwise as displayed has a negative area.
    keep = (area < 0) if cull_back else (area != 0)
    left = torch.clamp((x.amin(dim=1) + HALF_PIXEL - 1) >> GRID_BITS, min=0)
    right = torch.clamp((x.amax(dim=1) - HALF_PIXEL) >> GRID_BITS, max=width - 1)
    top = torch.clamp((y.amin(dim=1) + HALF_PIXEL - 1) >> GRID_BITS, min=0)
    bottom = torch.clamp((y.amax(dim=1) - HALF_PIXEL) >> GRID_BITS, max=height - 1)
    keep &= usable[triangles].all(dim=1) & (left <= right) & (top <= bottom)

    index = keep.nonzero().squeeze(1)
    area = area[index]
    swap = torch.where((area < 0)[:, None], area.new_tensor([[0, 2, 1]]), area.new_tensor([[0, 1, 2]]))
    x, y = x[index].gather(1, swap), y[index].gather(1, swap)
    corner_inverse = inverse[triangles[index]].gather(1, swap)
    area = area.abs().to(torch.float64)
    bx, by = (x[:, 1] - x[:, 0]).to(torch.float64), (y[:, 1] - y[:, 0]).to(torch.float64)
    cx, cy = (x[:, 2] - x[:, 0]).to(torch.float64), (y[:, 2] - y[:, 0]).to(torch.float64)
    rise_b, rise_c = corner_inverse[:, 1] - corner_inverse[:, 0], corner_inverse[:, 2] - corner_inverse[:, 0]
    return TriangleSetup(
        index=index,
        x=x,
        y=y,
        inverse_a=corner_inverse[:, 0],
        slope_x=(rise_b * cy - rise_c * by) / area,
        slope_y=(rise_c * bx - rise_b * cx) / area,
        inverse_low=corner_inverse.amin(dim=1),
        inverse_high=corner_inverse.amax(dim=1),
        left=left[index],
        top=top[index],
        right=right[index],
        bottom=bottom[index],
    )
