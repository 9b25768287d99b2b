"""Who does not belong: on made identities, and on the detector's own answers for invented and real people."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from backend.face_model.registry import get_model
from backend.reconstruction.fusion import APART, doubt, fuse, fused
from backend.reconstruction.landmark_model import DATA
from backend.reconstruction.same_person import (
    PersonStatistics,
    answer_covariance,
    scores,
    shipped_statistics,
    statistics_path,
    strangers,
)

FRONTAL = np.array([0.0, 0.0, -1.0])
SHARED = Path(__file__).parents[3] / "shared" / "photos"


@pytest.fixture(scope="module")
def statistics() -> PersonStatistics:
    found = shipped_statistics(get_model("open-head"), "mediapipe478")
    assert found is not None
    return found


def photos_of(statistics: PersonStatistics, people: list[int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers, views and doubts of photos drawn from the model of the statistics; equal numbers are one person."""
    rng = np.random.default_rng(seed)
    rho = statistics.correlation.astype(float)
    own = {number: rng.normal(0.0, np.sqrt(rho)) for number in sorted(set(people))}
    y = np.array([own[number] + rng.normal(0.0, np.sqrt(1.0 - rho)) for number in people])
    answers = statistics.middles[0] + y @ np.linalg.pinv(statistics.directions.astype(float))
    return answers, np.tile(FRONTAL, (len(people), 1)), np.zeros(len(people))


def test_scores_are_the_ratio_of_the_two_densities(statistics):
    """Slow twin: joint and marginal normal densities, direction by direction, without the inverse's shortcut."""
    answers, views, doubts = photos_of(statistics, [0, 0, 0, 1], 1)
    doubts = np.array([0.0, 0.5, 0.0, 1.0])
    first = replace(statistics, middles=statistics.middles[:1])
    y = (answers - first.middles[0]) @ statistics.directions
    covariance = answer_covariance(statistics.correlation, views, 1.0 + doubts)
    for photo in range(4):
        rest = [other for other in range(4) if other != photo]
        expected = 0.0
        for d in range(y.shape[1]):
            c = covariance[d]
            gain = np.linalg.solve(c[np.ix_(rest, rest)], c[rest, photo])
            mean, variance = gain @ y[rest, d], c[photo, photo] - gain @ c[rest, photo]
            expected += normal(y[photo, d], mean, variance) - normal(y[photo, d], 0.0, c[photo, photo])
        np.testing.assert_allclose(scores(first, answers, views, doubts)[photo], expected, rtol=1e-8)


def normal(x: float, mean: float, variance: float) -> float:
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2.0 * np.pi * variance))


def test_a_stranger_among_five_is_found(statistics):
    found = [strangers(statistics, *photos_of(statistics, [0, 0, 1, 0, 0], seed)) for seed in range(40)]
    assert sum(2 in odd for odd in found) >= 38
    assert sum(odd.keys() <= {2} for odd in found) >= 36


def test_nobody_is_thrown_out_of_one_person(statistics):
    found = [strangers(statistics, *photos_of(statistics, [0] * 5, seed)) for seed in range(40)]
    assert sum(not odd for odd in found) >= 36


def test_two_who_disagree_keep_the_first(statistics):
    odd = strangers(statistics, *photos_of(statistics, [0, 1], 3))
    assert set(odd) <= {1}
    assert strangers(statistics, *photos_of(statistics, [0], 3)) == {}


def test_a_photo_that_says_nothing_stays(statistics):
    answers, views, doubts = photos_of(statistics, [0, 0, 0, 1], 5)
    doubts[3] = 1e4
    assert 3 not in strangers(statistics, answers, views, doubts)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the photos of ../shared are not here")
def test_a_woman_of_the_london_set_among_the_photos_of_another(statistics):
    from backend.reconstruction.joint import regressed
    from backend.reconstruction.observation import observe
    from backend.reconstruction.pipeline import Pipeline
    from backend.vision.decode import load_photo

    pipeline = Pipeline(texture_size=None)
    paths = [*sorted((SHARED / "lisa").glob("*.jpg")), sorted((SHARED / "london/neutral").glob("*.jpg"))[2]]
    photos = [load_photo(path) for path in paths]
    observations = [observe(photo, pipeline.detector.detect(photo)[0], "mediapipe478") for photo in photos]
    answers = regressed(pipeline.fitter, observations)
    assert answers is not None
    assert set(strangers(statistics, answers.identity, answers.views, answers.doubt)) == {4}


