"""A whole training in a minute or two on a CPU, and the proof that it learned.

Not a measure of anything but that all parts work together: pictures, losses, gradients, checkpoints, validation, and
the weights file that comes out.
"""

from __future__ import annotations

import numpy as np

from backend.errors import TrainingError
from backend.face_model.model import FaceModel
from backend.network.encoder import FaceEncoder
from backend.network.interface import FaceCrop
from backend.vision.crop import Window
from trainer.train.loop import Ended

# What must fall, and to what part of the untrained network's: about half to three quarters of it is usual.
MUST_FALL = {"supervised": 0.8, "landmarks_percent": 0.85, "rotation_degrees": 0.9}


def check(ended: Ended, model: FaceModel) -> None:
    """Raise :class:`TrainingError` unless the network learned and its weights speak."""
    before, after = ended.figures["0"], ended.figures[str(ended.steps)]
    for name, part in MUST_FALL.items():
        if not after[name] < part * before[name]:
            raise TrainingError(
                f'The smoke test did not learn: "{name}" went from {before[name]:.3f} to {after[name]:.3f} and should '
                f"be below {part * before[name]:.3f}; training is broken here."
            )
    encoder = FaceEncoder(ended.weights, model)
    grey = FaceCrop(np.full((encoder.side, encoder.side, 3), 128, np.uint8), Window(0.0, 0.0, float(encoder.side)))
    said = encoder.regress([grey])
    if not all(np.isfinite(values).all() for values in (said.identity, said.expression, said.R, said.t)):
        raise TrainingError("The smoke test's weights answer with numbers that are none; training is broken here.")
