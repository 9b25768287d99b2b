"""All multi-view losses of a batch: which samples reach which loss, and what the whole does to a wrong pose."""

from __future__ import annotations

import pytest
import torch
from loss_scenes import angle, descend, landmarks, model, paint, person, photo, pose, triangles

from backend.rendering.rasterize import interpolate
from backend.rendering.synthesis import View, draw_view
from trainer.losses.multi_view import (
    LossWeights,
    every_pair,
    multi_view_terms,
    published_multi_view_terms,
    star,
    weighted_sum,
)

SIZE = 64
ANGLES = ((0.0, 0.0, 0.0), (35.0, 5.0, 0.0), (-30.0, -8.0, 5.0))


def batch(*seeds: int) -> tuple[list[View], list[torch.Tensor], list[torch.Tensor]]:
    """One person for each seed, as three views of the batch."""
    heads = torch.cat([person(seed) for seed in seeds])
    poses = [pose(SIZE, *angles) for angles in ANGLES]
    views = [draw_view(heads, triangles(), at.K, at.R, at.t, SIZE, SIZE) for at in poses]
    photos = [torch.cat([photo(person(seed), at, SIZE) for seed in seeds]) for at in poses]
    found = [torch.cat([landmarks(person(seed), at) for seed in seeds]).float() for at in poses]
    return views, photos, found


