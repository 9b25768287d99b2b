"""Texture coordinates: one chart for the skin, a disc for the inside of the mouth.

The skin is cut along the mid-line from the crown down the back to the neck, laid flat without folds
(Tutte 1963: a convex boundary and averaged inner points cannot fold), relaxed towards isometry by SLIM
(Rabinovich et al. 2017, through libigl) with the holes of eyes and mouth filled and the face favoured,
made symmetric, and squeezed towards the rim of the square so that the face gets the most of the texture.

Symbols: V vertices, F quads, U texture coordinates.
"""

from __future__ import annotations

import igl
import numpy as np
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from backend.geometry.mesh import triangulate

SLIM_STEPS = 40
# Pull on the vertices of the face towards where the face alone would lie.
HOLD = 10.0
# Decimetres round the middle of the face that are drawn at full size, how far they reach in the unit
# square and how far above its middle the face lies (more skin has to go below it than above).
FACE_RADIUS, FACE_REACH, FACE_RISE = 1.1, 0.351, 0.02
MARGIN = 0.01
# The chart's border goes to a superellipse of this exponent: fuller than an ellipse, without the corners of
# a square, where texels would be drawn out along the diagonal.
RIM_EXPONENT = 5.0
# Cosines that describe the border's radius by direction; few enough that no ray of texture has a kink.
RIM_COSINES = 8


def boundary_loops(faces: np.ndarray) -> list[np.ndarray]:
    """Closed loops of the open edges of quads or triangles, walked with the faces on the left."""
    loops = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    keys = {(int(a), int(b)) for a, b in loops}
    following = {a: b for a, b in sorted(keys) if (b, a) not in keys}
    result = []
    while following:
        start = next(iter(following))
        loop = [start]
        while (after := following.pop(loop[-1])) != start:
            loop.append(after)
        result.append(np.array(loop))
    return result


