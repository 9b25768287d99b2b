# SPDX-License-Identifier: GPL-3.0-or-later
"""What arrives from the backend, made ready for Blender outside Blender's main thread. No bpy in here.

Symbols: V vertices of the face model, N vertices of Blender's mesh, F faces, L face corners, U texture
coordinates, E expression shapes, R regions, S side of the texture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from .axes import points_to_blender
from .confidence import Origin, origin
from .png import png_bytes

# Marks a triangle in the last place of a quad.
NO_CORNER = -1
EYES, MOUTH, SKIN = "eyes", "mouth", "skin"
# A picture of the skin beside its colours.
NORMALS = "skin normals"
# Regions that divide the mouth's faces into materials of their own; a face belongs to one when all its corners do.
MOUTH_REGIONS = ("teeth", "gums", "tongue")
# A shape that moves a vertex by less than this is taken to leave it where it is (metres).
STILL_M = 5e-6


class HeadError(Exception):
    """The backend's message does not describe a head; one sentence for the artist."""


@dataclass(frozen=True, eq=False)
class FaceModel:
    """The part that all heads of a face model share.

    Attributes
    ----------
    header : dict
        The reply's body: name, version, sha256, licence, terms, attribution, expression_names, material_names...
    quads, uv_quads : (F, 4) int32
        A last index of -1 marks a triangle.
    uv : (U, 2) float32
        v upward.
    material : (F,) int32
        Index into ``material_names``.
    expression : (E, V, 3) float32
        Metres, model space.
    regions : dict of str to (V,) bool
    """

    header: dict[str, Any]
    quads: np.ndarray
    uv_quads: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    expression: np.ndarray
    regions: dict[str, np.ndarray]

    @property
    def expression_names(self) -> list[str]:
        return list(self.header["expression_names"])

    @staticmethod
    def from_message(header: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> FaceModel:
        try:
            masks = arrays["regions"] if "regions" in arrays else ()
            regions = {name: mask.astype(bool) for name, mask in zip(header.get("region_names", ()), masks)}
            model = FaceModel(
                header={key: value for key, value in header.items() if key not in ("type", "id", "arrays")},
                quads=arrays["quads"].astype(np.int32),
                uv_quads=arrays["uv_quads"].astype(np.int32),
                uv=np.array(arrays["uv"], np.float32),
                material=arrays["material"].astype(np.int32),
                expression=np.array(arrays["expression"], np.float32),
                regions=regions,
            )
            vertex_count = model.expression.shape[1]
            fits = len(model.expression) == len(model.expression_names)
            fits &= 0 <= model.material.min() and model.material.max() < len(header["material_names"])
            fits &= model.quads.shape == model.uv_quads.shape == (len(model.material), 4)
            fits &= model.quads.max() < vertex_count and model.quads[:, :3].min() >= 0
            fits &= model.uv_quads.max() < len(model.uv) and model.uv_quads[:, :3].min() >= 0
        except (KeyError, IndexError, ValueError, AttributeError, TypeError):
            fits = False
        if not fits:
            raise HeadError("The backend sent a face model that makes no sense: update the backend and the add-on.")
        return model


@dataclass(frozen=True, eq=False)
class Layout:
    """A face model as Blender stores a mesh.

    Attributes
    ----------
    vertices : (N,) int32
        Vertex of the face model behind each vertex of the mesh.
    corner_vertex : (L,) int32
        Mesh vertex of each face corner.
    corner_uv : (L, 2) float32
    face_start : (F,) int32
        First corner of each face.
    face_material : (F,) int32
        Index into ``materials``.
    materials : tuple of str
    moves : (E, N, 3) float32
        Expression offsets in Blender's axes and scale.
    vertex_uv : (N, 2) float32
        A texture coordinate of each vertex, to sample maps by.
    skin : (N,) bool
        Vertices of skin faces.
    """

    vertices: np.ndarray
    corner_vertex: np.ndarray
    corner_uv: np.ndarray
    face_start: np.ndarray
    face_material: np.ndarray
    materials: tuple[str, ...]
    moves: np.ndarray
    vertex_uv: np.ndarray
    skin: np.ndarray


@lru_cache(maxsize=4)
def layout(model: FaceModel, eyes: bool, scale: float) -> Layout:
    """The mesh of a face model with or without eyes; kept, because every head of a job needs the same."""
    names, parts = split_mouth(model)
    keep = np.ones(len(parts), bool) if eyes else parts != (names.index(EYES) if EYES in names else -1)
    quads, uv_quads, parts = model.quads[keep], model.uv_quads[keep], parts[keep]
    used = np.zeros(model.expression.shape[1], bool)
    used[quads[quads != NO_CORNER]] = True
    vertices = np.flatnonzero(used).astype(np.int32)
    renumbered = np.cumsum(used, dtype=np.int32) - 1
    # Materials without a face, such as the eyes when they are left out, get no slot.
    slots = np.unique(parts)
    real = (quads != NO_CORNER).ravel()
    corner_vertex = renumbered[quads.ravel()[real]]
    corner_uv = model.uv[uv_quads.ravel()[real]]
    sizes = (quads != NO_CORNER).sum(axis=1)
    vertex_uv = np.zeros((len(vertices), 2), np.float32)
    vertex_uv[corner_vertex] = corner_uv
    skin = np.zeros(len(vertices), bool)
    skin_faces = np.array([names[part] == SKIN for part in parts])
    skin[corner_vertex[np.repeat(skin_faces, sizes)]] = True
    return Layout(
        vertices=vertices,
        corner_vertex=np.ascontiguousarray(corner_vertex, np.int32),
        corner_uv=np.ascontiguousarray(corner_uv, np.float32),
        face_start=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32),
        face_material=np.searchsorted(slots, parts).astype(np.int32),
        materials=tuple(names[slot] for slot in slots),
        moves=points_to_blender(model.expression[:, vertices], scale),
        vertex_uv=vertex_uv,
        skin=skin,
    )


