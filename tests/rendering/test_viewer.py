"""Pictures: what must be true of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raster_scenes import sphere

from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import triangulate
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering import tone
from backend.rendering.texture_sampling import mip_levels, sample_bilinear, sample_mipmapped
from backend.rendering.viewer import CLAY_GREY, drawn_edges, over, render_mesh

# A square of 10 cm, two quads wide and one high, seen straight on; each quad fills 40 x 80 pixels.
POINTS = np.array([[x, y, 0.0] for y in (-0.05, 0.05) for x in (-0.05, 0.0, 0.05)], np.float32)
QUADS = np.array([[0, 1, 4, 3], [1, 2, 5, 4]])
UV = np.array([[u, v] for v in (0.0, 1.0) for u in (0.0, 0.5, 1.0)], np.float32)


def camera(yaw: float = 0.0, width: int = 100, height: int = 100) -> Camera:
    return Camera(
        intrinsics(400.0, width, height), rotation_from_head_euler(yaw), np.array([0.0, 0, 0.5]), width, height
    )


def draw(**options) -> np.ndarray:
    return render_mesh(POINTS, triangulate(QUADS), camera(), **options)


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_shape_type_and_alpha(supersample: int) -> None:
    picture = draw(supersample=supersample)
    assert picture.shape == (100, 100, 4) and picture.dtype == np.uint8
    assert (picture[10:90, 10:90, 3] == 255).all() and picture[..., 3].sum() == 255 * 80 * 80
    assert (picture[picture[..., 3] == 0] == 0).all()


def test_partly_covered_pixels_keep_their_colour() -> None:
    shifted = POINTS + np.array([0.5 / 800, 0, 0], np.float32)  # half a pixel to the right
    picture = render_mesh(shifted, triangulate(QUADS), camera(), np.ones((6, 3)), light="flat", supersample=2)
    assert (picture[50, 10] == (255, 255, 255, 128)).all()
    photo = np.zeros((100, 100, 3), np.uint8)
    mixed = over(picture, photo)
    assert mixed[50, 50].tolist() == [255] * 3 and mixed[50, 5].tolist() == [0] * 3
    assert mixed[50, 10, 0] == tone.linear_to_srgb8(np.array(128 / 255))


def test_flat_colours_come_out_as_they_went_in() -> None:
    shades = np.repeat(np.linspace(0, 1, 3)[None], 2, axis=0).reshape(6, 1) * np.ones(3)
    picture = draw(colors=shades, light="flat", supersample=1)
    expected = tone.linear_to_srgb8((np.arange(80) + 0.5) / 80)
    assert np.abs(picture[50, 10:90, 0].astype(int) - expected).max() <= 1


def test_clay_is_mgcnet_s() -> None:
    """Three lights of 0.5 on grey 0.7529, worked out by hand at the middle of the square."""
    side = 1 / np.sqrt(2)
    expected = min(1.0, CLAY_GREY * 0.5 * (1 + 2 * side)) * 255
    assert abs(int(draw()[50, 50, 0]) - expected) <= 1


def test_lights_fixed_to_the_head_or_carried_by_the_camera() -> None:
    points, triangles = sphere(40, 80, radius=0.05)
    behind = {
        name: render_mesh(points, triangles, camera(yaw=180), light=name)[50, 50, 0] for name in ("clay", "studio")
    }
    front = render_mesh(points, triangles, camera(), light="clay")[50, 50, 0]
    assert behind["clay"] == 0
    assert abs(int(behind["studio"]) - int(front)) <= 2


def test_spherical_harmonics_light() -> None:
    """Light from the subject's left brightens +X, which is the right side of a frontal picture."""
    points, triangles = sphere(40, 80, radius=0.05)
    gamma = np.zeros((3, 9), np.float32)
    gamma[:, 0], gamma[:, 3] = 0.6, -0.3
    picture = render_mesh(points, triangles, camera(), np.full((len(points), 3), 0.5), light=gamma)
    assert picture[50, 75, 0] > picture[50, 50, 0] > picture[50, 25, 0]


