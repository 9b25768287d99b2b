"""The compiled descent against its slow twin, the same in PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction import fit_kernel
from backend.reconstruction.fit import DAMPING_START, MAX_ITERATIONS, Fitter, Problem, kernel_limits
from backend.reconstruction.landmark_cost import POSE, Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.turning import exponential

SIZE = 900


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module", params=["mediapipe478", "ibug68"])
def fitter(model, request):
    return Fitter(LandmarkModel(model, request.param))


def seen(model, landmark_set: str, seed: int) -> Observation:
    """A person with a face that moves, turned anyhow, read with noise and one wild point, some of it not trusted."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(0.0, 0.8, len(model.identity))
    expression = np.clip(rng.normal(-0.2, 0.4, len(model.expression_names)), 0.0, 1.0)
    rotation = rotation_from_head_euler(rng.uniform(-75, 75), rng.uniform(-20, 20), rng.uniform(-30, 30))
    place = np.array([*rng.uniform(-0.1, 0.1, 2), rng.uniform(0.3, 1.5)])
    camera = Camera(intrinsics(1000.0, SIZE, SIZE), rotation, place, SIZE, SIZE)
    vertices = model.vertices(identity, expression).astype(np.float64)
    landmarks = camera.project(model.landmark_points(vertices, landmark_set))
    landmarks += rng.normal(0.0, 1.0, landmarks.shape)
    landmarks[seed] += 80.0
    trust = np.where(rng.random(len(landmarks)) < 0.1, 0.1, 1.0)
    return Observation(landmarks, SIZE, SIZE, 1000.0 if seed % 2 else None, trust)


def moved_problem(model, fitter, seed: int):
    """A problem, and a state of it that is neither a start nor an end, with expressions at both bounds."""
    observation = seen(model, fitter.lm.name, seed)
    if seed % 2:
        observation = replace(observation, as_detected=observation.landmarks, moved=1.0)
    problem = Problem(fitter, [observation])
    state = problem.start()
    problem.expected = torch.full_like(problem.expected, 0.1)
    rng = np.random.default_rng(seed)
    away = rng.normal(0.0, 0.3, state.coefficients.shape)
    state.coefficients = torch.as_tensor(away).clamp(fitter.lower, fitter.upper)
    state.coefficients[:, -3:] = 1.0
    state.rotation = exponential(torch.as_tensor(rng.normal(0.0, 0.2, (1, 3)))) @ state.rotation
    return problem, state


def kernel_view(problem, state):
    """The same problem and state as the kernel takes them."""
    b = 0
    parts = [problem.detected, problem.trust, problem.middle, problem.focal_prior, problem.normals]
    arrays = [part[b].numpy() for part in parts]
    photo = fit_kernel.Seen(*arrays, float(problem.unit[b]), problem.expected[b].numpy())
    return photo, state.rotation[b].numpy(), state.pose[b].numpy(), state.coefficients[b].numpy()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("put_right", [False, True])
def test_a_solve_ends_where_its_twin_ends(model, fitter, seed, put_right):
    observation = seen(model, fitter.lm.name, seed)
    if put_right:
        observation = replace(observation, as_detected=observation.landmarks + np.array([3.0, 0.0]), moved=0.7)
    fast, slow = (f.fit([observation])[0] for f in (fitter, Fitter(fitter.lm, compiled=False)))
    assert (fast.iterations, fast.converged) == (slow.iterations, slow.converged)
    for name in ("identity", "expression", "R", "t", "projected", "sigma_identity"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=1e-6, rtol=1e-6, err_msg=name)
    assert fast.cost == pytest.approx(slow.cost, rel=1e-9)


def test_photos_side_by_side_end_where_each_ends_alone(model, fitter):
    observations = [seen(model, fitter.lm.name, seed) for seed in range(5)]
    for observation, together in zip(observations, fitter.fit(observations)):
        (alone,) = fitter.fit([observation])
        np.testing.assert_allclose(together.identity, alone.identity, atol=1e-6)
        assert together.iterations == alone.iterations


def test_the_pose_alone_ends_where_its_twin_ends(model, fitter):
    observations = [seen(model, fitter.lm.name, seed) for seed in range(3)]
    slow = Fitter(fitter.lm, compiled=False).pose(observations)
    for a, b in zip(fitter.pose(observations), slow):
        np.testing.assert_allclose(a.R, b.R, atol=1e-9)
        np.testing.assert_allclose(a.t, b.t, atol=1e-9)
        assert not a.identity.any()


@pytest.mark.parametrize("pose_only", [False, True])
def test_gradient_and_hessian_are_those_of_the_twin(model, fitter, pose_only):
    problem, state = moved_problem(model, fitter, 1)
    photo, rotation, pose, coefficients = kernel_view(problem, state)
    gradient, hessian, _ = problem.normal_equations(state, problem.residual(state), pose_only)
    shape = fit_kernel._shape(fitter.compiled, coefficients)
    now = fit_kernel._residual(fitter.compiled, photo, rotation, pose, *shape)
    width = POSE if pose_only else len(fitter.rate)
    found = fit_kernel._equations(fitter.compiled, photo, rotation, pose, coefficients, now, width)
    np.testing.assert_allclose(found[0], gradient[0], rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))
    lower = np.tril(np.ones((width, width), bool))
    scale = float(hessian.abs().max())
    np.testing.assert_allclose(found[1][lower], hessian[0].numpy()[lower], rtol=1e-9, atol=1e-12 * scale)


def test_a_step_keeps_the_bounds_as_its_twin_does(model, fitter):
    problem, state = moved_problem(model, fitter, 2)
    equations = problem.normal_equations(state, problem.residual(state))
    slow = problem.step(state, *equations, torch.tensor([DAMPING_START], dtype=torch.float64), False)[0].numpy()
    gradient, hessian = equations[0][0].numpy(), equations[1][0].numpy()
    coefficients, limits = state.coefficients[0].numpy(), kernel_limits(MAX_ITERATIONS)
    fast = fit_kernel._step(
        fitter.compiled, coefficients, gradient, np.tril(hessian), limits.start, len(gradient), limits.rounds
    )
    held = (slow[POSE:] + coefficients == fitter.upper.numpy()) | (slow[POSE:] + coefficients == fitter.lower.numpy())
    assert held.any(), "the bounds must have been met for this to say anything"
    np.testing.assert_allclose(fast, slow, atol=1e-9)


def test_the_priors_cost_is_that_of_the_twin(model, fitter):
    problem, state = moved_problem(model, fitter, 3)
    photo, _, pose, coefficients = kernel_view(problem, state)
    found = fit_kernel._prior_cost(fitter.compiled, photo, pose, coefficients)
    assert found == pytest.approx(float(problem.prior_cost(state)[0]), rel=1e-12)


def test_single_precision_goes_down_in_pytorch(model):
    assert Fitter(LandmarkModel(model, "ibug68", dtype=torch.float32)).compiled is None