def back_cut(faces: np.ndarray, points: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Mid-line vertices from the crown, excluded from doubling, down the back to the neck's border."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2), axis=1)
    edges = np.unique(edges[(mirror[edges] == edges).all(axis=1)], axis=0)
    border = np.concatenate(boundary_loops(faces))
    ends = border[mirror[border] == border]
    path = [int(ends[points[ends, 2].argmin()])]
    while True:
        near = edges[(edges == path[-1]).any(axis=1)].ravel()
        onward = [int(v) for v in near if v not in path]
        if not onward or (points[onward[0], 1] < points[path[-1], 1] and points[path[-1], 1] > 0.08):
            return np.array(path[::-1])
        path.append(onward[0])


def cut_open(faces: np.ndarray, points: np.ndarray, path: np.ndarray, mirror: np.ndarray):
    """Double the vertices of a path but its first, one copy for each side.

    Returns face_uv (F, 4), vertex (U,) that each texture coordinate belongs to and its mirror (U,).
    """
    doubled = path[1:]
    copy = np.full(len(points), -1)
    copy[doubled] = len(points) + np.arange(len(doubled))
    right = points[faces].mean(axis=1)[:, 0] < 0
    face_uv = np.where(right[:, None] & (copy[faces] >= 0), copy[faces], faces)
    vertex = np.concatenate([np.arange(len(points)), doubled])
    pairs = np.concatenate([mirror, doubled])
    pairs[doubled] = copy[doubled]
    used = np.unique(face_uv)
    number = np.full(len(vertex), -1)
    number[used] = np.arange(len(used))
    return number[face_uv], vertex[used], number[pairs[used]]


def fill_loop(loop: np.ndarray, apex: int) -> np.ndarray:
    """Fan of triangles that closes a hole, oriented like its surroundings."""
    return np.stack([np.roll(loop, -1), loop, np.full(len(loop), apex)], axis=1)


def tutte(triangles: np.ndarray, points: np.ndarray, border: np.ndarray) -> np.ndarray:
    """(N, 2) flat positions with the border on the unit circle, spaced by edge length."""
    count = len(points)
    step = np.linalg.norm(points[np.roll(border, -1)] - points[border], axis=1)
    angle = 2 * np.pi * np.concatenate([[0.0], np.cumsum(step)[:-1]]) / step.sum()
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    graph = ((graph + graph.T) > 0).astype(float)
    laplacian = (diags(np.asarray(graph.sum(axis=1)).ravel()) - graph).tocsr()
    flat = np.zeros((count, 2))
    flat[border] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner = np.setdiff1d(np.unique(triangles), border)
    right = -laplacian[inner][:, border] @ flat[border]
    flat[inner] = np.stack([spsolve(laplacian[inner][:, inner].tocsc(), right[:, k]) for k in range(2)], axis=1)
    return flat


def skin_chart(faces: np.ndarray, points: np.ndarray, mirror: np.ndarray, face: np.ndarray):
    """One symmetric chart of the skin.

    Parameters
    ----------
    faces : (F, 4) int
        Quads of the skin; corners ordered by :func:`make_symmetric`.
    points : (V, 3) float
        Mean head.
    mirror : (V,) int
    face : (V,) bool
        What an artist paints most, without what folds inward: it is flattened by itself, and the rest is
        fitted round it.

    Returns
    -------
    uv : (U, 2) float64 in [0, 1], v upward
    face_uv : (F, 4) int
    """
    face_uv, vertex, pairs = cut_open(faces, points, back_cut(faces, points, mirror), mirror)
    triangles, rest = triangulate(face_uv).astype(np.int64), points[vertex]
    loops = sorted(boundary_loops(face_uv), key=len)
    for loop in loops[:-1]:
        triangles = np.concatenate([triangles, fill_loop(loop, len(rest))])
        rest = np.vstack([rest, rest[loop].mean(axis=0)])
    rest = rest * 10.0  # decimetres: SLIM's line search is tuned to meshes of about unit size
    start = tutte(triangles, rest, loops[-1]) * np.sqrt(_area(rest, triangles) / np.pi)
    whole = slim(rest, triangles, start)
    held, goal = face_alone(face_uv, rest, face[vertex], whole)
    whole = slim(rest, triangles, whole, held, goal)
    flat = upright(whole[: len(vertex)], rest[: len(vertex)], pairs)
    return squeeze(flat, loops[-1], 0.5 * (flat[held].min(axis=0) + flat[held].max(axis=0))), face_uv


def face_alone(face_uv: np.ndarray, rest: np.ndarray, face: np.ndarray, whole: np.ndarray):
    """Flatten the face by itself and lay it over where the whole chart has it.

    Returns the vertices (N,) and their places (N, 2).
    """
    quads = face_uv[face[face_uv].all(axis=1)]
    held = np.unique(quads)
    number = np.full(len(rest), -1)
    number[held] = np.arange(len(held))
    triangles = triangulate(number[quads]).astype(np.int64)
    alone = slim(rest[held], triangles, whole[held])
    # The rotation that brings the face back over the chart (Kabsch), no scale: both are near isometric.
    middle, goal = alone.mean(axis=0), whole[held].mean(axis=0)
    u, _, vt = np.linalg.svd((alone - middle).T @ (whole[held] - goal))
    return held, (alone - middle) @ u @ vt + goal


def slim(
    rest: np.ndarray, triangles: np.ndarray, start: np.ndarray, held=None, goal=None, steps: int = SLIM_STEPS
) -> np.ndarray:
    """Relax a flat mesh without folds towards isometry (symmetric Dirichlet energy).

    ``held`` (N,) vertices are drawn to ``goal`` (N, 2).
    """
    held = np.zeros(0, int) if held is None else held
    goal = np.zeros((0, 2)) if goal is None else goal
    data = igl.slim_precompute(
        np.asfortranarray(rest),
        np.asfortranarray(triangles, np.int32),
        np.asfortranarray(start),
        igl.MappingEnergyType.SYMMETRIC_DIRICHLET,
        held.astype(np.int32),
        np.asfortranarray(goal),
        HOLD,
    )
    return np.asarray(igl.slim_solve(data, steps))[:, :2]


def upright(flat: np.ndarray, rest: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Turn a chart so that mirrored points share v and opposite u, the crown upward, and make it exact."""
    across = (flat - flat[pairs])[rest[:, 0] > 0].sum(axis=0)
    across /= np.linalg.norm(across)
    turned = flat @ np.stack([across, [-across[1], across[0]]]).T
    on_line = pairs == np.arange(len(pairs))
    turned -= turned[on_line].mean(axis=0)
    return 0.5 * (turned + turned[pairs] * [-1.0, 1.0])


def squeeze(flat: np.ndarray, border: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Draw what lies far from the face smaller, so that the chart's border goes to the rim of the unit square.

    Up to :data:`FACE_RADIUS` R from the face's middle the map is a similarity. Beyond, the distance r becomes
    R + ln(1 + c (r - R)) / c: the step outward begins at full size and shrinks with the distance. c depends on
    the direction; it is what brings the border to the rim. A map that grows with r along every ray cannot make
    the chart overlap itself.

    Parameters
    ----------
    flat : (U, 2) float
        Decimetres, mirror images have opposite x.
    border : (K,) int
        Vertices of the outer border, seen from ``centre`` once in every direction.
    centre : (2,) float
        Middle of the face, on the mid-line.

    Returns
    -------
    (U, 2) float in [MARGIN, 1 - MARGIN]
    """
    offset = flat - centre
    radius = np.linalg.norm(offset, axis=1)
    # From straight up, so that cosines are what left and right share.
    angle = np.arctan2(offset[:, 0], offset[:, 1])
    cosines = np.cos(angle[:, None] * np.arange(RIM_COSINES + 1))
    reach = cosines @ np.linalg.lstsq(cosines[border], radius[border], rcond=None)[0]
    scale = FACE_REACH / FACE_RADIUS
    bend = log_bend(reach - FACE_RADIUS, rim_distance(angle) / scale - FACE_RADIUS)
    beyond = np.maximum(radius - FACE_RADIUS, 0.0)
    drawn = np.where(beyond > 0, FACE_RADIUS + np.log1p(bend * beyond) / bend, radius)
    offset = offset * (scale * drawn / np.maximum(radius, 1e-12))[:, None]
    # The border follows the cosines only nearly: fit what is left over.
    low, high = offset.min(axis=0), offset.max(axis=0)
    return 0.5 + (offset - 0.5 * (low + high)) * ((1 - 2 * MARGIN) / (high - low).max())


def rim_distance(angle: np.ndarray) -> np.ndarray:
    """(N,) distance from the face's middle to the superellipse at angles from straight up."""
    half = 0.5 - MARGIN
    up, aside = np.cos(angle), np.abs(np.sin(angle))
    height = np.where(up > 0, half - FACE_RISE, half + FACE_RISE)
    return ((aside / half) ** RIM_EXPONENT + (np.abs(up) / height) ** RIM_EXPONENT) ** (-1 / RIM_EXPONENT)


def log_bend(length: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """c > 0 with ln(1 + c length) / c = wanted, by halving; nearly 0 where nothing needs shrinking."""
    low, high = np.full(len(length), 1e-6), np.full(len(length), 1e3)
    for _ in range(60):
        middle = 0.5 * (low + high)
        long = np.log1p(middle * length) / middle > wanted
        low, high = np.where(long, middle, low), np.where(long, high, middle)
    return 0.5 * (low + high)


def disc_chart(faces: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A surface with one border laid onto the unit square's inner disc: uv (U, 2), face_uv, vertex (U,)."""
    vertex, face_uv = np.unique(faces, return_inverse=True)
    face_uv = face_uv.reshape(faces.shape)
    border = max(boundary_loops(face_uv), key=len)
    flat = tutte(triangulate(face_uv), points[vertex], border)
    # A bag laid flat crowds its bottom in the middle: spread the radii.
    radius = np.linalg.norm(flat, axis=1, keepdims=True)
    return 0.5 + 0.49 * flat / np.maximum(radius, 1e-9) * np.sqrt(radius), face_uv, vertex


def _area(points: np.ndarray, triangles: np.ndarray) -> float:
    a, b, c = (points[triangles[:, k]] for k in range(3))
    return 0.5 * float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())


def stretch(points: np.ndarray, triangles: np.ndarray, uv: np.ndarray, triangles_uv: np.ndarray):
    """Singular values of the map from surface to texture, per triangle.

    Returns (T,) larger, (T,) smaller (negative where the texture is mirrored), (T,) surface area; in
    units where the area-weighted mean of their product is 1.
    """
    a, b, c = (points[triangles[:, k]] for k in range(3))
    x = b - a
    length = np.linalg.norm(x, axis=1)
    x = x / length[:, None]
    normal = np.cross(b - a, c - a)
    area = 0.5 * np.linalg.norm(normal, axis=1)
    y = np.cross(normal / (2 * area)[:, None], x)
    edges = np.stack([np.stack([length, ((c - a) * x).sum(1)], 1), np.stack([0 * length, ((c - a) * y).sum(1)], 1)], 1)
    p, q, r = (uv[triangles_uv[:, k]] for k in range(3))
    jacobian = np.stack([q - p, r - p], axis=2) @ np.linalg.inv(edges)
    sign = np.sign(np.linalg.det(jacobian))
    values = np.linalg.svd(jacobian, compute_uv=False)
    scale = np.sqrt((values.prod(axis=1) * area).sum() / area.sum())
    return values[:, 0] / scale, sign * values[:, 1] / scale, area
