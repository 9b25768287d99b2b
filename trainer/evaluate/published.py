"""Published figures, shown beside ours.

Each row says where its figures come from. "From memory" marks a figure that nobody here has seen in its source; it
is shown as such and no decision rests on it. Figures measured on other data than ours stand beside ours for
orientation only, which the page says.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One method: ``figures`` in the order of its table's columns, None where none was published; ``source``."""

    method: str
    figures: tuple[float | None, ...]
    source: str


MEMORY = "from memory, not verified"
# Where a total does not follow from the row's own figures.
AS_PRINTED = "as printed; the four average to 2.021"

# NoW, non-metrical, test set, millimetres: median, mean, standard deviation.
_DEEP3D = "Deep3DFaceRecon_pytorch, README"
NOW = (
    Row("3DMM-CNN", (1.84, 2.33, 2.05), _DEEP3D),
    Row("PRNet", (1.50, 1.98, 1.88), _DEEP3D),
    Row("MGCNet", (1.31, 1.87, 2.63), _DEEP3D + "; FOCUS, README"),
    Row("SynergyNet", (1.27, 1.59, 1.31), "SynergyNet, issue 24 (weights unreleased)"),
    Row("3DDFA_V2", (1.23, 1.57, 1.39), _DEEP3D),
    Row("Deep3D (TensorFlow)", (1.23, 1.54, 1.29), _DEEP3D),
    Row("RingNet", (1.21, 1.53, 1.31), _DEEP3D),
    Row("Deep3D (PyTorch)", (1.11, 1.41, 1.21), _DEEP3D),
    Row("DECA", (1.09, 1.38, 1.18), _DEEP3D),
    Row("FOCUS", (1.04, 1.30, 1.10), "FOCUS, README"),
    Row("Dense Landmarks", (1.02, 1.28, 1.08), "NeuFace, table"),
    Row("SMIRK", (0.99, 1.22, 1.02), MEMORY),
    Row("MICA", (0.90, 1.11, 0.92), "NeuFace, table"),
    Row("TokenFace", (0.76, 0.95, 0.82), MEMORY),
)

# REALY, millimetres: nose, mouth, forehead, cheek, all.
_V3 = "3DDFA-V3, table 2"
REALY = {
    "frontal": (
        Row("PRNet", (1.923, 1.838, 2.429, 1.863, 2.013), _V3),
        Row("DECA (coarse)", (1.694, 2.516, 2.394, 1.479, 2.010), _V3 + f" ({AS_PRINTED})"),
        Row("3DDFA_V2", (1.903, 1.597, 2.447, 1.757, 1.926), _V3),
        Row("MGCNet", (1.771, 1.417, 2.268, 1.639, 1.774), _V3),
        Row("Deep3D", (1.719, 1.368, 2.015, 1.528, 1.657), _V3),
        Row("HRN (mid)", (1.722, 1.357, 1.995, 1.072, 1.537), _V3),
        Row("3DDFA_V3", (1.586, 1.238, 1.810, 1.111, 1.436), _V3),
    ),
    "side": (
        Row("DECA (coarse)", (None, None, None, None, 2.107), _V3),
        Row("PRNet", (None, None, None, None, 2.032), _V3),
        Row("3DDFA_V2", (None, None, None, None, 1.943), _V3),
        Row("MGCNet", (1.827, 1.409, 2.248, 1.665, 1.787), _V3),
        Row("Deep3D", (None, None, None, None, 1.691), _V3),
        Row("HRN (mid)", (None, None, None, None, 1.468), _V3),
        Row("3DDFA_V3", (1.623, 1.205, 1.864, 1.076, 1.442), _V3),
    ),
}

# AFLW2000-3D, NME of 68 points in percent: yaw 0-30, 30-60, 60-90, mean of the three.
AFLW2000 = (
    Row("3DDFA", (3.78, 4.54, 7.93, 5.42), MEMORY),
    Row("PRNet", (2.75, 3.51, 4.61, 3.62), MEMORY),
    Row("3DDFA_V2", (None, None, None, 3.51), "Papers with Code"),
    Row("SADRNet", (2.66, 3.30, 4.42, 3.46), MEMORY),
    Row("SynergyNet", (2.656, 3.316, 4.268, 3.413), "MindSpore reproduction; the paper says 3.41"),
    Row("MGCNet", (2.72, 3.12, 3.76, 3.20), "the paper's table, " + MEMORY),
)

# MICC Florence, point-to-plane RMSE of each mesh, millimetres: mean and standard deviation over meshes.
MICC = (
    Row("Deep3D (TensorFlow)", (1.67, 0.50), _DEEP3D),
    Row("Deep3D (PyTorch)", (1.53, 0.45), _DEEP3D),
    Row("Deep3D (PyTorch, model of April 2023)", (1.54, 0.49), _DEEP3D),
)

# Part overlap on MEAD, mean IoU in percent.
MEAD = (
    Row("3DDFA_V2", (55.88,), _V3),
    Row("DECA", (61.93,), _V3),
    Row("MGCNet", (62.94,), _V3),
    Row("PRNet", (63.66,), _V3),
    Row("Deep3D", (69.51,), _V3),
    Row("HRN", (71.69,), _V3),
    Row("3DDFA_V3", (73.82,), _V3),
)


def cells(row: Row, digits: int) -> list[str]:
    """The row as cells of a table: method, figures, source."""
    return [
        row.method,
        *("none" if figure is None else f"{figure:.{digits}f}" for figure in row.figures),
        row.source,
    ]
