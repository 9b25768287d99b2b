"""The NoW protocol: how far a reconstructed neutral face lies from a scan of the person.

Written from the description of the benchmark (Sanyal et al., CVPR 2019, section 5, and the public
account of its evaluation script); no code or data of it is used. Four steps, one function each:
crop the scan, align by seven landmarks, refine the alignment on the surface, measure.

Symbols: N scan vertices, V mesh vertices, T triangles. Lengths go in as metres; figures whose name
ends in ``_mm`` are millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.errors import MgcFaceError
from backend.geometry.alignment import Similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.rotation import matrix_from_rotation_vector

# Order of the seven landmarks: right-outer, right-inner, left-inner and left-outer eye corner, bottom
# of the nose, right and left mouth corner. "Right" is the subject's.
LANDMARKS = ("right_eye_outer", "right_eye_inner", "left_eye_inner", "left_eye_outer", "nose_bottom",
             "mouth_right", "mouth_left")  # fmt: skip
RIGHT_OUTER, RIGHT_INNER, LEFT_INNER, LEFT_OUTER, NOSE_BOTTOM = range(5)

# The crop: a sphere whose centre lies this fraction of the way from the bottom of the nose to the
# bridge, and whose radius is this multiple of the mean of eye width and nose length.
CROP_CENTRE = 0.3
CROP_RADIUS = 1.4

# The refinement stops when no coordinate of any mesh point near the face moves by more than this
# (metres): a ten-thousandth of a millimetre, far below any printed digit; or when a step lowers the sum
# of squares by less than this share of it.
CONVERGED = 1e-7
SMALL_GAIN = 1e-10
MAX_ITERATIONS = 100
ROUGH_STRIDE = 5

# Distances below this (metres) have no usable direction; the triangle's normal stands in.
TOUCHING = 1e-9

MM = 1000.0


class ProtocolError(MgcFaceError):
    """The inputs cannot be scored: a mirrored mesh, too few points, faces that are missing."""

    code = "protocol"


@dataclass(frozen=True)
class Scan:
    """The truth: ``vertices`` (N, 3) metres and ``landmarks`` (7, 3) metres in the order of :data:`LANDMARKS`."""

    vertices: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """A reconstructed neutral face.

    ``vertices`` (V, 3), ``triangles`` (T, 3) int, ``landmarks`` (7, 3); any unit for the non-metrical
    figure, metres for the metrical one.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    landmarks: np.ndarray


@dataclass(frozen=True)
class FaceScore:
    """``distances_mm`` (N',) of the cropped scan vertices; ``alignment`` carries the prediction onto the scan."""

    distances_mm: np.ndarray
    alignment: Similarity

    @property
    def median_mm(self) -> float:
        return float(np.median(self.distances_mm))

    @property
    def mean_mm(self) -> float:
        return float(np.mean(self.distances_mm))

    @property
    def std_mm(self) -> float:
        """Population standard deviation (divided by N), as the benchmark prints it."""
        return float(np.std(self.distances_mm))


@dataclass(frozen=True)
class PooledScore:
    """All distances of all faces together, so that dense scans weigh more, and the mean over faces beside it."""

    faces: int
    median_mm: float
    mean_mm: float
    std_mm: float
    mean_of_medians_mm: float


def score(scan: Scan, prediction: Prediction, metrical: bool = False) -> FaceScore:
    """Score one face.

    Parameters
    ----------
    scan : Scan
    prediction : Prediction
    metrical : bool
        Keep the prediction's own size; otherwise the best scale is solved for.

    Raises
    ------
    ProtocolError
        When the prediction is a mirror image, or has no finite surface.
    """
    _check(scan, prediction)
    points = scan.vertices[crop(scan.vertices, scan.landmarks)]
    start = align_landmarks(prediction.landmarks, scan.landmarks, metrical)
    tree = SurfaceTree(prediction.vertices, prediction.triangles)
    # Most of the way on a fifth of the points, the rest on all of them: the answer is that of all.
    rough = refine(points[::ROUGH_STRIDE], tree, start, with_scale=not metrical)
    alignment = refine(points, tree, rough, with_scale=not metrical)
    distances = alignment.scale * tree.query(alignment.inverse().apply(points)).distances
    return FaceScore(distances * MM, alignment)


