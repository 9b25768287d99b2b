from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import write_checkpoint
from published_weights import invented_weights

from backend import cli
from backend.network.convert import convert_mgcnet
from backend.network.tf_checkpoint import masked_crc32c


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """All 108 tensors, in TensorFlow's order."""
    return invented_weights()


@pytest.fixture(scope="session")
def checkpoint(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole published checkpoint, with what a training keeps beside the weights."""
    folder = tmp_path_factory.mktemp("model")
    others = {
        "global_step": np.array(400000, np.int64),
        "train_op/beta1_power": np.array(0.0, np.float32),
        "resnet_v1_50/conv1/weights/Adam": np.zeros((7, 7, 3, 64), np.float32),
        "resnet_v1_50/conv1/weights/Adam_1": np.zeros((7, 7, 3, 64), np.float32),
        "InceptionResnetV1/Conv2d_1a_3x3/BatchNorm/beta": np.zeros(32, np.float32),
    }
    for view in ("", "_1", "_2"):
        for slot in ("", "_1"):
            others[f"VertexNormalsPreSplit{view}/Variable{slot}"] = np.zeros((5, 3), np.float32)
    # 96 MB: the reader's own checksum, which its tests compare with the slow one.
    write_checkpoint(folder / "model-400000", {**weights, **others}, crc=masked_crc32c)
    return folder


@pytest.fixture(scope="session")
def converted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "mgcnet.safetensors"
    convert_mgcnet(checkpoint, out)
    return out


@pytest.fixture
def mgcface() -> Callable[..., int]:
    """``mgcface("convert", "mgcnet", ...)`` -> exit code, through the real command line."""

    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.app([str(argument) for argument in arguments], prog_name="mgcface")
        return int(ended.value.code or 0)

    return call
