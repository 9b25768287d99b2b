"""The equations of the photometric refinement, and their steps; what they mean is told in ``photometric.py``.

Symbols: N photos, F points, H, W size of a photo for analysis, I identity modes, E expressions, K albedo modes,
L = 7 + E + 9 unknowns of a photo, S = I + K shared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backend.reconstruction.fit import FitResult, Fitter
from backend.reconstruction.joint import JointFit
from backend.reconstruction.landmark_cost import POSE, State
from backend.reconstruction.photometric_face import Face, normals_and_derivatives
from backend.reconstruction.skin_statistics import read
from backend.reconstruction.turning import exponential, rotation_vector
from backend.rendering.shade import BASIS_SIZE, MAD_TO_SIGMA, sh_basis, sh_basis_gradient

# Neighbouring points err alike (cast shadows, blushes, a nose that is off), so each counts as this part of a
# measurement. This, the next one and the blurs were chosen on 16 invented people with 1 and 3 photos.
INDEPENDENT = 0.06
# Variance of a photo's error over that of what a person's skin has of its own.
OWN_SKIN = 2.0
# Residuals beyond this many standard deviations pull less and less.
CAUCHY_SCALE = 2.0
# The error of a perfect photo, in log brightness.
LEAST_SIGMA = 0.03
# Light below this part of its mean is taken as this much: harmonics of order 2 swing below zero behind a strong lamp.
LEAST_LIGHT = 0.05
# Firmness of the photo's light against its start, per coefficient, and of the start against even light.
LIGHT_PRECISION, LIGHT_RIDGE = 0.1, 0.02
LIGHT_ROUNDS, LIGHT_OUTLIER = 8, 0.3
# Added to the diagonal, as a part of it.
DAMPING = 1e-3


@dataclass
class Shot:
    """One photo as the refinement needs it.

    ``levels`` by blur: log brightness and its derivatives across and down, (H, W) each, in analysis pixels.
    ``seen`` (F,) how surely each point shows bare skin. ``to_analysis`` (2, 3) from pixels of the photo.
    """

    width: int
    height: int
    levels: dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]]
    seen: np.ndarray
    to_analysis: np.ndarray


@dataclass
class Unknowns:
    """Where the refinement is: ``rotation`` (N, 3, 3), ``pose`` (N, 4), ``expression`` (N, E), ``light`` (N, 9),
    ``identity`` (I,), ``albedo`` (K,); poses as in :class:`State`."""

    rotation: np.ndarray
    pose: np.ndarray
    expression: np.ndarray
    light: np.ndarray
    identity: np.ndarray
    albedo: np.ndarray

    @classmethod
    def of(cls, fit: JointFit, face: Face) -> Unknowns:
        """As the landmarks have it; the light is not known yet (NaN)."""
        photos = fit.photos
        away = np.log([photo.t[2] for photo in photos])
        pose = np.column_stack(
            [[photo.t[0] for photo in photos], [photo.t[1] for photo in photos], _log_focal(photos) - away, away]
        )
        return cls(
            np.stack([photo.R for photo in photos]),
            pose,
            np.stack([photo.expression for photo in photos]).astype(np.float64),
            np.full((len(photos), BASIS_SIZE), np.nan),
            fit.identity.astype(np.float64),
            np.zeros(len(face.albedo_modes)),
        )

    def state(self, fitter: Fitter) -> State:
        like = {"device": fitter.lm.device, "dtype": fitter.lm.dtype}
        coefficients = np.column_stack([np.tile(self.identity, (len(self.pose), 1)), self.expression])
        return State(*(torch.as_tensor(part, **like) for part in (self.rotation, self.pose, coefficients)))

    def moved(self, local: np.ndarray, shared: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> Unknowns:
        """After a step of the photos' unknowns (N, L) and the shared ones (I + K,)."""
        shapes = self.expression.shape[1]
        turn = exponential(torch.from_numpy(local[:, :3])).numpy()
        return Unknowns(
            turn @ self.rotation,
            self.pose + local[:, 3:POSE],
            np.clip(self.expression + local[:, POSE : POSE + shapes], *bounds),
            self.light + local[:, POSE + shapes :],
            self.identity + shared[: len(self.identity)],
            self.albedo + shared[len(self.identity) :],
        )


def _log_focal(photos: Sequence[FitResult]) -> np.ndarray:
    return np.log([photo.focal_px for photo in photos])


@dataclass
class Rows:
    """Residuals of a state, ``residual`` and ``weight`` (N, F), and their derivatives: by the unknowns, ``local``
    (N, F, L) and ``shared`` (N, F, S), and by what these move, ``point`` and ``normal`` (N, F, 3)."""

    residual: np.ndarray
    weight: np.ndarray
    local: np.ndarray
    shared: np.ndarray
    point: np.ndarray
    normal: np.ndarray


