"""TensorBoard, for those who have it: losses, figures, and pictures with the landmarks that were found.

Symbols: P pictures, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from backend.errors import DependencyError
from backend.network.outputs import Predicted
from trainer.data.synthetic import Head, Triplets, project

# Pictures shown, and how many pixels wide a dot is.
SHOWN, DOT = 8, 2
FOUND, TRUE = (255, 40, 40), (60, 220, 60)


class Board:
    """Writes to a folder, or, where it is not wanted, nowhere; what is there of ``step`` and later is done again."""

    def __init__(self, folder: Path, wanted: bool, step: int = 0) -> None:
        self.writer = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                'TensorBoard is not installed; leave out --tensorboard or run: pip install "mgcface[board]".'
            ) from error
        self.writer = SummaryWriter(str(folder), purge_step=step)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def pictures(
        self, network: Callable[[torch.Tensor], Predicted], batches: Sequence[Triplets], head: Head, step: int
    ) -> None:
        """Held-out faces, where their landmarks are (green) and where the network puts them (red)."""
        if self.writer is None or not batches:
            return
        batch = batches[0]
        photos = batch.photos.flatten(0, 1)[:SHOWN]
        with torch.no_grad():
            said = network(photos)
        side = photos.shape[1]
        points = head.points(head.vertices(said.identity, said.expression), "ibug68")
        pixels, _ = project(points, said.K(side), said.R, said.t(head.layout))
        drawn = dotted(dotted(photos, batch.landmarks["ibug68"][:SHOWN], TRUE), pixels, FOUND)
        self.writer.add_images("held out", drawn, step, dataformats="NHWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def dotted(photos: torch.Tensor, pixels: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """(P, S, S, 3) uint8 with a dot of a colour at each of (P, L, 2) pixels; those outside are left out."""
    result, side = photos.clone(), photos.shape[1]
    item = torch.arange(len(photos), device=photos.device)[:, None].expand(pixels.shape[:2])
    corner = (pixels - DOT / 2 + 0.5).floor().long()
    for right in range(DOT):
        for down in range(DOT):
            x, y = corner[..., 0] + right, corner[..., 1] + down
            inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
            result[item[inside], y[inside], x[inside]] = torch.tensor(colour, dtype=torch.uint8, device=photos.device)
    return result
