"""Our own encoder as an :class:`backend.network.interface.Encoder`: weights in, crops in, coefficients out.

The weights file says which size the network has, which number means what (:mod:`backend.network.outputs`) and which
face model it speaks of, down to a fingerprint of its shapes: coefficients of one model say nothing of another, even
one of the same name and size.

Symbols: B batch, S side of a crop, V vertices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.errors import ModelError, WeightsError
from backend.face_model.model import FaceModel, ModelInfo
from backend.network.backbone import SIZES, Backbone
from backend.network.framing import frame
from backend.network.interface import FaceCrop, Regressed
from backend.network.outputs import Layout, decode, sigmas
from backend.network.weights_file import WeightsInfo, load_weights, read_info, save_weights
from backend.vision.crop import Reduced, Window
from backend.vision.photo import DetectedFace, Photo

# Followed by the name of a size.
ARCHITECTURE = "mgcface-encoder-"

# Crops that go through the network at a time: enough to keep every core busy, and 100 MB of activations.
CHUNK = 16


class FaceEncoder:
    """The encoder that ``mgcface train`` makes.

    Parameters
    ----------
    weights : path
    model : FaceModel
        The one that the weights were trained for.
    device : str
        A device of PyTorch.

    Raises
    ------
    WeightsError, ModelError
    """

    def __init__(self, weights: str | Path, model: FaceModel, device: str = "cpu") -> None:
        about = read_info(weights)
        self.info, self.model = about.info, model
        self.layout = check_model(about, model)
        size = size_of(about, weights)
        self.side = SIZES[size].side
        tensors, _ = load_weights(weights, about.architecture, state_shapes(size, self.layout))
        self.device = torch.device(device)
        with torch.device("meta"):
            network = Backbone(SIZES[size], self.layout.outputs)
        # Counters of batches, which inference has no use for, are not in the file.
        network.load_state_dict(tensors, assign=True, strict=False)
        for name, buffer in network.named_buffers():
            if buffer.is_meta:
                network.get_submodule(name.rpartition(".")[0]).register_buffer(name.rpartition(".")[2], None)
        self.network = network.to(self.device).for_inference()

    def crop(self, photo: Photo, face: DetectedFace) -> FaceCrop:
        window = window_of(face.landmarks["ibug68"])
        return FaceCrop(Reduced(photo.pixels, window, self.side).crop(window), window)

    @torch.inference_mode()
    def regress(self, crops: Sequence[FaceCrop]) -> Regressed:
        none = torch.zeros((0, self.layout.outputs))
        parts = [none, *(self._outputs(crops[start : start + CHUNK]) for start in range(0, len(crops), CHUNK))]
        said = decode(torch.cat(parts).double(), self.layout)
        return Regressed(
            identity=said.identity.float().numpy(),
            expression=said.expression.float().numpy(),
            R=said.R.numpy(),
            t=said.t(self.layout).numpy(),
            focal_px=self.side * said.focal.numpy(),
            side=self.side,
            albedo=said.albedo.float().numpy() if self.layout.albedo else None,
            light=said.light.float().numpy(),
            sigma={name: value.float().numpy() for name, value in sigmas(said).items()},
        )

    def _outputs(self, crops: Sequence[FaceCrop]) -> torch.Tensor:
        """(B, outputs) float32 as the network says it, on the CPU."""
        pixels = torch.from_numpy(np.stack([crop.pixels for crop in crops]))
        return self.network(pixels.to(self.device)).float().cpu()


def window_of(landmarks: np.ndarray) -> Window:
    """Where the crop of a face lies: (68, 2) pixels of the photo, see :mod:`backend.network.framing`."""
    middle, side, angle = frame(torch.as_tensor(landmarks, dtype=torch.float64)[None])
    return Window(float(middle[0, 0]), float(middle[0, 1]), float(side[0]), float(angle[0]))


# --- weights ----------------------------------------------------------------------------------------------


def state_shapes(size: str, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a weights file."""
    with torch.device("meta"):
        network = Backbone(SIZES[size], layout.outputs)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def save_encoder(
    path: str | Path, tensors: Mapping[str, torch.Tensor], size: str, model: FaceModel, info: ModelInfo
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

    Raises
    ------
    OutputError, WeightsError
        The latter for numbers that half precision cannot hold.
    """
    layout = Layout.of(model)
    wanted = state_shapes(size, layout)
    extra = {"size": size, "outputs": layout.as_metadata(), "face_model_fingerprint": fingerprint(model)}
    about = WeightsInfo(ARCHITECTURE + size, model.info.name, replace(info, extra={**info.extra, **extra}))
    halves = {name: tensors[name].detach().to("cpu", torch.float16).numpy() for name in wanted}
    for name, half in halves.items():
        if not np.isfinite(half).all():
            raise WeightsError(f'The tensor "{name}" does not fit into half precision; train with a lower rate.')
    save_weights(path, halves, about)
    return about


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

    A model that has learned an albedo since then will do: the weights say nothing of it.
    """
    layout = Layout.from_metadata(about.info.extra.get("outputs"))
    known = Layout.of(model)
    same = replace(known, albedo=layout.albedo) == layout and layout.albedo in (0, known.albedo)
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
