"""Our own encoder as an :class:`backend.network.interface.Encoder`: weights in, crops in, coefficients out.

Symbols: B batch, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.face_model.model import FaceModel
from backend.network.calibration import Calibration
from backend.network.encoder_weights import load_encoder
from backend.network.framing import frame
from backend.network.interface import FaceCrop, Regressed
from backend.network.outputs import decode, sigmas
from backend.vision.crop import Reduced, Window
from backend.vision.photo import DetectedFace, Photo

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
        network, self.layout, about = load_encoder(weights, model)
        self.info, self.model = about.info, model
        self.calibration = Calibration.from_metadata(about.info.extra.get("calibration"))
        self.side = network.size.side
        self.device = torch.device(device)
        self.network = network.to(self.device).for_inference()

    def crop(self, photo: Photo, face: DetectedFace) -> FaceCrop:
        window = window_of(face.landmarks["ibug68"])
        return FaceCrop(Reduced(photo.pixels, window, self.side).crop(window), window)

    @torch.inference_mode()
    def regress(self, crops: Sequence[FaceCrop]) -> Regressed:
        none = torch.zeros((0, self.layout.outputs))
        parts = [none, *(self._outputs(crops[start : start + CHUNK]) for start in range(0, len(crops), CHUNK))]
        said = decode(torch.cat(parts).double(), self.layout)
        known = self.calibration
        log_variance = {
            name: value + 2.0 * float(np.log(known.factor.get(name, 1.0))) for name, value in said.log_variance.items()
        }
        spread = {name: value.numpy() for name, value in sigmas(replace(said, log_variance=log_variance)).items()}
        sizes = self.layout.sizes
        return Regressed(
            identity=said.identity.float().numpy(),
            expression=said.expression.float().numpy(),
            R=said.R.numpy(),
            t=said.t(self.layout).numpy(),
            focal_px=self.side * said.focal.numpy(),
            side=self.side,
            albedo=said.albedo.float().numpy() if self.layout.albedo else None,
            light=said.light.float().numpy(),
            sigma={
                name: known.shared(name, value, sizes.get(name, 1)).astype(np.float32) for name, value in spread.items()
            },
            usual=known.usual,
        )

    def _outputs(self, crops: Sequence[FaceCrop]) -> torch.Tensor:
        """(B, outputs) float32 as the network says it, on the CPU."""
        pixels = torch.from_numpy(np.stack([crop.pixels for crop in crops]))
        return self.network(pixels.to(self.device)).float().cpu()


def window_of(landmarks: np.ndarray) -> Window:
    """Where the crop of a face lies: (68, 2) pixels of the photo, see :mod:`backend.network.framing`."""
    middle, side, angle = frame(torch.as_tensor(landmarks, dtype=torch.float64)[None])
    return Window(float(middle[0, 0]), float(middle[0, 1]), float(side[0]), float(angle[0]))
