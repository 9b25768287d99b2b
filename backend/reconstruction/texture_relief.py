"""The normal map: wrinkles and pores that are finer than the mesh, read from the texture.

The mesh has a vertex every two millimetres, with what the photos say of its shape (``photometric_offset.py``). Finer
relief shows in the texture as shade: dark is deep (mesoscopic augmentation, Beeler, Bickel, Beardsley, Sumner and
Gross 2010, "High-Quality Single-Shot Capture of Facial Geometry", section 5; here from one texture and bounded). So

    height = DEPTH_MM tanh(b / CONTRAST) b^2 / (b^2 + NOISE^2),      b = band(log brightness)

with a band of the brightness between the finest that a photo shows and the distance of vertices, and normals of its
slopes. Where brightness tells nothing of depth, in brows, lashes, beards, and where no photo showed the skin, the map
is flat. Freckles become shallow pits: brightness alone does not tell them apart.

Symbols: S texture size, T skin triangles, V vertices.
"""

from __future__ import annotations

import cv2
import numpy as np

from backend.face_model.model import FaceModel
from backend.reconstruction.result import Texture
from backend.reconstruction.texture_atlas import BARYCENTRIC_SCALE, Atlas, atlas_of

# The band, standard deviations of two blurs, millimetres on the face: a pore, and half the distance of vertices. The
# first is at least so many texels: the noise of single pixels is no skin.
FINE_MM, COARSE_MM, LEAST_TEXELS = 0.15, 1.2, 0.7
# Depth of the darkest line, and the contrast (log light) of most wrinkles. By eye: wrinkles of a lit face read as
# themselves under light from elsewhere, and the skin between them stays skin.
DEPTH_MM, CONTRAST = 0.12, 0.25
# Contrast of a photo's noise, its compression and the blotches of skin: what is not above it is flat.
NOISE = 0.06
# Lines deeper than this contrast all around are hair, not skin; how far is looked around, millimetres.
HAIR_CONTRAST, AROUND_MM = 0.16, 4.0
# Confidence of a texel (of 255) from which its relief begins to count, and counts in full.
DOUBTED, BELIEVED = 40.0, 120.0
# Larger textures have their relief worked out at this size: a texel of it is finer than a pore.
LARGEST = 4096
# A blur wider than twice this many texels is worked out on cells, so many of them wide: it has nothing finer to tell,
# and at 4096 a window of 4 mm is 400 texels long.
CELLS = 4.0
# What (0, 0, 1), straight out, is in the map.
FLAT = (128, 128, 255)


def normal_map(texture: Texture, model: FaceModel, vertices: np.ndarray) -> np.ndarray:
    """Tangent-space normals of the relief in a texture.

    Parameters
    ----------
    texture : Texture
        (S, S).
    model : FaceModel
    vertices : (V, 3) float
        Metres.

    Returns
    -------
    (S, S, 3) uint8
        Red towards u, green towards v, blue out of the skin, 128 is zero: as glTF and Blender read it.
    """
    full = texture.color.shape[0]
    size = min(full, LARGEST)
    atlas = atlas_of(model, size)
    color = cv2.resize(texture.color, (size, size), interpolation=cv2.INTER_AREA)
    confidence = cv2.resize(texture.confidence, (size, size), interpolation=cv2.INTER_AREA)
    weight = skin_to_read(atlas, confidence)
    normals = np.full((size, size, 3), FLAT, np.uint8)
    if weight.any():
        # The face is a quarter of the texture.
        rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        scale = texel_mm(atlas, vertices, box)
        millimetres = float(np.median(scale[weight[box] > 0]))
        normals[box] = encoded(relief_mm(log_brightness(color[box]), weight[box], millimetres), scale)
    return normals if size == full else cv2.resize(normals, (full, full), interpolation=cv2.INTER_LINEAR)


