"""Landmarks to identity, expression, pose and camera: a batched Levenberg-Marquardt fit.

Every photo of a batch is solved at once and on its own. Unknowns per photo, in this order::

    omega (3)    rotation increment, radians      tau (2)    head's x, y in the camera, metres
    log_scale    log of pixels per metre          log_depth  log of the camera distance in metres
    alpha (I)    identity, standard deviations    delta (E)  expression

The focal length is ``exp(log_scale + log_depth)``: the scale is what a photo fixes, the distance is
what only perspective tells, and this choice keeps the two apart. The cost is

    sum_l rho(|W_l (projected_l - detected_l)|^2) / 2 + priors   (see priors.py)

with ``rho`` the Cauchy function, so that a landmark that does not fit stops pulling.

Symbols: B batch, L landmarks, C contour landmarks, Q = I + E coefficients, P unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backend.geometry.rotation import FRONTAL
from backend.reconstruction.contour import outward_normals, slide
from backend.reconstruction.landmark_model import LandmarkModel, upright_frame
from backend.reconstruction.opinion import Opinion, Opinions
from backend.reconstruction.priors import DISTANCE_LOG_SIGMA, DISTANCE_M, expression_prior, focal_prior

POSE = 7  # omega, tau, log_scale, log_depth
MAX_ITERATIONS = 15
# Steps of the mean face alone, before its shape may follow.
POSE_ITERATIONS = 5
# Stop when a step lowers the cost by less than this part of it.
CONVERGENCE = 3e-4
DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MAX = 1e-3, 0.2, 6.0, 1e8
# How far the fit may move the identity away from the regressed one, in standard deviations. Small trusts
# the regression, 1 the landmarks' own word: on invented people in skins of real ones the former errs less,
# on real photos the latter lies closer to the face in the picture.
REGRESSED_SIGMA = 0.1
# Residual, in standard deviations, at which a landmark's pull has halved.
CAUCHY_SCALE = 3.0
# Rounds of the active set within one step; later iterations finish what these leave.
ACTIVE_SET_ROUNDS = 6


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
    """

    landmarks: np.ndarray
    width: int
    height: int
    focal_px: float | None = None
    trust: np.ndarray | None = None
    opinion: Opinion | None = None


@dataclass(frozen=True)
class FitResult:
    """One photo's solution; shapes as in :class:`backend.reconstruction.result.Reconstruction`."""

    identity: np.ndarray
    expression: np.ndarray
    R: np.ndarray
    t: np.ndarray
    focal_px: float
    sigma_identity: np.ndarray
    sigma_log_distance: float
    projected: np.ndarray
    cost: float
    iterations: int
    converged: bool


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


class Fitter:
    """Fits one landmark set of one face model; build once, use for many photos.

    Parameters
    ----------
    landmarks : LandmarkModel
    batch : int
        Photos solved together; bounds memory, does not change results.
    """

    def __init__(self, landmarks: LandmarkModel, batch: int = 16) -> None:
        self.lm, self.batch = landmarks, batch
        prior = expression_prior(landmarks.model)
        like = {"device": landmarks.device, "dtype": landmarks.dtype}
        identity = landmarks.identity_count
        size = POSE + identity + landmarks.expression_count
        # Quadratic and linear parts of the priors on coefficients; pose is added per photo.
        self.precision = torch.zeros(size, size, **like)
        self.precision[POSE:, POSE:] = torch.eye(size - POSE, **like)
        if landmarks.regress is not None:
            self.precision[POSE : POSE + identity, POSE : POSE + identity] /= REGRESSED_SIGMA**2
        span = slice(POSE + identity, POSE + landmarks.identity_count + landmarks.expression_count)
        self.precision[span, span] = torch.as_tensor(prior.precision, **like)
        self.rate = torch.zeros(size, **like)
        self.rate[span] = torch.as_tensor(prior.rate, **like)
        count = identity + landmarks.expression_count
        self.lower = torch.full((count,), -torch.inf, **like)
        self.upper = torch.full((count,), torch.inf, **like)
        self.lower[identity:], self.upper[identity:] = prior.lower, prior.upper

    def fit(self, observations: Sequence[Observation]) -> list[FitResult]:
        """Solve every observation; the order is kept."""
        results: list[FitResult] = []
        for start in range(0, len(observations), self.batch):
            problem = Problem(self, observations[start : start + self.batch])
            results += problem.solve()
        return results

    def pose(self, observations: Sequence[Observation]) -> list[FitResult]:
        """Pose and camera of the mean face alone, identity and expression left at rest."""
        results: list[FitResult] = []
        for start in range(0, len(observations), self.batch):
            problem = Problem(self, observations[start : start + self.batch])
            results += problem.results(*problem.descend(problem.start(), MAX_ITERATIONS, pose_only=True))
        return results


