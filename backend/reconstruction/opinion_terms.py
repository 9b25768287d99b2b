"""How the fit listens to a network: the opinions of a batch as terms of the cost.

What was measured of a face (``opinion.py``) is added to what the fit knows otherwise:

- **identity**: to the regression from landmarks (``regress.py``), see :func:`joined`;
- **expression, distance**: to the priors of ``priors.py``;
- **rotation**: as a measurement of its own, with a Cauchy weight, so that a network that is surely wrong loses;
- **start**: the solve begins from landmarks and from the network, and goes on from where it costs less;
- **landmarks**: the head that the network sees says where landmarks are, within its own error. Those that are
  elsewhere, out of step with the others, count less (:meth:`Opinions.trusted`): they lie on a hand, behind an
  outline, or on a face that the detector made up.

A network that does not say how wrong it is only gives a start.

Symbols: B batch, L landmarks, I identity modes, E expressions, Q = I + E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.reconstruction.landmark_model import LANDMARK_SIGMA, LandmarkModel
from backend.reconstruction.opinion import DISTANCE_TOGETHER, EXPRESSION_TOGETHER, Opinion
from backend.reconstruction.regress import align
from backend.reconstruction.turning import inverse_left_jacobian, rotation_vector

if TYPE_CHECKING:
    from backend.reconstruction.landmark_cost import State

# The errors of the network and of the regression from landmarks are alike to this degree (correlation of their
# noise): both read one picture. A guess on the side of caution until it is measured.
NOISE_CORRELATION = 0.5

# Standard deviations at which the pull of the network's rotation has halved.
ROTATION_CAUCHY = 3.0

# Landmarks within this many standard deviations of where the network sees them are not doubted, nineteen of
# twenty when all is well; at twice as many, three quarters of their say is gone. Judged in rounds, each without
# the sinners of the last.
LANDMARK_DOUBT = 2.5
ROUNDS = 10


def moderated(mean: torch.Tensor, sigma: torch.Tensor, usual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The regression's answer, taken for less where it says more than people differ.

    Answers of a regression whose errors are ``sigma`` have the mean square ``usual^2 - sigma^2``. Landmarks of a
    profile, or of a face behind a hand, are none that it was learned on, and its answers are larger then by what is
    wrong with them: on invented people 0.23 instead of 0.06, of which next to nothing is true. Such an answer is
    divided by the excess, and its error grows to what that leaves.

    (B, I) mean, error and spread of the people -> (B, I) mean and error.
    """
    expected = (usual**2 - sigma**2).clamp_min(0.0)
    share = (expected.mean(dim=1) / (mean**2).mean(dim=1).clamp_min(1e-12)).clamp_max(1.0)[:, None]
    return share * mean, (torch.maximum(usual, sigma) ** 2 - share * expected).sqrt().where(share < 1.0, sigma)


