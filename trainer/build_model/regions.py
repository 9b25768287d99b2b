"""Region masks of the default head, from places on its mean shape.

Every mask is decided on the left half and mirrored. Lids and lips come from the edge loops round the
holes: so many rings of quads from the margin.

Symbols: V vertices, F quads.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

# Skin behind this plane and between the lips belongs to the inside of the mouth, metres.
LIP_DEPTH = 0.086

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
    brow, eye, nose_tip, chin = landmarks[22:27], landmarks[42:48], landmarks[30], landmarks[8]
    folded = np.column_stack([x, y, z])
    eye_line = cKDTree(_dense(eye[[0, 1, 2, 3, 4, 5, 0]]))
    brow_line = cKDTree(_dense(brow))
    to_eye, to_brow = eye_line.query(folded)[0], brow_line.query(folded)[0]
    in_eye = _inside(folded[:, :2], eye[:, :2]) & (z > 0.05)
    ear = np.linalg.norm((folded - [0.079, 0.006, -0.013]) / [0.024, 0.036, 0.030], axis=1) < 1
    ear &= x > 0.0655 + 0.12 * (z + 0.012)
    mouth_box = landmarks[48:68]
    lips = _inside(points[:, :2], _rounded(landmarks[48:60, :2])) & (z > LIP_DEPTH)
    mouth = (np.abs(y - mouth_box[:, 1].mean()) < 0.022) & (x < np.abs(mouth_box[:, 0]).max() + 0.008) & (z > 0.06)
    bridge = landmarks[27]
    width = np.interp(y, [nose_tip[1] - 0.018, nose_tip[1] - 0.004, nose_tip[1] + 0.01, bridge[1]], [0.015, 0.022, 0.018, 0.0105])
    nose = (y > landmarks[33, 1] - 0.004) & (y < bridge[1] + 0.004) & (x < width) & (z > 0.075)
    brow_top = np.interp(x, brow[:, 0], brow[:, 1])
    jaw = landmarks[0:17]
    jaw_line = np.interp(x, np.sort(np.abs(jaw[8:, 0])), jaw[8:, 1][np.argsort(np.abs(jaw[8:, 0]))])
    front = (z > 0.012 + 0.25 * np.abs(y - 0.0)) & (x < 0.073) & (y > jaw_line - 0.006) & (y < 0.095)
    forehead = (y > brow_top + 0.006) & (y < 0.098) & (z > 0.028) & (x < 0.066)
    brows = (to_brow < 0.008) & (z > 0.05) & (to_eye > 0.006)
    eyes = ((to_eye < 0.011) | in_eye) & ~brows
    lids = ((to_eye < 0.0055) | in_eye) & (z > 0.05)
    cheeks = front & ~nose & ~mouth & ~eyes & ~brows & (y < eye[:, 1].min()) & (y > chin[1] + 0.02) & (x > 0.016)
    neck = (y < jaw_line - 0.006) & (y < -0.02) | (y < -0.085)
    neck |= (z < 0.0) & (y < -0.035)
    neck &= ~ear & ~front & (y > -0.16)
    scalp = ~front & ~ear & ~neck & ~forehead & (y > -0.05)
    masks = {
        "nose": nose, "mouth": mouth, "lips": lips, "eyes": eyes, "eyelids": lids, "brows": brows,
        "forehead": forehead, "cheeks": cheeks, "ears": ear, "neck": neck, "scalp": scalp, "face": front | forehead,
    }  # fmt: skip
    return {name: mask & is_skin for name, mask in masks.items()}


def _dense(line: np.ndarray, per_step: int = 24) -> np.ndarray:
    """A polyline as many points."""
    share = np.linspace(0, 1, per_step, endpoint=False)[:, None]
    return np.concatenate([a + (b - a) * share for a, b in zip(line[:-1], line[1:])] + [line[-1:]])


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
