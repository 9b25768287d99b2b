"""Measuring the detector: drawn people repeat, and planted errors are found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import eigh
from skimage import data

from backend.commands.measure_detector import photos_in
from backend.errors import PhotoError
from backend.face_model.registry import get_model
from backend.rendering.tone import linear_to_srgb
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.looks import Looks
from trainer.data.painter import Painter
from trainer.data.people import draw_person
from trainer.data.skins import at_vertices, unwrap_skins
from trainer.measure_detector import Measurements, Mirror, learn, measure


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


def test_a_person_is_a_seed(model):
    first, again, other = draw_person(model, 7), draw_person(model, 7), draw_person(model, 8)
    np.testing.assert_array_equal(first.vertices, again.vertices)
    assert np.abs(first.identity - other.identity).max() > 0.1
    painter = Painter(model)
    np.testing.assert_array_equal(painter.paint(first, 7), painter.paint(again, 7))


def test_expressions_stay_in_range_and_do_not_contradict(model):
    index = {name: position for position, name in enumerate(model.expression_names)}
    for seed in range(60):
        values = draw_person(model, seed).expression
        assert values.min() >= 0.0 and values.max() <= 1.0
        assert values[index["jawLeft"]] == 0.0 or values[index["jawRight"]] == 0.0
        assert values[index["mouthClose"]] <= values[index["jawOpen"]]


def test_painted_people_are_seen_as_faces_of_many_tones(model):
    painter, detector = Painter(model), MediaPipeDetector(passes=1, threads=1)
    brightness, seen = [], 0
    for seed in range(500, 512):
        person = draw_person(model, seed, neutral=True)
        picture = painter.paint(person, seed)
        middle = picture[120:200, 120:200].reshape(-1, 3).mean()
        brightness.append(middle)
        seen += bool(detector.detect(Photo(picture)))
    assert seen >= 11
    assert max(brightness) > 1.8 * min(brightness)


def test_the_regression_learns_a_linear_world():
    """Landmark shapes that depend linearly on identity give the identity back, through any similarity."""
    rng = np.random.default_rng(1)
    count, landmarks, modes = 2000, 40, 3
    mean = rng.normal(0.0, 1.0, (landmarks, 2))
    basis = rng.normal(0.0, 0.05, (modes, landmarks, 2))
    identity = rng.normal(0.0, 1.0, (count, modes))
    shapes = mean + np.tensordot(identity, basis, 1) + rng.normal(0.0, 1e-3, (count, landmarks, 2))
    angle, size = rng.uniform(-0.5, 0.5, count), rng.uniform(50.0, 300.0, count)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    photos = size[:, None, None] * (shapes @ turn) + rng.uniform(0.0, 500.0, (count, 1, 2))
    assert learn(Measurements(photos, identity, 0)).covariance.diagonal().max() < 0.35**2


def test_the_regression_learns_that_the_view_changes_what_landmarks_say():
    """A mode that moves landmarks one way or the other by how the head is turned: the mean over turns is nothing."""
    rng = np.random.default_rng(2)
    count, landmarks = 3000, 40
    mean = rng.normal(0.0, 1.0, (landmarks, 2))
    turned, hidden = rng.normal(0.0, 1.0, (landmarks, 2)), rng.normal(0.0, 1.0, (landmarks, 2))
    turn, identity = rng.normal(0.0, 1.0, count), rng.normal(0.0, 1.0, (count, 1))
    shapes = mean + 0.1 * turn[:, None, None] * turned + 0.02 * (turn * identity[:, 0])[:, None, None] * hidden
    regressor = learn(Measurements(200.0 * shapes, identity, 0))
    # With t the turn and a the mode, landmarks show t a. Times t that is t^2 a, which explains a third of a:
    # E[t^2 a a]^2 / E[t^4 a^2] = 1 / 3. Without the turn nothing is explained, and sigma is 1.
    assert regressor.covariance.diagonal().max() ** 0.5 < (2 / 3) ** 0.5 + 0.03


def test_what_the_landmarks_leave_open_is_measured_on_people_not_learned_from():
    """Three numbers, mixed into three coefficients: one that landmarks show, one with noise, one not at all."""
    rng = np.random.default_rng(4)
    count, landmarks = 4000, 40
    mean, basis = rng.normal(0.0, 1.0, (landmarks, 2)), rng.normal(0.0, 0.05, (3, landmarks, 2))
    numbers = rng.normal(0.0, 1.0, (count, 3))
    noise = [0.0, 1.0, 100.0] * rng.normal(0.0, 1.0, (count, 3))
    shown = (numbers + noise) / (1.0 + np.array([0.0, 1.0, 100.0]) ** 2) ** 0.5
    shapes = mean + np.tensordot(shown, basis, 1) + rng.normal(0.0, 1e-3, (count, landmarks, 2))
    mixed = np.array([[0.9, 0.3, 0.0], [-0.2, 0.5, 0.4], [0.1, -0.4, 0.6]])
    found = learn(Measurements(200.0 * shapes, numbers @ mixed, 0)).covariance
    np.testing.assert_allclose(found, mixed.T @ np.diag([0.02, 0.5, 1.0]) @ mixed, atol=0.05)
    left = eigh(found, mixed.T @ mixed, eigvals_only=True)
    np.testing.assert_allclose(left, [0.02, 0.5, 1.0], atol=0.05)


def test_a_mirror_swaps_sides_and_nothing_else(model):
    mirror = Mirror.of(model)
    identity = np.random.default_rng(5).normal(0.0, 1.0, (1, len(model.identity)))
    vertices = model.vertices(identity[0]).astype(np.float64)
    expected = vertices[model.mirror] * [-1.0, 1.0, 1.0]
    reflected = model.vertices(mirror.identities(torch.as_tensor(identity)).numpy()[0])
    # The modes were learned from people who are a little lopsided, so a mirrored face may lie beside the span.
    assert np.linalg.norm(reflected - expected, axis=1).max() < 3e-4
    flat = torch.as_tensor(model.landmark_points(vertices, "mediapipe478")[None, :, :2])
    seen = model.landmark_points(expected, "mediapipe478")[:, :2]
    assert np.linalg.norm(mirror.shapes(flat)[0].numpy() - seen, axis=1).max() < 2e-3


def test_looks_differ_in_what_says_nothing_about_shape(model):
    looks = Looks(model)
    drawn = [looks.draw(np.random.default_rng(seed)) for seed in range(40)]
    cut = [look for look in drawn if not look.shown.all()]
    assert 2 <= len(cut) <= 20
    assert all(look.shown[model.regions["nose"]].all() for look in cut)
    assert 5 <= sum(bool((look.hair > 0).any()) for look in drawn) <= 39
    assert 1 <= sum(look.glasses > 0 for look in drawn) <= 12
    assert all(look.albedo.min() >= 0.0 and look.albedo.max() <= 1.0 for look in drawn)


def test_skins_are_worn_by_some(model):
    skins = np.full((1, model.vertex_count, 3), [0.3, 0.9, 0.3], np.float32)
    cheek = model.regions["cheeks"]
    green = 0
    for seed in range(40):
        look = Looks(model, skins).draw(np.random.default_rng(seed))
        red, other, _ = look.albedo[cheek & (look.hair == 0)].mean(axis=0)
        green += other > 1.8 * red
    assert 14 <= green <= 34


def test_a_skin_is_read_at_the_vertices_it_was_unwrapped_to(model):
    """A texture that paints its own coordinates gives each vertex its coordinates back."""
    size = 256
    ramp = (np.arange(size) + 0.5) / size
    picture = np.zeros((size, size, 3), np.uint8)
    picture[..., 0] = (255 * ramp).round()
    picture[..., 1] = (255 * ramp[::-1, None]).round()
    skin = linear_to_srgb(at_vertices(model, picture))
    corner = model.faces >= 0
    uv = np.zeros((model.vertex_count, 2))
    uv[model.faces[corner]] = model.uv[model.face_uv[corner]]
    used = np.unique(model.faces[corner])
    assert np.abs(skin[used, :2] - uv[used]).max() < 0.02


def test_skins_come_from_photos_that_show_a_face(model, tmp_path):
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    skins = unwrap_skins(model, sorted(tmp_path.iterdir()))
    assert skins.shape == (1, model.vertex_count, 3)
    red, green, blue = skins[0][model.regions["cheeks"]].mean(axis=0)
    assert red > green > blue


def test_a_folder_of_skins_without_photos_is_named(tmp_path):
    with pytest.raises(PhotoError, match="no photo"):
        photos_in(tmp_path)
    with pytest.raises(PhotoError, match="missing"):
        photos_in(tmp_path / "nowhere")


def test_measuring_a_few_people_end_to_end(model):
    measurements = measure("open-head", people=6, workers=1, first_seed=77)
    assert len(measurements.landmarks) + measurements.missed == 6
    assert len(measurements.landmarks) >= 4
    assert measurements.identity.shape[1] == len(model.identity)
