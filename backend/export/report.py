"""A page for people to judge a head by: ``mgcface report``.

What a folder of ``mgcface reconstruct`` holds, and the photos that its record names, become one HTML file with all
pictures inside it: nothing is fetched when it is opened. The words and their order are ``data/report.html``.

Symbols: V vertices, S side of a texture.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from backend import __version__
from backend.errors import MgcFaceError, OutputError
from backend.export.eye_texture import BROWN
from backend.export.folder import (
    CONFIDENCE_FILE,
    RECORD_FILE,
    SOURCES_FILE,
    eye_picture_of,
    output_error,
    prepare_out_dir,
)
from backend.export.images import jpeg_bytes
from backend.export.iris_color import iris_color
from backend.export.obj import EYE_TEXTURE_FILE, SKIN_TEXTURE_FILE
from backend.export.person_folder import PALETTE, palette_png
from backend.export.record import Record, RecordError, read_record
from backend.export.record_photos import RecordedPhoto, Sight, main_photo, recorded_photos
from backend.export.report_pictures import (
    TURNTABLE_YAWS,
    PhotoPictures,
    on_face,
    reduced_map,
    turntable,
)
from backend.face_model.model import EYES, SKIN, FaceModel
from backend.face_model.registry import get_model
from backend.vision.decode import FULL_FRAME_LONG_SIDE_MM, load_photo

TEMPLATE = Path(__file__).parent / "data" / "report.html"
REPORT_JPEG_QUALITY = 86
# Textures are reduced to this side before the head is drawn with them; the pictures are smaller still.
DRAWN_TEXTURE_SIDE = 2048
# Of the expression so many coefficients are listed, if they are at least this strong.
STRONGEST, LEAST_SHOWN = 8, 0.05
# A texel counts as seen from this confidence on (of 255).
SEEN_CONFIDENCE = 64

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Maps:
    """Pictures of a folder: ``textures`` (S, S, 3) uint8 by material slot, the maps (S, S) uint8 or None; ``notes``
    are sentences about what cannot be shown."""

    textures: dict[str, np.ndarray]
    skin: np.ndarray | None
    confidence: np.ndarray | None
    sources: np.ndarray | None
    notes: tuple[str, ...]


def person_folders(folder: Path) -> list[Path]:
    """The folder itself where it holds a head, else those in it that do.

    Raises
    ------
    RecordError
        There is no reconstruction.json in it.
    """
    if (folder / RECORD_FILE).is_file():
        return [folder]
    try:
        inside = sorted(path.parent for path in folder.glob(f"*/{RECORD_FILE}") if path.is_file())
    except OSError:
        inside = []
    if not inside:
        what = "holds no" if folder.is_dir() else "is no folder with a"
        raise RecordError(
            f"{folder} {what} {RECORD_FILE}: name a folder that mgcface reconstruct wrote (with the format json)."
        )
    return inside


def person_section(folder: Path, model_name: str | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """What the page shows of the head in a folder: words, figures and pictures as data URIs.

    Parameters
    ----------
    folder : Path
    model_name : str, optional
        Name or file of the face model; the one that the record names when left out.
    progress : callable (finished part, what is being done), optional
        May raise to stop.

    Raises
    ------
    RecordError, ModelError
        The record cannot be used, or its face model is not there. A photo that cannot be shown is no error: the
        section says so.
    """
    tell = progress or (lambda part, doing: None)
    place = folder / RECORD_FILE
    record = read_record(place)
    photos = recorded_photos(record, place)
    model = get_model(model_name or record.face_model)
    record.vertices(model)  # says so when the model is another one
    maps = read_maps(folder, model)
    entries, eyes = [], maps.textures.get(EYES)
    for number, photo in enumerate(photos, start=1):
        tell((number - 1) / (len(photos) + 1), f"{folder.name}: photo {number} of {len(photos)}")
        entry, eyes = photo_entry(folder, record, photo, number, model, maps, eyes)
        entries.append(entry)
    tell(len(photos) / (len(photos) + 1), f"{folder.name}: from all sides")
    if eyes is None:
        eyes = eye_picture_of(model, BROWN)
    main = main_photo(record, photos)
    textures = maps.textures | ({} if eyes is None else {EYES: eyes})
    views = turntable(model, head_vertices(record, model, main.sight), textures)
    section = {
        "name": folder.resolve().name or str(folder),
        "folder": str(folder),
        "photos": entries,
        "used": sum(photo.sight is not None for photo in photos),
        "main": photos.index(main) + 1,
        "turntable": [{"yaw": yaw, "picture": jpeg_uri(view)} for yaw, view in zip(TURNTABLE_YAWS, views)],
        "maps": map_pictures(maps, model, len(photos)),
        "certainty": identity_certainty(record),
        "timings": {stage: float(spent) for stage, spent in record.fields.get("timings_ms", {}).items()},
        "warnings": [str(sentence) for sentence in record.fields.get("warnings", [])],
        "notes": list(maps.notes),
        "model": model.info,
    }
    tell(1.0, folder.name)
    return section


def page(sections: Sequence[Mapping[str, Any]]) -> str:
    """The whole HTML file."""
    return _template().render(people=sections, version=__version__, palette=PALETTE)


def check_place(path: Path) -> None:
    """See that a file can be written there, before minutes of work are spent; raises OutputError."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give --out the name of a file.")
    prepare_out_dir(path.parent)


