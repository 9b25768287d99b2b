"""Photos that something is wrong with, made from the example photo or from nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.jpg"

# Left, top, right, bottom of the example's head.
HEAD_BOX = (130, 0, 330, 240)


def no_face(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def drawing(path: Path) -> None:
    """A house with a fence."""
    picture = Image.new("RGB", (600, 400), "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((150, 180, 400, 380), outline="black", width=4)
    pen.polygon([(130, 180), (275, 60), (420, 180)], outline="black", fill="brown")
    pen.rectangle((190, 220, 240, 270), fill="lightblue", outline="black")
    pen.rectangle((310, 260, 360, 380), fill="darkgreen", outline="black")
    for x in range(0, 600, 30):
        pen.line((x, 340, x, 399), fill="grey", width=5)
    picture.save(path)


def cut_at_border(path: Path) -> None:
    Image.open(EXAMPLE).crop((200, 0, 512, 512)).save(path)


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(path)


def truncated(path: Path) -> None:
    path.write_bytes(EXAMPLE.read_bytes()[:30000])


def text_file(path: Path) -> None:
    path.write_text("Dear diary,\n")


def folder(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    assert not path.exists()


def many_people(path: Path) -> None:
    """The example's head twenty times, 5 by 4."""
    head = Image.open(EXAMPLE).crop(HEAD_BOX)
    crowd = Image.new("RGB", (5 * head.width, 4 * head.height))
    for column in range(5):
        for row in range(4):
            crowd.paste(head, (column * head.width, row * head.height))
    crowd.save(path)


def enormous(path: Path) -> None:
    """8000 x 6000 pixels."""
    Image.open(EXAMPLE).crop((0, 0, 512, 384)).resize((8000, 6000)).save(path, quality=80)
