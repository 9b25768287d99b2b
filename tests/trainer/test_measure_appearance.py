"""What is measured of the skin, on patterns whose correlations are known."""

from __future__ import annotations

import numpy as np
import pytest

from backend.reconstruction.appearance import Appearance
from trainer.measure_appearance import learn

POINTS, BANDS = 400, 2
# Parts of a pattern's variance: what all photos of a kind share, and what those of a person share.
OF_ALL, OF_ONE = 0.2, 0.6


def pattern(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(BANDS, POINTS))


def seen(values: np.ndarray, yaw_deg: float) -> tuple[Appearance, np.ndarray]:
    view = np.array([np.sin(np.radians(yaw_deg)), 0.0, -np.cos(np.radians(yaw_deg))])
    return Appearance(values.astype(np.float32), np.ones(POINTS, np.float32)), view


def test_correlations_of_one_and_of_different_people_are_found():
    rng = np.random.default_rng(0)
    people = []
    for _ in range(60):
        own = pattern(rng)
        people.append(
            [seen(np.sqrt(OF_ONE) * own + np.sqrt(1.0 - OF_ONE) * pattern(rng), yaw) for yaw in (-3.0, 0.0, 3.0)]
        )
    room = pattern(rng)
    real = [seen(pattern(rng), 0.0) for _ in range(60)]
    others = [seen(np.sqrt(OF_ALL) * room + np.sqrt(1.0 - OF_ALL) * pattern(rng), 0.0) for _ in range(40)]
    found = learn(people, real, others, rng)
    assert found.middles.shape == found.spreads.shape == (2, BANDS, POINTS)
    assert found.alike.sum() == pytest.approx(OF_ONE, abs=0.06)
    assert found.unlike[0] == pytest.approx(OF_ALL, abs=0.04) and abs(found.unlike[1]) < 0.02
    # The correlation of two patterns of P independent points and their mean over two bands.
    assert found.deviations[1] == pytest.approx(1.0 / np.sqrt(BANDS * POINTS), rel=0.5)
    assert ((found.shares >= 0.0) & (found.shares <= 1.0)).all()
