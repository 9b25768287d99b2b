"""Part overlap: do nose, lips, brows and eyes of the head lie where a mask of the photo has them.

The visible surface of the reconstruction, with its expression, is drawn into the photo; each part is the set of pixels
where a triangle of that part of the model is in front. The figure is intersection over union with the mask's part
(Wang et al., 3DDFA-V3, CVPR 2024, who measure it on MEAD).

Files: ``DIR/photos/NAME.*``, ``DIR/masks/NAME.png`` (one channel, a whole number per pixel, the size of the photo), and
``DIR/labels.json``, which says which numbers make up which part of the model, such as
``{"nose": [2], "lips": [7, 9], "brows": [4, 5], "eyes": [10, 11]}``. A part is a material of the model (``eyes``, the
eyeballs between the lids as masks have them; ``mouth``, what shows inside it; ``skin``) or else one of its regions.

Symbols: V vertices, T triangles, H, W photo size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend.errors import MgcFaceError
from backend.reconstruction.result import Reconstruction
from backend.rendering.rasterize import rasterize
from backend.vision.decode import load_photo
from trainer.evaluate import published
from trainer.evaluate.markdown import percent, table
from trainer.evaluate.now_protocol import ProtocolError
from trainer.evaluate.photo_sets import Reconstruct
from trainer.evaluate.truth_sets import SetError


@dataclass(frozen=True)
class MaskedPhoto:
    """A photo with its mask; ``labels`` maps parts of the model to numbers in the mask."""

    path: Path
    mask: Path
    labels: dict[str, tuple[int, ...]]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class OverlapResult:
    """``overlaps`` IoU by part, None where neither the mask nor the head shows it; empty where ``error`` says why."""

    name: str
    overlaps: dict[str, float | None] = field(default_factory=dict)
    error: str | None = None


def load(data: Path) -> list[MaskedPhoto]:
    """All masks with their photos, in order of name.

    Raises
    ------
    SetError
        When there are no masks, a mask has no photo, or the labels are in another form.
    """
    try:
        given = json.loads((data / "labels.json").read_text())
        labels = {str(name): tuple(int(number) for number in numbers) for name, numbers in given.items()}
        if not labels:
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SetError(
            f"There is no usable labels.json in {data}; write the mask's numbers for each part of the model, such as "
            '{"nose": [2]}, and name the folder with --data.'
        ) from error
    photos = {path.stem: path for path in sorted((data / "photos").glob("*.*"))}
    items = []
    for mask in sorted((data / "masks").glob("*.png")):
        if mask.stem not in photos:
            raise SetError(f"{mask} has no photo of that name in {data / 'photos'}; add it or take the mask away.")
        items.append(MaskedPhoto(photos[mask.stem], mask, labels))
    if not items:
        raise SetError(f"There are no masks in {data / 'masks'}; say with --data where they are.")
    return items


def measure(item: MaskedPhoto, reconstruct: Reconstruct) -> OverlapResult:
    """Overlap of each part with the largest face of the photo."""
    try:
        mask = read_mask(item.mask)
        photo = load_photo(item.path)
        if mask.shape != photo.pixels.shape[:2]:
            raise ProtocolError(
                f"The mask is {mask.shape[1]} x {mask.shape[0]}, the photo {photo.width} x {photo.height}."
            )
        head = reconstruct(photo)[0]
        drawn = visible_parts(head, tuple(item.labels), mask.shape[0], mask.shape[1])
    except MgcFaceError as error:
        return OverlapResult(item.name, error=str(error))
    return OverlapResult(
        item.name, {name: overlap(drawn[name], np.isin(mask, numbers)) for name, numbers in item.labels.items()}
    )


def read_mask(path: Path) -> np.ndarray:
    """(H, W) int.

    Raises
    ------
    ProtocolError
        When the file is no picture with one number per pixel.
    """
    try:
        with Image.open(path) as picture:
            mask = np.asarray(picture)
    except OSError as error:
        raise ProtocolError(f"The mask {path.name} cannot be read; save it as PNG again.") from error
    if mask.ndim != 2:
        raise ProtocolError(f"The mask {path.name} has colours; save it with one number per pixel.")
    return mask.astype(np.int64)


def visible_parts(head: Reconstruction, names: Sequence[str], height: int, width: int) -> dict[str, np.ndarray]:
    """(H, W) bool by part: pixels where a triangle of the part is in front, for a region one with all corners in it.

    Raises
    ------
    ProtocolError
        When the model has no material and no region of that name.
    """
    model = head.model
    unknown = [name for name in names if name not in model.materials and name not in model.regions]
    if unknown:
        known = ", ".join((*model.materials, *model.regions))
        raise ProtocolError(f"The model has no part {unknown[0]!r}; it has {known}.")
    vertices = np.asarray(head.vertices, np.float64)
    image = np.concatenate([head.camera.project(vertices), head.camera.to_camera(vertices)[:, 2:]], axis=1)
    triangles = model.triangles
    fragments = rasterize(
        torch.as_tensor(image, dtype=torch.float32)[None],
        torch.as_tensor(np.ascontiguousarray(triangles, np.int32)),
        height,
        width,
    )
    front = fragments.triangle[0].numpy()
    parts = {}
    for name in names:
        if name in model.materials:
            inside = model.triangle_material == model.materials.index(name)
        else:
            inside = np.asarray(model.regions[name], bool)[triangles].all(axis=1)
        parts[name] = np.where(front >= 0, inside[front], False)
    return parts


def overlap(a: np.ndarray, b: np.ndarray) -> float | None:
    """Intersection over union of two (H, W) bool masks; None when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def figures(results: Sequence[OverlapResult]) -> dict[str, Any]:
    """Mean overlap by part over the photos that show it, and the mean of the parts; ``refused`` with a face missing."""
    found = [item for item in results if item.error is None]
    names = list(dict.fromkeys(name for item in found for name in item.overlaps))
    parts: dict[str, float | None] = {}
    for name in names:
        known = [value for item in found if (value := item.overlaps[name]) is not None]
        parts[name] = float(np.mean(known)) if known else None
    shown = [value for value in parts.values() if value is not None]
    summary: dict[str, Any] = {
        "photos": len(results),
        "found": len(found),
        "parts": parts,
        "mean": float(np.mean(shown)) if shown else None,
        "failures": {item.name: item.error for item in results if item.error is not None},
    }
    if len(found) < len(results):
        missing = len(results) - len(found)
        summary["refused"] = f"{missing} of {len(results)} photos could not be scored, so there is no headline figure."
    return summary


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""
    rows = [[name, percent(value)] for name, value in summary["parts"].items()]
    rows.append(["mean of the parts", "*refused*" if "refused" in summary else f"**{percent(summary['mean'])}**"])
    text = f"## Part overlap: intersection over union, {summary['found']} of {summary['photos']} photos\n\n"
    text += table(["part", "overlap"], rows)
    if "refused" in summary:
        text += f"\n\n{summary['refused']}"
    text += "\n\nPublished, percent on MEAD with its own masks and eight parts:\n\n"
    text += table(["method", "mean", "source"], [published.cells(row, 2) for row in published.MEAD])
    notes = [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return text + ("\n\n" + "\n".join(notes) if notes else "")
