"""What stands before a face: hands, glasses, strands of hair; and what stands behind it.

Everything is made of capsules, the points within a radius of a line, drawn with soft edges over a picture: four
fingers and a palm, the wire of glasses, a lock of hair, shoulders. Capsules may have a depth; then the head hides
what lies behind it, as the far rim of glasses in profile.

Symbols: P pictures, K capsules of each, H, W picture size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from trainer.data.looks import draw_skin

# Pixels over which an edge fades.
SOFT = 1.0


@dataclass(frozen=True)
class Capsules:
    """K capsules of each of P pictures, drawn one over the other.

    Attributes
    ----------
    ends : (P, K, 4) float
        x, y of both ends, pixels.
    radius : (P, K) float
        Pixels; nothing is drawn for 0.
    colour : (P, K, 3) float
        Linear RGB.
    depth : (P, K) float
        Metres from the camera; 0 stands before everything.
    """

    ends: torch.Tensor
    radius: torch.Tensor
    colour: torch.Tensor
    depth: torch.Tensor


def draw_over(picture: torch.Tensor, depth: torch.Tensor, capsules: Capsules) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw capsules over pictures.

    Parameters
    ----------
    picture : (P, H, W, 3) float
        Linear RGB.
    depth : (P, H, W) float
        Metres; 0 where the background shows.
    capsules : Capsules

    Returns
    -------
    picture : (P, H, W, 3) float
    covered : (P, H, W) float
        How much of each pixel the capsules hide.
    """
    # Most pictures have nothing to draw over them.
    drawn_on = (capsules.radius > 0).any(dim=1)
    result, hidden = picture.clone(), torch.zeros_like(depth)
    if bool(drawn_on.any()):
        some = Capsules(*(getattr(capsules, field.name)[drawn_on] for field in fields(capsules)))
        result[drawn_on], hidden[drawn_on] = _draw_over_each(picture[drawn_on], depth[drawn_on], some)
    return result, hidden


def _draw_over_each(
    picture: torch.Tensor, depth: torch.Tensor, capsules: Capsules
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`draw_over` for pictures that all have something."""
    covered = torch.zeros_like(depth)
    used = (capsules.radius > 0).any(dim=0).tolist()
    for number in (number for number, there in enumerate(used) if there):
        radius, away = capsules.radius[:, number], capsules.depth[:, number, None, None]
        inside = _depth_in(capsules.ends[:, number], radius, *depth.shape[1:])
        alpha = (inside / SOFT + 0.5).clamp(0.0, 1.0) * (radius > 0)[:, None, None]
        alpha = torch.where((away > 0) & (depth > 0) & (away > depth), torch.zeros_like(alpha), alpha)
        # Rounder than flat: darker towards the edge.
        shade = 0.6 + 0.4 * (inside / radius.clamp(min=1e-3)[:, None, None]).clamp(0.0, 1.0)
        colour = capsules.colour[:, number, None, None] * shade[..., None]
        picture = picture + alpha[..., None] * (colour - picture)
        covered = covered + alpha * (1.0 - covered)
    return picture, covered


def _depth_in(ends: torch.Tensor, radius: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(P, H, W) pixels that each pixel centre lies inside of a capsule; negative outside."""
    x = torch.arange(width, device=ends.device) + 0.5
    y = (torch.arange(height, device=ends.device) + 0.5)[:, None]
    ax, ay, bx, by = (value[:, None, None] for value in ends.unbind(dim=1))
    along_x, along_y = bx - ax, by - ay
    length = (along_x**2 + along_y**2).clamp(min=1e-6)
    share = (((x - ax) * along_x + (y - ay) * along_y) / length).clamp(0.0, 1.0)
    away = ((x - ax - share * along_x) ** 2 + (y - ay - share * along_y) ** 2).sqrt()
    return radius[:, None, None] - away


# --- what is drawn ----------------------------------------------------------------------------------------

FINGERS, LOCKS = 5, 3
HAND, GLASSES = FINGERS + 1, 27

# Part of the pictures with each.
HANDS, LOCKED = 0.12, 0.12


def hands_and_locks(
    pictures: int,
    side: int,
    rng: np.random.Generator,
    device: torch.device,
    hands: float = HANDS,
    locked: float = LOCKED,
) -> Capsules:
    """Hands that reach into some pictures and locks of hair that hang into others, pixels of a crop of ``side``."""
    count = HAND + LOCKS
    ends, radius, colour = np.zeros((pictures, count, 4)), np.zeros((pictures, count)), np.zeros((pictures, count, 3))
    for picture in range(pictures):
        if rng.random() < hands:
            ends[picture, :HAND], radius[picture, :HAND] = _hand(rng)
            colour[picture, :HAND] = draw_skin(rng) * rng.uniform(0.5, 1.2)
        if rng.random() < locked:
            for lock in range(HAND, count):
                start = np.array([rng.uniform(0.2, 0.8), rng.uniform(0.0, 0.3)])
                end = start + np.array([rng.normal(0.0, 0.2), rng.uniform(0.1, 0.5)])
                ends[picture, lock] = np.concatenate([start, end])
                radius[picture, lock] = rng.uniform(0.004, 0.03)
            colour[picture, HAND:] = rng.uniform(0.01, 0.25) * np.array([1.0, 0.75, 0.5])

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device, torch.float32)

    return Capsules(tensor(ends * side), tensor(radius * side), tensor(colour), tensor(np.zeros_like(radius)))


