"""The points of MediaPipe's face mesh: which is which, which mirrors which, and iBUG 68 out of them.

"Left" and "right" are the subject's. A person who faces the camera has the right eye on the picture's left.
"""

from __future__ import annotations

import numpy as np

MEDIAPIPE_COUNT = 478
MESH_COUNT = 468

# Vertices of MediaPipe's canonical face (canonical_face_model.obj) with x = 0.
MIDLINE = (0, 1, 2, 4, 5, 6, *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200)
# That file lists the subject's right half (with the midline) first, vertices 0 to 247, then the left half in the
# same order.
FIRST_LEFT = 248

# Centre, the edge towards the subject's left, top, the edge towards the subject's right, bottom.
RIGHT_IRIS = (468, 469, 470, 471, 472)
LEFT_IRIS = (473, 474, 475, 476, 477)
IRISES = RIGHT_IRIS + LEFT_IRIS

# The outline of the mesh from the top of the forehead clockwise in the picture.
FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),
    *(148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)

# Lids: outer corner, upper lid from there to the inner corner, inner corner, lower lid back.
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)

# iBUG 68 (Sagonas et al. 2013) point by point. The jaw takes points of the face oval; MediaPipe's oval and iBUG's
# jaw are both outlines of the visible face, not fixed spots of the skin, so these 17 should slide or weigh little.
IBUG68 = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),  # 0-16 jaw
    *(70, 63, 105, 66, 107),  # 17-21 right brow, from the temple
    *(336, 296, 334, 293, 300),  # 22-26 left brow, to the temple
    *(168, 197, 5, 4),  # 27-30 bridge to tip of the nose
    *(98, 97, 2, 326, 327),  # 31-35 under the nose
    *(33, 160, 158, 133, 153, 144),  # 36-41 right eye
    *(362, 385, 387, 263, 373, 380),  # 42-47 left eye
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # 48-59 outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # 60-67 inner lips
)


def _mirror_table() -> np.ndarray:
    mirror = np.arange(MEDIAPIPE_COUNT)
    right = np.setdiff1d(np.arange(FIRST_LEFT), MIDLINE)
    left = np.arange(FIRST_LEFT, MESH_COUNT)
    mirror[right], mirror[left] = left, right
    # In a mirrored picture the iris edge that lay towards the left lies towards the right.
    swapped = [LEFT_IRIS[i] for i in (0, 3, 2, 1, 4)]
    mirror[list(RIGHT_IRIS)], mirror[swapped] = swapped, RIGHT_IRIS
    return mirror


# (478,) index of each point's mirror twin; its own inverse.
MIRROR = _mirror_table()


def ibug68_from_mediapipe(points: np.ndarray) -> np.ndarray:
    """(..., 478, C) MediaPipe points -> (..., 68, C) in iBUG order (:data:`IBUG68` is the correspondence)."""
    return points[..., list(IBUG68), :]


def eye_openness(points: np.ndarray) -> tuple[float, float]:
    """How far the lids of the subject's right and left eye are open.

    Parameters
    ----------
    points : (478, 2) float

    Returns
    -------
    right, left : float
        Mean distance between the lids over the distance between the eye's corners: about 0.3 for an open eye,
        under 0.1 for a closed one. The six-point ratio of Soukupova and Cech (2016), on seven pairs of lid points.
    """
    ratios = []
    for eye in (RIGHT_EYE, LEFT_EYE):
        lids = points[list(eye)]
        upper, lower = lids[1:8], lids[:8:-1]
        width = np.linalg.norm(lids[8] - lids[0])
        ratios.append(float(np.linalg.norm(upper - lower, axis=1).mean() / max(width, 1e-9)))
    return ratios[0], ratios[1]
