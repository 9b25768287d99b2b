"""Whether texture coordinates overlap: every pair of triangles by exact arithmetic, and a grid of texels.

Symbols: T triangles, P pairs.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from backend.face_model.model import EYES, FaceModel

# A product of two differences of coordinates in the unit square is off by at most a few units in the last place
# of a float64; a cross product nearer to 0 than this is decided with fractions.
ROUNDING = 1e-15
# Pairs of triangles that are tested at once.
PAIRS_AT_ONCE = 200_000


def overlap_figures(model: FaceModel, size: int = 4096) -> dict[str, int]:
    """Overlaps in the unit squares of all materials together; all 0 when every texel belongs to one triangle.

    ``pairs`` of triangles that have more in common than points of their borders, ``texels`` of a grid of
    ``size`` squared that two triangles cover, ``empty`` triangles without texture or turned over. The eyeballs
    share their square on purpose, each covers it once: they are looked at one by one.
    """
    figures = {"pairs": 0, "texels": 0, "empty": 0}
    for own in surfaces(model):
        corners = model.uv.astype(float)[model.triangles_uv[own]]
        figures["pairs"] += len(overlapping_pairs(corners))
        figures["texels"] += overlapping_texels(corners, size)
        figures["empty"] += int((signed_area(corners) <= 0).sum())
    return figures


def surfaces(model: FaceModel) -> list[np.ndarray]:
    """(T,) bool masks of the triangles that share a square."""
    left = model.mean[model.triangles].mean(axis=1)[:, 0] > 0
    masks = []
    for slot, name in enumerate(model.materials):
        own = model.triangle_material == slot
        masks += [own & left, own & ~left] if name == EYES else [own]
    return masks


def signed_area(corners: np.ndarray) -> np.ndarray:
    """(T,) twice the area of triangles (T, 3, 2), negative for those turned over."""
    return cross(corners[:, 0], corners[:, 1], corners[:, 2])


def cross(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Twice the area of p, q, r (..., 2); the sign is exact."""
    area = (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
    p, q, r = np.broadcast_arrays(p, q, r)
    for index in zip(*np.nonzero(np.abs(area) < ROUNDING)):
        px, py, qx, qy, rx, ry = (Fraction(float(value)) for point in (p, q, r) for value in point[index])
        exact = (qx - px) * (ry - py) - (qy - py) * (rx - px)
        area[index] = float(np.sign(exact)) * max(abs(float(exact)), np.finfo(float).tiny)
    return area


def overlapping_pairs(corners: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of triangles (T, 3, 2) whose insides meet; those that only touch are left out.

    Two convex figures are apart exactly when an edge of one of them has the other on its outer side.
    """
    turned = signed_area(corners) < 0
    corners = np.where(turned[:, None, None], corners[:, ::-1], corners)
    first, second = boxes_that_meet(corners)
    found = []
    for start in range(0, len(first), PAIRS_AT_ONCE):
        run = slice(start, start + PAIRS_AT_ONCE)
        one, other = first[run], second[run]
        for _ in range(2):
            for k in range(3):
                p, q = corners[one, k], corners[one, (k + 1) % 3]
                outside = cross(p[:, None], q[:, None], corners[other]) <= 0
                meeting = ~outside.all(axis=1)
                one, other = one[meeting], other[meeting]
            one, other = other, one
        found.append(np.stack([one, other], axis=1))
    return np.concatenate(found) if found else np.zeros((0, 2), int)


def boxes_that_meet(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P,), (P,) of triangles whose boxes have an inside in common: a sweep over x, then y."""
    low, high = corners.min(axis=1), corners.max(axis=1)
    order = np.argsort(low[:, 0], kind="stable")
    after = np.searchsorted(low[order, 0], high[order, 0], side="left")
    counts = np.maximum(after - np.arange(len(order)) - 1, 0)
    one = np.repeat(np.arange(len(order)), counts)
    other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    one, other = order[one], order[other]
    meeting = (low[one, 1] < high[other, 1]) & (low[other, 1] < high[one, 1])
    return one[meeting], other[meeting]


def overlapping_texels(corners: np.ndarray, size: int) -> int:
    """Texel centres of a grid of ``size`` squared that more than one triangle (T, 3, 2) covers, off their edges."""
    covered = np.zeros((size, size), np.uint8)
    for triangle in corners * size:
        if signed_area(triangle[None])[0] < 0:
            triangle = triangle[::-1]
        low = np.clip(np.floor(triangle.min(axis=0)).astype(int), 0, size)
        high = np.clip(np.ceil(triangle.max(axis=0)).astype(int) + 1, 0, size)
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        inside = np.ones(x.shape, bool)
        for p, q in zip(triangle, np.roll(triangle, -1, axis=0)):
            inside &= (q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) > 1e-6
        covered[low[1] : high[1], low[0] : high[0]] += inside
    return int((covered > 1).sum())
