"""What of a texture depends on the face model and the size alone, computed once and kept.

Symbols: V vertices, T skin triangles, S texture size, N neighbour entries, G texels outside the charts.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from backend.errors import ModelError
from backend.face_model.model import SKIN, FaceModel
from backend.geometry.mesh import edges, vertex_normals
from backend.reconstruction.texture_cavity import cavity_depth
from backend.reconstruction.texture_raster import NO_TRIANGLE, cover

# Atlases kept: one model at two sizes, or two models. At 4096 one takes about 200 MB, at 8192 four times that.
KEPT = 2

# Barycentric coordinates are kept as 16-bit fractions: 1/65535 of a 6 mm triangle is 0.1 micrometre,
# and an atlas of 4096 x 4096 takes 134 MB instead of 270.
BARYCENTRIC_SCALE = 65535.0

# Texels this far outside a chart (at size 1024, in proportion at others) repeat the chart's edge, which
# keeps mip-maps down to 32 x 32 clean; the rest is plain skin tone.
GUTTER = 32

# Rounds of neighbour averaging that soften the borders of region masks: about 1 cm on a 10,000 vertex head.
REGION_SMOOTHING = 6
CAVITY_SMOOTHING = 1


@dataclass(frozen=True)
class Surface:
    """The skin of a model as the texture sees it, without any image size.

    Attributes
    ----------
    triangles : (T, 3) int32
        Vertices of the skin triangles: rows that the atlas speaks of.
    neighbour_start : (V + 1,) int32
    neighbours : (N,) int32
        ``neighbours[neighbour_start[v]:neighbour_start[v + 1]]`` share an edge with v.
    skin : (V,) bool
        Vertices of skin triangles.
    mirror : (V,) int32
        The model's, or -1 everywhere when it has none.
    take : (V,) float32
        How readily the photo is believed there, 1 on the face, 0 on the scalp.
    trust : (V,) float32
        Where bare skin is expected: cheeks and nose, not the forehead, where a fringe may hang.
    seed : (V,) float32
        Where the face surely is when its colour is that of skin: trust and the middle of the forehead.
    feature : (V,) float32
        Eyes, brows, nostrils and lips: their own colours differ from skin and are kept.
    beard : (V,) float32
        Where dark colours may be a beard, which belongs to the person.
    chin : (V,) float32
        The middle of the chin: a beard grows there too, hair beside the jaw does not.
    socket : (V,) float32
        Bare skin between lids, brow and cheekbone: positive round the subject's left eye, negative round the right.
    lens : (V,) float32
        What a large lens and its rim cover, with the same signs.
    brow : (V,) float32
        Brows.
    cavity : (V,) float32
        1 deep in nostrils and ears and between the lips.
    """

    triangles: np.ndarray
    neighbour_start: np.ndarray
    neighbours: np.ndarray
    skin: np.ndarray
    mirror: np.ndarray
    take: np.ndarray
    trust: np.ndarray
    seed: np.ndarray
    feature: np.ndarray
    beard: np.ndarray
    chin: np.ndarray
    socket: np.ndarray
    lens: np.ndarray
    brow: np.ndarray
    cavity: np.ndarray


@dataclass(frozen=True)
class Atlas:
    """The chart layout at one size.

    Attributes
    ----------
    surface : Surface
    triangle : (S, S) int32
        Row of ``surface.triangles``, -1 outside the charts.
    barycentric : (S, S, 2) uint16
        Weights of the second and third corner times :data:`BARYCENTRIC_SCALE`.
    texel_area : (T,) float32
        Texels that each triangle covers.
    gutter : (G,) int32
        Flat indices of texels in no chart but near one.
    nearest : (G,) int32
        Flat index of the chart texel nearest to each of them.
    far : (N,) int32
        Flat indices of the other texels in no chart.
    """

    surface: Surface
    triangle: np.ndarray
    barycentric: np.ndarray
    texel_area: np.ndarray
    gutter: np.ndarray
    nearest: np.ndarray
    far: np.ndarray


_lock = threading.RLock()
_surfaces: OrderedDict[int, tuple[FaceModel, Surface]] = OrderedDict()
_atlases: OrderedDict[tuple[int, int], tuple[FaceModel, Atlas]] = OrderedDict()


def surface_of(model: FaceModel) -> Surface:
    """The model's :class:`Surface`, kept for the next photo."""
    return kept(_surfaces, id(model), model, lambda: build_surface(model))


def atlas_of(model: FaceModel, size: int) -> Atlas:
    """The model's :class:`Atlas` at ``size``, kept for the next photo."""
    return kept(_atlases, (id(model), size), model, lambda: build_atlas(model, size))


