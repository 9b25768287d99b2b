"""Carrying landmarks and regions from one face model to another.

Both mean heads are brought together in three steps: a similarity on the points that both know, a few
rounds of closest points where those are few, and a smooth warp that makes the shared landmarks
coincide. What is then nearest is the same place.

Symbols: V vertices, L landmarks, N points.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from backend.errors import ModelError
from backend.face_model.model import EYES, LANDMARK_SETS, SKIN, Embedding, FaceModel
from backend.geometry.alignment import Similarity, fit_similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.mesh import NO_CORNER

# iBUG points that sit on features of the face; 0 to 16 are the jaw line, which every author puts elsewhere.
FEATURE_POINTS = slice(17, 68)

# The lips of most mean heads touch. Opening the jaw this far on both models tells upper from lower.
JAW_OPEN = 0.4

# Closest-point rounds when two heads share only eyes and nose, and the share of points that count:
# what is nearest by less than the median belongs together.
REFINE_ROUNDS = 20

# The warp gives way by this much, so that points which coincide (closed lips) do not make it singular.
WARP_SMOOTHING = 1e-6

# Regions that are pieces of the mesh: a model that names them knows them better than its neighbour.
OWN_PARTS = ("teeth", "gums", "tongue")

# A vertex farther than this from the other head (shoulders, say) belongs to none of its regions, metres.
REGION_REACH_M = 0.015


def transfer_landmarks(
    source: FaceModel, target: FaceModel, names: tuple[str, ...] | None = None
) -> dict[str, Embedding]:
    """Embeddings of the source's landmark sets on the target's mesh.

    Parameters
    ----------
    source, target : FaceModel
    names : tuple of str, optional
        The sets to carry over; all that the source has and the target lacks when left out.

    Returns
    -------
    dict of str to Embedding
        ``spread_mm`` is the source's.
    """
    names = names or tuple(name for name in source.landmarks if name not in target.landmarks)
    warp = HeadWarp(source, target)
    surfaces = _surfaces(target, warp.target_vertices)
    slots = _vertex_slots(source)
    carried = {}
    for name in names:
        embedding = source.landmarks[name]
        points = warp.apply(embedding.points(warp.source_vertices))
        corners = np.zeros((len(points), 3), np.int32)
        weights = np.zeros((len(points), 3), np.float32)
        materials = [source.materials[slot] for slot in slots[embedding.corners].max(axis=1)]
        for material in sorted(set(materials)):
            rows = np.array([own == material for own in materials])
            surface = surfaces.get(material, surfaces[SKIN])
            corners[rows], weights[rows] = surface.embed(points[rows])
        carried[name] = Embedding(corners, weights, embedding.spread_mm)
    return carried


def transfer_regions(source: FaceModel, target: FaceModel) -> dict[str, np.ndarray]:
    """(V,) bool masks: each target vertex takes the regions of the nearest source vertex of its material."""
    warp = HeadWarp(source, target)
    placed = warp.apply(warp.source_vertices)
    source_slots, target_slots = _vertex_slots(source), _vertex_slots(target)
    regions = {name: np.zeros(target.vertex_count, bool) for name in source.regions}
    for slot, material in enumerate(target.materials):
        own = np.flatnonzero(target_slots == slot)
        if material not in source.materials or not len(own):
            continue
        donors = np.flatnonzero(source_slots == source.materials.index(material))
        if not len(donors):
            continue
        distance, nearest = KDTree(placed[donors]).query(warp.target_vertices[own])
        near = distance < REGION_REACH_M
        for name, mask in source.regions.items():
            regions[name][own] = mask[donors[nearest]] & near
    return regions


class HeadWarp:
    """Maps points of one mean head to the same places of another; see the module's text.

    Attributes
    ----------
    source_vertices, target_vertices : (V, 3) float64
        The mean heads, with open mouths where both models can open theirs.
    similarity : Similarity
    """

    def __init__(self, source: FaceModel, target: FaceModel) -> None:
        opened = "jawOpen" in source.expression_names and "jawOpen" in target.expression_names
        self.source_vertices = _posed(source, opened)
        self.target_vertices = _posed(target, opened)
        shared = [name for name in LANDMARK_SETS if name in source.landmarks and name in target.landmarks]
        self._residual: RBFInterpolator | None = None
        if shared:
            rows = FEATURE_POINTS if shared[0] == "ibug68" else slice(None)
            start = source.landmarks[shared[0]].points(self.source_vertices)[rows]
            end = target.landmarks[shared[0]].points(self.target_vertices)[rows]
            self.similarity = fit_similarity(start, end)
            placed = self.similarity.apply(start)
            self._residual = RBFInterpolator(placed, end - placed, kernel="linear", smoothing=WARP_SMOOTHING)
        else:
            self.similarity = self._from_anchors(source, target)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) source space -> (N, 3) target space."""
        placed = self.similarity.apply(points)
        return placed if self._residual is None else placed + self._residual(placed)

    def _from_anchors(self, source: FaceModel, target: FaceModel) -> Similarity:
        own, other = head_anchors(source), head_anchors(target)
        names = sorted(set(own) & set(other))
        if len(names) < 3:
            missing = ", ".join(sorted(set(own) - set(other))) or "eyes"
            raise ModelError(
                f"The model {target.info.name} has no landmarks and none can be found on it because its {missing} "
                "cannot be told apart; add iBUG 68 landmarks to the source file."
            )
        similarity = fit_similarity(np.stack([own[name] for name in names]), np.stack([other[name] for name in names]))
        return self._refined(similarity, source.regions.get("face"))

    def _refined(self, similarity: Similarity, region: np.ndarray | None) -> Similarity:
        """Closest points between the face of the source and the target, the nearer half counting."""
        points = self.source_vertices if region is None or not region.any() else self.source_vertices[region]
        tree = KDTree(self.target_vertices)
        for _ in range(REFINE_ROUNDS):
            distance, nearest = tree.query(similarity.apply(points))
            closer = distance <= np.median(distance)
            similarity = fit_similarity(points[closer], self.target_vertices[np.asarray(nearest)[closer]])
        return similarity


