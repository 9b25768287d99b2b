"""Measuring the detector: drawn people repeat, and planted errors are found again."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.people import Painter, draw_person
from trainer.measure_detector import Measurements, learn, measure


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
    assert learn(Measurements(photos, identity, 0)).sigma.max() < 0.35


def test_measuring_a_few_people_end_to_end(model):
    measurements = measure("open-head", people=6, workers=1, first_seed=77)
    assert len(measurements.landmarks) + measurements.missed == 6
    assert len(measurements.landmarks) >= 4
    assert measurements.identity.shape[1] == len(model.identity)
