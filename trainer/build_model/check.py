"""Figures that say whether the default head is good: how near it stays to its source, how its quads,
its texture and its lids look.

Symbols: V vertices, T triangles, N samples.
"""

from __future__ import annotations

import igl
import numpy as np
import torch
from scipy.ndimage import label

from backend.face_model.model import EYES, MOUTH, SKIN, FaceModel
from backend.geometry.mesh import edges, triangulate
from backend.rendering.rasterize import rasterize
from trainer.build_model import charts
from trainer.build_model.bases import arkit_shapes
from trainer.build_model.pictures import View, view_camera, visible_triangles
from trainer.build_model.source import LEFT_EYE_SHELL, SKIN_AND_SOCKETS, Source
from trainer.build_model.source import SKIN as SKIN_VERTICES

HELD_OUT, SEED = 200, 77
# Expressions of a sample: this many shapes at random strength.
ACTIVE_SHAPES = 5
# People whose open eyes are looked at.
PEOPLE = 40


def draw_sample(source: Source, table: np.ndarray, generator: np.random.Generator):
    """Coefficients of one person nobody has seen: identity (100,) and expression (52,)."""
    expression = np.zeros(len(table))
    usable = np.flatnonzero(table.any(axis=1))
    chosen = generator.choice(usable, ACTIVE_SHAPES, replace=False)
    expression[chosen] = generator.uniform(0, 1, ACTIVE_SHAPES)
    return generator.standard_normal(len(source.identity)), expression


def source_vertices(source: Source, table: np.ndarray, identity: np.ndarray, expression: np.ndarray, count: int):
    """(count, 3) first vertices of the source head."""
    shapes = expression @ table
    result = source.mean[:count] + np.tensordot(identity, source.identity[:, :count], axes=1)
    return result + np.tensordot(shapes, source.expression[:, :count], axes=1)


def reproduction(model: FaceModel, source: Source, rotation: np.ndarray, samples: int = HELD_OUT) -> dict[str, float]:
    """Distance from the source's skin vertices to our surface over random people, millimetres.

    ``rotation`` (I, 100) turns the source's identity coefficients into ours. The answer has ``mean``,
    ``p99``, ``max`` and ``worst_sample_mean``.
    """
    generator = np.random.default_rng(SEED)
    table = arkit_shapes(source)
    surface = triangulate(model.faces[np.isin(model.face_material, [_slot(model, SKIN), _socket_slot(model)])])
    surface = surface[~_extra_parts(model)[surface].any(axis=1)].astype(np.int64)
    distances = []
    for _ in range(samples):
        identity, expression = draw_sample(source, table, generator)
        target = source_vertices(source, table, identity, expression, SKIN_VERTICES.stop)
        ours = model.vertices(rotation @ identity, expression).astype(float)
        squared, _, _ = igl.point_mesh_squared_distance(target, ours, surface)
        distances.append(1000 * np.sqrt(squared))
    distances = np.array(distances)
    return {
        "samples": samples,
        "mean": float(distances.mean()),
        "p99": float(np.quantile(distances, 0.99)),
        "max": float(distances.max()),
        "worst_sample_mean": float(distances.mean(axis=1).max()),
    }


def quad_figures(model: FaceModel) -> dict[str, float]:
    """Counts of the mesh and median edge lengths in millimetres by region."""
    skin = model.faces[model.face_material == _slot(model, SKIN)]
    pairs = edges(skin)
    length = 1000 * np.linalg.norm(model.mean[pairs[:, 0]] - model.mean[pairs[:, 1]], axis=1)
    valence = np.bincount(pairs.ravel())[np.unique(skin)]
    result: dict[str, float] = {
        "vertices": model.vertex_count,
        "faces": len(model.faces),
        "triangles_in_faces": int((model.faces < 0).any(axis=1).sum()),
        "skin_vertices": len(np.unique(skin)),
        "skin_regular_share": float((valence == 4).mean()),
        "skin_highest_valence": int(valence.max()),
    }
    for name in ("eyelids", "lips", "ears", "nose", "cheeks", "forehead", "scalp", "neck"):
        inside = model.regions[name][pairs].all(axis=1)
        result[f"edge_mm_{name}"] = float(np.median(length[inside]))
    return result


# iBUG points in whose neighbourhood skin folds in: wings of the nose, corners of eyes and mouth; metres.
FOLDS = {0.010: (31, 32, 33, 34, 35), 0.004: (36, 39, 42, 45, 48, 54)}


