"""Losses of training: nothing to mend at the truth, gradients that lead there, variances that end up right."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from backend.network.outputs import GROUPS, SCALES, Layout, Predicted, decode
from trainer.data.synthetic import Head, SyntheticFaces, Triplets
from trainer.train.config import LossConfig
from trainer.train.objective import COMPARED, errors, surprise, terms, total
from trainer.train.validation import validate

SIDE = 64
ALL = LossConfig(side=48)


@pytest.fixture(scope="module")
def batch(head) -> Triplets:
    return SyntheticFaces(head, SIDE, seed=9, looks=2, supersampling=1, one_moment=0.5, one_sitting=0.5).batch(0, 4)


def said_like(truth: Predicted, layout: Layout, log_variance: float = 0.0) -> Predicted:
    """The truth, as a network would say it."""
    spread = torch.full((len(truth.identity),), log_variance)
    return replace(truth, log_variance={name: spread for name in layout.sizes})


def some_numbers(layout: Layout, count: int = 12) -> torch.Tensor:
    dice = torch.Generator().manual_seed(1)
    return (0.3 * torch.randn(count, layout.outputs, generator=dice)).requires_grad_()


def test_nothing_is_wrong_at_the_truth(batch, head):
    found = terms(said_like(batch.truth, head.layout), batch, head, ALL)
    unasked = {"render", "shape_prior", "albedo_prior", "light_prior"}
    assert set(found) == {field.name for field in fields(LossConfig)} - {"side", "variant"} - unasked
    for name in ("identity", "expression", "light", "rotation", "place", "log_focal", "agreement"):
        assert float(found[name]) < 1e-9, name
    assert float(found["vertices"]) < 1e-3 and float(found["landmarks"]) < 1e-4
    assert float(found["depth"]) < 1e-3 and float(found["epipolar"]) < 0.1 and float(found["pixel"]) < 0.1


def test_the_multi_view_losses_tell_wrong_heads_from_right_ones(batch, head):
    right = terms(said_like(batch.truth, head.layout), batch, head, ALL)
    wrong = terms(decode(some_numbers(head.layout).detach(), head.layout), batch, head, ALL)
    for name in COMPARED:
        assert float(wrong[name]) > 1.5 * float(right[name]), name


def test_every_number_of_every_group_is_taught(batch, head):
    numbers = some_numbers(head.layout)
    total(terms(decode(numbers, head.layout), batch, head, ALL), ALL).backward()
    # Those in a painted look have no albedo to learn.
    skinned = batch.trust["albedo"] > 0
    assert 0 < int(skinned.sum()) < len(skinned)
    reached = (numbers.grad[skinned] != 0).all(dim=0)
    assert bool(reached.all()), (~reached).nonzero().flatten().tolist()


def test_a_truth_that_is_none_teaches_nothing(batch, head):
    """Whatever stands there; half a trust is half the pull."""
    groups = ("identity", "expression", "albedo", "light", "place", "log_focal")
    trust = {name: torch.ones(len(batch.truth.R)) for name in (*groups, "rotation")}
    for values in trust.values():
        values[:3], values[3:6] = 0.0, 0.5
    wrong = {name: getattr(batch.truth, name).clone() for name in groups}
    for values in wrong.values():
        values[:3] = 99.0
    numbers = some_numbers(head.layout)
    pulls = {}
    for name, mine in (
        ("all", replace(batch, trust={})),
        ("some", replace(batch, trust=trust, truth=replace(batch.truth, **wrong))),
    ):
        alone = LossConfig(**{loss: 0.0 for loss in ("landmarks", "error", "agreement", *COMPARED)})
        found = terms(decode(numbers, head.layout), mine, head, alone)
        (pulls[name],) = torch.autograd.grad(total(found, alone), numbers)
    assert float(pulls["some"][:3].abs().max()) == 0.0
    count = len(numbers)
    torch.testing.assert_close(pulls["some"][3:6] * (count - 3) / count, 0.5 * pulls["all"][3:6])
    torch.testing.assert_close(pulls["some"][6:] * (count - 3) / count, pulls["all"][6:])


def test_photos_teach_landmarks_that_were_found_and_strangers_agree_on_nothing(batch, head):
    numbers = some_numbers(head.layout)
    visible = torch.zeros_like(batch.visible["ibug68"])
    visible[:3, 30:] = True
    real = torch.tensor([True, *[False] * (len(batch.flags) - 1)])
    hidden = replace(batch, real=real, one_person=~real, visible={"ibug68": visible})
    alone = replace(NOTHING, landmarks=1.0)
    found = terms(decode(numbers, head.layout), hidden, head, alone)["landmarks"]
    moved = {"ibug68": batch.landmarks["ibug68"].clone()}
    moved["ibug68"][:3, :30] += 40.0
    again = terms(decode(numbers, head.layout), replace(hidden, landmarks=moved), head, alone)["landmarks"]
    assert float(found) == float(again)
    moved["ibug68"][3:, :30] += 40.0
    assert float(found) != float(
        terms(decode(numbers, head.layout), replace(hidden, landmarks=moved), head, alone)["landmarks"]
    )
    spread = terms(decode(numbers, head.layout), hidden, head, replace(NOTHING, agreement=1.0))["agreement"]
    (pull,) = torch.autograd.grad(spread, numbers)
    assert float(pull[:3].abs().max()) == 0.0 and float(pull[3:].abs().max()) > 0.0


def test_a_loss_of_weight_nought_is_not_computed(batch, head):
    alone = LossConfig(**{name: 0.0 for name in ("vertices", "landmarks", "error", "agreement", *COMPARED)})
    found = terms(decode(some_numbers(head.layout), head.layout), batch, head, alone)
    assert set(found) == {"identity", "expression", "albedo", "light", "rotation", "place", "log_focal"}
    no_depth = terms(decode(some_numbers(head.layout), head.layout), batch, head, replace(ALL, depth=0.0))
    assert "depth" not in no_depth and "pixel" in no_depth


NOTHING = LossConfig(**{field.name: 0.0 for field in fields(LossConfig) if isinstance(field.default, float)})

# What photos allow, of which nothing is known but where landmarks are.
UNKNOWN = replace(
    LossConfig(
        **{name: 0.0 for name in ("identity", "expression", "albedo", "light", "rotation", "place", "log_focal")}
    ),
    vertices=0.0,
    error=0.0,
    render=1.9,
    shape_prior=1e-4,
    albedo_prior=3e-4,
    light_prior=10.0,
    side=48,
)


def test_losses_without_truth_reach_everything_but_what_nobody_can_know(batch, head):
    numbers = some_numbers(head.layout)
    found = terms(decode(numbers, head.layout), batch, head, UNKNOWN)
    assert set(found) == {"landmarks", "render", "shape_prior", "albedo_prior", "light_prior", "agreement", *COMPARED}
    total(found, UNKNOWN).backward()
    groups = numbers.grad.split([*head.layout.sizes.values(), len(head.layout.sizes)], dim=1)
    reached = {name: bool((part != 0).any(dim=0).all()) for name, part in zip(head.layout.sizes, groups)}
    assert all(reached.values()), reached
    assert not groups[-1].any(), "errors of itself are not taught"


def test_the_drawn_head_is_like_its_photo_where_the_truth_is(model):
    """Of a model with an albedo: near nothing at the truth, more with another light, shape or albedo."""
    waves = 0.05 * np.sin(300.0 * model.mean)[None]
    rich = model.replaced(albedo_mean=model.mean * 0 + 0.4, albedo_basis=waves.astype(np.float32))
    head = Head(rich, torch.device("cpu"))
    batch = SyntheticFaces(head, SIDE, seed=9, looks=1, supersampling=1).batch(0, 2)

    def render(said: Predicted) -> float:
        return float(terms(said, batch, head, UNKNOWN)["render"])

    truth = said_like(batch.truth, head.layout)
    best = render(truth)
    # Noise, highlights and small pictures are in the photos alone.
    assert best < 0.1
    assert render(replace(truth, light=1.5 * truth.light)) > 1.5 * best
    assert render(replace(truth, albedo=truth.albedo + 3.0)) > 1.2 * best
    assert render(replace(truth, place=truth.place + 0.1)) > 1.2 * best


def test_the_published_variant_is_another_loss(batch, head):
    """At the truth it is far from nothing, as docs/losses.md has it."""
    truth = said_like(batch.truth, head.layout)
    ours, theirs = (terms(truth, batch, head, replace(ALL, variant=name)) for name in ("ours", "published"))
    assert float(theirs["epipolar"]) > 10 * float(ours["epipolar"])
    assert float(theirs["depth"]) > 5 * float(ours["depth"])


def test_errors_are_in_units_of_the_spread(batch, head):
    truth = said_like(batch.truth, head.layout)
    off = replace(truth, place=truth.place + 0.05, identity=truth.identity + 2.0)
    found = errors(off, truth)
    torch.testing.assert_close(found["place"], torch.full((12,), 0.25), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["identity"], torch.full((12,), 4.0), atol=1e-4, rtol=1e-4)


def test_the_error_of_the_rotation_is_the_square_of_the_angle(batch, head):
    truth = said_like(batch.truth, head.layout)
    angle = torch.tensor(0.05)
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1.0]])
    found = errors(replace(truth, R=turn @ truth.R), truth)["rotation"] * SCALES["rotation"] ** 2
    torch.testing.assert_close(found, torch.full((12,), 0.05**2 / 3), rtol=1e-3, atol=0)


def test_variances_are_learned_from_errors_that_they_do_not_change(batch, head):
    """The best log-variance is that of the mean squared error, and the means get no gradient."""
    layout = head.layout
    off = replace(said_like(batch.truth, layout), identity=batch.truth.identity + 0.5, place=batch.truth.place + 0.02)
    spread = torch.zeros(len(GROUPS), requires_grad=True)
    identity = off.identity.clone().requires_grad_()
    optimiser = torch.optim.Adam([spread], lr=0.1)
    for _ in range(300):
        said = replace(
            off, identity=identity, log_variance={name: spread[i].expand(12) for i, name in enumerate(GROUPS)}
        )
        found = {name: error for name, error in errors(said, batch.truth).items() if name in ("identity", "place")}
        value = surprise(said, found)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert identity.grad is None or float(identity.grad.abs().max()) == 0.0
    assert float(spread[0].detach().exp()) == pytest.approx(0.25, rel=0.02)
    assert float(spread[GROUPS.index("place")].detach().exp()) == pytest.approx(0.02**2, rel=0.02)


def test_a_model_with_albedo_is_taught_its_albedo(model):
    rich = model.replaced(albedo_mean=model.mean * 0 + 0.4, albedo_basis=0.01 + 0 * model.identity[:3])
    head = Head(rich, torch.device("cpu"))
    batch = SyntheticFaces(head, SIDE, seed=9, looks=1, supersampling=1).batch(0, 1)
    numbers = some_numbers(head.layout, 3)
    found = terms(decode(numbers, head.layout), batch, head, ALL)
    (gradient,) = torch.autograd.grad(found["albedo"], numbers)
    assert int((gradient != 0).any(dim=0).sum()) == 3


def test_validation_says_what_is_wrong_in_units_of_people(batch, head):
    """A network that is exact but for what is planted."""
    truth = said_like(batch.truth, head.layout, log_variance=-2.0)
    exact = validate(lambda photos: truth, [batch], head, ALL)
    for name in (
        "supervised",
        "shape_mm",
        "rotation_degrees",
        "expression",
        "focal_percent",
        "spread_mm",
        "depth_mm",
        "distance_percent",
    ):
        assert exact[name] < 0.05, name
    angle = torch.tensor(0.1)
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1.0]])
    wrong = replace(truth, R=turn @ truth.R, log_focal=truth.log_focal + 0.2, expression=truth.expression + 0.03)
    found = validate(lambda photos: wrong, [batch], head, ALL)
    assert found["rotation_degrees"] == pytest.approx(5.73, abs=0.02)
    assert found["focal_percent"] == pytest.approx(20.0, abs=0.01)
    assert found["distance_percent"] == pytest.approx(20.0, abs=0.01)
    assert found["expression"] == pytest.approx(0.03, abs=1e-4)
    relief = head.vertices(truth.identity, truth.expression)[:, head.face]
    slow = [(point @ row.T)[:, 2] for point, row in zip(relief, truth.R)]
    turned = [(point @ (turn @ row).T)[:, 2] for point, row in zip(relief, truth.R)]
    apart = [((one - one.mean()) - (other - other.mean())).abs().mean() for one, other in zip(turned, slow)]
    # About the camera's axis, so depth stays; the expressions differ by a little.
    assert max(apart) < 1e-6 and 0.0 < found["depth_mm"] < 0.5
    nodding = replace(truth, R=turn.T[[2, 0, 1]][:, [2, 0, 1]] @ truth.R)
    assert validate(lambda photos: nodding, [batch], head, ALL)["depth_mm"] > 2.0
    assert found["landmarks_percent"] > 1.0 and found["shape_mm"] < 0.01
    mean = replace(truth, identity=torch.zeros_like(truth.identity))
    assert validate(lambda photos: mean, [batch], head, ALL)["shape_mm"] > 1.5
