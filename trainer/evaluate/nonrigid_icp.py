"""A surface bent towards target points with an affine map for each vertex.

Amberg, Romdhani and Vetter, "Optimal Step Nonrigid ICP Algorithms for Surface Registration" (CVPR 2007), with the
schedule and the weights that the REALY benchmark (Chai et al., ECCV 2022) uses for its regions. Written from the
description of that schedule.

Symbols: N vertices of the surface, E edges, M target points, K keypoints. X is (4 N, 3): below each other, for each
vertex, the affine map that takes ``[x y z 1]`` to its new place. Lengths in one unit, the benchmark's (about 8 mm).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

# Stiffness of the first free pass; each later pass has exp(-0.5) of the one before.
STIFFNESS, STIFFNESS_DECAY = 50.0, 0.5
PASSES = 3
# A pass ends when X changes by less than this (Frobenius norm); halved with each pass.
SETTLED = 1.0
# With keypoints: one solve with them alone and a stiffer surface, then passes of at most so many solves.
KEYPOINT_STIFFNESS = 150.0
KEYPOINT_SOLVES = 11
# How a difference between neighbours counts: three linear rows and the translation, with and without keypoints only.
GENTLE, FIRM = (1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 3.0, 2.0)
KEYPOINT_WEIGHT, KEYPOINT_DECAY, KEYPOINT_SHARE = 50.0, 0.9, 0.1
# Without keypoints the benchmark sets no bound. What has not settled after so many solves goes round in circles.
FREE_SOLVES = 200
# Pairs further apart than this multiple of the mean, and than this length, do not count.
FAR_MULTIPLE, FAR_LENGTH = 2.0, 1.0


def bend(
    vertices: np.ndarray,
    triangles: np.ndarray,
    targets: np.ndarray,
    keypoints: np.ndarray | None = None,
    keypoint_targets: np.ndarray | None = None,
) -> np.ndarray:
    """(N, 3) vertices bent towards the targets.

    Parameters
    ----------
    vertices : (N, 3) float
    triangles : (T, 3) int
    targets : (M, 3) float
        Each vertex is drawn to the nearest of these, found anew for each solve.
    keypoints : (K,) int, optional
        Vertices that are drawn to ``keypoint_targets`` (K, 3) instead, at first alone and then ever less.
    """
    edges = incidence(triangles, len(vertices))
    gentle, firm = sparse.kron(edges, sparse.diags(GENTLE)), sparse.kron(edges, sparse.diags(FIRM))
    tree = KDTree(targets)
    current, affine, solves = np.asarray(vertices, np.float64), np.ones((4 * len(vertices), 3)), 0
    change = float(np.linalg.norm(affine))
    with_keypoints = keypoints is not None and keypoint_targets is not None and len(keypoints) > 0
    if with_keypoints:
        weights, wanted = pulls(len(vertices), keypoints, keypoint_targets, KEYPOINT_WEIGHT)
        solved = solve(current, KEYPOINT_STIFFNESS * firm, [(weights, wanted)])
        change, affine, current, solves = float(np.linalg.norm(solved - affine)), solved, moved(current, solved), 1
    for number in range(PASSES):
        stiffness = STIFFNESS * np.exp(-STIFFNESS_DECAY * number)
        for _ in range(KEYPOINT_SOLVES if with_keypoints else FREE_SOLVES):
            if change <= SETTLED * 0.5**number:
                break
            distances, nearest = tree.query(current)
            near = distances < max(FAR_MULTIPLE * float(distances.mean()), FAR_LENGTH)
            terms = [(near.astype(np.float64), targets[nearest])]
            if with_keypoints:
                strength = KEYPOINT_WEIGHT * KEYPOINT_SHARE * np.exp(-KEYPOINT_DECAY * solves)
                terms.append(pulls(len(vertices), keypoints, keypoint_targets, strength))
            solved = solve(current, stiffness * gentle, terms)
            change, affine, current = float(np.linalg.norm(solved - affine)), solved, moved(current, solved)
            solves += 1
    return current


def incidence(triangles: np.ndarray, count: int) -> Any:
    """(E, N) sparse: +1 at the lower, -1 at the higher vertex of each edge."""
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]]), axis=1)
    pairs = np.unique(pairs, axis=0)
    rows = np.repeat(np.arange(len(pairs)), 2)
    signs = np.tile([1.0, -1.0], len(pairs))
    return sparse.csr_matrix((signs, (rows, pairs.ravel())), shape=(len(pairs), count))


def pulls(count: int, chosen: Any, places: Any, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N,), zero but at the ``chosen`` vertices, and where they are drawn to (N, 3)."""
    weights, wanted = np.zeros(count), np.zeros((count, 3))
    weights[chosen], wanted[chosen] = strength, places
    return weights, wanted


def solve(current: np.ndarray, stiffness: Any, terms: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """X (4 N, 3) that makes ``|S X|^2 + sum |w (D X - target)|^2`` least, by its normal equations.

    ``S`` is ``stiffness`` (4 E, 4 N) and ``D`` (N, 4 N) holds each vertex as ``[x y z 1]`` in its own four columns.
    """
    homogeneous = np.column_stack([current, np.ones(len(current))])
    rows = np.repeat(np.arange(len(current)), 4)
    data = sparse.csr_matrix((homogeneous.ravel(), (rows, np.arange(4 * len(current)))))
    squared = sum(weights**2 for weights, _ in terms)
    right = sum((weights**2)[:, None] * wanted for weights, wanted in terms)
    normal = stiffness.T @ stiffness + data.T @ sparse.diags(squared) @ data
    factor = splu(normal.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return factor.solve(np.ascontiguousarray(data.T @ right))


def moved(current: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(N, 3) after each vertex's own map."""
    homogeneous = np.column_stack([current, np.ones(len(current))])
    return np.einsum("nk,nkc->nc", homogeneous, affine.reshape(len(current), 4, 3))
