"""The covisible map as published, to show what it lets in. Ours is ``backend.rendering.synthesis.covisible``.

Shang et al. 2020, section on occlusion-aware view synthesis: triangles that both views see. The published
code takes the vertices of the triangles each view sees, intersects the two sets, takes all triangles
round a vertex of the intersection, and draws those of the target. Four things are wrong with the result:

* background pixels carry triangle id 0, so the corners of triangle 0 are always seen by both views;
* the vertices of all samples fill one table, and shorter rows are filled up with zeros, so that vertex 0
  counts in every sample but the one that sees most;
* only the chosen triangles are drawn, so one that lies behind skin that was not chosen is marked in the
  pixels of that skin;
* a ring of triangles beyond what both views see is marked.

Symbols: B batch, V vertices, T triangles, H, W image size.
"""

from __future__ import annotations

import torch

from backend.rendering.rasterize import rasterize
from backend.rendering.synthesis import View
from backend.rendering.transform import project_to_image


@torch.no_grad()
def published_covisible(target: View, source: View, triangles: torch.Tensor) -> torch.Tensor:
    """(T, 3) triangles of both views -> (B, H, W) bool."""
    triangles = triangles.to(target.K.device).long()
    height, width = target.size
    none = target.t.new_zeros(3)
    shared = [
        _vertices_of_both(target.fragments.triangle[item], source.fragments.triangle[item], triangles)
        for item in range(len(target.K))
    ]
    longest = max(len(vertices) for vertices in shared)
    maps = []
    for item, vertices in enumerate(shared):
        both = torch.zeros(target.vertices_camera.shape[1], dtype=torch.bool, device=triangles.device)
        both[vertices] = True
        both[0] |= len(vertices) < longest
        chosen = triangles[both[triangles].any(dim=1)]
        points = target.vertices_camera[item : item + 1]
        image = project_to_image(points, target.K[item], torch.eye(3).to(points), none)
        maps.append(rasterize(image, chosen, height, width).mask[0])
    return torch.stack(maps)


def _vertices_of_both(first: torch.Tensor, second: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
    """(H, W) ids of two views, -1 for background, which counts as triangle 0 -> vertices that both see."""
    seen = [triangles[ids.clamp(min=0).unique().long()].unique() for ids in (first, second)]
    return seen[0][torch.isin(seen[0], seen[1])]
