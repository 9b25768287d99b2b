"""Where a person's landmarks lie: beside those of people in general, and alike in all photos of that person.

A detector's landmark is off for two reasons. Brows that sit high, a thin upper lip, a beard over the jaw move it in
every photo of a person; light, blur, view and expression move it in one. A fit that knows only one kind of error turns
the first into expression and pose, in each photo anew. So the landmarks of a person get places of their own, ``d_l``
(L, 3) metres in the frame of the head, added to the model's points in all photos:

    sum_b sum_l w_bl |W_l (project_b(x_bl + d_l) - detected_bl)|^2 + sum_l |d_l|^2 / s_l^2

Free points seen by several cameras are what the epipolar constraint is about (Hartley and Zisserman 2004, sections 9.2
and 18.1): photos must agree with each other about where a point is, whatever the model says of it. Everything else
held, each ``d_l`` is a system of three equations, so cost grows linearly with the photos; ``joint.py`` takes turns.

Symbols: B photos, L landmarks.
"""

from __future__ import annotations

import torch

from backend.reconstruction.landmark_cost import LandmarkCost, State
from backend.vision.landmark_sets import IRISES

# Variance of what a person's photos share of a landmark's error over the variance of each photo's own:
# `python -m trainer.measure_places` finds 1.5 mm and 1.5 mm an axis within the face, 2.2 and 2.9 mm along its contour.
SHARED_VARIANCE = 1.0


def places(problem: LandmarkCost, state: State) -> torch.Tensor:
    """The landmarks' places that explain best what all photos see, (L, 3) metres, head frame; 0 for irises.

    One Gauss-Newton step from the problem's own places, at the Cauchy weights of the state.
    """
    lm = problem.lm
    residual = problem.residual(state)
    size = (problem.unit / state.pose[:, 2].exp())[:, None, None, None]
    jacobian = size * problem.by_point(state, residual)[2]  # (B, L, 2, 3)
    before = torch.zeros_like(lm.mean) if problem.places is None else problem.places
    without = residual.white - torch.einsum("blik,lk->bli", jacobian, before)
    weighted = residual.weight[..., None, None] * jacobian
    hessian = (weighted.mT @ jacobian).sum(dim=0)
    gradient = torch.einsum("blik,bli->lk", weighted, without)
    # As firm as a landmark is precise: the whitening has one over its standard deviation.
    precision = lm.whitening.square().sum(dim=(1, 2)) / (2.0 * SHARED_VARIANCE)
    hessian = hessian + torch.diag_embed(precision[:, None].expand(-1, 3))
    found = -torch.cholesky_solve(gradient[..., None], torch.linalg.cholesky(hessian))[..., 0]
    # An iris turns with its eye; it has no place in the head.
    found[[index for index in IRISES if index < len(found)]] = 0.0
    return found
