"""A reconstruction becomes a folder of files, whole or not at all.

Everything is written into a hidden folder beside the place where it belongs, which then takes its name in
one step: Ctrl-C, a full disk or a crash never leaves a folder that looks finished and is not.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from backend.errors import OutputError
from backend.export.eye_texture import BROWN, IRIS_RADIUS_UV, eye_texture
from backend.export.gltf import head_glb
from backend.export.images import jpeg_bytes, png_bytes
from backend.export.iris_color import iris_color
from backend.export.obj import (
    EYE_TEXTURE_FILE,
    MATERIAL_FILE,
    NORMAL_MAP_FILE,
    SKIN_TEXTURE_FILE,
    ObjWriter,
    material_text,
)
from backend.export.overlay import overlay_image
from backend.export.record import OFFSET_FILE, offset_bytes, record_text
from backend.face_model.model import EYES, FaceModel
from backend.reconstruction.result import Reconstruction
from backend.reconstruction.texture_relief import normal_map
from backend.vision.photo import Photo

FORMATS = ("glb", "obj", "json", "texture", "overlay")

HEAD_GLB, HEAD_OBJ, NEUTRAL_OBJ = "head.glb", "head.obj", "neutral.obj"
RECORD_FILE, OVERLAY_FILE, CONFIDENCE_FILE = "reconstruction.json", "overlay.jpg", "confidence.png"
SOURCES_FILE = "sources.png"
# Made from the others by `mgcface report`, and outdated with them.
REPORT_FILE = "report.html"
MESH_FILES = (HEAD_GLB, HEAD_OBJ, NEUTRAL_OBJ, MATERIAL_FILE)
PICTURE_FILES = (OVERLAY_FILE, SKIN_TEXTURE_FILE, CONFIDENCE_FILE, EYE_TEXTURE_FILE, NORMAL_MAP_FILE)
OUR_FILES = frozenset((RECORD_FILE, OFFSET_FILE, *MESH_FILES, *PICTURE_FILES))
# What a head from several photos has besides: an overlay for each, and which photo a texel came from.
OF_SEVERAL_PHOTOS = re.compile(r"overlay_\d{2,3}\.jpg|sources\.png")
# What file managers leave behind in folders that were looked at.
DESKTOP_FILES = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))

# Windows: characters no name may hold, names that mean devices.
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
# File systems allow 255 bytes; this leaves room for suffixes and for Windows' 260 characters a path.
LONGEST_NAME_BYTES = 100

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def write_head(
    reconstruction: Reconstruction,
    photo: Photo,
    out_dir: Path | str,
    formats: Sequence[str] = FORMATS,
    name: str | None = None,
) -> list[Path]:
    """Write ``out_dir/name/`` with the chosen files; an earlier result of that name is replaced whole.

    Parameters
    ----------
    reconstruction : Reconstruction
    photo : Photo
        The decoded photo that it came from, for the overlay and the colour of the eyes.
    out_dir : Path or str
        Made when it is not there.
    formats : sequence of str
        Any of :data:`FORMATS`; ``obj`` brings the textures that it names along.
    name : str, optional
        Folder name from :func:`folder_names`; from the photo's file name when left out.

    Returns
    -------
    list of Path, the files in the order written

    Raises
    ------
    OutputError
        No permission, no space, a file or foreign files in the way.
    """
    check_formats(formats)
    target = Path(out_dir) / (name or folder_names([(reconstruction.photo_path, 1)])[0][0])
    return write_whole(target, head_files(reconstruction, photo, formats))


def check_formats(formats: Sequence[str]) -> None:
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown:
        raise OutputError(f"'{unknown[0]}' is not an output format: choose from {', '.join(FORMATS)}.")


def write_whole(target: Path, files: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write a folder of (name, content), all or nothing; an earlier result is replaced, anything else refused."""
    out_dir = target.parent
    prepare_out_dir(out_dir)
    _refuse_foreign(target)
    part = out_dir / f".{target.name}.{secrets.token_hex(4)}.part"
    names = []
    try:
        os.mkdir(part)
        for file_name, data in files:
            _write(part / file_name, data)
            names.append(file_name)
        _put_in_place(part, target)
    except OSError as error:
        raise output_error(error, target) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if target.exists():
            shutil.rmtree(_stepped_aside(part), ignore_errors=True)
    return [target / file_name for file_name in names]


