"""The texture against a truth: a head with a known texture is photographed, baked, compared."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from texture_scene import (
    GREEN,
    TONE,
    Scene,
    camera,
    head,
    person,
    photograph,
    psnr,
    region_texels,
    texel_values,
    true_texture,
)

from backend.errors import Cancelled, PhotoError
from backend.reconstruction import texture as texture_module
from backend.reconstruction.result import Texture
from backend.reconstruction.texture import bake_texture
from backend.reconstruction.texture_atlas import atlas_of, surface_of


def bake(scene: Scene, yaw: float = 0.0, **options) -> Texture:
    view = camera(yaw)
    return bake_texture(photograph(scene, view), view, head(), scene.vertices, **options)


@pytest.fixture(scope="module")
def frontal() -> Texture:
    return bake(Scene())


@pytest.fixture(scope="module")
def turned() -> Texture:
    return bake(Scene(), yaw=35)


def painted(mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The true texture with another colour where the mask (S, S) is set."""
    texture = true_texture().copy()
    texture[mask] = color
    return texture


def side_of_face(sign: int) -> np.ndarray:
    """(S, S) bool: cheek texels on the subject's left (+1) or right (-1)."""
    x = texel_values(head().mean.astype(float))[..., 0]
    return region_texels("cheeks") & (x * sign > 0.025)


def is_skin(color: np.ndarray, slack: float = 0.16) -> np.ndarray:
    """(..., 3) uint8 -> bool: within ``slack`` of the one skin tone of the scene, in every channel."""
    return (np.abs(color.astype(float) - TONE) < slack * 255 * TONE / TONE.max()).all(axis=-1)


def test_seen_texels_are_the_truth(frontal, turned):
    """Nearly: this skin has none of the patterns that skins have, so a little of it is taken for light."""
    for texture, least in ((frontal, 30.5), (turned, 30.5)):
        seen = texture.confidence > 200
        assert seen.mean() > 0.04
        assert psnr(texture.color[seen], true_texture()[seen]) > least


def test_confidence_is_high_straight_on_and_zero_where_completed(frontal, turned):
    assert frontal.confidence.max() > 245
    assert frontal.confidence[region_texels("forehead")].mean() > 90
    scalp = frontal.confidence[region_texels("scalp")]
    assert scalp.mean() < 3 and np.percentile(scalp, 95) == 0
    hidden, shown = side_of_face(+1), side_of_face(-1)
    if turned.confidence[hidden].mean() > turned.confidence[shown].mean():
        hidden, shown = shown, hidden
    assert turned.confidence[shown].mean() > 100
    assert turned.confidence[hidden].mean() < 0.6 * turned.confidence[shown].mean()


def test_nothing_is_black_grey_or_background(frontal, turned):
    for texture in (frontal, turned, bake(Scene(), yaw=70)):
        red, green, blue = texture.color.astype(int).reshape(-1, 3).T
        assert (green < red - 8).all() and (blue < red - 8).all()
        assert red.min() > 50


def test_scalp_and_neck_are_skin(frontal):
    open_skin = texel_values(surface_of(head()).cavity[:, None].astype(float))[..., 0] < 0.02
    for name in ("scalp", "neck", "ears"):
        texels = region_texels(name) & open_skin
        assert texels.sum() > 0.95 * region_texels(name).sum()
        assert is_skin(frontal.color[texels]).mean() > 0.995


@pytest.mark.parametrize("named_regions", [True, False])
def test_hair_is_not_painted(frontal, named_regions):
    model = head() if named_regions else head().replaced(regions={})
    height = texel_values(head().mean.astype(float))[..., 1]
    brows = height[region_texels("brows")].max()
    hair = ((height > brows + 0.02) | region_texels("scalp") | region_texels("ears")) & (height != 0)
    view = camera()
    photo = photograph(Scene(texture=painted(hair, (55, 36, 24))), view)
    texture = bake_texture(photo, view, model, person())
    assert is_skin(texture.color[hair]).mean() > 0.99
    cheeks = region_texels("cheeks") & (frontal.confidence > 200)
    assert psnr(texture.color[cheeks], true_texture()[cheeks]) > 30


def test_an_occluder_on_one_cheek_is_replaced_from_the_other():
    cheek = side_of_face(+1)
    # A mole on the far cheek that only the mirror can bring over.
    column = np.arange(1024)[None].repeat(1024, axis=0)
    rows, columns = np.nonzero(cheek)
    centre = int(rows.mean()), int(columns.mean())
    mole = np.zeros((1024, 1024), np.uint8)
    cv2.circle(mole, (1023 - centre[1], centre[0]), 8, 1, -1)
    assert side_of_face(-1)[mole > 0].all()
    texture = painted(mole > 0, (120, 80, 62))
    block = cheek & (np.abs(column - centre[1]) < 60)
    texture[block] = (20, 60, 220)
    baked = bake(Scene(texture=texture)).color.astype(int)
    assert (baked[block][:, 2] < baked[block][:, 0]).all()
    spot = baked[centre[0] - 4 : centre[0] + 5, centre[1] - 4 : centre[1] + 5].mean(axis=(0, 1))
    round_it = baked[centre[0] - 40 : centre[0] - 30, centre[1] - 5 : centre[1] + 5].mean(axis=(0, 1))
    assert spot.mean() < round_it.mean() - 10