class Problem:
    """One batch of photos under solution."""

    def __init__(self, fitter: Fitter, observations: Sequence[Observation]) -> None:
        self.fitter, self.lm, self.precision = fitter, fitter.lm, fitter.precision
        like = {"device": self.lm.device, "dtype": self.lm.dtype}

        def tensor(rows: list) -> torch.Tensor:
            return torch.as_tensor(np.array(rows), **like)

        self.detected = tensor([o.landmarks for o in observations])
        self.middle = tensor([[o.width / 2, o.height / 2] for o in observations])
        ones = np.ones(self.lm.count)
        self.trust = tensor([ones if o.trust is None else o.trust for o in observations])
        self.focal_prior = tensor([focal_prior(o.width, o.height, o.focal_px) for o in observations])
        self.normals = outward_normals(self.detected[:, self.lm.contour], self.lm.contour_closed)
        self.rows = torch.arange(len(observations), device=self.lm.device)
        self.opinions = Opinions(self.lm, [o.opinion for o in observations])

    # -- start ---------------------------------------------------------------------------------

    def start(self) -> State:
        """Scaled orthography of the mean face, closed form (POS: DeMenthon and Davis 1995, section 3)."""
        model = self.lm.mean - self.lm.mean.mean(dim=0)
        image = self.detected - self.detected.mean(dim=1, keepdim=True)
        rows = torch.einsum("pl,blc->bcp", torch.linalg.pinv(model), image)  # (B, 2, 3)
        u, singular, vt = torch.linalg.svd(rows, full_matrices=False)
        scale = singular.mean(dim=1)
        two = u @ vt
        rotation = torch.cat([two, torch.linalg.cross(two[:, 0], two[:, 1], dim=1)[:, None]], dim=1)
        facing = torch.as_tensor(FRONTAL, dtype=rotation.dtype, device=rotation.device)
        # POS cannot tell a face from its mirror image through the image plane; faces look at cameras.
        backwards = (rotation[:, 2] * facing[2]).sum(dim=1) < 0
        rotation = torch.where(backwards[:, None, None], facing.expand_as(rotation), rotation)
        # Distance and focal length start where the two priors agree best with the scale seen.
        log_scale = torch.log(scale)
        pull_focal, pull_depth = self.focal_prior[:, 1] ** -2, DISTANCE_LOG_SIGMA**-2
        log_depth = pull_focal * (self.focal_prior[:, 0] - log_scale) + pull_depth * np.log(DISTANCE_M)
        log_depth = log_depth / (pull_focal + pull_depth)
        centre = (self.detected.mean(dim=1) - self.middle) / scale[:, None]
        tau = centre - (rotation @ self.lm.mean.mean(dim=0))[:, :2]
        # Pixels per metre that turn residuals into metres; fixed for the whole solve, else the fit could
        # lower its cost by making the face small.
        self.unit = scale
        pose = torch.cat([tau, log_scale[:, None], log_depth[:, None]], dim=1)
        self.expected = torch.zeros(len(pose), self.lm.identity_count, dtype=pose.dtype, device=pose.device)
        self.sigma = self.expected if self.lm.regress is None else self.lm.regress.sigma.expand_as(self.expected)
        coefficients = torch.zeros(len(pose), self.lm.basis.shape[2], dtype=pose.dtype, device=pose.device)
        return State(rotation, pose, coefficients)

    # -- the model, forward ----------------------------------------------------------------------

    def project(self, state: State, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, 3) model points -> camera points (B, N, 3) and pixels (B, N, 2)."""
        depth = state.pose[:, 3].exp()
        offset = torch.cat([state.pose[:, :2], depth[:, None]], dim=1)
        camera = points @ state.rotation.mT + offset[:, None]
        focal = (state.pose[:, 2] + state.pose[:, 3]).exp()
        return camera, focal[:, None, None] * camera[..., :2] / camera[..., 2:] + self.middle[:, None]

    def points(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """Landmarks in model space (B, L, 3), contours slid, and the strip index (B, C) of each contour."""
        lm, coefficients = self.lm, state.coefficients
        points = lm.mean + torch.einsum("klq,bq->blk", lm.basis, coefficients)
        strips = lm.strip_mean + torch.einsum("kcsq,bq->bcsk", lm.strip_basis, coefficients)
        batch, contours, samples, _ = strips.shape
        _, image = self.project(state, strips.reshape(batch, -1, 3))
        chosen = slide(image.reshape(batch, contours, samples, 2), self.normals)
        slid = torch.gather(strips, 2, chosen[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
        points = points.index_copy(1, lm.contour, slid)
        return points, chosen

    def residual(self, state: State) -> Residual:
        """Whitened landmark residuals of a state, and what the Jacobian needs again."""
        lm = self.lm
        points, chosen = self.points(state)
        camera, image = self.project(state, points)
        frame = upright_frame(state.rotation)
        apart = torch.einsum("blc,bck->blk", image - self.detected, frame) / self.unit[:, None, None]
        white = torch.einsum("lij,blj->bli", lm.whitening, apart)
        squared = (white**2).sum(dim=2)
        robust = torch.log1p(squared / CAUCHY_SCALE**2) * CAUCHY_SCALE**2
        weight = self.trust / (1.0 + squared / CAUCHY_SCALE**2)
        cost = (self.trust * robust).sum(1) / 2
        return Residual(points, camera, image, chosen, frame, white, weight, cost)

    def prior_terms(self, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cost (B,), gradient (B, P) and Hessian (B, P, P) of everything known before the photo."""
        f = self.fitter
        x = torch.cat([torch.zeros_like(state.pose[:, :3]), state.pose, state.coefficients], dim=1)
        x[:, POSE : POSE + self.lm.identity_count] -= self.expected
        gradient = x @ self.precision + f.rate
        cost = (x * (x @ self.precision)).sum(1) / 2 + x @ f.rate
        hessian = self.precision.expand(len(x), -1, -1).clone()
        depth_off = state.pose[:, 3] - np.log(DISTANCE_M)
        focal_off = state.pose[:, 2] + state.pose[:, 3] - self.focal_prior[:, 0]
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
        focal = (state.pose[:, 2] + state.pose[:, 3]).exp()[:, None]
        inverse_z = 1.0 / r.camera[..., 2]
        ratio = r.camera[..., :2] * inverse_z[..., None]
        # Pixels per camera metre, turned upright, in units of the scale, whitened: (B, L, 2, 3).
        to_white = torch.einsum("lij,bcj->blic", lm.whitening, r.frame)
        to_white = to_white / self.unit[:, None, None, None]
        flat = (focal * inverse_z)[..., None, None] * to_white
        by_camera = torch.cat([flat, -(flat * ratio[:, :, None]).sum(-1, keepdim=True)], dim=3)
        by_model = by_camera @ state.rotation[:, None]
        width = POSE if pose_only else len(self.fitter.precision)
        jacobian = torch.zeros(batch, count, 2, width, dtype=lm.dtype, device=lm.device)
        arm = r.camera - torch.cat([state.pose[:, :2], state.pose[:, 3:].exp()], dim=1)[:, None]
        jacobian[..., :3] = torch.linalg.cross(arm[:, :, None].expand_as(by_camera), by_camera, dim=3)
        jacobian[..., :3] += self.by_turning(state, r)
        jacobian[..., 3:5] = by_camera[..., :2]
        from_middle = focal[..., None] * ratio
        by_log_focal = (to_white * from_middle[:, :, None]).sum(-1)
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

    # -- solve -----------------------------------------------------------------------------------

    def normal_equations(
        self, state: State, r: Residual, pose_only: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradient (B, P), Hessian (B, P, P), and which unknowns may move (B, P); P = 7 with ``pose_only``."""
        _, gradient, hessian = self.prior_terms(state)
        root = r.weight.sqrt()[..., None].expand(-1, -1, 2).flatten(1)
        weighted = self.jacobian(state, r, pose_only) * root[..., None]
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

    def solve(self) -> list[FitResult]:
        state = self.start()
        if self.lm.regress is not None:
            regressed = self.lm.regress.identity(self.detected, self.trust)
            self.expected, self.sigma = self.opinions.identify(regressed, self.lm.regress.sigma)
            state.coefficients[:, : self.lm.identity_count] = self.expected
        state = self.posed(state)
        state, iterations, converged = self.descend(state, MAX_ITERATIONS)
        return self.results(state, iterations, converged)

    def posed(self, state: State) -> State:
        """The head as it is known so far, put before the camera; from where the network sees it if that costs less."""
        if not self.opinions.any:
            return self.descend(state, POSE_ITERATIONS, pose_only=True)[0]
        other = self.opinions.start(state, self.detected, self.middle)
        if self.lm.regress is not None:
            other.coefficients[:, : self.lm.identity_count] = self.expected
        # Whom the regression believes stays as it is: it has seen what a detector does to covered faces.
        self.trust = self.opinions.trusted(self.detected, self.trust)
        starts = [self.descend(begun, POSE_ITERATIONS, pose_only=True)[0] for begun in (state, other)]
        costs = [self.residual(begun).cost + self.prior_terms(begun)[0] for begun in starts]
        return starts[1].where(costs[1] < costs[0], starts[0])

    def descend(self, state: State, limit: int, pose_only: bool = False) -> tuple[State, torch.Tensor, torch.Tensor]:
        """Levenberg-Marquardt until every photo of the batch has converged or ``limit`` steps are done."""
        f = self.fitter
        r = self.residual(state)
        cost = r.cost + self.prior_terms(state)[0]
        damping = torch.full_like(cost, DAMPING_START)
        iterations = torch.zeros_like(cost, dtype=torch.long)
        done = torch.zeros_like(cost, dtype=torch.bool)
        equations = self.normal_equations(state, r, pose_only)
        for _ in range(limit):
            step = self.step(state, *equations, damping, pose_only)
            trial = state.moved(step, f.lower, f.upper)
            trial_r = self.residual(trial)
            trial_cost = trial_r.cost + self.prior_terms(trial)[0]
            better = (trial_cost < cost) & ~done
            iterations += (~done).long()
            small = (cost - trial_cost).abs() < CONVERGENCE * cost
            damping = torch.where(better, damping * DAMPING_DOWN, damping * DAMPING_UP)
            done = done | small | (damping > DAMPING_MAX)
            if not bool(better.any()):
                if bool(done.all()):
                    break
                continue
            state = trial.where(better, state)
            cost = torch.where(better, trial_cost, cost)
            if bool(done.all()):
                break
            r = trial_r if bool(better.all()) else self.residual(state)
            equations = self.normal_equations(state, r, pose_only)
        return state, iterations, done

    def step(
        self,
        state: State,
        gradient: torch.Tensor,
        hessian: torch.Tensor,
        free: torch.Tensor,
        damping: torch.Tensor,
        pose_only: bool,
    ) -> torch.Tensor:
        """Damped Gauss-Newton step (B, P) within the bounds.

        The step is the minimum of the quadratic model under the bounds, found by an active set that
        grows: unknowns that would leave their range are put on its border and the others solved again.
        Clamping the free solution instead ruins the step, because shapes that trade against each
        other then lose one half of the trade.
        """
        if pose_only:
            step = gradient.new_zeros(len(gradient), len(self.fitter.precision))
            damped = hessian + torch.diag_embed(damping[:, None] * torch.diagonal(hessian, dim1=1, dim2=2))
            step[:, :POSE] = -solve_positive(damped, gradient)
            return step
        damped = hessian + torch.diag_embed(damping[:, None] * torch.diagonal(hessian, dim1=1, dim2=2))
        span = slice(POSE, POSE + state.coefficients.shape[1])
        down = torch.full_like(gradient, -torch.inf)
        up = torch.full_like(gradient, torch.inf)
        down[:, span] = self.fitter.lower - state.coefficients
        up[:, span] = self.fitter.upper - state.coefficients
        held = torch.zeros_like(gradient)
        for _ in range(ACTIVE_SET_ROUNDS):
            keep = free.to(hessian.dtype)
            system = damped * keep[:, :, None] * keep[:, None] + torch.diag_embed(1.0 - keep)
            pull = (gradient + (damped @ held[..., None])[..., 0]) * keep
            step = held - solve_positive(system, pull)
            outside = free & ((step < down) | (step > up))
            if not bool(outside.any()):
                break
            held = torch.where(outside, torch.minimum(torch.maximum(step, down), up), held)
            free = free & ~outside
        return step

    def results(self, state: State, iterations: torch.Tensor, converged: torch.Tensor) -> list[FitResult]:
        lm = self.lm
        r = self.residual(state)
        cost = r.cost + self.prior_terms(state)[0]
        _, hessian, free = self.normal_equations(state, r)
        keep = free.to(hessian.dtype)
        held = hessian * keep[:, :, None] * keep[:, None] + torch.diag_embed(1.0 - keep)
        variance = torch.diagonal(torch.cholesky_inverse(torch.linalg.cholesky(held)), dim1=1, dim2=2)
        sigma = variance[:, POSE : POSE + lm.identity_count].sqrt()
        if lm.regress is not None:
            sigma = torch.hypot(sigma, self.sigma).clamp_max(1.0)
        sigma_depth = variance[:, 6].sqrt()
        translation = torch.cat([state.pose[:, :2], state.pose[:, 3:].exp()], dim=1)
        focal = (state.pose[:, 2] + state.pose[:, 3]).exp()
        return [
            FitResult(
                identity=_numpy(state.coefficients[b, : lm.identity_count]).astype(np.float32),
                expression=_numpy(state.coefficients[b, lm.identity_count :]).astype(np.float32),
                R=_numpy(state.rotation[b]),
                t=_numpy(translation[b]),
                focal_px=float(focal[b]),
                sigma_identity=_numpy(sigma[b]).astype(np.float32),
                sigma_log_distance=float(sigma_depth[b]),
                projected=_numpy(r.image[b]),
                cost=float(cost[b]),
                iterations=int(iterations[b]),
                converged=bool(converged[b]),
            )
            for b in range(len(cost))
        ]


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


def solve_positive(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve (B, P, P) symmetric positive systems for (B, P) right sides.

    By Cholesky, never LU: the batched LU of PyTorch 2.13 on the CPU fails inside MKL once a program has
    called ``torch.set_num_threads``.
    """
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(matrix))[..., 0]


def exponential(vector: torch.Tensor) -> torch.Tensor:
    """Rodrigues' formula, (B, 3) radians -> (B, 3, 3)."""
    zero = torch.zeros_like(vector[:, 0])
    x, y, z = vector.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    return torch.matrix_exp(cross)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
