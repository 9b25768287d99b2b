"""What the skin shows: the arithmetic against slow twins, and painted people who are told apart by it."""

from __future__ import annotations

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import FRONTAL
from backend.reconstruction.appearance import (
    BANDS_MM,
    LARGEST_SCORE,
    LARGEST_SIGMAS,
    Appearance,
    AppearanceStatistics,
    Likeness,
    appearance_of,
    correlation,
    correlations,
    points_of,
    shipped_appearance,
)
from backend.reconstruction.same_person import shipped_statistics, strangers
from trainer.data.painter import Painter
from trainer.data.several_views import draw_series

VIEW = np.array([0.0, 0.0, -1.0])


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def statistics(model) -> AppearanceStatistics:
    found = shipped_appearance(model)
    assert found is not None
    return found


def made(rng: np.random.Generator, own: np.ndarray, statistics: AppearanceStatistics) -> Appearance:
    """A photo of somebody: half his own pattern, half the photo's, in the units of the first middle."""
    pattern = np.sqrt(0.5) * (own + rng.normal(size=own.shape))
    shown = statistics.middles[0] + statistics.spreads[0] * pattern
    return Appearance(shown.astype(np.float32), np.ones(own.shape[1], np.float32))


def test_a_correlation_is_that_of_points_counted_as_often_as_they_weigh():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2, 30))
    b += a
    weight = rng.integers(1, 5, 30)
    often = [np.corrcoef(np.repeat(x, weight), np.repeat(y, weight))[0, 1] for x, y in zip(a, b)]
    assert correlation(a, b, weight.astype(float)) == pytest.approx(np.mean(often), rel=1e-9)


def test_all_pairs_at_once_are_the_pairs_one_by_one(model, statistics):
    rng = np.random.default_rng(4)
    count = len(points_of(model))
    own = rng.normal(size=(len(BANDS_MM), count))
    shown = [
        Appearance(made(rng, own, statistics).pattern, rng.uniform(0.0, 1.0, count).astype(np.float32))
        for _ in range(4)
    ]
    table = correlations(statistics, [*shown, None])
    assert np.isnan(table[:, 4]).all() and np.isnan(np.einsum("mbb->mb", table)).all()
    for middle, (mean, spread) in enumerate(zip(statistics.middles, statistics.spreads)):
        white = [np.clip((one.pattern - mean) / spread, -LARGEST_SIGMAS, LARGEST_SIGMAS) for one in shown]
        for a in range(4):
            for b in range(a):
                weight = (shown[a].weight * shown[b].weight).astype(float)
                expected = correlation(white[a], white[b], weight)
                assert table[middle, a, b] == pytest.approx(expected, rel=1e-6)
                assert table[middle, b, a] == pytest.approx(expected, rel=1e-6)