def crop(vertices: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(N,) bool: the scan vertices that count. Only the scan is cropped, never the prediction.

    ``bridge = (lm1 + lm2) / 2``, ``centre = lm4 + 0.3 (bridge - lm4)``,
    ``radius = 1.4 (|lm0 - lm3| + |bridge - lm4|) / 2``.
    """
    bridge = (landmarks[RIGHT_INNER] + landmarks[LEFT_INNER]) / 2.0
    nose = landmarks[NOSE_BOTTOM]
    centre = nose + CROP_CENTRE * (bridge - nose)
    eyes = np.linalg.norm(landmarks[RIGHT_OUTER] - landmarks[LEFT_OUTER])
    radius = CROP_RADIUS * (eyes + np.linalg.norm(bridge - nose)) / 2.0
    return np.linalg.norm(vertices - centre, axis=1) <= radius


def align_landmarks(source: np.ndarray, target: np.ndarray, metrical: bool = False) -> Similarity:
    """Procrustes over the seven landmarks: ``target ~ s R source + t``.

    The benchmark's own alignment takes the best orthogonal matrix, mirror images included; here a
    mirror image is refused. In the metrical variant the scale is 1, and, as in the benchmark, the
    translation is still the one that belonged to the fitted scale: it is only a starting point.

    Raises
    ------
    ProtocolError
        When the landmarks match best as a mirror image.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    source_centred, target_centred = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(target_centred.T @ source_centred)
    rotation = u @ vt
    if np.linalg.det(rotation) <= 0.0:
        raise ProtocolError(
            "The reconstructed face is a mirror image of the scan; check the axes and the landmark order of the mesh."
        )
    scale = float(singular.sum() / (source_centred**2).sum())
    translation = target_mean - scale * rotation @ source_mean
    return Similarity(1.0 if metrical else scale, rotation, translation)


def refine(points: np.ndarray, tree: SurfaceTree, start: Similarity, with_scale: bool) -> Similarity:
    """Least squares of the unsigned scan-to-surface distances over (s, R, t), or (R, t).

    Every point counts the same: no trimming, no robust kernel, no normal test. Levenberg-Marquardt
    on the exact distance and its exact derivative: with ``q = s R x + t`` the surface point nearest
    to scan point ``p`` and ``n = (p - q) / |p - q|``, moving the mesh changes the distance by
    ``-n . dq`` (the motion of x along the surface does not enter, because q is nearest). The scale
    is stepped in its logarithm, which keeps it positive where the benchmark uses a penalty.

    Parameters
    ----------
    points : (N, 3) float
        Cropped scan vertices.
    tree : SurfaceTree
        The prediction's surface, in its own frame.
    start : Similarity
    with_scale : bool
    """
    centre = points.mean(axis=0)
    reach = float(np.linalg.norm(points - centre, axis=1).max())
    current, damping = start, 1e-6
    residuals, jacobian, guess = _linearise(points, tree, current, centre, None)
    for _ in range(MAX_ITERATIONS):
        free = jacobian if with_scale else jacobian[:, :6]
        normal, gradient = free.T @ free, free.T @ residuals
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
        proposed = _moved(current, step, centre)
        trial, trial_jacobian, trial_guess = _linearise(points, tree, proposed, centre, guess)
        before, after = residuals @ residuals, trial @ trial
        if after <= before:
            current, residuals, jacobian, guess = proposed, trial, trial_jacobian, trial_guess
            damping = max(damping / 10.0, 1e-9)
            turn = np.abs(step[:3]).max() + (abs(step[6]) if with_scale else 0.0)
            if np.abs(step[3:6]).max() + turn * reach < CONVERGED or before - after < SMALL_GAIN * before:
                break
        else:
            damping *= 10.0
            if damping > 1e6:  # no downhill step left: at the minimum to within rounding
                break
    return current


def _linearise(points, tree, similarity, centre, guess):
    """Residuals (N,), their Jacobian (N, 7) over rotation vector, translation and log-scale, nearest triangles (N,)."""
    found = tree.query(similarity.inverse().apply(points), guess)
    surface = similarity.apply(found.points)
    away = points - surface
    distances = np.linalg.norm(away, axis=1)
    direction = away / np.maximum(distances, TOUCHING)[:, None]
    touching = distances < TOUCHING
    if touching.any():
        a, b, c = np.moveaxis(tree.corners[found.triangles[touching]], 1, 0)
        normal = np.cross(b - a, c - a) @ similarity.rotation.T
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        direction[touching] = normal / np.maximum(length, np.finfo(np.float64).tiny)
    arm = surface - centre
    columns = [-np.cross(arm, direction), -direction, -(arm * direction).sum(axis=1)[:, None]]
    return distances, np.concatenate(columns, axis=1), found.triangles


def _moved(similarity: Similarity, step: np.ndarray, centre: np.ndarray) -> Similarity:
    """The similarity after a further turn and growth about ``centre`` and a shift."""
    turn = matrix_from_rotation_vector(step[:3])
    growth = float(np.exp(step[6])) if len(step) == 7 else 1.0
    translation = growth * turn @ (similarity.translation - centre) + centre + step[3:6]
    return Similarity(growth * similarity.scale, turn @ similarity.rotation, translation)


def pool(scores: Sequence[FaceScore | None], expected: int | None = None) -> PooledScore:
    """The headline figures of a set.

    Parameters
    ----------
    scores : sequence of FaceScore or None
        None stands for a face that was not reconstructed.
    expected : int, optional
        How many faces the set has, where that is more than ``scores`` holds.

    Raises
    ------
    ProtocolError
        When any face is missing: a mean over the faces that happened to work flatters the method.
    """
    present = [item for item in scores if item is not None]
    total = len(scores) if expected is None else max(expected, len(scores))
    if not present or len(present) < total:
        raise ProtocolError(
            f"{total - len(present)} of {total} faces were not reconstructed, so there is no headline figure for the "
            "set; look at the failures and run it again."
        )
    together = np.concatenate([item.distances_mm for item in present])
    medians = [item.median_mm for item in present]
    return PooledScore(
        len(present), float(np.median(together)), float(together.mean()), float(together.std()), float(np.mean(medians))
    )


def _check(scan: Scan, prediction: Prediction) -> None:
    shapes = (scan.landmarks.shape, prediction.landmarks.shape)
    if shapes != ((7, 3), (7, 3)):
        raise ProtocolError(f"The protocol needs seven 3D landmarks on scan and mesh, not {shapes[0]} and {shapes[1]}.")
    if not (np.isfinite(prediction.vertices).all() and np.isfinite(prediction.landmarks).all()):
        raise ProtocolError("The reconstructed face has vertices that are not numbers; the reconstruction failed.")
    if len(prediction.triangles) == 0:
        raise ProtocolError("The reconstructed face has no triangles; export it as a surface, not as points.")
