"""A photo becomes the texture of the head that was fitted to it.

The page to read first: what is seen, what is skin, what the light adds, what to complete, mix.

Symbols: V vertices, S texture size, H, W analysis window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from backend.errors import Cancelled
from backend.face_model.model import FaceModel
from backend.geometry.camera import Camera
from backend.reconstruction.result import Texture
from backend.reconstruction.skin_statistics import statistics_of
from backend.reconstruction.texture_atlas import Atlas, Surface, atlas_of, surface_of
from backend.reconstruction.texture_cavity import darkened
from backend.reconstruction.texture_fill import solve_membrane
from backend.reconstruction.texture_grain import grain_tile
from backend.reconstruction.texture_kernel import Layers, paint
from backend.reconstruction.texture_light import light_gain, photo_light, saturation_gain
from backend.reconstruction.texture_likeness import LINEAR_OF_BYTE
from backend.reconstruction.texture_occluders import dark_glasses, lopsided, without_leak
from backend.reconstruction.texture_raster import NO_TRIANGLE
from backend.reconstruction.texture_skin import SkinModel, fit_skin, skin_weight
from backend.reconstruction.texture_view import View, look

SMALLEST_SIZE, LARGEST_SIZE = 1024, 8192

# The membrane of skin colours: a measured vertex weighs 1; its neighbours pull it by this much, which
# keeps colours within 1 % of what was seen; the tone of the whole face pulls with the anchor, so that
# completed skin reaches it about sqrt(0.08 / 0.0006) = 12 edges (5 cm) away from what was seen.
MEMBRANE_SMOOTHNESS = 0.08
MEMBRANE_ANCHOR = 6e-4
# Mirrored colours also hold by themselves, weakly: their gradients alone could drift.
MIRROR_HOLD = 0.02
# Completed skin keeps to the membrane of plain skin; a lip's red fades into it over about
# sqrt(0.08 / 0.02) = 2 edges.
SKIN_HOLD = 0.02
# Square root of light this much darker than the tone (log) no longer counts as plain skin.
PLAIN_SKIN = 0.25


def bake_texture(
    photo_pixels: np.ndarray,
    camera: Camera,
    model: FaceModel,
    vertices: np.ndarray,
    size: int = 1024,
    landmarks: dict[str, np.ndarray] | None = None,
    progress: Callable[[float], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Texture:
    """Unwrap one photo onto one head and complete what it does not show.

    Parameters
    ----------
    photo_pixels : (H, W, 3) uint8
        sRGB.
    camera : Camera
        Of this photo.
    model : FaceModel
        Its ``skin`` charts are painted; other materials only hide what is behind them.
    vertices : (V, 3) float
        As photographed, model space, metres.
    size : int
        Texels along a side, 1024 to 8192; the time grows with its square.
    landmarks : dict of str to (L, 2), optional
        As detected, pixels of the photo: they pull lids, lips and brows of the photo onto the model's.
    progress : callable, optional
        Called with the finished part, 0 to 1.
    cancel : callable, optional
        Asked between stages; True raises :class:`Cancelled`.

    Returns
    -------
    Texture

    Raises
    ------
    ValueError
        ``size`` or the arrays are not of the form above.
    PhotoError
        The head lies outside the photo or behind the camera.
    Cancelled
    """
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(f"texture size {size} is not between {SMALLEST_SIZE} and {LARGEST_SIZE}")
    if photo_pixels.dtype != np.uint8 or photo_pixels.ndim != 3 or photo_pixels.shape[2] != 3:
        raise ValueError("photo_pixels must be (H, W, 3) uint8")
    if np.shape(vertices) != (model.vertex_count, 3) or not np.isfinite(vertices).all():
        raise ValueError(f"vertices must be finite, ({model.vertex_count}, 3)")

    def stage(done: float) -> None:
        if progress:
            progress(done)
        if cancel and cancel():
            raise Cancelled("The texture was cancelled.")

    atlas = atlas_of(model, size)
    stage(0.1)
    view = look(photo_pixels, camera, model, atlas.surface, vertices, landmarks)
    stage(0.3)
    layers, light = prepare_layers(view, camera, model, atlas.surface)
    stage(0.5)
    color, confidence = paint(atlas, view, layers, np.column_stack([view.points, view.depth]))
    stage(1.0)
    return Texture(color, confidence, light)


def prepare_layers(view: View, camera: Camera, model: FaceModel, surface: Surface) -> tuple[Layers, np.ndarray | None]:
    """Decide what is skin, take the light away, and spread the skin over the whole head; and what the light was."""
    belief, colors, seen, skin = judge(view, camera, model, surface)
    gain = light_gain(colors, seen, view.normals, skin, surface, statistics_of(model)) * np.sqrt(
        saturation_gain(skin.tone)
    )
    bare = complete(colors * gain, seen, skin, surface)
    light = photo_light(colors, bare, seen, view.normals)
    base = darkened(bare, seen, surface.cavity)
    grain = grain_tile(view, belief, surface)
    return Layers(base.astype(np.float32), gain.astype(np.float32), belief, grain), light


def judge(
    view: View, camera: Camera, model: FaceModel, surface: Surface
) -> tuple[np.ndarray, np.ndarray, np.ndarray, SkinModel]:
    """What of a photo is the person's face.

    Returns
    -------
    belief : (H, W) float32 in [0, 1]
        Of each pixel of the window.
    colors, seen : (V, 3) and (V,) float64
        As :func:`vertex_colors` has them, of what is believed.
    skin : SkinModel
    """
    metres_per_pixel = float(np.median(view.depth)) / (camera.focal_px * view.scale)
    view = replace(view, weight=without_leak(view, surface, metres_per_pixel))
    geometric, shown = vertex_colors(view, view.weight)
    logs = log_of_root(geometric)

    def believe(skin: SkinModel) -> np.ndarray:
        glasses = dark_glasses(logs, shown, skin, surface)
        doubt = lopsided(logs, shown, skin, surface)
        return skin_weight(view, surface, skin, model.triangles, metres_per_pixel, glasses, doubt)

    skin = fit_skin(logs, surface.trust * shown, view.normals)
    belief = view.weight * believe(skin)
    # Once more, now that hair and things before the face are known: they bent the first fit.
    colors, seen = vertex_colors(view, belief)
    skin = fit_skin(log_of_root(colors), surface.trust * seen, view.normals)
    belief = view.weight * believe(skin)
    return belief, *vertex_colors(view, belief), skin


def log_of_root(colors: np.ndarray) -> np.ndarray:
    """Square roots of light to logarithms of light."""
    return np.log(np.maximum(colors, 1e-3) ** 2 + 1e-9)


def vertex_colors(view: View, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average colour round each vertex of what the weights believe, and how much that is.

    Returns
    -------
    colors : (V, 3) float64, square root of linear light
    seen : (V,) float64 in [0, 1]
    """
    root = np.sqrt(LINEAR_OF_BYTE)[view.image]
    stack: np.ndarray = np.dstack([root * weight[..., None], weight])
    stack = cv2.GaussianBlur(stack, (0, 0), VERTEX_BLUR)
    height, width = weight.shape
    column = np.clip(np.floor(view.points[:, 0]).astype(int), 0, width - 1)
    row = np.clip(np.floor(view.points[:, 1]).astype(int), 0, height - 1)
    inside = (view.points >= 0).all(axis=1) & (view.points < [width, height]).all(axis=1)
    depth = view.coverage.depth[row, column]
    hit = (view.coverage.triangle[row, column] != NO_TRIANGLE) & (view.depth < depth * 1.002 + 2e-3)
    visible = inside & hit & (view.facing > 0.1)
    values = stack[row, column]
    colors = values[:, :3] / np.maximum(values[:, 3:], 1e-4)
    return colors.astype(np.float64), np.where(visible, values[:, 3], 0.0).astype(np.float64)