def write_page(path: Path, text: str) -> None:
    """Write the file, whole or not at all; raises OutputError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        with suppress(OSError):
            part.unlink()


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE.name)


# --- photos -----------------------------------------------------------------------------------------------


def photo_entry(
    folder: Path,
    record: Record,
    photo: RecordedPhoto,
    number: int,
    model: FaceModel,
    maps: Maps,
    eyes: np.ndarray | None,
) -> tuple[dict[str, Any], np.ndarray | None]:
    """One photo of the page, and the picture of the eyes: as it came, or in the colour that this photo shows."""
    name = "photo" if photo.path is None else photo.path.replace("\\", "/").rsplit("/", 1)[-1]
    entry: dict[str, Any] = {"number": number, "name": name, "path": photo.path, "reason": photo.reason}
    entry |= {"pictures": None, "figures": None, "missing": None}
    sight = photo.sight
    if sight is None:
        return entry, eyes
    vertices = head_vertices(record, model, sight)
    entry["figures"] = figures(sight, model, vertices)
    try:
        pixels = photo_pixels(photo.path, folder, sight)
    except MgcFaceError as error:
        entry["missing"] = str(error)
        return entry, eyes
    if eyes is None:
        eyes = eye_picture_of(model, iris_color(pixels, sight.landmarks.get("mediapipe478")))
    only_eyes = {} if eyes is None else {EYES: eyes}
    pictures = PhotoPictures(pixels, sight, model, vertices)
    entry["pictures"] = {
        "whole": jpeg_uri(pictures.whole()),
        "crop": jpeg_uri(pictures.crop),
        "head": jpeg_uri(pictures.head(maps.textures | only_eyes)),
        "clay": jpeg_uri(pictures.clay(only_eyes)),
        "landmarks": jpeg_uri(pictures.landmarks()),
    }
    return entry, eyes


def head_vertices(record: Record, model: FaceModel, sight: Sight | None) -> np.ndarray:
    """(V, 3) float32, metres: the head with the expression of one photo."""
    return (record if sight is None else replace(record, expression=sight.expression)).vertices(model)


def photo_pixels(path: str | None, folder: Path, sight: Sight) -> np.ndarray:
    """(H, W, 3) uint8: the photo, found as its path was given or else beside or in the folder.

    Raises
    ------
    PhotoError, RecordError
        It is not there, cannot be read, or has another size than the head was made from.
    """
    if path is None:
        raise RecordError("The photo was no file when the head was made, so it cannot be shown.")
    given = Path(path)
    places = [given, *(place / given.name for place in (folder, folder.parent))]
    photo = load_photo(next((place for place in places if place.is_file()), given))
    camera = sight.camera
    if (photo.width, photo.height) != (camera.width, camera.height):
        raise RecordError(
            f"{given.name} is {photo.width} x {photo.height} pixels now and was {camera.width} x {camera.height} when "
            "the head was made, so it is not shown."
        )
    return photo.pixels


def figures(sight: Sight, model: FaceModel, vertices: np.ndarray) -> dict[str, Any]:
    """Numbers of one photo, as the page prints them."""
    camera = sight.camera
    strongest = sorted(sight.expression.items(), key=lambda item: -abs(item[1]))[:STRONGEST]
    return {
        "size": f"{camera.width} x {camera.height}",
        "rms_px": sight.rms_px,
        "rms_percent": 100.0 * sight.rms_relative,
        "distance_cm": 100.0 * face_distance(sight, model, vertices),
        "focal_px": camera.focal_px,
        "focal_mm": camera.focal_px / max(camera.width, camera.height) * FULL_FRAME_LONG_SIDE_MM,
        "pose": sight.pose,
        "lit": sight.light is not None,
        "expression": [(name, value) for name, value in strongest if abs(value) >= LEAST_SHOWN],
    }


def face_distance(sight: Sight, model: FaceModel, vertices: np.ndarray) -> float:
    """Metres from the camera to the middle of brows, eyes, nose and mouth; to the model's origin without landmarks."""
    middle = np.zeros(3)
    if "ibug68" in model.landmarks:
        middle = model.landmark_points(vertices, "ibug68")[17:].mean(axis=0)
    return float(np.linalg.norm(sight.camera.centre - middle))


