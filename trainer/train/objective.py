"""What a step of training minimises: the truth of invented people, and agreement between the views of a person.

Every group of outputs is compared with the truth in units of its spread, so that weights of about one count all
groups alike. Two losses join groups that a user sees together: ``vertices``, where the head is in its own space, and
``landmarks``, where it is in the picture. The multi-view losses are those of ``trainer/losses``.

Variances are learned from the errors that the network makes, which they do not change: the likelihood of the errors,
held fixed, under normal distributions, ``(log v + e^2 / v) / 2``. (Training means through that likelihood too lets a
network buy its way out of hard cases: Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty
Estimation".)

Everything here runs in float32.

Symbols: B triplets, N views of each, P = B N pictures, V vertices.
"""

from __future__ import annotations

import torch

from backend.network.outputs import SCALES, Predicted
from backend.rendering.synthesis import View, draw_view
from trainer.data.synthetic import Head, Triplets, project
from trainer.data.triplets import VIEWS
from trainer.losses.agreement import agreement_loss
from trainer.losses.flags import ONE_PERSON
from trainer.losses.landmarks import ibug68_weights, landmark_loss
from trainer.losses.multi_view import every_pair, multi_view_terms, published_multi_view_terms
from trainer.train.config import LossConfig

# Landmark losses are in pixels of a crop of this side, as published.
PUBLISHED_SIDE = 224
MILLIMETRES = 1000.0

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


def surprise(said: Predicted, found: dict[str, torch.Tensor]) -> torch.Tensor:
    """() mean of ``(log v + e^2 / v) / 2`` over groups and pictures, for errors (P,) as :func:`errors` has them."""
    terms = []
    for name, error in found.items():
        log_variance = said.log_variance[name] - 2.0 * torch.tensor(SCALES[name]).log().item()
        terms.append(0.5 * (log_variance + error.detach() * (-log_variance).exp()))
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
    result = {name: error.mean() for name, error in found.items() if getattr(weights, name) > 0}
    if weights.error > 0:
        result["error"] = surprise(said, found)
    if weights.agreement > 0:
        result["agreement"] = agreement_loss(said.identity.unflatten(0, (-1, VIEWS))).mean()
    compared = [name for name in COMPARED if getattr(weights, name) > 0]
    if not (weights.vertices > 0 or weights.landmarks > 0 or compared):
        return result
    vertices = head.vertices(said.identity, said.expression)
    if weights.vertices > 0:
        true = head.vertices(batch.truth.identity, batch.truth.expression)
        result["vertices"] = MILLIMETRES * (vertices - true)[:, head.face].norm(dim=2).mean()
    if weights.landmarks > 0:
        side = batch.photos.shape[2]
        points = head.points(vertices, "ibug68")
        pixels, _ = project(points, said.K(side), said.R, said.t(head.layout))
        scale = PUBLISHED_SIDE / side
        result["landmarks"] = landmark_loss(
            scale * pixels, scale * batch.landmarks["ibug68"], ibug68_weights().to(pixels)
        ).mean()
    if compared:
        views = _compared(said, vertices, batch, head, weights)
        result.update({name: views[name] for name in compared})
    return result


def total(found: dict[str, torch.Tensor], weights: LossConfig) -> torch.Tensor:
    """() sum of losses by name, each times its weight."""
    return torch.stack([getattr(weights, name) * value for name, value in found.items()]).sum()


def _compared(
    said: Predicted, vertices: torch.Tensor, batch: Triplets, head: Head, weights: LossConfig
) -> dict[str, torch.Tensor]:
    """The multi-view losses of heads (P, V, 3), drawn in small pictures."""
    side = weights.side
    K, t = said.K(side), said.t(head.layout)
    views: list[View] = []
    photos, skins, landmarks, visible = [], [], [], []
    scale = side / batch.photos.shape[2]
    for view in range(VIEWS):
        mine = slice(view, None, VIEWS)
        views.append(draw_view(vertices[mine], head.triangles, K[mine], said.R[mine], t[mine], side, side))
        photos.append(_small(batch.photos[:, view].float() / 255.0, side))
        skins.append(_small(batch.skin[:, view, ..., None], side)[..., 0])
        # The jaw is an outline in every picture, and not the same points of the head.
        landmarks.append(scale * batch.landmarks["ibug68"][mine, 17:])
        visible.append(batch.visible["ibug68"][mine, 17:])
    if weights.variant == "published":
        return published_multi_view_terms(views, photos, landmarks, batch.flags, head.triangles)
    moved = batch.moved & (batch.flags >= ONE_PERSON)
    return multi_view_terms(
        views,
        photos,
        landmarks,
        batch.flags,
        head.triangles,
        every_pair(VIEWS),
        skins=skins,
        visible=visible,
        counted=head.skin_triangles,
        moved=moved,
    )


def _small(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(B, S, S, C) -> (B, side, side, C), means over the area."""
    small = torch.nn.functional.interpolate(pictures.permute(0, 3, 1, 2), size=(side, side), mode="area")
    return small.permute(0, 2, 3, 1)
