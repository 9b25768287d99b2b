"""The same person's other photo as the nearest one, with the network, with the fit, and with both.

The set ``identity`` of :mod:`trainer.evaluate.photo_sets`, once for each method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.errors import MgcFaceError
from backend.vision.decode import load_photo
from trainer.evaluate.held_out import METHODS
from trainer.evaluate.markdown import table
from trainer.evaluate.photo_sets import (
    IDENTITY_SET,
    PhotoResult,
    Reconstruct,
    identity_figures,
    photo_paths,
)
from trainer.evaluate.photo_sets import measure as measure_head


@dataclass(frozen=True)
class PersonResult:
    """What became of one photo, by method."""

    name: str
    error: str | None
    methods: Mapping[str, PhotoResult]


def load(data: Path) -> list[Path]:
    return photo_paths(IDENTITY_SET, data)


def measure(path: Path, methods: Mapping[str, Reconstruct]) -> PersonResult:
    name = f"{path.parent.name}/{path.name}"
    found: dict[str, PhotoResult] = {}
    error = None
    for method, reconstruct in methods.items():
        try:
            found[method] = measure_head(name, reconstruct(load_photo(path))[0])
        except MgcFaceError as failed:
            error = str(failed)
            found[method] = PhotoResult(name, error)
    return PersonResult(name, error, found)


def figures(results: Sequence[PersonResult]) -> dict:
    """Method -> what :func:`trainer.evaluate.photo_sets.identity_figures` says."""
    names = list(results[0].methods) if results else []
    return {
        "methods": {name: identity_figures([item.methods[name] for item in results]) for name in names},
        "failures": {item.name: item.error for item in results if item.error is not None},
    }


def page(found: dict) -> str:
    from trainer.evaluate.accuracy_report import RULES

    methods = [name for name in METHODS if name in found["methods"]]
    lines = []
    for rule, label in RULES.items():
        cells = [label]
        for name in methods:
            ways = found["methods"][name]["rank1"].get(rule)
            people = found["methods"][name]["people"]
            cells.append(f"{ways['neutral_to_smiling']} and {ways['smiling_to_neutral']} of {people}" if ways else "")
        lines.append(cells)
    text = "## Identity: the nearest neighbour is the same person, neutral to smiling and back\n\n"
    text += table(["rule", *(METHODS[name] for name in methods)], lines)
    return "\n\n".join([text, *(f"* {name}: {reason}" for name, reason in found["failures"].items())])