def kept(store: OrderedDict, key: object, model: FaceModel, build):
    """What ``build`` makes of a model, from the store or into it; the last :data:`KEPT` stay."""
    # The model is stored too: while it is alive its id cannot be given to another one. Two photos at once wait
    # for one build; an atlas builds its surface inside, so the lock lets its own thread in again.
    with _lock:
        if key not in store:
            store[key] = (model, build())
            while len(store) > KEPT:
                store.popitem(last=False)
        store.move_to_end(key)
        return store[key][1]


def build_atlas(model: FaceModel, size: int) -> Atlas:
    """Rasterize the skin's charts.

    Raises
    ------
    ModelError
        The model has no skin inside the unit square of its texture coordinates.
    """
    surface = surface_of(model)
    uv_triangles = model.triangles_uv[model.triangle_material == model.materials.index(SKIN)]
    # As backend.rendering.transform.uv_to_image: row 0 is v = 1.
    texels = np.stack([model.uv[:, 0], 1.0 - model.uv[:, 1]], axis=1).astype(np.float64) * size
    coverage = cover(texels, None, uv_triangles, size, size)
    empty = coverage.triangle == NO_TRIANGLE
    if empty.all():
        raise ModelError(
            f"Face model {model.info.name} has no skin inside the unit square of its texture coordinates, "
            "so it cannot be textured: use texture size none or another model."
        )
    a, b, c = (texels[uv_triangles[:, corner]] for corner in range(3))
    area = 0.5 * np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    fractions = np.rint(coverage.barycentric[..., 1:] * BARYCENTRIC_SCALE).astype(np.uint16)
    gutter, nearest, far = nearest_inside(empty, GUTTER * size / 1024)
    return Atlas(surface, coverage.triangle, fractions, area.astype(np.float32), gutter, nearest, far)


def nearest_inside(empty: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, S) bool -> flat indices: empty texels within reach, the filled one nearest to each, the rest."""
    distance, labels = cv2.distanceTransformWithLabels(
        empty.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    filled = np.flatnonzero(~empty)
    label = np.asarray(labels, np.int32).ravel()
    owner = np.zeros(label.max() + 1, np.int32)
    owner[label[filled]] = filled
    near = distance.ravel() <= reach
    gutter = np.flatnonzero(empty.ravel() & near).astype(np.int32)
    return gutter, owner[label[gutter]], np.flatnonzero(~near).astype(np.int32)


def build_surface(model: FaceModel) -> Surface:
    """Neighbours, mirror and region weights of the skin."""
    triangles = model.triangles[model.triangle_material == model.materials.index(SKIN)]
    skin = np.zeros(model.vertex_count, bool)
    skin[triangles] = True
    start, neighbours = neighbour_lists(triangles, model.vertex_count)
    mirror = np.full(model.vertex_count, -1, np.int32) if model.mirror is None else model.mirror.astype(np.int32)
    weights = _region_weights(model, triangles)
    for name, values in weights.items():
        # A nostril is a few vertices wide: softened like the rest it would fill up.
        rounds = CAVITY_SMOOTHING if name == "cavity" else REGION_SMOOTHING
        weights[name] = smoothed(values, start, neighbours, rounds)
    return Surface(np.ascontiguousarray(triangles), start, neighbours, skin, mirror, **weights)


def neighbour_lists(triangles: np.ndarray, vertex_count: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3) -> start (V + 1,) and neighbours (N,) of every vertex, as in a CSR matrix."""
    pairs = edges(triangles)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    counts = np.bincount(both[:, 0], minlength=vertex_count)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return start, np.ascontiguousarray(both[:, 1]).astype(np.int32)


def smoothed(values: np.ndarray, start: np.ndarray, neighbours: np.ndarray, rounds: int) -> np.ndarray:
    """(V,) -> (V,) float32: half of each value and half of its neighbours' mean, so many times."""
    owner = np.repeat(np.arange(len(values)), np.diff(start))
    counts = np.maximum(np.diff(start), 1)
    for _ in range(rounds):
        around = np.bincount(owner, weights=values[neighbours], minlength=len(values)) / counts
        values = np.where(np.diff(start) > 0, 0.5 * values + 0.5 * around, values)
    return values.astype(np.float32)