def joined(
    mean: torch.Tensor, sigma: torch.Tensor, precision: torch.Tensor, pull: torch.Tensor, usual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity from the regression and from the network.

    Both are measurements of the same coefficients of a person of the usual kind, N(0, usual^2), with normal noise
    that is correlated by :data:`NOISE_CORRELATION`; generalised least squares, but that none of the two ever gets
    a negative weight. Without the network this is the regression.

    Parameters
    ----------
    mean, sigma : (B, I) float
        The regression's answer and its error.
    precision, pull : (B, I) float
        What the network measured, see :meth:`~backend.reconstruction.opinion.Opinion.information`.
    usual : (I,) or () float
        Spread of the people.

    Returns
    -------
    mean, sigma : (B, I)
    """
    before = usual**-2.0
    own = (torch.minimum(sigma, usual * torch.ones_like(sigma)) ** -2.0 - before).clamp_min(0.0)
    own_pull = mean * (own + before)
    # How much of each counts: all of it where noise is independent, nothing of one that only repeats the other.
    r = NOISE_CORRELATION
    by_own = (1.0 - r * (precision / own.clamp_min(1e-12)).sqrt()) / (1.0 - r * r)
    by_network = (1.0 - r * (own / precision.clamp_min(1e-12)).sqrt()) / (1.0 - r * r)
    first = torch.where(by_network <= 0, 1.0, by_own.clamp(0.0, 1.0))
    second = torch.where(by_own <= 0, 1.0, by_network.clamp(0.0, 1.0))
    first = torch.where(precision > 0, first, torch.ones_like(first))
    total = before + first * own + second * precision
    found = (first * own_pull + second * pull) / total
    heard = precision > 0
    return torch.where(heard, found, mean), torch.where(heard, total**-0.5, sigma)


class Opinions:
    """Opinions of a batch (None where there is none), as tensors: terms of a ``LandmarkCost``.

    Attributes
    ----------
    any : bool
        Whether there is anything to listen to.
    given : (B,) bool
    """

    def __init__(self, lm: LandmarkModel, opinions: Sequence[Opinion | None]) -> None:
        self.lm, self.opinions = lm, tuple(opinions)
        self.any = any(said is not None for said in opinions)
        if not self.any:
            return
        like = {"device": lm.device, "dtype": lm.dtype}
        self.given = torch.tensor([said is not None for said in opinions], device=lm.device)
        identity, expression = np.zeros(lm.identity_count), np.zeros(lm.expression_count)
        rows = [_rows(said, identity, expression) for said in opinions]

        def column(name: str) -> torch.Tensor:
            return torch.as_tensor(np.array([row[name] for row in rows]), **like)

        self.rotation, self.rotation_precision = column("R"), column("rotation_precision")
        self.rotation_weight = column("rotation_weight")
        self.distance_precision, self.distance_pull = column("distance_precision"), column("distance_pull")
        self.identity, self.identity_precision = column("identity"), column("identity_precision")
        self.identity_pull = column("identity_pull")
        self.expression, self.expression_precision = column("expression"), column("expression_precision")
        self.expression_pull = column("expression_pull")
        self.usual_identity = column("usual_identity")

    # -- identity ------------------------------------------------------------------------------------

    def identify(self, mean: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (B, I) and error (I,) of the regression -> both (B, I), joined with the network."""
        sigma = sigma.expand_as(mean)
        if not self.any:
            return mean, sigma
        less, wider = moderated(mean, sigma, self.usual_identity)
        found = joined(less, wider, self.identity_precision, self.identity_pull, self.usual_identity)
        heard = self.identity_precision > 0
        return torch.where(heard, found[0], mean), torch.where(heard, found[1], sigma)

    # -- start ---------------------------------------------------------------------------------------

    def start(self, state: State, detected: torch.Tensor, middle: torch.Tensor) -> State:
        """The start where the network sees the head: its rotation and shape, placed on the landmarks."""
        coefficients = torch.cat([self.identity, self.expression], dim=1)
        points = self.lm.mean + torch.einsum("klq,bq->blk", self.lm.basis, coefficients)
        flat = points @ self.rotation[:, :2].mT
        centred, seen = flat - flat.mean(dim=1, keepdim=True), detected - detected.mean(dim=1, keepdim=True)
        # The median does not mind what lies elsewhere, in this scale or in the place below.
        scale = (seen.norm(dim=2).median(dim=1).values / centred.norm(dim=2).median(dim=1).values).clamp_min(1e-6)
        place = ((detected - middle[:, None]) / scale[:, None, None] - flat).median(dim=1).values
        pose = torch.cat([place, scale.log()[:, None], state.pose[:, 3:]], dim=1)
        started = type(state)(self.rotation, pose, coefficients)
        return started.where(self.given, state)

    # -- the cost ------------------------------------------------------------------------------------

    def terms(self, state: State, pose_count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cost (B,), gradient (B, P) and Hessian (B, P, P) of what was measured of rotation, distance, expression.

        The rotation's residual is ``log(R R_said^T)``; a step turns ``R`` from the left, so its derivative is the
        inverse of the left Jacobian (Sola et al. 2018, "A micro Lie theory", equation 146).
        """
        batch, size = len(state.pose), pose_count + state.coefficients.shape[1]
        gradient = state.pose.new_zeros(batch, size)
        hessian = state.pose.new_zeros(batch, size, size)
        apart = rotation_vector(state.rotation @ self.rotation.mT)
        squared = self.rotation_precision * (apart**2).sum(dim=1)
        scale = ROTATION_CAUCHY**2
        cost = self.rotation_weight * torch.log1p(squared / scale) * scale / 2
        weight = self.rotation_weight * self.rotation_precision / (1.0 + squared / scale)
        derivative = inverse_left_jacobian(apart)
        gradient[:, :3] = weight[:, None] * (derivative.mT @ apart[..., None])[..., 0]
        hessian[:, :3, :3] = weight[:, None, None] * (derivative.mT @ derivative)
        depth = state.pose[:, 3]
        cost = cost + self.distance_precision * depth**2 / 2 - self.distance_pull * depth
        gradient[:, 6] = self.distance_precision * depth - self.distance_pull
        hessian[:, 6, 6] = self.distance_precision
        shapes = state.coefficients[:, self.lm.identity_count :]
        cost = cost + (self.expression_precision * shapes**2 / 2 - self.expression_pull * shapes).sum(dim=1)
        gradient[:, pose_count + self.lm.identity_count :] = self.expression_precision * shapes - self.expression_pull
        diagonal = torch.zeros_like(gradient)
        diagonal[:, pose_count + self.lm.identity_count :] = self.expression_precision
        if self.lm.regress is None:
            who = state.coefficients[:, : self.lm.identity_count]
            cost = cost + (self.identity_precision * who**2 / 2 - self.identity_pull * who).sum(dim=1)
            span = slice(pose_count, pose_count + self.lm.identity_count)
            gradient[:, span] = self.identity_precision * who - self.identity_pull
            diagonal[:, span] = self.identity_precision
        return cost, gradient, hessian + torch.diag_embed(diagonal)

    # -- landmarks -----------------------------------------------------------------------------------

    def trusted(self, detected: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """(B, L) trust, less where landmarks are not where the network sees them; contours are left as they are."""
        result = trust.clone()
        for row, said in enumerate(self.opinions):
            if (
                said is not None
                and float(self.rotation_precision[row]) > 0
                and {"identity", "expression"} <= set(said.sigma)
            ):
                places, sigma = self.seen(row, said)
                result[row] = trust[row] * doubt(detected[row], trust[row], places, sigma, self.lm.contour)
        return result

    def seen(self, row: int, said: Opinion) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the network sees landmarks (L, 2), pixels, and its error there (L,), pixels."""
        lm = self.lm
        coefficients = torch.cat([self.identity[row], self.expression[row]])
        points = lm.mean + torch.einsum("klq,q->lk", lm.basis, coefficients)
        like = {"dtype": points.dtype, "device": points.device}
        R, t, K = (torch.as_tensor(value, **like) for value in (said.camera.R, said.camera.t, said.camera.K))
        camera = points @ R.T + t
        pixels = (camera @ K.T)[:, :2] / camera[:, 2:].clamp_min(1e-3)
        spread = [np.broadcast_to(said.sigma[name], size) for name, size in self._sizes()]
        variance = torch.as_tensor(np.concatenate(spread) ** 2.0, **like)
        # Of the three axes a picture shows two, and shapes move points in all alike.
        shape = torch.einsum("klq,q->l", lm.basis**2, variance) / 3.0
        lever = camera - camera.mean(dim=0)
        turned = float(np.mean(said.sigma["rotation"])) ** 2 * (
            lever[:, 2] ** 2 + (lever[:, 0] ** 2 + lever[:, 1] ** 2) / 2.0
        )
        metres = (shape + turned + LANDMARK_SIGMA**2).sqrt()
        return pixels, metres * float(said.camera.focal_px) / camera[:, 2].clamp_min(1e-3)

    def _sizes(self) -> tuple[tuple[str, int], ...]:
        return ("identity", self.lm.identity_count), ("expression", self.lm.expression_count)


def doubt(
    detected: torch.Tensor, trust: torch.Tensor, places: torch.Tensor, sigma: torch.Tensor, contour: torch.Tensor
) -> torch.Tensor:
    """How far each landmark is to be believed, (L,) in (0, 1].

    Place, size and roll of the whole face are no matter of a landmark, so those of the network are first laid onto
    the detected ones. And where all are off alike, the network is, and nothing is doubted: a landmark is
    judged against the typical one.

    Parameters
    ----------
    detected : (L, 2) float
        Pixels.
    trust : (L,) float
    places, sigma : (L, 2), (L,) float
        Where the network sees them and its error, pixels.
    contour : (C,) int
        Landmarks that slide along an outline and cannot be judged.
    """
    judged = trust > 0
    judged[contour] = False
    weight = judged.to(detected.dtype)
    away = torch.zeros_like(sigma)
    for _ in range(ROUNDS):
        laid = align(places[None], detected, weight[None])[0]
        away = (detected - laid).norm(dim=1) / sigma
        if bool(judged.any()):
            away = away / away[judged].median().clamp_min(1.0)
        weight = judged / (1.0 + away**2) ** 2
    beyond = (away / LANDMARK_DOUBT - 1.0).clamp_min(0.0)
    return torch.where(judged, 1.0 / (1.0 + beyond**2) ** 2, torch.ones_like(away))


def _rows(said: Opinion | None, identity: np.ndarray, expression: np.ndarray) -> dict[str, np.ndarray | float]:
    """One row of every tensor of :class:`Opinions`; zeros of these shapes where nothing is said."""
    if said is None:
        zero = {
            "R": np.eye(3),
            "rotation_precision": 0.0,
            "rotation_weight": 1.0,
            "distance_precision": 0.0,
            "distance_pull": 0.0,
        }
        empty = {
            f"{name}{part}": values
            for name, values in (("identity", identity), ("expression", expression))
            for part in ("", "_precision", "_pull")
        }
        return {**zero, **empty, "usual_identity": identity + 1.0}
    who, who_pull = said.information("identity", said.identity)
    shown, shown_pull = said.information("expression", said.expression)
    distance, distance_pull = said.log_distance
    usual = said.usual.get("identity", (np.zeros(1), np.ones(1)))[1]
    return {
        "R": said.R,
        "rotation_precision": said.rotation_precision,
        "rotation_weight": said.rotation_weight,
        "distance_precision": DISTANCE_TOGETHER * distance,
        "distance_pull": DISTANCE_TOGETHER * distance_pull,
        "identity": said.identity,
        "identity_precision": who,
        "identity_pull": who_pull,
        "expression": said.expression,
        "expression_precision": EXPRESSION_TOGETHER * shown,
        "expression_pull": EXPRESSION_TOGETHER * shown_pull,
        "usual_identity": np.broadcast_to(usual, identity.shape),
    }
