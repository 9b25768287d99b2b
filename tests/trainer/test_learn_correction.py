"""Learning what the regression gets wrong, on made and on painted people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import head_euler_degrees, rotation_from_head_euler
from backend.reconstruction.correction import CorrectStage
from backend.reconstruction.landmark_model import shipped_regressor
from backend.reconstruction.regress import RegressStage
from trainer.data.painter import Painter
from trainer.learn_correction import (
    LANDMARKS,
    Seen,
    difficult_person,
    directions,
    draw_difficult,
    learn,
    mean_distance_map,
)


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


def test_people_are_turned_and_covered_and_come_again(model):
    painter = Painter(model)
    np.testing.assert_array_equal(draw_difficult(model, painter, 3), draw_difficult(model, painter, 3))
    drawn = [difficult_person(model, seed) for seed in range(30)]
    assert 2 <= sum(covered for _, covered, _ in drawn) <= 14
    assert max(abs(head_euler_degrees(person.camera.R)["yaw"]) for person, _, _ in drawn) > 45.0
    hidden = next(seed for seed, (_, covered, _) in enumerate(drawn) if covered)
    assert (draw_difficult(model, painter, hidden) != painter.paint(drawn[hidden][0], hidden)).any()
    for person, _, _ in drawn:
        # However the head is turned, it stays before the camera.
        middle = person.camera.project(person.vertices.mean(axis=0, keepdims=True).astype(np.float64))[0]
        assert (middle > 0).all() and (middle < person.camera.width).all()


def test_the_map_measures_what_is_left_after_the_best_similarity(model):
    rng = np.random.default_rng(0)
    difference = rng.normal(0.0, 0.02, len(model.identity))
    face = model.regions["face"]
    first, second = (model.vertices(identity)[face].astype(np.float64) for identity in (0.0 * difference, difference))
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    u, singular, vt = np.linalg.svd(second.T @ first)
    aligned = (singular.sum() / (second**2).sum()) * second @ (u @ vt)
    rms = np.sqrt(((aligned - first) ** 2).sum(axis=1).mean())
    assert np.linalg.norm(mean_distance_map(model) @ difference) == pytest.approx(rms, rel=0.02)


def test_it_learns_what_a_detector_does_to_covered_faces(model):
    """A made-up detector drags the mouths of covered people along one direction, and reads all without its bias.

    The regression knows the real one's bias, so both kinds come out wrong.
    """
    rng = np.random.default_rng(2)
    count = 1500
    identity = rng.normal(0.0, 0.8, (count, len(model.identity))).astype(np.float32)
    covered = rng.random(count) < 0.4
    camera = Camera(intrinsics(1000.0, 640, 640), rotation_from_head_euler(0.0), np.array([0.0, 0.0, 0.9]), 640, 640)
    lower = model.landmark_points(model.mean.astype(np.float64), LANDMARKS)[:, 1] < -0.02
    rows = []
    for who, hidden in zip(identity, covered):
        landmarks = camera.project(model.landmark_points(model.vertices(who).astype(np.float64), LANDMARKS))
        landmarks += rng.normal(0.0, 0.05, landmarks.shape)
        if hidden:
            landmarks[lower] += rng.normal(0.0, 12.0) * np.array([0.2, 1.0])
        rows.append(landmarks)
    seen = Seen(np.array(rows, np.float32), identity, np.zeros(count), covered)
    regressor = shipped_regressor(model, LANDMARKS)
    assert regressor is not None
    regress = RegressStage(regressor, torch.device("cpu"), torch.float64)
    correction, lines = learn(seen, model, regress)
    figures = {line.split(":")[0]: [float(word) for word in line.split(",")[1].split()] for line in lines}
    for mean_face, regressed, put_right in figures.values():
        assert regressed > mean_face, "there must be something to put right for this to say anything"
        assert put_right < 0.7 * regressed and put_right < 1.05 * mean_face
    assert set(figures) == {"yaw 0 to 30", "covered"}
    _, _, put_right = figures["covered"]
    # What is written down does what was learned.
    stage = CorrectStage(correction, torch.device("cpu"), torch.float64)
    landmarks = torch.as_tensor(seen.landmarks[9::10], dtype=torch.float64)
    answers = regress.identity(landmarks, torch.ones(landmarks.shape[:2]).to(landmarks))
    found = stage.identity(regress.apart(landmarks), answers).numpy()[covered[9::10]]
    off = mean_distance_map(model) @ (identity[9::10][covered[9::10]] - found).T
    assert 1000.0 * np.linalg.norm(off, axis=0).mean() == pytest.approx(put_right, abs=2e-3)


def test_directions_are_those_of_everybody_in_whatever_order_they_come():
    """Ten thousand of one kind before a hundred of another, whose numbers are large elsewhere."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[3.0, 2.0, 0.1, 0.1, 0.0]]), torch.tensor([[0.1, 0.1, 0.1, 90.0, 0.0]])
    one, other = (
        size * torch.randn(n, 5, generator=generator, dtype=torch.float64) for size, n in zip(sizes, (10_000, 100))
    )
    found = directions(torch.cat([one, other]), 3)
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.abs(), torch.eye(5, dtype=torch.float64)[[3, 0, 1]], atol=0.03, rtol=0.0)
    again = directions(torch.cat([other, one.flip(0)]), 3)
    torch.testing.assert_close(found.mT @ found, again.mT @ again)
