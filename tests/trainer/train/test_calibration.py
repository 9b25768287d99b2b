"""Errors that are planted are measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.data.synthetic import SyntheticFaces
from trainer.train.calibration import LEAST_FACTOR, LEAST_SHARE, calibrate


@pytest.fixture(scope="module")
def batches(head):
    faces = SyntheticFaces(head, 64, seed=21, looks=1, supersampling=1)
    return [faces.batch(number, 8) for number in range(8)]


def test_planted_errors_are_found(head, batches):
    dice = torch.Generator().manual_seed(0)
    truths = iter([batch.truth for batch in batches])
    size = torch.linspace(0.2, 0.6, head.layout.identity)

    def network(photos):
        truth = next(truths)
        noise = torch.randn(truth.identity.shape, generator=dice) * size
        said = {name: torch.full((len(photos),), np.log(0.01)) for name in head.layout.sizes}
        return replace(truth, identity=truth.identity + noise, place=truth.place + 0.2, log_variance=said)

    known = calibrate(network, batches)
    root = float((size**2).mean().sqrt())
    assert known.factor["identity"] == pytest.approx(root / 0.1, rel=0.05)
    assert known.factor["place"] == pytest.approx(2.0, rel=0.01) and known.factor["rotation"] == LEAST_FACTOR
    np.testing.assert_allclose(known.share["identity"], size / root, rtol=0.35)
    assert (np.diff(known.share["identity"].reshape(-1, 13).mean(axis=1)) > 0).all()
    assert (known.share["expression"] >= LEAST_SHARE).all()
    mean, spread = known.usual["identity"]
    assert abs(mean.mean()) < 0.05 and spread.mean() == pytest.approx(0.8, abs=0.05)
    assert known.usual["log_distance"][1][0] == pytest.approx(0.7, abs=0.12)
    assert known.usual["expression"][1].shape == (head.layout.expression,)
