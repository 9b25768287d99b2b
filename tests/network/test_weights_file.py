"""The weights file: what goes in comes out, and whatever else lies there is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from backend.errors import WeightsError
from backend.face_model.file_format import METADATA_KEY
from backend.face_model.model import ModelInfo
from backend.network.weights_file import WeightsInfo, load_weights, read_info, save_weights

SHAPES = {"conv.weight": (2, 3, 1, 1), "conv.bias": (2,)}
ABOUT = WeightsInfo("small", "open-head", ModelInfo("n", "1", "MIT", True, "Free.", "Somebody.", {"hours": 3}))


def tensors(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_weights(tmp_path / "w.safetensors", tensors(), ABOUT)
    return tmp_path / "w.safetensors"


def assert_refused(path: Path, fragment: str, architecture: str = "small") -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights(path, architecture, SHAPES)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and fragment in message, message


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_round_trip(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors(dtype), ABOUT)
    loaded, about = load_weights(path, "small", SHAPES)
    assert about == ABOUT == read_info(path)
    for name, tensor in tensors(dtype).items():
        assert loaded[name].dtype == torch.float32
        np.testing.assert_array_equal(loaded[name].numpy(), tensor.astype(np.float32))


def test_turned_arrays_are_written_as_they_look(tmp_path: Path) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2).transpose(3, 2, 0, 1)
    save_weights(tmp_path / "w.safetensors", {"conv.weight": kernel, "conv.bias": np.zeros(2, np.float32)}, ABOUT)
    loaded, _ = load_weights(tmp_path / "w.safetensors", "small", SHAPES)
    np.testing.assert_array_equal(loaded["conv.weight"].numpy(), kernel)


def test_another_network(saved: Path) -> None:
    assert_refused(saved, "holds weights of the network small and not of large", architecture="large")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"conv.bias": None}, 'lacks tensor "conv.bias"'),
        ({"conv.more": np.zeros(1, np.float32)}, 'has an unknown tensor "conv.more"'),
        ({"conv.bias": np.zeros(3, np.float32)}, "is float32 of 3 where float32 of 2"),
        ({"conv.bias": np.zeros(2, np.int32)}, "is int32 of 2"),
        ({"conv.bias": np.float32([0, np.inf])}, '"conv.bias" of'),
    ],
)
def test_wrong_tensors(tmp_path: Path, changes: dict[str, np.ndarray | None], fragment: str) -> None:
    content = {name: tensor for name, tensor in {**tensors(), **changes}.items() if tensor is not None}
    save_weights(tmp_path / "w.safetensors", content, ABOUT)
    assert_refused(tmp_path / "w.safetensors", fragment)


def test_other_files(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "other.safetensors"
    assert_refused(path, "cannot be read (")
    assert_refused(tmp_path, "cannot be read (")
    for content, fragment in ((b"\x80\x04\x95abc", "a Python pickle"), (b"", "is damaged"), (b"text", "is damaged")):
        path.write_bytes(content)
        assert_refused(path, fragment)
    path.write_bytes(saved.read_bytes()[:-5])
    assert_refused(path, "is damaged")


@pytest.mark.parametrize(
    ("metadata", "fragment"),
    [
        (None, "of another kind"),
        ({METADATA_KEY: "{"}, "of another kind"),
        ({METADATA_KEY: "[]"}, "of another kind"),
        ({METADATA_KEY: json.dumps({"kind": "face_model", "format_version": 1})}, "of another kind"),
        ({METADATA_KEY: json.dumps({"kind": "network_weights", "format_version": 1})}, "of another kind"),
        ({METADATA_KEY: json.dumps({"kind": "network_weights", "format_version": 2})}, "have format 2"),
    ],
)
def test_other_metadata(tmp_path: Path, metadata: dict[str, str] | None, fragment: str) -> None:
    save_file(tensors(), tmp_path / "w.safetensors", metadata)
    assert_refused(tmp_path / "w.safetensors", fragment)