def identity_certainty(record: Record) -> float | None:
    """Percent of the differences between people that the photos told: ``1 - mean(sigma^2)``; None where not known."""
    with suppress(KeyError, TypeError, ValueError):
        sigma = np.array(record.fields["fit"]["sigma_identity"], np.float64)
        return 100.0 * float(1.0 - (sigma**2).mean()) if sigma.size else None
    return None


# --- maps -------------------------------------------------------------------------------------------------


def read_maps(folder: Path, model: FaceModel) -> Maps:
    """The pictures beside the record, as far as they are there and can be read."""
    notes: list[str] = []
    skin = _picture(folder / SKIN_TEXTURE_FILE, "RGB", notes)
    eyes = _picture(folder / EYE_TEXTURE_FILE, "RGB", notes)
    confidence, sources = (
        _picture(folder / CONFIDENCE_FILE, "L", notes),
        _picture(folder / SOURCES_FILE, "P", notes),
    )
    if skin is None:
        notes.append(f"There is no {SKIN_TEXTURE_FILE} in the folder, so the head is shown as clay.")
    textures = {SKIN: _at_most(skin, DRAWN_TEXTURE_SIDE)} if skin is not None else {}
    if eyes is not None and EYES in model.materials:
        textures[EYES] = eyes
    return Maps(textures, skin, confidence, sources, tuple(notes))


def map_pictures(maps: Maps, model: FaceModel, photos: int) -> dict[str, Any]:
    """Texture, confidence and sources for the page, each None where there is none, with what they say in numbers."""
    result: dict[str, Any] = dict.fromkeys(("texture", "size", "confidence", "seen_percent", "sources", "shares"))
    if maps.skin is not None:
        result |= {"texture": jpeg_uri(reduced_map(maps.skin)), "size": maps.skin.shape[0]}
    if maps.confidence is not None:
        seen = 100.0 * float((on_face(model, maps.confidence) >= SEEN_CONFIDENCE).mean())
        result |= {"confidence": jpeg_uri(reduced_map(maps.confidence)), "seen_percent": seen}
    if maps.sources is not None:
        counts = np.bincount(on_face(model, maps.sources), minlength=photos + 1)
        shares = [
            {"number": number, "percent": 100.0 * float(counts[number] / counts.sum()), "color": source_color(number)}
            for number in range(1, photos + 1)
        ]
        small = palette_png(reduced_map(maps.sources, nearest=True))
        result |= {"sources": data_uri(small, "png"), "shares": shares}
    return result


def source_color(number: int) -> str:
    """CSS colour that ``sources.png`` shows the photo of a number in."""
    return "rgb({}, {}, {})".format(*PALETTE[1 + (number - 1) % (len(PALETTE) - 1)])


def _picture(path: Path, mode: str, notes: list[str]) -> np.ndarray | None:
    """Pixels of a picture of the folder in a mode of Pillow; None, and a note, where it cannot be read."""
    if not path.exists():
        return None
    try:
        with Image.open(path) as picture:
            return np.array(picture if picture.mode == mode else picture.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        notes.append(f"{path.name} cannot be read and is not shown: reconstruct again.")
        return None


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    factor = -(-max(picture.shape[:2]) // side)
    return picture if factor <= 1 else np.asarray(Image.fromarray(picture).reduce(factor))


# --- pictures in the page ---------------------------------------------------------------------------------


def jpeg_uri(pixels: np.ndarray) -> str:
    return data_uri(jpeg_bytes(pixels, REPORT_JPEG_QUALITY), "jpeg")


def data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
