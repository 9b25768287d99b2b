"""Texture coordinates in several charts, for a surface that one chart cannot cover: the gums.

The surface is divided into pieces that each look roughly in one direction (Cohen-Steiner et al. 2004:
proxies, flooding, again). A piece is laid flat without folds (Tutte 1963), relaxed towards isometry by SLIM,
and the pieces are packed side by side at one scale. A piece that overlaps itself when it is flat, or that
is stretched too much, is divided further.

Symbols: V vertices, F quads, T triangles, C charts, U texture coordinates.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from backend.geometry.mesh import triangle_normals, triangulate
from trainer.build_model import charts
from trainer.build_model.check_uv import overlapping_pairs

# More charts than this mean that something is wrong with the surface, not with the division.
MOST_CHARTS = 40
# A chart is divided when its texture is stretched by more than this (L2 stretch of Sander et al. 2001 at the
# scale that keeps the chart's area; 1 is none).
MOST_STRETCH = 1.25
# The start has no overlap and every step towards isometry may bring one: fewer steps are tried when more fail.
SLIM_STEPS = (40, 20, 10, 5, 3)
# Rounds of flooding and averaging after each new chart; the borders stand still after three or four.
ROUNDS = 5
# Room between charts and at the border, as a share of the square's width: 5 texels of a tile of 512.
GAP = 0.01
# Directions tried, over a quarter turn, for the smallest box round a chart.
TURNS = 45


def packed_charts(faces: np.ndarray, points: np.ndarray, height: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Charts of a surface without overlaps, all at the same scale.

    Parameters
    ----------
    faces : (F, 4) int
    points : (V, 3) float
    height : float
        Height of the rectangle to fill, as a multiple of its width.

    Returns
    -------
    uv : (U, 2) float64 in the unit square
        For a rectangle ``height`` times as high as wide.
    face_uv : (F, 4) int
    """
    flat, face_uv, labels = flat_charts(faces, points)
    chart = np.zeros(len(flat), int)
    chart[face_uv] = labels[:, None]
    sizes = np.array([flat[chart == own].max(axis=0) for own in range(labels.max() + 1)])
    places, side = pack(sizes, height)
    return (places[chart] + flat) / [side, side * height], face_uv


def flat_charts(faces: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide a surface and lay the pieces flat.

    Returns positions (U, 2) in the units of ``points``, the lower left corner of each chart at 0, the corners
    (F, 4) of the quads among them and the chart (F,) of each quad.
    """
    normals = triangle_normals(points, triangulate(faces)).reshape(-1, 2, 3).sum(axis=1)
    near = neighbours(faces)
    seeds = pieces(near)
    while len(seeds) <= MOST_CHARTS:
        seeds, labels = divide(normals, near, seeds)
        face_uv, vertex = corners_of_charts(faces, labels)
        flat, whole = np.zeros((len(vertex), 2)), np.zeros(len(seeds), bool)
        for chart in range(len(seeds)):
            used, local = np.unique(face_uv[labels == chart], return_inverse=True)
            placed = lay_flat(local.reshape(-1, 4), points[vertex[used]])
            whole[chart] = placed is not None
            flat[used] = 0.0 if placed is None else placed
        if whole.all():
            return flat, face_uv, labels
        seeds.append(int(np.where(whole[labels], np.inf, facing(normals, labels)).argmin()))
    raise ValueError("the surface cannot be divided into flat charts")


def pieces(near: list[list[int]]) -> list[int]:
    """The first quad of each part of the surface that edges do not connect with the others."""
    rows = np.repeat(np.arange(len(near)), [len(others) for others in near])
    graph = coo_matrix((np.ones(len(rows)), (rows, np.concatenate(near).astype(int))), shape=(len(near), len(near)))
    return np.unique(connected_components(graph, directed=False)[1], return_index=True)[1].tolist()


def corners_of_charts(faces: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners that share an edge within their chart become one: face_uv (F, 4) and the vertex (U,) of each.

    A vertex at which a chart only touches itself gets one corner for each side, so that the chart's border
    is a line that never meets itself.
    """
    loops = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    corner = np.arange(faces.size).reshape(faces.shape)
    ends = np.stack([corner, np.roll(corner, -1, axis=1)], axis=2).reshape(-1, 2)
    owner: dict[tuple[int, int, int], np.ndarray] = {}
    pairs = []
    for (a, b), chart, own in zip(loops.tolist(), np.repeat(labels, 4).tolist(), ends):
        owner[a, b, chart] = own
        if (b, a, chart) in owner:
            pairs += zip(own, owner[b, a, chart][::-1])
    joined = np.array(pairs).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(faces.size, faces.size))
    number = connected_components(graph, directed=False)[1]
    vertex = np.zeros(number.max() + 1, int)
    vertex[number] = faces.ravel()
    return number.reshape(faces.shape), vertex


def neighbours(faces: np.ndarray) -> list[list[int]]:
    """For each quad the quads that may lie in one chart with it, ascending: those that share an edge.

    Of two quads that share two edges the first has none and becomes a chart of its own: both have the diagonal
    that joins the ends of these edges, and four triangles at one edge cannot lie side by side.
    """
    loops = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    owners: dict[tuple[int, int], list[int]] = {}
    for face, edge in zip(np.repeat(np.arange(len(faces)), 4), loops):
        owners.setdefault((int(edge[0]), int(edge[1])), []).append(int(face))
    near: list[list[int]] = [[] for _ in faces]
    for sharing in owners.values():
        for face in sharing:
            near[face] += [other for other in sharing if other != face]
    alone = {face for face, others in enumerate(near) if any(face < o and others.count(o) > 1 for o in others)}
    return [[] if face in alone else sorted(set(others) - alone) for face, others in enumerate(near)]


