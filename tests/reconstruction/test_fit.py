"""The landmark fit against people of known shape, pose and camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.fit import Fitter, Problem
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


def person(model, seed: int, yaw: float = 0.0, distance: float = 0.8, focal: float = 1250.0, **expression: float):
    """Truth and exact landmarks of one invented person; contour points stand at their frontal place."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(0.0, 0.6, len(model.identity))
    weights = np.array([expression.get(name, 0.0) for name in model.expression_names])
    rotation = rotation_from_head_euler(yaw, rng.uniform(-8, 8), rng.uniform(-10, 10))
    camera = Camera(intrinsics(focal, SIZE, SIZE), rotation, np.array([0.01, -0.01, distance]), SIZE, SIZE)
    vertices = model.vertices(identity, weights).astype(np.float64)
    return identity, weights, camera, camera.project(model.landmark_points(vertices, SET))


def angle_degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1.0) / 2.0, -1.0, 1.0))))


@pytest.mark.parametrize("yaw", [-25.0, 0.0, 20.0])
def test_exact_landmarks_give_back_pose_and_shape(model, plain, yaw):
    identity, _, camera, landmarks = person(model, 1, yaw)
    result = plain.fit([Observation(landmarks, SIZE, SIZE, camera.focal_px)])[0]
    assert result.converged
    assert angle_degrees(result.R, camera.R) < 1.5
    assert abs(np.log(result.t[2] / camera.t[2])) < 0.1
    mask = model.regions["face"]
    true, found = model.vertices(identity)[mask], model.vertices(result.identity)[mask]
    error_mm = np.linalg.norm((found - found.mean(0)) - (true - true.mean(0)), axis=1).mean() * 1e3
    floor_mm = (
        np.linalg.norm((model.mean[mask] - model.mean[mask].mean(0)) - (true - true.mean(0)), axis=1).mean() * 1e3
    )
    assert error_mm < 0.6 * floor_mm


def test_expression_is_found_by_name_and_stays_in_bounds(model, plain):
    _, _, camera, landmarks = person(model, 2, jawOpen=0.6, mouthSmileLeft=0.5, mouthSmileRight=0.5, eyeBlinkLeft=0.9)
    result = plain.fit([Observation(landmarks, SIZE, SIZE, camera.focal_px)])[0]
    found = dict(zip(model.expression_names, result.expression))
    assert result.expression.min() >= 0.0 and result.expression.max() <= 1.0
    assert abs(found["jawOpen"] - 0.6) < 0.15
    assert found["eyeBlinkLeft"] > 0.6 and found["eyeBlinkRight"] < 0.3
    assert found["mouthSmileLeft"] > 0.2 and found["mouthSmileRight"] > 0.2


def test_gaze_is_read_from_the_irises(model, plain):
    _, _, camera, landmarks = person(model, 3, eyeLookInLeft=0.7, eyeLookOutRight=0.7)
    result = plain.fit([Observation(landmarks, SIZE, SIZE, camera.focal_px)])[0]
    found = dict(zip(model.expression_names, result.expression))
    assert found["eyeLookInLeft"] > 0.35 and found["eyeLookOutRight"] > 0.35
    assert found["eyeLookOutLeft"] < 0.15 and found["eyeLookInRight"] < 0.15


