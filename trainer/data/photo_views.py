"""Real photos with a pseudo-truth: what the engine says of them, and how far to believe it.

The fit knows where landmarks are, and through them shape, pose and expression. It does not know the light apart from
the skin's colour, nor, unless the file tells the focal length, the distance; of those there is no truth, and training
has the photo itself (``losses.render``) and priors instead.

Symbols: S side of a crop, V vertices, L landmarks.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backend.errors import PhotoError
from backend.network.framing import frame
from backend.network.outputs import GROUPS, placed
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.result import Reconstruction
from backend.rendering.rasterize import interpolate
from backend.rendering.shade import vertex_normals
from backend.rendering.synthesis import draw_view
from backend.vision.crop import Reduced, Window
from backend.vision.photo import Photo
from trainer.data.sample_files import LANDMARK_COUNT, STORED_LANDMARKS, png
from trainer.data.skin_albedo import read_at, skin_places
from trainer.data.synthetic import Head

# A fit is refused above these: root mean square of landmark distances over the face height (twice what is usual),
# and how far the landmarks move, over the crop's side, by giving the crop a camera of its own.
WORST_FIT, WORST_CAMERA = 0.03, 0.012
# ... and below these: pixels of the photo for each of the crop's side, and the part of the face's pixels that is skin.
LEAST_PIXELS, LEAST_SKIN = 0.4, 0.15

# Error of a landmark that says nothing of the fit, over the face height: at it a fit is trusted by half.
USUAL_FIT = 0.015

# Confidence of the texture (0 to 1) from which on a pixel is taken for bare skin.
SURE = 0.35

# The jaw's landmarks are points of the head only from the front; others count where they face the camera, degrees and
# cosine.
JAW, JAW_YAW, LEAST_FACING = slice(0, 17), 15.0, 0.1

# Quality of the crops that are kept: what comes from JPEG loses little by it.
JPEG_QUALITY = 95

TEXTURE_SIZE = 1024


@dataclass(frozen=True)
class PhotoView:
    """One face of a photo, ready for a triplet.

    Attributes
    ----------
    name : str
        What to call it in reports.
    picture, skin : bytes
        JPEG of the crop; PNG (S, S) grey of how surely each pixel is bare skin.
    numbers : dict of str to (N,) float32
        By column of the truth, see :func:`trainer.data.sample_files.columns_for`.
    facing : (V,) bool
        Vertices of the face that face the camera.
    place : (2,) float64
        Middle of the crop in its photo, pixels.
    size : float
        Side of the crop in its photo, pixels.
    """

    name: str
    picture: bytes
    skin: bytes
    numbers: dict[str, np.ndarray]
    facing: np.ndarray
    place: np.ndarray
    size: float

    @property
    def R(self) -> np.ndarray:
        return self.numbers["R"].reshape(3, 3)

    @property
    def yaw(self) -> float:
        """Degrees."""
        return float(np.degrees(np.arctan2(self.R[0, 2], -self.R[2, 2])))


@dataclass(frozen=True)
class Refused:
    """A photo that gave no view, and why."""

    name: str
    reason: str


class PhotoReader:
    """Runs the engine over photos.

    Parameters
    ----------
    head : Head
    side : int
        S.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(self, head: Head, side: int, device: str = "auto") -> None:
        self.head, self.side = head, side
        stages = ("detect", "fit", "texture")
        self.pipeline = Pipeline(head.model, device=device, texture_size=TEXTURE_SIZE, stages=stages)
        self.uv, self.on_skin = skin_places(head.model)

    def read(
        self, named: Iterable[tuple[str, Path | Photo]], cancel: Callable[[], bool] = lambda: False
    ) -> Iterator[PhotoView | Refused]:
        """What each of the named photos shows, in their order; a bad one stops nothing.

        Raises
        ------
        Cancelled
        """
        names: list[str] = []

        def sources() -> Iterator[Path | Photo]:
            for name, source in named:
                names.append(name)
                yield source

        for outcome in self.pipeline.reconstruct_many(sources(), cancel=cancel):
            name = names[outcome.index]
            if outcome.error is not None or outcome.photo is None:
                yield Refused(name, str(outcome.error))
                continue
            try:
                yield self.view(name, outcome.photo, outcome.reconstructions[0])
            except PhotoError as error:
                yield Refused(name, str(error))
            # Photos of a large folder would fill the memory.
            outcome.photo = None

    def view(self, name: str, photo: Photo, fitted: Reconstruction) -> PhotoView:
        """The view of a fitted face; :class:`PhotoError` says why it is none."""
        landmarks = fitted.landmarks[STORED_LANDMARKS].astype(np.float64)
        window = window_of(landmarks)
        if window.size < LEAST_PIXELS * self.side:
            raise PhotoError(f"The face is {window.size:.0f} pixels large; use a photo where it is larger.")
        if fitted.fit.rms_relative > WORST_FIT:
            raise PhotoError(
                f"The fit is {100 * fitted.fit.rms_relative:.1f} % of the face off; use a photo that shows it clearly."
            )
        R, t, focal = crop_camera(fitted, window)
        head, vertices = self.head, torch.from_numpy(fitted.vertices[None]).float()
        pose = [torch.from_numpy(part[None]).float() for part in (R, t, focal)]
        place, log_focal = placed(pose[0], pose[1], pose[2], head.layout)
        off = camera_error(fitted, window, R, t, float(focal))
        if off > WORST_CAMERA:
            raise PhotoError(
                f"The face is so far from the middle of a wide photo that its crop is bent by {100 * off:.1f} %; "
                "crop the photo less or step back."
            )
        normals = vertex_normals(vertices, head.triangles.cpu())[0].numpy()
        towards = -R.T @ t - fitted.vertices
        facing = (normals * towards).sum(axis=1) / np.linalg.norm(towards, axis=1)
        skin = self._skin(fitted, vertices, R, t, float(focal))
        crop = Reduced(photo.pixels, window, self.side).crop(window)
        found = window.to_crop(landmarks, self.side)
        believed = self._trust(fitted, photo)
        numbers = {
            "identity": fitted.identity,
            "expression": fitted.expression,
            "albedo": np.zeros(head.layout.albedo),
            "light": np.zeros(27),
            "R": R,
            "place": place.numpy(),
            "log_focal": log_focal.numpy(),
            "landmarks": found,
            "visible": self._visible(landmarks, photo, facing, R),
            "trust": np.array([believed[name] for name in GROUPS]),
        }
        return PhotoView(
            name,
            jpeg(crop),
            png(np.rint(255.0 * skin).astype(np.uint8)),
            {column: np.asarray(values, np.float32).reshape(-1) for column, values in numbers.items()},
            (facing > LEAST_FACING) & head.face.cpu().numpy(),
            np.array([window.x, window.y]),
            window.size,
        )

    def _trust(self, fitted: Reconstruction, photo: Photo) -> dict[str, float]:
        """How far each group of the fit is a truth, 0 to 1.

        Landmarks that do not fit say that all is off: ``s^2 / (s^2 + rms^2)``. Of the identity the fit knows the
        part of its variance that the photo took away. The focal length is known where the file says it, and
        nothing is known of skin and light.
        """
        rms = fitted.fit.rms_relative
        fit = USUAL_FIT**2 / (USUAL_FIT**2 + rms**2)
        told = float((1.0 - fitted.fit.sigma_identity.astype(np.float64).clip(0.0, 1.0) ** 2).mean())
        return {
            "identity": fit * told,
            "expression": fit,
            "albedo": 0.0,
            "light": 0.0,
            "rotation": fit,
            "place": fit,
            "log_focal": fit if photo.focal_px is not None else 0.0,
        }

    def _visible(self, landmarks: np.ndarray, photo: Photo, facing: np.ndarray, R: np.ndarray) -> np.ndarray:
        """(L,) bool: landmarks that the photo shows."""
        corners, weights = (part.cpu().numpy() for part in self.head.embeddings[STORED_LANDMARKS])
        visible = (facing[corners] * weights).sum(axis=1) > LEAST_FACING
        yaw = np.degrees(np.arctan2(R[0, 2], -R[2, 2]))
        visible[JAW] = abs(yaw) < JAW_YAW
        inside = (landmarks >= 0).all(axis=1) & (landmarks <= [photo.width, photo.height]).all(axis=1)
        assert len(visible) == LANDMARK_COUNT
        return visible & inside

    def _skin(
        self, fitted: Reconstruction, vertices: torch.Tensor, R: np.ndarray, t: np.ndarray, focal: float
    ) -> np.ndarray:
        """(S, S) float: what the texture, which knows hair and things before a face, believed to be skin."""
        if fitted.texture is None:
            raise PhotoError("The photo gave no texture; leave it out.")
        K = torch.tensor(
            [[focal * self.side, 0, self.side / 2], [0, focal * self.side, self.side / 2], [0, 0, 1]]
        ).float()
        triangles = self.head.triangles.cpu()
        rotation, translation = torch.from_numpy(R).float(), torch.from_numpy(t).float()
        view = draw_view(vertices, triangles, K, rotation, translation, self.side, self.side)
        seen = read_at(fitted.texture.confidence[None, ..., None].astype(np.float32) / 255.0, self.uv)
        believed = torch.from_numpy(seen * self.on_skin[:, None])
        painted = interpolate(believed, view.fragments, triangles)[0, ..., 0]
        face = self.head.skin_triangles.cpu()[view.fragments.triangle[0].clamp(min=0).long()] & view.fragments.mask[0]
        skin = ((painted / SURE).clamp(0.0, 1.0) * face).numpy()
        if skin.sum() < LEAST_SKIN * float(face.sum()):
            raise PhotoError("Hardly any bare skin is seen; use a photo where the face is not covered.")
        return skin


