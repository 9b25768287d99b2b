"""The normal map: grooves of known size tilt normals the right way, and what is no relief is flat."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from texture_scene import head, person, region_texels, texel_values

from backend.reconstruction.result import Texture
from backend.reconstruction.texture_atlas import atlas_of, surface_of
from backend.reconstruction.texture_relief import (
    DEPTH_MM,
    FLAT,
    encoded,
    masked_blur,
    normal_map,
    relief_mm,
    skin_to_read,
    texel_mm,
)

SKIN_GREY, WAVE_MM, CONTRAST = 150.0, 1.6, 0.15


def grooved(size: int, axis: int, confidence: int = 255, wave_mm: float = WAVE_MM) -> tuple[Texture, np.ndarray]:
    """Skin with sine grooves across the columns (axis 1) or the rows (axis 0), and the texels of bare skin."""
    atlas = atlas_of(head(), size)
    every = (slice(0, size), slice(0, size))
    bare = skin_to_read(atlas, np.full((size, size), 255, np.uint8)) > 0.99
    bare &= region_texels("cheeks", size)
    millimetres = float(np.median(texel_mm(atlas, person(), every)[bare]))
    place = np.arange(size) * millimetres
    line = SKIN_GREY * np.exp(CONTRAST / 2.2 * np.sin(2 * np.pi * place / wave_mm))
    grey = np.broadcast_to(line[:, None] if axis == 0 else line[None], (size, size))
    color = np.repeat(np.rint(grey)[..., None].astype(np.uint8), 3, axis=2)
    return Texture(color, np.full((size, size), confidence, np.uint8)), bare


def tilts(texture: Texture) -> np.ndarray:
    """(S, S, 3) in [-1, 1]."""
    return (normal_map(texture, head(), person()).astype(float) - 127.5) / 127.5


@pytest.mark.parametrize("axis", [0, 1])
def test_dark_is_deep_and_normals_lean_towards_it(axis):
    texture, bare = grooved(2048, axis)
    normals = tilts(texture)
    # Towards larger u is right, towards larger v is up: against the rows.
    rising = np.gradient(texture.color[..., 0].astype(float), axis=axis) * (1 if axis == 1 else -1)
    along, aside = (normals[..., k][bare] for k in ((0, 1) if axis == 1 else (1, 0)))
    assert np.corrcoef(along, -rising[bare])[0, 1] > 0.9
    assert along.std() > 0.05 > 5 * aside.std()
    assert (normals[..., 2][bare] > 0.8).all()


def test_the_size_of_the_texture_does_not_matter():
    """As long as a groove is several texels wide."""
    found = [tilts(texture)[..., 0][bare].std() for texture, bare in (grooved(s, 1, wave_mm=3.2) for s in (1024, 2048))]
    assert found[0] == pytest.approx(found[1], rel=0.2) and found[1] > 0.02


def test_large_textures_are_worked_out_smaller(monkeypatch):
    monkeypatch.setattr("backend.reconstruction.texture_relief.LARGEST", 1024)
    texture, bare = grooved(2048, 1)
    normals = normal_map(texture, head(), person())
    assert normals.shape == (2048, 2048, 3)
    assert ((normals[..., 0][bare].astype(float) - 127.5) / 127.5).std() > 0.03


def test_even_skin_is_flat():
    color = np.full((1024, 1024, 3), 150, np.uint8)
    assert (normal_map(Texture(color, np.full((1024, 1024), 255, np.uint8)), head(), person()) == FLAT).all()


def test_what_no_photo_showed_is_flat():
    assert (normal_map(grooved(1024, 1, confidence=0)[0], head(), person()) == FLAT).all()


def test_brows_and_eyes_are_flat():
    texture, bare = grooved(1024, 1)
    tilt = np.abs(tilts(texture)[..., :2]).max(axis=-1)
    feature = texel_values(surface_of(head()).feature[:, None].astype(float))[..., 0] > 0.999
    assert feature.sum() > 500
    assert np.median(tilt[feature]) < 0.1 * np.median(tilt[bare])


def test_hair_is_no_relief():
    """Dark and light side by side all around, far beyond what skin shows."""
    rng = np.random.default_rng(1)
    millimetres, weight = 0.25, np.ones((200, 200), np.float32)
    hair = rng.choice([-1.5, 0.0], (200, 200)).astype(np.float32)
    line = np.zeros((200, 200), np.float32)
    line[:, 100:103] = -0.3
    assert np.abs(relief_mm(hair, weight, millimetres)).max() < 0.1 * DEPTH_MM
    assert 0.4 * DEPTH_MM < -relief_mm(line, weight, millimetres)[:, 101].min() < DEPTH_MM


def test_noise_is_no_relief():
    rng = np.random.default_rng(2)
    grain = rng.normal(0.0, 0.02, (200, 200)).astype(np.float32)
    assert np.abs(relief_mm(grain, np.ones((200, 200), np.float32), 0.25)).max() < 0.05 * DEPTH_MM


def test_blurs_keep_what_counts_for_nothing_out():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 40)).astype(np.float32)
    weight = (rng.uniform(size=(40, 40)) > 0.4).astype(np.float32)
    fast = masked_blur(np.where(weight > 0, values, 1e3), weight, 2.0)
    row, column = np.mgrid[0:40, 0:40]
    for at in ((20, 20), (15, 23)):
        near = np.exp(-((row - at[0]) ** 2 + (column - at[1]) ** 2) / (2 * 2.0**2)) * weight
        assert fast[at] == pytest.approx((near * values).sum() / near.sum(), abs=2e-2)


@pytest.mark.parametrize("shape", [(300, 260), (301, 263), (300, 20)])
@pytest.mark.parametrize("sigma", [8.5, 21.0, 52.0])
def test_wide_blurs_on_cells_are_those_of_all_texels(shape, sigma):
    """With a hole, a step, a ramp and noise, up to the borders of the picture."""
    rng = np.random.default_rng(5)
    values = rng.uniform(size=shape).astype(np.float32)
    values[: shape[0] // 2] += 1.0
    values += np.linspace(0.0, 1.0, shape[1], dtype=np.float32)
    weight = np.ones(shape, np.float32)
    weight[100:200, shape[1] // 2 :] = 0.0
    total, share = (cv2.GaussianBlur(each, (0, 0), sigma) for each in (values * weight, weight))
    slow, fast = total / np.maximum(share, 1e-3), masked_blur(values, weight, sigma)
    assert np.abs(fast - slow)[weight > 0].max() < 0.012 * np.ptp(values)


def test_slopes_as_a_loop_finds_them():
    rng = np.random.default_rng(4)
    height, scale = rng.normal(0.0, 0.05, (12, 12)).astype(np.float32), np.full((12, 12), 0.3, np.float32)
    fast = encoded(height, scale)
    for row in range(1, 11):
        for column in range(1, 11):
            across = (height[row, column + 1] - height[row, column - 1]) / 2 / 0.3
            up = (height[row - 1, column] - height[row + 1, column]) / 2 / 0.3
            normal = np.array([-across, -up, 1.0]) / np.sqrt(1 + across**2 + up**2)
            assert np.abs(fast[row, column] - (127.5 + 127.5 * normal)).max() <= 0.51
