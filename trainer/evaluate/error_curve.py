"""The cumulative error curve: which share of all distances is no larger than a limit. As numbers and as a drawing.

The drawing is SVG, written as text: it needs no library, stays sharp, and opens in any browser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

# NoW's curve reaches from 0 to 8 mm. Steps of a twentieth of a millimetre are finer than a line on paper.
REACH_MM = 8.0
LIMITS_MM = np.linspace(0.0, REACH_MM, 161)

# Pixels: the whole drawing, and the frame of the curve in it.
WIDTH, HEIGHT = 720, 460
LEFT, TOP, RIGHT, BOTTOM = 60, 20, 480, 410
# Colours that people with any colour vision tell apart (Okabe and Ito, 2008), and dashes once they are used up.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("none", "6 3", "2 3")


def shares(values: np.ndarray, limits: np.ndarray = LIMITS_MM) -> np.ndarray:
    """(L,) share of the values (N,) that are no larger than each of the ascending limits (L,)."""
    return np.searchsorted(np.sort(values), limits, side="right") / len(values)


def svg(curves: Mapping[str, Sequence[float]]) -> str:
    """The drawing.

    Parameters
    ----------
    curves : mapping of str to (L,) float
        Shares at :data:`LIMITS_MM` for each name; names are shown in the order of the mapping.
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for limit in range(int(REACH_MM) + 1):
        x = place(limit, 0.0)[0]
        lines.append(f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{limit}</text>')
    for percent in range(0, 101, 20):
        y = place(0.0, percent / 100.0)[1]
        lines.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    middle = (LEFT + RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{BOTTOM + 38}" text-anchor="middle">distance, millimetres</text>')
    turn = f"rotate(-90 16 {(TOP + BOTTOM) / 2})"
    lines.append(
        f'<text x="16" y="{(TOP + BOTTOM) / 2}" text-anchor="middle" transform="{turn}">vertices, percent</text>'
    )
    for number, (name, values) in enumerate(curves.items()):
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(LIMITS_MM, values))
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"'
        lines.append(f'<polyline points="{points}" {stroke}/>')
        y = TOP + 12 + 18 * number
        lines.append(f'<path d="M{RIGHT + 14} {y - 4}h24" {stroke}/>')
        lines.append(f'<text x="{RIGHT + 44}" y="{y}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def place(limit: float, share: float) -> tuple[float, float]:
    """Pixels of a point of the curve: millimetres to the right, shares upward."""
    return LEFT + (RIGHT - LEFT) * limit / REACH_MM, BOTTOM - (BOTTOM - TOP) * share
