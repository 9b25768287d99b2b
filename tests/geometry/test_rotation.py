"""Rotations against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from backend.geometry.rotation import (
    FRONTAL,
    head_euler_degrees,
    matrix_from_rotation_vector,
    nearest_rotation,
    rotation_from_head_euler,
    skew,
)


def test_rotation_vectors_agree_with_scipy():
    vectors = np.random.default_rng(0).normal(0.0, 2.0, (50, 3))
    np.testing.assert_allclose(
        matrix_from_rotation_vector(vectors), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12
    )


def test_a_tiny_rotation_is_the_identity_plus_its_cross_product():
    vector = np.array([1e-10, -2e-10, 3e-10])
    np.testing.assert_allclose(matrix_from_rotation_vector(vector), np.eye(3) + skew(vector), atol=1e-18)
    np.testing.assert_array_equal(matrix_from_rotation_vector(np.zeros(3)), np.eye(3))


def test_nearest_rotation_never_mirrors():
    matrices = np.random.default_rng(1).normal(size=(20, 3, 3))
    rotations = nearest_rotation(matrices)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-12)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (0, -20, 0), (0, 0, 45), (25, -10, 15), (-70, 30, -100)])
def test_head_angles_go_there_and_back(angles):
    found = head_euler_degrees(rotation_from_head_euler(*angles))
    np.testing.assert_allclose([found["yaw"], found["pitch"], found["roll"]], angles, atol=1e-9)


def test_signs_of_head_angles_in_the_image():
    nose, top = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    np.testing.assert_array_equal(rotation_from_head_euler(), FRONTAL)
    assert (rotation_from_head_euler(yaw=20) @ nose)[0] > 0.3  # nose to the image's right
    assert (rotation_from_head_euler(pitch=20) @ nose)[1] < -0.3  # nose up, image y is down
    assert (rotation_from_head_euler(roll=20) @ top)[0] > 0.3  # head leans clockwise
