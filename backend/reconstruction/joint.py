"""Several photos of one person: one identity, everything else each photo's own.

The unknowns of :mod:`backend.reconstruction.landmark_cost` fall in two kinds. Pose, camera and expression belong to
a photo; the identity belongs to all. One Levenberg-Marquardt step over all of them together is

    [ A_1              C_1 ] [ local_1 ]       [ a_1         ]
    [      A_2         C_2 ] [ local_2 ]  =  - [ a_2         ]
    [           ...    ... ] [   ...   ]       [ ...         ]
    [ C_1' C_2' ...    D   ] [ alpha   ]       [ d           ]

with ``D`` and ``d`` summed over the photos plus the prior of the identity. The photos' own unknowns are
eliminated first (Schur complement), so a step costs as much as the steps of the photos one by one and one
small system more: linear in the number of photos. Then the landmarks get places of their own
(``landmark_places.py``), in turns with such steps.

Symbols: B photos, L landmarks, I identity modes, E expressions, N = 7 + E unknowns of a photo's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from backend.reconstruction.fit import (
    ACTIVE_SET_ROUNDS,
    CONVERGENCE,
    DAMPING_DOWN,
    DAMPING_MAX,
    DAMPING_START,
    DAMPING_UP,
    MAX_ITERATIONS,
    POSE_ITERATIONS,
    FitResult,
    Fitter,
    Problem,
    solve_positive,
)
from backend.reconstruction.fusion import IdentityPrior, doubt, fused
from backend.reconstruction.landmark_cost import POSE, Observation, State, as_detected
from backend.reconstruction.landmark_places import places

# Turns of the landmarks' places and everything else, and steps in each: the fifth changes nothing that one would see.
PLACE_ROUNDS, PLACE_ITERATIONS = 4, 4


@dataclass(frozen=True)
class JointFit:
    """One person from B photos.

    Attributes
    ----------
    identity : (I,) float32
        Standard deviations.
    sigma_identity : (I,) float32
        As in :class:`~backend.reconstruction.fit.FitResult`.
    photos : list of FitResult
        Pose, camera and expression of each photo; all with this identity.
    offset : (V, 3) float32 or None
        Metres beyond the model's identities, of the refinement.
    places : (L, 3) float32 or None
        How far this person's landmarks lie from the model's, metres, head frame. ``projected`` of the photos is of the
        model's.
    """

    identity: np.ndarray
    sigma_identity: np.ndarray
    photos: list[FitResult]
    offset: np.ndarray | None = None
    places: np.ndarray | None = None


@dataclass(frozen=True)
class Answers:
    """What the regression says of B photos: ``identity`` (B, I), ``views`` (B, 3) and ``doubt`` (B,) of ``fusion``."""

    identity: np.ndarray
    views: np.ndarray
    doubt: np.ndarray


def regressed(fitter: Fitter, observations: Sequence[Observation]) -> Answers | None:
    """Identities before any fit; None where no regression comes with the model and the landmarks.

    As the regression says them, not put right: the statistics of ``same_person.py`` are of these.
    """
    regress = fitter.lm.regress
    if regress is None:
        return None
    problem = Problem(fitter, [as_detected(o) for o in observations])
    views = views_of(problem.start())
    answers = regress.identity(problem.detected, problem.trust)
    return Answers(*(x.cpu().numpy() for x in (answers, views, doubt(answers, regress.sigma, views))))


def views_of(state: State) -> torch.Tensor:
    """(B, 3) the camera's axis in the frame of the head: where each photo looks."""
    return state.rotation[:, 2]


def fit_together(fitter: Fitter, observations: Sequence[Observation]) -> JointFit:
    """Solve photos of one person; at least one. One alone gives what :meth:`Fitter.fit` gives."""
    return JointProblem(fitter, observations).solve_together()


@dataclass
class Equations:
    """Gauss-Newton equations of one step, the photos' own unknowns apart from the shared ones."""

    local: torch.Tensor  # (B, N, N): the A of the module's page
    mixed: torch.Tensor  # (B, N, I): C
    shared: torch.Tensor  # (I, I): D
    local_gradient: torch.Tensor  # (B, N)
    shared_gradient: torch.Tensor  # (I,)
    free: torch.Tensor  # (B, N) bool: not held by a bound


