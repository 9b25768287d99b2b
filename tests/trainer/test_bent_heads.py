"""Heads that the model cannot make: how far they are bent, and which head of the model is nearest."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.geometry.alignment import small_similarities
from trainer.data import bent_heads
from trainer.data.bent_heads import bend, bent, nearest_identity
from trainer.data.people import IDENTITY_SIGMA, draw_person
from trainer.learn_correction import mean_distance_map


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def bends(model):
    return [bend(model, np.random.default_rng(seed)) for seed in range(12)]


def rms_mm(model, offsets):
    face = model.regions["face"]
    return 1e3 * np.sqrt((offsets[face] ** 2).sum(axis=1).mean())


def test_heads_are_bent_smoothly_by_a_few_millimetres_each_another_way(model, bends):
    sizes = [rms_mm(model, offset) for offset in bends]
    assert 1.0 < np.median(sizes) < 5.0 and max(sizes) < 12.0
    edges = np.concatenate([model.triangles[:, [0, 1]], model.triangles[:, [1, 2]]])
    length = np.linalg.norm(model.mean[edges[:, 0]] - model.mean[edges[:, 1]], axis=1).astype(np.float64)
    for offset in bends:
        stretch = np.linalg.norm(offset[edges[:, 0]] - offset[edges[:, 1]], axis=1)
        assert (stretch <= 0.6 * length + 1e-9).all(), "no fold"
    assert rms_mm(model, bends[0] - bends[1]) > 0.5


def test_sides_are_bent_nearly_alike(model, bends):
    apart = [rms_mm(model, offset - offset[model.mirror] * [-1.0, 1.0, 1.0]) for offset in bends]
    assert 0.0 < np.median(apart) < 0.6 * np.median([rms_mm(model, offset) for offset in bends])


def test_the_model_does_not_reach_them(model, bends):
    metres = mean_distance_map(model)
    for offset in bends:
        found = nearest_identity(model, offset)
        left = np.tensordot(found, model.identity.astype(np.float64), 1) - offset
        assert rms_mm(model, without_similarity(model, left)) > 0.2
        assert rms_mm(model, without_similarity(model, left)) < rms_mm(model, without_similarity(model, offset))
        assert 1e3 * np.linalg.norm(metres @ found) > 0.1


def test_the_nearest_head_of_one_of_the_models_is_that_head_but_for_what_its_prior_holds_back(model, monkeypatch):
    truth = 0.3 * np.random.default_rng(0).normal(size=len(model.identity))
    offset = np.tensordot(truth, model.identity.astype(np.float64), 1)
    metres = mean_distance_map(model)
    short = []
    for left_over in (bent_heads.LEFT_OVER_M, 1e-6):
        monkeypatch.setattr(bent_heads, "LEFT_OVER_M", left_over)
        off = metres @ (nearest_identity(model, offset) - truth)
        short.append(np.linalg.norm(off) / np.linalg.norm(metres @ truth))
    assert short[1] < 0.01
    assert 0.05 < short[0] < 0.3, "as the constant's comment says"


def test_the_nearest_head_is_the_least_squares_one(model, bends):
    """Prior and similarity as rows of one plain system."""
    face = model.regions["face"]
    modes = model.identity[:, face].astype(np.float64).reshape(len(model.identity), -1).T
    sigma = bent_heads.LEFT_OVER_M * np.sqrt(len(modes) / 3)
    free = small_similarities(model.mean[face].astype(np.float64))
    prior = np.concatenate([np.eye(modes.shape[1]) / IDENTITY_SIGMA, np.zeros((modes.shape[1], 7))], axis=1)
    rows = np.concatenate([np.concatenate([modes, free], axis=1) / sigma, prior])
    right = np.concatenate([bends[0][face].ravel() / sigma, np.zeros(modes.shape[1])])
    expected = np.linalg.lstsq(rows, right, rcond=None)[0][: modes.shape[1]]
    np.testing.assert_allclose(nearest_identity(model, bends[0]), expected, atol=1e-6)


def test_a_head_elsewhere_turned_and_larger_is_the_same_head(model):
    points = model.mean.astype(np.float64)
    elsewhere = 1.01 * (points + np.cross([0.01, 0.02, -0.01], points)) + [0.003, -0.002, 0.01]
    assert np.abs(nearest_identity(model, elsewhere - points)).max() < 0.05


def test_a_bent_person_keeps_expression_and_camera(model):
    person = draw_person(model, 5)
    found = bent(model, person, np.random.default_rng(5))
    assert found.camera is person.camera and found.expression is person.expression
    offset = found.vertices - person.vertices
    np.testing.assert_allclose(offset, bend(model, np.random.default_rng(5)), atol=1e-7)
    np.testing.assert_allclose(found.identity - person.identity, nearest_identity(model, offset), atol=1e-4)


def without_similarity(model, offsets):
    """Offsets less the similarity of the face that is nearest to them, to first order."""
    face = model.regions["face"]
    space = np.linalg.qr(small_similarities(model.mean[face].astype(np.float64)))[0]
    flat = offsets[face].ravel()
    left = np.zeros_like(offsets)
    left[face] = (flat - space @ (space.T @ flat)).reshape(-1, 3)
    return left
