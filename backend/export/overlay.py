"""overlay.jpg: the photo, the mesh over it, the mesh alone, and the head from the side.

One glance says whether a reconstruction fits. The photo is cropped round the head and scaled before
anything is drawn, so that the cost does not depend on its size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from backend.export.preview import Previewer
from backend.face_model.model import EYES, SKIN, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.result import Reconstruction
from backend.rendering.viewer import over
from backend.vision.photo import Photo

# Four panels and three gaps stay under 2000 pixels.
PANEL_WIDTH, PANEL_HEIGHT, GAP = 480, 640, 6
# The head's box fills this much of a panel in its tighter direction.
FILL = 0.84
# A mid grey, so that neither light nor dark skin loses its edge; the gaps are its dark sister.
BACKGROUND, GAP_COLOR = (88, 90, 94), (28, 29, 31)
# iBUG 68's point at the chin, and how much of the neck belongs into the picture.
CHIN, BELOW_CHIN_M = 8, 0.03
# The photo stays visible through the clay.
OVERLAY_OPACITY = 0.6
# The side view shows the nose to the right, so the subject's right cheek, from a distance at which perspective is mild.
SIDE_YAW, SIDE_DISTANCE_M, SIDE_FOCAL_PX = 90.0, 1.6, 2000.0


def overlay_image(reconstruction: Reconstruction, photo: Photo, eye_texture: np.ndarray | None) -> np.ndarray:
    """(640, 1938, 3) uint8 sRGB.

    Parameters
    ----------
    reconstruction : Reconstruction
    photo : Photo
        The photo that it came from, at the size that the reconstruction's camera belongs to.
    eye_texture : (S, S, 3) uint8 or None
        Shown on the eyes of all panels: where the irises look is part of the fit.
    """
    eyes = {} if eye_texture is None else {EYES: eye_texture}
    vertices = reconstruction.vertices
    previewer = Previewer(reconstruction.model, vertices)
    head = vertices[above_neck(reconstruction.model, vertices)]
    window = head_window(reconstruction.camera.project(head))
    clay = previewer.draw(window_camera(reconstruction.camera, window), eyes)
    crop = crop_photo(photo.pixels, window)
    textures = {} if reconstruction.texture is None else {SKIN: reconstruction.texture.color}
    side = previewer.draw(side_camera(head), eyes | textures)
    grey = np.full_like(crop, BACKGROUND)
    panels = [crop, over(clay, crop, OVERLAY_OPACITY), over(clay, grey), over(side, grey)]
    gap = np.full((PANEL_HEIGHT, GAP, 3), GAP_COLOR, np.uint8)
    return np.concatenate([piece for panel in panels for piece in (panel, gap)][:-1], axis=1)


def above_neck(model: FaceModel, vertices: np.ndarray) -> np.ndarray:
    """(V,) bool: the head without neck and shoulders; everything for a model that does not know its chin."""
    if "ibug68" not in model.landmarks:
        return np.ones(len(vertices), bool)
    chin = model.landmark_points(vertices, "ibug68")[CHIN, 1]
    return vertices[:, 1] > chin - BELOW_CHIN_M


def head_window(points: np.ndarray) -> tuple[float, float, float]:
    """Left, top and scale (panel pixels per photo pixel) of the part of the photo that a panel shows.

    ``points`` (V, 2) are the head's projected vertices, pixels of the photo.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    size = np.maximum(high - low, 1.0)
    panel = np.array([PANEL_WIDTH, PANEL_HEIGHT])
    scale = float(FILL * (panel / size).min())
    left, top = (low + high) / 2.0 - panel / 2.0 / scale
    return float(left), float(top), scale


def window_camera(camera: Camera, window: tuple[float, float, float]) -> Camera:
    """The photo's camera for a panel: shifted and scaled, exact to a fraction of a pixel."""
    left, top, scale = window
    fit = np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale], [0.0, 0.0, 1.0]])
    return Camera(fit @ camera.K, camera.R, camera.t, PANEL_WIDTH, PANEL_HEIGHT)


def crop_photo(pixels: np.ndarray, window: tuple[float, float, float]) -> np.ndarray:
    """(640, 480, 3) uint8: the window of the photo; the background where it reaches beyond the border."""
    left, top, scale = window
    height, width = pixels.shape[:2]
    panel = np.full((PANEL_HEIGHT, PANEL_WIDTH, 3), BACKGROUND, np.uint8)
    # Whole panel pixels that lie inside the photo, then exactly their source rectangle.
    x0, y0 = max(0, int(np.ceil(-left * scale))), max(0, int(np.ceil(-top * scale)))
    x1 = min(PANEL_WIDTH, int(np.floor((width - left) * scale)))
    y1 = min(PANEL_HEIGHT, int(np.floor((height - top) * scale)))
    if x1 <= x0 or y1 <= y0:
        return panel
    box = (left + x0 / scale, top + y0 / scale, left + x1 / scale, top + y1 / scale)
    outer = (int(box[0]), int(box[1]), min(width, int(np.ceil(box[2])) + 1), min(height, int(np.ceil(box[3])) + 1))
    # Only the part that is needed is handed over: a 48-megapixel photo is never copied.
    part = Image.fromarray(np.ascontiguousarray(pixels[outer[1] : outer[3], outer[0] : outer[2]]))
    inner = tuple(max(0.0, edge - outer[i % 2]) for i, edge in enumerate(box))
    inner = (inner[0], inner[1], min(inner[2], part.width), min(inner[3], part.height))
    scaled = part.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=inner, reducing_gap=2.0)
    panel[y0:y1, x0:x1] = np.asarray(scaled)
    return panel


def side_camera(vertices: np.ndarray) -> Camera:
    """A camera at the subject's right that frames the whole head."""
    rotation = rotation_from_head_euler(yaw=SIDE_YAW)
    middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2.0
    translation = -(rotation @ middle) + np.array([0.0, 0.0, SIDE_DISTANCE_M])
    lens = intrinsics(SIDE_FOCAL_PX, PANEL_WIDTH, PANEL_HEIGHT)
    camera = Camera(lens, rotation, translation, PANEL_WIDTH, PANEL_HEIGHT)
    return window_camera(camera, head_window(camera.project(vertices)))
