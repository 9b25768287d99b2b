"""Where a run's batches come from, as its configuration says."""

from __future__ import annotations

from pathlib import Path

from trainer.data.draw_shards import Drawing
from trainer.data.mixed import MixedFaces, Source
from trainer.data.stored import StoredFaces
from trainer.data.synthetic import Head
from trainer.train.config import DataConfig


def drawing(data: DataConfig, side: int) -> Drawing:
    """What a configuration draws."""
    return Drawing(side, data.seed, data.looks, data.supersampling, data.one_moment, data.one_sitting)


def training_source(data: DataConfig, head: Head, side: int) -> Source:
    """Invented people, drawn while training or from the folder ``data.shards``, and photos from ``data.photos``."""
    photos = StoredFaces(Path(data.photos), head, side, data.seed, real=True) if data.photos else None
    if photos is not None and data.photos_share == 1.0:
        return photos
    invented: Source
    if data.shards:
        invented = StoredFaces(Path(data.shards), head, side, data.seed, real=False)
    else:
        invented = drawing(data, side).faces(head)
    return invented if photos is None else MixedFaces(invented, photos, data.photos_share)


def data_fingerprint(source: Source) -> str:
    """Tells one set of stored samples from another; empty for people that are drawn."""
    if isinstance(source, MixedFaces):
        return "-".join([data_fingerprint(source.drawn), data_fingerprint(source.photos)])
    return source.manifest.fingerprint if isinstance(source, StoredFaces) else ""
