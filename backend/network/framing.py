"""How our encoder sees a face: upright, in a square around its 68 landmarks.

One rule for photos and for the pictures that the trainer draws. The angle is that of the line from the eyes to the
mouth, which stays upright in profile, where the line between the eyes has no length.

Symbols: B batch.
"""

from __future__ import annotations

import torch

# Side of the square over the longer side of the landmarks' box: brows to chin become about three fifths of the
# crop, which leaves room for the forehead, for the back of a head in profile, and for landmarks that are off.
MARGIN = 1.65

# iBUG 68: eyes, mouth.
EYES, MOUTH = slice(36, 48), slice(48, 68)


def frame(landmarks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The square of each face.

    Parameters
    ----------
    landmarks : (B, 68, 2) float
        iBUG, in any plane with y down.

    Returns
    -------
    middle : (B, 2)
    side : (B,)
    angle : (B,)
        Radians; direction of the crop's x axis, clockwise because y is down, as in
        :class:`backend.vision.crop.Window`.
    """
    down = landmarks[:, MOUTH].mean(dim=1) - landmarks[:, EYES].mean(dim=1)
    angle = torch.atan2(-down[:, 0], down[:, 1])
    upright = turned(landmarks, -angle)
    low, high = upright.amin(dim=1), upright.amax(dim=1)
    middle = turned(((low + high) / 2)[:, None], angle)[:, 0]
    return middle, MARGIN * (high - low).amax(dim=1), angle


def turned(points: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """(B, N, 2) points turned clockwise (y down) by (B,) radians about the origin."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y = points.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
