"""Similarity alignment: exact on exact data, never a mirror image."""

from __future__ import annotations

import numpy as np
import pytest

from backend.geometry.alignment import Similarity, fit_similarity, small_similarities
from backend.geometry.rotation import matrix_from_rotation_vector

POINTS = np.random.default_rng(0).normal(0.0, 1.0, (12, 3))
TRUTH = Similarity(1.7, matrix_from_rotation_vector(np.array([0.4, -0.9, 2.0])), np.array([1.0, -2.0, 0.5]))


@pytest.mark.parametrize("weighted", [False, True])
def test_an_exact_similarity_is_found(weighted):
    weights = np.linspace(0.5, 2.0, len(POINTS)) if weighted else None
    found = fit_similarity(POINTS, TRUTH.apply(POINTS), weights)
    np.testing.assert_allclose(found.rotation, TRUTH.rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, TRUTH.translation, atol=1e-12)
    assert found.scale == pytest.approx(TRUTH.scale)


def test_the_inverse_undoes():
    np.testing.assert_allclose(TRUTH.inverse().apply(TRUTH.apply(POINTS)), POINTS, atol=1e-12)


def test_a_mirrored_target_is_not_reached_by_mirroring():
    found = fit_similarity(POINTS, POINTS * [-1.0, 1.0, 1.0])
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)


def test_without_scale_the_scale_is_one():
    assert fit_similarity(POINTS, 3.0 * POINTS, with_scale=False).scale == 1.0


def test_a_point_of_no_weight_has_no_say():
    target = TRUTH.apply(POINTS)
    target[0] += 100.0
    weights = np.ones(len(POINTS))
    weights[0] = 0.0
    np.testing.assert_allclose(fit_similarity(POINTS, target, weights).rotation, TRUTH.rotation, atol=1e-12)


def test_a_small_similarity_moves_points_as_its_columns_say():
    middle, small = POINTS.mean(axis=0), 1e-5
    shift, turn, growth = np.array([2.0, -1.0, 0.5]), np.array([0.3, 0.1, -0.7]), 0.4
    R = matrix_from_rotation_vector(small * turn)
    moved = (1.0 + small * growth) * (POINTS - middle) @ R.T + middle + small * shift
    said = small_similarities(POINTS) @ np.concatenate([shift, turn, [growth]])
    np.testing.assert_allclose((moved - POINTS).ravel() / small, said, atol=1e-4)
    assert np.linalg.matrix_rank(small_similarities(POINTS)) == 7