def _hand(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ends (6, 4) and radii (6,) in sides: a palm that comes from outside, five fingers."""
    middle = rng.uniform(0.25, 0.75, 2)
    towards = rng.uniform(0.0, 2 * np.pi)
    inward, across = np.array([np.cos(towards), np.sin(towards)]), np.array([-np.sin(towards), np.cos(towards)])
    size = rng.uniform(0.8, 1.2)
    wrist, knuckles = middle - 0.9 * size * inward, middle - 0.2 * size * inward
    ends, radius = [np.concatenate([wrist, knuckles])], [0.17 * size]
    spread, bend = rng.uniform(0.05, 0.11) * size, rng.normal(0.0, 0.05, FINGERS)
    for finger in range(FINGERS):
        off = (finger - (FINGERS - 1) / 2) * spread
        tip = knuckles + off * 1.3 * across + (0.45 - 0.8 * abs(off)) * size * inward + bend[finger] * across
        ends.append(np.concatenate([knuckles + off * across, tip]))
        radius.append(0.045 * size)
    return np.stack(ends), np.array(radius)


def glasses_lines(eyes: torch.Tensor, ears: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """The wire of glasses in model space: ends (P, 27, 2, 3), metres.

    ``eyes`` (P, 2, 3) and ``ears`` (P, 2, 3) on the head, in the same order of sides; ``radius`` (P,) of the
    rims.
    """
    corners = (GLASSES - 3) // 2
    angle = torch.arange(corners + 1, device=eyes.device) * (2 * np.pi / corners)
    ring = torch.stack([angle.cos(), 0.8 * angle.sin(), torch.zeros_like(angle)], dim=1)
    ahead = eyes + eyes.new_tensor([0.0, -0.002, 0.014])
    rims = ahead[:, :, None] + radius[:, None, None, None] * ring
    rim_lines = torch.stack([rims[:, :, :-1], rims[:, :, 1:]], dim=3).flatten(1, 2)
    inner = torch.stack([rims[:, side, _nearest(rims[:, side], ahead[:, 1 - side])] for side in (0, 1)], dim=1)
    outer = 2 * ahead - inner
    temples = torch.stack([outer, ears + eyes.new_tensor([0.0, 0.005, 0.0])], dim=2)
    return torch.cat([rim_lines, inner[:, None], temples], dim=1)


def _nearest(ring: torch.Tensor, to: torch.Tensor) -> int:
    """Which corner of the rings (P, C, 3) lies nearest to points (P, 3); the same in all pictures."""
    return int((ring - to[:, None]).norm(dim=2).mean(dim=0).argmin())
