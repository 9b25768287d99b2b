"""The published network in the project's conventions: crops, the 257 numbers, camera, light."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from published_weights import invented_crops

from backend.errors import ModelError, WeightsError
from backend.face_model.model import Embedding, FaceModel, ModelInfo
from backend.face_model.transfer import moved_to
from backend.geometry.rotation import head_euler_degrees
from backend.network import compat
from backend.network.compat import PublishedEncoder, align, cut, decode, five_points, linear_light, rotation
from backend.network.interface import Encoder, FaceCrop
from backend.rendering.shade import ambient_light, sh_basis, shade
from backend.vision.crop import Window
from backend.vision.photo import DetectedFace, Photo

V = 90


def bfm_like() -> FaceModel:
    """As many modes as the published network speaks of, on a cloud of vertices; metres around its own origin."""
    rng = np.random.default_rng(8)
    corners = np.repeat(np.arange(68, dtype=np.int32)[:, None], 3, axis=1)
    marks = Embedding(corners, np.float32([[1, 0, 0]] * 68))
    faces = np.array([[0, 1, 2, -1]], np.int32)
    return FaceModel(
        info=ModelInfo("bfm09", "2009", "x", False, "", ""),
        mean=rng.uniform(-0.09, 0.09, (V, 3)).astype(np.float32),
        identity=rng.normal(0, 0.001, (80, V, 3)).astype(np.float32),
        expression=rng.normal(0, 0.001, (64, V, 3)).astype(np.float32),
        expression_names=tuple(f"e{number}" for number in range(64)),
        faces=faces,
        uv=np.zeros((3, 2), np.float32),
        face_uv=faces,
        face_material=np.zeros(1, np.uint8),
        materials=("skin",),
        regions={},
        landmarks={"ibug68": marks},
        albedo_mean=np.full((V, 3), 0.3, np.float32),
        albedo_basis=np.zeros((80, V, 3), np.float32),
        expression_limits="sigma",
    )


@pytest.fixture(scope="module")
def source() -> FaceModel:
    """With the origin of its file."""
    return bfm_like()


@pytest.fixture(scope="module")
def installed(source: FaceModel) -> FaceModel:
    """As the installer leaves it: moved to where another head lies."""
    return moved_to(source, source.replaced(mean=source.mean + np.float32([0.002, -0.031, -0.074])))


@pytest.fixture(scope="module")
def encoder(converted: Path, installed: FaceModel) -> PublishedEncoder:
    return PublishedEncoder(converted, installed)


def face_at(landmarks: np.ndarray) -> DetectedFace:
    return DetectedFace(np.zeros(4), 1.0, {"ibug68": landmarks}, None, {}, False)


def some_outputs(count: int = 3) -> np.ndarray:
    """What a network may say: poses some tenths of a radian and some hundred millimetres from the prior."""
    rng = np.random.default_rng(9)
    spread = np.concatenate([np.ones(224), [0.4, 0.5, 0.3, 20.0, 20.0, 300.0], np.full(27, 0.1)])
    return (rng.normal(size=(count, 257)) * spread).astype(np.float32)


# --- the 257 numbers --------------------------------------------------------------------------------------


def test_which_number_is_what() -> None:
    said = decode(np.arange(257.0)[None])
    np.testing.assert_array_equal(said.identity[0], np.arange(80))
    np.testing.assert_array_equal(said.albedo[0], np.arange(80, 160))
    np.testing.assert_array_equal(said.expression[0], np.arange(160, 224))
    np.testing.assert_allclose(said.angles[0], [224, 225, 226 + 3.141593])
    np.testing.assert_allclose(said.translation_mm[0], [227.17440447, 228 + 9.1053238, 229 + 4994.3359])
    red, green, blue = said.light[0]
    np.testing.assert_allclose(red, [230.8, *range(231, 239)])
    np.testing.assert_allclose(green, [239.8, *range(240, 248)])
    np.testing.assert_allclose(blue, [248.8, *range(249, 257)])


@pytest.mark.parametrize("shape", [(257,), (2, 256), (1, 257, 1)])
def test_other_sizes_are_a_programmers_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="B x 257"):
        decode(np.zeros(shape))


def test_rotation_against_the_published_matrix() -> None:
    angles = np.random.default_rng(10).uniform(-3, 3, (20, 3))
    for (rz, ry, rx), matrix in zip(angles, rotation(angles)):
        sx, sy, sz, cx, cy, cz = *np.sin([rx, ry, rz]), *np.cos([rx, ry, rz])
        written_out = [
            [cy * cz, -cy * sz, sy],
            [cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy],
            [sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy],
        ]
        np.testing.assert_allclose(matrix, written_out, atol=1e-14)


def test_the_prior_looks_into_the_camera_and_the_signs_are_as_published() -> None:
    zero = np.zeros((1, 257))
    straight = rotation(decode(zero).angles)[0]
    assert all(abs(angle) < 1e-4 for angle in head_euler_degrees(straight).values())

    def turned(number: int) -> np.ndarray:
        outputs = zero.copy()
        outputs[0, 224 + number] = 0.1
        return rotation(decode(outputs).angles)[0]

    nose, top = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    assert (turned(0) @ top)[0] < -0.09, "rz leans the top of the head to the left of the picture"
    assert (turned(1) @ nose)[0] > 0.09, "ry turns the nose to the right of the picture"
    assert (turned(2) @ nose)[1] > 0.09, "rx turns the nose down"


# --- the camera -------------------------------------------------------------------------------------------


def say(encoder: PublishedEncoder, outputs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the network say these numbers, whatever it sees."""
    monkeypatch.setattr(encoder, "outputs", lambda _pixels: outputs)


