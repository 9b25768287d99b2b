"""The published checkpoint becomes a weights file.

Kernels are turned from TensorFlow's order (height, width, inputs, outputs) into PyTorch's (outputs, inputs,
height, width); the last layer, a 1x1 convolution on one pixel there, is a matrix here. Numbers are not changed.

The checkpoint is known to hold exactly 108 tensors of the encoder. One that holds others, or batch
normalisation, is another network, and is refused rather than bent to fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.errors import Cancelled, WeightsError
from backend.face_model.model import ModelInfo
from backend.network.published import ARCHITECTURE, PREFIX, checkpoint_names, state_shapes
from backend.network.tf_checkpoint import Checkpoint
from backend.network.weights_file import WeightsInfo, save_weights

# Whose coefficients the network gives.
FACE_MODEL = "bfm09"

INFO = ModelInfo(
    name="mgcnet-published",
    version="ECCV 2020",
    licence="LicenseRef-MGCNet-weights",
    commercial=False,
    terms=(
        "For research only: the weights were published without a licence of their own, were learned through the "
        "non-commercial Basel Face Model from photos that may be used for research, and only work with that model."
    ),
    attribution=(
        "MGCNet: J. Shang, T. Shen, S. Li, L. Zhou, M. Zhen, T. Fang, L. Quan, Self-Supervised Monocular 3D Face "
        "Reconstruction by Occlusion-Aware Multi-view Geometry Consistency, ECCV 2020."
    ),
    extra={"source": "https://github.com/jiaxiangshang/MGCNet"},
)

# What Adam keeps beside every weight that it trains, and the buffers of normals that the published training kept:
# one per photo of a batch.
OPTIMISER_SLOT = re.compile(r"/Adam(_\d+)?$")
NORMAL_BUFFER = re.compile(r"^VertexNormalsPreSplit/Variable(_\d+)?$")
STEP = "global_step"

Progress = Callable[[float, str], None]
Cancel = Callable[[], bool]


def convert_mgcnet(
    checkpoint: str | Path, out: str | Path, progress: Progress | None = None, cancel: Cancel | None = None
) -> WeightsInfo:
    """Turn the published TensorFlow checkpoint into a weights file.

    Parameters
    ----------
    checkpoint : path
        The folder with the checkpoint, its prefix (``model/model-400000``) or one of its files.
    out : path
        The ``.safetensors`` file to write; it appears whole or not at all.
    progress : callable, optional
        Called with the fraction done and a few words.
    cancel : callable, optional
        Asked now and then; returning true raises :class:`Cancelled`.

    Raises
    ------
    WeightsError
        It is no checkpoint, is damaged, or is not that of the published encoder.
    """
    source = Checkpoint(checkpoint)
    names, shapes = checkpoint_names(), state_shapes()
    check_names(source, set(names.values()))
    tensors = {}
    for done, (name, stored) in enumerate(names.items()):
        if cancel is not None and cancel():
            raise Cancelled("The conversion was cancelled; nothing was written.")
        if progress is not None:
            progress(done / len(names), stored.removeprefix(PREFIX))
        tensors[name] = convert_tensor(source, stored, shapes[name])
    about = WeightsInfo(ARCHITECTURE, FACE_MODEL, described(source))
    save_weights(out, tensors, about)
    return about


def check_names(source: Checkpoint, wanted: set[str]) -> None:
    """Exactly the encoder's tensors, beside whatever else a training keeps."""
    found = {name for name in source.entries if name.startswith(PREFIX) and not OPTIMISER_SLOT.search(name)}
    if not found:
        raise WeightsError(f'{source.prefix} has no tensor below "{PREFIX}", so it is not MGCNet\'s; name another one.')
    if any("BatchNorm" in name for name in found):
        raise WeightsError(
            f"{source.prefix} has batch normalisation, which the published encoder has not (an ImageNet ResNet has); "
            "name MGCNet's own checkpoint."
        )
    missing, unknown = sorted(wanted - found), sorted(found - wanted)
    if missing or unknown:
        what = f'lacks "{missing[0]}"' if missing else f'has an unknown tensor "{unknown[0]}"'
        raise WeightsError(
            f"{source.prefix} {what} ({len(found)} of the encoder's tensors where {len(wanted)} are needed); "
            "name MGCNet's own checkpoint."
        )


def convert_tensor(source: Checkpoint, stored: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor in PyTorch's order, checked to have the shape that the network has."""
    tensor = source.read(stored)
    turned = tensor.transpose(3, 2, 0, 1) if tensor.ndim == 4 else tensor
    if len(shape) == 2 and turned.shape == (*shape, 1, 1):
        turned = turned.reshape(shape)
    if turned.shape != shape or tensor.dtype != np.float32:
        found = " x ".join(map(str, tensor.shape)) or "a single number"
        raise WeightsError(
            f'The tensor "{stored}" of {source.prefix} is {tensor.dtype} of {found}, which does not fit the published '
            "encoder; name MGCNet's own checkpoint."
        )
    if not np.isfinite(tensor).all():
        raise WeightsError(f'The tensor "{stored}" of {source.prefix} holds NaN or infinity; name another checkpoint.')
    return turned


def described(source: Checkpoint) -> ModelInfo:
    """The notice, with what the checkpoint tells of its training."""
    extra = dict(INFO.extra)
    step = source.entries.get(STEP)
    if step is not None and step.shape == ():
        extra["training_steps"] = int(source.read(STEP))
    batch = sum(NORMAL_BUFFER.match(name) is not None for name in source.entries)
    if batch:
        extra["training_batch"] = batch
    return replace(INFO, extra=extra)