def test_pairs() -> None:
    assert star(3) == [(0, 1), (0, 2)]
    assert sorted(every_pair(3)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_a_batch_is_the_mean_of_its_samples_and_pairs() -> None:
    flags = torch.tensor([2, 2])
    both = multi_view_terms(*batch(3, 8), flags, triangles(), every_pair(3))
    single = [
        multi_view_terms(*batch(seed), flags[:1], triangles(), [pair]) for seed in (3, 8) for pair in every_pair(3)
    ]
    for name, value in both.items():
        assert value.item() == pytest.approx(sum(terms[name].item() for terms in single) / 12, rel=1e-4, abs=1e-6)


def test_strangers_count_in_the_published_losses_alone() -> None:
    """Sample 0 is three strangers. Only sample 1 is a person; ours is that person's loss."""
    views, photos, found = batch(3, 8)
    strangers = [
        torch.cat([1.0 - picture[:1] if index else picture[:1], picture[1:]]) for index, picture in enumerate(photos)
    ]
    flags = torch.tensor([0, 2])
    alone = multi_view_terms(*batch(8), flags[1:], triangles(), star(3))
    mixed = multi_view_terms(views, strangers, found, flags, triangles(), star(3))
    for name, value in alone.items():
        assert mixed[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
    published = published_multi_view_terms(views, strangers, found, flags, triangles())
    published_alone = published_multi_view_terms(*batch(8), flags[1:], triangles())
    assert published["pixel"].item() > 2 * published_alone["pixel"].item()


def test_flags_open_one_loss_after_another() -> None:
    views, photos, found = batch(3)
    off = [found[0], found[1] + 3.0, found[2]]
    terms = [multi_view_terms(views, photos, off, torch.tensor([flag]), triangles(), star(3)) for flag in (0, 1, 2)]
    assert [float(term) for term in terms[0].values()] == [0.0, 0.0, 0.0]
    assert terms[1]["pixel"] > 0 and terms[1]["depth"] > 0 and terms[1]["epipolar"] == 0
    assert terms[2]["epipolar"] > 0.5 and torch.equal(terms[2]["pixel"], terms[1]["pixel"])


def test_a_face_that_moved_is_compared_over_its_surface(record_property) -> None:
    """A smile with an open jaw in the second photo: at the truth a rigid warp is wrong, and so are equal depths."""
    names = model().expression_names
    smile = torch.zeros(len(names))
    smile[[names.index(name) for name in ("jawOpen", "mouthSmileLeft", "mouthSmileRight")]] = 0.8
    heads = [person(), person() + torch.einsum("e,evc->vc", smile, torch.from_numpy(model().expression).float())]
    paint_on_skin, poses = paint(person()), [pose(SIZE), pose(SIZE, 15.0)]
    views = [draw_view(head, triangles(), at.K, at.R, at.t, SIZE, SIZE) for head, at in zip(heads, poses)]
    photos = [interpolate(paint_on_skin, seen.fragments, triangles()) for seen in views]
    found = [landmarks(head, at).float() for head, at in zip(heads, poses)]
    face = torch.from_numpy(model().regions["lips"] | model().regions["cheeks"])[triangles()].all(dim=1)
    one_person = torch.tensor([1])
    arguments = (views, photos, found, one_person, triangles(), every_pair(2))
    rigid = multi_view_terms(*arguments, counted=face, moved=torch.tensor([False]))
    over = multi_view_terms(*arguments, counted=face, moved=torch.tensor([True]))
    record_property(
        "pixel loss at the truth, rigid and over the surface", [rigid["pixel"].item(), over["pixel"].item()]
    )
    assert rigid["depth"].item() > 1e-3 and over["depth"].item() == 0
    assert over["pixel"].item() < 0.25 * rigid["pixel"].item()
    for name, value in multi_view_terms(*arguments, counted=face).items():
        assert value.item() == rigid[name].item()


def test_skin_and_trust_take_out_what_they_should() -> None:
    views, photos, found = batch(3)
    flags = torch.tensor([2])
    half = torch.ones(1, SIZE, SIZE)
    half[:, :, : SIZE // 2] = 0
    spoiled = [torch.where(half[..., None] > 0, photos[0], 1 - photos[0]), *photos[1:]]
    clean = multi_view_terms(views, photos, found, flags, triangles(), star(3), [half] * 3)
    masked = multi_view_terms(views, spoiled, found, flags, triangles(), star(3), [half] * 3)
    assert masked["pixel"].item() == clean["pixel"].item() > 0
    off = [found[0].clone(), *found[1:]]
    off[0][:, 5] += 40.0
    trust = torch.ones(1, found[0].shape[1])
    trust[:, 5] = 0
    terms = multi_view_terms(views, photos, off, flags, triangles(), star(3), visible=[trust] * 3)
    assert terms["epipolar"].item() < 1e-3


def test_a_name_without_weight_is_refused() -> None:
    one = torch.ones(())
    assert weighted_sum({"pixel": one, "epipolar": 2 * one}, LossWeights()).item() == pytest.approx(0.152)
    with pytest.raises(KeyError):
        weighted_sum({"pixels": one}, LossWeights())


def test_all_losses_together_find_a_pose_and_the_published_ones_leave_the_truth(record_property) -> None:
    """Depth and epipolar so strong that they are felt beside so colourful a head: a hundred and twenty times."""
    views, photos, found = batch(3)
    origin = pose(SIZE)
    weights = LossWeights(depth=10.0, epipolar=0.02)
    flags = torch.tensor([2])

    def value(terms_of, numbers: torch.Tensor) -> torch.Tensor:
        moved = origin.moved(numbers[:3], numbers[3:] / 3)
        target = draw_view(person(3), triangles(), moved.K, moved.R, moved.t, SIZE, SIZE)
        return weighted_sum(terms_of([target, *views[1:]]), weights)

    def ours(now: list[View]) -> dict[str, torch.Tensor]:
        return multi_view_terms(now, photos, found, flags, triangles(), star(3))

    def published(now: list[View]) -> dict[str, torch.Tensor]:
        return published_multi_view_terms(now, photos, found, flags, triangles())

    def turned(numbers: torch.Tensor) -> float:
        return angle(origin.moved(numbers[:3], numbers[3:] / 3).R, origin.R)

    wrong = torch.tensor([0.03, -0.05, 0.03, 0.009, -0.006, 0.045])
    ended, first, last = descend(lambda numbers: value(ours, numbers), wrong, 6e-3, 50)
    led, _, _ = descend(lambda numbers: value(published, numbers), torch.zeros(6), 2e-3, 30)
    record_property("degrees: before, after, published from the truth", [turned(wrong), turned(ended), turned(led)])
    assert turned(ended) < 0.3 and last < first / 5
    assert turned(led) > 0.5


def test_the_sources_learn_shape_in_every_pair_only() -> None:
    """What mgcnet measured of the paper's star: the pixel loss sends the source's shape nothing."""
    views, photos, found = batch(3)
    vertices = person(3).clone().requires_grad_()
    at = pose(SIZE, *ANGLES[1])
    now = [views[0], draw_view(vertices, triangles(), at.K, at.R, at.t, SIZE, SIZE)]
    terms = [
        multi_view_terms(now, photos[:2], found[:2], torch.tensor([2]), triangles(), pairs)
        for pairs in (star(2), every_pair(2))
    ]
    assert not terms[0]["pixel"].requires_grad and terms[0]["depth"].requires_grad
    terms[1]["pixel"].backward()
    assert vertices.grad is not None and float(vertices.grad.norm()) > 0
