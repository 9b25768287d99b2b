"""How wrong a network is about people it never saw, in units that people know.

Symbols: P pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from backend.network.outputs import SCALES, Predicted
from trainer.data.synthetic import Head, Triplets, project
from trainer.data.triplets import VIEWS
from trainer.train.config import LossConfig
from trainer.train.objective import MILLIMETRES, errors

# Yaw of the bins in which the rotation's error is told, degrees.
YAW_BINS = (0.0, 30.0, 60.0, 180.0)

FIGURES = {
    "supervised": "losses against the truth, weighted as in training",
    "shape_mm": "the neutral face, mean distance of its vertices in model space",
    "landmarks_percent": "68 points in the picture, mean distance over the crop's side",
    "depth_mm": "the face in the camera's frame, mean difference of depth after that of its distance",
    "distance_percent": "median difference of the distance to the camera",
    "rotation_degrees": "mean angle",
    "rotation_0_30": "the same where the yaw is below 30 degrees",
    "rotation_30_60": "and so on",
    "rotation_60_90": "and so on",
    "expression": "mean difference of the coefficients",
    "focal_percent": "median difference of the focal length",
    "spread_mm": "how far one person's three neutral faces are from their mean",
    "calibration": "mean squared error over the variance that was predicted; 1 is right",
}

# A network that once takes a telephoto lens for a selfie should not outweigh all the rest.
MEDIANS = ("focal_percent", "distance_percent")


@torch.no_grad()
def validate(
    network: Callable[[torch.Tensor], Predicted], batches: Sequence[Triplets], head: Head, weights: LossConfig
) -> dict[str, float]:
    """The :data:`FIGURES`, means over all pictures.

    Parameters
    ----------
    network : callable
        (P, S, S, 3) uint8 -> Predicted; in evaluation mode.
    batches : sequence of Triplets
    head : Head
    weights : LossConfig
    """
    rows: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        for name, values in _of_batch(network(batch.photos.flatten(0, 1)), batch, head, weights).items():
            rows.setdefault(name, []).append(values)
    whole = {name: torch.cat(values) for name, values in rows.items()}
    yaw = whole.pop("yaw")
    result = {name: float(values.mean()) for name, values in whole.items()}
    for name in MEDIANS:
        result[name] = float(whole[name].median())
    for low, high in pairwise(YAW_BINS):
        there = (yaw >= low) & (yaw < high)
        name = f"rotation_{low:.0f}_{min(high, 90.0):.0f}"
        if there.any():
            result[name] = float(whole["rotation_degrees"][there].mean())
    return result


def _of_batch(said: Predicted, batch: Triplets, head: Head, weights: LossConfig) -> dict[str, torch.Tensor]:
    """(P,) figures of each picture, and its yaw."""
    truth, side = batch.truth, batch.photos.shape[2]
    everybody = torch.ones(len(truth.R), device=truth.R.device)
    trust = torch.stack([batch.trust.get(name, everybody) for name in SCALES if name in said.log_variance])
    found = {name: error * batch.trust.get(name, everybody) for name, error in errors(said, truth).items()}
    supervised = torch.stack([getattr(weights, name) * error for name, error in found.items()]).sum(dim=0)
    neutral = head.vertices(said.identity, torch.zeros_like(said.expression))[:, head.face]
    true = head.vertices(truth.identity, torch.zeros_like(truth.expression))[:, head.face]
    whole = head.vertices(said.identity, said.expression)
    depth = _relief(whole[:, head.face], said.R)
    true_depth = _relief(head.vertices(truth.identity, truth.expression)[:, head.face], truth.R)
    points = head.points(whole, "ibug68")
    pixels, _ = project(points, said.K(side), said.R, said.t(head.layout))
    mine = neutral.unflatten(0, (-1, VIEWS))
    spread = (mine - mine.mean(dim=1, keepdim=True)).norm(dim=-1).mean(dim=2).flatten()
    chord = (said.R - truth.R).norm(dim=(1, 2)) / 8.0**0.5
    surprises = [error * SCALES[name] ** 2 / said.log_variance[name].exp() for name, error in found.items()]
    return {
        "supervised": supervised,
        "shape_mm": MILLIMETRES * (neutral - true).norm(dim=2).mean(dim=1),
        "landmarks_percent": 100.0 * (pixels - batch.landmarks["ibug68"]).norm(dim=2).mean(dim=1) / side,
        "depth_mm": MILLIMETRES * (depth - true_depth).abs().mean(dim=1),
        "distance_percent": 100.0 * (said.distance / truth.distance).log().abs(),
        "rotation_degrees": torch.rad2deg(2.0 * chord.clamp(max=1.0).asin()),
        "expression": (said.expression - truth.expression).abs().mean(dim=1),
        "focal_percent": 100.0 * (said.log_focal - truth.log_focal).abs().flatten(),
        "spread_mm": MILLIMETRES * spread,
        "calibration": torch.stack(surprises).sum(dim=0) / trust.sum(dim=0),
        "yaw": torch.rad2deg(torch.atan2(truth.R[:, 0, 2], -truth.R[:, 2, 2])).abs(),
    }


def _relief(points: torch.Tensor, R: torch.Tensor) -> torch.Tensor:
    """(P, V, 3) model space -> (P, V) depth in the camera's frame, from the mean of the face, metres."""
    depth = (points @ R[:, 2, :, None])[..., 0]
    return depth - depth.mean(dim=1, keepdim=True)
