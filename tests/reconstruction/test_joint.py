"""Photos of one person solved together, against people of known shape and against the dense solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.fit import POSE_ITERATIONS, Fitter
from backend.reconstruction.joint import JointProblem, fit_together
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel

SET = "mediapipe478"
SIZE = 1000


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def plain(model):
    """The fit alone, without the regression: exact projections need no knowledge of a detector."""
    return Fitter(LandmarkModel(model, SET, regress=False))


@pytest.fixture(scope="module")
def calibrated(model):
    return Fitter(LandmarkModel(model, SET))


def series(model, seed: int, views: list[tuple[float, float]], noise_px: float = 0.0):
    """A person's identity and one observation for each (yaw in degrees, distance in metres)."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(0.0, 0.6, len(model.identity))
    observations = []
    for yaw, distance in views:
        weights = np.zeros(len(model.expression))
        weights[rng.choice(len(weights), 3, replace=False)] = rng.uniform(0.1, 0.6, 3)
        rotation = rotation_from_head_euler(yaw, rng.uniform(-8, 8), rng.uniform(-10, 10))
        lens = intrinsics(1400.0 * distance, SIZE, SIZE)
        camera = Camera(lens, rotation, np.array([0.01, -0.01, distance]), SIZE, SIZE)
        vertices = model.vertices(identity, weights).astype(np.float64)
        landmarks = camera.project(model.landmark_points(vertices, SET))
        observations.append(Observation(landmarks + rng.normal(0.0, noise_px, landmarks.shape), SIZE, SIZE))
    return identity, observations


def face_error_mm(model, found: np.ndarray, true: np.ndarray) -> float:
    mask = model.regions["face"]
    a, b = model.vertices(found)[mask].astype(float), model.vertices(true)[mask].astype(float)
    return float(np.linalg.norm((a - a.mean(0)) - (b - b.mean(0)), axis=1).mean() * 1e3)


class DenseProblem(JointProblem):
    """The slow twin: all unknowns of all photos in one matrix."""

    def joint_step(self, state, e, damping):
        batch, own, identity = e.mixed.shape
        size = batch * own + identity
        hessian, gradient = torch.zeros(size, size, dtype=e.local.dtype), torch.zeros(size, dtype=e.local.dtype)
        down, up = torch.full((size,), -torch.inf), torch.full((size,), torch.inf)
        free = torch.ones(size, dtype=torch.bool)
        low, high = self.local_bounds(state)
        end = batch * own
        for b in range(batch):
            span = slice(b * own, (b + 1) * own)
            hessian[span, span], hessian[span, end:], hessian[end:, span] = e.local[b], e.mixed[b], e.mixed[b].T
            gradient[span], free[span], down[span], up[span] = e.local_gradient[b], e.free[b], low[b], high[b]
        hessian[end:, end:], gradient[end:] = e.shared, e.shared_gradient
        hessian += damping * torch.diag(torch.diagonal(hessian))
        step = torch.zeros(size, dtype=hessian.dtype)
        for _ in range(6):
            fixed = step * ~free
            pull = gradient + hessian @ fixed
            step = fixed.clone()
            step[free] = -torch.linalg.solve(hessian[free][:, free], pull[free])
            outside = free & ((step < down) | (step > up))
            if not bool(outside.any()):
                break
            bounded = torch.minimum(torch.maximum(step, down), up)
            last, step = step, torch.where(outside, bounded, step)
            free = free & ~outside
        else:
            step = last
        return step[:end].reshape(batch, own), step[end:]


def test_blocks_step_as_the_dense_solve_does(model, plain):
    _, observations = series(model, 1, [(-20, 0.6), (0, 0.9), (30, 0.4)], noise_px=1.0)
    problem, dense = JointProblem(plain, observations), DenseProblem(plain, observations)
    state = problem.descend(problem.start(), POSE_ITERATIONS, pose_only=True)[0]
    dense.start()
    for damping in (1e-3, 1.0):
        for fast, slow in zip(
            problem.joint_step(state, problem.equations(state), damping),
            dense.joint_step(state, dense.equations(state), damping),
        ):
            torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-8)
    together, apart = problem.solve_together(), dense.solve_together()
    np.testing.assert_allclose(together.identity, apart.identity, atol=1e-4)
    for fast, slow in zip(together.photos, apart.photos):
        np.testing.assert_allclose(fast.expression, slow.expression, atol=1e-4)
        np.testing.assert_allclose(fast.focal_px, slow.focal_px, rtol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "calibrated"])
def test_one_photo_together_is_one_photo_alone(model, kind, request):
    fitter = request.getfixturevalue(kind)
    _, observations = series(model, 2, [(15, 0.7)], noise_px=2.0)
    alone, together = fitter.fit(observations)[0], fit_together(fitter, observations)
    assert np.abs(together.identity - alone.identity).max() < 2e-2
    np.testing.assert_allclose(together.photos[0].projected, alone.projected, atol=0.3)
    np.testing.assert_allclose(together.photos[0].focal_px, alone.focal_px, rtol=1e-2)
    np.testing.assert_allclose(together.sigma_identity, alone.sigma_identity, atol=2e-2)


def test_more_views_say_more(model, plain):
    views = [(0, 0.6), (35, 0.9), (-35, 0.5), (15, 0.3), (-15, 1.2), (50, 0.8), (-50, 0.8), (5, 0.25), (25, 2.0)]
    errors = []
    for count in (1, 3, 9):
        found = []
        for seed in range(3, 7):
            identity, observations = series(model, seed, views[:count], noise_px=3.0)
            found.append(face_error_mm(model, fit_together(plain, observations).identity, identity))
        errors.append(np.mean(found))
    assert errors[2] < errors[1] < errors[0]


def test_a_selfie_and_a_portrait_have_one_nose(model, plain):
    """Perspective that one photo cannot tell from shape is told by the other photo of the same shape."""
    identity, observations = series(model, 8, [(20, 0.25), (0, 1.5), (-25, 0.6)], noise_px=0.5)
    fit = fit_together(plain, observations)
    near, far, _ = (photo.t[2] for photo in fit.photos)
    assert near < 0.35 and far > 1.0
    assert all((photo.identity == fit.identity).all() for photo in fit.photos)
    assert face_error_mm(model, fit.identity, identity) < 1.0


def test_cost_grows_linearly_with_the_photos(model, plain, monkeypatch):
    """Counted, not timed: the one system whose size is that of all photos together does not exist."""
    _, observations = series(model, 9, [(yaw, 0.7) for yaw in np.linspace(-40, 40, 12)], noise_px=1.0)
    largest = []
    factor = torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda a: (largest.append(a.shape[-1]), factor(a))[1])
    fit = fit_together(plain, observations)
    assert len(fit.photos) == 12
    assert max(largest) <= 7 + len(model.identity) + len(model.expression)
