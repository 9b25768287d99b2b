"""Light: lamps of a size, and the shadows that the strongest one throws, against rays cast at every triangle."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.rendering.shade import sh_basis, vertex_normals
from trainer.data.shadows import lit_part
from trainer.data.synthetic import SyntheticFaces
from trainer.data.triplets import area_light, directional_light, draw_light

sys.path.append(str(Path(__file__).parents[1] / "losses"))
from ray_twin import cast


def towards(*direction: float) -> np.ndarray:
    return np.array(direction) / np.linalg.norm(direction)


@pytest.mark.parametrize("direction", [(1.0, 0.3, 0.5), (0.0, 1.0, 0.4), (-0.7, 0.5, 0.7)])
def test_a_lamp_reaches_what_a_ray_reaches(head, direction):
    """Vertices of the face of a mean head, a point for a lamp; those at a shadow's edge are left out."""
    direction = torch.from_numpy(towards(*direction)).float()
    vertices = head.mean[None]
    normals = vertex_normals(vertices, head.triangles)[0]
    facing = head.face & (normals @ direction > 0.25)
    picked = facing.nonzero()[::11, 0]
    surface = head.mean[picked]
    shown = torch.ones(1, len(head.mean), dtype=torch.bool)

    def lit(radius: float) -> torch.Tensor:
        answer = lit_part(surface[None, None], vertices, shown, head.triangles, direction[None], torch.tensor([radius]))
        return answer[0, 0]

    # From a little above the skin, so that a ray does not meet where it began; rays run from the origin.
    above = surface + 0.006 * direction
    reached = []
    for point in above:
        triangle, _, _ = cast(direction[None], head.mean - point, head.triangles)
        reached.append(bool(triangle[0] < 0))
    reached = torch.tensor(reached)
    mapped = lit(0.0)
    sure = (mapped < 0.05) | (mapped > 0.95)
    assert 0.02 < float((~reached).float().mean()) < 0.9 and float(sure.float().mean()) > 0.6
    assert float(((mapped > 0.5) == reached)[sure].float().mean()) > 0.97
    # A large lamp has softer edges.
    assert float(((lit(0.9) > 0.05) & (lit(0.9) < 0.95)).float().mean()) > float((~sure).float().mean())


def test_what_is_not_there_throws_no_shadow(head):
    direction = torch.from_numpy(towards(0.0, 1.0, 0.4)).float()[None]
    surface = head.mean[head.face][None, None]
    shown = head.face[None]
    radius = torch.tensor([0.0])
    alone = lit_part(surface, head.mean[None], shown, head.triangles, direction, radius)
    nothing = lit_part(surface, head.mean[None], torch.zeros_like(shown), head.triangles, direction, radius)
    assert float(nothing.min()) == 1.0 and 0.05 < float((alone < 0.5).float().mean()) < 0.8


def test_a_large_lamp_lights_as_its_points_do():
    """The mean over points spread evenly over a cap."""
    rng = np.random.default_rng(1)
    middle, radius = towards(0.3, 0.4, 0.8), 0.8
    points = rng.normal(size=(400_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    within = points[points @ middle > np.cos(radius)]
    expected = directional_light(within).mean(axis=0)
    np.testing.assert_allclose(area_light(middle, np.array(radius)), expected, atol=0.01)
    np.testing.assert_allclose(area_light(middle, np.array(0.0)), directional_light(middle))


def test_the_key_is_a_lamp_of_the_light():
    rng = np.random.default_rng(2)
    shadowed = 0
    for _ in range(200):
        light = draw_light(rng)
        direction, colour, radius, taken = light.key[:3], light.key[3:6], light.key[6], light.key[7]
        assert np.linalg.norm(direction) == pytest.approx(1.0) and 0 <= radius <= np.radians(60) and 0 <= taken <= 1
        # What is left without it still is light that no surface turns negative by much.
        rest = light.harmonics - colour[:, None] * area_light(direction, np.array(radius))
        normals = torch.from_numpy(rng.normal(size=(50, 3))).float()
        normals = torch.nn.functional.normalize(normals, dim=1)
        assert (rest @ sh_basis(normals).numpy().T).min() > -0.25
        shadowed += taken > 0
    assert 60 < shadowed < 140


def test_shadows_darken_pictures_and_nothing_else(head, monkeypatch):
    pictures = []
    for part in (0.0, 1.0):
        monkeypatch.setattr("trainer.data.synthetic.lit_part", lit_part if part else bright)
        pictures.append(SyntheticFaces(head, 64, 3, looks=2, supersampling=1).batch(0, 4))
    without, with_shadows = pictures
    assert torch.equal(without.truth.light, with_shadows.truth.light) and torch.equal(without.skin, with_shadows.skin)
    change = with_shadows.photos.float().mean(dim=(2, 3, 4)) - without.photos.float().mean(dim=(2, 3, 4))
    assert float(change.min()) < -0.3 and float(change.max()) < 0.3


def bright(surface: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(surface[..., 0])
