"""Between the detector and the fit: what to trust in a face's landmarks, and how well it was explained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.face_model.model import FaceModel
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.fit import FitResult
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.opinion import Opinion
from backend.reconstruction.result import FitReport
from backend.vision.landmark_sets import LEFT_IRIS, RIGHT_IRIS, eye_openness
from backend.vision.photo import DetectedFace, Photo

# Openness of an eye (see eye_openness) below which the iris is covered and its points are guesses.
CLOSED_EYE = 0.1

# A landmark beyond the photo's border was never seen; it keeps a little pull so that the pose of a
# cut face stays sane.
OUTSIDE_TRUST = 0.1

# Relative rms above which the picture of the face and the model disagree visibly.
POOR_FIT = 0.03


def observe(photo: Photo, face: DetectedFace, landmark_set: str) -> Observation:
    """The observation of one face: landmarks, and how far each can be trusted."""
    landmarks = face.landmarks[landmark_set].astype(np.float64)
    trust = np.ones(len(landmarks))
    inside = (landmarks >= 0).all(axis=1) & (landmarks <= [photo.width, photo.height]).all(axis=1)
    trust[~inside] = OUTSIDE_TRUST
    if landmark_set == "mediapipe478":
        for iris, openness in zip((RIGHT_IRIS, LEFT_IRIS), eye_openness(landmarks)):
            if openness < CLOSED_EYE:
                trust[list(iris)] = 0.0
    before = None if face.as_detected is None or landmark_set != "mediapipe478" else face.as_detected.astype(np.float64)
    return Observation(landmarks, photo.width, photo.height, photo.focal_px, trust, None, before, face.moved)


def unfitted(
    observation: Observation, said: Opinion, model: FaceModel, landmark_set: str
) -> tuple[Observation, FitResult]:
    """The head as the network says it, in the form of a fit, and the landmarks by which it can be judged.

    Contours slide along the outline, which only the fit does, so they do not count.
    """
    vertices = model.vertices(said.identity, said.expression).astype(np.float64)
    trust = np.ones(len(observation.landmarks)) if observation.trust is None else observation.trust.copy()
    trust[list(CONTOURS[landmark_set])] = 0.0
    away = float(said.camera.t[2])
    result = FitResult(
        identity=said.identity.astype(np.float32),
        expression=said.expression.astype(np.float32),
        R=said.camera.R,
        t=said.camera.t,
        focal_px=said.camera.focal_px,
        sigma_identity=said.sigma_identity,
        sigma_log_distance=float(said.sigma["translation"][-1]) / away if "translation" in said.sigma else np.inf,
        projected=said.camera.project(model.landmark_points(vertices, landmark_set)),
        cost=0.0,
        iterations=0,
        converged=True,
    )
    return replace(observation, trust=trust), result


def report(face: DetectedFace, observation: Observation, result: FitResult) -> tuple[FitReport, tuple[str, ...]]:
    """Figures of a fit, and sentences about what to be wary of."""
    distance = np.linalg.norm(result.projected - observation.landmarks, axis=1)
    seen = np.ones(len(distance), bool) if observation.trust is None else observation.trust > 0
    height = float(np.ptp(observation.landmarks[:, 1]))
    rms = float(np.sqrt((distance[seen] ** 2).mean()))
    fit = FitReport(
        rms_px=rms,
        rms_relative=rms / height,
        median_relative=float(np.median(distance[seen])) / height,
        sigma_identity=result.sigma_identity,
        iterations=result.iterations,
        converged=result.converged,
    )
    warnings = []
    if face.cropped:
        warnings.append("The face reaches beyond the border of the photo; what lies outside is a guess.")
    if fit.rms_relative > POOR_FIT:
        warnings.append("The head does not match the landmarks well; check the overlay before using it.")
    return fit, tuple(warnings)
