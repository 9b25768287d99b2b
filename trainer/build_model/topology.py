"""The skin of the default head: which edge loops it has and how dense they are.

The layout starts from the loops that the source's artist drew round eyes, mouth, nostrils and ears.
It is cut where nobody looks (behind the eyeballs), thinned chord by chord where edges are shorter than a
sizing field asks, and relaxed along the surface where nothing has to stay on a fold.

Symbols: V vertices, E edges, S source vertices.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse import eye as identity_matrix
from scipy.spatial import cKDTree

from trainer.build_model.layout import (
    Layout,
    compact,
    find_chords,
    is_sound,
    mirror_orbits,
    remove_edges,
)
from trainer.build_model.shrinkwrap import closest_on_surface, rows_on_surface
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
    return relax(thin_out(layout, source, wanted_vertices), source)


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

    def distances(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """(N, 3) -> for every feature (N,) metres; negative inside the balls of ears and face."""
        distance = {name: tree.query(points)[0] for name, tree in self._near.items()}
        folded = np.abs(points[:, 0])[:, None] * [1.0, 0, 0] + points * [0, 1.0, 1.0]
        distance["ears"] = np.linalg.norm(folded - EAR_CENTRE, axis=1) - EAR_RADIUS
        distance["face"] = np.linalg.norm(points - FACE_CENTRE, axis=1) - FACE_RADIUS
        return distance

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N,) wanted edge length, metres."""
        distance = self.distances(points)
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


# Relaxing: steps, share of the way to the neighbours' middle per step, and how near to a feature
# (metres) a vertex keeps its place; it moves freely a centimetre further out.
RELAX_STEPS, RELAX_SHARE = 12, 0.5
KEEP_NEAR = {"lids": 0.009, "lips": 0.012, "nostrils": 0.018, "ears": 0.004}
FREE_AFTER = 0.010


def relax(layout: Layout, source: Source) -> Layout:
    """Even out the quads of cheeks, forehead, skull and neck by sliding vertices over the source's skin.

    A vertex that moves ends as the barycentric combination of one source triangle; the others keep
    their rows. The right half takes the left half's rows through the mirror.
    """
    mobility = freedom(layout, source)
    triangles = source.part_triangles(SKIN).astype(np.int64)
    average = neighbour_average(layout)
    points = layout.weights @ source.mean
    moving = np.flatnonzero(mobility > 0)
    for _ in range(RELAX_STEPS):
        target = points + RELAX_SHARE * mobility[:, None] * (average @ points - points)
        index, barycentric, _ = closest_on_surface(target[moving], source.mean, triangles)
        points[moving] = np.einsum("nkc,nk->nc", source.mean[triangles[index]], barycentric)
        points[layout.mirror == np.arange(len(points)), 0] = 0.0
    moved = rows_on_surface(triangles[index], barycentric, len(source.mean))
    keep = diags((mobility == 0).astype(float))
    place = csr_matrix((np.ones(len(moving)), (moving, np.arange(len(moving)))), shape=(len(points), len(moving)))
    return mirrored_rows(layout, (keep @ layout.weights + place @ moved).tocsr(), points, source)


def freedom(layout: Layout, source: Source) -> np.ndarray:
    """(V,) 0 for vertices that keep their place to 1 for those that slide freely."""
    points = layout.weights @ source.mean
    distance = Sizing(source).distances(points)
    slack = np.min([distance[name] - keep for name, keep in KEEP_NEAR.items()], axis=0)
    mobility = np.clip(slack / FREE_AFTER, 0.0, 1.0)
    loops = np.stack([layout.faces, np.roll(layout.faces, -1, axis=1)], axis=2).reshape(-1, 2)
    keys, counts = np.unique(np.sort(loops, axis=1), axis=0, return_counts=True)
    mobility[np.unique(keys[counts == 1])] = 0.0
    mobility[np.unique(layout.faces[layout.label == MOUTH_LABEL])] = 0.0
    return np.minimum(mobility, mobility[layout.mirror])


def neighbour_average(layout: Layout) -> csr_matrix:
    """(V, V) rows that average the vertices joined to each by an edge."""
    count = len(layout.mirror)
    edges = find_chords(layout.faces).edges
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    graph = (graph + graph.T).tocsr()
    return diags(1.0 / np.asarray(graph.sum(axis=1)).ravel()) @ graph


def mirrored_rows(layout: Layout, weights: csr_matrix, points: np.ndarray, source: Source) -> Layout:
    """The left half's rows for both halves; on the mid-line the mean of a row and its mirror image."""
    columns = np.arange(weights.shape[1])
    columns[SKIN_AND_SOCKETS] = source.mirror
    flipped = weights[layout.mirror][:, columns]
    side = np.where(layout.mirror == np.arange(len(points)), 0.5, (points[:, 0] > 0).astype(float))
    return Layout(
        layout.faces, layout.mirror, (diags(side) @ weights + diags(1 - side) @ flipped).tocsr(), layout.label
    )
