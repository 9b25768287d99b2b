"""Error by the number of photos, as a drawing beside the page (SVG, written as text)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from trainer.evaluate.error_curve import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH

TOP_MM = 1.4
STEP_MM = 0.2
# Curves of one kind of people: drawn through, dashed, dotted.
DASHES = ("", ' stroke-dasharray="6 3"', ' stroke-dasharray="2 3"')


def svg(curves: Mapping[str, Mapping[int, float]]) -> str:
    """The drawing of ``curves``: name -> number of photos -> millimetres; three for each kind of people."""
    counts = sorted({int(count) for curve in curves.values() for count in curve})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for count in counts:
        x = place(count, 0.0, counts)[0]
        lines.append(f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{count}</text>')
    for tick in range(round(TOP_MM / STEP_MM) + 1):
        y = place(counts[0], tick * STEP_MM, counts)[1]
        lines.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick * STEP_MM:.1f}</text>')
    lines.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 38}" text-anchor="middle">photos of a person</text>')
    middle = (TOP + BOTTOM) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 16 {middle})"'
    lines.append(f'<text x="16" y="{middle}" {turned}>mean of median distances, millimetres</text>')
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join("{:.1f},{:.1f}".format(*place(int(n), value, counts)) for n, value in curve.items())
        stroke = f'fill="none" stroke="{COLOURS[number // len(DASHES) % len(COLOURS)]}" stroke-width="1.8"'
        stroke += DASHES[number % len(DASHES)]
        lines.append(f'<polyline points="{points}" {stroke}/>')
        y = TOP + 12 + 18 * number
        lines.append(f'<path d="M{RIGHT + 14} {y - 4}h24" {stroke}/>')
        lines.append(f'<text x="{RIGHT + 44}" y="{y}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def place(count: int, error_mm: float, counts: list[int]) -> tuple[float, float]:
    """Pixels of a point: photos to the right, one step for each number of them; millimetres upward."""
    step = (RIGHT - LEFT) / max(1, len(counts) - 1)
    return LEFT + step * counts.index(count), BOTTOM - (BOTTOM - TOP) * min(error_mm, TOP_MM) / TOP_MM
