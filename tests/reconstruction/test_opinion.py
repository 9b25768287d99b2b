"""What a network says, in the fit: it may help, and one that says that it does not know changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from backend.errors import WeightsError
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import matrix_from_rotation_vector, rotation_from_head_euler
from backend.network.interface import FaceCrop, Regressed
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.fit import Fitter, Problem
from backend.reconstruction.landmark_cost import POSE, Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.opinion import Opinion, opinion, to_middle
from backend.reconstruction.opinion_terms import LANDMARK_DOUBT, NOISE_CORRELATION, joined, moderated
from backend.reconstruction.turning import exponential, inverse_left_jacobian, rotation_vector
from backend.vision.crop import Window
from backend.vision.photo import Photo

SET = "mediapipe478"
SIZE = 1000
USUAL = {
    "identity": (np.zeros(1), np.full(1, 0.8)),
    "expression": (np.full(1, 0.02), np.full(1, 0.1)),
    "log_distance": (np.array([np.log(0.9)]), np.array([0.75])),
}


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def plain(model):
    return Fitter(LandmarkModel(model, SET, regress=False))


@pytest.fixture(scope="module")
def calibrated(model):
    return Fitter(LandmarkModel(model, SET))


def person(model, seed: int, yaw: float = 0.0, noise_px: float = 0.0, **expression: float):
    """Truth and landmarks of one invented person, a little off."""
    rng = np.random.default_rng(seed)
    identity = rng.normal(0.0, 0.8, len(model.identity))
    weights = np.array([expression.get(name, 0.0) for name in model.expression_names])
    rotation = rotation_from_head_euler(yaw, rng.uniform(-8, 8), rng.uniform(-10, 10))
    camera = Camera(intrinsics(1250.0, SIZE, SIZE), rotation, np.array([0.01, -0.01, 0.8]), SIZE, SIZE)
    vertices = model.vertices(identity, weights).astype(np.float64)
    landmarks = camera.project(model.landmark_points(vertices, SET))
    return identity, weights, camera, landmarks + rng.normal(0.0, noise_px, landmarks.shape)


def said_of(camera: Camera, identity: np.ndarray, expression: np.ndarray, sigma: dict[str, float]) -> Opinion:
    """An opinion with these errors, by group."""
    told = {name: np.full(3 if name == "translation" else 1, value) for name, value in sigma.items()}
    return Opinion(camera, camera.R, identity, expression, told, USUAL)


SURE = {"identity": 0.1, "expression": 0.03, "rotation": 0.02, "translation": 0.01}
CLUELESS = {"identity": 0.8, "expression": 0.1, "rotation": 0.6, "translation": 0.7}


def nonsense(model, seed: int = 0, sigma: dict[str, float] | None = None) -> Opinion:
    """Another face, elsewhere."""
    rng = np.random.default_rng(seed)
    camera = Camera(
        intrinsics(700.0, SIZE, SIZE),
        rotation_from_head_euler(40.0, -20.0, 15.0),
        np.array([0.1, 0.1, 0.4]),
        SIZE,
        SIZE,
    )
    identity = rng.normal(0.0, 1.0, len(model.identity))
    return said_of(camera, identity, rng.uniform(0.0, 0.4, len(model.expression)), sigma or {})


def angle_degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1.0) / 2.0, -1.0, 1.0))))


def shape_error(model, found: np.ndarray, true: np.ndarray) -> float:
    mask = model.regions["face"]
    return float(np.linalg.norm((model.vertices(found) - model.vertices(true))[mask], axis=1).mean() * 1e3)


# --- what was measured ------------------------------------------------------------------------------------


def test_information_takes_out_what_was_known_before():
    """Slow twin: a known measurement makes a posterior of the usual; the measurement comes back."""
    rng = np.random.default_rng(0)
    value, precision = rng.normal(size=9), rng.uniform(0.5, 30.0, 9)
    usual_mean, usual_sigma = rng.normal(size=9), rng.uniform(0.3, 2.0, 9)
    sigma = (precision + usual_sigma**-2.0) ** -0.5
    mean = (precision * value + usual_mean * usual_sigma**-2.0) * sigma**2
    said = Opinion(None, np.eye(3), mean, mean, {"identity": sigma}, {"identity": (usual_mean, usual_sigma)})  # type: ignore[arg-type]
    found, pull = said.information("identity", mean)
    np.testing.assert_allclose(found, precision)
    np.testing.assert_allclose(pull, precision * value)
    for other in ("expression", "albedo"):
        assert not said.information(other, mean)[0].any()


def test_who_does_not_know_has_measured_nothing(model):
    said = nonsense(model, 0, CLUELESS)
    assert not said.information("identity", said.identity)[0].any()
    assert not said.information("expression", said.expression)[1].any()
    assert said.rotation_precision == 0.0
    assert nonsense(model, 0, {"identity": 0.2}).rotation_precision == 0.0
    assert said.log_distance == (0.0, 0.0)
    assert nonsense(model).sigma_identity.tolist() == [1.0] * len(model.identity)


def joined_slowly(mean: float, sigma: float, precision: float, pull: float, usual: float) -> tuple[float, float]:
    """Generalised least squares over three measurements, as textbooks have it."""
    own = sigma**-2.0 - usual**-2.0
    noise = np.array([own**-0.5, precision**-0.5])
    covariance = np.zeros((3, 3))
    covariance[0, 0] = usual**2
    covariance[1:, 1:] = np.outer(noise, noise) * [[1.0, NOISE_CORRELATION], [NOISE_CORRELATION, 1.0]]
    values = np.array([0.0, mean * sigma**-2.0 / own, pull / precision])
    inverse = np.linalg.inv(covariance)
    total = inverse.sum()
    return float((inverse @ values).sum() / total), float(total**-0.5)


def test_regression_and_network_are_joined_as_least_squares_join_them():
    rng = np.random.default_rng(1)
    sigma = rng.uniform(0.45, 0.65, 40)
    mean, precision = rng.normal(0.0, 0.5, 40), rng.uniform(1.5, 4.0, 40)
    pull = precision * rng.normal(0.0, 0.8, 40)
    tensors = [torch.as_tensor(values[None]) for values in (mean, sigma, precision, pull)]
    found = joined(*tensors, torch.tensor(0.8, dtype=torch.float64))
    slow = [joined_slowly(*values, 0.8) for values in zip(mean, sigma, precision, pull)]
    own = sigma**-2.0 - 0.8**-2.0
    both_count = np.minimum(own / precision, precision / own) ** 0.5 > NOISE_CORRELATION
    assert 10 < both_count.sum()
    for column in (0, 1):
        expected = np.array([row[column] for row in slow])
        np.testing.assert_allclose(found[column][0].numpy()[both_count], expected[both_count])


def test_a_regression_that_says_too_much_is_believed_less():
    """Slow twin: people, answers that are right as far as they go, and the same with errors that nobody told of."""
    rng = np.random.default_rng(4)
    usual, sigma = 0.8, 0.7
    people = rng.normal(0.0, usual, (4000, 60))
    share = 1.0 - sigma**2 / usual**2
    right = share * people + rng.normal(0.0, sigma * share**0.5, people.shape)
    wrong = right + rng.normal(0.0, 0.4, people.shape)
    tensors = [torch.as_tensor(values) for values in (right, wrong)]
    spread = torch.full_like(tensors[0], sigma)
    (same, told), (less, wider) = (moderated(mean, spread, torch.full_like(mean, usual)) for mean in tensors)
    assert float((same - tensors[0]).abs().mean()) < 0.03 and float(told.mean()) == pytest.approx(sigma, rel=0.01)
    before, after = (float(np.sqrt(((mean - people) ** 2).mean())) for mean in (wrong, less.numpy()))
    assert after < 0.97 * before
    assert float(wider.mean()) == pytest.approx(after, rel=0.02)


def test_of_two_that_differ_much_the_better_counts():
    one = torch.tensor([[0.3]], dtype=torch.float64)
    usual = torch.tensor(0.8, dtype=torch.float64)
    sure, vague = torch.tensor([[400.0]]).double(), torch.tensor([[0.01]]).double()
    mean, sigma = joined(one, one + 0.3, sure, sure * -1.0, usual)
    assert float(mean) == pytest.approx(-400.0 / (400.0 + 0.8**-2.0)) and float(sigma) == pytest.approx(0.05, rel=0.01)
    mean, sigma = joined(one, one, vague, vague * -1.0, usual)
    assert float(mean) == pytest.approx(0.3) and float(sigma) == pytest.approx(0.3)
    nothing = torch.zeros_like(one)
    assert [float(value) for value in joined(one, one + 0.6, nothing, nothing, usual)] == pytest.approx([0.3, 0.9])


# --- in the cost ------------------------------------------------------------------------------------------


def test_exponential_is_that_of_matrices():
    vectors = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([0.0, 1e-12, 1e-8, 1e-4, 0.1, 1.0, 3.1, 3.14159265, 4.0, 7.0]).repeat(2).double()
    vectors = torch.nn.functional.normalize(vectors, dim=1) * lengths[:, None]
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    torch.testing.assert_close(exponential(vectors), torch.matrix_exp(cross), atol=1e-13, rtol=0)


def test_rotation_vectors():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(40, 3)) * rng.choice([1e-9, 1e-4, 0.5, 1.7], (40, 1))
    vectors = np.concatenate([vectors, [[np.pi, 0, 0], [0, 2.2, -2.2], [1e-9, -(np.pi - 1e-6), 0]]])
    R = Rotation.from_rotvec(vectors).as_matrix()
    found = rotation_vector(torch.as_tensor(R)).numpy()
    np.testing.assert_allclose(Rotation.from_rotvec(found).as_matrix(), R, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), Rotation.from_matrix(R).magnitude(), atol=1e-6)


def test_the_derivative_of_a_rotation_vector():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(10, 3)) * rng.choice([1e-5, 0.3, 1.4], (10, 1))
    R = matrix_from_rotation_vector(vectors)
    found = inverse_left_jacobian(torch.as_tensor(vectors)).numpy()
    for axis in range(3):
        step = matrix_from_rotation_vector(1e-6 * np.eye(3)[axis])
        ends = [rotation_vector(torch.as_tensor(turn @ R)).numpy() for turn in (step, step.T)]
        np.testing.assert_allclose(found[:, :, axis], (ends[0] - ends[1]) / 2e-6, atol=1e-6)


@pytest.mark.parametrize("regress", [True, False])
def test_the_gradient_is_that_of_the_cost(model, plain, calibrated, regress):
    fitter = calibrated if regress else plain
    _, _, _, landmarks = person(model, 5, yaw=20.0)
    observation = Observation(landmarks, SIZE, SIZE)
    said = [replace(observation, opinion=nonsense(model, seed, SURE)) for seed in (1, 2)]
    problem = Problem(fitter, [*said, observation])
    state = problem.start()
    state.coefficients = torch.rand(state.coefficients.shape, generator=torch.Generator().manual_seed(0)).double()
    _, gradient, hessian = problem.opinions.terms(state, POSE)
    assert not gradient[2].any() and not hessian[2].any()
    assert float(torch.linalg.eigvalsh(hessian).min()) > -1e-6
    free = torch.full_like(fitter.lower, 1e9)
    for unknown in [*range(7), POSE, POSE + 5, len(fitter.precision) - 1]:
        step = torch.zeros(3, len(fitter.precision), dtype=torch.float64)
        step[:, unknown] = 1e-6
        ends = [problem.opinions.terms(state.moved(sign * step, -free, free), POSE)[0] for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(gradient[:, unknown], numeric, atol=2e-5, rtol=1e-4)


# --- in the fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [0.0, 45.0])
def test_a_network_that_is_right_and_knows_it_improves_shape_and_pose(model, plain, calibrated, yaw):
    for fitter in (plain, calibrated):
        errors = []
        for seed in range(4):
            identity, expression, camera, landmarks = person(model, seed, yaw, noise_px=4.0, jawOpen=0.4)
            observation = Observation(landmarks, SIZE, SIZE)
            said = said_of(camera, identity, expression, SURE)
            alone, helped = fitter.fit([observation, replace(observation, opinion=said)])
            errors.append(
                [
                    [shape_error(model, found.identity, identity), angle_degrees(found.R, camera.R)]
                    for found in (alone, helped)
                ]
            )
            assert (helped.sigma_identity <= alone.sigma_identity + 1e-6).all()
        alone, helped = np.array(errors).mean(axis=0)
        # Contours stand where they are on a frontal face, which turns the pose a little whatever is said.
        assert helped[0] < 0.3 * alone[0] and helped[1] < 0.75 * alone[1], (alone, helped)


def test_a_network_that_says_it_does_not_know_changes_nothing(model, plain, calibrated):
    for fitter in (plain, calibrated):
        for seed, yaw in ((0, 0.0), (1, 30.0), (2, 50.0)):
            _, _, _, landmarks = person(model, seed, yaw, noise_px=4.0, mouthSmileLeft=0.5)
            observation = Observation(landmarks, SIZE, SIZE)
            said = nonsense(model, seed, CLUELESS)
            alone, other = fitter.fit([observation, replace(observation, opinion=said)])
            assert angle_degrees(alone.R, other.R) < 0.3
            assert shape_error(model, alone.identity, other.identity) < 0.03
            np.testing.assert_allclose(alone.projected, other.projected, atol=0.6)
            assert other.cost < 1.01 * alone.cost


def test_a_network_that_is_sure_and_wrong_is_outvoted_about_the_pose(model, calibrated):
    _, _, camera, landmarks = person(model, 3, 10.0, noise_px=2.0)
    observation = Observation(landmarks, SIZE, SIZE)
    said = replace(nonsense(model, 3, {"rotation": 0.01}), usual={})
    alone, other = calibrated.fit([observation, replace(observation, opinion=said)])
    assert angle_degrees(other.R, camera.R) < angle_degrees(alone.R, camera.R) + 1.0


def test_a_network_that_says_nothing_of_its_errors_only_gives_a_start(model, calibrated):
    _, _, _, landmarks = person(model, 4, noise_px=2.0)
    observation = Observation(landmarks, SIZE, SIZE)
    said = replace(nonsense(model, 4), usual={})
    alone, other = calibrated.fit([observation, replace(observation, opinion=said)])
    assert angle_degrees(alone.R, other.R) < 0.3 and shape_error(model, alone.identity, other.identity) < 0.03


def test_the_network_finds_the_start_that_landmarks_miss(model, plain):
    """The far cheek and eye are far off to one side, as of a detector that takes a profile for a half profile."""
    identity, expression, camera, landmarks = person(model, 6, yaw=75.0)
    hidden = model.landmark_points(model.mean, SET)[:, 0] > 0.025
    guessed = landmarks.copy()
    guessed[hidden, 0] += 0.35 * np.ptp(landmarks[:, 1])
    observation = Observation(guessed, SIZE, SIZE)
    sigma = {"identity": 0.4, "expression": 0.05, "rotation": 0.05, "translation": 0.05}
    said = said_of(camera, identity, expression, sigma)
    alone, helped = plain.fit([observation, replace(observation, opinion=said)])
    assert angle_degrees(helped.R, camera.R) < 0.3 * angle_degrees(alone.R, camera.R)


def test_landmarks_on_a_hand_are_doubted_and_others_are_not(model, calibrated):
    """The mouth is where a hand lies: its points sit 2 cm beside where the head has them."""
    identity, expression, camera, landmarks = person(model, 7, noise_px=2.0)
    embedding = model.landmarks[SET]
    place = embedding.points(model.mean)
    covered = (np.abs(place[:, 0]) < 0.03) & (place[:, 1] < place[:, 1].mean() - 0.02)
    covered[list(CONTOURS[SET])] = False
    shifted = landmarks.copy()
    shifted[covered] += [0.0, 0.02 * camera.focal_px / camera.t[2]]
    problem = Problem(
        calibrated,
        [Observation(shifted, SIZE, SIZE, opinion=said_of(camera, identity + 0.1, expression, SURE))] * 2,
    )
    trust = problem.opinions.trusted(problem.detected, problem.trust)[1].numpy()
    assert 20 < covered.sum() < 120
    assert np.median(trust[covered]) < 0.2 and np.median(trust[~covered]) > 0.8
    assert (trust[list(CONTOURS[SET])] == 1.0).all()
    unsure = {"identity": 0.8, "expression": 0.3, "rotation": 0.3, "translation": 0.3}
    problem = Problem(
        calibrated, [Observation(shifted, SIZE, SIZE, opinion=said_of(camera, identity, expression, unsure))]
    )
    assert problem.opinions.trusted(problem.detected, problem.trust)[0].min() > 0.5


def test_a_batch_is_solved_as_each_alone(model, calibrated):
    observations = []
    for seed in range(3):
        identity, expression, camera, landmarks = person(model, seed, 20.0 * seed, noise_px=3.0)
        said = said_of(camera, identity, expression, SURE) if seed != 1 else None
        observations.append(Observation(landmarks, SIZE, SIZE, opinion=said))
    together = calibrated.fit(observations)
    for observation, found in zip(observations, together):
        (alone,) = calibrated.fit([observation])
        np.testing.assert_allclose(found.identity, alone.identity, atol=1e-4)
        np.testing.assert_allclose(found.R, alone.R, atol=1e-5)


# --- from the network's answer ----------------------------------------------------------------------------


def test_the_turn_to_the_middle_of_the_photo(model):
    """A head in a corner: a camera of the same place that looks at the crop's middle sees what the network says."""
    true = Camera(intrinsics(900.0, 1600, 1000), rotation_from_head_euler(15.0, 5.0, -8.0), np.zeros(3), 1600, 1000)
    middle = np.array([1250.0, 300.0])
    ray = np.array([middle[0] - 800.0, middle[1] - 500.0, 900.0])
    ray /= np.linalg.norm(ray)
    turn = Rotation.align_vectors([[0.0, 0.0, 1.0]], [ray])[0].as_matrix()
    K = np.array([[900.0, 0.0, middle[0]], [0.0, 900.0, middle[1]], [0.0, 0.0, 1.0]])
    seen = Camera(K, turn @ true.R, np.array([0.0, 0.0, 0.7]), 1600, 1000)
    assert angle_degrees(seen.R, true.R) > 25.0
    assert angle_degrees(to_middle(seen) @ seen.R, true.R) < 1e-6
    # EXIF knows better than the network what lens it was.
    guessed = replace(seen, K=K * [[0.8, 1, 1], [1, 0.8, 1], [1, 1, 1]])
    assert angle_degrees(to_middle(guessed, 900.0) @ seen.R, true.R) < 1e-6
    straight = Camera(intrinsics(900.0, 1600, 1000), true.R, np.zeros(3), 1600, 1000)
    np.testing.assert_array_equal(to_middle(straight), np.eye(3))


