"""A file on disk becomes a :class:`Photo`: upright sRGB pixels and, where the file says so, a focal length.

Pillow does the decoding. Around it stands what Pillow leaves to its caller: limits that are checked before
memory is spent, orientation, 16-bit values that must be scaled instead of clipped, profiles, alpha, and errors
that tell a user what to do.
"""

from __future__ import annotations

import io
import math
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from backend.errors import DependencyError, PhotoError
from backend.vision.photo import Photo

# The largest photo that is decoded: 8000 x 6000 is 48; medium-format backs reach 150.
MAX_MEGAPIXELS = 160.0
# Below this a face cannot have landmarks: MediaPipe's own input is 192 pixels wide.
MIN_SIDE_PX = 32
# Transparent pixels show this, a mid grey in sRGB: neither black nor white pulls on exposure or on edges.
NEUTRAL = (128, 128, 128)
# Long side of the full frame that "35 mm equivalent" focal lengths refer to. Makers use the width or the
# diagonal of 36 x 24 mm; for 3:2 photos both agree, and for 4:3 they differ by 4 %.
FULL_FRAME_LONG_SIDE_MM = 36.0
# Focal length over the long side of the photo. 0.2 is a fisheye of 136 degrees, 30 a 1000 mm tele lens.
FOCAL_RATIO_RANGE = (0.2, 30.0)
# EXIF FocalPlaneResolutionUnit -> millimetres (EXIF 2.32, 4.6.5; 4 and 5 are in use although not standard).
FOCAL_PLANE_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
# "ftyp" brands of ISO base media files that hold HEVC-coded stills (ISO/IEC 23008-12, annex B).
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
# Sides in another proportion than EXIF says were cropped after the camera: its focal length then says nothing.
CROPPED_ASPECT = 0.02
# EXIF orientation -> what makes the picture upright.
_TURN_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What every program that shows pictures reads (MPO is a JPEG with more pictures behind the first), in these modes.
PLAIN_FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "BMP", "WEBP"}
PLAIN_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}
UPRIGHT = 1
# Colour primaries and transfer of what the project works in.
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def load_photo(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Decode one photo.

    Reads whatever Pillow reads (JPEG, PNG, WebP, TIFF and more) and HEIC where ``pillow-heif`` is installed.
    The orientation of EXIF is applied, alpha is laid over mid grey, 16-bit values are scaled, an embedded
    profile is converted to sRGB, and of several frames the first is taken.

    Parameters
    ----------
    path : str or Path
    max_megapixels : float
        Larger photos are refused before they are decoded.

    Returns
    -------
    Photo
        ``focal_px`` follows EXIF: ``FocalLengthIn35mmFilm`` with the long side standing for 36 mm, else
        ``FocalLength`` with the focal-plane resolution; None where neither is there or makes sense.

    Raises
    ------
    PhotoError
        The file is missing, not readable, not a photo, damaged, too small or too large.
    DependencyError
        A HEIC file, and ``pillow-heif`` is not installed.
    """
    path = Path(path)
    with _open(path) as file:
        return _decode(path, file, max_megapixels)


def load_photo_bytes(data: bytes | memoryview, name: str, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Decode the bytes of a photo's file, as :func:`load_photo` does the file; ``name`` is for sentences."""
    path = Path(name)
    if not len(data):
        raise PhotoError(f"{path.name} is empty; copy it again from its source.")
    return _decode(path, io.BytesIO(data), max_megapixels)


def _decode(path: Path, file: BinaryIO, max_megapixels: float) -> Photo:
    with _errors_of(path, max_megapixels):
        _prepare_heic(path, file)
        image = Image.open(file)
        _check_size(path, image.size, max_megapixels)
        exif = _exif_of(image)
        focal_ratio = _focal_over_long_side(exif, image.size)
        stored_upright = exif.get(ExifTags.Base.Orientation, UPRIGHT) == UPRIGHT
        image.load()
        # Asked after loading: Pillow's TIFF reader turns the picture itself and then drops the tag.
        turn = _TURN_OF_ORIENTATION.get(_exif_of(image).get(ExifTags.Base.Orientation, UPRIGHT))
        plain = stored_upright and turn is None and image.format in PLAIN_FORMATS and image.mode in PLAIN_MODES
        pixels = _to_srgb(path, image, turn)
    focal_px = None if focal_ratio is None else focal_ratio * max(pixels.shape[:2])
    return Photo(np.ascontiguousarray(pixels), path, focal_px, plain)


@dataclass(frozen=True)
class PhotoFile:
    """The bytes of a photo's file, decoded when it is their turn; ``name`` is for sentences and never opened."""

    data: bytes | memoryview
    name: str


def read_photo(source: str | Path | PhotoFile) -> Photo:
    """Decode a photo from wherever its file is; raises as :func:`load_photo`."""
    return load_photo_bytes(source.data, source.name) if isinstance(source, PhotoFile) else load_photo(source)


def photo_from_pixels(pixels: np.ndarray, path: Path | None = None, focal_px: float | None = None) -> Photo:
    """(H, W, 3) uint8 sRGB, for instance a video frame -> :class:`Photo`, under the checks of a file."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise PhotoError(f"Pixels of shape {pixels.shape} and type {pixels.dtype} are not an H x W x 3 uint8 picture.")
    _check_size(path or Path("The picture"), (pixels.shape[1], pixels.shape[0]), math.inf)
    return Photo(np.ascontiguousarray(pixels), path, focal_px)


# --- the file ---------------------------------------------------------------------------------------------


def _open(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError(f"{path.name} is a folder; give the photos in it instead.")
        if not stat.S_ISREG(status.st_mode):  # Opening a pipe would wait for ever.
            raise PhotoError(f"{path.name} is not a file; give a photo instead.")
        if status.st_size == 0:
            raise PhotoError(f"{path.name} is empty; copy it again from its source.")
        return path.open("rb")
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist; check the path.") from None
    except PermissionError:
        raise PhotoError(f"{path.name} may not be read; check its permissions.") from None
    except (OSError, ValueError) as error:
        raise PhotoError(f"{path.name} cannot be opened ({_reason(error)}); check the path and the disk.") from None


def _prepare_heic(path: Path, file: BinaryIO) -> None:
    """Register the HEIC reader when the file needs it; importing it costs time that other files need not pay."""
    start = file.read(12)
    file.seek(0)
    if not (start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS):
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise DependencyError(
            f"{path.name} is a HEIC photo and the reader for it is not installed; "
            "run pip install 'mgcface[heif]' or convert the photo to JPEG."
        ) from None
    register_heif_opener()


@contextmanager
def _errors_of(path: Path, max_megapixels: float) -> Iterator[None]:
    """Whatever Pillow raises on a bad file becomes one sentence."""
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of its limit and on odd metadata; our own limit is checked anyway.
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise PhotoError(
            f"{path.name} is not a photo in a format that can be read; convert it to JPEG or PNG."
        ) from None
    except Image.DecompressionBombError as error:
        # Pillow's limit holds too; it says the number of pixels only in words.
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        size = f"{int(pixels[1]) / 1e6:.0f}" if pixels else "too many"
        raise PhotoError(_too_large(path, size, max_megapixels)) from None
    except MemoryError:
        raise PhotoError(f"{path.name} does not fit into memory; scale it down first.") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, ZeroDivisionError) as error:
        reason = _reason(error)
        if "truncated" in reason.lower() or "premature" in reason.lower() or isinstance(error, EOFError):
            raise PhotoError(f"{path.name} is truncated (it ends before the picture does); copy it again.") from None
        raise PhotoError(f"{path.name} is damaged ({reason}); copy it again or save it anew.") from None


def _reason(error: BaseException) -> str:
    """The library's words, short enough for one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")[:120]


def _check_size(path: Path, size: tuple[int, int], max_megapixels: float) -> None:
    width, height = size
    if min(width, height) < MIN_SIDE_PX:
        raise PhotoError(
            f"{path.name} is {width} x {height} pixels; a photo needs at least {MIN_SIDE_PX} pixels on each side."
        )
    if width * height > max_megapixels * 1e6:
        raise PhotoError(_too_large(path, f"{width * height / 1e6:.0f}", max_megapixels))


def _too_large(path: Path, megapixels: str, limit: float) -> str:
    limit = min(limit, 2 * (Image.MAX_IMAGE_PIXELS or math.inf) / 1e6)
    return f"{path.name} has {megapixels} megapixels and the limit is {limit:.0f}; scale it down first."


# --- EXIF -------------------------------------------------------------------------------------------------


def _exif_of(image: Image.Image) -> dict[int, Any]:
    """All tags of the main and the camera directory; empty when there are none or they cannot be parsed."""
    tags: dict[int, Any] = {}
    with suppress(Exception):  # Metadata is a hint; makers write it in every broken way, the pixels still count.
        exif = image.getexif()
        tags.update(exif)
        tags.update(exif.get_ifd(ExifTags.IFD.Exif))
    return tags


def _number(value: object) -> float | None:
    """A positive finite number out of an EXIF rational, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _focal_over_long_side(exif: dict[int, Any], size: tuple[int, int]) -> float | None:
    """Focal length over the long side of the photo; a ratio survives rotation and resizing."""
    ratio = None
    equivalent = _number(exif.get(ExifTags.Base.FocalLengthIn35mmFilm))
    focal_mm = _number(exif.get(ExifTags.Base.FocalLength))
    per_unit = _number(exif.get(ExifTags.Base.FocalPlaneXResolution))
    width, height = (_number(exif.get(tag)) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight))
    taken = (width, height) if width is not None and height is not None else size
    if abs(max(taken) / min(taken) * min(size) / max(size) - 1.0) > CROPPED_ASPECT:
        return None
    if equivalent is not None:
        ratio = equivalent / FULL_FRAME_LONG_SIDE_MM
    elif focal_mm is not None and per_unit is not None:
        unit = exif.get(ExifTags.Base.FocalPlaneResolutionUnit, 2)
        unit_mm = FOCAL_PLANE_UNIT_MM.get(unit) if isinstance(unit, int) else None
        # The resolution speaks of the photo as it left the camera, whose size EXIF keeps.
        if unit_mm is not None:
            ratio = focal_mm * (per_unit / unit_mm) / max(taken)
    low, high = FOCAL_RATIO_RANGE
    return ratio if ratio is not None and low <= ratio <= high else None


# --- pixels -----------------------------------------------------------------------------------------------


def _to_srgb(path: Path, image: Image.Image, turn: Image.Transpose | None) -> np.ndarray:
    """Any mode of Pillow -> (H, W, 3) uint8 sRGB, upright."""
    profile = image.info.get("icc_profile")
    if image.mode == "F":
        image = _from_float(path, image)
    elif image.mode.startswith("I"):
        image = _from_many_bits(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif image.mode in ("1", "La", "RGBa", "LAB", "HSV", "YCbCr"):
        image = image.convert({"1": "L", "La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB"))
    elif "transparency" in image.info and image.mode in ("L", "RGB"):
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = image.convert(image.mode[:-1])
    image = _through_profile(image, profile)
    if alpha is not None:
        background = Image.new("RGB", image.size, NEUTRAL)
        background.paste(image, mask=alpha)
        image = background
    return np.asarray(image if turn is None else image.transpose(turn))


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """sRGB through the embedded profile, or Pillow's plain conversion where there is none that fits."""
    if profile:
        with suppress(ImageCms.PyCMSError, OSError, ValueError):  # A broken profile is common and not fatal.
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, SRGB_PROFILE, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
            )
            if converted is not None:
                return converted
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_many_bits(image: Image.Image) -> Image.Image:
    """Grey with 16 or 32 bits -> L, scaled from the range of the type (Pillow's own ``convert`` clips at 255)."""
    values = np.asarray(image)
    if values.dtype == np.int32 and values.min(initial=0) < 0:
        values = values.view(np.uint32)  # Pillow has no unsigned 32-bit mode and keeps the bits.
    top = 65535.0 if values.max(initial=0) <= 65535 else float(np.iinfo(np.uint32).max)
    return Image.fromarray(np.round(values.astype(np.float64) * (255.0 / top)).astype(np.uint8), "L")


def _from_float(path: Path, image: Image.Image) -> Image.Image:
    """Float grey that stays within [0, 1] is linear light by custom; anything else has no scale to go by."""
    values = np.asarray(image)
    if not np.isfinite(values).all() or values.min() < 0.0 or values.max() > 1.0:
        raise PhotoError(
            f"{path.name} holds floating-point values outside 0 to 1, which have no fixed brightness; "
            "save it as an 8-bit or 16-bit picture."
        )
    # The sRGB transfer function (IEC 61966-2-1).
    encoded = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.round(encoded * 255.0).astype(np.uint8), "L")
