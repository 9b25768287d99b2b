"""The descent of `fit.py` as compiled code, one photo at a time.

PyTorch spends most of a small problem's time on starting its operations; here a photo with 478 landmarks takes a
third of it, on one thread, so that photos go side by side and nothing waits for a pool of threads that others use.
The same cost, the same steps, the same bounds as :class:`~backend.reconstruction.landmark_cost.LandmarkCost` and
:meth:`~backend.reconstruction.fit.Problem.descend`, which are the slow twins in the tests, run where a network has
an opinion or the fit is on a GPU, and say what the formulas are.

Symbols: L landmarks, C contour landmarks, S strip points, Q coefficients, P = 7 + Q unknowns.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from backend.geometry.kernel_cache import njit
from backend.reconstruction.landmark_cost import CAUCHY_SCALE, POSE, LandmarkCost, State
from backend.reconstruction.priors import DISTANCE_LOG_SIGMA, DISTANCE_M
from backend.rendering.cpu_backend import thread_count

if TYPE_CHECKING:
    from backend.reconstruction.fit import Fitter

# Rows of the Jacobian that the Hessian takes in at once: as many as there are registers to hold a column of them.
ROWS = 8
# Long sums in any order and with fused products, so that they are made several terms at a time; nothing else.
SUMS = {"reassoc", "contract"}


class Landmarks(NamedTuple):
    """What all photos share; coefficients first, so that those at rest, which is most expressions, are skipped."""

    mean: np.ndarray  # (L, 3)
    basis: np.ndarray  # (Q, L, 3)
    basis_rows: np.ndarray  # (L, 3, Q)
    contour: np.ndarray  # (C,)
    strip_mean: np.ndarray  # (C, S, 3)
    strip_basis: np.ndarray  # (Q, C, S, 3)
    strip_rows: np.ndarray  # (C, S, 3, Q)
    whitening: np.ndarray  # (L, 2, 2)
    precision: np.ndarray  # (P, P)
    rate: np.ndarray  # (P,)
    lower: np.ndarray  # (Q,)
    upper: np.ndarray  # (Q,)


class Seen(NamedTuple):
    """What one photo says."""

    detected: np.ndarray  # (L, 2)
    trust: np.ndarray  # (L,)
    middle: np.ndarray  # (2,)
    focal_prior: np.ndarray  # (2,)
    normals: np.ndarray  # (C, 2)
    unit: float
    expected: np.ndarray  # (I,)


class Limits(NamedTuple):
    """When a descent ends, and how its damping goes."""

    steps: int
    convergence: float
    start: float
    down: float
    up: float
    most: float
    rounds: int


def gather(fitter: Fitter) -> Landmarks:
    """A fitter's tensors in the order that the kernel reads them."""
    lm = fitter.lm
    basis, strips = lm.basis.numpy(), lm.strip_basis.numpy()
    return Landmarks(
        lm.mean.numpy(),
        np.ascontiguousarray(basis.transpose(2, 1, 0)),
        np.ascontiguousarray(basis.transpose(1, 0, 2)),
        lm.contour.numpy(),
        lm.strip_mean.numpy(),
        np.ascontiguousarray(strips.transpose(3, 1, 2, 0)),
        np.ascontiguousarray(strips.transpose(1, 2, 0, 3)),
        lm.whitening.numpy(),
        fitter.precision.numpy(),
        fitter.rate.numpy(),
        fitter.lower.numpy(),
        fitter.upper.numpy(),
    )


def descend(
    landmarks: Landmarks, cost: LandmarkCost, state: State, limits: Limits, pose_only: bool
) -> tuple[State, torch.Tensor, torch.Tensor]:
    """Every photo of a batch, as :meth:`~backend.reconstruction.fit.Problem.descend`."""
    rotation, pose, coefficients = (part.numpy().copy() for part in (state.rotation, state.pose, state.coefficients))
    parts = [part.numpy() for part in (cost.detected, cost.trust, cost.middle, cost.focal_prior, cost.normals)]
    unit, expected = cost.unit.numpy(), cost.expected.numpy()

    def one(b: int) -> tuple[int, bool]:
        detected, trust, middle, focal_prior, normals = (np.ascontiguousarray(part[b]) for part in parts)
        seen = Seen(detected, trust, middle, focal_prior, normals, float(unit[b]), np.ascontiguousarray(expected[b]))
        return _descend(landmarks, seen, rotation[b], pose[b], coefficients[b], limits, pose_only)

    if len(rotation) == 1:
        ended = [one(0)]
    else:
        with ThreadPoolExecutor(min(thread_count(), len(rotation))) as pool:
            ended = list(pool.map(one, range(len(rotation))))
    moved = State(*(torch.from_numpy(array) for array in (rotation, pose, coefficients)))
    return moved, torch.tensor([steps for steps, _ in ended]), torch.tensor([done for _, done in ended])