def split_mouth(model: FaceModel) -> tuple[list[str], np.ndarray]:
    """Material names and (F,) the material of each face, the mouth divided into teeth, gums and tongue."""
    names = list(model.header["material_names"])
    parts = model.material.copy()
    if MOUTH in names:
        mouth = parts == names.index(MOUTH)
        for region in MOUTH_REGIONS:
            if region in model.regions:
                # A triangle's missing fourth corner must not decide.
                within = (model.regions[region][model.quads] | (model.quads == NO_CORNER)).all(axis=1)
                parts[mouth & within] = len(names)
                mouth &= ~within
                names.append(region)
    return names, parts


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as Blender packs it: PNG bytes, which no thread of Blender has to encode."""

    name: str
    data: bytes
    side: int


@dataclass(frozen=True, eq=False)
class Shot:
    """One photo that a head was made from.

    Attributes
    ----------
    photo : str
        Path on this machine.
    camera : Camera
    values : list of float
        (E,) expression coefficients in the order of the model's shapes.
    upright : bytes
        A JPEG of the photo as it is meant to be seen, when the file itself cannot be shown by Blender.
    light : (9, 3) float32 or None
        Spherical harmonics in model space, where this photo's light is known.
    """

    photo: str
    camera: Camera
    values: list[float]
    upright: bytes = b""
    light: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Head:
    """One face of one photo, or of several of one person, ready to become objects.

    Attributes
    ----------
    record : dict
        The content of ``reconstruction.json``.
    name : str
        Name for the collection.
    photo : str
        Path of the photo on this machine.
    face : int
        Which face of the photo.
    neutral : (V, 3) float32
        Metres, model space.
    texture, eyes, normals : Picture or None
        Of the skin, of the eyes, and the skin's normal map.
    confidence : (S, S) uint8 or None
        Row 0 is v = 1.
    light : (9, 3) float32 or None
        Spherical harmonics in model space.
    upright : bytes
        As in :class:`Shot`.
    others : tuple of Shot
        The other photos of the person that were used, in their order.
    photos : tuple of str
        All photos of the person, also those that were left out; empty for a head of one photo.
    origin : Picture or None
        Which photo each texel came from and how sure it is (:mod:`blender_addon.scene.confidence`).
    shares : dict of int to float
        Place of each photo in that picture, and its part of what photos showed.
    """

    model: FaceModel
    record: dict[str, Any]
    name: str
    photo: str
    face: int
    neutral: np.ndarray
    texture: Picture | None = None
    eyes: Picture | None = None
    normals: Picture | None = None
    confidence: np.ndarray | None = None
    light: np.ndarray | None = None
    upright: bytes = b""
    others: tuple[Shot, ...] = ()
    photos: tuple[str, ...] = ()
    origin: Picture | None = None
    shares: dict[int, float] = field(default_factory=dict)
    camera: Camera = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "camera", Camera.from_record(self.record))
        if self.neutral.shape != self.model.expression.shape[1:]:
            raise HeadError("The backend sent a head that does not belong to its face model: restart the backend.")

    @staticmethod
    def from_message(model: FaceModel, header: dict[str, Any], arrays: Mapping[str, np.ndarray], *photos: str) -> Head:
        """``photos`` are those of the job, in its order."""
        try:
            photo = photos[int(header["photo"])]
            together = "photos" in header["record"]
            # The photo's name without its ending: "astronaut.jpg" would be an odd name for a head.
            name = photo_name(str(header["name"])) or "head"
            came = origin_of(header, arrays, together)
            pictures = {
                part: Picture(f"{name} {part}", png_bytes(arrays[key]), len(arrays[key]))
                for part, key in ((SKIN, "texture"), (EYES, "eye_texture"), (NORMALS, "normal_map"))
                if key in arrays
            }
            if came is not None:
                pictures["confidence"] = Picture(f"{name} confidence", png_bytes(came.pixels), len(came.pixels))
            return Head(
                model=model,
                record=dict(header["record"]),
                name=name,
                photo=photo,
                face=int(header["face"]),
                neutral=np.array(arrays["neutral"], np.float32),
                texture=pictures.get(SKIN),
                eyes=pictures.get(EYES),
                normals=pictures.get(NORMALS),
                confidence=np.array(arrays["confidence"]) if "confidence" in arrays else None,
                light=np.array(arrays["light"], np.float32) if "light" in arrays else None,
                upright=arrays["photo"].tobytes() if "photo" in arrays else b"",
                others=tuple(other_shots(model, header["record"], arrays, photos)) if together else (),
                photos=photos if together else (),
                origin=pictures.get("confidence"),
                shares={} if came is None else came.shares,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise HeadError("The backend sent a head that makes no sense: update backend and add-on.") from error

    @property
    def values(self) -> list[float]:
        """(E,) expression coefficients in the order of the model's shapes."""
        return expression_values(self.model, self.record)

    @property
    def shot(self) -> Shot:
        """The photo that the head looks like."""
        return Shot(self.photo, self.camera, self.values, self.upright, self.light)

    @property
    def shots(self) -> dict[str, Shot]:
        """The photos that were used, by their path."""
        return {shot.photo: shot for shot in (self.shot, *self.others)}

    def positions(self, layout: Layout, scale: float) -> np.ndarray:
        """(N, 3) float32: the neutral face in Blender's axes."""
        return points_to_blender(self.neutral[layout.vertices], scale)

    def vertex_confidence(self, layout: Layout) -> np.ndarray | None:
        """(N,) float32 in [0, 1]: how well the photo showed each vertex; eyes and mouth, never looked at, are 0."""
        if self.confidence is None:
            return None
        side = len(self.confidence)
        column = np.clip((layout.vertex_uv[:, 0] * side).astype(int), 0, side - 1)
        row = np.clip(((1.0 - layout.vertex_uv[:, 1]) * side).astype(int), 0, side - 1)
        return (self.confidence[row, column] / np.float32(255.0) * layout.skin).astype(np.float32)


