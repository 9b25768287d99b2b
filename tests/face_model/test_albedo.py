"""The statistical albedo: its file, its two ways to compute, its draws, and the one that comes with the project."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_head import build_head

from backend.errors import ModelError
from backend.face_model import albedo_file
from backend.face_model.albedo import Albedo
from backend.face_model.albedo_file import (
    albedo_path,
    get_albedo,
    layout_of,
    load_albedo,
    quantize8,
    read_albedo_metadata,
    save_albedo,
)
from backend.face_model.commands import model_details
from backend.face_model.file_format import save_model
from backend.face_model.model import ModelInfo
from backend.face_model.registry import get_model, list_models, model_path

SIZE, MODES, TONES = 128, 4, 5


def small_albedo(layout: str = "none") -> Albedo:
    """Smooth modes, and detail in the middle of the texture alone."""
    rng = np.random.default_rng(0)
    u, v = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE))
    smooth = np.stack([np.cos(k * u + 0.5 * k * v)[..., None] * rng.normal(0, 0.2, 3) for k in range(MODES)])
    detail = rng.normal(0.0, 0.1, (MODES, SIZE, SIZE, 3)) * middle()[..., None]
    return Albedo(
        info=ModelInfo("small-albedo", "1", "CC-BY-4.0", True, "Free.", "By the tests."),
        layout=layout,
        mean=rng.uniform(0.2, 0.6, (SIZE, SIZE, 3)).astype(np.float32),
        modes=(smooth + detail).astype(np.float32),
        sigma=np.array([0.4, 0.3, 0.2, 0.1], np.float32),
        tones=np.linspace(-60, 60, TONES, dtype=np.float32),
        tone_curve=np.outer(np.linspace(-2, 2, TONES), np.eye(MODES)[0]).astype(np.float32),
        tone_spread=np.outer([0.5, 1.0], np.eye(MODES)[3] + 0.5 * (np.arange(MODES) != 3)).astype(np.float32),
    )


def middle() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[40:90, 30:98] = True
    return mask


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.albedo.safetensors"
    save_albedo(small_albedo(), middle(), path)
    return path


def test_round_trip_keeps_what_the_layers_promise(saved: Path) -> None:
    made, read = small_albedo(), load_albedo(saved)
    assert (read.info, read.layout) == (made.info, made.layout)
    for name in ("sigma", "tones", "tone_curve", "tone_spread"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    np.testing.assert_allclose(read.mean, made.mean, rtol=1e-3)
    off = np.abs(read.modes - made.modes).max(axis=(0, 3))
    # Inside, half a step of the finer layer; outside, what 64 texels a side tell of a smooth picture.
    assert off[middle()].max() < 0.5 * (np.abs(made.modes).max() * 2.0) / 127 + 1e-6
    away = np.ones((SIZE, SIZE), bool)
    away[38:92, 28:100] = False
    assert off[away].max() < 0.02
    assert {name: read_albedo_metadata(saved)[name] for name in ("modes", "size")} == {"modes": MODES, "size": SIZE}


def test_equal_albedos_give_equal_bytes(saved: Path, tmp_path: Path) -> None:
    save_albedo(small_albedo(), middle(), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_eight_bits_are_off_by_half_a_step() -> None:
    values = np.random.default_rng(1).normal(0.0, [[[0.01]], [[3.0]]], (2, 50, 3))
    steps, scale = quantize8(values)
    assert steps.dtype == np.int8 and np.abs(steps).max() == 127
    assert (np.abs(steps * scale[:, None, None] - values) <= 0.501 * scale[:, None, None]).all()
    assert quantize8(np.zeros((1, 4, 3)))[0].any() == False  # noqa: E712  nothing is divided by nothing


def test_light_is_multiplied_and_bounded() -> None:
    albedo = small_albedo()
    np.testing.assert_allclose(albedo.albedo(np.zeros(MODES)), albedo.mean, rtol=1e-6)
    both, one, other = albedo.albedo(np.array([[0.5, 0.3], [0.5, 0.0], [0.0, 0.3]]))
    np.testing.assert_allclose(both * albedo.mean, one * other, rtol=1e-4)
    extreme = albedo.albedo(20.0 * np.random.default_rng(2).standard_normal((8, MODES)))
    assert extreme.shape == (8, SIZE, SIZE, 3) and extreme.min() > 0.0 and extreme.max() == 1.0


def test_the_torch_twin_agrees_and_has_gradients() -> None:
    albedo = small_albedo()
    coefficients = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.5, -0.4]], requires_grad=True)
    twin = albedo.albedo_torch(coefficients)
    expected = albedo.albedo(coefficients.detach().numpy())
    np.testing.assert_allclose(twin.detach().clamp(max=1.0).numpy(), expected, rtol=1e-4)
    twin.sum().backward()
    step = 1e-3
    moved = coefficients.detach().clone().double()
    moved[0, 1] += step
    ahead = albedo.albedo_torch(moved).sum()
    moved[0, 1] -= 2 * step
    behind = albedo.albedo_torch(moved).sum()
    assert coefficients.grad is not None
    assert float(coefficients.grad[0, 1]) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-3)


def test_draws_cover_tones_evenly_and_obey() -> None:
    albedo, rng = small_albedo(), np.random.default_rng(3)
    drawn = albedo.draw(rng, 4000)
    assert drawn.shape == (4000, MODES) and drawn.dtype == np.float32
    # The first coefficient is tone / 30 and a little beside it: even between -2 and 2.
    counts = np.histogram(drawn[:, 0], np.linspace(-1.5, 1.5, 7))[0]
    assert counts.min() > 0.88 * counts.mean()
    # The last is half as wide below as above.
    assert np.median(drawn[:, 3]) == pytest.approx(0.0, abs=0.05)
    low, high = np.quantile(drawn[:, 3], [0.159, 0.841])
    assert (low, high) == (pytest.approx(-0.5, rel=0.1), pytest.approx(1.0, rel=0.1))
    asked = albedo.draw(rng, 500, tones=np.repeat([-45.0, 99.0], 250))
    assert np.median(asked[:250, 0]) == pytest.approx(-1.5, abs=0.1)
    assert np.median(asked[250:, 0]) == pytest.approx(2, abs=0.1)


def tampered(path: Path, tensors: dict | None = None, **metadata: object) -> Path:
    """The file with some tensors (None removes them) and metadata changed."""
    content, header = load_file(path), read_albedo_metadata(path)
    for store, changes in ((content, tensors or {}), (header, metadata)):
        for name, value in changes.items():
            store.pop(name, None)
            if value is not None:
                store[name] = value
    save_file(content, path, {albedo_file.METADATA_KEY: json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"fine": None}, "fine"),
        ({"sigma": np.ones(MODES)}, "float64"),
        ({"sigma": np.ones(MODES - 1, np.float32)}, "shape"),
        ({"mean": np.full((SIZE, SIZE + 1, 3), 0.5, np.float16)}, "shape"),
        ({"mean": np.full((SIZE, SIZE, 3), 1.5, np.float16)}, "outside 0 to 1"),
        ({"tone_spread": np.full((2, MODES), np.nan, np.float32)}, "NaN"),
        ({"texels": np.full(int(middle().sum()), SIZE * SIZE, np.int32)}, "index"),
        ({"tones": np.zeros(TONES, np.float32)}, "rise"),
    ],
)
def test_broken_tensors_are_refused_in_one_sentence(saved: Path, tensors: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load_albedo(tampered(saved, tensors))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_other_files_are_refused_in_one_sentence(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no albedo", "utf-8")
    save_model(build_head(), tmp_path / "head.safetensors")
    for path, words in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "text", "damaged"),
        (tmp_path / "head.safetensors", "face_model"),
    ):
        with pytest.raises(ModelError, match=words):
            load_albedo(path)
    with pytest.raises(ModelError, match="metadata"):
        load_albedo(tampered(saved, info=None))
    with pytest.raises(ModelError, match="update mgcface"):
        load_albedo(tampered(saved, format_version=99))


def test_a_model_finds_its_albedo(home: Path) -> None:
    assert get_albedo("open-head") is None and "texture_albedo" not in model_details("open-head")
    path = albedo_path("open-head")
    assert path.name == "open-head.albedo.safetensors" and path.parent == model_path("open-head").parent
    head = get_model("open-head")
    save_albedo(small_albedo(layout_of(head)), middle(), path)
    albedo = get_albedo("open-head")
    assert albedo is not None and get_albedo("open-head") is albedo
    assert model_details("open-head")["texture_albedo"]["modes"] == MODES
    # Another head with the same layout may wear it, one with another layout may not.
    assert layout_of(head.replaced(mean=head.mean * 1.1)) == layout_of(head)
    save_albedo(replace(small_albedo(layout_of(head.replaced(uv=head.uv * 0.5)))), middle(), path)
    with pytest.raises(ModelError, match="laid out otherwise"):
        get_albedo("open-head")


def test_albedos_are_not_listed_as_models(home: Path) -> None:
    save_model(build_head(name="mine"), home / "models" / "mine.safetensors")
    save_albedo(small_albedo(), middle(), home / "models" / "mine.albedo.safetensors")
    listed = {entry.name: entry.problem for entry in list_models()}
    assert listed["mine"] == "" and "mine.albedo" not in listed


def test_the_albedo_that_comes_along() -> None:
    albedo, path = get_albedo("open-head"), albedo_path("open-head")
    assert albedo is not None and len(albedo.modes) >= 40 and path.stat().st_size < 8e6
    for words in ("CC BY 4.0", "figshare.5047666", "figshare.4220517", "https://", "warranties", "changed"):
        assert words in albedo.info.attribution
    assert albedo.info.licence == "CC-BY-4.0" and albedo.info.commercial
    assert albedo.info.extra["largest_share_of_a_person"] <= 0.10
    assert (np.diff(albedo.sigma) <= 0).all() and albedo.sigma[-1] > 0
    # A head has two like sides: so has the mean, and a mode is the same or the opposite on the other side.
    assert np.quantile(np.abs(np.log(albedo.mean) - np.log(albedo.mean[:, ::-1])), 0.999) < 0.01
    flipped = albedo.modes[:, :, ::-1]
    same, opposite = (np.abs(albedo.modes - sign * flipped).mean(axis=(1, 2, 3)) for sign in (1.0, -1.0))
    assert (np.minimum(same, opposite) < 0.15 * np.abs(albedo.modes).mean(axis=(1, 2, 3))).all()
