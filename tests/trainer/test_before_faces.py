"""What is drawn before faces: it lies where such things lie, and hides the face there."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.reconstruction.landmark_model import LandmarkModel
from backend.vision.landmark_sets import LEFT_EYE, RIGHT_EYE
from trainer.data.before_faces import DRAWN, Face, cloth, cover, filled
from trainer.see_faces import LANDMARK_SET, true_landmarks, turned_by

NOSE, LIPS, FOREHEAD, CHIN = 4, 13, 10, 152
PICTURES = 6


@pytest.fixture(scope="module")
def landmarks():
    """Of one person who looks to several sides."""
    model = get_model("open-head")
    lm, rng = LandmarkModel(model, LANDMARK_SET, regress=False), np.random.default_rng(1)
    return [true_landmarks(lm, turned_by(model, 3, yaw, rng)) for yaw in np.linspace(-50.0, 50.0, PICTURES)]


def hidden(kind, landmarks, seed=0):
    """(L,) whether each landmark lies under what was drawn over a grey picture."""
    grey = np.full((320, 320, 3), 128, np.uint8)
    drawn = DRAWN[kind][0](grey, Face(landmarks), np.random.default_rng(seed))
    assert drawn.shape == grey.shape and drawn.dtype == np.uint8 and (grey == 128).all()
    x, y = landmarks.round().astype(int).clip(0, 319).T
    # Cloth is at times of nearly the same grey, in one place.
    return np.abs(drawn[y, x].astype(int) - 128).max(axis=1) > 1


@pytest.mark.parametrize(
    ("kind", "under", "free"),
    [
        ("mask", [NOSE, LIPS], [*RIGHT_EYE, *LEFT_EYE, FOREHEAD]),
        ("scarf", [CHIN], [*RIGHT_EYE, *LEFT_EYE, FOREHEAD]),
        ("hat", [FOREHEAD], [*RIGHT_EYE, *LEFT_EYE, LIPS, CHIN]),
        ("dark glasses", [*RIGHT_EYE, *LEFT_EYE], [LIPS, CHIN, FOREHEAD]),
    ],
)
def test_what_is_worn_lies_where_it_is_worn(landmarks, kind, under, free):
    found = np.stack([hidden(kind, points, seed) for points in landmarks for seed in range(3)])
    # A hat at times ends above the mesh.
    assert found[:, under].mean() > (0.6 if kind == "hat" else 0.9)
    assert found[:, free].mean() < 0.1


@pytest.mark.parametrize("kind", ["thing", "hand", "locks"])
def test_what_may_be_anywhere_hides_some_of_most_faces_and_all_of_none(landmarks, kind):
    parts = np.array([hidden(kind, points, seed).mean() for points in landmarks for seed in range(3)])
    assert (parts > 0.015).mean() > 0.6
    assert parts.max() < 0.9


def test_all_kinds_are_drawn_and_a_seed_draws_the_same(landmarks):
    assert sum(often for _, often in DRAWN.values()) == pytest.approx(1.0)
    grey = np.full((320, 320, 3), 128, np.uint8)
    one, again, other = (cover(grey, landmarks[2], np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (one == again).all() and (one != other).any() and (one != grey).any()


def test_polygons_cover_their_pixels_and_no_others():
    square = np.array([[10.0, 10.0], [20.0, 10.0], [20.0, 20.0], [10.0, 20.0]])
    alpha = filled([square], np.zeros((30, 40, 3)))
    assert alpha.shape == (30, 40) and (alpha[11:19, 11:19] == 1.0).all()
    assert alpha[:9].max() == alpha[:, :9].max() == alpha[22:].max() == alpha[:, 22:].max() == 0.0
    assert alpha.sum() == pytest.approx(100.0, rel=0.1)


def test_cloth_has_folds_and_stays_a_colour():
    colours = cloth(np.zeros((64, 48, 3)), np.random.default_rng(0))
    assert colours.shape == (64, 48, 3) and colours.min() >= 0.0 and colours.max() <= 255.0
    assert colours.mean(axis=2).std() > 2.0
