"""Silhouettes with a gradient.

Which triangle a pixel sees is decided at its centre, so a picture does not change when an outline moves
by a fraction of a pixel, and no gradient reaches the outline. Here the two pixels on both sides of an
outline are mixed by how far the outline reaches between their centres, which moves with its vertices.
The idea is analytic antialiasing after Laine et al. 2020, "Modular primitives for high-performance
differentiable rendering", section 3.5. Ours walks along the surface from the pixel to the outline, so
that it also finds outlines of meshes whose triangles are smaller than a pixel.

Symbols: B batch, V vertices, T triangles, H, W image size, C channels, P pixel pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.rendering import cpu_backend
from backend.rendering.barycentric import work_dtype
from backend.rendering.fragments import Fragments

# Triangles crossed between two pixel centres before giving up. Near an outline triangles are seen
# edge-on and many fit into a pixel; a walk ends by itself at the outline or at the far pixel.
LONGEST_WALK = 256

# No triangle lies on the other side of the edge.
NO_NEIGHBOUR = -1

HORIZONTAL, VERTICAL = 0, 1


def antialias(
    image: torch.Tensor,
    fragments: Fragments,
    vertices_image: torch.Tensor,
    triangles: torch.Tensor,
    neighbours: torch.Tensor | None = None,
) -> torch.Tensor:
    """Blend an image along silhouettes.

    Parameters
    ----------
    image : (B, H, W, C) float
        Made from ``fragments``, background included.
    fragments : Fragments
    vertices_image : (B, V, 3) float
        What was rasterized; receives the gradient of the outlines.
    triangles : (T, 3) int
    neighbours : (T, 3) int64, optional
        :func:`edge_neighbours` of ``triangles``, to save time when many images share a mesh.

    Returns
    -------
    (B, H, W, C) float
        Differentiable with respect to ``image`` and ``vertices_image``.
    """
    triangles = triangles.to(image.device).long()
    if fragments.backend == "nvdiffrast":
        from backend.rendering import nvdiffrast_backend

        return nvdiffrast_backend.antialias(image, fragments, vertices_image, triangles)
    neighbours = edge_neighbours(triangles) if neighbours is None else neighbours.to(image.device)
    pixels = image.reshape(-1, image.shape[-1])
    result = pixels
    for axis in (HORIZONTAL, VERTICAL):
        find = find_outlines_compiled if can_compile(fragments, triangles) else find_outlines
        pairs, triangle, edge = find(fragments, vertices_image, triangles, neighbours, axis)
        first, second = triangles[triangle, edge], triangles[triangle, (edge + 1) % 3]
        ends = vertices_image[pairs.item, first], vertices_image[pairs.item, second]
        # An outline is met by pairs along both axes; the axis that it crosses more squarely counts, or
        # a slanted outline would count twice.
        extent = (ends[1] - ends[0]).detach().abs()
        steep = extent[:, 1] > extent[:, 0]
        square = steep if axis == HORIZONTAL else ~steep
        pairs = pairs.at(square)
        reach = crossing(ends[0][square], ends[1][square], pairs).clamp(0.0, 1.0).to(image.dtype)[:, None]
        difference = pixels[pairs.far] - pixels[pairs.near]
        result = result.index_add(0, pairs.near, (0.5 - reach).clamp(min=0.0) * difference)
        result = result.index_add(0, pairs.far, (0.5 - reach).clamp(max=0.0) * difference)
    return result.reshape(image.shape)


@dataclass(frozen=True)
class Pairs:
    """P neighbouring pixels that see different triangles, the nearer surface first.

    ``item`` batch item; ``near``, ``far`` flat pixel indices; ``triangle`` seen by the near pixel;
    ``centre`` (P, 2) of the near pixel; ``step`` +1 or -1 along the axis towards the far pixel.
    """

    axis: int
    item: torch.Tensor
    near: torch.Tensor
    far: torch.Tensor
    triangle: torch.Tensor
    centre: torch.Tensor
    step: torch.Tensor

    def at(self, index: torch.Tensor) -> Pairs:
        """The pairs of an index."""
        columns = (self.item, self.near, self.far, self.triangle, self.centre, self.step)
        return Pairs(self.axis, *(column[index] for column in columns))


def make_pairs(near: torch.Tensor, far: torch.Tensor, ids: torch.Tensor, axis: int) -> Pairs:
    """(P,) flat indices of near and far pixels of ``ids`` (B, H, W) -> pairs."""
    height, width = ids.shape[1:]
    dtype = work_dtype(ids.device)
    line = torch.div(near, width, rounding_mode="floor")
    centre = torch.stack([near % width, line % height], dim=1).to(dtype) + 0.5
    item = torch.div(line, height, rounding_mode="floor")
    return Pairs(axis, item, near, far, ids.reshape(-1)[near].long(), centre, torch.sign(far - near).to(dtype))


def pairs_with_a_jump(fragments: Fragments, axis: int) -> Pairs:
    """Neighbours along an axis whose triangle ids differ."""
    ids, depth = fragments.triangle, fragments.depth.detach()
    depth = torch.where(fragments.mask, depth, torch.full_like(depth, torch.inf)).reshape(-1)
    height, width = ids.shape[1:]
    if axis == HORIZONTAL:
        differs, stride = ids[:, :, :-1] != ids[:, :, 1:], 1
    else:
        differs, stride = ids[:, :-1] != ids[:, 1:], width
    item, row, column = differs.nonzero(as_tuple=True)
    one = (item * height + row) * width + column
    other = one + stride
    one_is_near = depth[one] <= depth[other]
    return make_pairs(torch.where(one_is_near, one, other), torch.where(one_is_near, other, one), ids, axis)


def find_outlines(
    fragments: Fragments, vertices_image: torch.Tensor, triangles: torch.Tensor, neighbours: torch.Tensor, axis: int
) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
    """Pairs of pixels with an outline between their centres, and that outline: triangle (P,) and edge (P,)."""
    pairs = pairs_with_a_jump(fragments, axis)
    vertices = vertices_image.detach().to(work_dtype(vertices_image.device))
    found, triangle, edge = walk_to_outline(pairs, vertices, triangles, neighbours)
    return pairs.at(found), triangle, edge


def can_compile(fragments: Fragments, triangles: torch.Tensor) -> bool:
    """Did the cpu backend make these fragments, on the CPU and in its own precision?"""
    return fragments.backend == "cpu" and triangles.device.type == "cpu" and fragments.depth.dtype == torch.float32


def find_outlines_compiled(
    fragments: Fragments, vertices_image: torch.Tensor, triangles: torch.Tensor, neighbours: torch.Tensor, axis: int
) -> tuple[Pairs, torch.Tensor, torch.Tensor]:
    """Twin of :func:`find_outlines`."""
    near, far, triangle, edge = cpu_backend.find_outlines(
        fragments.triangle, fragments.depth, vertices_image, triangles, neighbours, axis
    )
    return make_pairs(near, far, fragments.triangle, axis), triangle, edge


def crossing(first: torch.Tensor, second: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Where edges cross the line through both pixel centres.

    (P, 3) end points in the image -> (P,) position in pixels from the near centre towards the far one;
    -inf where the edge does not cross the line.
    """
    along, across = pairs.axis, 1 - pairs.axis
    line = pairs.centre[:, across]
    crosses = (first[:, across] > line) != (second[:, across] > line)
    run = torch.where(crosses, second[:, across] - first[:, across], torch.ones_like(line))
    place = first[:, along] + (line - first[:, across]) / run * (second[:, along] - first[:, along])
    return torch.where(crosses, (place - pairs.centre[:, along]) * pairs.step, torch.full_like(line, -torch.inf))