def head_files(reconstruction: Reconstruction, photo: Photo, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File name and content of every file, made one at a time."""
    eyes = eye_picture(reconstruction, photo) if {"glb", "obj", "overlay"} & set(formats) else None
    normals = normal_png(reconstruction, formats)
    # The overlay is drawn while the others are packed.
    with ThreadPoolExecutor(1, thread_name_prefix="overlay") as beside:
        overlay = beside.submit(overlay_image, reconstruction, photo, eyes) if "overlay" in formats else None
        if "json" in formats:
            yield RECORD_FILE, record_text(reconstruction).encode("utf-8")
            if reconstruction.offset is not None:
                yield OFFSET_FILE, offset_bytes(reconstruction.offset)
        if "glb" in formats:
            yield HEAD_GLB, head_glb(reconstruction, eyes, normals=normals)
        yield from surface_files(reconstruction, eyes, normals, formats)
        if overlay is not None:
            yield OVERLAY_FILE, jpeg_bytes(overlay.result())


def normal_png(reconstruction: Reconstruction, formats: Sequence[str]) -> bytes | None:
    """PNG of the normal map of a textured head; None where no file asks for it."""
    if reconstruction.texture is None or not {"glb", "obj", "texture"} & set(formats):
        return None
    return png_bytes(normal_map(reconstruction.texture, reconstruction.model, reconstruction.neutral_vertices))


def surface_files(
    reconstruction: Reconstruction, eyes: np.ndarray | None, normals: bytes | None, formats: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """The OBJ files and the textures."""
    model, texture = reconstruction.model, reconstruction.texture
    if "obj" in formats:
        writer = ObjWriter(model)
        yield HEAD_OBJ, writer.text(reconstruction.vertices, "head").encode("ascii")
        yield NEUTRAL_OBJ, writer.text(reconstruction.neutral_vertices, "neutral").encode("ascii")
        yield MATERIAL_FILE, material_text(model, texture is not None, eyes is not None).encode("ascii")
        if eyes is not None:
            yield EYE_TEXTURE_FILE, png_bytes(eyes)
    if texture is not None and {"texture", "obj"} & set(formats):
        yield SKIN_TEXTURE_FILE, png_bytes(texture.color)
        if normals is not None:
            yield NORMAL_MAP_FILE, normals
    if texture is not None and "texture" in formats:
        yield CONFIDENCE_FILE, png_bytes(texture.confidence)


def eye_picture(reconstruction: Reconstruction, photo: Photo) -> np.ndarray | None:
    """(S, S, 3) uint8 texture of the eyes in the colour that the photo shows; None for a model without eyes."""
    return eye_picture_of(reconstruction.model, iris_color(photo.pixels, reconstruction.landmarks.get("mediapipe478")))


def eye_picture_of(model: FaceModel, seen: tuple[float, float, float] | None) -> np.ndarray | None:
    """(S, S, 3) uint8 with irises of a colour, brown where none was seen; None for a model without eyes."""
    if EYES not in model.materials:
        return None
    radius = float(model.info.extra.get("iris_radius_uv", IRIS_RADIUS_UV))
    return eye_texture(iris_color=seen or BROWN, iris_radius=radius)


def folder_names(photos: Sequence[tuple[Path | str | None, int]]) -> list[list[str]]:
    """A folder name for every face of every photo of one call.

    Parameters
    ----------
    photos : sequence of (path or None, number of faces)

    Returns
    -------
    list of list of str
        ``[["astronaut"], ["crew_face1", "crew_face2"]]``; photos of the same name in different folders
        get ``_2``, ``_3`` in the order given, also where a file system ignores case.
    """
    taken: set[str] = set()
    result = []
    for path, faces in photos:
        base = safe_name(Path(path).stem if path is not None else "photo")
        suffixes = [f"_face{index + 1}" for index in range(faces)] if faces > 1 else [""] * faces
        count, names = 1, [base + suffix for suffix in suffixes]
        while any(name.casefold() in taken for name in names):
            count += 1
            names = [f"{base}_{count}{suffix}" for suffix in suffixes]
        taken.update(name.casefold() for name in names)
        result.append(names)
    return result


def safe_name(stem: str) -> str:
    """A name that every file system takes: no reserved characters, devices, outer dots or blanks, not too long."""
    text = stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = FORBIDDEN.sub("_", unicodedata.normalize("NFC", text))
    text = text.encode("utf-8")[:LONGEST_NAME_BYTES].decode("utf-8", "ignore").strip(". ")
    if DEVICES.fullmatch(text):
        text = "_" + text
    return text or "photo"


def prepare_out_dir(out_dir: Path | str) -> None:
    """Make the folder and see that it takes files, before minutes of work are spent; raises OutputError."""
    out_dir = Path(out_dir)
    probe = out_dir / f".{secrets.token_hex(4)}.part"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        try:
            os.mkdir(probe)
        finally:
            # Also when a signal comes between the two.
            with suppress(OSError):
                os.rmdir(probe)
    except OSError as error:
        raise output_error(error, out_dir) from error


def output_error(error: OSError, place: Path) -> OutputError:
    """One sentence for what the system says."""
    if error.errno in FULL:
        return OutputError(f"The disk is full, so {place} was not written: free some space or choose another --out.")
    if error.errno in FORBIDDEN_ERRORS:
        return OutputError(
            f"{place} may not be written: choose another --out, or close the program that has its files open."
        )
    if error.errno in IN_THE_WAY:
        return OutputError(f"{place} cannot be made because a file is in its way: choose another --out.")
    return OutputError(f"{place} cannot be written ({error.strerror or error}): choose another --out.")


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _refuse_foreign(target: Path) -> None:
    """An earlier result may be replaced; a file, a link or a folder with somebody's own files may not."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise OutputError(f"{target} is in the way and not a folder: move it or choose another --out.")
    try:
        names = set(os.listdir(target)) - OUR_FILES - DESKTOP_FILES - {REPORT_FILE}
        foreign = sorted(name for name in names if not OF_SEVERAL_PHOTOS.fullmatch(name))
    except OSError as error:
        raise output_error(error, target) from error
    if foreign:
        raise OutputError(
            f"{target} holds '{foreign[0]}', which mgcface did not write and will not replace: "
            "move it or choose another --out."
        )


def _put_in_place(part: Path, target: Path) -> None:
    """The finished folder takes the name; an earlier one steps aside first and comes back when that fails."""
    if not target.exists():
        os.rename(part, target)
        return
    old = _stepped_aside(part)
    os.rename(target, old)
    try:
        os.rename(part, target)
    except BaseException:
        os.rename(old, target)
        raise


def _stepped_aside(part: Path) -> Path:
    """Where an earlier result waits while the new one moves in."""
    return part.with_suffix(".old")
