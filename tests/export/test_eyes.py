"""The procedural eye and the colour read from a photo."""

from __future__ import annotations

import numpy as np
import pytest

from backend.export.eye_texture import (
    BROWN,
    IRIS_RADIUS_UV,
    PUPIL_FRACTION,
    eye_texture,
    periodic_noise,
)
from backend.export.iris_color import between_lids, iris_color
from backend.vision.landmark_sets import LEFT_EYE, LEFT_IRIS, RIGHT_EYE, RIGHT_IRIS


def ring(texture, inner, outer):
    """Mean colour between two radii, given over the side of the square."""
    size = len(texture)
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size - 0.5
    radius = np.hypot(x, y)
    return texture[(radius > inner) & (radius < outer)].astype(float).mean(axis=0)


@pytest.mark.parametrize("size, radius", [(256, IRIS_RADIUS_UV), (512, 0.2), (300, 0.4)])
def test_pupil_iris_and_white_are_where_they_belong(size, radius):
    texture = eye_texture(size, BROWN, radius)
    assert texture.shape == (size, size, 3) and texture.dtype == np.uint8
    pupil = ring(texture, 0.0, 0.8 * PUPIL_FRACTION * radius)
    iris = ring(texture, 0.5 * radius, 0.8 * radius)
    white = ring(texture, 1.25 * radius, 1.4 * radius)
    assert pupil.max() < 20 < iris.max() < white.min()
    assert iris[0] > iris[1] > iris[2], "brown"
    assert white.min() > 150 and white.max() < 250


def test_the_iris_has_the_colour_asked_for():
    for color in ((112, 72, 44), (110, 135, 150), (96, 108, 70)):
        iris = ring(eye_texture(512, color), 0.6 * IRIS_RADIUS_UV, 0.75 * IRIS_RADIUS_UV)
        assert np.abs(iris - color).max() < 30


def test_deterministic_and_protected():
    first = eye_texture(128, (100, 80, 60)).copy()
    eye_texture.cache_clear()
    second = eye_texture(128, (100, 80, 60))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError):
        second[0, 0] = 0


def test_noise_has_no_seam():
    noise = periodic_noise(
        np.random.default_rng(0), (4, 30), np.linspace(0, 1, 50)[:, None], np.array([[0.0, 0.9999999]])
    )
    assert np.abs(noise[:, 0] - noise[:, 1]).max() < 1e-4
    assert noise.min() >= 0.0 and noise.max() <= 1.0


def eyes_in_a_photo(color, lids_open=True, centre=(60.0, 40.0)):
    """A photo with two drawn eyes and the 478 points that belong to them."""
    pixels = np.full((100, 240, 3), 190, np.uint8)
    landmarks = np.zeros((478, 2), np.float32)
    y, x = np.mgrid[0:100, 0:240] + 0.5
    for iris, lids, shift in ((RIGHT_IRIS, RIGHT_EYE, 0.0), (LEFT_IRIS, LEFT_EYE, 120.0)):
        middle = np.array([centre[0] + shift, centre[1]])
        distance = np.hypot(x - middle[0], y - middle[1])
        pixels[distance < 12] = color
        pixels[distance < 4.5] = 0
        pixels[np.hypot(x - middle[0] - 6, y - middle[1] + 6) < 2] = 255
        landmarks[list(iris)] = middle + np.array([[0, 0], [12, 0], [0, -12], [-12, 0], [0, 12]])
        angle = np.linspace(0, 2 * np.pi, len(lids), endpoint=False)
        landmarks[list(lids)] = middle + np.stack([25 * np.cos(angle), (9 if lids_open else 0.3) * np.sin(angle)], 1)
    return pixels, landmarks


def test_the_colour_is_read_between_pupil_lids_and_catch_light():
    color = (90, 120, 140)
    assert iris_color(*eyes_in_a_photo(color)) == color


def test_dark_eyes_become_dark_not_black():
    found = iris_color(*eyes_in_a_photo((22, 16, 12)))
    assert max(found) == 75 and found[0] > found[1] > found[2]


def test_closed_eyes_other_detectors_and_eyes_beyond_the_border_say_nothing():
    pixels, landmarks = eyes_in_a_photo((90, 120, 140), lids_open=False)
    assert iris_color(pixels, landmarks) is None
    assert iris_color(pixels, None) is None
    assert iris_color(pixels, landmarks[:68]) is None
    pixels, landmarks = eyes_in_a_photo((90, 120, 140))
    assert iris_color(pixels, landmarks - 500) is None
    assert iris_color(pixels, landmarks + 500) is None


def test_between_lids_is_the_polygon():
    """The slow twin: matplotlib-free crossing count for one point at a time."""
    outline = np.array([[2.0, 2.0], [9.0, 3.0], [7.0, 8.0], [5.0, 4.5], [3.0, 9.0]])
    x, y = np.meshgrid(np.arange(12) + 0.25, np.arange(12) + 0.25)

    def slow(px, py):
        crossings = 0
        for i in range(len(outline)):
            (x0, y0), (x1, y1) = outline[i - 1], outline[i]
            if min(y0, y1) <= py < max(y0, y1) and px < x0 + (py - y0) / (y1 - y0) * (x1 - x0):
                crossings += 1
        return crossings % 2 == 1

    expected = [[slow(a, b) for a, b in zip(row_x, row_y)] for row_x, row_y in zip(x, y)]
    np.testing.assert_array_equal(between_lids(x, y, outline), expected)
    assert 5 < np.sum(expected) < 60