def walk_to_outline(
    pairs: Pairs, vertices_image: torch.Tensor, triangles: torch.Tensor, neighbours: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follow the near surface towards the far pixel until it ends or folds away.

    Returns
    -------
    found : (Q,) int64, indices of the pairs with an outline between their centres
    triangle, edge : (Q,) int64, the outline: from corner ``edge`` to corner ``edge + 1`` of ``triangle``
    """
    active = torch.arange(len(pairs.near), device=pairs.near.device)
    triangle = pairs.triangle
    keep = triangle >= 0
    active, triangle = active[keep], triangle[keep]
    found, outlines, edges = [], [], []
    for _ in range(LONGEST_WALK):
        if len(active) == 0:
            break
        here = pairs.at(active)
        points = vertices_image[here.item[:, None], triangles[triangle]]
        reach = torch.stack([crossing(points[:, k], points[:, (k + 1) % 3], here) for k in range(3)], dim=1)
        reach, edge = reach.max(dim=1)
        across = neighbours[triangle, edge]
        ends = (across == NO_NEIGHBOUR) | _folds(vertices_image, triangles, here.item, triangle, edge, across)
        within = torch.isfinite(reach) & (reach <= 1.0)
        stop = within & ends
        found.append(active[stop])
        outlines.append(triangle[stop])
        edges.append(edge[stop])
        go_on = within & ~ends
        active, triangle = active[go_on], across[go_on]
    empty = pairs.near.new_zeros(0)
    return torch.cat([empty, *found]), torch.cat([empty, *outlines]), torch.cat([empty, *edges])


def _folds(
    vertices_image: torch.Tensor,
    triangles: torch.Tensor,
    item: torch.Tensor,
    triangle: torch.Tensor,
    edge: torch.Tensor,
    across: torch.Tensor,
) -> torch.Tensor:
    """(P,) bool: the neighbour across the edge lies on the same side of it in the image."""
    first, second = triangles[triangle, edge], triangles[triangle, (edge + 1) % 3]
    own_apex = triangles[triangle, (edge + 2) % 3]
    other = triangles[across.clamp(min=0)]
    other_apex = other.sum(dim=1) - first - second
    origin = vertices_image[item, first]
    direction = vertices_image[item, second] - origin

    def side(apex: torch.Tensor) -> torch.Tensor:
        # Where there is no neighbour this index is meaningless; the caller does not use the answer.
        offset = vertices_image[item, apex.clamp(0, vertices_image.shape[1] - 1)] - origin
        return direction[:, 0] * offset[:, 1] - direction[:, 1] * offset[:, 0]

    return side(own_apex) * side(other_apex) > 0


def edge_neighbours(triangles: torch.Tensor) -> torch.Tensor:
    """(T, 3) triangles -> (T, 3) int64, the triangle across the edge from corner k to corner k + 1.

    -1 at the border of the mesh and where more than two triangles share an edge.
    """
    triangles = triangles.long()
    first, second = triangles, triangles.roll(-1, dims=1)
    count = int(triangles.max()) + 1 if len(triangles) else 1
    key = (torch.minimum(first, second) * count + torch.maximum(first, second)).reshape(-1)
    ordered, position = torch.sort(key, stable=True)
    same_as_next = torch.zeros_like(ordered, dtype=torch.bool)
    same_as_next[:-1] = ordered[:-1] == ordered[1:]
    same_as_previous = same_as_next.roll(1)
    starts_pair = same_as_next & ~same_as_previous
    # A pair is clean when its second half does not continue into a third.
    starts_pair[:-1] &= ~same_as_next[1:]
    one = starts_pair.nonzero().squeeze(1)
    result = torch.full_like(key, NO_NEIGHBOUR)
    left, right = position[one], position[one + 1]
    result[left] = torch.div(right, 3, rounding_mode="floor")
    result[right] = torch.div(left, 3, rounding_mode="floor")
    return result.reshape(triangles.shape)