@njit(cache=True, nogil=True, error_model="numpy")
def _descend(landmarks, seen, rotation, pose, coefficients, limits, pose_only):
    """Levenberg-Marquardt; the state is changed in place. Returns the steps taken and whether it converged."""
    unknowns = len(landmarks.rate)
    width = POSE if pose_only else unknowns
    points, strips = _shape(landmarks, coefficients)
    now = _residual(landmarks, seen, rotation, pose, points, strips)
    cost = now[5] + _prior_cost(landmarks, seen, pose, coefficients)
    gradient, hessian = _equations(landmarks, seen, rotation, pose, coefficients, now, width)
    damping, steps, done = limits.start, 0, False
    for _ in range(limits.steps):
        step = _step(landmarks, coefficients, gradient, hessian, damping, width, limits.rounds)
        to_rotation = _exponential(step[:3]) @ rotation
        to_pose = pose + step[3:POSE]
        to_coefficients = coefficients
        to_points, to_strips = points, strips
        if not pose_only:
            to_coefficients = np.minimum(np.maximum(coefficients + step[POSE:], landmarks.lower), landmarks.upper)
            to_points, to_strips = _shape(landmarks, to_coefficients)
        then = _residual(landmarks, seen, to_rotation, to_pose, to_points, to_strips)
        to_cost = then[5] + _prior_cost(landmarks, seen, to_pose, to_coefficients)
        better = to_cost < cost
        steps += 1
        small = abs(cost - to_cost) < limits.convergence * cost
        damping *= limits.down if better else limits.up
        done = small or damping > limits.most
        if better:
            rotation[:], pose[:], coefficients[:] = to_rotation, to_pose, to_coefficients
            points, strips, cost, now = to_points, to_strips, to_cost, then
        if done:
            break
        if better:
            gradient, hessian = _equations(landmarks, seen, rotation, pose, coefficients, now, width)
    return steps, done


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMS)
def _shape(landmarks, coefficients):
    """Landmarks (L, 3) and contour strips (C, S, 3) in model space."""
    points, strips = landmarks.mean.copy(), landmarks.strip_mean.copy()
    flat, flat_strips = points.reshape(-1), strips.reshape(-1)
    for q in range(len(coefficients)):
        much = coefficients[q]
        if much == 0.0:
            continue
        row, strip_row = landmarks.basis[q].reshape(-1), landmarks.strip_basis[q].reshape(-1)
        for i in range(len(flat)):
            flat[i] += much * row[i]
        for i in range(len(flat_strips)):
            flat_strips[i] += much * strip_row[i]
    return points, strips


@njit(cache=True, nogil=True, error_model="numpy")
def _residual(landmarks, seen, rotation, pose, points, strips):
    """Of a state: camera points (L, 3), pixels less detected (L, 2), whitened (L, 2), weight (L,), the strip index
    (C,) of each contour, the cost, and the upright frame (2, 2)."""
    count = len(points)
    depth = np.exp(pose[3])
    focal = np.exp(pose[2] + pose[3])
    offset = np.array([pose[0], pose[1], depth])
    used = points.copy()
    chosen = np.zeros(len(landmarks.contour), np.int64)
    for c in range(len(landmarks.contour)):
        farthest = -np.inf
        for s in range(strips.shape[1]):
            x, y, z = _turned(rotation, strips[c, s], offset)
            outward = focal * (x * seen.normals[c, 0] + y * seen.normals[c, 1]) / z
            outward += seen.middle[0] * seen.normals[c, 0] + seen.middle[1] * seen.normals[c, 1]
            if outward > farthest:
                farthest = outward
                chosen[c] = s
        used[landmarks.contour[c]] = strips[c, chosen[c]]
    # Upright with the head in the image: its down axis is the second column.
    down_x, down_y = -rotation[0, 1], -rotation[1, 1]
    frame = np.array([[down_y, down_x], [-down_x, down_y]]) / max(np.sqrt(down_x**2 + down_y**2), 1e-9)
    camera, apart, white = np.empty((count, 3)), np.empty((count, 2)), np.empty((count, 2))
    weight, cost, wide = np.empty(count), 0.0, CAUCHY_SCALE**2
    for i in range(count):
        x, y, z = _turned(rotation, used[i], offset)
        camera[i, 0], camera[i, 1], camera[i, 2] = x, y, z
        apart[i, 0] = focal * x / z + seen.middle[0] - seen.detected[i, 0]
        apart[i, 1] = focal * y / z + seen.middle[1] - seen.detected[i, 1]
        across = (apart[i, 0] * frame[0, 0] + apart[i, 1] * frame[1, 0]) / seen.unit
        along = (apart[i, 0] * frame[0, 1] + apart[i, 1] * frame[1, 1]) / seen.unit
        w = landmarks.whitening[i]
        white[i, 0], white[i, 1] = w[0, 0] * across + w[0, 1] * along, w[1, 0] * across + w[1, 1] * along
        squared = white[i, 0] ** 2 + white[i, 1] ** 2
        weight[i] = seen.trust[i] / (1.0 + squared / wide)
        cost += seen.trust[i] * np.log1p(squared / wide) * wide / 2.0
    return camera, apart, white, weight, chosen, cost, frame


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _turned(rotation, point, offset):
    x = rotation[0, 0] * point[0] + rotation[0, 1] * point[1] + rotation[0, 2] * point[2] + offset[0]
    y = rotation[1, 0] * point[0] + rotation[1, 1] * point[1] + rotation[1, 2] * point[2] + offset[1]
    z = rotation[2, 0] * point[0] + rotation[2, 1] * point[1] + rotation[2, 2] * point[2] + offset[2]
    return x, y, z


