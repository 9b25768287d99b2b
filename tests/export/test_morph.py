"""Normals of the morph targets against whole-mesh normals, shape by shape."""

from __future__ import annotations

import numpy as np

from backend.export.morph import morph_normals
from backend.geometry.mesh import vertex_normals


def test_same_as_two_whole_computations(model):
    vertices = model.mean.astype(np.float64)
    fast = morph_normals(model.mean, model.expression, model.triangles)
    base = vertex_normals(vertices, model.triangles)
    for shape, turn in zip(model.expression, fast):
        slow = vertex_normals(vertices + shape, model.triangles) - base
        np.testing.assert_allclose(turn, slow, atol=2e-6)
    assert np.abs(fast).max() > 0.05


def test_a_shape_that_moves_nothing_turns_nothing(model):
    still = model.expression_names.index("tongueOut")
    turns = morph_normals(model.mean, model.expression[still : still + 1], model.triangles)
    assert not turns.any()


def test_a_shift_of_everything_turns_nothing(model):
    shift = np.full((1, *model.mean.shape), 0.01, np.float32)
    assert np.abs(morph_normals(model.mean, shift, model.triangles)).max() < 1e-6


def test_small_moves_count_as_still(model):
    """What is left out is small: half a millimetre on an 8 mm grid turns normals by 6 hundredths at most."""
    exact = morph_normals(model.mean, model.expression, model.triangles)
    cut = morph_normals(model.mean, model.expression, model.triangles, smallest_move=5e-4)
    assert 0 < (exact != cut).sum() < exact.size / 10
    assert np.abs(exact - cut).max() < 0.1