class JointProblem(Problem):
    """Photos of one person under solution; row b of every tensor is a photo, identities are rows alike."""

    def __init__(self, fitter: Fitter, observations: Sequence[Observation]) -> None:
        super().__init__(fitter, observations)
        # What the regression and what was learned of it read.
        self.read_from = [as_detected(observation) for observation in observations]
        size, identity = len(fitter.precision), self.lm.identity_count
        self.shared = torch.arange(POSE, POSE + identity, device=self.lm.device)
        everything = torch.arange(size, device=self.lm.device)
        self.local = torch.cat([everything[:POSE], everything[POSE + identity :]])
        # The identity's prior counts once and not once per photo.
        self.precision = fitter.precision.clone()
        self.precision[self.shared] = 0.0
        self.precision[:, self.shared] = 0.0
        alone = fitter.precision[self.shared][:, self.shared]
        self.prior = IdentityPrior(alone.new_zeros(identity), alone, torch.eye(identity).to(alone))

    def solve_together(self) -> JointFit:
        state, iterations, converged = self.descend_from(self.believe())
        if len(state.pose) == 1:
            # One photo cannot tell its person's places from its own errors: the rest stays as it is.
            alone = self.joint_result(state, iterations, converged)
            return replace(alone, places=places(self, state).cpu().numpy().astype(np.float32))
        # With places the landmarks say less of the identity than the priors of lens and distance do, and without a
        # regression heads would shrink: it stays, and the photos' own unknowns follow.
        believed, self.prior = self.prior, firm(state.coefficients[0, : self.lm.identity_count])
        for _ in range(PLACE_ROUNDS):
            self.places = places(self, state)
            state = self.descend_together(state, PLACE_ITERATIONS)[0]
        self.prior = believed
        return self.joint_result(state, iterations, converged)

    def take_places(self, known: np.ndarray | None) -> None:
        """Places (L, 3) found before; None for none."""
        like = {"dtype": self.lm.dtype, "device": self.lm.device}
        self.places = None if known is None else torch.as_tensor(known, **like)

    def believe(self) -> State:
        """Take what the regression says of the photos as the identity's prior; the state to start from."""
        state = self.start()
        if self.lm.regress is not None:
            views = views_of(Problem(self.fitter, self.read_from).start())
            self.prior = fused(self.regressed(), self.lm.regress.covariance, views, self.prior.precision)
        return state

    def descend_from(self, state: State) -> tuple[State, int, bool]:
        """From the identity believed before: pose first, then everything; state, iterations, converged."""
        state.coefficients[:, : self.lm.identity_count] = self.prior.mean
        state = self.descend(state, POSE_ITERATIONS, pose_only=True)[0]
        return self.descend_together(state, MAX_ITERATIONS)

    def total_cost(self, state: State) -> torch.Tensor:
        """Of all photos and the identity, a scalar."""
        own = self.residual(state).cost + self.prior_cost(state)
        apart = state.coefficients[0, : self.lm.identity_count] - self.prior.mean
        return own.sum() + apart @ self.prior.precision @ apart / 2

    def equations(self, state: State) -> Equations:
        gradient, hessian, free = self.normal_equations(state, self.residual(state))
        identity = state.coefficients[0, : self.lm.identity_count]
        rows = hessian[:, self.local]
        return Equations(
            local=rows[:, :, self.local],
            mixed=rows[:, :, self.shared],
            shared=hessian[:, self.shared][:, :, self.shared].sum(dim=0) + self.prior.precision,
            local_gradient=gradient[:, self.local],
            shared_gradient=gradient[:, self.shared].sum(dim=0) + self.prior.precision @ (identity - self.prior.mean),
            free=free[:, self.local],
        )

    def descend_together(self, state: State, limit: int) -> tuple[State, int, bool]:
        """Levenberg-Marquardt over all photos until they converge as one or ``limit`` steps are done."""
        f = self.fitter
        cost, damping = float(self.total_cost(state)), DAMPING_START
        equations = self.equations(state)
        for iteration in range(1, limit + 1):
            local, shared = self.joint_step(state, equations, damping)
            step = torch.zeros(len(local), len(f.precision), dtype=local.dtype, device=local.device)
            step[:, self.local], step[:, self.shared] = local, shared.expand(len(local), -1)
            trial = state.moved(step, f.lower, f.upper)
            trial_cost = float(self.total_cost(trial))
            gained = cost - trial_cost
            if trial_cost < cost:
                state, cost, damping = trial, trial_cost, damping * DAMPING_DOWN
                if gained < CONVERGENCE * cost:
                    return state, iteration, True
                equations = self.equations(state)
            else:
                damping *= DAMPING_UP
                if abs(gained) < CONVERGENCE * cost or damping > DAMPING_MAX:
                    return state, iteration, True
        return state, limit, False

    def joint_step(self, state: State, e: Equations, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Damped step of the photos (B, N) and of the identity (I,), expressions within their bounds.

        The active set grows as in :meth:`Problem.step`.
        """
        local = e.local + torch.diag_embed(damping * torch.diagonal(e.local, dim1=1, dim2=2))
        shared = e.shared + torch.diag(damping * torch.diagonal(e.shared))
        down, up = self.local_bounds(state)
        free, held = e.free, torch.zeros_like(e.local_gradient)
        identity = torch.zeros_like(e.shared_gradient)
        step = held
        for _ in range(ACTIVE_SET_ROUNDS):
            keep = free.to(local.dtype)
            system = local * keep[:, :, None] * keep[:, None] + torch.diag_embed(1.0 - keep)
            mixed = e.mixed * keep[:, :, None]
            pull = (e.local_gradient + (local @ held[..., None])[..., 0]) * keep
            factor = torch.linalg.cholesky(system)
            # What a photo's own unknowns do when the identity moves, and when it does not.
            follow = torch.cholesky_solve(mixed, factor)
            alone = torch.cholesky_solve(pull[..., None], factor)
            schur = shared - (mixed.mT @ follow).sum(dim=0)
            push = e.shared_gradient + torch.einsum("bni,bn->i", e.mixed, held) - (mixed.mT @ alone).sum(dim=0)[:, 0]
            identity = -solve_positive(schur[None], push[None])[0]
            step = held - alone[..., 0] - follow @ identity
            outside = free & ((step < down) | (step > up))
            if not bool(outside.any()):
                break
            held = torch.where(outside, torch.minimum(torch.maximum(step, down), up), held)
            free = free & ~outside
        return step, identity

    def local_bounds(self, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """How far each of a photo's own unknowns may move, (B, N) down and up."""
        identity = self.lm.identity_count
        pose = torch.full_like(state.coefficients[:, :POSE], torch.inf)
        expression = state.coefficients[:, identity:]
        down = torch.cat([-pose, self.fitter.lower[identity:] - expression], dim=1)
        up = torch.cat([pose, self.fitter.upper[identity:] - expression], dim=1)
        return down, up

    def joint_result(self, state: State, iterations: int, converged: bool) -> JointFit:
        """The identity with its certainty, and the photos as :class:`FitResult` each."""
        e = self.equations(state)
        keep = e.free.to(e.local.dtype)
        factor = torch.linalg.cholesky(e.local * keep[:, :, None] * keep[:, None] + torch.diag_embed(1.0 - keep))
        mixed = e.mixed * keep[:, :, None]
        schur = e.shared - (mixed.mT @ torch.cholesky_solve(mixed, factor)).sum(dim=0)
        variance = torch.diagonal(torch.cholesky_inverse(torch.linalg.cholesky(schur)))
        if self.lm.regress is not None:
            variance = variance + torch.diagonal(self.prior.covariance)
        sigma = variance.sqrt().clamp_max(1.0).cpu().numpy().astype(np.float32)
        # A photo by itself leaves the size of a head open; the prior that all share closes it.
        self.precision[self.shared[:, None], self.shared] = self.prior.precision
        self.expected = self.prior.mean.expand(len(keep), -1)
        count = torch.full((len(keep),), iterations, device=keep.device)
        done = torch.full((len(keep),), converged, device=keep.device)
        photos = [replace(photo, sigma_identity=sigma) for photo in self.results(state, count, done)]
        found = None if self.places is None else self.places.cpu().numpy().astype(np.float32)
        return JointFit(photos[0].identity, sigma, photos, places=found)


# So firmly held that an identity does not move, and not so firmly that the solve loses digits.
FIXED_PRECISION = 1e8


def firm(identity: torch.Tensor) -> IdentityPrior:
    """That the identity (I,) is known."""
    precision = torch.eye(len(identity)).to(identity) * FIXED_PRECISION
    return IdentityPrior(identity.clone(), precision, torch.zeros_like(precision))


def fit_to_identity(
    fitter: Fitter, observations: Sequence[Observation], identity: np.ndarray, places: np.ndarray | None = None
) -> list[FitResult]:
    """Pose, camera and expression of photos of a person whose identity (I,) and, where known, places are known."""
    problem = held_problem(fitter, observations, identity, places)
    return problem.joint_result(*problem.descend_from(problem.start())).photos


def predicted(fitter: Fitter, observation: Observation, head: JointFit) -> np.ndarray:
    """Where the landmarks of a head lie, places included, in a photo that it was not made of, (L, 2) pixels.

    Pose, camera and expression are solved from that photo.
    """
    problem = held_problem(fitter, [observation], head.identity, head.places)
    state = problem.descend_from(problem.start())[0]
    return problem.residual(state).image[0].cpu().numpy()


def held_problem(
    fitter: Fitter, observations: Sequence[Observation], identity: np.ndarray, places: np.ndarray | None
) -> JointProblem:
    """Photos of a person of whom all but the photos' own is known."""
    problem = JointProblem(fitter, observations)
    mean = torch.as_tensor(identity, dtype=fitter.lm.dtype, device=fitter.lm.device)
    problem.prior = firm(mean)
    problem.take_places(places)
    return problem