@njit(cache=True, nogil=True, error_model="numpy")
def _off(landmarks, seen, pose, coefficients):
    """The unknowns less what is expected of them (P,), and how far off log distance and log focal length are."""
    x = np.zeros(len(landmarks.rate))
    x[3:POSE], x[POSE:] = pose, coefficients
    x[POSE : POSE + len(seen.expected)] -= seen.expected
    return x, pose[3] - np.log(DISTANCE_M), pose[2] + pose[3] - seen.focal_prior[0]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMS)
def _prior_cost(landmarks, seen, pose, coefficients):
    x, depth_off, focal_off = _off(landmarks, seen, pose, coefficients)
    cost = (depth_off / DISTANCE_LOG_SIGMA) ** 2 / 2.0 + (focal_off / seen.focal_prior[1]) ** 2 / 2.0
    for i in range(len(x)):
        if x[i] != 0.0:
            pulled = 0.0
            for j in range(len(x)):
                pulled += landmarks.precision[i, j] * x[j]
            cost += x[i] * (pulled / 2.0 + landmarks.rate[i])
    return cost


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMS)
def _equations(landmarks, seen, rotation, pose, coefficients, now, width):
    """Gradient (width,) and the lower triangle of the Hessian (width, width), priors and landmarks together."""
    camera, apart, white, weight, chosen, _, frame = now
    x, depth_off, focal_off = _off(landmarks, seen, pose, coefficients)
    gradient, hessian = landmarks.rate[:width].copy(), landmarks.precision[:width, :width].copy()
    for i in range(width):
        for j in range(len(x)):
            gradient[i] += landmarks.precision[i, j] * x[j]
    depth_pull, focal_pull = DISTANCE_LOG_SIGMA**-2, seen.focal_prior[1] ** -2
    gradient[5] += focal_pull * focal_off
    gradient[6] += focal_pull * focal_off + depth_pull * depth_off
    hessian[5, 5] += focal_pull
    hessian[6, 5] += focal_pull
    hessian[6, 6] += focal_pull + depth_pull
    count = len(camera)
    slid = np.full(count, -1)
    for c in range(len(landmarks.contour)):
        slid[landmarks.contour[c]] = c
    # How the frame turns with the head, as in LandmarkCost.by_turning.
    dx, dy, dz = -rotation[0, 1], -rotation[1, 1], -rotation[2, 1]
    flat = max(dx * dx + dy * dy, 1e-9)
    turn = np.array([-dx * dz / flat, -dy * dz / flat, 1.0])
    depth, focal = np.exp(pose[3]), np.exp(pose[2] + pose[3])
    rows = np.zeros((ROWS, width))
    by, held = np.empty(3), 0
    for i in range(count):
        root = np.sqrt(weight[i])
        inverse = 1.0 / camera[i, 2]
        u, v = camera[i, 0] * inverse, camera[i, 1] * inverse
        arm_x, arm_y, arm_z = camera[i, 0] - pose[0], camera[i, 1] - pose[1], camera[i, 2] - depth
        quarter_x = (apart[i, 0] * frame[0, 1] + apart[i, 1] * frame[1, 1]) / seen.unit
        quarter_y = -(apart[i, 0] * frame[0, 0] + apart[i, 1] * frame[1, 0]) / seen.unit
        for k in range(2):
            w0, w1 = landmarks.whitening[i, k, 0], landmarks.whitening[i, k, 1]
            from_x = (w0 * frame[0, 0] + w1 * frame[0, 1]) / seen.unit
            from_y = (w0 * frame[1, 0] + w1 * frame[1, 1]) / seen.unit
            cx, cy = focal * inverse * from_x, focal * inverse * from_y
            cz = -(cx * u + cy * v)
            turned = w0 * quarter_x + w1 * quarter_y
            row = rows[held]
            row[0] = root * (arm_y * cz - arm_z * cy + turned * turn[0])
            row[1] = root * (arm_z * cx - arm_x * cz + turned * turn[1])
            row[2] = root * (arm_x * cy - arm_y * cx + turned * turn[2])
            row[3], row[4] = root * cx, root * cy
            row[5] = root * focal * (from_x * u + from_y * v)
            row[6] = row[5] + root * cz * depth
            if width > POSE:
                for axis in range(3):
                    by[axis] = root * (cx * rotation[0, axis] + cy * rotation[1, axis] + cz * rotation[2, axis])
                c = slid[i]
                basis = landmarks.basis_rows[i] if c < 0 else landmarks.strip_rows[c, chosen[c]]
                for q in range(width - POSE):
                    row[POSE + q] = by[0] * basis[0, q] + by[1] * basis[1, q] + by[2] * basis[2, q]
            off = root * white[i, k]
            for p in range(width):
                gradient[p] += row[p] * off
            held += 1
        if held == ROWS:
            _add(hessian, rows)
            held = 0
    if held:
        rows[held:] = 0.0
        _add(hessian, rows)
    return gradient, hessian


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMS)
def _add(hessian, rows):
    """Lower triangle of ``rows.T @ rows``."""
    for i in range(len(hessian)):
        a, b, c, d = rows[0, i], rows[1, i], rows[2, i], rows[3, i]
        e, f, g, h = rows[4, i], rows[5, i], rows[6, i], rows[7, i]
        into = hessian[i]
        for j in range(i + 1):
            first = a * rows[0, j] + b * rows[1, j] + c * rows[2, j] + d * rows[3, j]
            into[j] += first + e * rows[4, j] + f * rows[5, j] + g * rows[6, j] + h * rows[7, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _step(landmarks, coefficients, gradient, hessian, damping, width, rounds):
    """Damped step (P,) within the bounds, by an active set that grows: see Problem.step."""
    step = np.zeros(len(landmarks.rate))
    free = np.ones(width, np.bool_)
    for q in range(width - POSE):
        push = gradient[POSE + q]
        if (coefficients[q] <= landmarks.lower[q] and push > 0) or (coefficients[q] >= landmarks.upper[q] and push < 0):
            free[POSE + q] = False
    for _ in range(rounds):
        kept = np.flatnonzero(free)
        matrix, right = np.empty((len(kept), len(kept))), np.empty(len(kept))
        for a in range(len(kept)):
            i = kept[a]
            pull = gradient[i]
            for j in range(width):
                if not free[j] and step[j] != 0.0:
                    pull += (hessian[i, j] if j <= i else hessian[j, i]) * step[j]
            right[a] = -pull
            for b in range(a + 1):
                matrix[a, b] = hessian[i, kept[b]]
            matrix[a, a] *= 1.0 + damping
        _solve(matrix, right)
        left = False
        for a in range(len(kept)):
            i = kept[a]
            step[i] = right[a]
            if i >= POSE:
                down, up = landmarks.lower[i - POSE] - coefficients[i - POSE], landmarks.upper[i - POSE]
                up -= coefficients[i - POSE]
                if right[a] < down or right[a] > up:
                    step[i], free[i], left = min(max(right[a], down), up), False, True
        if not left:
            break
    return step


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMS)
def _solve(matrix, right):
    """Cholesky in place of the lower triangle, and the solution in ``right``; not a number where it has none."""
    count = len(right)
    for j in range(count):
        row = matrix[j]
        for k in range(j):
            other = matrix[k]
            total = row[k]
            for m in range(k):
                total -= row[m] * other[m]
            row[k] = total / other[k]
        total = row[j]
        for m in range(j):
            total -= row[m] * row[m]
        row[j] = np.sqrt(total)
    for i in range(count):
        for m in range(i):
            right[i] -= matrix[i, m] * right[m]
        right[i] /= matrix[i, i]
    for i in range(count - 1, -1, -1):
        right[i] /= matrix[i, i]
        for m in range(i):
            right[m] -= matrix[i, m] * right[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _exponential(vector):
    """Rodrigues' formula: (3,) radians to (3, 3)."""
    x, y, z = vector
    angle = np.sqrt(x * x + y * y + z * z)
    first = np.sin(angle) / angle if angle > 1e-9 else 1.0
    half = np.sin(angle / 2.0) / (angle / 2.0) if angle > 1e-9 else 1.0
    second, cosine = half * half / 2.0, np.cos(angle)
    return np.array(
        [
            [cosine + second * x * x, second * x * y - first * z, second * x * z + first * y],
            [second * x * y + first * z, cosine + second * y * y, second * y * z - first * x],
            [second * x * z - first * y, second * y * z + first * x, cosine + second * z * z],
        ]
    )
