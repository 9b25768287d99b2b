"""Measuring the detector: drawn people repeat, and planted errors are found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.reconstruction.landmark_model import VIEW_FEATURES, error_spread, view_features
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.people import Painter, draw_person
from trainer.measure_detector import Measurements, learn_error, learn_regressor, measure


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


def test_a_person_is_a_seed(model):
    first, again, other = draw_person(model, 7), draw_person(model, 7), draw_person(model, 8)
    np.testing.assert_array_equal(first.vertices, again.vertices)
    assert np.abs(first.identity - other.identity).max() > 0.1
    painter = Painter(model)
    np.testing.assert_array_equal(painter.paint(first, 7), painter.paint(again, 7))


def test_expressions_stay_in_range_and_do_not_contradict(model):
    index = {name: position for position, name in enumerate(model.expression_names)}
    for seed in range(60):
        values = draw_person(model, seed).expression
        assert values.min() >= 0.0 and values.max() <= 1.0
        assert values[index["jawLeft"]] == 0.0 or values[index["jawRight"]] == 0.0
        assert values[index["mouthClose"]] <= values[index["jawOpen"]]


def test_painted_people_are_seen_as_faces_of_many_tones(model):
    painter, detector = Painter(model), MediaPipeDetector(passes=1, threads=1)
    brightness, seen = [], 0
    for seed in range(500, 512):
        person = draw_person(model, seed, neutral=True)
        picture = painter.paint(person, seed)
        middle = picture[120:200, 120:200].reshape(-1, 3).mean()
        brightness.append(middle)
        seen += bool(detector.detect(Photo(picture)))
    assert seen >= 11
    assert max(brightness) > 1.8 * min(brightness)


def planted(count: int = 4000, landmarks: int = 6, modes: int = 2) -> tuple[Measurements, dict[str, np.ndarray]]:
    """Errors made by the very model that is to be learned."""
    rng = np.random.default_rng(0)
    direction = rng.uniform(-0.5, 0.5, (count, 2))
    rotation = np.zeros((count, 3, 3))
    rotation[:, 2, 0], rotation[:, 2, 1] = -direction[:, 0], -direction[:, 1]
    view = view_features(torch.as_tensor(rotation)).numpy()
    coefficients = rng.normal(0.0, 1.0, (count, 5))
    truth = {
        "bias": rng.normal(0.0, 1e-3, (VIEW_FEATURES, landmarks, 2)),
        "coupling": rng.normal(0.0, 1e-3, (landmarks, 2, 5)),
        "modes": rng.normal(0.0, 2e-3, (landmarks, 2, modes)),
    }
    spread = np.exp(2.0 * direction[:, 0] ** 2)
    own = rng.normal(0.0, 5e-4, (count, landmarks, 2)) + np.einsum(
        "lkm,nm->nlk", truth["modes"], rng.normal(size=(count, modes))
    )
    error = (
        np.einsum("ng,glk->nlk", view, truth["bias"])
        + np.einsum("lkq,nq->nlk", truth["coupling"], coefficients)
        + spread[:, None, None] * own
    )
    return Measurements(np.zeros((count, landmarks, 2)), error, view, coefficients, 0), truth


def test_planted_bias_coupling_modes_and_spread_are_found_again():
    measurements, truth = planted()
    learned = learn_error(measurements, modes=2)
    np.testing.assert_allclose(learned.coupling, truth["coupling"], atol=3e-4)
    found, planned = (np.einsum("ng,glk->nlk", measurements.view, bias) for bias in (learned.bias, truth["bias"]))
    assert np.sqrt(((found - planned) ** 2).mean()) < 0.2 * np.sqrt((planned**2).mean())
    covariance = np.einsum("akm,blm->akbl", truth["modes"], truth["modes"])
    found = np.einsum("akm,blm->akbl", learned.modes, learned.modes)
    assert np.abs(found - covariance).max() < 0.3 * np.abs(covariance).max()
    turned = torch.zeros(1, 3, 3, dtype=torch.float64)
    turned[0, 2, 0] = -0.5
    assert float(error_spread(turned, torch.as_tensor(learned.spread))) == pytest.approx(np.exp(0.5), rel=0.2)


def test_the_regression_learns_a_linear_world():
    """Landmark shapes that depend linearly on identity give the identity back, through any similarity."""
    rng = np.random.default_rng(1)
    count, landmarks, modes = 2000, 40, 3
    mean = rng.normal(0.0, 1.0, (landmarks, 2))
    basis = rng.normal(0.0, 0.05, (modes, landmarks, 2))
    identity = rng.normal(0.0, 1.0, (count, modes))
    shapes = mean + np.tensordot(identity, basis, 1) + rng.normal(0.0, 1e-3, (count, landmarks, 2))
    angle, size = rng.uniform(-0.5, 0.5, count), rng.uniform(50.0, 300.0, count)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    photos = size[:, None, None] * (shapes @ turn) + rng.uniform(0.0, 500.0, (count, 1, 2))
    measurements = Measurements(photos, np.zeros_like(photos), np.zeros((count, VIEW_FEATURES)), identity, 0)
    assert learn_regressor(measurements, modes).sigma.max() < 0.35


def test_measuring_a_few_people_end_to_end(model):
    measurements = measure("open-head", people=6, workers=1, first_seed=77)
    assert len(measurements.error) + measurements.missed == 6
    assert len(measurements.error) >= 4
    typical = np.median(np.linalg.norm(measurements.error, axis=2))
    assert 3e-4 < typical < 8e-3
