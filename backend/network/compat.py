"""The published MGCNet as an :class:`backend.network.interface.Encoder`: its crops, its 257 numbers, its camera.

Up to :func:`decode` everything is as published (Shang et al., ECCV 2020, and the code beside it): millimetres,
a telephoto camera of fixed focal length, light on albedo in the picture's own sRGB. Then it becomes ours:

- The published axes are ours (x to the picture's right on a frontal face, y up, z towards the camera; the camera
  x right, y down, z forward), its origin is that of its own file of the Basel Face Model, which the installer
  moved; ``moved_m`` in the model's information takes that back.
- Published landmarks count pixel centres as whole numbers, published renderings at +0.5 as we do; the two are
  half a pixel apart there. Crops are cut by the former, because the network saw such crops; the camera is the
  latter, because the pictures of its paper are.
- Published light multiplies sRGB; ours is linear. See :func:`linear_light`.

Symbols: B batch, S = 224.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from backend.errors import ModelError
from backend.face_model.model import FaceModel
from backend.geometry.rotation import matrix_from_rotation_vector
from backend.network.interface import FaceCrop, Regressed
from backend.network.published import ARCHITECTURE, OUTPUTS, SIDE, build, state_shapes
from backend.network.weights_file import load_weights
from backend.rendering.shade import AMBIENT, BASIS_SIZE, sh_basis
from backend.vision.crop import Window
from backend.vision.photo import DetectedFace, Photo

# Parts of the output, in this order.
IDENTITY, ALBEDO, EXPRESSION, POSE, LIGHT = 80, 80, 64, 6, 27

# What the six numbers of the pose are added to: rz, ry, rx in radians, tx, ty, tz in millimetres. It shows the
# mean face looking into the camera, its height three quarters of the crop's.
POSE_PRIOR = (0.0, 0.0, 3.141593, 0.17440447, 9.1053238, 4994.3359)

# The one focal length of all training and testing, pixels of the crop; the principal point is the crop's middle.
FOCAL_PX = 4700.0

# Where the mean face has the middle of its right and left eye (in the picture the left one comes first), the point
# under the nose, and the corners of the mouth; whole numbers are pixel centres.
STANDARD_POINTS = np.array(
    [
        [81.672401, 88.470589],
        [141.862671, 88.462921],
        [112.000000, 132.863434],
        [87.397392, 153.562943],
        [136.007263, 153.552078],
    ]
)

METRES_PER_MM = 1e-3

# The sRGB curve is close to this power (IEC 61966-2-1, annex).
SRGB_POWER = 2.2
# Directions in which light is compared, and the weight of those that a face in front of the camera hardly shows.
LIGHT_SAMPLES = 512
LEAST_WEIGHT = 0.05

# Crops that go through the network at a time: enough to keep every core busy, and 200 MB of activations.
CHUNK = 16


@dataclass(frozen=True)
class Decoded:
    """The 257 numbers as published, priors added.

    ``identity`` (B, 80), ``albedo`` (B, 80), ``expression`` (B, 64): standard deviations; ``angles`` (B, 3): rz, ry,
    rx in radians; ``translation_mm`` (B, 3); ``light`` (B, 3, 9): for albedo and colours in sRGB. All float64.
    """

    identity: np.ndarray
    albedo: np.ndarray
    expression: np.ndarray
    angles: np.ndarray
    translation_mm: np.ndarray
    light: np.ndarray


def decode(outputs: np.ndarray) -> Decoded:
    """(B, 257) -> what it means, in the published conventions."""
    outputs = np.asarray(outputs, np.float64)
    if outputs.ndim != 2 or outputs.shape[1] != OUTPUTS:
        raise ValueError(f"the outputs must be B x {OUTPUTS}, not {outputs.shape}")
    ends = np.cumsum([IDENTITY, ALBEDO, EXPRESSION, POSE])
    identity, albedo, expression, pose, light = np.split(outputs, ends, axis=1)
    pose = pose + POSE_PRIOR
    light = light.reshape(-1, 3, BASIS_SIZE) + np.eye(BASIS_SIZE)[0] * AMBIENT
    return Decoded(identity, albedo, expression, pose[:, :3], pose[:, 3:], light)


def rotation(angles: np.ndarray) -> np.ndarray:
    """(B, 3) published rz, ry, rx -> (B, 3, 3) from model to camera: ``Rx(rx) Ry(ry) Rz(rz)``."""
    about_z, about_y, about_x = (
        matrix_from_rotation_vector(angles[:, [number]] * np.eye(3)[axis]) for number, axis in ((0, 2), (1, 1), (2, 0))
    )
    return about_x @ about_y @ about_z


def linear_light(light: np.ndarray) -> np.ndarray:
    """Light on sRGB albedo as light on linear albedo.

    The published colour is ``shade * albedo``, both in sRGB. Where sRGB is a power p of linear intensity, the
    linear colour is ``shade^p * albedo^p``: the same albedo, linear, under the light ``shade^p``. Its harmonics of
    order 2 are fitted by least squares over directions, those towards the camera of a frontal face weighing most.
    Light that comes evenly is carried over exactly; for light of usual contrast (its first order a quarter of its
    even part) the fit is off by 5 % of the mean brightness, the root of the mean square over the front.

    Parameters
    ----------
    light : (B, 3, 9) float
        Published coefficients, the even 0.8 included.

    Returns
    -------
    (B, 3, 9) float64
    """
    basis, solve = _light_fit()
    shade = np.clip(light @ basis.T, 0.0, None) ** SRGB_POWER
    return shade @ solve.T


@lru_cache(maxsize=1)
def _light_fit() -> tuple[np.ndarray, np.ndarray]:
    """The basis in directions spread evenly (a Fibonacci sphere), (N, 9), and its weighted inverse, (9, N)."""
    number = np.arange(LIGHT_SAMPLES) + 0.5
    z = 1.0 - 2.0 * number / LIGHT_SAMPLES
    turn = number * np.pi * (3.0 - np.sqrt(5.0))
    radius = np.sqrt(1.0 - z * z)
    directions = np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=1)
    basis = sh_basis(torch.from_numpy(directions)).numpy()
    weighted = basis * np.maximum(z, LEAST_WEIGHT)[:, None]
    return basis, np.linalg.solve(weighted.T @ basis, weighted.T)


# --- crops ------------------------------------------------------------------------------------------------


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """(68, 2) iBUG points -> (5, 2): middles of the eyes, under the nose, corners of the mouth."""
    eyes = [landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)]
    return np.stack([*eyes, landmarks[33], landmarks[48], landmarks[54]])


def align(landmarks: np.ndarray) -> Window:
    """Where the published crop of a face lies.

    The least-squares similarity from the five points to the standard ones. In the plane it is one complex
    factor, ``sum(conj(a) b) / sum(|a|^2)`` of the centred points (Umeyama 1991 without mirroring).

    Parameters
    ----------
    landmarks : (68, 2) float
        iBUG, pixels of the photo with centres at +0.5.
    """
    points = five_points(np.asarray(landmarks, np.float64)) - 0.5
    photo, crop = (side[:, 0] + 1j * side[:, 1] for side in (points, STANDARD_POINTS))
    from_middle, to_middle = photo.mean(), crop.mean()
    a, b = photo - from_middle, crop - to_middle
    factor = (a.conj() @ b) / (a.conj() @ a).real
    # The crop's middle is at 111.5 where whole numbers are pixel centres.
    middle = from_middle + (SIDE / 2 - 0.5) * (1 + 1j) / factor - to_middle / factor + 0.5 * (1 + 1j)
    return Window(middle.real, middle.imag, SIDE / abs(factor), -float(np.angle(factor)))


def cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    """The published crop: bilinear straight from the photo, its border repeated, nothing averaged.

    (H, W, 3) uint8 -> (224, 224, 3) uint8. :class:`backend.vision.crop.Reduced` would alias less, but the network
    was taught with crops made like this.
    """
    corner, right, below = window.to_photo(np.array([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5]]), SIDE) - 0.5
    return cv2.warpAffine(
        pixels,
        np.stack([right - corner, below - corner, corner], axis=1),
        (SIDE, SIDE),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


# --- the encoder ------------------------------------------------------------------------------------------


class PublishedEncoder:
    """The published network behind the project's interface.

    Parameters
    ----------
    weights : path
        Made by ``mgcface convert mgcnet``.
    model : FaceModel
        ``bfm09`` as ``mgcface models install`` makes it.
    device : str
        A device of PyTorch.

    Raises
    ------
    WeightsError, ModelError
    """

    def __init__(self, weights: str | Path, model: FaceModel, device: str = "cpu") -> None:
        tensors, about = load_weights(weights, ARCHITECTURE, state_shapes())
        self.info = about.info
        self.model = model
        self.moved = source_origin(model, about.face_model)
        self.device = torch.device(device)
        network = build(tensors).to(self.device)
        # A tenth to a fifth faster on CPUs. PyTorch's types do not know the argument.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def crop(self, photo: Photo, face: DetectedFace) -> FaceCrop:
        window = align(face.landmarks["ibug68"])
        return FaceCrop(cut(photo.pixels, window), window)

    def regress(self, crops: Sequence[FaceCrop]) -> Regressed:
        decoded = decode(self.outputs(np.stack([crop.pixels for crop in crops]) if crops else _no_pixels()))
        R = rotation(decoded.angles)
        return Regressed(
            identity=decoded.identity.astype(np.float32),
            expression=decoded.expression.astype(np.float32),
            R=R,
            t=decoded.translation_mm * METRES_PER_MM - R @ self.moved,
            focal_px=np.full(len(crops), FOCAL_PX),
            side=SIDE,
            albedo=decoded.albedo.astype(np.float32),
            light=linear_light(decoded.light).astype(np.float32),
        )

    def outputs(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 224, 224, 3) uint8 -> (B, 257) float32, as the network says it."""
        said = np.zeros((len(pixels), OUTPUTS), np.float32)
        for start in range(0, len(pixels), CHUNK):
            part = torch.from_numpy(pixels[start : start + CHUNK]).to(self.device)
            # (B, H, W, C) seen as (B, C, H, W) is what PyTorch calls channels-last.
            crops = part.permute(0, 3, 1, 2).to(torch.float32) / 255.0
            with torch.inference_mode():
                said[start : start + CHUNK] = self.network(crops).cpu().numpy()
        return said


def _no_pixels() -> np.ndarray:
    return np.zeros((0, SIDE, SIDE, 3), np.uint8)


def source_origin(model: FaceModel, name: str) -> np.ndarray:
    """(3,) metres: how far the installer moved the model away from the origin of its source.

    Raises :class:`ModelError` for a model that the coefficients do not belong to.
    """
    sizes = (len(model.identity), len(model.expression), 0 if model.albedo_basis is None else len(model.albedo_basis))
    if sizes != (IDENTITY, EXPRESSION, ALBEDO):
        raise ModelError(
            f"The published network speaks of {name} with {IDENTITY}, {EXPRESSION} and {ALBEDO} modes of identity, "
            f"expression and albedo, and {model.info.name} has {sizes[0]}, {sizes[1]} and {sizes[2]}; use {name}."
        )
    moved = model.info.extra.get("moved_m")
    if moved is None:
        raise ModelError(
            f"The model {model.info.name} does not say where its source had its origin; install it again from its file."
        )
    return np.asarray(moved, np.float64)
