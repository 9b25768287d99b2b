"""Every kind of file, made here, must come out as the same upright sRGB picture or as one clear sentence."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from backend.errors import DependencyError, PhotoError
from backend.vision.decode import MIN_SIDE_PX, NEUTRAL, load_photo, photo_from_pixels

H, W = 60, 80


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth, different in every corner and channel, so that any turn or swap shows."""
    y, x = np.mgrid[0:H, 0:W] / [[[H]], [[W]]]
    return np.stack([255 * x, 255 * y, 127 + 100 * np.sin(3 * x + 5 * y)], axis=-1).astype(np.uint8)


def _save(path, pixels, mode=None, **options):
    Image.fromarray(pixels, mode).save(path, **options) if mode else Image.fromarray(pixels).save(path, **options)
    return path


def _differs(photo, pixels):
    assert photo.pixels.shape == pixels.shape
    assert photo.pixels.dtype == np.uint8 and photo.pixels.flags.c_contiguous
    return np.abs(photo.pixels.astype(int) - pixels.astype(int)).max()


# --- formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("tif", {}, 0),
        ("bmp", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("jpg", {"quality": 98, "subsampling": 0}, 8),
        ("jpg", {"quality": 98, "subsampling": 0, "progressive": True}, 8),
    ],
)
def test_formats(tmp_path, picture, suffix, options, tolerance):
    photo = load_photo(_save(tmp_path / f"a.{suffix}", picture, **options))
    assert _differs(photo, picture) <= tolerance
    assert photo.path == tmp_path / f"a.{suffix}"
    assert (photo.width, photo.height) == (W, H)
    assert photo.focal_px is None


def test_content_decides_not_the_suffix(tmp_path, picture):
    path = tmp_path / "really_a_png.jpg"
    _save(path, picture, format="PNG")
    assert _differs(load_photo(str(path)), picture) == 0


def test_heic(tmp_path, picture):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.fromarray(picture)).save(path, quality=95)
    assert np.abs(load_photo(path).pixels.astype(int) - picture).mean() < 3


def test_heic_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(64))
    with pytest.raises(DependencyError, match=r"a\.heic.*mgcface\[heif\]"):
        load_photo(path)


