"""The covisible map against rays cast at every triangle, and the published map, which lets more in."""

from __future__ import annotations

import pytest
import torch
from loss_scenes import model, person, pose, triangles, view
from ray_twin import cast, facing, pixel_rays

from backend.rendering.synthesis import LARGEST_GAP, LARGEST_STRETCH, View, covisible, draw_view, warp_rigidly
from trainer.losses.covisible import published_covisible

SIZE = 48

# Rays are exact and the rasterizer snaps vertices: so many of a thousand pixels may differ.
PER_MILLE = 3


class Truth:
    """By rays: which target pixels show what the source shows, and which of those lie beside an outline there."""

    def __init__(self, target: View, source: View) -> None:
        corners = triangles()
        height, width = target.size
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        K, in_source = source.K[0].double(), source.vertices_camera[0].double()
        rays = pixel_rays(target.K[0].double(), x.reshape(-1).double(), y.reshape(-1).double())
        triangle, _, weights = cast(rays, target.vertices_camera[0], corners)
        hit = triangle >= 0
        spot = (weights[..., None] * in_source[corners[triangle.clamp(min=0)]]).sum(dim=1)
        faces = facing(target.vertices_camera[0], corners) & facing(in_source, corners)
        towards = hit & faces[triangle.clamp(min=0)]
        _, nearest, _ = cast(spot, in_source, corners)
        self.foreground = hit.reshape(height, width)
        self.hidden = (towards & (nearest < 1 - 3e-4)).reshape(height, width)
        self.visible = towards & (nearest >= 1 - 3e-4)
        place = spot @ K.T
        place = place[:, :2] / place[:, 2:]
        a, b, c = in_source[corners].unbind(dim=1)
        normals = torch.nn.functional.normalize(torch.cross(b - a, c - a, dim=1), dim=1)
        pixel = spot[:, 2] / K[0, 0]
        clean = ((place >= 0.5) & (place <= torch.tensor([width, height]) - 0.5)).all(dim=1)
        for down in (0.5, 1.5):
            for right in (0.5, 1.5):
                beside = torch.floor(place - 0.5) + torch.tensor([right, down])
                ray = pixel_rays(K, beside[:, 0], beside[:, 1])
                other, distance, _ = cast(ray, in_source, corners)
                away = spot - ray * torch.where(other >= 0, distance, 0.0)[:, None]
                gap = (away * normals[other.clamp(min=0)]).sum(dim=1).abs()
                clean &= (other >= 0) & (gap <= LARGEST_GAP * pixel)
                clean &= away.norm(dim=1) <= LARGEST_STRETCH * pixel
        self.visible, self.clean = self.visible.reshape(height, width), clean.reshape(height, width)


@pytest.mark.parametrize("yaw", [35.0, -70.0])
def test_the_map_is_what_rays_find(yaw: float, record_property) -> None:
    target, source = view(person(), pose(SIZE), SIZE), view(person(), pose(SIZE, yaw, 6.0), SIZE)
    found = covisible(target, source, triangles())[0]
    truth = Truth(target, source)
    count = int(truth.foreground.sum())
    differ = int((found != truth.visible & truth.clean).sum())
    record_property(
        "pixels of the head, on the map, visible, unlike the rays",
        [count, int(found.sum()), int(truth.visible.sum()), differ],
    )
    assert int(found.sum()) > 250
    assert not bool((found & ~truth.foreground).any())
    # Nothing that is hidden or looks away counts,
    assert int((found & ~truth.visible).sum()) <= PER_MILLE * count / 1000
    # and what is left out although it is visible lies beside an outline of the source.
    expected = truth.visible & truth.clean
    assert int((found != expected).sum()) <= PER_MILLE * count / 1000
    assert int(expected.sum()) > 0.65 * int(truth.visible.sum())


def test_the_nose_hides_a_cheek(record_property) -> None:
    """Seen from 50 degrees, skin that faces the camera is behind the nose: found by rays, left out by the map.

    The published map rings it with skin that only one view sees.
    """
    target, source = view(person(), pose(SIZE), SIZE), view(person(), pose(SIZE, 50.0), SIZE)
    truth = Truth(target, source)
    assert int(truth.hidden.sum()) > 25
    cheeks = torch.from_numpy(model().regions["cheeks"] | model().regions["face"])[triangles()].any(dim=1)
    on_face = cheeks[target.fragments.triangle[0].clamp(min=0).long()]
    assert int((truth.hidden & on_face).sum()) > 15
    found = covisible(target, source, triangles())[0]
    assert int((found & truth.hidden).sum()) <= 1
    published = published_covisible(target, source, triangles())[0]
    wrong = [int((marked & ~truth.visible).sum()) for marked in (found, published)]
    record_property("pixels marked, not visible: ours, published", wrong)
    assert not bool((found & ~truth.visible).any())
    assert int((published & truth.hidden).sum()) >= 4 and int((published & ~truth.visible).sum()) >= 8


def test_nothing_counts_from_behind_and_all_but_the_rim_from_the_same_place() -> None:
    target = view(person(), pose(SIZE), SIZE)
    behind = view(person(), pose(SIZE, 180.0), SIZE)
    assert int(covisible(target, behind, triangles()).sum()) < 0.02 * int(target.fragments.mask.sum())
    again = covisible(target, target, triangles())
    assert int(again.sum()) > 0.85 * int(target.fragments.mask.sum())


