"""How wrong the fit is beside what it says: with landmarks whose errors are known, and networks that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.reconstruction.fit import Fitter
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.vision.photo import DetectedFace
from trainer import measure_fit
from trainer.measure_fit import SAID, SIZE, draw, made_up, measure, report, run

SET = "mediapipe478"


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def fitter(model):
    return Fitter(LandmarkModel(model, SET))


def landmarks_of(model, known, noise_px: float = 1.0, together_px: float = 0.0) -> np.ndarray:
    """Landmarks with errors of each one's own, and a smooth one that all share."""
    vertices = model.vertices(known.identity, known.expression).astype(np.float64)
    points = model.landmark_points(vertices, SET)
    pixels = known.camera.project(points)
    rng = np.random.default_rng(4)
    waves = np.sin(points @ rng.normal(0.0, 25.0, (3, 2)))
    return pixels + rng.normal(0.0, noise_px, pixels.shape) + together_px * waves


def test_errors_that_landmarks_share_are_seen(model, fitter):
    known = [draw(model, number) for number in range(0, 12, 2)]
    known = [one for one in known if abs(one.yaw) < 50]

    def chi(together_px: float) -> float:
        found = [
            measure(fitter, one, Observation(landmarks_of(model, one, 2.0, together_px), SIZE, SIZE), number)
            for number, one in enumerate(known)
        ]
        return float(np.median([one.chi["rotation"] for one in found]))

    assert chi(12.0) > 3.0 * chi(0.0)


def test_a_made_up_network_errs_as_much_as_it_says(model):
    known = [draw(model, number) for number in range(60)]
    said = [made_up(one, number) for number, one in enumerate(known)]
    errors = np.array([of.identity - one.identity for one, of in zip(known, said)])
    assert errors.std() == pytest.approx(SAID["identity"], rel=0.05)
    # What it says and how wrong that is have nothing to do with each other, as of a mean of what could be true.
    assert abs((errors * np.array([of.identity for of in said])).mean()) < 0.02
    turned = [np.linalg.norm(of.R - one.camera.R) / 2**0.5 for one, of in zip(known, said)]
    assert np.sqrt(np.mean(np.square(turned)) / 3) == pytest.approx(SAID["rotation"], rel=0.15)
    away = [np.log(of.camera.t[2] / one.camera.t[2]) for one, of in zip(known, said)]
    assert np.std(away) == pytest.approx(SAID["translation"], rel=0.25)


def test_people_are_drawn_with_and_without_occluders(model):
    people = [draw(model, number) for number in range(16)]
    assert {one.occluder for one in people[::2]} == {""}
    assert {one.occluder for one in people[1::2]} == set(measure_fit.OCCLUDERS)
    assert all(abs(one.yaw) <= measure_fit.OCCLUDED_YAW for one in people[1::2])


def test_a_run_ends_in_a_table(model, fitter, monkeypatch):
    """With a detector that knows the truth, but for one face that it has upside down and one that it misses."""
    seen: list[int] = []

    class Knowing:
        def detect(self, photo, all_faces=False):
            number = len(seen)
            seen.append(number)
            if number == 2:
                return []
            landmarks = landmarks_of(model, draw(model, number))
            if number == 1:
                landmarks = SIZE - landmarks
            return [DetectedFace(np.zeros(4), 1.0, {SET: landmarks.astype(np.float32)}, None, {}, False)]

    found = run(fitter, Knowing(), 5)  # type: ignore[arg-type]
    assert len(seen) == 5 and len(found) == 3
    text = report(found)
    assert text.startswith("|  | faces | chi² of rotation |") and "| yaw " in text
    assert sum(int(line.split("|")[2]) for line in text.splitlines()[2:]) == 3
