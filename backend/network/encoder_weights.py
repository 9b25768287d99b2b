"""The weights file of our own encoder.

It says which size the network has, which number means what (:mod:`backend.network.outputs`) and which face model it
speaks of, down to a fingerprint of its shapes: coefficients of one model say nothing of another, even one of the same
name and size.

Symbols: V vertices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.errors import ModelError, WeightsError
from backend.face_model.model import FaceModel, ModelInfo
from backend.network.backbone import SIZES, Backbone
from backend.network.outputs import Layout
from backend.network.weights_file import WeightsInfo, load_weights, read_info, save_weights

# Followed by the name of a size.
ARCHITECTURE = "mgcface-encoder-"


def state_shapes(size: str, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a weights file."""
    with torch.device("meta"):
        network = Backbone(SIZES[size], layout.outputs)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def save_encoder(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    size: str,
    model: FaceModel,
    info: ModelInfo,
    albedo: int | None = None,
) -> WeightsInfo:
    """Write weights as :class:`FaceEncoder` reads them, in half precision.

    Parameters
    ----------
    path : path
    tensors : mapping of str to tensor
        State of a :class:`backend.network.backbone.Backbone`; counters of batches are left out.
    size : str
        Key of :data:`backend.network.backbone.SIZES`.
    model : FaceModel
    info : ModelInfo
        Who made the weights and what one may do with them; what this file needs is added to its ``extra``.
    albedo : int, optional
        How many modes of the albedo beside the model the network speaks of; by default those in the model.

    Raises
    ------
    OutputError, WeightsError
        The latter for numbers that half precision cannot hold.
    """
    layout = Layout.of(model)
    if albedo is not None:
        layout = replace(layout, albedo=albedo)
    wanted = state_shapes(size, layout)
    extra = {"size": size, "outputs": layout.as_metadata(), "face_model_fingerprint": fingerprint(model)}
    about = WeightsInfo(ARCHITECTURE + size, model.info.name, replace(info, extra={**info.extra, **extra}))
    halves = {name: tensors[name].detach().to("cpu", torch.float16).numpy() for name in wanted}
    for name, half in halves.items():
        if not np.isfinite(half).all():
            raise WeightsError(f'The tensor "{name}" does not fit into half precision; train with a lower rate.')
    save_weights(path, halves, about)
    return about


def load_encoder(path: str | Path, model: FaceModel) -> tuple[Backbone, Layout, WeightsInfo]:
    """The network of a weights file, on the CPU, and what its numbers mean.

    Raises
    ------
    WeightsError
        The file is damaged or of another network.
    ModelError
        It speaks of another face model.
    """
    about = read_info(path)
    size = size_of(about, path)
    layout = check_model(about, model)
    tensors, _ = load_weights(path, about.architecture, state_shapes(size, layout))
    network = Backbone(SIZES[size], layout.outputs)
    # Counters of batches, which only training needs, are not in the file.
    network.load_state_dict(tensors, strict=False)
    return network, layout, about


def size_of(about: WeightsInfo, path: str | Path) -> str:
    """The name of the network's size; :class:`WeightsError` for another network."""
    size = about.architecture.removeprefix(ARCHITECTURE)
    if not about.architecture.startswith(ARCHITECTURE) or size not in SIZES:
        raise WeightsError(
            f"{path} holds weights of the network {about.architecture} and not of our encoder; name another file."
        )
    return size


def check_model(about: WeightsInfo, model: FaceModel) -> Layout:
    """The layout of the weights; :class:`ModelError` for a face model that they do not speak of.

    A model that has learned an albedo since then will do: the weights say nothing of it. So will one without, whose
    albedo lies in a file of its own; then ``extra["albedo"]`` says which one the numbers are of.
    """
    layout = Layout.from_metadata(about.info.extra.get("outputs"))
    known = Layout.of(model)
    beside = known.albedo == 0 and "albedo" in about.info.extra
    same = replace(known, albedo=layout.albedo) == layout and (beside or layout.albedo in (0, known.albedo))
    if not same or about.info.extra.get("face_model_fingerprint") != fingerprint(model):
        raise ModelError(
            f"The weights {about.info.name} speak of another face model than this {model.info.name} "
            f"(theirs is called {about.face_model}); use that one or train weights for this one."
        )
    return layout


def fingerprint(model: FaceModel) -> str:
    """16 hexadecimal digits that tell one set of shapes from another."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (model.mean, model.identity, model.expression):
        digest.update(np.ascontiguousarray(array, np.float32).data)
    digest.update("\n".join(model.expression_names).encode())
    return digest.hexdigest()