def plates(near_size: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A plate at depth 1 of two triangles, then one at depth 0.8 before its middle, both towards the camera."""
    far, near = 0.3, near_size
    corners = [[-far, -far, 1.0], [-far, far, 1.0], [far, far, 1.0], [far, -far, 1.0]]
    corners += [[-near, -near, 0.8], [-near, near, 0.8], [near, near, 0.8], [near, -near, 0.8]]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    return torch.tensor([corners]), faces


def plate_view(points: torch.Tensor, faces: torch.Tensor, shift: float) -> View:
    K = torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])
    return draw_view(points, faces, K, torch.eye(3), torch.tensor([shift, 0.0, 0.0]), 32, 32)


def test_what_does_not_count_hides_all_the_same() -> None:
    """Only the far plate counts. The near one covers its middle in both views: a z-buffer of the whole mesh
    knows, the published one, of the chosen triangles alone, draws the far plate there."""
    points, faces = plates(0.08)
    target, source = plate_view(points, faces, 0.0), plate_view(points, faces, -0.2)
    counted = torch.tensor([True, True, False, False])
    before = target.fragments.triangle[0] >= 2
    found = covisible(target, source, faces, counted=counted)[0]
    assert int(before.sum()) == 64 and not bool((found & before).any())
    # Two columns of the far plate beside the near one are hidden in the source alone.
    shadow = torch.zeros_like(before)
    shadow[13:19, 10:12] = True
    assert not bool((found & shadow).any()) and int(found.sum()) > 150
    # Published: the plate in front does not belong to the face, so it is not in the z-buffer at all.
    face_only = plate_view(points, faces[:2], 0.0), plate_view(points, faces[:2], -0.2)
    published = published_covisible(*face_only, faces[:2])[0]
    assert bool(published[before].all()) and bool(published[shadow].all())


def test_published_map_always_has_triangle_zero() -> None:
    """Background carries id 0 there: two views with nothing in common but background share triangle 0."""
    faces = plates(0.08)[1]
    # Two plates side by side; the first is out of the second view's picture.
    beside = torch.tensor([[[-0.3, -0.1, 1.0], [-0.3, 0.1, 1], [-0.1, 0.1, 1], [-0.1, -0.1, 1]]])
    beside = torch.cat([beside, beside + torch.tensor([0.4, 0.0, 0.0])], dim=1)
    left_only = plate_view(beside, faces, 0.25)
    right_only = plate_view(beside, faces, -0.55)
    assert set(left_only.fragments.triangle.unique().tolist()) == {-1, 0, 1, 2, 3}
    assert set(right_only.fragments.triangle.unique().tolist()) == {-1, 2, 3}
    published = published_covisible(left_only, right_only, faces)[0]
    wrong = published & (left_only.fragments.triangle[0] <= 1)
    assert (
        int(wrong.sum())
        == int(((left_only.fragments.triangle[0] >= 0) & (left_only.fragments.triangle[0] <= 1)).sum())
        > 50
    )
    assert not bool((covisible(left_only, right_only, faces)[0] & wrong).any())


def test_published_map_of_the_sample_that_sees_less_has_vertex_zero() -> None:
    """Zeros that fill its row of the table. Triangle 0 is elsewhere; vertex 0 is a corner of the first plate."""
    points = torch.tensor([[[-0.3, -0.1, 1.0], [-0.3, 0.1, 1], [-0.1, 0.1, 1], [-0.1, -0.1, 1]]])
    points = torch.cat([points, points + torch.tensor([0.3, 0.0, 0.0])], dim=1)
    faces = torch.tensor([[4, 5, 6], [4, 6, 7], [0, 1, 2], [0, 2, 3]])
    target = plate_view(points.expand(2, -1, -1), faces, 0.0)
    # The second sample's source has the first plate behind its camera.
    away = points.clone()
    away[:, :4, 2] = -1.0
    source = plate_view(torch.cat([points, away]), faces, 0.0)
    first_plate = target.fragments.triangle[1] >= 2
    assert int(first_plate.sum()) > 30 and not bool((source.fragments.triangle[1] >= 2).any())
    assert bool(published_covisible(target, source, faces)[1][first_plate].all())
    assert not bool(covisible(target, source, faces)[1][first_plate].any())


def test_a_warp_into_the_background_is_left_out() -> None:
    """Shapes that do not agree: the spot is in both views, but the rigid warp takes it beside the head."""
    target, source = view(person(), pose(SIZE), SIZE), view(person(), pose(SIZE, 30.0), SIZE)
    larger = view(person() * 1.3, pose(SIZE), SIZE)
    warp = warp_rigidly(larger, source)
    with_warp, without = covisible(larger, source, triangles(), warp), covisible(larger, source, triangles())
    assert bool((with_warp <= without).all()) and int(with_warp.sum()) < int(without.sum())
    right = warp_rigidly(target, source)
    # Where they agree the warp takes nothing out.
    assert bool((covisible(target, source, triangles(), right) == covisible(target, source, triangles())).all())