def texel_mm(atlas: Atlas, vertices: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """(H, W) float32, for rows and columns of the texture: millimetres on the skin along a side of each texel."""
    a, b, c = (vertices[atlas.surface.triangles[:, corner]].astype(np.float64) for corner in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    side = 1e3 * np.sqrt(area / np.maximum(atlas.texel_area, 1e-6))
    triangle = atlas.triangle[box]
    return np.where(triangle >= 0, side.astype(np.float32)[np.maximum(triangle, 0)], np.float32(1.0))


def skin_to_read(atlas: Atlas, confidence: np.ndarray) -> np.ndarray:
    """(S, S) float32 in [0, 1]: where brightness tells of depth."""
    surface = atlas.surface
    bare = (surface.skin * (1.0 - surface.feature) * (1.0 - surface.brow)).astype(np.float32)
    weight = np.clip((confidence.astype(np.float32) - DOUBTED) / (BELIEVED - DOUBTED), 0.0, 1.0)
    row, column = np.nonzero((weight > 0) & (atlas.triangle >= 0))
    share = atlas.barycentric[row, column].astype(np.float32) / BARYCENTRIC_SCALE
    corners = surface.triangles[atlas.triangle[row, column]]
    on_skin = (1.0 - share.sum(axis=1)) * bare[corners[:, 0]]
    on_skin += share[:, 0] * bare[corners[:, 1]] + share[:, 1] * bare[corners[:, 2]]
    result = np.zeros_like(weight)
    result[row, column] = weight[row, column] * on_skin
    return result


def log_brightness(color: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 sRGB -> (S, S) float32, logarithm of about linear light."""
    grey = cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return 2.2 * np.log((grey + 4.0) / 255.0)


def relief_mm(log: np.ndarray, weight: np.ndarray, millimetres: float) -> np.ndarray:
    """Height of the skin above its smooth shape.

    Parameters
    ----------
    log : (S, S) float32
        Log brightness.
    weight : (S, S) float32 in [0, 1]
        Texels that count; others do not bleed into them.
    millimetres : float
        Along a side of a texel.

    Returns
    -------
    (S, S) float32, millimetres
    """
    # About zero, which is what blurs say where they know nothing.
    log = log - np.average(log, weights=weight).astype(np.float32)
    fine = masked_blur(log, weight, max(FINE_MM / millimetres, LEAST_TEXELS))
    band = fine - masked_blur(log, weight, max(COARSE_MM / millimetres, 2.0 * LEAST_TEXELS))
    energy = masked_blur(band * band, weight, AROUND_MM / millimetres)
    skin = 1.0 / (1.0 + (energy / HAIR_CONTRAST**2) ** 2)
    above_noise = band**2 / (band**2 + NOISE**2)
    return (DEPTH_MM * np.tanh(band / CONTRAST) * above_noise * skin * weight).astype(np.float32)


def masked_blur(values: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian average of the weighted texels; 0 where there are none near.

    Parameters
    ----------
    values : (H, W) float32
    weight : (H, W) float32 in [0, 1]
    sigma : float
        Texels.

    Returns
    -------
    (H, W) float32
    """
    total, share = wide_blur(values * weight, sigma), wide_blur(weight, sigma)
    return np.where(share > 1e-3, total / np.maximum(share, 1e-3), 0.0).astype(np.float32)


def wide_blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) float32 -> (H, W) float32: a Gaussian blur of ``sigma`` texels, on cells of several where that is wide."""
    height, width = values.shape
    cell = min(int(sigma / CELLS), height, width)
    if cell < 2:
        return cv2.GaussianBlur(values, (0, 0), sigma)
    small = cv2.resize(values, (-(-width // cell), -(-height // cell)), interpolation=cv2.INTER_AREA)
    # Averaging over cells and the straight lines between them blur too: variances of a box and of a tent.
    left = np.sqrt(sigma**2 - cell**2 * (1 / 12 + 1 / 6))
    small = cv2.GaussianBlur(small, (0, 0), left * small.shape[1] / width, sigmaY=left * small.shape[0] / height)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(height: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(S, S) heights and texel sides, both millimetres -> (S, S, 3) uint8 normals of the slopes."""
    # Central differences; the rows of a picture go down, v goes up.
    across = cv2.filter2D(height, cv2.CV_32F, np.array([[-0.5, 0.0, 0.5]])) / scale
    up = cv2.filter2D(height, cv2.CV_32F, np.array([[0.5], [0.0], [-0.5]])) / scale
    out = 1.0 / np.sqrt(1.0 + across**2 + up**2)
    picture = np.stack([-across * out, -up * out, out], axis=-1)
    return np.clip(np.rint(127.5 * picture + 127.5 + 1e-4), 0, 255).astype(np.uint8)
