"""What a step of training minimises: the truth of invented people, and agreement between the views of a person.

Every group of outputs is compared with the truth in units of its spread, so that weights of about one count all
groups alike. Two losses join groups that a user sees together: ``vertices``, where the head is in its own space, and
``landmarks``, where it is in the picture. Losses that need no truth (the head as drawn against the photo, priors,
agreement of the views) are those of ``trainer/losses``.

Variances are learned from the errors that the network makes, which they do not change: the likelihood of the errors,
held fixed, under normal distributions, ``(log v + e^2 / v) / 2``. (Training means through that likelihood too lets a
network buy its way out of hard cases: Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty
Estimation".)

Everything here runs in float32.

Symbols: B triplets, N views of each, P = B N pictures, V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.network.outputs import SCALES, Predicted
from backend.rendering.synthesis import View, draw_view
from trainer.data.synthetic import Head, Triplets, project
from trainer.data.triplets import VIEWS
from trainer.losses.agreement import agreement_loss
from trainer.losses.flags import ONE_PERSON
from trainer.losses.landmarks import ibug68_weights, landmark_loss
from trainer.losses.multi_view import every_pair, multi_view_terms, published_multi_view_terms
from trainer.losses.priors import albedo_prior, light_prior, shape_prior
from trainer.losses.render import lit_head, photometric_loss
from trainer.train.config import LossConfig

# Landmark losses are in pixels of a crop of this side, as published.
PUBLISHED_SIDE = 224
MILLIMETRES = 1000.0

# Skin whose colour nobody says: that of middle tone, in linear light.
EVEN_ALBEDO = 0.3

# Losses between the views of a triplet.
COMPARED = ("pixel", "depth", "epipolar")


def errors(said: Predicted, truth: Predicted) -> dict[str, torch.Tensor]:
    """(P,) mean square error of each group, in units of its squared spread.

    That of the rotation is of the angle: ``|R - R'|^2 / 2`` is its square for small angles, shared by three
    axes.
    """
    groups = ("identity", "expression", "albedo", "light", "place", "log_focal")
    result = {}
    for name in groups:
        difference = (getattr(said, name) - getattr(truth, name)).flatten(1)
        if difference.shape[1]:
            result[name] = (difference**2).mean(dim=1) / SCALES[name] ** 2
    chord = ((said.R - truth.R) ** 2).sum(dim=(1, 2))
    result["rotation"] = chord / 6.0 / SCALES["rotation"] ** 2
    return result


def trusted(values: torch.Tensor, trust: torch.Tensor | None) -> torch.Tensor:
    """() mean of (P,) over the pictures whose truth is one at all, each as far as it is (P,)."""
    if trust is None:
        return values.mean()
    return (trust * values).sum() / (trust > 0).sum().clamp(min=1)


def surprise(
    said: Predicted, found: dict[str, torch.Tensor], trust: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """() mean of ``(log v + e^2 / v) / 2`` over groups and pictures, for errors (P,) as :func:`errors` has them."""
    terms = []
    for name, error in found.items():
        log_variance = said.log_variance[name] - 2.0 * torch.tensor(SCALES[name]).log().item()
        term = 0.5 * (log_variance + error.detach() * (-log_variance).exp())
        terms.append(trusted(term, (trust or {}).get(name)))
    return torch.stack(terms).mean()


def terms(said: Predicted, batch: Triplets, head: Head, weights: LossConfig) -> dict[str, torch.Tensor]:
    """All losses that count.

    Parameters
    ----------
    said : Predicted
        Of all P pictures, in the order of the photos.
    batch : Triplets
    head : Head
    weights : LossConfig
        Losses of weight 0 are not computed.

    Returns
    -------
    dict of str to () float
        Without their weights.
    """
    found = errors(said, batch.truth)
    trust = batch.trust
    result = {name: trusted(error, trust.get(name)) for name, error in found.items() if getattr(weights, name) > 0}
    if weights.error > 0:
        result["error"] = surprise(said, found, trust)
    if weights.agreement > 0:
        spread = agreement_loss(said.identity.unflatten(0, (-1, VIEWS)))
        result["agreement"] = trusted(spread, batch.one_person.float())
    result.update(_priors(said, trust, weights))
    compared = [name for name in COMPARED if getattr(weights, name) > 0]
    if not (weights.vertices > 0 or weights.landmarks > 0 or weights.render > 0 or compared):
        return result
    vertices = head.vertices(said.identity, said.expression)
    if weights.vertices > 0:
        true = head.vertices(batch.truth.identity, batch.truth.expression)
        away = MILLIMETRES * (vertices - true)[:, head.face].norm(dim=2).mean(dim=1)
        both = [trust[name] for name in ("identity", "expression") if name in trust]
        result["vertices"] = trusted(away, torch.stack(both).amin(dim=0) if both else None)
    if weights.landmarks > 0:
        side = batch.photos.shape[2]
        points = head.points(vertices, "ibug68")
        pixels, _ = project(points, said.K(side), said.R, said.t(head.layout))
        scale = PUBLISHED_SIDE / side
        known = batch.visible["ibug68"] | ~batch.real.repeat_interleave(VIEWS)[:, None]
        result["landmarks"] = landmark_loss(
            scale * pixels, scale * batch.landmarks["ibug68"], ibug68_weights().to(pixels), known
        ).mean()
    if compared or weights.render > 0:
        drawn = _drawn(said, vertices, batch, head, weights.side)
        if weights.render > 0:
            result["render"] = _rendered(said, vertices, drawn, head)
        if compared:
            views = _compared(drawn, batch, head, weights)
            result.update({name: views[name] for name in compared})
    return result


def total(found: dict[str, torch.Tensor], weights: LossConfig) -> torch.Tensor:
    """() sum of losses by name, each times its weight."""
    return torch.stack([getattr(weights, name) * value for name, value in found.items()]).sum()


def _priors(said: Predicted, trust: dict[str, torch.Tensor], weights: LossConfig) -> dict[str, torch.Tensor]:
    """What is likely counts as far as no truth does: where there is none, or where none is asked for."""

    def unknown(group: str) -> torch.Tensor:
        known = trust.get(group, torch.ones(len(said.R), device=said.R.device))
        return 1.0 - known if getattr(weights, group) > 0 else torch.ones_like(known)

    result = {}
    if weights.shape_prior > 0:
        result["shape_prior"] = trusted(shape_prior(said.identity, said.expression), unknown("identity"))
    if weights.albedo_prior > 0:
        result["albedo_prior"] = trusted(albedo_prior(said.albedo), unknown("albedo"))
    if weights.light_prior > 0:
        result["light_prior"] = trusted(light_prior(said.light), unknown("light"))
    return result


@dataclass(frozen=True)
class _Drawn:
    """Heads as predicted, drawn in small pictures, and their photos; a list of each, one entry for each view."""

    views: list[View]
    photos: list[torch.Tensor]
    skins: list[torch.Tensor]
    landmarks: list[torch.Tensor]
    visible: list[torch.Tensor]


def _drawn(said: Predicted, vertices: torch.Tensor, batch: Triplets, head: Head, side: int) -> _Drawn:
    """Draw heads (P, V, 3)."""
    K, t = said.K(side), said.t(head.layout)
    result = _Drawn([], [], [], [], [])
    scale = side / batch.photos.shape[2]
    for view in range(VIEWS):
        mine = slice(view, None, VIEWS)
        result.views.append(draw_view(vertices[mine], head.triangles, K[mine], said.R[mine], t[mine], side, side))
        result.photos.append(_small(batch.photos[:, view].float() / 255.0, side))
        result.skins.append(_small(batch.skin[:, view, ..., None], side)[..., 0])
        # The jaw is an outline in every picture, and not the same points of the head.
        result.landmarks.append(scale * batch.landmarks["ibug68"][mine, 17:])
        result.visible.append(batch.visible["ibug68"][mine, 17:])
    return result


def _compared(drawn: _Drawn, batch: Triplets, head: Head, weights: LossConfig) -> dict[str, torch.Tensor]:
    """The multi-view losses."""
    if weights.variant == "published":
        return published_multi_view_terms(drawn.views, drawn.photos, drawn.landmarks, batch.flags, head.triangles)
    moved = batch.moved & (batch.flags >= ONE_PERSON)
    return multi_view_terms(
        drawn.views,
        drawn.photos,
        drawn.landmarks,
        batch.flags,
        head.triangles,
        every_pair(VIEWS),
        skins=drawn.skins,
        visible=drawn.visible,
        counted=head.skin_triangles,
        moved=moved,
    )


def _rendered(said: Predicted, vertices: torch.Tensor, drawn: _Drawn, head: Head) -> torch.Tensor:
    """() how much heads with the albedo and the light that were said differ from their photos, where there is skin."""
    albedo = head.albedo(said.albedo)
    if albedo is None:
        # Light then tints it.
        albedo = torch.full_like(head.mean, EVEN_ALBEDO).expand(len(vertices), -1, -1)
    terms = []
    for number, (view, photo, skin) in enumerate(zip(drawn.views, drawn.photos, drawn.skins)):
        mine = slice(number, None, VIEWS)
        picture = lit_head(vertices[mine], head.triangles, view, albedo[mine], said.light[mine], photo)
        triangle = view.fragments.triangle
        covered = view.fragments.mask & head.skin_triangles[triangle.clamp(min=0).long()]
        terms.append(photometric_loss(picture, photo, skin, covered))
    return torch.stack(terms).mean()


def _small(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(B, S, S, C) -> (B, side, side, C), means over the area."""
    small = torch.nn.functional.interpolate(pictures.permute(0, 3, 1, 2), size=(side, side), mode="area")
    return small.permute(0, 2, 3, 1)
