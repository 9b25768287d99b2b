"""What two cameras see of a mesh, by casting a ray at every triangle: slow, and nothing of the rasterizer.

Symbols: N rays, V vertices, T triangles. Everything in one camera's frame, rays from its centre.
"""

from __future__ import annotations

import numba
import numpy as np
import torch


def cast(directions: torch.Tensor, vertices: torch.Tensor, triangles: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Nearest triangle along each ray.

    (N, 3) directions, (V, 3), (T, 3) -> triangle (N,), -1 for none; distance (N,) in lengths of the
    direction, inf for none; weights (N, 3) of its corners.
    """
    corners = vertices[triangles].double()
    a, b, c = corners.unbind(dim=1)
    # A ray through the origin passes inside the corners' three planes exactly when these signs agree.
    sides = torch.stack([torch.cross(b, c, dim=1), torch.cross(c, a, dim=1), torch.cross(a, b, dim=1)], dim=1)
    normal = torch.cross(b - a, c - a, dim=1)
    offset = (normal * a).sum(dim=1)
    found = _cast(directions.double().numpy(), sides.numpy(), normal.numpy(), offset.numpy())
    triangle, distance, volume = (torch.from_numpy(value) for value in found)
    return triangle, distance, volume / volume.sum(dim=1, keepdim=True)


@numba.njit
def _cast(directions, sides, normal, offset):
    triangle = np.full(len(directions), -1)
    distance = np.full(len(directions), np.inf)
    volume = np.ones((len(directions), 3))
    for ray in range(len(directions)):
        x, y, z = directions[ray]
        for other in range(len(sides)):
            side = sides[other]
            u = side[0, 0] * x + side[0, 1] * y + side[0, 2] * z
            v = side[1, 0] * x + side[1, 1] * y + side[1, 2] * z
            if u * v < 0:
                continue
            w = side[2, 0] * x + side[2, 1] * y + side[2, 2] * z
            if u * w < 0 or v * w < 0:
                continue
            along = normal[other, 0] * x + normal[other, 1] * y + normal[other, 2] * z
            if along == 0:
                continue
            here = offset[other] / along
            if 0 < here < distance[ray]:
                triangle[ray], distance[ray] = other, here
                volume[ray, 0], volume[ray, 1], volume[ray, 2] = u, v, w
    return triangle, distance, volume


def pixel_rays(K: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(N,) places in the picture -> (N, 3) directions of depth 1."""
    return torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], dim=1)


def facing(vertices: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """(T,) bool: the outside looks at the camera."""
    a, b, c = vertices[triangles].double().unbind(dim=1)
    return (torch.cross(b - a, c - a, dim=1) * a).sum(dim=1) < 0