def head_anchors(model: FaceModel) -> dict[str, np.ndarray]:
    """Rough points that most heads show without landmarks: the eyeballs' middles and the tip of the nose.

    ``left_eye`` and ``right_eye`` need an eyes material; ``nose_tip`` is the foremost skin vertex.
    """
    slots = _vertex_slots(model)
    skin = model.mean[slots == 0]
    anchors = {"nose_tip": skin[np.argmax(skin[:, 2])]} if len(skin) else {}
    if EYES in model.materials:
        eyes = model.mean[slots == model.materials.index(EYES)]
        middle = (eyes[:, 0].min() + eyes[:, 0].max()) / 2 if len(eyes) else 0.0
        for name, side in (("left_eye", eyes[eyes[:, 0] > middle]), ("right_eye", eyes[eyes[:, 0] < middle])):
            if len(side):
                anchors[name] = (side.min(axis=0) + side.max(axis=0)) / 2
    return anchors


def _posed(model: FaceModel, opened: bool) -> np.ndarray:
    if not opened:
        return model.mean.astype(np.float64)
    return model.mean + np.float64(JAW_OPEN) * model.expression[model.expression_names.index("jawOpen")]


def _vertex_slots(model: FaceModel) -> np.ndarray:
    """(V,) int: material slot of each vertex; the first slot wins where materials meet, -1 for loose ones."""
    slots = np.full(model.vertex_count, -1)
    for slot in reversed(range(len(model.materials))):
        corners = model.faces[model.face_material == slot]
        slots[np.unique(corners[corners != NO_CORNER])] = slot
    return slots


def _surfaces(model: FaceModel, vertices: np.ndarray) -> dict[str, SurfaceTree]:
    surfaces = {}
    for slot, material in enumerate(model.materials):
        triangles = model.triangles[model.triangle_material == slot]
        if len(triangles):
            surfaces[material] = SurfaceTree(vertices, triangles)
    return surfaces


def complete(model: FaceModel, reference: FaceModel) -> FaceModel:
    """The model with all landmark sets and regions of the reference, and with the reference's origin.

    Landmark sets and parts (:data:`OWN_PARTS`) that the model has stay as they are; all other regions
    become the reference's, so that their names mean the same on every model.
    """
    model = moved_to(model, reference)
    landmarks = {**transfer_landmarks(reference, model), **model.landmarks}
    regions = {**model.regions, **transfer_regions(reference, model)}
    regions |= {name: model.regions[name] for name in OWN_PARTS if name in model.regions}
    if "tongue" in regions and "tongue" not in model.regions and "gums" in model.regions:
        regions["gums"] = regions["gums"] & ~regions["tongue"]
    return model.replaced(
        landmarks={name: landmarks[name] for name in LANDMARK_SETS if name in landmarks}, regions=regions
    )


def moved_to(model: FaceModel, reference: FaceModel) -> FaceModel:
    """The model shifted (not turned, not scaled) so that its face lies where the reference's does.

    How far goes into ``info.extra`` as ``moved_m``: networks give poses in the axes of the source's file.
    """
    names = [name for name in LANDMARK_SETS if name in model.landmarks and name in reference.landmarks]
    if names:
        rows = FEATURE_POINTS if names[0] == "ibug68" else slice(None)
        own = model.landmarks[names[0]].points(model.mean)[rows]
        other = reference.landmarks[names[0]].points(reference.mean)[rows]
    else:
        near, far = head_anchors(model), head_anchors(reference)
        shared = sorted(set(near) & set(far))
        if not shared:
            return model
        own, other = np.stack([near[name] for name in shared]), np.stack([far[name] for name in shared])
    shift = (other.mean(axis=0) - own.mean(axis=0)).astype(np.float32)
    before = np.asarray(model.info.extra.get("moved_m", (0.0, 0.0, 0.0)), np.float32)
    moved = [float(value) for value in before + shift]
    info = replace(model.info, extra={**model.info.extra, "moved_m": moved})
    return model.replaced(mean=model.mean + shift, info=info)
