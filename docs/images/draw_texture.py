"""Draw docs/images/texture.jpg, the picture of docs/texture.md, with the program as it is.

    .venv/bin/python docs/images/draw_texture.py

Top: photo, texture, confidence. Bottom: the textured head from the front, at 40 degrees, from the side.
"""

from pathlib import Path

import cv2
import numpy as np

from backend.export.images import jpeg_bytes
from backend.export.overlay import PANEL_HEIGHT, above_neck, crop_photo, head_window, window_camera
from backend.export.preview import Previewer
from backend.face_model.model import SKIN
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.pipeline import Pipeline
from backend.rendering.viewer import over
from backend.vision.decode import load_photo

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "astronaut.jpg"
PICTURE = Path(__file__).parent / "texture.jpg"
# Side of a panel, the width of the overlay's; a page is read at about 1500 pixels.
PANEL = 480
BACKGROUND = (88, 90, 94)
YAWS = (0.0, 40.0, 90.0)


def seen_from(vertices: np.ndarray, yaw: float) -> Camera:
    """A camera 1.6 m away that frames the head."""
    rotation = rotation_from_head_euler(yaw=yaw)
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2.0
    translation = np.array([0.0, 0.0, 1.6]) - rotation @ middle
    camera = Camera(intrinsics(2000.0, PANEL, PANEL), rotation, translation, PANEL, PANEL)
    return window_camera(camera, head_window(camera.project(vertices)))


def square(picture: np.ndarray) -> np.ndarray:
    """The middle of a panel of the overlay."""
    top = (picture.shape[0] - PANEL) // 2
    return picture[top : top + PANEL]


def main() -> None:
    photo = load_photo(PHOTO)
    head = Pipeline().reconstruct_photo(photo)[0]
    vertices = head.vertices[above_neck(head.model, head.vertices)]
    small = (PANEL, PANEL)
    confidence = cv2.resize(head.texture.confidence, small, interpolation=cv2.INTER_AREA)
    top = [
        square(crop_photo(photo.pixels, head_window(head.camera.project(vertices)))),
        cv2.resize(head.texture.color, small, interpolation=cv2.INTER_AREA),
        np.repeat(confidence[..., None], 3, axis=2),
    ]
    previewer = Previewer(head.model, head.vertices)
    grey = np.full((PANEL_HEIGHT, PANEL, 3), BACKGROUND, np.uint8)
    views = [previewer.draw(seen_from(vertices, yaw), {SKIN: head.texture.color}) for yaw in YAWS]
    bottom = [over(view, grey) for view in views]
    rows = [np.concatenate(row, axis=1) for row in (top, bottom)]
    PICTURE.write_bytes(jpeg_bytes(np.concatenate(rows), quality=88))


if __name__ == "__main__":
    main()