def divide(normals: np.ndarray, near: list[list[int]], seeds: list[int]) -> tuple[list[int], np.ndarray]:
    """Grow one connected chart from each seed, quads that face its way first; move seeds; repeat.

    ``normals`` (F, 3) are as long as the quads' area. Returns the last seeds and the charts (F,).
    """
    unit = normals / np.maximum(np.linalg.norm(normals, axis=1), 1e-30)[:, None]
    axes = unit[seeds]
    labels = np.full(len(unit), -1)
    for _ in range(ROUNDS):
        labels[:] = -1
        queue = [(-1.0, seed, chart) for chart, seed in enumerate(seeds)]
        heapq.heapify(queue)
        while queue:
            _, face, chart = heapq.heappop(queue)
            if labels[face] >= 0:
                continue
            labels[face] = chart
            for other in near[face]:
                if labels[other] < 0:
                    heapq.heappush(queue, (float(1.0 - unit[other] @ axes[chart]), other, chart))
        axes = chart_axes(normals, labels)
        fit = np.einsum("fk,fk->f", unit, axes[labels])
        seeds = [int(np.where(labels == chart, fit, -np.inf).argmax()) for chart in range(len(seeds))]
    return seeds, labels


def chart_axes(normals: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C, 3) unit directions in which the charts look, by area."""
    axes = np.stack([np.bincount(labels, normals[:, k]) for k in range(3)], axis=1)
    return axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-30)


def facing(normals: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(F,) cosine between the directions of a quad and of its chart."""
    unit = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    return np.einsum("fk,fk->f", unit, chart_axes(normals, labels)[labels])


def lay_flat(quads: np.ndarray, points: np.ndarray) -> np.ndarray | None:
    """(N, 2) positions of one chart's corners, turned into a small box at 0.

    None when it is closed, overlaps itself or is stretched by more than :data:`MOST_STRETCH`. Holes are filled with
    fans of triangles while the chart is relaxed.
    """
    triangles, rest = triangulate(quads).astype(np.int64), points
    loops = sorted(charts.boundary_loops(quads), key=len)
    if not loops:
        return None
    for loop in loops[:-1]:
        triangles = np.concatenate([triangles, charts.fill_loop(loop, len(rest))])
        rest = np.vstack([rest, rest[loop].mean(axis=0)])
    # SLIM's line search is tuned to meshes of about unit size.
    unit = np.sqrt(np.linalg.norm(triangle_normals(rest, triangles), axis=1).sum() / 2)
    start = charts.tutte(triangles, rest, loops[-1]) / np.sqrt(np.pi)
    for steps in SLIM_STEPS:
        flat = unit * charts.slim(rest / unit, triangles, start, steps=steps)[: len(points)]
        if usable(flat, quads, points):
            return boxed(flat)
    return None


def usable(flat: np.ndarray, quads: np.ndarray, points: np.ndarray) -> bool:
    """Whether a flat chart (N, 2) has no overlap and little stretch."""
    triangles = triangulate(quads)
    if not np.isfinite(flat).all() or len(overlapping_pairs(flat[triangles])):
        return False
    large, small, area = charts.stretch(points, triangles, flat, triangles)
    stretch = np.sqrt(((1 / small**2 + 1 / large**2) / 2 * area).sum() / area.sum())
    return bool(small.min() > 0 and stretch < MOST_STRETCH)


def boxed(flat: np.ndarray) -> np.ndarray:
    """Turn a chart so that its upright box is smallest and wider than high, lower left corner at 0."""
    best, smallest = flat, np.inf
    for angle in np.pi / 2 * np.arange(TURNS) / TURNS:
        turned = flat @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        size = turned.max(axis=0) - turned.min(axis=0)
        if size.prod() < smallest:
            best, smallest = turned, size.prod()
            if size[1] > size[0]:
                best = turned @ np.array([[0.0, -1.0], [1.0, 0.0]])
    return best - best.min(axis=0)


def pack(sizes: np.ndarray, height: float) -> tuple[np.ndarray, float]:
    """Boxes on shelves: (C, 2) their lower left corners and the width of the smallest rectangle that holds them.

    ``sizes`` (C, 2) width and height; the rectangle is ``height`` times as high as wide.
    """
    low, high = 0.0, float(sizes.sum())
    for _ in range(50):
        middle = 0.5 * (low + high)
        places, top = shelves(sizes, middle)
        fits = top <= middle * height and (places[:, 0] + sizes[:, 0]).max() <= middle * (1 - GAP)
        low, high = (low, middle) if fits else (middle, high)
    return shelves(sizes, high)[0], high


def shelves(sizes: np.ndarray, width: float) -> tuple[np.ndarray, float]:
    """Boxes from the highest to the lowest, row after row: corners (C, 2) and the height used."""
    gap = GAP * width
    places = np.zeros_like(sizes)
    x, y, row = gap, gap, 0.0
    for box in np.lexsort((-sizes[:, 0], -sizes[:, 1])):
        if x > gap and x + sizes[box, 0] + gap > width:
            x, y, row = gap, y + row + gap, 0.0
        places[box] = x, y
        x, row = x + sizes[box, 0] + gap, max(row, float(sizes[box, 1]))
    return places, y + row + gap
