"""What the regression says of faces that it was not made for: turned far, or with something before them.

The map of `regress.py` was learned where landmarks are right. In profile, and behind hands and hair, a detector
guesses, and the map then reads the guess as if it were a face: worse than saying nothing. A small network that saw
the map's answers and the landmarks of thousands of such people, with the truth, says what is wrong with them
(`trainer/learn_correction.py`). Where the map is right it changes next to nothing.

Where a network that looks at the picture has put landmarks right (`backend/network/turned_heads.py`), a second one of
the kind reads them too: where they were detected, and how they were moved (`trainer/learn_moved_correction.py`).

Symbols: B batch, L landmarks, I identity modes, C numbers of the landmarks' shape, D numbers of an answer,
H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from backend.reconstruction.learned_arrays import LearnedArrays

# What the network reads is bounded, in standard deviations: it has seen nothing beyond and shall not extrapolate.
LARGEST_INPUT = 6.0


@dataclass(frozen=True)
class Correction(LearnedArrays):
    """Weights of the small network; its inputs are standardised by the first three.

    Attributes
    ----------
    shape_rows : (C, 2 L) float32, or (C, 4 L)
        Read aligned landmarks less the mean shape of the regression, and what moving them added to that.
    answer_rows : (D, I) float32
        Read the regression's answer.
    middle : (C + D,) float32
    weight_1, bias_1 : (H, C + D), (H,) float32
    weight_2, bias_2 : (H, H), (H,) float32
    weight_3, bias_3 : (I, H), (I,) float32
        To what is to be added to the answer.
    """

    made_by = "python -m trainer.learn_correction"

    shape_rows: np.ndarray
    answer_rows: np.ndarray
    middle: np.ndarray
    weight_1: np.ndarray
    bias_1: np.ndarray
    weight_2: np.ndarray
    bias_2: np.ndarray
    weight_3: np.ndarray
    bias_3: np.ndarray


class MovedCorrection(Correction):
    """A :class:`Correction` that reads how landmarks were moved, too."""

    made_by = "python -m trainer.learn_moved_correction"


def with_moves(apart: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """(B, 4 L) what a :class:`MovedCorrection` reads: aligned landmarks (B, 2 L) as detected, and what moving added."""
    return torch.cat([apart, after - apart], dim=1)


class CorrectStage:
    """A :class:`Correction` on a device, in the precision of the fit."""

    def __init__(self, correction: Correction, device: torch.device, dtype: torch.dtype) -> None:
        for f in fields(correction):
            setattr(self, f.name, torch.as_tensor(getattr(correction, f.name), dtype=dtype, device=device))

    shape_rows: torch.Tensor
    answer_rows: torch.Tensor
    middle: torch.Tensor
    weight_1: torch.Tensor
    bias_1: torch.Tensor
    weight_2: torch.Tensor
    bias_2: torch.Tensor
    weight_3: torch.Tensor
    bias_3: torch.Tensor

    def identity(self, apart: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        """What is read of landmarks (B, 2 L or 4 L), and the answer so far (B, I) -> (B, I) put right."""
        read = torch.cat([apart @ self.shape_rows.mT, answer @ self.answer_rows.mT], dim=1) - self.middle
        hidden = torch.relu(read.clamp(-LARGEST_INPUT, LARGEST_INPUT) @ self.weight_1.mT + self.bias_1)
        hidden = torch.relu(hidden @ self.weight_2.mT + self.bias_2)
        return answer + hidden @ self.weight_3.mT + self.bias_3