def test_side_light_leaves_the_sides_balanced():
    scene = Scene(light=(1.0, 0.2, 0.3), ambient=0.15)
    view = camera()
    photo = photograph(scene, view)
    texture = bake_texture(photo, view, head(), scene.vertices)
    dark, lit = texture.color[side_of_face(-1)].mean(), texture.color[side_of_face(+1)].mean()
    points = view.project(person()[head().regions["cheeks"]]).astype(int)
    x = person()[head().regions["cheeks"]][:, 0]
    before = [photo[points[s, 1], points[s, 0]].mean() for s in (x < -0.03, x > 0.03)]
    assert before[1] > 1.4 * before[0]
    assert abs(lit - dark) < 0.06 * lit
    assert before[0] < dark < before[1] * 1.1


def test_the_light_that_was_taken_out_is_told():
    """It comes from where it came from, and is even where it was even."""

    def direction(light: np.ndarray) -> np.ndarray:
        linear = np.array([-light[3], -light[1], light[2]]).mean(axis=1)
        return linear / max(np.linalg.norm(light[0]) / np.sqrt(3.0), 1e-9)

    lamp = np.array([1.0, 0.2, 0.3]) / np.linalg.norm([1.0, 0.2, 0.3])
    side = bake(Scene(light=(1.0, 0.2, 0.3), ambient=0.15)).light
    assert side is not None and side.shape == (9, 3)
    found = direction(side) / np.linalg.norm(direction(side))
    assert found @ lamp > 0.85
    even = bake(Scene()).light
    assert even is not None and np.linalg.norm(direction(even)) < 0.35 * np.linalg.norm(direction(side))


def test_skin_tone_is_kept_under_even_light(frontal):
    cheeks = region_texels("cheeks")
    assert np.abs(frontal.color[cheeks].mean(axis=0) - true_texture()[cheeks].mean(axis=0)).max() < 6


def test_lips_and_brows_keep_their_colours(frontal):
    lips = region_texels("lips") & (frontal.confidence > 100)
    assert np.abs(np.median(frontal.color[lips], axis=0) - (165, 80, 80)).max() < 12
    brows = region_texels("brows") & (frontal.confidence > 100)
    assert np.abs(np.median(frontal.color[brows], axis=0) - (70, 50, 40)).max() < 12


def test_eyes_and_mouth_interior_are_not_painted_on_the_skin():
    model = head()
    expression = np.zeros(len(model.expression_names))
    expression[model.expression_names.index("jawOpen")] = 0.6
    identity = np.random.default_rng(5).normal(0, 0.6, len(model.identity))
    scene = Scene(vertices=model.vertices(identity, expression), eyes=(40, 40, 255), mouth=(40, 255, 40))
    color = bake(scene).color.astype(int)
    assert (color[..., 1] < color[..., 0]).all() and (color[..., 2] < color[..., 0]).all()


def test_no_seam_between_seen_and_completed(turned):
    """Along the border of what was seen, the step from texel to texel is no larger than inside of it."""
    blurred = cv2.GaussianBlur(turned.color.astype(np.float32), (0, 0), 4)
    steps = np.abs(np.diff(blurred, axis=1)).max(axis=2)
    border = (turned.confidence[:, 1:] < 120) & (turned.confidence[:, 1:] > 4) & region_texels("cheeks")[:, 1:]
    assert border.sum() > 500
    assert np.percentile(steps[border], 99) < 1.5


def test_landmarks_pull_features_into_place():
    scene = Scene()
    view = camera()
    photo = photograph(scene, view)
    model = head()
    found = view.project(model.landmark_points(scene.vertices.astype(float), "mediapipe478"))
    shifted = np.roll(photo, (4, 5), axis=(0, 1))
    landmarks = {"mediapipe478": found + np.array([5.0, 4.0])}
    seen = (region_texels("lips") | region_texels("nose") | region_texels("brows")) & (
        bake_texture(photo, view, model, scene.vertices).confidence > 200
    )
    with_them = bake_texture(shifted, view, model, scene.vertices, landmarks=landmarks)
    without = bake_texture(shifted, view, model, scene.vertices)
    truth = true_texture()
    assert psnr(with_them.color[seen], truth[seen]) > psnr(without.color[seen], truth[seen]) + 3