def ramp(x: np.ndarray, zero: float, one: float) -> np.ndarray:
    """Smooth step: 0 at ``zero``, 1 at ``one``, which may be the smaller of the two."""
    x = np.clip((x - zero) / (one - zero), 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _region_weights(model: FaceModel, triangles: np.ndarray) -> dict[str, np.ndarray]:
    """Weights from the iBUG landmarks of the mean head, in units of its eye distance (about 62 mm).

    Every model has these landmarks; named regions, where a model brings them, sharpen the result.
    """
    mean = model.mean.astype(np.float64)
    points = model.landmark_points(mean, "ibug68")
    left_eye, right_eye = points[42:48].mean(axis=0), points[36:42].mean(axis=0)
    unit = float(np.linalg.norm(left_eye - right_eye))
    centre = (left_eye + right_eye) / 2.0
    local, marks = (mean - centre) / unit, (points - centre) / unit
    x, y, z = np.abs(local[:, 0]), local[:, 1], local[:, 2]
    normals = vertex_normals(mean, triangles)
    front = ramp(normals[:, 2], 0.1, 0.5)
    chin, nose, mouth = marks[8, 1], marks[33], marks[48:60].mean(axis=0)
    lids, brows = np.concatenate([marks[36:48]]), marks[17:27]
    feature = np.maximum.reduce(
        [
            ramp(_distance(local, lids), 0.26, 0.12),
            ramp(_distance(local, _dense(brows[:5]), _dense(brows[5:])), 0.20, 0.09),
            # Lips and a little around them, no more: what crosses them, a straw, must stand out beside them.
            ramp(_distance(local, _dense(marks[48:60]), _dense(marks[60:68])), 0.17, 0.06),
            ramp(_distance(local, marks[31:36]), 0.26, 0.10),
        ]
    )
    ear = marks[[0, 16], 2].mean()
    scalp_free = ramp(y, 1.25, 0.85) * ramp(z, ear + 0.05, ear + 0.45)
    take = scalp_free * (0.35 + 0.65 * ramp(y, chin - 0.25, chin + 0.10))
    # Under the jaw lies the head's own shadow, or a collar.
    take *= np.maximum(ramp(normals[:, 1], -0.80, -0.40), ramp(y, chin + 0.3, chin + 0.5))
    seed = front * ramp(y, 0.95, 0.75) * ramp(y, mouth[1] + 0.1, mouth[1] + 0.3) * ramp(feature, 0.6, 0.1) * take
    seed *= ramp(z, ear + 0.3, ear + 0.7)
    trust = seed * ramp(y, 0.50, 0.30)
    beard = ramp(y, nose[1] - 0.02, nose[1] - 0.10) * ramp(x, 1.15, 0.75) * ramp(y, chin - 0.25, chin)
    chin_middle = ramp(x, 0.50, 0.35) * ramp(y, mouth[1] - 0.15, mouth[1] - 0.25) * ramp(y, chin, chin + 0.1) * front
    near_lids = _distance(local, lids)
    brow = ramp(_distance(local, _dense(brows[:5]), _dense(brows[5:])), 0.16, 0.09)
    # Lids and lips open: the mean head's closed fold says little of the light in it.
    moving = np.maximum(
        ramp(near_lids, 0.24, 0.16), 0.65 * ramp(_distance(local, _dense(marks[[*range(60, 68), 60]])), 0.14, 0.08)
    )
    around_eyes = ramp(z, ear + 0.1, ear + 0.3) * np.sign(local[:, 0])
    weights = {
        "chin": chin_middle,
        "take": take,
        "trust": trust,
        "seed": seed,
        "feature": feature,
        "beard": beard,
        # Not the bridge of the nose: half of all lenses leave it free.
        "socket": around_eyes
        * (1.0 - brow)
        * ramp(near_lids, 0.11, 0.16)
        * ramp(near_lids, 0.36, 0.30)
        * ramp(x, 0.10, 0.16),
        "lens": around_eyes * ramp(near_lids, 0.44, 0.34) * ramp(x, 0.04, 0.12),
        "brow": brow,
        "cavity": cavity_depth(mean, vertex_normals(mean, model.triangles), model.triangles, moving),
    }
    for name, most in {"scalp": 0.0, "neck": 0.35, "ears": 0.5}.items():
        region = model.regions.get(name)
        if region is not None:
            weights["take"] = np.where(region, np.minimum(weights["take"], most), weights["take"])
            weights["trust"] = np.where(region, 0.0, weights["trust"])
    return weights


def _dense(line: np.ndarray) -> np.ndarray:
    """A polyline with points in between, so that distances to points stand for distances to it."""
    steps = np.linspace(0.0, 1.0, 4, endpoint=False)[:, None]
    return np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(line)] + [line[-1:]])


def _distance(points: np.ndarray, *sets: np.ndarray) -> np.ndarray:
    """Distance of every point to the nearest of all the sets' points."""
    targets = np.concatenate(sets)
    return np.sqrt(((points[:, None, :] - targets[None]) ** 2).sum(axis=2).min(axis=1))
