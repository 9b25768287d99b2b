"""Invented people photographed several times: one identity, one look, many moments.

From one photo to the next the expression, the camera and its lens, the light, the background and the
camera's faults change; who it is does not.
"""

from __future__ import annotations

import numpy as np

from backend.face_model.model import FaceModel
from trainer.data.people import IDENTITY_SIGMA, Person, draw_camera, draw_expression


def draw_series(model: FaceModel, seed: int, count: int, size: int = 320, neutral: bool = False) -> list[Person]:
    """``count`` photos of the person that belongs to a seed; a longer series begins with the shorter one.

    Give each to :meth:`trainer.data.painter.Painter.paint` with the same seed and its place as the moment.
    """
    identity = np.random.default_rng([seed, 4]).normal(0.0, IDENTITY_SIGMA, len(model.identity))
    series = []
    for moment in range(count):
        rng = np.random.default_rng([seed, 5, moment])
        expression = np.zeros(len(model.expression)) if neutral else draw_expression(model, rng)
        camera = draw_camera(rng, size)
        series.append(Person(identity, expression, model.vertices(identity, expression), camera))
    return series
