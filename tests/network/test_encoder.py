"""Our own encoder: how a face is framed, what its numbers mean, its weights file, its camera."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from backend.errors import ModelError, WeightsError
from backend.face_model.model import FaceModel, ModelInfo
from backend.face_model.registry import get_model
from backend.geometry.rotation import head_euler_degrees, rotation_from_head_euler
from backend.network.backbone import SIZES, Backbone
from backend.network.encoder import FaceEncoder, window_of
from backend.network.encoder_weights import save_encoder
from backend.network.framing import frame
from backend.network.interface import GROUPS, Encoder, FaceCrop
from backend.network.outputs import (
    LOG_VARIANCE_RANGE,
    Layout,
    Predicted,
    decode,
    placed,
    rotation_from_six,
    sigmas,
)
from backend.network.weights_file import WeightsInfo, load_weights, save_weights
from backend.vision.crop import Window
from backend.vision.photo import DetectedFace, Photo

INFO = ModelInfo("test", "0", "MIT", True, "Free.", "Nobody.")


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return get_model("open-head")


@pytest.fixture(scope="module")
def layout(model: FaceModel) -> Layout:
    return Layout.of(model)


def trained(layout: Layout, size: str = "tiny", seed: int = 3) -> Backbone:
    """A network with weights and statistics as a training leaves them: none of them trivial."""
    torch.manual_seed(seed)
    network = Backbone(SIZES[size], layout.outputs)
    torch.nn.init.normal_(network.answer.weight, std=1.0)
    network.train()
    with torch.no_grad():
        for _ in range(4):
            network(some_pixels(8, SIZES[size].side))
    return network.eval()


def some_pixels(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def weights(model: FaceModel, layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_encoder(path, trained(layout).state_dict(), "tiny", model, INFO)
    return path


# --- framing ----------------------------------------------------------------------------------------------


def landmarks_of(model: FaceModel, yaw: float, pitch: float = 0.0) -> np.ndarray:
    points = model.landmark_points(model.mean, "ibug68") @ rotation_from_head_euler(yaw, pitch).T
    return points[:, :2] * 1000.0 + [320.0, 240.0]


@pytest.mark.parametrize("yaw", [0.0, 45.0, -90.0])
def test_a_face_is_framed_the_same_however_it_lies_in_the_photo(model, yaw):
    points = landmarks_of(model, yaw)
    moved = Window(700.0, 300.0, 2.5 * 192, angle=1.1).to_photo(points, 192)
    first, second = window_of(points), window_of(moved)
    crops = first.to_crop(points, 192), second.to_crop(moved, 192)
    np.testing.assert_allclose(crops[0], crops[1], atol=1e-6)
    assert crops[0].min() > 20 and crops[0].max() < 172, "landmarks keep away from the border"


def test_the_frame_stays_upright_in_profile(model):
    for yaw in (-90.0, -60.0, 0.0, 60.0, 90.0):
        angle = window_of(landmarks_of(model, yaw)).angle
        assert abs(math.degrees(angle)) < 25.0, "the mouth lies below the eyes, from every side"


def test_landmarks_without_extent_still_give_a_frame():
    middle, side, angle = frame(torch.full((1, 68, 2), 7.0))
    assert torch.isfinite(torch.cat([middle.flatten(), side, angle])).all()


# --- what the numbers mean --------------------------------------------------------------------------------


def test_zero_is_the_mean_face_in_the_middle(model, layout):
    said = decode(torch.zeros(1, layout.outputs, dtype=torch.float64), layout)
    assert said.identity.abs().max() == 0 and 0.0 < said.expression.max() < 0.06
    np.testing.assert_allclose(head_euler_degrees(said.R[0].numpy())["yaw"], 0.0, atol=1e-9)
    camera = said.R[0] @ torch.tensor(layout.reference, dtype=torch.float64) + said.t(layout)[0]
    np.testing.assert_allclose(camera, [0.0, 0.0, 0.8], atol=1e-12)
    np.testing.assert_allclose(said.K(192)[0], [[768, 0, 96], [0, 768, 96], [0, 0, 1]])


def test_every_number_has_a_meaning(layout):
    """Each output moves something that is said."""
    zero = torch.zeros(1, layout.outputs, dtype=torch.float64, requires_grad=True)
    said = decode(zero, layout)
    everything = [said.identity, said.expression, said.light, said.R, said.place, said.log_focal]
    numbers = torch.cat([value.flatten() for value in everything] + list(said.log_variance.values()))
    touched = torch.zeros(layout.outputs, dtype=torch.bool)
    for number in numbers:
        (gradient,) = torch.autograd.grad(number, zero, retain_graph=True)
        touched |= gradient[0] != 0
    # Six numbers say three angles: the lengths of both columns, and the second along the first, say nothing.
    assert int((~touched).sum()) == 3 and layout.outputs == 186


def test_any_rotation_can_be_said_and_taught():
    for yaw, pitch, roll in ((0, 0, 0), (90, 0, 0), (-95, 30, 10), (20, -60, 170), (180, 0, 0)):
        R = torch.from_numpy(rotation_from_head_euler(yaw, pitch, roll))
        columns = torch.cat([R[:, 0], R[:, 1]]) - torch.tensor([1.0, 0, 0, 0, -1.0, 0])
        six = columns[None].clone().requires_grad_()
        said = rotation_from_six(six)
        np.testing.assert_allclose(said[0].detach(), R, atol=1e-12)
        (gradient,) = torch.autograd.grad((said * torch.arange(9.0).reshape(3, 3)).sum(), six)
        assert 0.1 < float(gradient.norm()) < 100.0


def test_a_camera_comes_back_from_its_place(layout):
    rng = np.random.default_rng(2)
    R = torch.from_numpy(np.stack([rotation_from_head_euler(*rng.uniform(-80, 80, 3)) for _ in range(20)]))
    t = torch.from_numpy(rng.normal([0.0, 0.0, 1.0], 0.1, (20, 3)))
    focal = torch.from_numpy(rng.uniform(1.0, 20.0, 20))
    place, log_focal = placed(R, t, focal, layout)
    nothing = torch.zeros(20, 0, dtype=torch.float64)
    said = Predicted(nothing, nothing, nothing, nothing, R, place, log_focal, {})
    np.testing.assert_allclose(said.t(layout), t, atol=1e-12)
    np.testing.assert_allclose(said.focal, focal, rtol=1e-12)
    point = torch.tensor(layout.reference, dtype=torch.float64)
    pixels = (R @ point + t) @ said.K(100).mT
    seen = torch.stack([pixels[i, i, :2] / pixels[i, i, 2] for i in range(20)])
    np.testing.assert_allclose(seen, 100 * place[:, :2] + 50, atol=1e-9)


def test_the_error_of_the_translation_is_that_of_place_and_focal_length(layout):
    """Against throwing dice."""
    numbers = torch.zeros(1, layout.outputs, dtype=torch.float64)
    numbers[0, -len(layout.sizes) :] = math.log(0.3**2)
    said = decode(numbers, layout)
    told = sigmas(said)["translation"][0].numpy()
    rng = np.random.default_rng(0)
    place = rng.normal(0.0, math.sqrt(said.log_variance["place"].exp().item()), (20000, 3))
    focal = rng.normal(0.0, math.sqrt(said.log_variance["log_focal"].exp().item()), (20000, 1))
    # Small steps, since the formula is of first order.
    place, focal = 0.05 * place, 0.05 * focal
    thrown = replace(
        said, place=torch.from_numpy(place), log_focal=torch.from_numpy(focal), R=said.R.expand(20000, 3, 3)
    )
    spread = thrown.t(layout).numpy().std(axis=0) / 0.05
    np.testing.assert_allclose(told, spread, rtol=0.03)


def test_variances_are_kept_from_running_away(layout):
    numbers = torch.zeros(2, layout.outputs)
    numbers[0, -len(layout.sizes) :], numbers[1, -len(layout.sizes) :] = 1e6, -1e6
    said = decode(numbers, layout)
    low, high = LOG_VARIANCE_RANGE
    assert all(
        float(value[0] - value[1]) == pytest.approx(high - low, abs=1e-4) for value in said.log_variance.values()
    )


# --- the encoder ------------------------------------------------------------------------------------------


def test_normalisation_inside_the_convolutions_changes_nothing(layout):
    plain, fused = trained(layout), trained(layout).for_inference()
    pixels = some_pixels(3, 64)
    with torch.no_grad():
        before, after = plain(pixels), fused(pixels)
    assert not any("BatchNorm" in type(module).__name__ for module in fused.modules())
    assert float(before.abs().max()) > 0.5
    np.testing.assert_allclose(before, after, atol=2e-4)


def test_what_is_saved_is_what_speaks(model, layout, weights):
    encoder: Encoder = FaceEncoder(weights, model)
    assert encoder.info.name == "test" and encoder.model is model
    pixels = some_pixels(20, 64)
    crops = [FaceCrop(image, Window(0.0, 0.0, 64.0)) for image in pixels.numpy()]
    said = encoder.regress(crops)
    with torch.no_grad():
        expected = decode(trained(layout)(pixels).double(), layout)
    # Weights are stored in half precision.
    np.testing.assert_allclose(said.identity, expected.identity, atol=0.02)
    np.testing.assert_allclose(said.expression, expected.expression, atol=0.02)
    np.testing.assert_allclose(said.light, expected.light, atol=0.02)
    np.testing.assert_allclose(said.R, expected.R, atol=0.02)
    np.testing.assert_allclose(said.t, expected.t(layout), rtol=0.05, atol=0.01)
    assert said.albedo is None and said.side == 64
    assert set(said.sigma) == set(GROUPS) - {"albedo"} and said.sigma["translation"].shape == (20, 3)
    assert np.ptp(said.identity, axis=0).max() > 0.01, "different crops, different people"
    few = encoder.regress(crops[:2])
    np.testing.assert_allclose(few.identity, said.identity[:2], atol=1e-4)


def test_no_crops_give_no_faces(model, weights):
    said = FaceEncoder(weights, model).regress([])
    assert len(said) == 0 and said.R.shape == (0, 3, 3) and said.light.shape == (0, 3, 9)


def test_the_camera_of_the_crop_becomes_that_of_the_photo(model, weights):
    """A vertex that the encoder puts on a spot of its crop is on that spot of the photo."""
    encoder = FaceEncoder(weights, model)
    rng = np.random.default_rng(4)
    photo = Photo(rng.integers(0, 256, (480, 640, 3)).astype(np.uint8))
    turned = Window(320.0, 240.0, 640.0, angle=0.3).to_photo(landmarks_of(model, 20.0), 640)
    crop = encoder.crop(photo, DetectedFace(np.zeros(4), 1.0, {"ibug68": turned}, None, {}, False))
    assert crop.pixels.shape == (64, 64, 3) and crop.window.angle == pytest.approx(0.3, abs=0.2)
    said = encoder.regress([crop])
    vertices = model.vertices(said.identity[0], said.expression[0])[::100].astype(np.float64)
    in_crop = said.crop_camera(0).project(vertices)
    in_photo = said.photo_camera(0, crop.window, photo).project(vertices)
    np.testing.assert_allclose(crop.window.to_photo(in_crop, 64), in_photo, atol=1e-6)


# --- weights that do not fit ------------------------------------------------------------------------------


def test_another_state_of_the_model_is_refused(model, weights):
    bent = model.replaced(identity=model.identity * np.float32(1.001))
    with pytest.raises(ModelError, match="another face model"):
        FaceEncoder(weights, bent)
    fewer = model.replaced(identity=model.identity[:40])
    with pytest.raises(ModelError, match="another face model"):
        FaceEncoder(weights, fewer)


def with_albedo(model: FaceModel, modes: int) -> FaceModel:
    rng = np.random.default_rng(1)
    return model.replaced(
        albedo_mean=np.full_like(model.mean, 0.4),
        albedo_basis=rng.normal(0.0, 0.02, (modes, *model.mean.shape)).astype(np.float32),
    )


def test_a_model_may_learn_an_albedo_that_the_weights_do_not_know(model, weights):
    said = FaceEncoder(weights, with_albedo(model, 5)).regress(
        [FaceCrop(some_pixels(1, 64)[0].numpy(), Window(0, 0, 1))]
    )
    assert said.albedo is None


def test_weights_with_albedo_speak_of_it_and_need_it(model, tmp_path):
    rich = with_albedo(model, 5)
    path = tmp_path / "rich.safetensors"
    save_encoder(path, trained(Layout.of(rich)).state_dict(), "tiny", rich, INFO)
    said = FaceEncoder(path, rich).regress([FaceCrop(some_pixels(1, 64)[0].numpy(), Window(0, 0, 1))])
    assert said.albedo is not None and said.albedo.shape == (1, 5) and "albedo" in said.sigma
    for other in (model, with_albedo(model, 4)):
        with pytest.raises(ModelError, match="another face model"):
            FaceEncoder(path, other)


def test_another_network_is_refused(model, tmp_path):
    path = tmp_path / "other.safetensors"
    save_weights(path, {"a": np.zeros(3, np.float32)}, WeightsInfo("mgcnet-published", "bfm09", INFO))
    with pytest.raises(WeightsError, match="not of our encoder"):
        FaceEncoder(path, model)


def test_a_file_without_meaning_is_refused(model, weights, tmp_path):
    with safe_open(weights, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    path = tmp_path / "nameless.safetensors"
    save_weights(path, tensors, WeightsInfo("mgcface-encoder-tiny", "open-head", INFO))
    with pytest.raises(WeightsError, match="which number means what"):
        FaceEncoder(path, model)


def test_weights_that_half_precision_cannot_hold_are_not_written(model, layout, tmp_path):
    state = {name: tensor.clone() for name, tensor in trained(layout).state_dict().items()}
    state["answer.bias"][0] = 1e6
    with pytest.raises(WeightsError, match="half precision"):
        save_encoder(tmp_path / "big.safetensors", state, "tiny", model, INFO)
    assert not list(tmp_path.iterdir())


def test_the_small_network_is_small(layout, model, tmp_path, record_property):
    network = Backbone(SIZES["small"], layout.outputs)
    count = sum(parameter.numel() for parameter in network.parameters())
    record_property("parameters", count)
    assert 3e6 < count < 6e6
    path = tmp_path / "small.safetensors"
    save_encoder(path, network.state_dict(), "small", model, INFO)
    assert path.stat().st_size < 12e6
    about = load_weights(
        path,
        "mgcface-encoder-small",
        {name: tuple(t.shape) for name, t in network.state_dict().items() if t.is_floating_point()},
    )[1]
    assert about.face_model == "open-head"