def published_pixels(source: FaceModel, outputs: np.ndarray) -> np.ndarray:
    """(V, 2) where one crop's vertices are by the published formulas: millimetres, f = 4700, middle at 112."""
    shape_mm = 1000.0 * source.mean.astype(np.float64)
    shape_mm += np.tensordot(outputs[:80], 1000.0 * source.identity, axes=1)
    shape_mm += np.tensordot(outputs[160:224], 1000.0 * source.expression, axes=1)
    rz, ry, rx, tx, ty, tz = outputs[224:230] + np.array([0, 0, 3.141593, 0.17440447, 9.1053238, 4994.3359])
    about_x = [[1, 0, 0], [0, np.cos(rx), -np.sin(rx)], [0, np.sin(rx), np.cos(rx)]]
    about_y = [[np.cos(ry), 0, np.sin(ry)], [0, 1, 0], [-np.sin(ry), 0, np.cos(ry)]]
    about_z = [[np.cos(rz), -np.sin(rz), 0], [np.sin(rz), np.cos(rz), 0], [0, 0, 1]]
    placed = shape_mm @ (np.array(about_x) @ about_y @ about_z).T + [tx, ty, tz]
    return 4700.0 * placed[:, :2] / placed[:, 2:] + 112.0


def test_the_installed_model_lands_where_the_published_one_does(
    encoder: PublishedEncoder, source: FaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = some_outputs()
    say(encoder, outputs, monkeypatch)
    window = Window(700.0, 420.0, 310.0, 0.3)
    crop = FaceCrop(np.zeros((224, 224, 3), np.uint8), window)
    photo = Photo(np.zeros((900, 1200, 3), np.uint8))
    said = encoder.regress([crop] * 3)
    assert len(said) == 3 and said.sigma == {} and said.albedo is not None and said.light is not None
    np.testing.assert_array_equal(said.albedo, outputs[:, 80:160])
    for number in range(3):
        expected = published_pixels(source, outputs[number].astype(np.float64))
        vertices = encoder.model.vertices(said.identity[number], said.expression[number])
        camera = said.crop_camera(number)
        assert (camera.width, camera.height, camera.focal_px) == (224, 224, 4700.0)
        np.testing.assert_allclose(camera.project(vertices), expected, atol=1e-3)
        in_photo = said.photo_camera(number, window, photo)
        assert (in_photo.width, in_photo.height) == (1200, 900)
        np.testing.assert_allclose(in_photo.project(vertices), window.to_photo(expected, 224), atol=1e-3)
        np.testing.assert_allclose(in_photo.R @ in_photo.R.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(in_photo.to_camera(vertices)[:, 2], camera.to_camera(vertices)[:, 2], atol=1e-9)


def test_metres_away(encoder: PublishedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    say(encoder, np.zeros((1, 257), np.float32), monkeypatch)
    camera = encoder.regress([FaceCrop(np.zeros((224, 224, 3), np.uint8), Window(0, 0, 224))]).crop_camera(0)
    assert 4.9 < camera.to_camera(encoder.model.mean)[:, 2].mean() < 5.1


# --- light ------------------------------------------------------------------------------------------------


def test_even_light_is_carried_over_exactly() -> None:
    """Published 0.8 is a shade of 0.709, which is 0.709^2.2 of linear light."""
    light = linear_light(ambient_light(dtype=torch.float64).numpy()[None])
    normals = torch.from_numpy(np.random.default_rng(11).normal(size=(50, 3)))
    normals = torch.nn.functional.normalize(normals, dim=1)
    np.testing.assert_allclose(shade(normals, torch.from_numpy(light[0])).numpy(), 0.70898154**2.2, atol=1e-6)


def test_directed_light_keeps_its_shades() -> None:
    rng = np.random.default_rng(12)
    normals = rng.normal(size=(4000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    front = normals[normals[:, 2] > 0]
    basis = sh_basis(torch.from_numpy(front)).numpy()
    relative = []
    for _ in range(50):
        light = np.concatenate([[0.8], rng.normal(0, 0.2, 3), rng.normal(0, 0.05, 5)])
        wanted = np.maximum(basis @ light, 0.0) ** 2.2
        got = basis @ linear_light(light[None, None].repeat(3, axis=1))[0, 1]
        relative.append(np.sqrt(np.mean((got - wanted) ** 2)) / wanted.mean())
    assert np.median(relative) < 0.06 and max(relative) < 0.4


# --- crops ------------------------------------------------------------------------------------------------


def some_landmarks(seed: int) -> np.ndarray:
    """68 points whose five are the standard ones, turned, enlarged, shifted and a little off; centres at +0.5."""
    rng = np.random.default_rng(seed)
    landmarks = rng.uniform(0, 224, (68, 2))
    for rows, point in zip((range(36, 42), range(42, 48), [33], [48], [54]), compat.STANDARD_POINTS):
        landmarks[list(rows)] = point + rng.normal(0, 2.0, 2)
    angle, scale = rng.uniform(-1, 1), rng.uniform(0.6, 2.0)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return landmarks @ turn.T + rng.uniform(100, 300, 2) + 0.5


def published_matrix(landmarks: np.ndarray) -> np.ndarray:
    """(2, 3) from photo to crop, whole numbers pixel centres: ``[[a, -b, c], [b, a, d]]`` by plain least squares."""
    points = five_points(landmarks) - 0.5
    rows, values = [], []
    for (x, y), (u, v) in zip(points, compat.STANDARD_POINTS):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


@pytest.mark.parametrize("seed", range(5))
def test_align_against_plain_least_squares(seed: int) -> None:
    landmarks = some_landmarks(seed)
    matrix = published_matrix(landmarks)
    points = np.random.default_rng(seed).uniform(0, 500, (30, 2))
    expected = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    np.testing.assert_allclose(align(landmarks).to_crop(points, 224), expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_cut_is_the_published_warp(seed: int) -> None:
    landmarks = some_landmarks(seed)
    pixels = cv2.resize(invented_crops(1)[0], (500, 400), interpolation=cv2.INTER_CUBIC)
    size, border = (224, 224), cv2.BORDER_REPLICATE
    expected = cv2.warpAffine(pixels, published_matrix(landmarks), size, flags=cv2.INTER_LINEAR, borderMode=border)
    got = cut(pixels, align(landmarks))
    assert got.shape == (224, 224, 3) and got.dtype == np.uint8
    difference = np.abs(got.astype(int) - expected)
    # OpenCV places samples to a 32nd of a pixel; the inverse taken here or there may fall to either side.
    assert np.mean(difference > 1) < 0.02 and difference.max() < 12


def test_a_crop_shows_the_place_that_its_window_says() -> None:
    """A picture whose colour is its own coordinate: red counts columns, green rows, from centres at +0.5."""
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    pixels = np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)
    window = Window(128.0, 120.0, 150.0, 0.4)
    got = cut(pixels, window)[..., :2].astype(float)
    centres = np.stack(np.meshgrid(np.arange(224), np.arange(224)), axis=2) + 0.5
    expected = window.to_photo(centres, 224) - 0.5
    assert np.abs(got - expected).max() < 1.0 and abs((got - expected).mean()) < 0.05


# --- the encoder ------------------------------------------------------------------------------------------


def test_from_photo_to_numbers(encoder: PublishedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crops go in as RGB in [0, 1], in portions, in order."""
    same: Encoder = encoder
    pixels = cv2.resize(invented_crops(1)[0], (500, 400), interpolation=cv2.INTER_CUBIC)
    crops = [same.crop(Photo(pixels), face_at(some_landmarks(seed))) for seed in range(3)]
    stacked = np.stack([crop.pixels for crop in crops])
    with torch.inference_mode():
        alone = encoder.network(torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255).numpy()
    monkeypatch.setattr(compat, "CHUNK", 2)
    np.testing.assert_allclose(encoder.outputs(stacked), alone, atol=1e-4)
    said = same.regress(crops)
    np.testing.assert_allclose(said.identity, alone[:, :80], atol=1e-4)
    np.testing.assert_allclose(said.expression, alone[:, 160:224], atol=1e-4)
    assert said.light is not None and said.light.shape == (3, 3, 9) and np.isfinite(said.light).all()


def test_no_crops_at_all(encoder: PublishedEncoder) -> None:
    said = encoder.regress([])
    assert len(said) == 0 and said.R.shape == (0, 3, 3) and said.t.shape == (0, 3) and said.expression.shape == (0, 64)


def test_what_one_may_do_with_it(encoder: PublishedEncoder) -> None:
    assert not encoder.info.commercial and encoder.info.name == "mgcnet-published"


def test_a_model_that_it_does_not_speak_of(converted: Path, source: FaceModel, installed: FaceModel) -> None:
    with pytest.raises(ModelError, match=r"80, 64 and 80 modes .* has 80, 10 and 80; use bfm09\."):
        PublishedEncoder(converted, installed.replaced(expression=installed.expression[:10]))
    with pytest.raises(ModelError, match="and 0; use bfm09"):
        PublishedEncoder(converted, installed.replaced(albedo_basis=None))
    with pytest.raises(ModelError, match="install it again"):
        PublishedEncoder(converted, source)


def test_weights_that_are_none(installed: FaceModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        PublishedEncoder(tmp_path / "none.safetensors", installed)
