"""Losses that need no picture: flags, landmarks, identity, priors, agreement."""

from __future__ import annotations

import pytest
import torch
from loss_scenes import basis, descend, model, person, pose

from backend.rendering.transform import project_to_image
from trainer.losses.agreement import agreement_loss, person_mean, shared
from trainer.losses.flags import ONE_MOMENT, ONE_PERSON, mean_over, published_mean_of_depth, published_mean_of_pixels
from trainer.losses.identity import identity_loss
from trainer.losses.landmarks import ibug68_weights, landmark_loss
from trainer.losses.priors import (
    albedo_prior,
    light_prior,
    published_albedo_prior,
    published_shape_prior,
    shape_prior,
)


def test_flags_choose_samples() -> None:
    losses, flags = torch.tensor([10.0, 1.0, 4.0]), torch.tensor([0, 1, 2])
    assert mean_over(losses, flags).item() == 5.0
    assert mean_over(losses, flags, ONE_PERSON).item() == 2.5
    assert mean_over(losses, flags, ONE_MOMENT).item() == 4.0
    assert mean_over(losses, flags - 2, ONE_PERSON).item() == 0.0


def test_a_sample_that_does_not_count_spoils_nothing() -> None:
    losses = torch.tensor([float("nan"), 2.0], requires_grad=True)
    value = mean_over(losses, torch.tensor([0, 1]), ONE_PERSON)
    value.backward()
    assert value.item() == 2.0 and losses.grad is not None and losses.grad.tolist() == [0.0, 1.0]


def test_published_flags_do_not_see_which_sample_is_which() -> None:
    """mgcnet's check: losses 10 and 1, flags (0, 1) and (1, 0) give 2.75 and 11 either way."""
    losses = torch.tensor([10.0, 1.0])
    for flags, right in ((torch.tensor([0, 1]), 1.0), (torch.tensor([1, 0]), 10.0)):
        assert published_mean_of_pixels(losses, flags).item() == pytest.approx(2.75)
        assert published_mean_of_depth(losses, flags).item() == pytest.approx(11.0, abs=1e-4)
        assert mean_over(losses, flags, ONE_PERSON).item() == right
    assert published_mean_of_depth(losses, torch.tensor([1, 1]), ONE_MOMENT).item() == 0.0


def test_landmarks_at_the_truth_and_beside_it() -> None:
    points = torch.rand(2, 68, 2) * 224
    weights = ibug68_weights()
    assert weights.sum().item() == 136.0
    assert landmark_loss(points, points, weights).tolist() == [0.0, 0.0]
    off = points.clone()
    off[0, 30] += torch.tensor([3.0, 4.0])
    off[1, 0] += torch.tensor([3.0, 4.0])
    # 25 square pixels at the nose with weight 5, at the jaw with weight 1.
    torch.testing.assert_close(landmark_loss(off, points, weights), torch.tensor([125 / 136, 25 / 136]))
    seen = torch.ones(2, 68)
    seen[:, [0, 30]] = 0
    assert landmark_loss(off, points, weights, seen).tolist() == [0.0, 0.0]
    assert landmark_loss(off, points, weights, 0 * seen).tolist() == [0.0, 0.0]


def test_landmarks_find_pose_and_shape() -> None:
    embedding = model().landmarks["ibug68"]
    corners, weights = torch.from_numpy(embedding.corners).long(), torch.from_numpy(embedding.barycentric)
    at = pose(224)

    def projected(numbers: torch.Tensor) -> torch.Tensor:
        vertices = person() + torch.einsum("k,kvc->vc", numbers[6:], basis()[:2])
        points = (vertices[:, corners] * weights[..., None]).sum(dim=2)
        turned = at.moved(numbers[:3] / 10, numbers[3:6] / 10)
        return project_to_image(points, at.K, turned.R, turned.t)[..., :2]

    def value(numbers: torch.Tensor) -> torch.Tensor:
        return landmark_loss(projected(numbers), truth, ibug68_weights()).sum()

    # One at a time: from a single photo, how near a head is and how deep look much alike.
    truth, none = projected(torch.zeros(8)), torch.zeros(6)
    wrong_pose, wrong_shape = torch.tensor([0.3, -0.5, 0.3, 0.05, -0.05, 0.2]), torch.tensor([1.0, -1.0])
    at_pose, first, last = descend(lambda x: value(torch.cat([x, none[:2]])), wrong_pose, 0.1, 250)
    assert first > 50 and last < first / 500 and float(at_pose[:3].norm()) < 0.25 * float(wrong_pose[:3].norm())
    at_shape, first, last = descend(lambda x: value(torch.cat([none, x])), wrong_shape, 0.1, 60)
    assert last < first / 500 and float(at_shape.norm()) < 0.05


