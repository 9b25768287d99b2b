"""A head as the message ``face`` carries it, in :mod:`backend.protocol.messages`."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from backend.export.eye_texture import BROWN, IRIS_RADIUS_UV, eye_texture
from backend.export.iris_color import iris_color
from backend.export.person_folder import common_iris
from backend.export.record import fields_text, person_fields, record_fields
from backend.face_model.model import EYES
from backend.reconstruction.person import Person
from backend.reconstruction.result import Reconstruction
from backend.reconstruction.texture_relief import normal_map
from backend.vision.photo import Photo

# Side of the eyes' texture on the wire: as sharp as an eye in a portrait, a quarter of the bytes of 1024.
EYE_TEXTURE_SIZE = 512
# Most texels along a side of the picture that says which photo each came from: it is looked at, nothing is made of it.
SOURCES_SIZE = 512
# A photo that is sent back because its file cannot be shown as it is: longest side, and Pillow's JPEG quality.
BACKDROP_SIDE, BACKDROP_QUALITY = 4096, 92
# The same of one person's photos, which share a message with each other and with a texture: where there are more
# than so many, each is smaller, and what does not fit is not sent.
LARGE_BACKDROPS, SMALLER_BACKDROP_SIDE, BACKDROP_BYTES = 16, 2048, 128 << 20
LANDMARKS = ("landmarks_2d_mediapipe478", "landmarks_2d_ibug68")

Body = dict[str, Any]
Arrays = dict[str, np.ndarray]


def face_message(head: Reconstruction, photo: Photo, with_normals: bool = False) -> tuple[Body, Arrays]:
    """Body and arrays of one face of one photo, with the normal map of its skin where that is wanted."""
    iris = iris_color(photo.pixels, head.landmarks.get("mediapipe478")) if EYES in head.model.materials else None
    return _body(record_fields(head), iris), _arrays(head, iris, with_normals)


def person_message(person: Person, with_normals: bool = False) -> tuple[Body, Arrays]:
    """Body and arrays of the head of several photos; the pixels of those that a program cannot show come along.

    Of photos other than the main one the record has no landmarks: a header of 100 photos with them is too long.
    """
    head, fields = person.head, person_fields(person)
    for place, photo in enumerate(fields["photos"]):
        if photo["used"] and place != person.main:
            photo |= dict.fromkeys(LANDMARKS)
    iris = common_iris(person) if EYES in head.model.materials else None
    arrays = _arrays(head, iris, with_normals)
    light = person.photos[person.main].light
    if light is not None:
        arrays["light"] = np.asarray(light, np.float32)
    if person.sources is not None:
        arrays["sources"] = coarser(person.sources)
    return _body(fields, iris), arrays | backdrops(person)


def coarser(sources: np.ndarray) -> np.ndarray:
    """(S, S) uint8 -> (P, P): the middles of P by P parts, at most :data:`SOURCES_SIZE` along a side."""
    step = -(-len(sources) // SOURCES_SIZE)
    return np.ascontiguousarray(sources[step // 2 :: step, step // 2 :: step])


def backdrops(person: Person) -> Arrays:
    """``photo`` for the main photo and ``photo7`` for that at place 7: JPEGs of those whose files cannot be shown."""
    shown: Arrays = {}
    room = BACKDROP_BYTES
    side = BACKDROP_SIDE if len(person.used) <= LARGE_BACKDROPS else SMALLER_BACKDROP_SIDE
    for place, photo in enumerate(person.photos):
        if not photo.used:
            continue
        pixels = photo.pixels()
        if pixels.plain:
            continue
        jpeg = upright_jpeg(pixels.pixels, side)
        if len(jpeg) <= room:
            room -= len(jpeg)
            shown["photo" if place == person.main else f"photo{place}"] = jpeg
    return shown


def _body(fields: dict[str, Any], iris: tuple[float, float, float] | None) -> Body:
    # Through the text, which refuses what is not a number.
    return {"record": json.loads(fields_text(fields)), "iris_color": None if iris is None else list(iris)}


def _arrays(head: Reconstruction, iris: tuple[float, float, float] | None, with_normals: bool) -> Arrays:
    arrays = {"neutral": head.neutral_vertices}
    if head.texture is not None:
        arrays |= {"texture": head.texture.color, "confidence": head.texture.confidence}
        if with_normals:
            arrays["normal_map"] = normal_map(head.texture, head.model, head.neutral_vertices)
        if head.texture.light is not None:
            arrays["light"] = head.texture.light
    if EYES in head.model.materials:
        radius = float(head.model.info.extra.get("iris_radius_uv", IRIS_RADIUS_UV))
        arrays["eye_texture"] = eye_texture(EYE_TEXTURE_SIZE, iris or BROWN, radius)
    return arrays


def upright_jpeg(pixels: np.ndarray, side: int = BACKDROP_SIDE) -> np.ndarray:
    """(H, W, 3) uint8 -> (B,) uint8: the bytes of a JPEG, made smaller where it is more than a backdrop needs."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=BACKDROP_QUALITY)
    return np.frombuffer(data.getvalue(), np.uint8)