class Solve:
    """A refinement on its way.

    Parameters
    ----------
    fitter : Fitter
    face : Face
    shots : list of N Shot
    start : Unknowns
        As the landmarks have it.
    held : (N, 7 + E, 7 + E) float
        Curvature of the landmarks' cost there.
    covariance : (I, I) float
        Of the identity's error.
    alive : callable, optional
        Called between parts of the work, several times a second; may raise to stop.
    """

    def __init__(
        self,
        fitter: Fitter,
        face: Face,
        shots: list[Shot],
        start: Unknowns,
        held: np.ndarray,
        covariance: np.ndarray,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        self.alive = alive
        self.model, self.face, self.shots, self.start, self.now = fitter.lm.model, face, shots, start, start
        self.identities = fitter.lm.identity_count
        lower, upper = (bound.cpu().numpy()[self.identities :] for bound in (fitter.lower, fitter.upper))
        self.bounds = (lower, upper)
        self.sigma = np.sqrt(np.diagonal(covariance))
        # Precision of everything known before, in the order of all unknowns.
        size = held.shape[1] + BASIS_SIZE
        self.size, self.count = size, len(shots) * size
        self.precision = np.zeros((self.count + self.identities + len(start.albedo),) * 2)
        for photo, block in enumerate(held):
            first, light = photo * size, photo * size + held.shape[1]
            self.precision[first:light, first:light] = block
            self.precision[range(light, first + size), range(light, first + size)] = LIGHT_PRECISION
        identity = slice(self.count, self.count + self.identities)
        self.precision[identity, identity] = np.linalg.inv(covariance)
        albedo = range(identity.stop, len(self.precision))
        self.precision[albedo, albedo] = 1.0
        self.identity_shapes = self.model.identity[:, face.vertices].astype(np.float64)
        self.expression_shapes = self.model.expression[:, face.vertices].astype(np.float64)
        # Normals turn with the shapes of a head nearly as they do with those of one that is a millimetre off.
        everything = np.concatenate([self.model.identity, self.model.expression])
        turned = normals_and_derivatives(face, self.model.vertices(start.identity), everything)[1]
        self.identity_turns, self.expression_turns = turned[: self.identities], turned[self.identities :]

    def step(self, blur: float) -> None:
        """One Gauss-Newton step with the photos blurred so much."""
        rows = self.rows(blur)
        hessian, gradient = normal_equations(rows, noise(rows), self.alive)
        hessian += self.precision
        gradient += self.precision @ self.apart()
        hessian[np.diag_indices_from(hessian)] *= 1.0 + DAMPING
        step = -np.linalg.solve(hessian, gradient)
        self.now = self.now.moved(step[: self.count].reshape(len(self.shots), -1), step[self.count :], self.bounds)
        variance = np.diagonal(np.linalg.inv(hessian))[self.count : self.count + self.identities]
        self.sigma = np.minimum(self.sigma, np.sqrt(variance))

    def apart(self) -> np.ndarray:
        """All unknowns less what is believed of them before."""
        turn = rotation_vector(torch.from_numpy(self.now.rotation @ self.start.rotation.transpose(0, 2, 1))).numpy()
        local = [turn, self.now.pose - self.start.pose, self.now.expression - self.start.expression]
        local.append(self.now.light - self.start.light)
        identity = self.now.identity - self.start.identity
        return np.concatenate([np.concatenate(local, axis=1).ravel(), identity, self.now.albedo])

    def rows(self, blur: float) -> Rows:
        """Residuals and derivatives of the present state."""
        face, now = self.face, self.now
        albedo = face.log_albedo + now.albedo @ face.albedo_modes
        residual, weight, local, shared, point, normal = [], [], [], [], [], []
        for photo, shot in enumerate(self.shots):
            self.alive()
            vertices = self.model.vertices(now.identity, now.expression[photo]).astype(np.float64)
            normals = normals_and_derivatives(face, vertices, self.model.expression[:0])[0]
            log, by_point = sampled(shot, blur, vertices[face.vertices], now.rotation[photo], now.pose[photo])
            basis = sh_basis(torch.from_numpy(normals)).numpy()
            if np.isnan(now.light[photo]).any():  # the first step; ``now`` is still ``start``
                now.light[photo] = first_light(log, albedo, basis, shot.seen)
            light = now.light[photo]
            arriving = basis @ light
            arriving = np.maximum(arriving, LEAST_LIGHT * np.abs(arriving).mean())
            residual.append(log - albedo - np.log(arriving))
            weight.append(shot.seen)
            by_normal = np.einsum("fkc,k->fc", sh_basis_gradient(normals), light) / arriving[:, None]
            by_model = by_point.model
            local.append(
                np.concatenate(
                    [
                        by_point.pose,
                        along(by_model, self.expression_shapes) - along(by_normal, self.expression_turns),
                        -basis / arriving[:, None],
                    ],
                    axis=1,
                )
            )
            identity = along(by_model, self.identity_shapes) - along(by_normal, self.identity_turns)
            shared.append(np.concatenate([identity, -face.albedo_modes.T], axis=1))
            point.append(by_model)
            normal.append(-by_normal)
        return Rows(*(np.stack(part) for part in (residual, weight, local, shared, point, normal)))


def along(gradient: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(F, 3) gradients, (Q, F, 3) moves -> (F, Q)."""
    result = gradient[:, :1] * shapes[:, :, 0].T
    for axis in (1, 2):
        result += gradient[:, axis, None] * shapes[:, :, axis].T
    return result


@dataclass
class ByPoint:
    """Derivatives of a photo's log brightness at F points, by ``pose`` (F, 7) and by the points themselves, ``model``
    (F, 3) in model space."""

    pose: np.ndarray
    model: np.ndarray


def sampled(
    shot: Shot, blur: float, points: np.ndarray, rotation: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, ByPoint]:
    """Log brightness (F,) where the photo shows points (F, 3), and how it changes when they or the camera move."""
    turned = points @ rotation.T
    x, y, z = (turned + np.array([pose[0], pose[1], np.exp(pose[3])])).T
    focal = np.exp(pose[2] + pose[3])
    from_middle = focal * np.stack([x, y], axis=1) / z[:, None]
    pixels = from_middle + np.array([shot.width, shot.height]) / 2.0
    places = pixels @ shot.to_analysis[:, :2].T + shot.to_analysis[:, 2]
    smooth, across, down = (read(level, places) for level in shot.levels[blur])
    by_pixel = np.stack([across, down], axis=1) @ shot.to_analysis[:, :2]
    flat = by_pixel * (focal / z)[:, None]
    by_camera = np.column_stack([flat, -(flat[:, 0] * x + flat[:, 1] * y) / z])
    by_focal = (by_pixel * from_middle).sum(axis=1)
    by_depth = by_focal + by_camera[:, 2] * np.exp(pose[3])
    by_pose = np.column_stack([np.cross(turned, by_camera), by_camera[:, :2], by_focal, by_depth])
    return smooth, ByPoint(by_pose, by_camera @ rotation)


def first_light(log: np.ndarray, albedo: np.ndarray, basis: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(9,) light that explains log brightness (F,) of the given log albedo (F,), by robust least squares."""
    design, bright = basis * np.exp(albedo)[:, None], np.exp(log)
    penalty = LIGHT_RIDGE * np.concatenate([[0.01], np.ones(BASIS_SIZE - 1)])
    weight = seen
    light = np.zeros(BASIS_SIZE)
    for _ in range(LIGHT_ROUNDS):
        system = (design * weight[:, None]).T @ design
        system += np.diag(penalty * np.trace(system) / BASIS_SIZE)
        light = np.linalg.solve(system, (design * weight[:, None]).T @ bright)
        off = np.log(np.maximum(design @ light, 1e-3)) - log
        weight = seen / (1.0 + (off / LIGHT_OUTLIER) ** 2)
    return light


def noise(rows: Rows) -> float:
    """Standard deviation of the residuals, robustly; points that lie far off lose their weight."""
    sigma = max(MAD_TO_SIGMA * float(np.median(np.abs(rows.residual[rows.weight > 0]))), LEAST_SIGMA)
    rows.weight = rows.weight / (1.0 + (rows.residual / (CAUCHY_SCALE * sigma)) ** 2)
    return sigma


def normal_equations(
    rows: Rows, sigma: float, alive: Callable[[], object] = lambda: None
) -> tuple[np.ndarray, np.ndarray]:
    """Hessian (N L + S, N L + S) and gradient, what the skin has of its own eliminated.

    Of a point seen with weights ``w_n`` the best ``a`` is ``sum(w r) / (sum(w) + OWN_SKIN)``; with it the cost
    ``sum w (r - a)^2 + OWN_SKIN a^2`` has the Hessian ``sum w J J' - (sum w J)(sum w J)' / (sum(w) + OWN_SKIN)``.
    """
    photos, _, size = rows.local.shape
    total = rows.weight.sum(axis=0) + OWN_SKIN
    own = (rows.weight * rows.residual).sum(axis=0) / total
    left = rows.residual - own
    weighted = rows.local * rows.weight[..., None]
    shared = rows.shared * rows.weight[..., None]
    shared_sum = shared.sum(axis=0)
    scaled = shared_sum / total[:, None]
    count = photos * size
    hessian = np.empty((count + scaled.shape[1],) * 2)
    gradient = np.empty(len(hessian))
    hessian[count:, count:] = sum(shared[n].T @ rows.shared[n] for n in range(photos)) - scaled.T @ shared_sum
    gradient[count:] = sum(shared[n].T @ left[n] for n in range(photos))
    for n in range(photos):
        alive()
        mine = slice(n * size, (n + 1) * size)
        gradient[mine] = weighted[n].T @ left[n]
        hessian[mine, count:] = weighted[n].T @ (rows.shared[n] - scaled)
        hessian[count:, mine] = hessian[mine, count:].T
        share = weighted[n] / total[:, None]
        for other in range(n + 1):
            theirs = slice(other * size, (other + 1) * size)
            hessian[mine, theirs] = -share.T @ weighted[other]
            hessian[theirs, mine] = hessian[mine, theirs].T
        hessian[mine, mine] += weighted[n].T @ rows.local[n]
    factor = INDEPENDENT / sigma**2
    return hessian * factor, gradient * factor
