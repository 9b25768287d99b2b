"""The light on a face whose skin is one of statistics: a sum of many weak lamps, none of them negative.

    log I_v = log A_v + c . M_v + log L(n_v) + e_v,      L(n) = w_0 + sum_k w_k max(0, n . d_k),   w >= 0

``A`` and ``M`` are mean and modes of the statistical albedo, ``c`` what this skin is among them. Lamps follow the edge
where a light ends, which nine spherical harmonics round off and turn negative behind it (non-negative light: Basri and
Jacobs 2003, section 4). Solved in turns: lamps for a skin, the skin under these lamps, with Cauchy weights.

What is left, ``e``, is skin that statistics do not know, or light on a shape that is not quite the person's: ``L`` at a
normal that is off by some degrees. Where the light is the same from all sides the second is nothing; where it changes
fast, it is most. A part of ``e`` is light accordingly (two normal distributions, one sum).

Symbols: V vertices, F vertices of bare skin, D lamps, K albedo modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.sparse import csr_array

from backend.reconstruction.skin_statistics import SkinStatistics
from backend.reconstruction.texture_atlas import Surface
from backend.reconstruction.texture_cavity import sky_directions
from backend.rendering.shade import MAD_TO_SIGMA

LAMPS = sky_directions(64)
# Every so many vertices of bare skin are asked; with fewer than so many of them there is no telling.
EVERY, LEAST_SKIN = 4, 100
# Turns, and modes of the albedo that are solved for. These constants and the next were chosen on six invented people
# under five lights (seeds from 9,490,000 on).
TURNS, MODES = 4, 20
# Ridge on the lamps, per unit of trust and in units of the mean light; and what one standard deviation of an albedo
# mode weighs against the residuals, in units of their variance and per unit of trust.
RIDGE, MODE_WEIGHT = 0.02, 0.005
# The light is nowhere less than this part of its mean, residuals beyond three standard deviations are none of skin's,
# and these are not less than this (log light).
LEAST_LIGHT, CAUCHY_SCALE, LEAST_SIGMA = 0.02, 3.0, 0.05
# Standard deviations: of a normal's error (radians), and of skin that the modes do not know (log light).
NORMAL_SIGMA, SKIN_SIGMA = 0.3, 0.1
# Larger residuals than about this (log light) are things with colours of their own: brows, beards, lipstick.
MOST_SHADE = 1.0


@dataclass(frozen=True)
class LampLight:
    """The light at the vertices.

    Attributes
    ----------
    log_light : (V,) float64
        Logarithm of ``L``, of any scale.
    shade : (V,) float64
        What of the residual is light as well.
    trust : (V,) float64
        How much each vertex had to say.
    """

    log_light: np.ndarray
    shade: np.ndarray
    trust: np.ndarray


def lamp_light(
    log: np.ndarray, seen: np.ndarray, normals: np.ndarray, skins: SkinStatistics, surface: Surface
) -> LampLight | None:
    """The light that explains a photo's brightness.

    Parameters
    ----------
    log : (V,) float
        Log brightness, linear light.
    seen : (V,) float in [0, 1]
    normals : (V, 3) float
        Unit, model space.
    skins : SkinStatistics
    surface : Surface

    Returns
    -------
    LampLight, or None where too little bare skin is seen
    """
    trust = (surface.take * (1.0 - surface.feature) * surface.skin * seen).astype(np.float64)
    use = np.flatnonzero(trust > 1e-3)[::EVERY]
    if len(use) < LEAST_SKIN:
        return None
    given = trust[use]
    lamps = lamp_basis(normals[use])
    modes = skins.modes[:MODES, use].T
    plain = log[use] - skins.mean[use]
    coefficients, weight = np.zeros(modes.shape[1]), given
    light = None
    for _ in range(TURNS):
        target = np.exp(plain - modes @ coefficients)
        strengths = solve_lamps(lamps, target, weight, light)
        light = np.maximum(lamps @ strengths, LEAST_LIGHT * target.mean())
        residual = plain - np.log(light)
        level = float(np.average(residual, weights=weight))
        system = (modes * weight[:, None]).T @ modes / weight.sum()
        sigma = deviation(residual - level - modes @ coefficients)
        system[np.diag_indices_from(system)] += MODE_WEIGHT * sigma**2
        coefficients = np.linalg.solve(system, (modes * weight[:, None]).T @ (residual - level) / weight.sum())
        left = residual - level - modes @ coefficients
        weight = given / (1.0 + (left / (CAUCHY_SCALE * deviation(left))) ** 2)
    everywhere, steep = np.full(len(log), target.mean()), np.zeros(len(log))
    on = surface.skin
    everywhere[on], steep[on] = light_and_slope(normals[on], strengths, LEAST_LIGHT * target.mean())
    log_light = np.log(everywhere)
    left = log - skins.mean - coefficients @ skins.modes[:MODES] - log_light
    left = averaged(left - np.average(left[use], weights=weight), seen, surface)
    shading = (NORMAL_SIGMA * steep) ** 2
    unknown = (skins.modes[MODES:] ** 2).sum(axis=0) + SKIN_SIGMA**2
    shade = shading / (shading + unknown) * left / (1.0 + (left / MOST_SHADE) ** 2)
    spread = np.zeros(len(log))
    spread[use] = weight
    return LampLight(log_light, shade * np.minimum(seen * 4.0, 1.0), spread)


def lamp_basis(normals: np.ndarray) -> np.ndarray:
    """(V, 3) unit normals -> (V, 1 + D): light from everywhere, and of each lamp."""
    return np.concatenate([np.ones((len(normals), 1)), np.maximum(normals @ LAMPS.T, 0.0)], axis=1)


def solve_lamps(lamps: np.ndarray, target: np.ndarray, weight: np.ndarray, light: np.ndarray | None) -> np.ndarray:
    """(1 + D,) strengths, none negative: ``lamps`` (F, 1 + D) times them is ``target`` (F,), relative to ``light``."""
    scaled = np.sqrt(weight) / (target.mean() if light is None else light)
    design = lamps * scaled[:, None]
    system = design.T @ design
    # Light from everywhere is free.
    system[range(1, len(system)), range(1, len(system))] += RIDGE * weight.sum() / target.mean() ** 2
    system[np.diag_indices_from(system)] += 1e-9 * np.trace(system)
    # Least squares from normal equations: a triangle has the same ones.
    triangle = np.linalg.cholesky(system)
    return nnls(triangle.T, np.linalg.solve(triangle, design.T @ (target * scaled)))[0]


def deviation(residual: np.ndarray) -> float:
    """Robust standard deviation."""
    return max(MAD_TO_SIGMA * float(np.median(np.abs(residual))), LEAST_SIGMA)


def light_and_slope(normals: np.ndarray, strengths: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """(V,) light at unit normals (V, 3), at least ``least``; and (V,) how much its log changes per radian that a normal
    turns."""
    # Single precision: this is for all vertices, and the photo has eight bits.
    cosine = normals.astype(np.float32) @ LAMPS.T.astype(np.float32)
    lit = cosine > 0.0
    strong = strengths[1:].astype(np.float32)
    light = np.maximum(strengths[0] + np.where(lit, cosine, 0.0) @ strong, least)
    gradient = lit.astype(np.float32) @ (strong[:, None] * LAMPS.astype(np.float32))
    gradient -= (gradient * normals).sum(axis=1, keepdims=True) * normals
    return light, np.linalg.norm(gradient, axis=1) / light


def averaged(values: np.ndarray, seen: np.ndarray, surface: Surface) -> np.ndarray:
    """(V,): each with its seen neighbours, so that freckles and pores stay the skin's."""
    count = len(values)
    near = csr_array((np.ones(len(surface.neighbours)), surface.neighbours, surface.neighbour_start), (count, count))
    weight = seen + 1e-9
    return (near @ (values * weight) + 2.0 * values * weight) / (near @ weight + 2.0 * weight)