def test_a_quarter_of_wild_points_does_not_move_the_face(model, plain):
    _, _, camera, landmarks = person(model, 4)
    clean = plain.fit([Observation(landmarks, SIZE, SIZE, camera.focal_px)])[0]
    rng = np.random.default_rng(0)
    wild = landmarks.copy()
    hit = rng.choice(len(wild), len(wild) // 4, replace=False)
    wild[hit] += rng.normal(0.0, 60.0, (len(hit), 2))
    result = plain.fit([Observation(wild, SIZE, SIZE, camera.focal_px)])[0]
    assert angle_degrees(result.R, clean.R) < 2.0
    face_height = np.ptp(landmarks[:, 1])
    moved = np.median(np.linalg.norm(result.projected - clean.projected, axis=1))
    assert moved < 0.01 * face_height


def test_focal_length_from_exif_is_kept(model, plain):
    _, _, _, landmarks = person(model, 5, focal=1800.0, distance=1.2)
    told = plain.fit([Observation(landmarks, SIZE, SIZE, 1800.0)])[0]
    assert abs(np.log(told.focal_px / 1800.0)) < 0.1


def test_nearer_cameras_are_solved_nearer_without_exif(model, plain):
    distances = [0.25, 0.5, 1.0, 2.0]
    observations = [Observation(person(model, 6, distance=d, focal=1250.0 * d / 0.8)[3], SIZE, SIZE) for d in distances]
    solved = [result.t[2] for result in plain.fit(observations)]
    assert solved == sorted(solved)
    assert solved[-1] / solved[0] > 2.0


def test_a_batch_gives_what_single_fits_give(model, calibrated):
    observations = [Observation(person(model, seed, yaw=10.0 * seed - 20.0)[3], SIZE, SIZE) for seed in range(4)]
    together = calibrated.fit(observations)
    for observation, batched in zip(observations, together):
        alone = calibrated.fit([observation])[0]
        np.testing.assert_allclose(alone.identity, batched.identity, atol=0.02)
        np.testing.assert_allclose(alone.expression, batched.expression, atol=0.02)


def test_jacobian_agrees_with_finite_differences(model, calibrated):
    observations = [
        Observation(person(model, 7, 20.0)[3], SIZE, SIZE),
        Observation(person(model, 8, -35.0)[3], SIZE, SIZE),
    ]
    problem = Problem(calibrated, observations)
    state = problem.start()
    generator = torch.Generator().manual_seed(0)
    state.coefficients = torch.rand(state.coefficients.shape, generator=generator, dtype=torch.float64) * 0.3
    jacobian = problem.jacobian(state, problem.residual(state))
    free = torch.full_like(calibrated.lower, 1e9)
    step_size = 1e-6
    for unknown in [*range(9), jacobian.shape[2] // 2, jacobian.shape[2] - 1]:
        step = torch.zeros(2, jacobian.shape[2], dtype=torch.float64)
        step[:, unknown] = step_size
        after = problem.residual(state.moved(step, -free, free)).white
        before = problem.residual(state.moved(-step, -free, free)).white
        numeric = ((after - before) / (2 * step_size)).flatten(1)
        scale = float(jacobian[..., unknown].abs().max())
        torch.testing.assert_close(jacobian[..., unknown], numeric, atol=1e-6 * max(scale, 1.0), rtol=1e-5)


def test_contour_points_slide_to_the_silhouette_of_a_turned_head(model, plain):
    """At 45 degrees the far oval points leave their frontal place, the near ones keep it."""
    _, _, camera, landmarks = person(model, 9, yaw=45.0)
    problem = Problem(plain, [Observation(landmarks, SIZE, SIZE, camera.focal_px)])
    state = problem.start()
    state, _, _ = problem.descend(state, 10, pose_only=True)
    _, chosen = problem.points(state)
    contour = model.landmark_points(model.mean, SET)[np.array(CONTOURS[SET])]
    # yaw +45: the nose points to the image's right, so the far side is the subject's left, x > 0
    cheek = np.abs(contour[:, 1] - contour[:, 1].mean()) < 0.04
    far, near = cheek & (contour[:, 0] > 0.03), cheek & (contour[:, 0] < -0.03)
    assert chosen[0].numpy()[far].mean() > 1.5
    assert chosen[0].numpy()[near].mean() < 0.5


def test_uncertainty_is_larger_where_the_photo_says_less(model, plain, calibrated):
    """Fewer landmarks, less known; never more than the prior allows; the regression's own error counts in."""
    landmarks = person(model, 10)[3]
    trust = np.ones(len(landmarks))
    trust[::2] = 0.0
    full = plain.fit([Observation(landmarks, SIZE, SIZE)])[0].sigma_identity
    half = plain.fit([Observation(landmarks, SIZE, SIZE, trust=trust)])[0].sigma_identity
    assert (full <= 1.0 + 1e-6).all() and (full > 0.0).all()
    assert half.mean() > 1.02 * full.mean()
    regressed = calibrated.fit([Observation(landmarks, SIZE, SIZE)])[0].sigma_identity
    assert (regressed <= 1.0).all()
    assert (regressed >= calibrated.lm.regress.sigma.numpy().clip(max=1.0) - 1e-6).all()


def test_pose_alone_leaves_identity_and_expression_at_rest(model, plain):
    _, _, camera, landmarks = person(model, 11, yaw=15.0)
    result = plain.pose([Observation(landmarks, SIZE, SIZE, camera.focal_px)])[0]
    assert not result.identity.any() and not result.expression.any()
    assert angle_degrees(result.R, camera.R) < 6.0


def test_sixty_eight_landmarks_suffice(model):
    fitter = Fitter(LandmarkModel(model, "ibug68"))
    _, _, camera, _ = person(model, 12)
    identity = np.random.default_rng(12).normal(0.0, 0.6, len(model.identity))
    landmarks = camera.project(model.landmark_points(model.vertices(identity).astype(np.float64), "ibug68"))
    result = fitter.fit([Observation(landmarks, SIZE, SIZE, camera.focal_px)])[0]
    assert angle_degrees(result.R, camera.R) < 3.0


def test_a_known_shape_is_not_made_again(model, calibrated):
    """What a solve of the pose keeps from step to step changes nothing, and the cheap prior is the whole one's."""
    landmarks = [person(model, seed, yaw)[3] for seed, yaw in ((6, -20.0), (7, 35.0))]
    problem = Problem(calibrated, [Observation(points, SIZE, SIZE) for points in landmarks])
    state = problem.start()
    state.coefficients += 0.1
    kept, anew = problem.residual(state, problem.shape(state.coefficients)), problem.residual(state)
    assert torch.equal(kept.white, anew.white) and torch.equal(kept.chosen, anew.chosen)
    torch.testing.assert_close(problem.prior_cost(state), problem.prior_terms(state)[0], atol=0, rtol=1e-12)