def test_photos_that_share_too_little_say_nothing(model, statistics):
    rng = np.random.default_rng(1)
    count = len(points_of(model))
    own = rng.normal(size=(len(BANDS_MM), count))
    one, two = made(rng, own, statistics), made(rng, own, statistics)
    left, right = np.zeros(count, np.float32), np.zeros(count, np.float32)
    left[: count // 2], right[count // 2 :] = 1.0, 1.0
    apart = [Appearance(one.pattern, left), Appearance(two.pattern, right), None]
    assert np.isnan(correlations(statistics, apart)).all()
    likeness = Likeness.of(statistics, apart, np.tile(VIEW, (3, 1)))
    np.testing.assert_array_equal(likeness.scores([0, 1, 2]), np.zeros(3))


def test_scores_are_the_ratio_of_two_densities_of_the_mean(statistics):
    rng = np.random.default_rng(2)
    found, angles = rng.uniform(-0.2, 0.6, (4, 4)), rng.uniform(0.0, 60.0, (4, 4))
    found, angles = (found + found.T) / 2.0, (angles + angles.T) / 2.0
    np.fill_diagonal(found, np.nan)
    far, near = statistics.alike.astype(float)
    wanted = far + near * np.exp(-((angles / 35.0) ** 2))
    likeness = Likeness(statistics, np.stack([found, found + 0.1]), wanted)
    for photo in range(4):
        others = [other for other in range(4) if other != photo]
        expected = []
        for middle, unlike in zip((found, found + 0.1), statistics.unlike.astype(float)):
            middle = 1.0 - (1.0 - middle) / (1.0 - unlike)
            logs = []
            for which, mean in ((0, wanted[photo, others].mean()), (1, 0.0)):
                deviation, share = float(statistics.deviations[which]), float(statistics.shares[which])
                # The covariance of three correlations that share a part, and of their mean.
                covariance = deviation**2 * (share * np.ones((3, 3)) + (1.0 - share) * np.eye(3))
                variance = np.full(3, 1 / 3) @ covariance @ np.full(3, 1 / 3)
                apart = middle[photo, others].mean() - mean
                logs.append(-0.5 * (apart**2 / variance + np.log(variance)))
            expected.append(np.clip(logs[0] - logs[1], -LARGEST_SCORE, LARGEST_SCORE))
        assert likeness.scores([0, 1, 2, 3])[photo] == pytest.approx(min(expected), rel=1e-6)


def test_a_stranger_with_the_same_shape_is_found_by_his_skin(model, statistics):
    """Answers of the regression that are all alike, and skins that are not."""
    shapes = shipped_statistics(model, "mediapipe478")
    assert shapes is not None
    rng = np.random.default_rng(3)
    own, his = rng.normal(size=(2, len(BANDS_MM), len(points_of(model))))
    shown = [made(rng, pattern, statistics) for pattern in (own, own, his, own, own)]
    views, answers = np.tile(VIEW, (5, 1)), np.tile(shapes.middles[0], (5, 1)).astype(float)
    # Answers that say nothing: heads turned far away.
    doubt = np.full(5, 1e4)
    assert not strangers(shapes, answers, views, doubt)
    assert set(strangers(shapes, answers, views, doubt, Likeness.of(statistics, shown, views))) == {2}


def test_painted_people_are_told_apart(model, statistics):
    """Two photos each of six people, other expression, camera and light; the head is known, the photo is not."""
    painter, shown = Painter(model), []
    for seed in range(20, 26):
        for moment, person in enumerate(draw_series(model, seed, 2, 400)):
            picture = painter.paint(person, seed, moment)
            shown.append(appearance_of(model, picture, person.camera, person.vertices))
    table = correlations(statistics, shown)[1]
    own = [table[2 * k, 2 * k + 1] for k in range(6)]
    others = [table[a, b] for a in range(12) for b in range(a) if a // 2 != b // 2]
    assert np.nanmean(own) > np.nanmean(others) + 2.0 * np.nanstd(others) / np.sqrt(6)
    better = np.mean([mine > other for mine in own for other in others if not np.isnan(mine + other)])
    assert better > 0.8


def test_a_tiny_face_shows_nothing(model):
    camera = Camera(intrinsics(60.0, 80, 80), FRONTAL, np.array([0.0, 0.0, 0.5]), 80, 80)
    assert appearance_of(model, np.zeros((80, 80, 3), np.uint8), camera, model.mean) is None


def test_light_from_elsewhere_changes_little(model):
    """The same picture, brighter to one side by a factor of four: what is between the blurs stays."""
    person = draw_series(model, 30, 1, 400)[0]
    picture = Painter(model).paint(person, 30, 0)
    ramp = np.linspace(1.0, 0.53, picture.shape[1])[None, :, None]  # sRGB of a quarter of the light
    darker = (picture * ramp).astype(np.uint8)
    one, two = (appearance_of(model, each, person.camera, person.vertices) for each in (picture, darker))
    assert one is not None and two is not None
    assert correlation(one.pattern, two.pattern, one.weight) > 0.9
