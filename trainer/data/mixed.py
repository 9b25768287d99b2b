"""Batches of invented people and of real photos, in a fixed proportion.

Symbols: B triplets, P pictures.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Protocol

import torch

from backend.network.outputs import Predicted
from trainer.data.synthetic import Triplets


class Source(Protocol):
    def batch(self, number: int, count: int) -> Triplets:
        """The ``number``-th batch of ``count`` triplets; always the same."""
        ...


class MixedFaces:
    """Takes ``share`` of every batch (at least one triplet) from ``photos`` and the rest from ``drawn``."""

    def __init__(self, drawn: Source, photos: Source, share: float) -> None:
        self.drawn, self.photos, self.share = drawn, photos, share

    def batch(self, number: int, count: int) -> Triplets:
        real = min(max(round(self.share * count), 1), count)
        parts = [self.photos.batch(number, real)]
        if count > real:
            parts.insert(0, self.drawn.batch(number, count - real))
        return joined(parts)


def joined(parts: list[Triplets]) -> Triplets:
    """All triplets of several batches; landmark sets that not all of them have are left out."""
    if len(parts) == 1:
        return parts[0]
    sets = [name for name in parts[0].landmarks if all(name in part.landmarks for part in parts)]
    trusted = {name for part in parts for name in part.trust}

    def all_of(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    def trust(part: Triplets, name: str) -> torch.Tensor:
        return part.trust.get(name, torch.ones(len(part.truth.R), device=part.photos.device))

    numbers = [entry.name for entry in fields(Predicted) if entry.name != "log_variance"]
    return Triplets(
        photos=all_of("photos"),
        skin=all_of("skin"),
        truth=Predicted(
            **{name: torch.cat([getattr(part.truth, name) for part in parts]) for name in numbers}, log_variance={}
        ),
        landmarks={name: torch.cat([part.landmarks[name] for part in parts]) for name in sets},
        visible={name: torch.cat([part.visible[name] for part in parts]) for name in sets},
        **{name: all_of(name) for name in ("flags", "moved", "one_person", "real")},
        trust={name: torch.cat([trust(part, name) for part in parts]) for name in sorted(trusted)},
    )
