"""What the fit is told to trust."""

from __future__ import annotations

import numpy as np

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import FRONTAL
from backend.reconstruction.observation import OUTSIDE_TRUST, observe
from backend.vision.landmark_sets import LEFT_IRIS, RIGHT_IRIS
from backend.vision.photo import DetectedFace, Photo

SET = "mediapipe478"


def seen(shift: float = 0.0, **expression: float):
    """Trust in the landmarks of the mean head, moved ``shift`` pixels to the right."""
    model = get_model("open-head")
    weights = [expression.get(name, 0.0) for name in model.expression_names]
    vertices = model.vertices(None, np.array(weights)).astype(np.float64)
    camera = Camera(intrinsics(1200.0, 800, 800), FRONTAL, np.array([0.0, 0.0, 1.0]), 800, 800)
    points = (camera.project(model.landmark_points(vertices, SET)) + np.array([shift, 0.0])).astype(np.float32)
    face = DetectedFace(np.zeros(4, np.float32), 1.0, {SET: points}, None, {}, cropped=shift > 0)
    return points, observe(Photo(np.zeros((800, 800, 3), np.uint8)), face, SET).trust


def test_irises_count_only_where_the_eye_is_open():
    _, trust = seen(eyeBlinkLeft=1.0)
    assert not trust[list(LEFT_IRIS)].any()
    assert trust[list(RIGHT_IRIS)].all()


def test_points_beyond_the_border_keep_a_little_trust():
    points, trust = seen(shift=400.0)
    outside = points[:, 0] > 800
    assert outside.any() and not outside.all()
    assert (trust[outside] == OUTSIDE_TRUST).all()
    assert (trust[~outside] == 1.0).all()
