"""Where a run's batches come from, as its configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from trainer.data.draw_shards import Drawing
from trainer.data.stored import StoredFaces
from trainer.data.synthetic import Head, Triplets
from trainer.train.config import DataConfig


class Source(Protocol):
    def batch(self, number: int, count: int) -> Triplets:
        """The ``number``-th batch of ``count`` triplets; always the same."""
        ...


def drawing(data: DataConfig, side: int) -> Drawing:
    """What a configuration draws."""
    return Drawing(side, data.seed, data.looks, data.supersampling, data.one_moment, data.one_sitting)


def training_source(data: DataConfig, head: Head, side: int) -> Source:
    """Drawn while training, or from the folder ``data.shards``."""
    if data.shards:
        return StoredFaces(Path(data.shards), head, side, data.seed)
    return drawing(data, side).faces(head)