# Standard deviation, in analysis pixels, of the average round a vertex: about the distance between vertices.
VERTEX_BLUR = 2.0


def complete(colors: np.ndarray, seen: np.ndarray, skin: SkinModel, surface: Surface) -> np.ndarray:
    """(V, 3): measured colours where seen, the other side's gradients where only that was, skin tone beyond."""
    tone = np.sqrt(np.exp(skin.tone))
    # Of all bare skin, not of the cheeks and the nose alone, which are the reddest of it.
    known = surface.take * (1.0 - np.maximum(surface.feature, surface.beard)) * seen
    if known.sum() > 1.0:
        tone = weighted_median(colors, known)
    # First the skin alone: lashes, brows, lips and beards must not bleed into what was not seen.
    darker = np.maximum(np.log(tone) - np.log(np.maximum(colors, 1e-3)), 0.0).mean(axis=1)
    plain = seen**2 * (1.0 - surface.feature) ** 2 * np.exp(-((darker / PLAIN_SKIN) ** 2))
    skin_base = solve_membrane(surface, colors, plain, MEMBRANE_SMOOTHNESS, tone, MEMBRANE_ANCHOR)
    # Then everything, held to that skin wherever neither side was seen.
    guide, guide_weight = None, np.zeros(len(colors))
    data, weight = seen[:, None] ** 2 * colors, seen**2
    if surface.mirror[0] >= 0:
        guide = colors[surface.mirror]
        guide_weight = (1.0 - seen) * seen[surface.mirror]
        data = data + MIRROR_HOLD * guide_weight[:, None] * guide
        weight = weight + MIRROR_HOLD * guide_weight
    hold = SKIN_HOLD * (1.0 - seen) * (1.0 - guide_weight)
    data = (data + hold[:, None] * skin_base) / np.maximum(weight + hold, 1e-9)[:, None]
    base = solve_membrane(
        surface,
        data,
        weight + hold,
        MEMBRANE_SMOOTHNESS,
        tone,
        1e-6,
        guide=guide,
        guide_weight=guide_weight,
        start=np.where((seen > 0.5)[:, None], colors, skin_base),
    )
    return np.clip(base, 0.02, 1.0)


def weighted_median(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(V, C), (V,) -> (C,): below and above it lies half of the weight, channel by channel."""
    order = np.argsort(values, axis=0)
    total = np.cumsum(weight[order], axis=0)
    row = (total < 0.5 * total[-1]).sum(axis=0)
    return np.take_along_axis(values, order, axis=0)[row, np.arange(values.shape[1])]


def warm_up(model: FaceModel, size: int) -> Atlas:
    """Compute what depends on the model and the size alone, before the first photo."""
    surface_of(model)
    statistics_of(model)
    return atlas_of(model, size)
