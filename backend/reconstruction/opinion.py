"""What a network says of a face, as the fit listens to it: as far as the network trusts itself, and no further.

A network answers with a mean and the standard deviation of its error. Part of that answer it knew before it saw the
face: one that cannot tell says what is usual, with the usual spread. What it *measured* is the rest, in information
form (precision, and precision times value):

    precision = 1 / sigma^2 - 1 / usual_sigma^2,    pull = mean / sigma^2 - usual_mean / usual_sigma^2,

nothing where sigma is not below the usual spread. That is added to what the fit knows otherwise:

- **identity**: to the regression from landmarks (``regress.py``), see :func:`joined`;
- **expression, distance**: to the priors of ``priors.py``;
- **rotation**: as a measurement of its own, with a Cauchy weight, so that a network that is surely wrong loses;
- **start**: the solve begins from landmarks and from the network, and goes on from where it costs less;
- **landmarks**: the head that the network sees says where landmarks are, within its own error. Those that are
  elsewhere, out of step with the others, count less (:func:`trusted`): they lie on a hand, behind an outline, or
  on a face that the detector made up.

A network that does not say how wrong it is only gives a start.

Symbols: B batch, L landmarks, I identity modes, E expressions, Q = I + E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.errors import WeightsError
from backend.geometry.camera import Camera
from backend.geometry.rotation import head_euler_degrees, matrix_from_rotation_vector
from backend.network.interface import FaceCrop, Regressed
from backend.reconstruction.landmark_model import LANDMARK_SIGMA, LandmarkModel
from backend.reconstruction.regress import align
from backend.vision.photo import Photo

if TYPE_CHECKING:
    from backend.reconstruction.fit import State

# The errors of the network and of the regression from landmarks are alike to this degree (correlation of their
# noise): both read one picture. A guess on the side of caution until it is measured.
NOISE_CORRELATION = 0.5

# The fit takes its landmarks to err one by one, but those of one face err together: it is further off than its own
# Hessian says, by the square root of these (chi-squared for each degree of freedom, median over invented people of
# open-head, painted, half of them behind something, without EXIF; trainer/measure_fit.py). What the network
# measures is therefore counted as often. For rotations: by yaw, degrees, between which the logarithm is linear.
ROTATION_TOGETHER_YAW, ROTATION_TOGETHER = (15.0, 45.0, 75.0), (60.0, 100.0, 1000.0)
DISTANCE_TOGETHER, EXPRESSION_TOGETHER = 25.0, 6.0

# Standard deviations at which the pull of the network's rotation has halved.
ROTATION_CAUCHY = 3.0

# A rotation whose error is as large as this, radians, is as good as none: the spread of the heads in photos.
USUAL_ROTATION = 0.6

# Landmarks within this many standard deviations of where the network sees them are not doubted, nineteen of
# twenty when all is well; at twice as many, three quarters of their say is gone. Judged in rounds, each without
# the sinners of the last.
LANDMARK_DOUBT = 2.5
ROUNDS = 10


@dataclass(frozen=True)
class Opinion:
    """What a network says of one face of a photo.

    Attributes
    ----------
    camera : Camera
        Of the photo, principal point in the middle of the crop: every vertex is where the network sees it.
    R : (3, 3) float64
        The rotation in a camera whose principal point is the photo's middle, as the fit has it.
    identity : (I,) float64
    expression : (E,) float64
    sigma : dict of str to (N,) float64
        Standard deviation of the errors, as in :class:`backend.network.interface.Regressed`.
    usual : dict of str to (mean, standard deviation)
        As there.
    """

    camera: Camera
    R: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    sigma: dict[str, np.ndarray]
    usual: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def sigma_identity(self) -> np.ndarray:
        """(I,) float32, at most 1, which is also for a network that does not say."""
        sigma = self.sigma.get("identity", np.ones(1))
        return np.minimum(np.broadcast_to(sigma, self.identity.shape), 1.0).astype(np.float32)

    def information(self, name: str, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Precision and pull, shaped like ``mean``, of what was measured; zeros for what was not."""
        if name not in self.sigma or name not in self.usual:
            return np.zeros_like(mean), np.zeros_like(mean)
        sigma = np.broadcast_to(self.sigma[name], mean.shape)
        usual_mean, usual_sigma = (np.broadcast_to(values, mean.shape) for values in self.usual[name])
        precision = sigma**-2.0 - usual_sigma**-2.0
        pull = mean * sigma**-2.0 - usual_mean * usual_sigma**-2.0
        measured = precision > 0
        return np.where(measured, precision, 0.0), np.where(measured, pull, 0.0)

    @property
    def log_distance(self) -> tuple[float, float]:
        """Precision and pull of the logarithm of the distance to the head's origin, metres."""
        away = float(self.camera.t[2])
        if "translation" not in self.sigma or "log_distance" not in self.usual or away <= 0:
            return 0.0, 0.0
        sigma = float(np.broadcast_to(self.sigma["translation"], (3,))[2]) / away
        usual_mean, usual_sigma = (float(values[0]) for values in self.usual["log_distance"])
        precision = sigma**-2.0 - usual_sigma**-2.0
        if precision <= 0:
            return 0.0, 0.0
        return precision, float(np.log(away)) * sigma**-2.0 - usual_mean * usual_sigma**-2.0

    @property
    def rotation_precision(self) -> float:
        if "rotation" not in self.sigma:
            return 0.0
        return max(float(np.mean(self.sigma["rotation"])) ** -2.0 - USUAL_ROTATION**-2.0, 0.0)

    @property
    def rotation_weight(self) -> float:
        """How often the rotation counts beside landmarks that err together."""
        yaw = abs(head_euler_degrees(self.R)["yaw"])
        return float(np.exp(np.interp(yaw, ROTATION_TOGETHER_YAW, np.log(ROTATION_TOGETHER))))


