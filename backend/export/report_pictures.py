"""The pictures of a report: what a photo shows and what was made of it, the head from all sides, its maps.

Symbols: V vertices, L landmarks, S side of a texture, H and W picture height and width, N photos.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from backend.export.overlay import (
    FILL,
    OVERLAY_OPACITY,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    above_neck,
    crop_photo,
    head_window,
    window_camera,
)
from backend.export.preview import Previewer
from backend.export.record_photos import Sight
from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.contour import CONTOURS
from backend.rendering.viewer import over

# A turntable in steps of 45 degrees, from a distance at which perspective is mild.
TURNTABLE_YAWS = tuple(range(0, 360, 45))
TURNTABLE_WIDTH, TURNTABLE_HEIGHT, TURNTABLE_DISTANCE_M, TURNTABLE_FOCAL_PX = 420, 520, 1.6, 2000.0
# Behind heads without a photo; the page has the same colour there.
STAGE = (214, 216, 219)
# sRGB of the frame round the face, of what was detected and of where the head has it.
FRAME, DETECTED, ON_HEAD = (255, 176, 32), (90, 220, 255), (255, 120, 40)
# Positions are handed to OpenCV in sixteenths of a pixel.
SUBPIXEL_BITS = 4
# Sides of pictures of texture maps, and of the whole photo, on the page.
MAP_SIDE, PHOTO_SIDE = 768, 640


class PhotoPictures:
    """Pictures of one photo beside the head that it was used for.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        At the size that the sight's camera belongs to.
    sight : Sight
    model : FaceModel
    vertices : (V, 3) float32
        The head with the expression of the photo.
    """

    def __init__(self, pixels: np.ndarray, sight: Sight, model: FaceModel, vertices: np.ndarray) -> None:
        self.pixels, self.sight, self.model, self.vertices = pixels, sight, model, vertices
        self.window = head_window(sight.camera.project(vertices[above_neck(model, vertices)]))
        self.camera = window_camera(sight.camera, self.window)
        self.crop = crop_photo(pixels, self.window)
        self.previewer = Previewer(model, vertices)

    def whole(self) -> np.ndarray:
        """The photo, at most 640 pixels a side, with a frame round the part that the others show."""
        height, width = self.pixels.shape[:2]
        scale = min(1.0, PHOTO_SIDE / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = np.array(Image.fromarray(self.pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
        left, top, zoom = self.window
        corners = np.array([[left, top], [left + PANEL_WIDTH / zoom, top + PANEL_HEIGHT / zoom]]) * scale
        first, last = _subpixels(corners)
        cv2.rectangle(picture, first, last, FRAME, 2, cv2.LINE_AA, SUBPIXEL_BITS)
        return picture

    def clay(self, textures: dict[str, np.ndarray]) -> np.ndarray:
        """The bare head over the photo, the photo shining through; ``textures`` of the eyes alone show the gaze."""
        return over(self.previewer.draw(self.camera, textures), self.crop, OVERLAY_OPACITY)

    def head(self, textures: dict[str, np.ndarray]) -> np.ndarray:
        """The textured head in the photo's place, in the photo's light where that is known."""
        return over(self.previewer.draw(self.camera, textures, self.sight.light), self.crop)

    def landmarks(self) -> np.ndarray:
        """Detected landmarks as dots, and a line from each to where the head has it; outlines have no such place."""
        picture = self.crop.copy()
        for name, detected in self.sight.landmarks.items():
            detected = self._in_panel(detected)
            if name in self.model.landmarks and len(detected) == len(self.model.landmarks[name].corners):
                on_head = self.camera.project(self.model.landmark_points(self.vertices, name))
                for index in np.setdiff1d(np.arange(len(detected)), CONTOURS[name]):
                    start, end = _subpixels(np.stack([detected[index], on_head[index]]))
                    cv2.line(picture, start, end, ON_HEAD, 2, cv2.LINE_AA, SUBPIXEL_BITS)
            for point in _subpixels(detected):
                cv2.circle(picture, point, 20, DETECTED, -1, cv2.LINE_AA, SUBPIXEL_BITS)
            break  # The first set is the denser one; the other would only cover it.
        return picture

    def _in_panel(self, points: np.ndarray) -> np.ndarray:
        left, top, zoom = self.window
        return (points - [left, top]) * zoom


def _subpixels(points: np.ndarray) -> list[list[int]]:
    """(N, 2) places, pixel centres at 0.5, as OpenCV draws them: pixel centres at 0, in sixteenths."""
    return np.rint((points - 0.5) * 2**SUBPIXEL_BITS).astype(int).tolist()


def turntable(model: FaceModel, vertices: np.ndarray, textures: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The head from the directions of :data:`TURNTABLE_YAWS`, all at one scale, before an even grey."""
    head = vertices[above_neck(model, vertices)]
    cameras = [orbit_camera(head, float(yaw)) for yaw in TURNTABLE_YAWS]
    points = np.concatenate([camera.project(head) for camera in cameras])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = FILL * float((np.array([TURNTABLE_WIDTH, TURNTABLE_HEIGHT]) / np.maximum(high - low, 1.0)).min())
    middle = (low + high) / 2.0
    fit = np.array(
        [
            [scale, 0.0, TURNTABLE_WIDTH / 2.0 - middle[0] * scale],
            [0.0, scale, TURNTABLE_HEIGHT / 2.0 - middle[1] * scale],
            [0.0, 0.0, 1.0],
        ]
    )
    previewer, stage = Previewer(model, vertices), np.full((TURNTABLE_HEIGHT, TURNTABLE_WIDTH, 3), STAGE, np.uint8)
    views = [Camera(fit @ camera.K, camera.R, camera.t, camera.width, camera.height) for camera in cameras]
    return [over(previewer.draw(view, textures), stage) for view in views]


def orbit_camera(points: np.ndarray, yaw: float) -> Camera:
    """A camera that looks at the middle of points (V, 3) from a yaw in degrees."""
    rotation = rotation_from_head_euler(yaw=yaw)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2.0
    translation = np.array([0.0, 0.0, TURNTABLE_DISTANCE_M]) - rotation @ middle
    lens = intrinsics(TURNTABLE_FOCAL_PX, TURNTABLE_WIDTH, TURNTABLE_HEIGHT)
    return Camera(lens, rotation, translation, TURNTABLE_WIDTH, TURNTABLE_HEIGHT)


def reduced_map(picture: np.ndarray, nearest: bool = False) -> np.ndarray:
    """(S, S, 3) or (S, S) uint8 at :data:`MAP_SIDE`; ``nearest`` for numbers that have no mean."""
    if max(picture.shape[:2]) <= MAP_SIDE:
        return picture
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((MAP_SIDE, MAP_SIDE), how))


def on_face(model: FaceModel, picture: np.ndarray) -> np.ndarray:
    """(N,) values of a (S, S) map in the middles of the face's N triangles; of all triangles without such a region."""
    region = model.regions.get("face")
    corners = model.triangles_uv if region is None else model.triangles_uv[region[model.triangles].all(axis=1)]
    u, v = model.uv[corners].mean(axis=1).T
    height, width = picture.shape
    rows, columns = ((1.0 - v) * height).astype(int), (u * width).astype(int)
    return picture[rows.clip(0, height - 1), columns.clip(0, width - 1)]
