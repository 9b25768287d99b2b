"""Editing a quad layout by its chords.

A chord is the strip of quads that one meets when one leaves every quad through the edge opposite to
the one entered. Taking a chord out (each edge across it shrinks to a point) leaves a mesh of quads
only. Every edit is done to a chord and its mirror image together, so that quads and symmetry hold by
construction.

Symbols: V vertices, F quads, E edges, C chords.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Layout:
    """A symmetric quad mesh whose vertices are combinations of source vertices.

    Attributes
    ----------
    faces : (F, 4) int
    mirror : (V,) int
    weights : (V, S) csr_matrix
        Rows sum to 1.
    label : (F,) int
        What a quad belongs to; edits hand it on.
    """

    faces: np.ndarray
    mirror: np.ndarray
    weights: csr_matrix
    label: np.ndarray


@dataclass(frozen=True)
class Chords:
    """edges (E, 2) int; face_edges (F, 4) int, edge k joins corners k and k + 1; chord (E,) int."""

    edges: np.ndarray
    face_edges: np.ndarray
    chord: np.ndarray


def find_chords(faces: np.ndarray) -> Chords:
    """Number the edges and the chord that each belongs to."""
    loops = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    edges, inverse = np.unique(np.sort(loops, axis=1), axis=0, return_inverse=True)
    face_edges = inverse.reshape(len(faces), 4)
    ends = (face_edges[:, :2].ravel(), face_edges[:, 2:].ravel())
    graph = coo_matrix((np.ones(len(ends[0])), ends), shape=(len(edges), len(edges)))
    return Chords(edges, face_edges, connected_components(graph, directed=False)[1])


def mirror_orbits(chords: Chords, mirror: np.ndarray) -> np.ndarray:
    """(C,) int: the smaller number of each chord and its mirror image."""
    mirrored = np.sort(mirror[chords.edges], axis=1)
    size = int(chords.edges.max()) + 1
    keys = chords.edges[:, 0].astype(np.int64) * size + chords.edges[:, 1]
    partner_edge = np.searchsorted(keys, mirrored[:, 0].astype(np.int64) * size + mirrored[:, 1])
    partner = np.arange(chords.chord.max() + 1)
    partner[chords.chord] = chords.chord[partner_edge]
    return np.minimum(np.arange(len(partner)), partner)


def remove_edges(layout: Layout, chords: Chords, gone: np.ndarray) -> Layout:
    """Shrink the marked edges, (E,) bool, to points and drop the quads that they bound."""
    count = layout.weights.shape[0]
    pairs = chords.edges[gone]
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    clusters, label = connected_components(graph, directed=False)
    kept = ~gone[chords.face_edges].any(axis=1)
    share = 1.0 / np.bincount(label)
    average = csr_matrix((share[label], (label, np.arange(count))), shape=(clusters, count))
    mirror = np.empty(clusters, int)
    mirror[label] = label[layout.mirror]
    return compact(Layout(label[layout.faces[kept]], mirror, (average @ layout.weights).tocsr(), layout.label[kept]))


def compact(layout: Layout) -> Layout:
    """Drop vertices that no face uses."""
    used = np.unique(layout.faces)
    number = np.full(layout.weights.shape[0], -1)
    number[used] = np.arange(len(used))
    return Layout(number[layout.faces], number[layout.mirror[used]], layout.weights[used], layout.label)


def is_sound(faces: np.ndarray, holes: int) -> bool:
    """Whether a quad mesh is a clean surface.

    Four different corners in each quad, at most two quads on each edge and in opposite directions, no
    doublet (an inner vertex with two quads, which shows as a crease), as many boundary loops as given.
    """
    ordered = np.sort(faces, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return False
    loops = np.stack([faces, np.roll(faces, -1, axis=1)], axis=2).reshape(-1, 2)
    if len(np.unique(loops, axis=0)) != len(loops):
        return False
    edges, counts = np.unique(np.sort(loops, axis=1), axis=0, return_counts=True)
    border = edges[counts == 1]
    degree = np.bincount(border.ravel(), minlength=faces.max() + 1)
    if counts.max() > 2 or not np.isin(degree, (0, 2)).all():
        return False
    graph = coo_matrix((np.ones(len(border)), (border[:, 0], border[:, 1])), shape=(len(degree), len(degree)))
    label = connected_components(graph, directed=False)[1]
    quads_at = np.bincount(faces.ravel())
    inner = (degree == 0) & (quads_at > 0)
    return not (inner & (quads_at < 3)).any() and len(np.unique(label[degree > 0])) == holes


def make_symmetric(layout: Layout, points: np.ndarray) -> Layout:
    """Order the corners so that a quad and its mirror image split along mirrored diagonals, the shorter one.

    ``points`` (V, 3) are the vertices at rest. Quads of the left half come first, then their images in
    the same order.
    """
    middle = points[layout.faces].mean(axis=1)
    left = layout.faces[middle[:, 0] > 0]
    corners = points[left]
    first = np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1)
    second = np.linalg.norm(corners[:, 1] - corners[:, 3], axis=1)
    left = np.where((first <= second)[:, None], left, np.roll(left, -1, axis=1))
    right = layout.mirror[left][:, [0, 3, 2, 1]]
    label = layout.label[middle[:, 0] > 0]
    faces = np.concatenate([left, right])
    if len(faces) != len(layout.faces):
        raise ValueError("a quad lies across the mid-line")
    return Layout(faces, layout.mirror, layout.weights, np.concatenate([label, label]))
