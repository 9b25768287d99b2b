"""Landmarks against epipolar lines: nothing at the truth, a pull towards it, and the published matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_scenes import Pose, angle, descend, landmarks, person, pose, view

from backend.rendering.synthesis import View
from backend.rendering.two_views import epipolar_distance, essential_matrix, relative_pose
from trainer.losses.epipolar import epipolar_loss, published_epipolar_loss

# Only poses matter here, so the pictures are tiny; focal length and landmarks are those of 224 pixels.
DRAWN, SIZE = 8, 224


def exact_view(at: Pose) -> View:
    """In double precision."""
    drawn = view(person(), at, DRAWN)
    return replace(drawn, K=at.K[None].double(), R=at.R[None].double(), t=at.t[None].double())


def pair(yaw: float, pitch: float = 12.0, roll: float = 5.0) -> tuple[list[Pose], list[View], list[torch.Tensor]]:
    poses = [pose(SIZE), pose(SIZE, yaw, pitch, roll)]
    return poses, [exact_view(at) for at in poses], [landmarks(person(), at) for at in poses]


@pytest.mark.parametrize("radians", [0.2, 0.5, 1.0, 1.4])
def test_nothing_at_the_truth_where_the_published_one_is_pixels_off(radians: float, record_property) -> None:
    """The angles of mgcnet's own check: its R [t]x costs many pixels, more as the head turns."""
    _, views, found = pair(57.29578 * radians)
    # The camera's rotation is float32 of a double: what it is short of a rotation is left.
    ours, published = epipolar_loss(*found, *views).item(), published_epipolar_loss(*found, *views).item()
    record_property("pixels at the truth, ours and published", [ours, published])
    assert ours < 1e-4 and published > 10.0


def test_both_pictures_count() -> None:
    """Swapping the views changes nothing."""
    _, views, found = pair(30.0)
    off = found[1] + torch.tensor([2.0, -3.0])
    forth = epipolar_loss(found[0], off, views[0], views[1]).item()
    back = epipolar_loss(off, found[0], views[1], views[0]).item()
    assert forth == pytest.approx(back, rel=1e-5) and forth > 0.3


def test_the_distance_is_in_pixels_of_each_picture() -> None:
    """A point moved square to its line by 4 px in the source picture, whose pixels are half as large: its own
    distance is 4, and that of its line to the other point is about 2."""
    poses, views, found = pair(30.0)
    finer = replace(views[1], K=views[1].K * torch.tensor([[2.0], [2.0], [1.0]]).double())
    points = found[1] * 2
    R, t = relative_pose(views[0].R, views[0].t, finer.R, finer.t)
    F = torch.linalg.inv(finer.K).transpose(1, 2) @ essential_matrix(R, t) @ torch.linalg.inv(views[0].K)
    line = torch.cat([found[0], torch.ones_like(found[0][..., :1])], dim=-1) @ F.transpose(1, 2)
    square = torch.nn.functional.normalize(line[..., :2], dim=-1)
    distance = epipolar_distance(found[0], points + 4 * square, views[0].K, finer.K, R, t)
    assert float(distance.mean()) == pytest.approx((4 + 2) / 2, rel=0.1)
    assert poses[0].K[0, 0] == views[0].K[0, 0, 0]


def test_the_rotation_is_found_and_the_published_loss_leaves_it(record_property) -> None:
    """Two sources hold the rotation; where along the valley of rotation and translation is for other losses."""
    origin = pose(SIZE)
    target = exact_view(origin)
    sources = [pose(SIZE, 35.0, 15.0), pose(SIZE, -30.0, -12.0, 5.0)]
    views = [exact_view(at) for at in sources]
    found = [landmarks(person(), at) for at in (origin, *sources)]

    def value(loss, rotation: torch.Tensor) -> torch.Tensor:
        turned = Pose(target.K[0], target.R[0], target.t[0]).moved(rotation, torch.zeros(3).double())
        moved = replace(target, R=turned.R[None], t=turned.t[None])
        return torch.stack([loss(found[0], found[k + 1], moved, views[k]).sum() for k in range(2)]).mean()

    def left(rotation: torch.Tensor) -> float:
        return angle(
            Pose(target.K[0], target.R[0], target.t[0]).moved(rotation, torch.zeros(3).double()).R, target.R[0]
        )

    wrong = torch.tensor([0.03, -0.05, 0.03]).double()
    ended, first, last = descend(lambda rotation: value(epipolar_loss, rotation), wrong, 4e-3, 150)
    published, _, _ = descend(lambda rotation: value(published_epipolar_loss, rotation), 0 * wrong, 4e-3, 150)
    record_property("degrees: before, after, published from the truth", [left(wrong), left(ended), left(published)])
    assert left(wrong) > 3.7 and left(ended) < 0.2 and last < first / 20
    assert left(published) > 1.5


def test_what_is_not_trusted_does_not_count() -> None:
    _, views, found = pair(30.0)
    off = found[1].clone()
    off[:, 7] += 50.0
    trusted = torch.ones(1, off.shape[1])
    assert epipolar_loss(found[0], off, *views, trusted).item() > 0.3
    trusted[:, 7] = 0
    assert epipolar_loss(found[0], off, *views, trusted).item() < 1e-4
    assert epipolar_loss(found[0], off, *views, torch.zeros_like(trusted)).item() == 0.0


def test_photos_from_one_place_have_no_lines_and_no_wild_gradient() -> None:
    _, views, found = pair(30.0)
    noise = torch.randn(found[0].shape, generator=torch.Generator().manual_seed(1)).double()
    shift = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = epipolar_loss(found[0], found[0] + noise, views[0], replace(views[0], t=views[0].t + shift))
    loss.sum().backward()
    assert loss.item() < 1e-6 and shift.grad is not None and bool(torch.isfinite(shift.grad).all())
    # Pixels per metre: a millimetre of baseline may not cost more than the noise itself.
    assert float(shift.grad.norm()) < 1000.0