def texture_figures(model: FaceModel) -> dict[str, float]:
    """Stretch of the skin's texture on the visible face.

    With singular values a >= b of the map from surface to texture, scaled so that the face keeps its
    area: ``l2`` is the root of the area-weighted mean of (1/a^2 + 1/b^2) / 2, less 1 (Sander et al. 2001,
    how far texture is pulled over the surface), away from :data:`FOLDS`; ``l2_with_folds`` counts the
    folds too. ``median`` and ``p90`` are of the worst direction, max(a, 1/b) - 1, by area, folds left out.
    """
    skin = np.flatnonzero(model.triangle_material == _slot(model, SKIN))
    triangles = model.triangles[skin]
    a, b, area = charts.stretch(model.mean.astype(float), triangles, model.uv.astype(float), model.triangles_uv[skin])
    visible = model.regions["face"][triangles].all(axis=1) & visible_triangles(model.mean, model.triangles)[skin]
    centre = model.mean[triangles].mean(axis=1)
    points = model.landmarks["ibug68"].points(model.mean)
    flat = visible.copy()
    for reach, rows in FOLDS.items():
        flat &= np.linalg.norm(centre[:, None] - points[list(rows)], axis=2).min(axis=1) > reach
    worst, weight = _worst(a, b, area, flat)
    order = np.argsort(worst)
    cumulative = np.cumsum(weight[order])
    uv = model.uv[model.triangles_uv[skin]]
    uv_area = 0.5 * np.abs(np.cross(uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]))
    return {
        "flipped_triangles": int((b <= 0).sum()),
        "l2": _l2(a, b, area, flat),
        "l2_with_folds": _l2(a, b, area, visible),
        "median": float(worst[order][np.searchsorted(cumulative, 0.5)]),
        "p90": float(worst[order][np.searchsorted(cumulative, 0.9)]),
        "face_share_of_texture": float(uv_area[visible].sum()),
        "skin_share_of_texture": float(uv_area.sum()),
    }


def _worst(a: np.ndarray, b: np.ndarray, area: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """max(a, 1/b) - 1 of some triangles at the scale that keeps their area, and their share of it."""
    scale = np.sqrt((a * b * area)[chosen].sum() / area[chosen].sum())
    return np.maximum(a[chosen] / scale, scale / b[chosen]) - 1, area[chosen] / area[chosen].sum()


def _l2(a: np.ndarray, b: np.ndarray, area: np.ndarray, chosen: np.ndarray) -> float:
    scale = (a * b * area)[chosen].sum() / area[chosen].sum()
    weight = area[chosen] / area[chosen].sum()
    return float(np.sqrt((scale * (1 / a[chosen] ** 2 + 1 / b[chosen] ** 2) / 2 * weight).sum()) - 1)


# Where one might look into the head: middle and width in metres; the bust's open edge is in none of them.
PEEPHOLES = (
    ((0.0, 0.030, 0.085), 0.12),
    ((0.0, -0.012, 0.100), 0.06),
    ((0.0, -0.040, 0.090), 0.09),
    ((0.075, 0.005, -0.012), 0.08),
    ((-0.075, 0.005, -0.012), 0.08),
)
PEEP_YAWS, PEEP_PITCHES, PEEP_SIZE = (-90, -60, -30, 0, 30, 60, 90), (-40, 0, 40), 400


def see_through(model: FaceModel, vertices: np.ndarray) -> dict[str, int]:
    """Most pixels of one picture in which a head shows a hole, over eyes, nose, mouth and ears from all sides.

    ``background`` counts pixels without a surface that surfaces enclose, ``inside_out`` those that show the
    inner side of the skin. A picture has :data:`PEEP_SIZE` squared pixels; a grid of pixels makes one or two
    of either kind along an outline.
    """
    triangles = torch.as_tensor(model.triangles.astype(np.int64))
    skin = model.triangle_material == _slot(model, SKIN)
    worst = {"background": 0, "inside_out": 0}
    for centre, width in PEEPHOLES:
        for yaw in PEEP_YAWS:
            for pitch in PEEP_PITCHES:
                camera = view_camera(View(yaw, pitch, centre, width), PEEP_SIZE)
                image = np.column_stack([camera.project(vertices), camera.to_camera(vertices)[:, 2]])
                points = torch.as_tensor(image[None], dtype=torch.float32)
                owner = rasterize(points, triangles, PEEP_SIZE, PEEP_SIZE).triangle[0].numpy()
                part, _ = label(owner < 0)
                outside = np.unique(np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]]))
                corner = image[model.triangles, :2]
                # Rows run downward, so a triangle seen from outside runs clockwise in numbers.
                inner = skin & (np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]) > 0)
                enclosed = (owner < 0) & ~np.isin(part, outside)
                worst["background"] = max(worst["background"], int(enclosed.sum()))
                worst["inside_out"] = max(worst["inside_out"], int(inner[owner[owner >= 0]].sum()))
    return worst