def test_the_first_of_several_frames_counts(tmp_path, picture):
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    for name, options in (("a.tif", {}), ("a.webp", {"lossless": True}), ("a.png", {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert _differs(load_photo(tmp_path / name), picture) == 0, name


# --- orientation and focal length -------------------------------------------------------------------------


def _stored(picture, orientation):
    """What a camera that was held that way writes for ``picture`` (EXIF 2.32, 4.6.4 A, read as NumPy operations)."""
    return {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_orientation(tmp_path, picture, orientation, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    stored = np.ascontiguousarray(_stored(picture, orientation))
    photo = load_photo(_save(tmp_path / f"a.{suffix}", stored, exif=exif, **options))
    assert _differs(photo, picture) <= (8 if suffix == "jpg" else 0)


@pytest.mark.parametrize(
    ("name", "mode", "orientation", "plain"),
    [
        ("a.jpg", "RGB", 1, True),
        ("a.png", "RGBA", 1, True),
        ("a.webp", "RGB", 1, True),
        ("a.jpg", "RGB", 6, False),
        ("a.tif", "RGB", 3, False),
        ("a.jpg", "CMYK", 1, False),
        ("a.ppm", "RGB", 1, False),
    ],
)
def test_whether_others_show_the_file_as_it_is(tmp_path, name, mode, orientation, plain):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new(mode, (64, 48)).save(tmp_path / name, exif=exif)
    assert load_photo(tmp_path / name).plain is plain


def _with_exif(path, picture, orientation=1, **tags):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base[name]: value for name, value in tags.items()})
    return load_photo(_save(path, picture, exif=exif))


@pytest.mark.parametrize("orientation", [1, 6])
def test_focal_length_from_the_35_mm_equivalent(tmp_path, picture, orientation):
    photo = _with_exif(tmp_path / "a.jpg", picture, orientation, FocalLengthIn35mmFilm=72, FocalLength=10.0)
    assert photo.focal_px == pytest.approx(72 / 36 * max(W, H))


def test_focal_length_from_the_sensor(tmp_path, picture):
    # 50 mm before 4000 pixels over 36 mm; the file was scaled down to 80 pixels since.
    for unit, per_unit in ((2, 4000 / 36 * 25.4), (3, 4000 / 36 * 10)):
        photo = _with_exif(
            tmp_path / "a.jpg",
            picture,
            FocalLength=50.0,
            FocalPlaneXResolution=per_unit,
            FocalPlaneResolutionUnit=unit,
            ExifImageWidth=4000,
            ExifImageHeight=3000,
        )
        assert photo.focal_px == pytest.approx(50 / 36 * 80, rel=1e-3)


@pytest.mark.parametrize(
    "tags",
    [
        {"FocalLength": 50.0},
        {"FocalLengthIn35mmFilm": 0},
        {"FocalLengthIn35mmFilm": 60000},
        {"FocalLengthIn35mmFilm": 3},
        {"FocalLengthIn35mmFilm": 50, "ExifImageWidth": 4000, "ExifImageHeight": 2000},
    ],
)
def test_absurd_or_useless_focal_lengths_are_ignored(tmp_path, picture, tags):
    assert _with_exif(tmp_path / "a.jpg", picture, **tags).focal_px is None


def test_broken_exif_does_not_hurt(tmp_path, picture):
    path = _save(tmp_path / "a.jpg", picture, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(40), quality=98)
    assert load_photo(path).focal_px is None


# --- depths, modes and colours ----------------------------------------------------------------------------


def _png(pixels_16, color_type):
    """A 16-bit PNG by hand: Pillow writes none in colour."""
    height, width, _ = pixels_16.shape
    rows = pixels_16.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_16_bit_is_scaled_not_clipped(tmp_path, picture):
    wide = picture.astype(np.uint16) * 257
    grey = np.ascontiguousarray(wide[..., 1])
    (tmp_path / "colour.png").write_bytes(_png(wide, 2))
    (tmp_path / "grey.png").write_bytes(_png(grey[..., None], 0))
    Image.fromarray(grey).save(tmp_path / "grey.tif")
    assert _differs(load_photo(tmp_path / "colour.png"), picture) <= 1
    for name in ("grey.png", "grey.tif"):
        assert _differs(load_photo(tmp_path / name), np.repeat(picture[..., 1:2], 3, axis=2)) <= 1, name


def test_16_bit_alpha_and_colour_tiff(tmp_path, picture):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    wide = picture.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", wide, photometric="rgb")
    assert _differs(load_photo(tmp_path / "a.tif"), picture) <= 1
    tifffile.imwrite(tmp_path / "b.tif", wide[..., 0].astype(np.uint32) * 65537)
    assert _differs(load_photo(tmp_path / "b.tif"), np.repeat(picture[..., :1], 3, axis=2)) <= 1


def test_float_tiff_is_linear_light_or_refused(tmp_path, picture):
    linear = np.full((H, W), 0.2140, np.float32)
    linear[0, 0], linear[0, 1] = 0.0, 1.0
    Image.fromarray(linear).save(tmp_path / "a.tif")
    pixels = load_photo(tmp_path / "a.tif").pixels
    # 0.2140 is the linear light of sRGB 0.5 (IEC 61966-2-1).
    assert pixels[5, 5].tolist() == [127, 127, 127] or pixels[5, 5].tolist() == [128, 128, 128]
    assert pixels[0, 0].max() == 0 and pixels[0, 1].min() == 255
    Image.fromarray(linear * 40).save(tmp_path / "b.tif")
    with pytest.raises(PhotoError, match=r"b\.tif holds floating-point values"):
        load_photo(tmp_path / "b.tif")


def test_greyscale_and_bilevel(tmp_path, picture):
    grey = np.ascontiguousarray(picture[..., 0])
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert _differs(load_photo(_save(tmp_path / "a.png", grey)), expected) == 0
    Image.fromarray(grey).convert("1").save(tmp_path / "b.png")
    assert set(np.unique(load_photo(tmp_path / "b.png").pixels)) == {0, 255}


def test_alpha_is_laid_over_neutral(tmp_path, picture):
    alpha = np.zeros((H, W, 1), np.uint8)
    alpha[:, W // 2 :] = 255
    alpha[0, 0] = 128
    for suffix, options in (("png", {}), ("webp", {"lossless": True, "exact": True}), ("tif", {})):
        photo = load_photo(_save(tmp_path / f"a.{suffix}", np.concatenate([picture, alpha], axis=2), **options))
        assert (photo.pixels[1:, : W // 2] == NEUTRAL).all()
        assert _differs(photo, picture) > 0
        assert np.array_equal(photo.pixels[:, W // 2 :], picture[:, W // 2 :])
        blend = (picture[0, 0].astype(float) * 128 + np.array(NEUTRAL) * 127) / 255
        assert np.abs(photo.pixels[0, 0] - blend).max() <= 1
    grey = np.concatenate([picture[..., :1], alpha], axis=2)
    photo = load_photo(_save(tmp_path / "la.png", grey))
    assert (photo.pixels[1:, : W // 2] == NEUTRAL).all()


def test_palette_with_and_without_transparency(tmp_path, picture):
    indexed = Image.fromarray(picture).quantize(64)
    indexed.save(tmp_path / "a.png")
    assert _differs(load_photo(tmp_path / "a.png"), np.asarray(indexed.convert("RGB"))) == 0
    see_through = indexed.getpixel((3, 3))
    indexed.save(tmp_path / "b.png", transparency=see_through)
    pixels = load_photo(tmp_path / "b.png").pixels
    mask = np.asarray(indexed) == see_through
    assert (pixels[mask] == NEUTRAL).all()
    assert np.array_equal(pixels[~mask], np.asarray(indexed.convert("RGB"))[~mask])


def test_cmyk_without_a_profile(tmp_path):
    cmyk = np.zeros((H, W, 4), np.uint8)
    cmyk[:, : W // 2] = (0, 255, 255, 0)
    cmyk[:, W // 2 :] = (0, 0, 0, 255)
    for name, options in (("a.tif", {}), ("a.jpg", {"quality": 98})):
        pixels = load_photo(_save(tmp_path / name, cmyk, "CMYK", **options)).pixels
        assert np.abs(pixels[5, 5].astype(int) - (255, 0, 0)).max() < 6
        assert pixels[5, -5].max() < 6


def _icc(colour_space: bytes, device_class: bytes, tags: dict[bytes, bytes], connection: bytes) -> bytes:
    """An ICC profile, version 2 (ICC.1:2001-04, clause 6), from its tags."""
    table, data, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, offset + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = offset + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, device_class, colour_space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header + bytes(128 - len(header)) + table + data


def _text(kind: bytes) -> bytes:
    body = b"test\0"
    return (
        b"desc\0\0\0\0" + struct.pack(">I", len(body)) + body + bytes(78) if kind == b"desc" else b"text\0\0\0\0test\0"
    )


def _xyz(x, y, z):
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in (x, y, z)))


def test_wide_gamut_profile_becomes_srgb(tmp_path):
    # Display P3 primaries, adapted to D50, with a plain gamma of 2.2.
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    profile = _icc(
        b"RGB ",
        b"mntr",
        {
            b"desc": _text(b"desc"),
            b"cprt": _text(b"text"),
            b"wtpt": _xyz(0.9642, 1.0, 0.8249),
            b"rXYZ": _xyz(0.5151, 0.2412, -0.0011),
            b"gXYZ": _xyz(0.2920, 0.6922, 0.0419),
            b"bXYZ": _xyz(0.1571, 0.0666, 0.7841),
            **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
        },
        b"XYZ ",
    )
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[:, : W // 2] = (200, 100, 100)
    pixels[:, W // 2 :] = (120, 120, 120)
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        photo = load_photo(_save(tmp_path / name, pixels, icc_profile=profile))
        # By hand: P3 -> XYZ -> sRGB matrix and transfer; the same skin tone needs more red in the smaller gamut.
        assert np.abs(photo.pixels[5, 5].astype(int) - (215, 95, 97)).max() <= 5, (name, photo.pixels[5, 5])
        assert np.ptp(photo.pixels[5, -5].astype(int)) <= 3, name


def test_cmyk_goes_through_its_profile(tmp_path):
    identity = bytes(range(256))
    # One corner of the 2 x 2 x 2 x 2 table per combination of inks; all inks off is white, all else Lab (50, 0, 0).
    grid = b"".join(bytes((255, 128, 128)) if corner == 0 else bytes((128, 128, 128)) for corner in range(16))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += identity * 4 + grid + identity * 3
    tags = {
        b"desc": _text(b"desc"),
        b"cprt": _text(b"text"),
        b"wtpt": _xyz(0.9642, 1.0, 0.8249),
        b"A2B0": table,
    }
    profile = _icc(b"CMYK", b"prtr", tags, b"Lab ")
    ImageCms.ImageCmsProfile(io.BytesIO(profile))
    cmyk = np.zeros((H, W, 4), np.uint8)
    cmyk[:, : W // 2] = (0, 255, 255, 0)
    path = _save(tmp_path / "a.tif", cmyk, "CMYK", icc_profile=profile)
    pixels = load_photo(path).pixels
    # Lab (50, 0, 0) is sRGB 119; the conversion without a profile says pure red.
    assert np.abs(pixels[5, 5].astype(int) - 119).max() <= 4
    assert pixels[5, -5].min() >= 250


def test_a_broken_profile_is_ignored(tmp_path, picture):
    path = _save(tmp_path / "a.png", picture, icc_profile=b"nonsense" * 30)
    assert _differs(load_photo(path), picture) == 0


def test_a_profile_of_another_mode_is_ignored(tmp_path, picture):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = np.ascontiguousarray(picture[..., 0])
    path = _save(tmp_path / "a.png", grey, icc_profile=srgb)
    assert _differs(load_photo(path), np.repeat(grey[..., None], 3, axis=2)) == 0


# --- bad files --------------------------------------------------------------------------------------------


def _one_sentence(error: pytest.ExceptionInfo, name: str) -> None:
    text = str(error.value)
    assert name in text and text.endswith(".") and "\n" not in text and len(text) < 250


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"Dear diary, this is not a photo.\n" * 50, "is not a photo"),
        (bytes(5000), "is not a photo"),
        (b"\xff\xd8\xff\xe0" + bytes(500), "is not a photo|is damaged|is truncated"),
    ],
)
def test_not_a_photo(tmp_path, content, words):
    path = tmp_path / "portrait.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=words) as error:
        load_photo(path)
    _one_sentence(error, "portrait.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_is_said_and_not_filled_with_grey(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    path = _save(tmp_path / f"cut.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(PhotoError) as error:
        load_photo(path)
    _one_sentence(error, f"cut.{suffix}")
    if suffix in ("jpg", "png"):
        assert "truncated" in str(error.value)


def test_missing_folder_and_not_allowed(tmp_path, picture):
    with pytest.raises(PhotoError, match="does not exist") as error:
        load_photo(tmp_path / "nowhere.jpg")
    _one_sentence(error, "nowhere.jpg")
    with pytest.raises(PhotoError, match="is a folder") as error:
        load_photo(tmp_path)
    _one_sentence(error, tmp_path.name)
    path = _save(tmp_path / "secret.png", picture)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything, as root may; the rest of the test has passed")
    with pytest.raises(PhotoError, match="may not be read") as error:
        load_photo(path)
    _one_sentence(error, "secret.png")


def test_permission_error_from_the_system(tmp_path, picture, monkeypatch):
    path = _save(tmp_path / "secret.png", picture)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(PhotoError, match="may not be read") as error:
        load_photo(path)
    _one_sentence(error, "secret.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_a_photo(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="is not a file") as error:
        load_photo(tmp_path / "pipe.jpg")
    _one_sentence(error, "pipe.jpg")


@pytest.mark.parametrize("size", [(1, 1), (MIN_SIDE_PX - 1, 500), (500, MIN_SIDE_PX - 1)])
def test_too_small(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    with pytest.raises(PhotoError, match=f"{size[0]} x {size[1]} pixels") as error:
        load_photo(tmp_path / "tiny.png")
    _one_sentence(error, "tiny.png")
    Image.new("RGB", (MIN_SIDE_PX, MIN_SIDE_PX)).save(tmp_path / "enough.png")
    assert load_photo(tmp_path / "enough.png").width == MIN_SIDE_PX


def test_8000_by_6000_is_decoded_whole(tmp_path):
    Image.new("RGB", (8000, 6000), (10, 200, 30)).save(tmp_path / "large.jpg", quality=50)
    photo = load_photo(tmp_path / "large.jpg")
    assert photo.pixels.shape == (6000, 8000, 3)


def _header_only_png(path, width, height):
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = zlib.compress(bytes(1000))
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + idat)
    return path


@pytest.mark.parametrize(("width", "height", "words"), [(20000, 10000, "200"), (100000, 100000, "10000")])
def test_too_large_and_bombs_are_refused_before_decoding(tmp_path, width, height, words):
    path = _header_only_png(tmp_path / "bomb.png", width, height)
    with pytest.raises(PhotoError, match=f"{words} megapixels and the limit is 160") as error:
        load_photo(path)
    _one_sentence(error, "bomb.png")


def test_the_limit_is_the_callers(tmp_path, picture):
    path = _save(tmp_path / "a.png", picture)
    with pytest.raises(PhotoError, match="megapixels"):
        load_photo(path, max_megapixels=0.001)


def test_photo_from_pixels(picture):
    assert photo_from_pixels(picture).width == W
    for bad in (picture[..., 0], picture.astype(float), picture[:4], np.dstack([picture, picture[..., :1]])):
        with pytest.raises(PhotoError):
            photo_from_pixels(bad)