def origin_of(header: dict[str, Any], arrays: Mapping[str, np.ndarray], together: bool) -> Origin | None:
    """Where the texture of a message came from; a server that does not say is taken to have used the main photo."""
    confidence, sources = arrays.get("confidence"), arrays.get("sources")
    if confidence is None:
        return None
    main = int(header["photo"]) if together else 0
    count = len(header["record"]["photos"]) if together else 1
    if sources is not None and sources.max(initial=0) > count:
        raise ValueError("a texel came from a photo that is not there")
    return origin(confidence, sources, main)


def photo_name(path: str) -> str:
    """A photo's name without its ending."""
    return os.path.splitext(os.path.basename(path))[0]


def expression_values(model: FaceModel, record: dict[str, Any]) -> list[float]:
    return [float(record["expression"][name]) for name in model.expression_names]


def other_shots(
    model: FaceModel, record: dict[str, Any], arrays: Mapping[str, np.ndarray], photos: tuple[str, ...]
) -> Iterator[Shot]:
    """What a person's record says of its photos, for all that were used but the main one."""
    if len(record["photos"]) != len(photos):
        raise ValueError("another number of photos than was sent")
    for place, entry in enumerate(record["photos"]):
        if entry["used"] and place != record["main_photo"]:
            camera = Camera.from_record({"camera": entry["camera"], "photo": entry})
            upright = arrays[f"photo{place}"].tobytes() if f"photo{place}" in arrays else b""
            light = None if entry.get("light") is None else np.array(entry["light"], np.float32).reshape(9, 3)
            yield Shot(photos[place], camera, expression_values(model, entry), upright, light)


@dataclass(frozen=True, eq=False)
class Camera:
    """The photo's camera: ``K`` (3, 3) pixels, ``X_cam = R X_model + t`` in metres."""

    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    width: int
    height: int

    @staticmethod
    def from_record(record: dict[str, Any]) -> Camera:
        camera, photo = record["camera"], record["photo"]
        shapes = {"K": (3, 3), "R": (3, 3), "t": (3,)}
        K, R, t = (np.array(camera[key], np.float64).reshape(shape) for key, shape in shapes.items())
        return Camera(K, R, t, int(photo["width"]), int(photo["height"]))