def opinion(said: Regressed, index: int, crop: FaceCrop, photo: Photo) -> Opinion:
    """What was said of one crop, of the photo that it was cut from.

    Raises :class:`WeightsError` when the answer holds what is no number.
    """
    camera = said.photo_camera(index, crop.window, photo)
    parts = (camera.R, camera.t, camera.K, said.identity[index], said.expression[index])
    if not all(np.isfinite(part).all() for part in parts) or camera.t[2] <= 0:
        raise WeightsError("The network's answer makes no sense; take other weights or leave out the stage regress.")
    return Opinion(
        camera=camera,
        R=to_middle(camera, photo.focal_px) @ camera.R,
        identity=said.identity[index].astype(np.float64),
        expression=said.expression[index].astype(np.float64),
        sigma={name: values[index].astype(np.float64) for name, values in said.sigma.items()},
        usual=dict(said.usual),
    )


def to_middle(camera: Camera, focal_px: float | None = None) -> np.ndarray:
    """(3, 3) the turn from a camera that looks at a crop's middle to one that looks at the photo's.

    A network sees a crop as if its middle were straight ahead. In the photo's camera that middle lies along a ray
    beside the axis, and the head is turned with it.
    """
    focal = camera.focal_px if focal_px is None else focal_px
    ray = np.array([camera.K[0, 2] - camera.width / 2.0, camera.K[1, 2] - camera.height / 2.0, focal])
    axis = np.cross([0.0, 0.0, 1.0], ray)
    across = float(np.linalg.norm(axis))
    if across < 1e-9 * focal:
        return np.eye(3)
    return matrix_from_rotation_vector(axis / across * np.arctan2(across, focal))


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
        What the network measured, see :meth:`Opinion.information`.
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
    """Opinions of a batch (None where there is none), as tensors beside a :class:`~backend.reconstruction.fit.Problem`.

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


# --- rotations --------------------------------------------------------------------------------------------


def rotation_vector(R: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) -> (B, 3) radians: the logarithm, also near half a turn."""
    skewed = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], dim=1) / 2
    sine, cosine = skewed.norm(dim=1), (R.diagonal(dim1=1, dim2=2).sum(dim=1) - 1.0) / 2.0
    angle = torch.atan2(sine, cosine)
    axis = skewed / sine.clamp_min(1e-12)[:, None]
    # Near half a turn the skew part vanishes; (R + 1) / 2 is the axis times itself there.
    symmetric = (R + torch.eye(3).to(R)) / 2
    longest = symmetric.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column = symmetric[torch.arange(len(R), device=R.device), :, longest]
    half = torch.nn.functional.normalize(column, dim=1)
    half = torch.where((half * skewed).sum(dim=1, keepdim=True) < 0, -half, half)
    axis = torch.where(((sine < 1e-4) & (cosine < 0))[:, None], half, axis)
    return torch.where((sine < 1e-7)[:, None] & (cosine > 0)[:, None], skewed, axis * angle[:, None])


def inverse_left_jacobian(vector: torch.Tensor) -> torch.Tensor:
    """(B, 3) -> (B, 3, 3): how ``log(exp(step) exp(vector))`` changes with the step."""
    x, y, z = vector.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    angle = vector.norm(dim=1)[:, None, None]
    safe = angle.clamp_min(1e-3)
    factor = safe**-2.0 - (1.0 + safe.cos()) / (2.0 * safe * safe.sin().clamp_min(1e-9))
    factor = torch.where(angle < 1e-3, torch.full_like(factor, 1.0 / 12.0), factor)
    return torch.eye(3).to(vector) - cross / 2 + factor * (cross @ cross)


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
