"""From the TensorFlow checkpoint to a weights file, through the function and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import write_checkpoint
from published_weights import published_shapes
from safetensors.numpy import load_file

from backend.errors import Cancelled, WeightsError
from backend.network.convert import convert_mgcnet
from backend.network.published import ARCHITECTURE, checkpoint_names
from backend.network.weights_file import read_info


def small_checkpoint(folder: Path, **changes: np.ndarray | None) -> Path:
    """All names with one number each, which the check of names passes; ``changes`` adds, replaces, takes away."""
    tensors = {name: np.zeros(1, np.float32) for name in published_shapes()}
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    write_checkpoint(folder / "model-1", tensors)
    return folder


def assert_refused(folder: Path, *fragments: str) -> None:
    with pytest.raises(WeightsError) as caught:
        convert_mgcnet(folder, folder / "out.safetensors")
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    for fragment in fragments:
        assert fragment in message
    assert not list(folder.glob("*out*"))


def test_every_number_arrives(converted: Path, weights: dict[str, np.ndarray]) -> None:
    stored = load_file(converted)
    names = checkpoint_names()
    assert set(stored) == set(names) and len(stored) == 108
    for name, tensor in stored.items():
        original = weights[names[name]]
        assert tensor.dtype == np.float32
        if name == "fc.weight":
            np.testing.assert_array_equal(tensor, original[0, 0].T)
        elif original.ndim == 4:
            np.testing.assert_array_equal(np.moveaxis(tensor, [0, 1], [3, 2]), original)
        else:
            np.testing.assert_array_equal(tensor, original)


def test_it_says_whose_the_weights_are(converted: Path) -> None:
    about = read_info(converted)
    assert about.architecture == ARCHITECTURE and about.face_model == "bfm09"
    assert not about.info.commercial and "research only" in about.info.terms and "ECCV 2020" in about.info.attribution
    assert about.info.extra["training_steps"] == 400000 and about.info.extra["training_batch"] == 2


def test_same_checkpoint_same_bytes(checkpoint: Path, converted: Path, tmp_path: Path) -> None:
    shown: list[float] = []
    again = tmp_path / "again.safetensors"
    convert_mgcnet(checkpoint / "model-400000", again, progress=lambda fraction, _: shown.append(fraction))
    assert again.read_bytes() == converted.read_bytes()
    assert shown == sorted(shown) and len(shown) == 108


def test_names_that_are_not_the_encoders(tmp_path: Path) -> None:
    bias, batch_norm = "resnet_v1_50/conv1/biases", "resnet_v1_50/conv1/BatchNorm/gamma"
    assert_refused(small_checkpoint(tmp_path, **{bias: None}), f'lacks "{bias}"', "107", "108")
    assert_refused(small_checkpoint(tmp_path, **{batch_norm: np.zeros(1, np.float32)}), "batch normalisation")
    extra = "resnet_v1_50/block5/unit_1/bottleneck_v1/conv1/weights"
    assert_refused(small_checkpoint(tmp_path, **{extra: np.zeros(1, np.float32)}), f'unknown tensor "{extra}"', "109")
    write_checkpoint(tmp_path / "model-1", {"vgg_16/conv1/weights": np.zeros(1, np.float32)})
    assert_refused(tmp_path, "is not MGCNet's")


@pytest.mark.parametrize(
    ("tensor", "fragments"),
    [
        (np.zeros((7, 7, 3, 32), np.float32), ("is float32 of 7 x 7 x 3 x 32", "does not fit")),
        (np.zeros((7, 7, 64, 3), np.float32), ("7 x 7 x 64 x 3",)),
        (np.zeros((), np.float32), ("a single number",)),
        (np.zeros((7, 7, 3, 64), np.int32), ("is int32 of",)),
        (np.full((7, 7, 3, 64), np.nan, np.float32), ("holds NaN or infinity",)),
    ],
)
def test_a_tensor_that_does_not_fit(tmp_path: Path, tensor: np.ndarray, fragments: tuple[str, ...]) -> None:
    name = "resnet_v1_50/conv1/weights"
    assert_refused(small_checkpoint(tmp_path, **{name: tensor}), f'"{name}"', *fragments)


def test_cancelled(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        convert_mgcnet(checkpoint, tmp_path / "out.safetensors", cancel=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_the_command(mgcface, checkpoint: Path, converted: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "new" / "mgcnet.safetensors"
    assert mgcface("convert", "mgcnet", "--checkpoint", checkpoint, "--out", out) == 0
    said = capfd.readouterr()
    assert out.read_bytes() == converted.read_bytes()
    assert str(out) in said.out and "400000 steps" in said.out and "For research only" in said.out
    assert said.err == ""
    assert mgcface("convert", "mgcnet", "--checkpoint", checkpoint, "--out", out, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_the_command_refuses_in_one_sentence(mgcface, tmp_path: Path, capfd) -> None:
    for folder, words in ((tmp_path, "holds no checkpoint"), (tmp_path / "no", "There is no checkpoint")):
        assert mgcface("convert", "mgcnet", "--checkpoint", folder, "--out", tmp_path / "o.safetensors") == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("mgcface: ") and words in line
    assert mgcface("convert", "mgcnet") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(mgcface, checkpoint: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "file").write_text("in the way")
    assert mgcface("convert", "mgcnet", "--checkpoint", checkpoint, "--out", tmp_path / "file" / "o.safetensors") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot be written" in line
