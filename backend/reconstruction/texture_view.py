"""The photo as the head sees it: what part of it shows which skin, and how well.

Symbols: V vertices, L landmarks, H, W size of the analysis window.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from backend.errors import PhotoError
from backend.face_model.model import SKIN, FaceModel
from backend.geometry.camera import Camera
from backend.geometry.mesh import vertex_normals
from backend.reconstruction.texture_atlas import Surface, ramp
from backend.reconstruction.texture_fill import solve_membrane
from backend.reconstruction.texture_raster import NO_TRIANGLE, Coverage, cover, interpolate

# Visibility and skin are judged in a copy of the photo in which the head is this many pixels high; a
# strand of hair is wider than its pixel (0.7 mm) and the cost does not grow with the photo.
ANALYSIS_HEIGHT = 440

# Room round the head in that window, as a part of its size: filters near the border need it.
WINDOW_MARGIN = 0.06

# A step in depth between neighbouring pixels that means one part hides another (metres): less than
# the wing of the nose stands out from the cheek.
DEPTH_STEP = 4e-3

# Trust ramps, metres from a line: photos and fits disagree by a few millimetres at the outline of the
# head, by one or so at lids, lips and the nose.
OUTLINE_RAMP = (2.5e-3, 9e-3)
STEP_RAMP = (0.8e-3, 3.0e-3)
OPENING_RAMP = (0.2e-3, 1.2e-3)

# Cosine between the surface and the direction to the camera: nothing is taken below the first (78
# degrees away), all of it from the second (57 degrees).
GRAZING_RAMP = (0.20, 0.55)

# Landmarks pull the photo's features onto the model's, at most this far as a part of the eye distance.
LARGEST_PULL = 0.12

# Pixels of the photo; a tenth of what a landmark detector can tell.
PULL_TOLERANCE = 0.03

# The 36 points of MediaPipe's face oval: they slide along the outline, so they say nothing here.
MEDIAPIPE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)


@dataclass(frozen=True)
class View:
    """The head in the window.

    Attributes
    ----------
    left, top : int
        Corner of the window in the photo.
    pixels : (h, w, 3) uint8
        The window of the photo at its own resolution.
    scale : float
        Analysis pixels per photo pixel, at most 1.
    image : (H, W, 3) uint8
        The window at analysis resolution.
    points : (V, 2) float64
        Vertices in analysis pixels, pulled onto the landmarks.
    depth : (V,) float64
        Metres from the camera plane.
    facing : (V,) float32
        Cosine between normal and direction to the camera.
    normals : (V, 3) float64
        Model space.
    coverage : Coverage
        (H, W), rows of ``model.triangles``.
    weight : (H, W) float32
        How well each pixel shows skin, by geometry alone.
    """

    left: int
    top: int
    pixels: np.ndarray
    scale: float
    image: np.ndarray
    points: np.ndarray
    depth: np.ndarray
    facing: np.ndarray
    normals: np.ndarray
    coverage: Coverage
    weight: np.ndarray


def look(
    photo_pixels: np.ndarray,
    camera: Camera,
    model: FaceModel,
    surface: Surface,
    vertices: np.ndarray,
    landmarks: dict[str, np.ndarray] | None,
) -> View:
    """Find the head in the photo and judge by geometry what it shows.

    Raises
    ------
    PhotoError
        The head lies outside the photo or behind the camera.
    """
    vertices = np.asarray(vertices, np.float64)
    in_camera = camera.to_camera(vertices)
    depth = in_camera[:, 2]
    if depth.min() <= 0.0:
        raise PhotoError("The fitted head reaches behind the camera: use a photo taken from farther away.")
    points = camera.project(vertices)
    points = points + landmark_pull(points, model, surface, vertices, landmarks)
    left, top, right, bottom = _window(points[surface.skin], photo_pixels.shape)
    pixels = photo_pixels[top:bottom, left:right]
    scale = min(1.0, ANALYSIS_HEIGHT / max(bottom - top, right - left))
    width, height = (max(1, round((high - low) * scale)) for low, high in ((left, right), (top, bottom)))
    image = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    # Rounding the window's size gives each axis its own exact factor.
    points = (points - [left, top]) * [width / (right - left), height / (bottom - top)]
    normals = vertex_normals(vertices, model.triangles)
    to_camera = camera.centre - vertices
    facing = (normals * to_camera).sum(axis=1) / np.linalg.norm(to_camera, axis=1)
    coverage = cover(points, depth, model.triangles, height, width)
    metres_per_pixel = float(np.median(depth)) / (camera.focal_px * scale)
    weight = geometric_weight(coverage, model, facing, metres_per_pixel)
    return View(left, top, pixels, scale, image, points, depth, facing.astype(np.float32), normals, coverage, weight)


def _window(points: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    low, high = points.min(axis=0), points.max(axis=0)
    margin = WINDOW_MARGIN * float((high - low).max())
    left, top = np.maximum(np.floor(low - margin), 0).astype(int)
    right = int(min(np.ceil(high[0] + margin), shape[1]))
    bottom = int(min(np.ceil(high[1] + margin), shape[0]))
    if right - left < 2 or bottom - top < 2:
        raise PhotoError("The fitted head lies outside the photo: choose a photo that shows the face.")
    return int(left), int(top), right, bottom


def landmark_pull(
    points: np.ndarray,
    model: FaceModel,
    surface: Surface,
    vertices: np.ndarray,
    landmarks: dict[str, np.ndarray] | None,
) -> np.ndarray:
    """Offsets that bring the projected landmarks onto the detected ones, spread smoothly over the skin.

    A linear model misses real lids and lips by a pixel or two; without this their colours would be
    painted beside them.

    Returns
    -------
    (V, 2) float64, pixels
    """
    landmarks = landmarks or {}
    known = [name for name in ("mediapipe478", "ibug68") if name in landmarks and name in model.landmarks]
    if not known:
        return np.zeros_like(points)
    name = known[0]
    use = np.ones(len(landmarks[name]), bool)
    use[list(MEDIAPIPE_OVAL) if name == "mediapipe478" else slice(0, 17)] = False
    if name == "mediapipe478":
        use[468:] = False  # irises: they move with the gaze, the skin does not
    embedding = model.landmarks[name]
    residual = landmarks[name] - model.landmark_points(points, name)
    eyes = model.landmark_points(points, "ibug68")
    most = LARGEST_PULL * max(1e-6, float(np.linalg.norm(eyes[36:42].mean(axis=0) - eyes[42:48].mean(axis=0))))
    length = np.linalg.norm(residual, axis=1, keepdims=True)
    # A large disagreement is a failed landmark, not a misplaced lid: fade it out instead of clipping it.
    residual = residual * np.where(length < most, 1.0, np.maximum(0.0, 2.0 - length / most))
    corners, weights = embedding.corners[use], embedding.barycentric[use]
    total = np.zeros((len(points), 2))
    mass = np.zeros(len(points))
    for k in range(3):
        np.add.at(total, corners[:, k], weights[:, k, None] * residual[use])
        np.add.at(mass, corners[:, k], weights[:, k])
    data = total / np.maximum(mass, 1e-9)[:, None]
    weight = np.minimum(mass, 1.0)
    pull = solve_membrane(
        surface, data, weight, smoothness=0.5, anchor=np.zeros(2), anchor_weight=2e-3, tolerance=PULL_TOLERANCE
    )
    # Where the nearest landmark is far the offset has decayed by the anchor; eyeballs and teeth follow nothing.
    return np.where(surface.skin[:, None], pull, 0.0)


def geometric_weight(coverage: Coverage, model: FaceModel, facing: np.ndarray, metres_per_pixel: float) -> np.ndarray:
    """(H, W) float32: 0 where no skin shows or at a line where another surface begins, 1 well inside, straight on."""
    slot = np.where(
        coverage.triangle == NO_TRIANGLE, -1, model.triangle_material[np.maximum(coverage.triangle, 0)].astype(np.int16)
    )
    skin = slot == model.materials.index(SKIN)
    depth = np.where(np.isfinite(coverage.depth), coverage.depth, 1e3).astype(np.float32)
    cosine = interpolate(coverage, model.triangles, facing[:, None])[..., 0]
    slope = metres_per_pixel * np.sqrt(1.0 / np.clip(cosine, 0.1, 1.0) ** 2 - 1.0)
    step = _differs(depth, DEPTH_STEP + 2.0 * slope) & (slot >= 0)
    weight = skin.astype(np.float32)
    for barrier, (zero, one) in (
        (slot < 0, OUTLINE_RAMP),
        (step, STEP_RAMP),
        (~skin & (slot >= 0), OPENING_RAMP),
    ):
        weight *= ramp(_distance_to(barrier) * metres_per_pixel, zero, one)
    return (weight * ramp(cosine, *GRAZING_RAMP)).astype(np.float32)


def _distance_to(barrier: np.ndarray) -> np.ndarray:
    """Pixels from each pixel's centre to the nearest border of the barrier."""
    free = np.pad((~barrier).astype(np.uint8), 1, constant_values=1)
    return np.maximum(cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1] - 0.5, 0.0)


def _differs(depth: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with a 4-neighbour whose depth differs by more than the steps of both."""
    differs = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        low = [slice(None)] * 2
        high = [slice(None)] * 2
        low[axis], high[axis] = slice(0, -1), slice(1, None)
        jump = np.abs(np.diff(depth, axis=axis)) > np.maximum(step[tuple(low)], step[tuple(high)])
        differs[tuple(low)] |= jump
        differs[tuple(high)] |= jump
    return differs
