"""The Triton kernel of the cuda backend. Imported only when Triton is there.

It evaluates the inside test and the plane of 1 / depth exactly as ``torch_backend.test_pairs`` does,
with multiply-add fusion switched off by the caller so that the same bits come out.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def edge_side(ax, ay, bx, by, px, py):
    """Signed side of ``(px, py)`` from edge a-b, shifted so that ``>= 0`` means inside (top-left rule)."""
    dx = bx - ax
    dy = by - ay
    side = dx * (py - ay) - dy * (px - ax)
    owns_its_edge = (dy < 0) | ((dy == 0) & (dx > 0))
    return tl.where(owns_its_edge, side, side - 1)


@triton.jit
def draw_kernel(
    work_triangle,  # (P,) int64, row of the setup that each program draws
    work_left,  # (P,) int64, first column of the program's window
    work_top,  # (P,) int64, first row of the window
    corner_x,  # (N, 3) int64
    corner_y,  # (N, 3) int64
    planes,  # (N, 5) float64: inverse_a, slope_x, slope_y, inverse_low, inverse_high
    right,  # (N,) int64
    bottom,  # (N,) int64
    index,  # (N,) int64
    keys,  # (H * W,) int64
    width,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GRID: tl.constexpr,
    HALF_PIXEL: tl.constexpr,
    LARGEST_ID: tl.constexpr,
):
    program = tl.program_id(0)
    n = tl.load(work_triangle + program)
    left = tl.load(work_left + program)
    top = tl.load(work_top + program)
    last_column = tl.minimum(tl.load(right + n), left + WINDOW - 1)
    last_row = tl.minimum(tl.load(bottom + n), top + WINDOW - 1)
    ax = tl.load(corner_x + n * 3)
    bx = tl.load(corner_x + n * 3 + 1)
    cx = tl.load(corner_x + n * 3 + 2)
    ay = tl.load(corner_y + n * 3)
    by = tl.load(corner_y + n * 3 + 1)
    cy = tl.load(corner_y + n * 3 + 2)
    inverse_a = tl.load(planes + n * 5)
    slope_x = tl.load(planes + n * 5 + 1)
    slope_y = tl.load(planes + n * 5 + 2)
    low = tl.load(planes + n * 5 + 3)
    high = tl.load(planes + n * 5 + 4)
    id_bits = LARGEST_ID - tl.load(index + n)
    lane = tl.arange(0, ROWS * COLUMNS).to(tl.int64)
    for row_offset in range(0, WINDOW, ROWS):
        if top + row_offset <= last_row:
            for column_offset in range(0, WINDOW, COLUMNS):
                if left + column_offset <= last_column:
                    column = left + column_offset + lane % COLUMNS
                    row = top + row_offset + lane // COLUMNS
                    px = column * GRID + HALF_PIXEL
                    py = row * GRID + HALF_PIXEL
                    inside = (column <= last_column) & (row <= last_row)
                    inside = inside & (edge_side(ax, ay, bx, by, px, py) >= 0)
                    inside = inside & (edge_side(bx, by, cx, cy, px, py) >= 0)
                    inside = inside & (edge_side(cx, cy, ax, ay, px, py) >= 0)
                    across = slope_x * (px - ax).to(tl.float64) + slope_y * (py - ay).to(tl.float64)
                    inverse = tl.minimum(tl.maximum(inverse_a + across, low), high).to(tl.float32)
                    key = (inverse.to(tl.int32, bitcast=True).to(tl.int64) << 32) | id_bits
                    tl.atomic_max(keys + row * width + column, key, mask=inside)


def launch(work, setup_tensors, keys, width: int, window: int, grid: int, half_pixel: int, largest_id: int) -> None:
    """Run :func:`draw_kernel` for every work item; ``work`` and ``setup_tensors`` in the kernel's order."""
    program: Any = draw_kernel[(work[0].shape[0],)]
    program(
        *work,
        *setup_tensors,
        keys,
        width,
        WINDOW=window,
        ROWS=4,
        COLUMNS=8,
        GRID=grid,
        HALF_PIXEL=half_pixel,
        LARGEST_ID=largest_id,
        num_warps=1,
        enable_fp_fusion=False,
    )
