"""Triplets from shards, in an order that is a function of a seed and the number of the batch.

An epoch takes every triplet once. The order of the shards is drawn anew for each epoch, a few shards that follow each
other are shuffled together, and batches go on from one epoch into the next. So the file is read nearly in a row, no
more than those few shards need to be in memory, and a run that stopped finds its place by counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from backend.errors import TrainingError
from trainer.data.sample_files import batch_from, columns_for
from trainer.data.shards import PHOTOS, Manifest, OpenShard, load_manifest
from trainer.data.synthetic import Head, Triplets

# Shards whose samples are shuffled together.
SHUFFLED_TOGETHER = 16


class StoredFaces:
    """Makes batches from a folder of shards, as :class:`trainer.data.synthetic.SyntheticFaces` draws them.

    Parameters
    ----------
    folder : Path
    head : Head
    side : int
        S, of the batches; crops of another side are resampled.
    seed : int
        Of the order.
    real : bool
        Photos are wanted, else invented people.

    Raises
    ------
    TrainingError
        The folder holds no training data, or of another kind or face model.
    """

    def __init__(self, folder: Path, head: Head, side: int, seed: int, real: bool = False) -> None:
        self.folder, self.head, self.side, self.seed = folder, head, side, seed
        self.manifest = load_manifest(folder)
        if (self.manifest.origin == PHOTOS) != real:
            raise TrainingError(
                f"{folder} holds {'photos' if not real else 'invented people'}; name it as "
                f"data.{'photos' if not real else 'shards'}."
            )
        check_model(self.manifest, head, folder)
        self.open: dict[int, OpenShard] = {}
        self.counts = np.array([shard.samples for shard in self.manifest.shards], int)
        self.epoch, self.order = -1, np.zeros((0, 2), int)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @torch.no_grad()
    def batch(self, number: int, count: int) -> Triplets:
        """The ``number``-th batch of ``count`` triplets; always the same."""
        places = [self._place(index) for index in range(number * count, (number + 1) * count)]
        samples = [self._shard(shard)[position] for shard, position in places]
        try:
            return batch_from(samples, self.manifest.columns, self.side, self.head.device)
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise TrainingError(f"{self.folder} holds a damaged sample ({error}); make the data again.") from error

    def _place(self, index: int) -> tuple[int, int]:
        """Shard and position of a sample in the endless row of epochs."""
        epoch, position = divmod(index, len(self))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, epoch_order(self.counts, self.seed, epoch)
        shard, position = self.order[position].tolist()
        return shard, position

    def _shard(self, number: int) -> OpenShard:
        if number not in self.open:
            shard = self.manifest.shards[number]
            self.open[number] = OpenShard(self.folder / shard.name, shard.samples)
        return self.open[number]


def epoch_order(counts: Sequence[int] | np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """(sum of counts, 2) int: shard and position of each sample, in the order of one epoch."""
    rng = np.random.default_rng([seed, epoch])
    shards = rng.permutation(len(counts))
    parts = []
    for start in range(0, len(shards), SHUFFLED_TOGETHER):
        together = [
            np.column_stack([np.full(counts[shard], shard), np.arange(counts[shard])])
            for shard in shards[start : start + SHUFFLED_TOGETHER]
        ]
        parts.append(rng.permutation(np.concatenate(together)))
    return np.concatenate(parts)


def check_model(manifest: Manifest, head: Head, folder: Path) -> None:
    """Refuse a truth of another face model: its numbers mean something else."""
    if not manifest.shards:
        raise TrainingError(f"{folder} holds no sample yet; go on making the data with `mgcface train-data`.")
    if manifest.face_model != head.fingerprint or manifest.columns != columns_for(head.layout):
        raise TrainingError(
            f"{folder} was made with another face model or albedo than {head.model.info.name}; name that one as "
            "data.model, or make the data again."
        )
