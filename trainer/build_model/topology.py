"""The skin of the default head: which edge loops it has and how dense they are.

The layout starts from the loops that the source's artist drew round eyes, mouth, nostrils and ears.
It is cut where nobody looks (behind the eyeballs), thinned chord by chord until every edge is about as
long as a sizing field asks, and refined where the field asks for more.

Symbols: V vertices, E edges, S source vertices.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import eye as identity_matrix
from scipy.spatial import cKDTree

from trainer.build_model.layout import (
    Layout,
    compact,
    find_chords,
    is_sound,
    mirror_orbits,
    remove_edges,
    split_edges,
)
from trainer.build_model.source import MOUTH_SOCKET, SKIN, SKIN_AND_SOCKETS, Source

# Quads kept behind the lid margin; the eyeball covers what lies deeper.
LID_RINGS = 3
SKIN_LABEL, MOUTH_LABEL = 0, 1
# Neck and both eye sockets.
HOLES = 3

# Sizing field: edge length in metres at a feature, and how fast it may grow away from it.
FEATURE_LENGTH = {"lids": 0.0008, "lips": 0.0013, "nostrils": 0.0014, "ears": 0.0022, "face": 0.0036}
GROWTH = {"lids": 0.12, "lips": 0.11, "nostrils": 0.12, "ears": 0.25, "face": 0.11}
LONGEST = 0.0105
EAR_CENTRE, EAR_RADIUS = np.array([0.078, 0.006, -0.012]), 0.030
# The front of the face: a ball before the mid-line between eyes and mouth.
FACE_CENTRE, FACE_RADIUS = np.array([0.0, -0.006, 0.070]), 0.066


def skin_layout(source: Source, wanted_vertices: int) -> Layout:
    """Skin and the inside of the mouth as one mesh of quads."""
    layout = cut_eye_sockets(source)
    layout = thin_out(layout, source, wanted_vertices)
    return layout


def cut_eye_sockets(source: Source) -> Layout:
    """The source's skin with the mouth socket and the first rings behind the lid margin."""
    faces = source.part_faces(SKIN_AND_SOCKETS).astype(int)
    depth = np.where(np.arange(SKIN_AND_SOCKETS.stop) < MOUTH_SOCKET.stop, 0, 99)
    for ring in range(1, LID_RINGS + 1):
        touched = (depth[faces] < ring).any(axis=1)
        corners = np.unique(faces[touched])
        depth[corners] = np.minimum(depth[corners], ring)
    kept = (depth[faces] <= LID_RINGS).all(axis=1)
    faces = faces[kept]
    inside = (faces >= MOUTH_SOCKET.start) & (faces < MOUTH_SOCKET.stop)
    weights = identity_matrix(len(depth), len(source.mean), format="csr")
    return compact(Layout(faces, source.mirror, weights, np.where(inside.any(axis=1), MOUTH_LABEL, SKIN_LABEL)))


def lid_margin(source: Source) -> np.ndarray:
    """Source vertices on the inner edge of all four lids."""
    faces = source.part_faces(SKIN_AND_SOCKETS)
    mixed = faces[(faces.min(axis=1) < SKIN.stop) & (faces.max(axis=1) >= MOUTH_SOCKET.stop)]
    return np.unique(mixed[mixed < SKIN.stop])


def lip_seam(source: Source) -> np.ndarray:
    """Source vertices where the skin of the lips ends and the mouth socket begins."""
    faces = source.part_faces(SKIN_AND_SOCKETS)
    low, high = faces.min(axis=1), faces.max(axis=1)
    mixed = faces[(low < SKIN.stop) & (high >= MOUTH_SOCKET.start) & (high < MOUTH_SOCKET.stop)]
    return np.unique(mixed[mixed < SKIN.stop])


class Sizing:
    """Wanted edge length as a function of place."""

    def __init__(self, source: Source):
        lips = source.mean[source.landmarks68[48:]]
        nostrils = source.mean[source.landmarks68[31:36]] + [0.0, 0.001, -0.004]
        self._near = {
            "lids": cKDTree(source.mean[lid_margin(source)]),
            "lips": cKDTree(lips),
            "nostrils": cKDTree(nostrils),
        }

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N,) metres."""
        distance = {name: tree.query(points)[0] for name, tree in self._near.items()}
        folded = np.abs(points[:, 0])[:, None] * [1.0, 0, 0] + points * [0, 1.0, 1.0]
        distance["ears"] = np.linalg.norm(folded - EAR_CENTRE, axis=1) - EAR_RADIUS
        distance["face"] = np.linalg.norm(points - FACE_CENTRE, axis=1) - FACE_RADIUS
        lengths = [FEATURE_LENGTH[name] + GROWTH[name] * np.maximum(d, 0.0) for name, d in distance.items()]
        return np.minimum(np.min(lengths, axis=0), LONGEST)


def relative_lengths(layout: Layout, edges: np.ndarray, source: Source, sizing: Sizing) -> np.ndarray:
    """(E,) edge length over wanted length."""
    points = layout.weights @ source.mean
    ends = points[edges]
    return np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1) / sizing(ends.mean(axis=1))


# A chord may go only while nearly all its edges are short for their place.
QUANTILE = 0.85


def thin_out(layout: Layout, source: Source, wanted_vertices: int) -> Layout:
    """Remove chords, the one whose edges are shortest for their place first."""
    sizing = Sizing(source)
    while layout.weights.shape[0] > wanted_vertices:
        chords = find_chords(layout.faces)
        orbit = mirror_orbits(chords, layout.mirror)[chords.chord]
        ratio = relative_lengths(layout, chords.edges, source, sizing)
        cost = {key: np.quantile(ratio[orbit == key], QUANTILE) for key in np.unique(orbit)}
        for key in sorted(cost, key=cost.__getitem__):
            trial = remove_edges(layout, chords, orbit == key)
            if is_sound(trial.faces, HOLES):
                layout = trial
                break
        else:
            break
    return layout


__all__ = ["Sizing", "cut_eye_sockets", "lid_margin", "lip_seam", "skin_layout", "split_edges", "thin_out"]