def test_identity_is_the_angle_between_features() -> None:
    photo = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    render = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], requires_grad=True)
    loss = identity_loss(render, photo)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 2.0]))
    loss.sum().backward()
    assert photo.grad is None and render.grad is not None
    # Turning the second feature towards the photo's is what lowers the loss.
    assert float(render.grad[1, 0]) < 0 and float(render.grad[0].norm()) == 0


def test_priors_are_zero_at_the_mean_and_the_published_ones_grow_with_the_batch() -> None:
    generator = torch.Generator().manual_seed(4)
    identity, expression, albedo = (torch.randn(4, count, generator=generator) for count in (80, 64, 80))
    assert shape_prior(0 * identity, 0 * expression).sum() == 0 and albedo_prior(0 * albedo).sum() == 0
    one = shape_prior(identity[:1], expression[:1])
    torch.testing.assert_close(one[0], (identity[0] ** 2).sum() + 0.8 * (expression[0] ** 2).sum())
    torch.testing.assert_close(albedo_prior(albedo)[2], 0.0017 * (albedo[2] ** 2).sum())
    twice = [torch.cat([value, value]) for value in (identity, expression, albedo)]
    torch.testing.assert_close(shape_prior(*twice[:2]).mean(), shape_prior(identity, expression).mean())
    published = published_shape_prior(identity, expression), published_albedo_prior(albedo)
    torch.testing.assert_close(published_shape_prior(*twice[:2]), 2 * published[0])
    torch.testing.assert_close(published_albedo_prior(twice[2]), 2 * published[1])


def test_light_prior_is_about_colour_alone() -> None:
    white = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(5)).expand(2, 3, 9)
    assert light_prior(white).abs().max() < 1e-12
    red = white.clone()
    red[1, 0, 0] += 0.3
    assert light_prior(red)[0] < 1e-12 and light_prior(red)[1].item() == pytest.approx((0.2**2 + 2 * 0.1**2) / 27)


def test_one_person_has_one_identity() -> None:
    generator = torch.Generator().manual_seed(6)
    coefficients = torch.randn(2, 3, 5, generator=generator, requires_grad=True)
    flags = torch.tensor([0, 1])
    result = shared(coefficients, flags)
    assert torch.equal(result[0], coefficients[0])
    torch.testing.assert_close(result[1], coefficients[1].mean(dim=0).expand(3, 5))
    # What one photo teaches reaches the other two.
    result[1, 0].sum().backward()
    assert coefficients.grad is not None
    torch.testing.assert_close(coefficients.grad[1], torch.full((3, 5), 1 / 3))
    assert float(coefficients.grad[0].abs().max()) == 0


def test_confident_views_count_more() -> None:
    """The inverse-variance mean of noisy measurements is nearer to the truth than the plain one, as theory says."""
    generator = torch.Generator().manual_seed(7)
    sigma = torch.tensor([0.2, 1.0, 2.0])[None, :, None]
    truth = torch.randn(500, 1, 8, generator=generator)
    seen = truth + sigma * torch.randn(500, 3, 8, generator=generator)
    confidence = (1 / sigma**2).expand(500, 3, 1)
    weighed = ((person_mean(seen, confidence) - truth[:, 0]) ** 2).mean()
    plain = ((person_mean(seen) - truth[:, 0]) ** 2).mean()
    assert weighed.item() == pytest.approx(1 / (1 / sigma**2).sum().item(), rel=0.05)
    assert plain.item() == pytest.approx((sigma**2).sum().item() / 9, rel=0.05)


def test_agreement_is_zero_for_equal_views_and_pulls_them_together() -> None:
    same = torch.randn(2, 1, 5).expand(2, 3, 5)
    assert agreement_loss(same).abs().max() < 1e-12
    spread = torch.tensor([[[1.0], [2.0], [6.0]]], requires_grad=True)
    loss = agreement_loss(spread)
    loss.sum().backward()
    assert loss.item() == pytest.approx(14 / 3)
    assert spread.grad is not None
    torch.testing.assert_close(spread.grad[0, :, 0], torch.tensor([-4.0, -2.0, 6.0]) / 3)
