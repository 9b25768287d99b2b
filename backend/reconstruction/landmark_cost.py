"""What the fit minimises: how far a head's landmarks lie from the detected ones, and what is known besides.

Every photo of a batch has unknowns of its own, in this order::

    omega (3)    rotation increment, radians      tau (2)    head's x, y in the camera, metres
    log_scale    log of pixels per metre          log_depth  log of the camera distance in metres
    alpha (I)    identity, standard deviations    delta (E)  expression

The focal length is ``exp(log_scale + log_depth)``: the scale is what a photo fixes, the distance is
what only perspective tells, and this choice keeps the two apart. The cost is

    sum_l rho(|W_l (projected_l - detected_l)|^2) / 2 + priors   (see priors.py)

with ``rho`` the Cauchy function, so that a landmark that does not fit stops pulling. Its derivatives are
closed forms; ``fit.py`` goes down along them.

Symbols: B batch, L landmarks, C contour landmarks, Q = I + E coefficients, P unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.reconstruction.contour import outward_normals, slide
from backend.reconstruction.landmark_model import upright_frame
from backend.reconstruction.opinion import Opinion
from backend.reconstruction.opinion_terms import Opinions
from backend.reconstruction.priors import DISTANCE_LOG_SIGMA, DISTANCE_M, focal_prior
from backend.reconstruction.turning import exponential

if TYPE_CHECKING:
    from backend.reconstruction.fit import Fitter

POSE = 7  # omega, tau, log_scale, log_depth
# Residual, in standard deviations, at which a landmark's pull has halved.
CAUCHY_SCALE = 3.0


@dataclass(frozen=True)
class Observation:
    """What one photo tells the fit.

    Attributes
    ----------
    landmarks : (L, 2) float
        Pixels, centre of the top-left pixel at (0.5, 0.5).
    width, height : int
        Of the photo, pixels.
    focal_px : float or None
        From EXIF.
    trust : (L,) float, optional
        Weight of each landmark, 1 by default, 0 leaves it out.
    opinion : Opinion, optional
        What a network says of the face.
    as_detected : (L, 2) float, optional
        Where the detector had the landmarks, if they have been put right since. The regression, which learned what
        a detector does, reads these.
    moved : float
        How much of what puts landmarks right was done, 0 to 1.
    """

    landmarks: np.ndarray
    width: int
    height: int
    focal_px: float | None = None
    trust: np.ndarray | None = None
    opinion: Opinion | None = None
    as_detected: np.ndarray | None = None
    moved: float = 0.0


def as_detected(observation: Observation) -> Observation:
    """The same with landmarks where the detector had them."""
    if observation.as_detected is None:
        return observation
    return replace(observation, landmarks=observation.as_detected, as_detected=None, moved=0.0)


@dataclass
class State:
    """Current unknowns of a batch."""

    rotation: torch.Tensor  # (B, 3, 3)
    pose: torch.Tensor  # (B, 4): tau, log_scale, log_depth
    coefficients: torch.Tensor  # (B, Q)

    def moved(self, step: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> State:
        coefficients = self.coefficients + step[:, POSE:]
        return State(
            exponential(step[:, :3]) @ self.rotation,
            self.pose + step[:, 3:POSE],
            torch.minimum(torch.maximum(coefficients, lower), upper),
        )

    def where(self, mask: torch.Tensor, other: State) -> State:
        """This state where ``mask`` (B,), the other elsewhere."""

        def pick(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b)

        return State(
            pick(self.rotation, other.rotation),
            pick(self.pose, other.pose),
            pick(self.coefficients, other.coefficients),
        )


@dataclass
class Residual:
    """Residuals of a state with the intermediate values that the Jacobian uses again."""

    points: torch.Tensor  # (B, L, 3) model space
    camera: torch.Tensor  # (B, L, 3) camera space
    image: torch.Tensor  # (B, L, 2) pixels
    chosen: torch.Tensor  # (B, C) strip index of each contour landmark
    frame: torch.Tensor  # (B, 2, 2) upright frame
    white: torch.Tensor  # (B, L, 2) whitened residual
    weight: torch.Tensor  # (B, L) trust times Cauchy weight
    cost: torch.Tensor  # (B,)


# Landmarks and contour strips, see :meth:`LandmarkCost.shape`.
Shape = tuple[torch.Tensor, torch.Tensor]


class LandmarkCost:
    """The cost of one batch of photos, with its derivatives.

    ``unit`` (B,), pixels per metre, and ``expected`` (B, I), the identity that the priors pull to, are set where the
    solve starts. ``places`` (L, 3) are added to the model's landmarks, see ``landmark_places.py``; None for zeros.
    ``moved`` (B,) is how much of putting landmarks right was done.
    """

    unit: torch.Tensor
    expected: torch.Tensor
    places: torch.Tensor | None = None

    def __init__(self, fitter: Fitter, observations: Sequence[Observation]) -> None:
        self.fitter, self.lm, self.precision = fitter, fitter.lm, fitter.precision
        like = {"device": self.lm.device, "dtype": self.lm.dtype}

        def tensor(rows: list) -> torch.Tensor:
            return torch.as_tensor(np.array(rows), **like)

        self.detected = tensor([o.landmarks for o in observations])
        self.as_detected = tensor([o.landmarks if o.as_detected is None else o.as_detected for o in observations])
        self.middle = tensor([[o.width / 2, o.height / 2] for o in observations])
        ones = np.ones(self.lm.count)
        self.trust = tensor([ones if o.trust is None else o.trust for o in observations])
        self.focal_prior = tensor([focal_prior(o.width, o.height, o.focal_px) for o in observations])
        self.normals = outward_normals(self.detected[:, self.lm.contour], self.lm.contour_closed)
        self.opinions = Opinions(self.lm, [o.opinion for o in observations])
        self.moved = tensor([o.moved for o in observations])

    # -- the model, forward ----------------------------------------------------------------------

    def project(self, state: State, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, 3) model points -> camera points (B, N, 3) and pixels (B, N, 2)."""
        depth = state.pose[:, 3].exp()
        offset = torch.cat([state.pose[:, :2], depth[:, None]], dim=1)
        camera = points @ state.rotation.mT + offset[:, None]
        focal = (state.pose[:, 2] + state.pose[:, 3]).exp()
        return camera, focal[:, None, None] * camera[..., :2] / camera[..., 2:] + self.middle[:, None]

    def shape(self, coefficients: torch.Tensor) -> Shape:
        """Landmarks (B, L, 3) and contour strips (B, C, S, 3) in model space."""
        lm = self.lm
        points = lm.mean + torch.einsum("klq,bq->blk", lm.basis, coefficients)
        strips = lm.strip_mean + torch.einsum("kcsq,bq->bcsk", lm.strip_basis, coefficients)
        return points, strips

    def points(self, state: State, shape: Shape | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Landmarks in model space (B, L, 3), contours slid, and the strip index (B, C) of each contour."""
        lm = self.lm
        points, strips = self.shape(state.coefficients) if shape is None else shape
        batch, contours, samples, _ = strips.shape
        _, image = self.project(state, strips.reshape(batch, -1, 3))
        chosen = slide(image.reshape(batch, contours, samples, 2), self.normals)
        slid = torch.gather(strips, 2, chosen[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
        points = points.index_copy(1, lm.contour, slid)
        return points if self.places is None else points + self.placed(state), chosen

    def placed(self, state: State) -> torch.Tensor:
        """(B, L, 3) the places as they move the landmarks of each photo, metres of the head as large as it is now.

        They are in the units of the residuals, which stay: else a near head would have its landmarks moved for less.
        """
        assert self.places is not None
        return (self.unit / state.pose[:, 2].exp())[:, None, None] * self.places

    def residual(self, state: State, shape: Shape | None = None) -> Residual:
        """Whitened landmark residuals of a state, and what the Jacobian needs again.

        ``shape`` is that of the state's coefficients, where it is known already.
        """
        lm = self.lm
        points, chosen = self.points(state, shape)
        camera, image = self.project(state, points)
        frame = upright_frame(state.rotation)
        apart = torch.einsum("blc,bck->blk", image - self.detected, frame) / self.unit[:, None, None]
        white = torch.einsum("lij,blj->bli", lm.whitening, apart)
        squared = (white**2).sum(dim=2)
        robust = torch.log1p(squared / CAUCHY_SCALE**2) * CAUCHY_SCALE**2
        weight = self.trust / (1.0 + squared / CAUCHY_SCALE**2)
        cost = (self.trust * robust).sum(1) / 2
        return Residual(points, camera, image, chosen, frame, white, weight, cost)

    def prior_cost(self, state: State) -> torch.Tensor:
        """Cost (B,) of everything known before the photo."""
        if self.opinions.any:
            return self.prior_terms(state)[0]
        x, depth_off, focal_off = self._before(state)
        cost = (x * (x @ self.precision)).sum(1) / 2 + x @ self.fitter.rate
        return cost + (DISTANCE_LOG_SIGMA**-2 * depth_off**2 + self.focal_prior[:, 1] ** -2 * focal_off**2) / 2

    def _before(self, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The unknowns less what is expected of them (B, P), and how far off log distance and log focal length are."""
        x = torch.cat([torch.zeros_like(state.pose[:, :3]), state.pose, state.coefficients], dim=1)
        x[:, POSE : POSE + self.lm.identity_count] -= self.expected
        focal_off = state.pose[:, 2] + state.pose[:, 3] - self.focal_prior[:, 0]
        return x, state.pose[:, 3] - np.log(DISTANCE_M), focal_off

    def prior_terms(self, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """:meth:`prior_cost` (B,), its gradient (B, P) and Hessian (B, P, P)."""
        f = self.fitter
        x, depth_off, focal_off = self._before(state)
        pulled = x @ self.precision
        gradient = pulled + f.rate
        cost = (x * pulled).sum(1) / 2 + x @ f.rate
        hessian = self.precision.expand(len(x), -1, -1).clone()
        depth_pull = DISTANCE_LOG_SIGMA**-2
        focal_pull = self.focal_prior[:, 1] ** -2
        cost = cost + (depth_pull * depth_off**2 + focal_pull * focal_off**2) / 2
        gradient[:, 5] += focal_pull * focal_off
        gradient[:, 6] += focal_pull * focal_off + depth_pull * depth_off
        hessian[:, 5:7, 5:7] += focal_pull[:, None, None]
        hessian[:, 6, 6] += depth_pull
        if self.opinions.any:
            parts = self.opinions.terms(state, POSE)
            cost, gradient, hessian = (own + said for own, said in zip((cost, gradient, hessian), parts))
        return cost, gradient, hessian

    # -- derivatives ---------------------------------------------------------------------------

    def jacobian(self, state: State, r: Residual, pose_only: bool = False) -> torch.Tensor:
        """(B, 2 L, P) derivative of the whitened residuals; (B, 2 L, 7) with ``pose_only``."""
        lm = self.lm
        batch, count = r.points.shape[:2]
        by_pixel, by_camera, by_model = self.by_point(state, r)
        width = POSE if pose_only else len(self.fitter.precision)
        jacobian = torch.zeros(batch, count, 2, width, dtype=lm.dtype, device=lm.device)
        arm = r.camera - torch.cat([state.pose[:, :2], state.pose[:, 3:].exp()], dim=1)[:, None]
        jacobian[..., :3] = torch.linalg.cross(arm[:, :, None].expand_as(by_camera), by_camera, dim=3)
        jacobian[..., :3] += self.by_turning(state, r)
        jacobian[..., 3:5] = by_camera[..., :2]
        from_middle = r.image - self.middle[:, None]
        by_log_focal = (by_pixel * from_middle[:, :, None]).sum(-1)
        jacobian[..., 5] = by_log_focal
        jacobian[..., 6] = by_log_focal + by_camera[..., 2] * state.pose[:, 3].exp()[:, None, None]
        if pose_only:
            return jacobian.reshape(batch, 2 * count, width)
        coefficients = jacobian[..., POSE:]
        for axis in range(3):
            coefficients.addcmul_(by_model[..., axis, None], lm.basis[axis][None, :, None])
        slid = lm.strip_basis[:, torch.arange(len(lm.contour), device=lm.device), r.chosen]  # (3, B, C, Q)
        at_contour = torch.einsum("bcik,kbcq->bciq", by_model[:, lm.contour], slid)
        coefficients[:, lm.contour] = at_contour
        return jacobian.reshape(batch, 2 * count, -1)

    def by_point(self, state: State, r: Residual) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Derivatives of the whitened residuals by the landmarks: by pixels (B, L, 2, 2), by points of the camera
        (B, L, 2, 3) and by points of the model (B, L, 2, 3)."""
        inverse_z = 1.0 / r.camera[..., 2]
        # Turned upright, in units of the scale, whitened.
        by_pixel = torch.einsum("lij,bcj->blic", self.lm.whitening, r.frame) / self.unit[:, None, None, None]
        flat = (state.pose[:, 2] + state.pose[:, 3]).exp()[:, None, None, None] * inverse_z[..., None, None] * by_pixel
        ratio = r.camera[..., :2] * inverse_z[..., None]
        by_camera = torch.cat([flat, -(flat * ratio[:, :, None]).sum(-1, keepdim=True)], dim=3)
        return by_pixel, by_camera, by_camera @ state.rotation[:, None]

    def by_turning(self, state: State, r: Residual) -> torch.Tensor:
        """(B, L, 2, 3) what a rotation increment does besides moving the points.

        It turns the upright frame in which residuals are whitened.
        """
        # The head's down axis d = -R e_y moves by omega x d; only its angle in the image matters.
        x, y, z = (-state.rotation[:, :, 1]).unbind(1)
        squared = (x * x + y * y).clamp_min(1e-9)
        angle = torch.stack([-x * z / squared, -y * z / squared, torch.ones_like(x)], dim=1)
        quarter = torch.stack([r.frame[:, :, 1], -r.frame[:, :, 0]], dim=2)
        turned = torch.einsum("blc,bck->blk", r.image - self.detected, quarter) / self.unit[:, None, None]
        turned = torch.einsum("lij,blj->bli", self.lm.whitening, turned)
        return turned[..., None] * angle[:, None, None]

    # -- both, as a step needs them ---------------------------------------------------------------

    def normal_equations(
        self, state: State, r: Residual, pose_only: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradient (B, P), Hessian (B, P, P), and which unknowns may move (B, P); P = 7 with ``pose_only``."""
        _, gradient, hessian = self.prior_terms(state)
        root = r.weight.sqrt()[..., None].expand(-1, -1, 2).flatten(1)
        weighted = self.jacobian(state, r, pose_only).mul_(root[..., None])
        width = weighted.shape[2]
        gradient = gradient[:, :width] + torch.einsum("bnp,bn->bp", weighted, r.white.flatten(1) * root)
        hessian = hessian[:, :width, :width] + weighted.mT @ weighted
        free = torch.ones_like(gradient, dtype=torch.bool)
        if not pose_only:
            push = gradient[:, POSE:]
            stuck = (state.coefficients <= self.fitter.lower) & (push > 0)
            stuck |= (state.coefficients >= self.fitter.upper) & (push < 0)
            free[:, POSE:] = ~stuck
        return gradient, hessian, free