def regressed(model, **changes) -> Regressed:
    values = {
        "identity": np.zeros((1, len(model.identity)), np.float32),
        "expression": np.zeros((1, len(model.expression)), np.float32),
        "R": rotation_from_head_euler(10.0)[None],
        "t": np.array([[0.0, 0.0, 0.8]]),
        "focal_px": np.array([768.0]),
        "side": 192,
        "sigma": {"identity": np.full((1, 1), 0.5, np.float32)},
        "usual": USUAL,
    }
    return Regressed(**{**values, **changes})


def test_an_opinion_is_of_the_photo(model):
    photo = Photo(np.zeros((500, 800, 3), np.uint8), focal_px=1000.0)
    crop = FaceCrop(np.zeros((192, 192, 3), np.uint8), Window(300.0, 200.0, 240.0, 0.2))
    said = opinion(regressed(model), 0, crop, photo)
    assert said.camera.K[:2, 2].tolist() == pytest.approx([300.0, 200.0])
    assert angle_degrees(said.R, said.camera.R) == pytest.approx(np.degrees(np.arctan2(np.hypot(100, 50), 1000)))
    assert said.sigma["identity"].shape == (1,) and said.sigma_identity.tolist()[0] == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"identity": np.full((1, 91), np.nan, np.float32)},
        {"t": np.array([[0.0, 0.0, -0.1]])},
        {"R": np.full((1, 3, 3), np.inf)},
    ],
)
def test_answers_that_make_no_sense_are_refused(model, change):
    photo = Photo(np.zeros((500, 800, 3), np.uint8))
    crop = FaceCrop(np.zeros((192, 192, 3), np.uint8), Window(300.0, 200.0, 240.0))
    with pytest.raises(WeightsError, match="makes no sense; take other weights"):
        opinion(regressed(model, **change), 0, crop, photo)


def test_constants_are_sane():
    assert 0.0 <= NOISE_CORRELATION < 1.0 and LANDMARK_DOUBT > 1.0
