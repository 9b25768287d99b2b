"""The places of a person's landmarks, on people whose landmarks lie elsewhere by a known amount."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.fit import Fitter
from backend.reconstruction.joint import JointProblem, fit_to_identity, fit_together, predicted
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.landmark_places import SHARED_VARIANCE, places
from backend.vision.landmark_sets import IRISES
from trainer.measure_places import split

SET, SIZE = "mediapipe478", 1000
SPREAD_M = 1.5e-3
YAWS = (-35, -10, 15, 40)


@pytest.fixture(scope="module")
def fitter():
    return Fitter(LandmarkModel(get_model("open-head"), SET))


@pytest.fixture(scope="module")
def person(fitter):
    """Places (L, 3), rotations and observations of one person, of whom the model knows everything else."""
    model, rng = fitter.lm.model, np.random.default_rng(5)
    identity = rng.normal(0.0, 0.5, len(model.identity))
    elsewhere = rng.normal(0.0, SPREAD_M, (fitter.lm.count, 3))
    elsewhere[list(IRISES)] = 0.0
    rotations, observations = [], []
    for yaw in YAWS:
        weights = np.zeros(len(model.expression))
        weights[rng.choice(len(weights), 3, replace=False)] = rng.uniform(0.1, 0.6, 3)
        rotation = rotation_from_head_euler(yaw, rng.uniform(-8, 8), rng.uniform(-10, 10))
        camera = Camera(intrinsics(1400.0, SIZE, SIZE), rotation, np.array([0.01, -0.01, 0.7]), SIZE, SIZE)
        points = model.landmark_points(model.vertices(identity, weights).astype(np.float64), SET) + elsewhere
        rotations.append(rotation)
        observations.append(Observation(camera.project(points), SIZE, SIZE))
    return identity, elsewhere, rotations, observations


def turned_apart(photos, rotations) -> np.ndarray:
    """Degrees between rotations found and true."""
    return np.array(
        [np.degrees(np.arccos((np.trace(p.R @ r.T) - 1.0) / 2.0)) for p, r in zip(photos, rotations, strict=True)]
    )


def test_they_are_where_the_gradient_is_zero(fitter, person):
    """The slow twin: PyTorch's own gradient of the cost that the module's page writes down."""
    problem = JointProblem(fitter, person[3])
    state = problem.descend_from(problem.believe())[0]
    residual = problem.residual(state)
    # White residuals are taken as linear in the places, as a Gauss-Newton step does.
    jacobian = problem.by_point(state, residual)[2]
    size = (problem.unit / state.pose[:, 2].exp())[:, None, None, None]
    found = places(problem, state).requires_grad_()
    white = residual.white + ((size * jacobian) @ found[..., None])[..., 0]
    firmness = fitter.lm.whitening.square().sum(dim=(1, 2)) / 2.0
    cost = (residual.weight * white.square().sum(dim=2)).sum() / 2.0
    cost = cost + (firmness * found.square().sum(dim=1)).sum() / (2.0 * SHARED_VARIANCE)
    (slope,) = torch.autograd.grad(cost, found)
    free = [index for index in range(len(found)) if index not in IRISES]
    assert slope[free].abs().max() < 1e-6 * firmness.max()
    assert (found[list(IRISES)] == 0).all()


def test_the_photos_tell_where_they_are(fitter, person):
    identity, elsewhere, rotations, observations = person
    held = fit_to_identity(fitter, observations, identity)
    known = fit_to_identity(fitter, observations, identity, elsewhere)
    # Not to nothing: expressions that are rather none than several hold back a part.
    assert turned_apart(known, rotations).mean() < turned_apart(held, rotations).mean()
    assert sum(photo.cost for photo in known) < 0.5 * sum(photo.cost for photo in held)
    fit = fit_together(fitter, observations)
    assert fit.places is not None
    inner = np.setdiff1d(np.arange(fitter.lm.count), [*IRISES, *fitter.lm.contour.numpy()])
    alike = np.corrcoef(fit.places[inner].ravel(), elsewhere[inner].ravel())[0, 1]
    assert alike > 0.7


def test_a_photo_is_predicted_with_them(fitter, person):
    """The head of three photos knows where the fourth will have its landmarks, better than one without places."""
    observations = person[3]
    head = fit_together(fitter, observations[:3])
    apart = [
        np.linalg.norm(predicted(fitter, observations[3], known) - observations[3].landmarks, axis=1).mean()
        for known in (head, replace(head, places=None))
    ]
    assert apart[0] < 0.7 * apart[1]


def test_they_leave_the_identity_and_the_projections_of_the_model(fitter, person):
    observations = person[3]
    problem = JointProblem(fitter, observations)
    without = problem.joint_result(*problem.descend_from(problem.believe()))
    fit = fit_together(fitter, observations)
    np.testing.assert_allclose(fit.identity, without.identity, atol=1e-3)
    for photo in fit.photos:
        camera = Camera(intrinsics(photo.focal_px, SIZE, SIZE), photo.R, photo.t, SIZE, SIZE)
        points = fitter.lm.model.landmark_points(
            fitter.lm.model.vertices(photo.identity, photo.expression).astype(float), SET
        )
        still = np.setdiff1d(np.arange(fitter.lm.count), fitter.lm.contour.numpy())
        np.testing.assert_allclose(photo.projected[still], camera.project(points)[still], atol=0.02)


def test_a_smaller_head_has_its_landmarks_moved_no_cheaper(fitter, person):
    problem = JointProblem(fitter, person[3])
    state = problem.descend_from(problem.believe())[0]
    problem.places = places(problem, state)
    nearer = replace(state, pose=state.pose - torch.tensor([0.0, 0.0, 0.1, 0.0], dtype=state.pose.dtype))
    placed = [problem.placed(each) * each.pose[:, 2].exp()[:, None, None] for each in (state, nearer)]
    torch.testing.assert_close(*placed)


def test_errors_fall_into_shared_and_own():
    rng = np.random.default_rng(1)
    rows = rng.normal(0.0, 2.0, (1, 400, 2)) + rng.normal(0.0, 1.0, (6, 400, 2))
    shared, own = split(rows)
    assert shared.mean() == pytest.approx(4.0, rel=0.15) and own.mean() == pytest.approx(1.0, rel=0.1)
