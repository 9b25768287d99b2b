"""Shadows that a head throws on itself: a nose on a cheek, hair on a forehead, a brow on an eye.

The head is drawn once from the lamp, which gives the depth of what the lamp sees; a pixel is lit as far as nothing
lies before it there. A lamp that is no point has a soft edge to its shadows, which many looks into that picture
beside each other give (percentage-closer filtering, Reeves, Salesin, Cook 1987, "Rendering Antialiased Shadows with
Depth Maps").

Symbols: P pictures, H, W picture size, V vertices, T triangles.
"""

from __future__ import annotations

import torch

from backend.rendering.synthesis import draw_view

# Side of the picture from the lamp, pixels; how much of the world it shows and how far the lamp is, metres.
MAP_SIDE, MAP_SPAN, LAMP_AWAY = 128, 0.36, 2.0
# The middle of what it shows, model space, metres.
MIDDLE = (0.0, 0.0, 0.0)

# A point is in shadow when something is this much nearer to the lamp, metres: about the size of a map's pixel on skin
# that the lamp grazes.
NEARER = 0.006

# Shadows fall over about this many metres on a face, so a lamp of the angular radius a blurs them by as much times
# tan a; never by less than a pixel of the map.
FALL = 0.03

# Where the looks are, in radii of the blur: a sunflower's seeds (Vogel 1979).
LOOKS = 8
_angle = torch.arange(LOOKS) * 2.399963
OFFSETS = ((torch.arange(LOOKS) + 0.5) / LOOKS).sqrt()[:, None] * torch.stack([_angle.cos(), _angle.sin()], dim=1)


def lit_part(
    surface: torch.Tensor,
    vertices: torch.Tensor,
    shown: torch.Tensor,
    triangles: torch.Tensor,
    direction: torch.Tensor,
    radius: torch.Tensor,
) -> torch.Tensor:
    """How much of the lamp each pixel sees.

    Parameters
    ----------
    surface : (P, H, W, 3) float
        What each pixel shows, model space, metres.
    vertices : (P, V, 3) float
    shown : (P, V) bool
        False for vertices whose triangles are not there.
    triangles : (T, 3) int
    direction : (P, 3) float
        Unit vectors towards the lamps, model space.
    radius : (P,) float
        Of the lamps, radians.

    Returns
    -------
    (P, H, W) float
        0 in full shadow, 1 in full light.
    """
    forward = -direction
    up = torch.where(
        direction[:, 1:2].abs() < 0.9, direction.new_tensor([0.0, 1.0, 0.0]), direction.new_tensor([1.0, 0.0, 0.0])
    )
    x = torch.nn.functional.normalize(torch.cross(up, forward, dim=1), dim=1)
    R = torch.stack([x, torch.cross(forward, x, dim=1), forward], dim=1)
    lamp = direction * LAMP_AWAY + direction.new_tensor(MIDDLE)
    t = -(R @ lamp[..., None])[..., 0]
    focal = MAP_SIDE * LAMP_AWAY / MAP_SPAN
    K = torch.tensor([[focal, 0, MAP_SIDE / 2], [0, focal, MAP_SIDE / 2], [0, 0, 1]]).to(direction)
    # As for the camera: triangles that reach the lamp are not drawn.
    there = torch.where(shown[..., None], vertices, lamp[:, None])
    depth = draw_view(there, triangles, K, R, t, MAP_SIDE, MAP_SIDE).fragments.depth
    depth = torch.where(depth > 0, depth, torch.full_like(depth, torch.inf))
    seen = torch.einsum("pij,phwj->phwi", R, surface) + t[:, None, None]
    away = seen[..., 2].clamp(min=1e-3)
    pixels = focal * seen[..., :2] / away[..., None] + MAP_SIDE / 2
    blur = (FALL * radius.tan() / MAP_SPAN * MAP_SIDE).clamp(min=1.0)
    item = torch.arange(len(surface), device=surface.device)[:, None, None]
    lit = torch.zeros_like(away)
    for offset in OFFSETS.to(pixels):
        place = (pixels + blur[:, None, None, None] * offset).floor().long().clamp(0, MAP_SIDE - 1)
        lit += (away < depth[item, place[..., 1], place[..., 0]] + NEARER).to(lit)
    return lit / LOOKS