def test_the_statistics_belong_to_the_regression():
    """Whoever learns the regression anew measures these anew: `python -m trainer.measure_views`."""
    regressor = (DATA / "regressor_open-head_mediapipe478.safetensors").read_bytes()
    with safe_open(statistics_path("open-head", "mediapipe478"), "np") as file:
        assert file.metadata()["regressor"] == hashlib.sha256(regressor).hexdigest()


# -- fusion ------------------------------------------------------------------------------------------


def test_one_answer_is_itself_and_equal_ones_their_average():
    sigma = torch.tensor([0.7, 0.75, 0.9], dtype=torch.float64)
    one = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    view = torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64)
    mean, left = fuse(one, sigma, view)
    torch.testing.assert_close(mean, one[0])
    torch.testing.assert_close(left, sigma)


def test_more_answers_undo_the_shrinking_and_leave_less_open():
    sigma = torch.full((4,), 0.7, dtype=torch.float64)
    turn = torch.deg2rad(torch.tensor([0.0, 25.0, -25.0], dtype=torch.float64))
    views = torch.stack([torch.sin(turn), torch.zeros_like(turn), -torch.cos(turn)], dim=1)
    answers = torch.full((3, 4), 0.2, dtype=torch.float64)
    three, left = fuse(answers, sigma, views)
    assert (three > 0.2).all() and (three < 0.6).all()
    assert (left < sigma).all()
    assert APART < 1.0


def test_errors_get_smaller_and_go_together_as_they_did():
    mixed = torch.as_tensor(np.random.default_rng(3).normal(size=(4, 4)))
    mixed *= 0.7 / mixed.norm(dim=1, keepdim=True)
    covariance = mixed @ mixed.mT
    views = torch.tensor([[0.0, 0.0, -1.0], [0.6, 0.0, -0.8]], dtype=torch.float64)
    one = fused(torch.zeros(1, 4).double(), covariance, views[:1], torch.eye(4).double())
    two = fused(torch.zeros(2, 4).double(), covariance, views, torch.eye(4).double())
    torch.testing.assert_close(one.covariance, covariance)
    sigma = torch.diagonal(two.covariance).sqrt()
    torch.testing.assert_close(sigma, fuse(torch.zeros(2, 4).double(), torch.full((4,), 0.7).double(), views)[1])
    assert (sigma < 0.69).all()
    torch.testing.assert_close(two.covariance / sigma[:, None] / sigma, covariance / 0.7**2)


def test_fusing_is_the_least_squares_estimate():
    """Drawn from its own model, no weights do better than those of the fusion (the normal equations hold)."""
    rng = np.random.default_rng(0)
    sigma, prior = 0.6, 0.8
    share = 1.0 - (sigma / prior) ** 2
    turn = np.radians([0.0, 20.0, -25.0])
    views = np.stack([np.sin(turn), 0.0 * turn, -np.cos(turn)], axis=1)
    from backend.reconstruction.fusion import answer_correlation

    nothing = torch.zeros(3, dtype=torch.float64)
    correlation = answer_correlation(torch.tensor([share]).double(), torch.as_tensor(views), nothing)[0].numpy()
    # Errors correlate by r where answers correlate by k + (1 - k) r.
    errors = (correlation - share) / (1.0 - share)
    np.fill_diagonal(errors, 1.0)
    truth = rng.normal(0.0, prior, 200_000)
    noise = rng.multivariate_normal(np.zeros(3), errors * share * (1.0 - share) * prior**2, len(truth))
    answers = share * truth[:, None] + noise
    best = np.linalg.lstsq(answers, truth, rcond=None)[0]
    ones = torch.ones(1, dtype=torch.float64)
    weights = [
        fuse(torch.eye(3, dtype=torch.float64)[:, k : k + 1] * 0.1, ones * sigma, torch.as_tensor(views))[0].item() * 10
        for k in range(3)
    ]
    np.testing.assert_allclose(weights, best, atol=0.02)


def test_wild_and_turned_answers_are_doubted():
    sigma = torch.full((5,), 0.7, dtype=torch.float64)
    answers = torch.tensor([[0.2] * 5, [9.0] * 5, [0.2] * 5], dtype=torch.float64)
    views = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, -1.0], [0.9, 0.0, -(0.19**0.5)]], dtype=torch.float64)
    plain, wild, turned = doubt(answers, sigma, views).tolist()
    assert plain == 0.0 and wild > 50.0 and turned > 1.0