# --- geometry ---------------------------------------------------------------------------------------------


def window_of(landmarks: np.ndarray) -> Window:
    """Where the crop of a face lies: (68, 2) pixels of the photo, see :mod:`backend.network.framing`."""
    middle, side, angle = frame(torch.as_tensor(landmarks, dtype=torch.float64)[None])
    return Window(float(middle[0, 0]), float(middle[0, 1]), float(side[0]), float(angle[0]))


def crop_camera(fitted: Reconstruction, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A camera that looks at the middle of the crop and sees the head nearly as the photo does.

    The photo's camera is turned until its axis goes through the middle of the crop, and rolled upright. What is left
    is what a flat picture does away from its middle; at the angle a, lengths there are 1 / cos a times (across) and
    1 / cos^2 a times (along) those in the middle, of which the geometric mean goes into the focal length.

    Returns
    -------
    R : (3, 3), t : (3,)
    focal : ()
        In sides of the crop.
    """
    camera = fitted.camera
    axis = np.linalg.inv(camera.K) @ np.array([window.x, window.y, 1.0])
    axis /= np.linalg.norm(axis)
    x = np.array([1.0, 0.0, 0.0]) - axis[0] * axis
    x /= np.linalg.norm(x)
    turn = np.stack([x, np.cross(axis, x), axis])
    cos, sin = np.cos(window.angle), np.sin(window.angle)
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]) @ turn
    focal = camera.focal_px / window.size / axis[2] ** 1.5
    return turn @ camera.R, turn @ camera.t, np.array(focal)


def camera_error(fitted: Reconstruction, window: Window, R: np.ndarray, t: np.ndarray, focal: float) -> float:
    """How far from the photo's camera the crop's puts the fit's landmarks, root mean square over the side."""
    points = fitted.model.landmark_points(fitted.vertices.astype(np.float64), STORED_LANDMARKS)
    seen = points @ R.T + t
    mine = focal * seen[:, :2] / seen[:, 2:] + 0.5
    theirs = window.to_crop(fitted.camera.project(points), 1)
    return float(np.sqrt(((mine - theirs) ** 2).sum(axis=1).mean()))


def jpeg(pixels: np.ndarray) -> bytes:
    """Colours at full resolution: crops are small."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return stream.getvalue()