def test_texture_is_upright_and_in_place() -> None:
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:4, :, 0], texture[4:, :, 1], texture[:, :4, 2] = 255, 255, 255
    triangles = triangulate(QUADS)
    picture = draw(texture=texture, uv=UV, triangles_uv=triangles, light="flat")
    assert picture[20, 20, :3].tolist() == [255, 0, 255] and picture[20, 80, :3].tolist() == [255, 0, 0]
    assert picture[80, 20, :3].tolist() == [0, 255, 255] and picture[80, 80, :3].tolist() == [0, 255, 0]


def test_a_fine_texture_is_averaged_in_linear_light() -> None:
    """A checkerboard of single texels, 20 texels to a pixel: no moire, the mean of the light."""
    texture = (np.indices((1600, 1600)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    picture = draw(texture=texture, uv=UV, triangles_uv=triangulate(QUADS), light="flat")
    inside = picture[15:85, 15:85, 0].astype(int)
    assert np.abs(inside - int(tone.linear_to_srgb8(np.array(0.5)))).max() <= 3


def test_sampling() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(6, 5, 2, generator=generator)
    row, column = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    centres = torch.stack([(column + 0.5) / 5, 1 - (row + 0.5) / 6], dim=-1)[None]
    levels = mip_levels(texture.permute(2, 0, 1)[None])
    torch.testing.assert_close(sample_bilinear(levels[0], centres)[0], texture)
    torch.testing.assert_close(sample_mipmapped(texture, centres, torch.full((1, 6, 5), -1.0))[0], texture)
    assert [tuple(level.shape[-2:]) for level in levels] == [(6, 5), (3, 3), (2, 2), (1, 1)]
    even = torch.rand(8, 8, 1, generator=generator)
    torch.testing.assert_close(
        sample_mipmapped(even, centres[:, :1, :1], torch.full((1, 1, 1), 99.0)).reshape(()), even.mean()
    )
    between = sample_mipmapped(even, centres, torch.full((1, 6, 5), 0.25))
    one, two = (sample_mipmapped(even, centres, torch.full((1, 6, 5), level)) for level in (0.0, 1.0))
    torch.testing.assert_close(between, 0.75 * one + 0.25 * two)


def test_wireframe_draws_quads_without_diagonals() -> None:
    picture = draw(colors=np.ones((6, 3)), light="flat", wireframe_faces=QUADS, wire_width=2.0)[..., 0]
    assert (picture[12:88, 50] < 100).all() and (picture[50, 10] < 100) and (picture[10, 12:88] < 100).all()
    left, right = picture[13:87, 14:46], picture[13:87, 54:86]
    assert (left == 255).all() and (right == 255).all()


def test_hidden_lines_stay_hidden() -> None:
    near = POINTS + np.array([0, 0, 0.05], np.float32)
    both = np.concatenate([near, POINTS * 0.5])
    quads = np.concatenate([QUADS, QUADS + 6])
    options = dict(light="flat", wire_width=2.0)
    alone = render_mesh(near, triangulate(QUADS), camera(), wireframe_faces=QUADS, **options)
    np.testing.assert_array_equal(
        render_mesh(both, triangulate(quads), camera(), wireframe_faces=quads, **options), alone
    )


def test_drawn_edges_of_mixed_faces() -> None:
    faces = np.array([[0, 1, 2, -1], [3, 4, 5, 6]])
    assert drawn_edges(faces).tolist() == [[True] * 3, [True, True, False], [False, True, True]]
    assert drawn_edges(faces[:, :3]).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="light"):
        draw(light="sun")
    with pytest.raises(ValueError, match="supersample"):
        draw(supersample=0)
    with pytest.raises(ValueError, match="uv"):
        draw(texture=np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="faces"):
        draw(wireframe_faces=QUADS[:1])
