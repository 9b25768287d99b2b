"""The camera's conventions."""

from __future__ import annotations

import numpy as np
import pytest

from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import FRONTAL, rotation_from_head_euler

POINTS = np.random.default_rng(0).normal(0.0, 0.1, (30, 3))


@pytest.fixture
def camera():
    rotation = rotation_from_head_euler(20.0, -5.0, 7.0)
    return Camera(intrinsics(900.0, 640, 480), rotation, np.array([0.02, -0.01, 0.7]), 640, 480)


def test_a_point_on_the_axis_lands_in_the_middle():
    camera = Camera(intrinsics(900.0, 640, 480), FRONTAL, np.array([0.0, 0.0, 1.0]), 640, 480)
    np.testing.assert_allclose(camera.project(np.zeros((1, 3))), [[320.0, 240.0]])
    # the subject's left is the picture's right, up is up
    assert camera.project(np.array([[0.1, 0.0, 0.0]]))[0, 0] > 320.0
    assert camera.project(np.array([[0.0, 0.1, 0.0]]))[0, 1] < 240.0


def test_the_centre_projects_from_nowhere(camera):
    np.testing.assert_allclose(camera.to_camera(camera.centre), np.zeros(3), atol=1e-12)


def test_resizing_keeps_pixels_aligned(camera):
    np.testing.assert_allclose(camera.resized(1280, 960).project(POINTS), 2.0 * camera.project(POINTS))
    np.testing.assert_allclose(camera.scaled(0.5).project(POINTS), 0.5 * camera.project(POINTS))


def test_cropping_shifts(camera):
    np.testing.assert_allclose(camera.cropped(100, 50, 200, 200).project(POINTS), camera.project(POINTS) - [100, 50])
