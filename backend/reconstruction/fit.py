"""Landmarks to identity, expression, pose and camera: a batched Levenberg-Marquardt fit.

Every photo of a batch is solved at once and on its own. The unknowns and the cost are those of
``landmark_cost.py``; here is the way down: a closed-form start, the pose of a rigid head, then everything.

Symbols: B batch, L landmarks, Q = I + E coefficients, P unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backend.geometry.rotation import FRONTAL, head_euler_degrees
from backend.reconstruction import fit_kernel
from backend.reconstruction.correction import with_moves
from backend.reconstruction.landmark_cost import POSE, LandmarkCost, Observation, State
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.one_thread import one_thread
from backend.reconstruction.priors import DISTANCE_LOG_SIGMA, DISTANCE_M, expression_prior

MAX_ITERATIONS = 15
# Steps of the mean face alone, before its shape may follow.
POSE_ITERATIONS = 5
# Stop when a step lowers the cost by less than this part of it.
CONVERGENCE = 3e-4
DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MAX = 1e-3, 0.2, 6.0, 1e8
# How far the fit may move the identity away from the regressed one, in standard deviations. Small trusts
# the regression, 1 the landmarks' own word: on invented people the former errs less (0.1 instead of this: by 4 % more
# from the front, 3 % from three photos), on real photos the latter lies closer to the face in the picture (by 0.03 %
# of its height). Half of this changes little.
REGRESSED_SIGMA = 0.05
# Rounds of the active set within one step; later iterations finish what these leave.
ACTIVE_SET_ROUNDS = 6


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


class Fitter:
    """Fits one landmark set of one face model; build once, use for many photos.

    Parameters
    ----------
    landmarks : LandmarkModel
    batch : int
        Photos solved together; bounds memory, does not change results.
    compiled : bool
        Go down in compiled code where that can be: on the CPU, in double precision, where no network has a say. Else,
        and with False, in PyTorch; the results differ by rounding.
    """

    def __init__(self, landmarks: LandmarkModel, batch: int = 16, compiled: bool = True) -> None:
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
        able = landmarks.device.type == "cpu" and landmarks.dtype == torch.float64
        self.compiled = fit_kernel.gather(self) if compiled and able else None

    @one_thread()
    def fit(self, observations: Sequence[Observation]) -> list[FitResult]:
        """Solve every observation; the order is kept."""
        results: list[FitResult] = []
        for start in range(0, len(observations), self.batch):
            problem = Problem(self, observations[start : start + self.batch])
            results += problem.solve()
        return results

    @one_thread()
    def rough_yaw(self, observations: Sequence[Observation]) -> list[float]:
        """How far landmarks alone show each head turned to a side, degrees, in closed form."""
        rotations = Problem(self, observations).start().rotation
        return [abs(head_euler_degrees(_numpy(rotation))["yaw"]) for rotation in rotations]

    @one_thread()
    def pose(self, observations: Sequence[Observation]) -> list[FitResult]:
        """Pose and camera of the mean face alone, identity and expression left at rest."""
        results: list[FitResult] = []
        for start in range(0, len(observations), self.batch):
            problem = Problem(self, observations[start : start + self.batch])
            results += problem.results(*problem.descend(problem.start(), MAX_ITERATIONS, pose_only=True))
        return results


class Problem(LandmarkCost):
    """One batch of photos under solution."""

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

    # -- solve -----------------------------------------------------------------------------------

    def solve(self) -> list[FitResult]:
        state = self.start()
        if self.lm.regress is not None:
            self.expected, self.sigma = self.opinions.identify(self.regressed(), self.lm.regress.sigma)
            state.coefficients[:, : self.lm.identity_count] = self.expected
        state = self.posed(state)
        state, iterations, converged = self.descend(state, MAX_ITERATIONS)
        return self.results(state, iterations, converged)

    def regressed(self) -> torch.Tensor:
        """(B, I) identities that the landmarks say, put right where something was learned about that."""
        assert self.lm.regress is not None
        answers = self.lm.regress.identity(self.as_detected, self.trust)
        if self.lm.correct is None:
            return answers
        apart = self.lm.regress.apart(self.as_detected)
        answers = self.lm.correct.identity(apart, answers)
        if self.lm.correct_moved is None or not bool(self.moved.any()):
            return answers
        both = with_moves(apart, self.lm.regress.apart(self.detected))
        return answers + self.moved[:, None] * (self.lm.correct_moved.identity(both, answers) - answers)

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
        costs = [self.residual(begun).cost + self.prior_cost(begun) for begun in starts]
        return starts[1].where(costs[1] < costs[0], starts[0])

    def descend(self, state: State, limit: int, pose_only: bool = False) -> tuple[State, torch.Tensor, torch.Tensor]:
        """Levenberg-Marquardt until every photo of the batch has converged or ``limit`` steps are done."""
        f = self.fitter
        if f.compiled is not None and not self.opinions.any and self.places is None:
            return fit_kernel.descend(f.compiled, self, state, kernel_limits(limit), pose_only)
        # The pose alone leaves the shape as it is.
        shape = self.shape(state.coefficients) if pose_only else None
        r = self.residual(state, shape)
        cost = r.cost + self.prior_cost(state)
        damping = torch.full_like(cost, DAMPING_START)
        iterations = torch.zeros_like(cost, dtype=torch.long)
        done = torch.zeros_like(cost, dtype=torch.bool)
        equations = self.normal_equations(state, r, pose_only)
        for _ in range(limit):
            step = self.step(state, *equations, damping, pose_only)
            trial = state.moved(step, f.lower, f.upper)
            trial_r = self.residual(trial, shape)
            trial_cost = trial_r.cost + self.prior_cost(trial)
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
            r = trial_r if bool(better.all()) else self.residual(state, shape)
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
        cost = r.cost + self.prior_cost(state)
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
        image = r.image if self.places is None else self.project(state, r.points - self.placed(state))[1]
        return [
            FitResult(
                identity=_numpy(state.coefficients[b, : lm.identity_count]).astype(np.float32),
                expression=_numpy(state.coefficients[b, lm.identity_count :]).astype(np.float32),
                R=_numpy(state.rotation[b]),
                t=_numpy(translation[b]),
                focal_px=float(focal[b]),
                sigma_identity=_numpy(sigma[b]).astype(np.float32),
                sigma_log_distance=float(sigma_depth[b]),
                projected=_numpy(image[b]),
                cost=float(cost[b]),
                iterations=int(iterations[b]),
                converged=bool(converged[b]),
            )
            for b in range(len(cost))
        ]


def kernel_limits(steps: int) -> fit_kernel.Limits:
    """The constants above, for at most so many steps."""
    rest = (CONVERGENCE, DAMPING_START, DAMPING_DOWN, DAMPING_UP, DAMPING_MAX, ACTIVE_SET_ROUNDS)
    return fit_kernel.Limits(steps, *rest)


def solve_positive(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve (B, P, P) symmetric positive systems for (B, P) right sides.

    By Cholesky, never LU, see :mod:`backend.reconstruction.one_thread`.
    """
    return torch.cholesky_solve(right[..., None], torch.linalg.cholesky(matrix))[..., 0]


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
