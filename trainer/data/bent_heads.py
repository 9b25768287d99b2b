"""People whose heads the model cannot make: bent smoothly, here and there, by a few millimetres.

What is learned on a model's own heads alone leans on them: a landmark is where such heads have one. Real heads, and
those of other models, differ from all of them.

Symbols: V vertices, I identity modes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.face_model.model import FaceModel
from backend.geometry.alignment import small_similarities
from trainer.data.people import IDENTITY_SIGMA, Person

# Bumps of a head, how far each moves what lies in its middle (standard deviation of each axis, metres), how wide it is
# (standard deviation, metres), and how much of that differs between the sides.
BUMPS, BUMP_M, WIDTH_M, ONE_SIDED = 10, 1.0e-3, (0.012, 0.045), 0.3
# What the model may leave of a bend when it is asked for the nearest head, metres: answers stay those of a likely one,
# and hold back an eighth to a quarter of what the model could follow.
LEFT_OVER_M = 0.1e-3


def bend(model: FaceModel, rng: np.random.Generator) -> np.ndarray:
    """(V, 3) metres: what is added to the vertices of a head, by Gaussian bumps, nearly alike on both sides."""
    points = model.mean.astype(np.float64)
    face = points[model.regions["face"]]
    across = np.array([-1.0, 1.0, 1.0])
    total = np.zeros_like(points)
    for _ in range(BUMPS):
        middle, width = face[rng.integers(len(face))], rng.uniform(*WIDTH_M)
        by, more = rng.normal(0.0, BUMP_M, 3), rng.normal(0.0, ONE_SIDED * BUMP_M, 3)
        for side, move in ((1.0, by + more), (across, (by - more) * across)):
            apart = ((points - middle * side) ** 2).sum(axis=1)
            total += np.exp(-0.5 * apart / width**2)[:, None] * move
    return total


def bent(model: FaceModel, person: Person, rng: np.random.Generator) -> Person:
    """The same with a bent head; ``identity`` is that of the model's nearest head."""
    offset = bend(model, rng)
    identity = person.identity + nearest_identity(model, offset)
    return replace(person, identity=identity, vertices=person.vertices + offset)


def nearest_identity(model: FaceModel, offset: np.ndarray) -> np.ndarray:
    """(I,) coefficients that bend the face most like ``offset`` (V, 3) metres.

    Least squares over the face with the prior of identities; a similarity of the whole is free.
    """
    face = model.regions["face"]
    points = model.mean[face].astype(np.float64)
    modes = model.identity[:, face].astype(np.float64).reshape(len(model.identity), -1)
    sigma = LEFT_OVER_M * np.sqrt(len(points))
    rows = np.concatenate([modes.T, small_similarities(points)], axis=1) / sigma
    prior = np.zeros(rows.shape[1])
    prior[: len(modes)] = IDENTITY_SIGMA**-2
    right = rows.T @ (offset[face].ravel() / sigma)
    return np.linalg.solve(rows.T @ rows + np.diag(prior), right)[: len(modes)]
