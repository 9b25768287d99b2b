"""One person from several photos becomes one folder: the files of one head, and what each photo has of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from backend.export.folder import (
    FORMATS,
    HEAD_GLB,
    RECORD_FILE,
    SOURCES_FILE,
    check_formats,
    eye_picture_of,
    normal_png,
    surface_files,
    write_whole,
)
from backend.export.gltf import head_glb
from backend.export.images import jpeg_bytes
from backend.export.iris_color import iris_color
from backend.export.overlay import overlay_image
from backend.export.record import OFFSET_FILE, fields_text, offset_bytes, person_fields
from backend.geometry.camera import Camera
from backend.reconstruction.person import Person

# Colours that sources.png shows photos in, one after the other; 0 is black.
PALETTE = (
    *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)),
    *((204, 121, 167), (153, 153, 153), (110, 60, 20), (170, 220, 120), (120, 80, 200), (255, 255, 255)),
)


def write_person(person: Person, folder: Path | str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write ``folder`` with the chosen files; an earlier result is replaced whole.

    Parameters
    ----------
    person : Person
    folder : Path or str
    formats : sequence of str
        Any of :data:`backend.export.folder.FORMATS`.

    Raises
    ------
    OutputError
        No permission, no space, a file or foreign files in the way.
    """
    check_formats(formats)
    return write_whole(Path(folder).absolute(), person_files(person, formats))


def person_files(person: Person, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File name and content of every file, made one at a time."""
    head = person.head
    eyes = common_eyes(person) if {"glb", "obj", "overlay"} & set(formats) else None
    normals = normal_png(head, formats)
    if "json" in formats:
        yield RECORD_FILE, fields_text(person_fields(person)).encode("utf-8")
        if head.offset is not None:
            yield OFFSET_FILE, offset_bytes(head.offset)
    if "glb" in formats:
        yield HEAD_GLB, head_glb(head, eyes, cameras(person), normals)
    yield from surface_files(head, eyes, normals, formats)
    if person.sources is not None and "texture" in formats:
        yield SOURCES_FILE, palette_png(person.sources)
    if "overlay" in formats:
        for number, photo in enumerate(person.photos, start=1):
            if photo.head is not None:
                shown = replace(photo.head, texture=person.texture)
                yield f"overlay_{number:02d}.jpg", jpeg_bytes(overlay_image(shown, photo.pixels(), eyes))


def common_eyes(person: Person) -> np.ndarray | None:
    """The picture of the eyes in the colour of :func:`common_iris`."""
    return eye_picture_of(person.head.model, common_iris(person))


def common_iris(person: Person) -> tuple[float, float, float] | None:
    """The iris colour, sRGB, that most photos agree on: the median, channel by channel; None where none shows it."""
    seen = []
    for photo in person.used:
        assert photo.head is not None
        color = iris_color(photo.pixels().pixels, photo.head.landmarks.get("mediapipe478"))
        if color is not None:
            seen.append(color)
    if not seen:
        return None
    red, green, blue = (float(value) for value in np.median(seen, axis=0))
    return red, green, blue


def cameras(person: Person) -> dict[str, Camera]:
    """Name in the GLB -> camera: ``photo_01``, ``photo_02``, ... by the place of the photo."""
    return {
        f"photo_{number:02d}": photo.head.camera
        for number, photo in enumerate(person.photos, start=1)
        if photo.head is not None
    }


def palette_png(numbers: np.ndarray) -> bytes:
    """(S, S) uint8 -> PNG whose pixels are the numbers and which looks like a map."""
    picture = Image.fromarray(numbers, mode="P")
    colours = [PALETTE[0], *(PALETTE[1 + number % (len(PALETTE) - 1)] for number in range(255))]
    picture.putpalette([channel for colour in colours for channel in colour])
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