def lid_figures(model: FaceModel, source: Source, rotation: np.ndarray) -> dict[str, float]:
    """Lids and eyeballs, ours against the source's, millimetres.

    ``penetration`` is how deep the deepest lid vertex lies inside the eyeball, ``crossings`` how many
    pairs of triangles of the lids cut through each other, both at full blink; ``rest_penetration`` is the
    depth with open eyes, median over random people. ``rotation`` as in :func:`reproduction`.
    """
    table = arkit_shapes(source)
    blink = np.zeros(len(table))
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        blink[model.expression_names.index(name)] = 1.0
    ours = model.vertices(None, blink).astype(float)
    theirs = source_vertices(source, table, np.zeros(len(source.identity)), blink, len(source.mean))
    skin = model.triangles[model.triangle_material == _slot(model, SKIN)]
    lids = skin[model.regions["eyelids"][skin].all(axis=1) & (model.mean[skin, 0] > 0).all(axis=1)]
    their_skin = source.part_triangles(SKIN_AND_SOCKETS)
    place = source.mean[their_skin].mean(axis=1)
    near, _, _ = igl.point_mesh_squared_distance(place, model.mean.astype(float), lids.astype(np.int64))
    their_lids = their_skin[near < 0.0015**2]
    left_eye = model.triangles[model.triangle_material == _slot(model, EYES)]
    left_eye = left_eye[(model.mean[left_eye, 0] > 0).all(axis=1)]
    return {
        "penetration": _depth_inside(ours, lids, ours, left_eye),
        "source_penetration": _depth_inside(theirs, their_lids, theirs, source.part_triangles(LEFT_EYE_SHELL)),
        "crossings": crossing_pairs(ours, lids),
        "source_crossings": crossing_pairs(theirs, their_lids),
        **_eyes_over_people(model, source, rotation, lids, left_eye, their_lids),
        "triangles": len(lids),
        "source_triangles": len(their_lids),
    }


def _eyes_over_people(model: FaceModel, source: Source, rotation: np.ndarray, lids, left_eye, their_lids) -> dict:
    """Median over random people at rest of how deep the lids lie in the eyeball, ours and the source's."""
    generator = np.random.default_rng(SEED)
    ours, theirs = [], []
    table = arkit_shapes(source)
    for _ in range(PEOPLE):
        identity = generator.standard_normal(len(source.identity))
        vertices = model.vertices(rotation @ identity).astype(float)
        ours.append(_depth_inside(vertices, lids, vertices, left_eye))
        vertices = source_vertices(source, table, identity, np.zeros(len(table)), len(source.mean))
        theirs.append(_depth_inside(vertices, their_lids, vertices, source.part_triangles(LEFT_EYE_SHELL)))
    return {"rest_penetration": float(np.median(ours)), "source_rest_penetration": float(np.median(theirs))}


def _depth_inside(points: np.ndarray, triangles: np.ndarray, ball: np.ndarray, ball_triangles: np.ndarray) -> float:
    """Largest depth, millimetres, of a surface's vertices under the front of an eyeball."""
    used = np.unique(ball_triangles)
    centre = ball[used].mean(axis=0)
    candidates = points[np.unique(triangles)]
    squared, _, nearest = igl.point_mesh_squared_distance(candidates, ball, ball_triangles.astype(np.int64))
    inside = np.linalg.norm(candidates - centre, axis=1) < np.linalg.norm(nearest - centre, axis=1)
    return 1000 * float(np.sqrt(squared[inside].max())) if inside.any() else 0.0


def crossing_pairs(points: np.ndarray, triangles: np.ndarray) -> int:
    """Pairs of triangles without a common corner of which an edge of one pierces the other."""
    corners = points[triangles]
    low, high = corners.min(axis=1), corners.max(axis=1)
    overlap = ((low[:, None] <= high[None]) & (high[:, None] >= low[None])).all(axis=2)
    first, second = np.nonzero(np.triu(overlap, 1))
    apart = ~(triangles[first][:, :, None] == triangles[second][:, None, :]).any(axis=(1, 2))
    first, second = first[apart], second[apart]
    hit = np.zeros(len(first), bool)
    for one, other in ((first, second), (second, first)):
        for k in range(3):
            hit |= _pierces(corners[one, k], corners[one, (k + 1) % 3], corners[other])
    return int(hit.sum())


def _pierces(start: np.ndarray, end: np.ndarray, triangle: np.ndarray) -> np.ndarray:
    """(N,) bool: whether segments (N, 3) to (N, 3) go through triangles (N, 3, 3)."""
    a, ab, ac = triangle[:, 0], triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0]
    direction = end - start
    p = np.cross(direction, ac)
    determinant = (p * ab).sum(1)
    safe = np.where(np.abs(determinant) < 1e-18, np.inf, determinant)
    from_a = start - a
    u = (from_a * p).sum(1) / safe
    q = np.cross(from_a, ab)
    v, t = (direction * q).sum(1) / safe, (ac * q).sum(1) / safe
    return np.isfinite(safe) & (u > 1e-6) & (v > 1e-6) & (u + v < 1 - 1e-6) & (t > 1e-6) & (t < 1 - 1e-6)


def _slot(model: FaceModel, name: str) -> int:
    return model.materials.index(name)


def _socket_slot(model: FaceModel) -> int:
    return model.materials.index(MOUTH)


def _extra_parts(model: FaceModel) -> np.ndarray:
    """(V,) teeth, gums and tongue."""
    return model.regions["teeth"] | model.regions["gums"] | model.regions["tongue"]
