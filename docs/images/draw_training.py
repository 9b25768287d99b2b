"""Draw docs/images/training-people.jpg, the picture of docs/training.md, with the program as it is.

    .venv/bin/python docs/images/draw_training.py

A column for each triplet, a row for each view: what the network is trained with.
"""

from pathlib import Path

import torch

from backend.export.images import jpeg_bytes
from trainer.data.synthetic import SyntheticFaces
from trainer.train.start import chosen_head

PICTURE = Path(__file__).parent / "training-people.jpg"
SIDE, PEOPLE, SEED, LOOKS = 128, 8, 11, 40


def main() -> None:
    head = chosen_head("open-head", torch.device("cpu"))
    photos = SyntheticFaces(head, SIDE, SEED, LOOKS).batch(0, PEOPLE).photos
    table = photos.permute(1, 2, 0, 3, 4).reshape(-1, PEOPLE * SIDE, 3)
    PICTURE.write_bytes(jpeg_bytes(table.numpy(), quality=85))


if __name__ == "__main__":
    main()
