"""Region masks of the default head, from places on its mean shape.

Every mask is decided on the left half and mirrored. Lids and lips come from the edge loops round the
holes: so many rings of quads from the margin.

Symbols: V vertices, F quads.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

# Skin behind this plane and between the lips belongs to the inside of the mouth, metres.
LIP_DEPTH = 0.086
# An ellipsoid round the left ear and how far from the mid-plane its root lies, metres.
EAR_CENTRE, EAR_SIZE, EAR_ROOT = np.array([0.079, 0.006, -0.013]), np.array([0.024, 0.036, 0.030]), 0.0655
# The oval of the face: half its angle round the vertical axis (radians), its middle, its reach up and down.
FACE_ANGLE, FACE_MIDDLE, FACE_ABOVE, FACE_BELOW = 1.22, 0.01, 0.090, 0.125
# Where the neck begins at the back.
NAPE = -0.045


def skin_regions(points: np.ndarray, is_skin: np.ndarray, landmarks: np.ndarray) -> dict:
    """Masks on the skin.

    Parameters
    ----------
    points : (V, 3) float
        Mean head, metres.
    is_skin : (V,) bool
    landmarks : (68, 3) float
        iBUG points on it.
    """
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    folded = np.column_stack([x, y, z])
    brow, eye, chin, mouth = landmarks[22:27], landmarks[42:48], landmarks[8], landmarks[48:68]
    to_eye = cKDTree(_dense(eye[[0, 1, 2, 3, 4, 5, 0]])).query(folded)[0]
    to_brow = cKDTree(_dense(brow)).query(folded)[0]
    in_front = z > 0.05
    in_eye = _inside(folded[:, :2], eye[:, :2]) & in_front
    ear = np.linalg.norm((folded - EAR_CENTRE) / EAR_SIZE, axis=1) < 1
    ear &= x > EAR_ROOT + 0.12 * (z - EAR_CENTRE[2])
    # The face is an oval of the angle round the vertical axis and of height, cut by the jaw.
    angle = np.arctan2(x, z + 0.01)
    jaw = landmarks[8:17]
    jaw_line = np.interp(x, jaw[:, 0], jaw[:, 1])
    height = (y - FACE_MIDDLE) / np.where(y > FACE_MIDDLE, FACE_ABOVE, FACE_BELOW)
    face = ((angle / FACE_ANGLE) ** 3 + np.abs(height) ** 3 < 1) & (y > jaw_line - 0.005) & ~ear
    lips = _inside(points[:, :2], _rounded(landmarks[48:60, :2])) & (z > LIP_DEPTH)
    middle = mouth.mean(axis=0)
    round_mouth = ((x / 0.037) ** 2.5 + (np.abs(y - middle[1]) / 0.021) ** 2.5 < 1) & (z > 0.06)
    nose = _nose(x, y, z, landmarks)
    brow_top = np.interp(x, brow[:, 0], brow[:, 1])
    brows = (to_brow < 0.008) & in_front & (to_eye > 0.006)
    eyes = ((to_eye < 0.011) | in_eye) & in_front & ~brows & ~nose
    lids = ((to_eye < 0.0055) | in_eye) & in_front
    taken = nose | round_mouth | eyes | brows
    forehead = face & (y > brow_top - 0.004) & ~taken
    cheeks = face & ~taken & ~forehead & (x > 0.012) & (y > chin[1] + 0.022) & (y < eye[:, 1].max())
    below = (y < jaw_line - 0.005) | (z < 0.01) & (y < NAPE + 0.5 * z)
    neck = below & ~ear & ~face & (y < -0.015) & (y > -0.16)
    scalp = ~face & ~ear & ~neck & (y > -0.075)
    masks = {
        "nose": nose, "mouth": round_mouth | lips, "lips": lips, "eyes": eyes, "eyelids": lids, "brows": brows,
        "forehead": forehead, "cheeks": cheeks, "ears": ear, "neck": neck, "scalp": scalp, "face": face,
    }  # fmt: skip
    return {name: mask & is_skin for name, mask in masks.items()}


def _nose(x: np.ndarray, y: np.ndarray, z: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(V,) bool: a wedge that widens from the bridge to the wings."""
    bridge, tip, below = landmarks[27], landmarks[30], landmarks[33]
    heights = [tip[1] - 0.018, tip[1] - 0.004, tip[1] + 0.01, bridge[1]]
    width = np.interp(y, heights, [0.015, 0.022, 0.018, 0.0105])
    return (y > below[1] - 0.004) & (y < bridge[1] + 0.004) & (x < width) & (z > 0.075)


def evened(mask: np.ndarray, average: csr_matrix, passes: int = 3) -> np.ndarray:
    """(V,) bool with less ragged borders: each vertex goes with the majority of itself and its neighbours."""
    value = mask.astype(float)
    for _ in range(passes):
        value = ((0.4 * value + 0.6 * (average @ value)) > 0.5).astype(float)
    return value > 0.5


def _dense(line: np.ndarray, per_step: int = 24) -> np.ndarray:
    """A polyline as many points."""
    share = np.linspace(0, 1, per_step, endpoint=False)[:, None]
    return np.concatenate([a + (b - a) * share for a, b in pairwise(line)] + [line[-1:]])


def _rounded(polygon: np.ndarray, count: int = 200) -> np.ndarray:
    """A closed smooth line through the corners of a polygon (K, 2)."""
    closed = np.vstack([polygon, polygon[:1]])
    return CubicSpline(np.arange(len(closed)), closed, bc_type="periodic")(np.linspace(0, len(polygon), count))


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """(N, 2) points in a polygon (K, 2), by counting crossings to the right."""
    inside = np.zeros(len(points), bool)
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0)):
        spans = (a[1] > points[:, 1]) != (b[1] > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = a[0] + (points[:, 1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
        inside ^= spans & (points[:, 0] < cross)
    return inside
