"""The REALY protocol: four regions of a scan, each aligned and measured on its own.

Chai et al., "REALY: Rethinking the Evaluation of 3D Face Reconstruction" (ECCV 2022); written from the description of
the benchmark's evaluation. For each region: bring the whole reconstruction onto the scan by seven keypoints, align it
rigidly to the region, bend the region onto it to find which points belong together, measure.

Symbols: V vertices and T triangles of the reconstruction, N vertices of a region. Lengths in the scan's own unit until
the factor of the subject turns them into millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from backend.geometry.alignment import Similarity, fit_similarity
from backend.geometry.closest_point import SurfaceTree
from trainer.evaluate.nonrigid_icp import bend
from trainer.evaluate.now_protocol import ProtocolError

REGIONS = ("nose", "mouth", "forehead", "cheek")

# The 68 of iBUG and 17 more on nose and cheeks.
KEYPOINTS = 85
GLOBAL = (36, 39, 42, 45, 33, 48, 54)
_LIPS = (*range(48, 61), 64)
# What holds a region while it is aligned, and while the scan is bent (none for the cheek).
RIGID_KEYPOINTS = {
    "nose": (*range(27, 36), 70, 71),
    "mouth": _LIPS,
    "forehead": (*range(36, 48), *range(17, 27)),
    "cheek": (*_LIPS, 76, 77, 36, 41, 40, 39, 42, 47, 46, 45, 7, 8, 9),
}
BENDING_KEYPOINTS = {"nose": tuple(range(27, 36)), "mouth": _LIPS, "forehead": RIGID_KEYPOINTS["forehead"], "cheek": ()}

# Together the keypoints weigh as much as all vertices of the region; on the cheek, where the eyes and the mouth lie
# far from the surface that is measured, a quarter of it.
CHEEK_SHARE = 4

# The rigid alignment stops when the mean squared error changes by less than this (square units).
CONVERGED = 1e-6
MAX_ITERATIONS = 100


@dataclass(frozen=True)
class RegionScan:
    """One region of a scan: ``vertices`` (N, 3), ``triangles`` (T, 3) int."""

    vertices: np.ndarray
    triangles: np.ndarray


@dataclass(frozen=True)
class Subject:
    """The truth of one person: ``regions`` by name, ``keypoints`` (85, 3), ``mm`` millimetres per unit."""

    regions: dict[str, RegionScan]
    keypoints: np.ndarray
    mm: float


def score(subject: Subject, vertices: np.ndarray, triangles: np.ndarray, keypoints: np.ndarray) -> dict[str, float]:
    """Millimetres by region: the mean distance that the benchmark calls NMSE.

    Parameters
    ----------
    subject : Subject
    vertices, triangles : (V, 3) float, (T, 3) int
        The reconstruction, any unit.
    keypoints : (85, 3) float
        On the reconstruction.

    Raises
    ------
    ProtocolError
        When the reconstruction is a mirror image, is not finite, or has another number of keypoints.
    """
    if keypoints.shape != (KEYPOINTS, 3) or subject.keypoints.shape != (KEYPOINTS, 3):
        raise ProtocolError(f"The protocol needs {KEYPOINTS} keypoints on scan and mesh, not {len(keypoints)}.")
    if len(triangles) == 0 or not (np.isfinite(vertices).all() and np.isfinite(keypoints).all()):
        raise ProtocolError("The reconstructed face has no finite surface; the reconstruction failed.")
    start = align_globally(keypoints[list(GLOBAL)], subject.keypoints[list(GLOBAL)])
    tree = SurfaceTree(vertices, triangles)
    return {name: subject.mm * region_error(name, subject, tree, keypoints, start) for name in REGIONS}


def align_globally(source: np.ndarray, target: np.ndarray) -> Similarity:
    """Rotation by Procrustes; scale as the benchmark has it, the ratio of summed absolute coordinates.

    ``s = sum |t - mean t| / sum |R (x - mean x)|``: not the least-squares scale, and kept because the figures depend
    on it. The benchmark would take a mirror image; here it is refused.

    Raises
    ------
    ProtocolError
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - target_mean).T @ (source - source_mean))
    rotation = u @ vt
    if np.linalg.det(rotation) <= 0.0:
        raise ProtocolError(
            "The reconstructed face is a mirror image of the scan; check the axes and the landmark order of the mesh."
        )
    turned = (source - source_mean) @ rotation.T
    scale = float(np.abs(target - target_mean).sum() / np.abs(turned).sum())
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def align_region(
    points: np.ndarray, tree: SurfaceTree, start: Similarity, own: np.ndarray, true: np.ndarray, share: int = 1
) -> Similarity:
    """Rigid alignment of the reconstruction to the vertices of one region and its keypoints.

    Parameters
    ----------
    points : (N, 3) float
        Vertices of the region.
    tree : SurfaceTree
        Of the reconstruction, in its own frame.
    start : Similarity
        From that frame to the scan's; its scale is kept.
    own, true : (K, 3) float
        Keypoints on the reconstruction (own frame) and on the scan.
    share : int
        All keypoints together weigh ``1 / share`` of all vertices.
    """
    repeats = int(len(points) / len(own) / share)
    weights = np.concatenate([np.ones(len(points)), np.full(len(own), float(repeats))])
    target = np.concatenate([points, true])
    current, before = start, 0.0
    for _ in range(MAX_ITERATIONS):
        nearest = current.apply(tree.query(current.inverse().apply(points)).points)
        pairs = np.concatenate([nearest, current.apply(own)])
        step = fit_similarity(pairs, target, weights, with_scale=False)
        error = float(np.average(((step.apply(pairs) - target) ** 2).sum(axis=1), weights=weights))
        if abs(error - before) < CONVERGED:
            break
        before = error
        current = Similarity(
            current.scale, step.rotation @ current.rotation, step.rotation @ current.translation + step.translation
        )
    return current


def region_error(name: str, subject: Subject, tree: SurfaceTree, keypoints: np.ndarray, start: Similarity) -> float:
    """Mean distance, in the scan's unit, between the original vertices and the points their bent selves lie nearest."""
    region = subject.regions[name]
    rigid = list(RIGID_KEYPOINTS[name])
    share = CHEEK_SHARE if name == "cheek" else 1
    aligned = align_region(region.vertices, tree, start, keypoints[rigid], subject.keypoints[rigid], share)
    whole = merged(region)

    def nearest(points: np.ndarray) -> np.ndarray:
        return aligned.apply(tree.query(aligned.inverse().apply(points)).points)

    bending = list(BENDING_KEYPOINTS[name])
    chosen, places = None, None
    if bending:
        chosen = np.atleast_1d(KDTree(whole.vertices).query(subject.keypoints[bending])[1])
        places = aligned.apply(keypoints[bending])
    bent = bend(whole.vertices, whole.triangles, nearest(whole.vertices), chosen, places)
    return float(np.linalg.norm(nearest(bent) - whole.vertices, axis=1).mean())


def merged(region: RegionScan) -> RegionScan:
    """Vertices at one place made one, and those without a triangle left out, as the benchmark's mesh library does."""
    used = region.vertices[region.triangles.ravel()]
    vertices, index = np.unique(used.round(8), axis=0, return_inverse=True)
    return RegionScan(vertices, index.reshape(-1, 3))