def test_a_large_photo_is_averaged_not_skipped_over():
    """A pattern of single pixels, far finer than a texel, comes out as its mean."""
    view = camera(size=3000)
    photo = np.full((3000, 3000, 3), 0, np.uint8)
    photo[:] = np.rint(TONE)
    photo[::2, ::2] = np.rint(TONE * 0.8)
    photo[1::2, 1::2] = np.rint(TONE * 0.8)
    texture = bake_texture(photo, view, head(), person())
    seen = texture.confidence > 230
    assert texture.color[seen].astype(float).std(axis=0).max() < 4


def test_sizes_agree_and_repeat():
    scene, view = Scene(), camera()
    photo = photograph(scene, view)
    small = bake_texture(photo, view, head(), scene.vertices, 1024)
    assert np.array_equal(small.color, bake_texture(photo, view, head(), scene.vertices, 1024).color)
    large = bake_texture(photo, view, head(), scene.vertices, 2048)
    assert large.color.shape == (2048, 2048, 3) and large.confidence.shape == (2048, 2048)
    halved = cv2.resize(large.color, (1024, 1024), interpolation=cv2.INTER_AREA)
    inside = cv2.erode((atlas_of(head(), 1024).triangle >= 0).astype(np.uint8), np.ones((5, 5))) > 0
    assert np.percentile(np.abs(halved[inside].astype(int) - small.color[inside]), 99) < 14


def test_texels_beyond_the_charts_repeat_the_border(frontal):
    atlas = atlas_of(head(), 1024)
    flat = frontal.color.reshape(-1, 3)
    assert np.array_equal(flat[atlas.gutter], flat[atlas.nearest])
    assert is_skin(flat[atlas.far]).all()


def test_a_model_without_mirror_pairs_or_regions_works():
    bare = head().replaced(mirror=None, regions={})
    view = camera(35)
    texture = bake_texture(photograph(Scene(), view), view, bare, person())
    color = texture.color.astype(int)
    assert (color[..., 1] < color[..., 0] - 8).all()
    assert is_skin(texture.color[region_texels("scalp")]).mean() > 0.99


def test_a_photo_that_shows_half_of_the_face():
    view = camera()
    photo = photograph(Scene(), view)[:, : view.width // 2]
    half = view.cropped(0, 0, view.width // 2, view.height)
    texture = bake_texture(photo, half, head(), person())
    color = texture.color.astype(int)
    assert (color[..., 1] < color[..., 0] - 8).all()


def test_progress_and_cancel():
    view = camera(size=300)
    photo = photograph(Scene(), view)
    told: list[float] = []
    bake_texture(photo, view, head(), person(), progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0
    with pytest.raises(Cancelled):
        bake_texture(photo, view, head(), person(), cancel=lambda: True)


def test_what_cannot_be_baked_is_refused():
    view = camera(size=300)
    photo = np.full((300, 300, 3), GREEN, np.uint8)
    with pytest.raises(ValueError, match="size"):
        bake_texture(photo, view, head(), person(), size=512)
    with pytest.raises(ValueError, match="uint8"):
        bake_texture(photo.astype(float), view, head(), person())
    with pytest.raises(ValueError, match="finite"):
        bake_texture(photo, view, head(), person() * np.nan)
    away = view.cropped(5000, 0, 300, 300)
    with pytest.raises(PhotoError, match="outside"):
        bake_texture(photo, away, head(), person())
    with pytest.raises(PhotoError, match="behind"):
        bake_texture(photo, camera(size=300, distance=0.02), head(), person())


def test_seen_texels_are_the_truth_without_statistics(monkeypatch):
    monkeypatch.setattr(texture_module, "statistics_of", lambda _: None)
    for yaw, least in ((0.0, 34.0), (35.0, 36.0)):
        texture = bake(Scene(), yaw=yaw)
        seen = texture.confidence > 200
        assert psnr(texture.color[seen], true_texture()[seen]) > least


@pytest.mark.parametrize(("statistics", "most"), [(True, 14), (False, 2)])
def test_an_even_photo_gives_an_even_texture(statistics, most, monkeypatch):
    """Whatever the weights say, mixing, light removal and completion add no structure but the shade of cavities.

    Statistics of skin expect some, and take its absence for light.
    """
    if not statistics:
        monkeypatch.setattr(texture_module, "statistics_of", lambda _: None)
    view = camera(size=300)
    photo = np.full((300, 300, 3), np.rint(TONE), np.uint8)
    texture = bake_texture(photo, view, head(), person())
    shade = texel_values(surface_of(head()).cavity[:, None].astype(float))[..., 0] > 0
    shade.ravel()[atlas_of(head(), 1024).gutter] |= shade.ravel()[atlas_of(head(), 1024).nearest]
    assert shade.mean() < 0.03
    assert np.abs(texture.color.astype(float) - np.rint(TONE))[~shade].max() <= most
