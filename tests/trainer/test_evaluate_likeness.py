"""The set ``likeness``: one person of the London set for real, and the arithmetic on made pictures and results."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.vision.photo import Photo
from trainer.evaluate import accuracy, likeness
from trainer.evaluate.accuracy import DEFAULT_DATA, KNOWN_SETS
from trainer.evaluate.likeness import HEADS, Comparison, LikenessResult
from trainer.evaluate.truth_sets import SetError

needs_photos = pytest.mark.skipif(
    not (DEFAULT_DATA / "photos" / "london").is_dir(), reason="the measuring photos are not on this machine"
)


def stripes(step: int = 0) -> np.ndarray:
    """(64, 80, 3) uint8 with structure in both directions, moved by ``step`` pixels."""
    y, x = np.mgrid[0:64, 0:80]
    grey = 128.0 + 60.0 * np.sin((x + step) / 4.0) * np.cos(y / 5.0)
    return np.stack([grey, 0.8 * grey, 0.7 * grey], axis=-1).astype(np.uint8)


def test_a_picture_is_like_itself_and_less_like_others():
    face = np.zeros((64, 80), bool)
    face[16:48, 16:64] = True
    same = likeness.likeness(stripes(), stripes(), face)
    assert same.ssim == pytest.approx(1.0) and same.color == 0.0
    moved, far = (likeness.likeness(stripes(), stripes(step), face) for step in (1, 6))
    assert same.ssim > moved.ssim > far.ssim
    brighter = likeness.likeness(stripes(), np.clip(stripes() + 20.0, 0, 255).astype(np.uint8), face)
    assert brighter.ssim > far.ssim and brighter.color > 3.0


def test_what_lies_outside_the_face_is_no_matter():
    face = np.zeros((64, 80), bool)
    face[20:40, 20:40] = True
    other = stripes()
    other[:, 50:] = 0
    assert likeness.likeness(stripes(), other, face) == likeness.likeness(stripes(), stripes(), face)
    with pytest.raises(SetError, match="nothing to compare"):
        likeness.likeness(stripes(), other, np.zeros((64, 80), bool))


def test_even_light_leaves_a_texture_as_it_is():
    """What the light is fitted against is the albedo itself."""
    from backend.export.preview import photo_light

    normals = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(photo_light(normals, likeness.EVEN_LIGHT), 1.0, rtol=1e-6)


@needs_photos
def test_a_person_is_nearer_to_her_other_photo_than_a_stranger():
    bench = accuracy.make_bench("open-head", DEFAULT_DATA, None)
    pair = likeness.load(DEFAULT_DATA)[0]
    result = likeness.measure(pair, bench.methods)
    assert result.error is None and set(result.photos) == set(result.before) == {"neutral", "smiling"}
    assert result.photos != result.before
    for heads in (*result.photos.values(), *result.before.values()):
        assert tuple(heads) == HEADS
        assert 1.0 > heads["itself"].ssim > heads["other"].ssim > heads["stranger"].ssim > 0.1
        assert 0.5 < heads["itself"].color < heads["stranger"].color < 40.0


@needs_photos
def test_everybody_is_compared_with_the_next():
    pairs = likeness.load(DEFAULT_DATA)
    assert len(pairs) == 102
    assert [pair.stranger for pair in pairs[:-1]] == [pair.own for pair in pairs[1:]]
    assert pairs[-1].stranger == pairs[0].own
    assert pairs[0].own["smiling"].name.split("_")[0] == pairs[0].own["neutral"].name.split("_")[0]


def test_photos_of_one_person_are_too_few(tmp_path):
    for folder in ("neutral", "smiling"):
        (tmp_path / "photos" / "london" / folder).mkdir(parents=True)
        Image.fromarray(stripes()).save(tmp_path / "photos" / "london" / folder / "001_03.jpg")
    with pytest.raises(SetError, match="two people"):
        likeness.load(tmp_path)


def test_a_photo_without_a_face_is_named(tmp_path):
    for folder in ("neutral", "smiling"):
        (tmp_path / "photos" / "london" / folder).mkdir(parents=True)
        for person in ("001", "002"):
            Image.fromarray(stripes()).save(tmp_path / "photos" / "london" / folder / f"{person}_03.jpg")

    def nobody(photo: Photo):
        raise SetError("No face here.")

    results = [likeness.measure(pair, {"fit": nobody}) for pair in likeness.load(tmp_path)]
    summary = likeness.figures(results)
    assert (summary["people"], summary["found"], summary["photos"]) == (2, 0, {})
    assert "* 001: No face here." in likeness.page(summary)


def test_means_and_page():
    def result(name: str, other: float, stranger: float) -> LikenessResult:
        heads = {"itself": Comparison(0.8, 2.0), "other": Comparison(other, 3.0), "stranger": Comparison(stranger, 5.0)}
        photos = {"neutral": heads, "smiling": heads | {"other": Comparison(other - 0.1, 7.0)}}
        return LikenessResult(name, photos, before={"neutral": heads | {"other": Comparison(0.4, 6.0)}})

    summary = likeness.figures([result("001", 0.7, 0.5), result("002", 0.5, 0.45)])
    assert summary["photos"]["neutral"]["ssim_other"] == pytest.approx(0.6)
    both = summary["photos"]["both"]
    assert both["drawings"] == 4 and both["ssim_other"] == pytest.approx(0.55)
    assert (both["nearer_by_ssim"], both["nearer_by_color"]) == (3, 2)
    assert summary["before"]["both"]["ssim_other"] == pytest.approx(0.4)
    page = likeness.page(summary)
    assert "| neutral photos, before refinement | 2 | 0.800 | **0.400** |" in page
    assert "| both photos | 4 | 0.800 | **0.550** | 0.475 | 3 of 4 | 2.00 | **5.00** | 5.00 | 2 of 4 |" in page


def test_the_set_is_known():
    assert "likeness" in KNOWN_SETS
