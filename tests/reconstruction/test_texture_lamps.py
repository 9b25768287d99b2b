"""Light as a sum of lamps: its parts against slow twins, and light that nine harmonics cannot follow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from backend.face_model.registry import get_model
from backend.geometry.mesh import vertex_normals
from backend.reconstruction import texture_lamps
from backend.reconstruction.skin_statistics import SkinStatistics, statistics_of
from backend.reconstruction.texture_atlas import Surface, surface_of
from backend.reconstruction.texture_lamps import LAMPS, averaged, lamp_basis, lamp_light, light_and_slope, solve_lamps
from backend.reconstruction.texture_skin import harmonics


@pytest.fixture(scope="module")
def surface() -> Surface:
    return surface_of(get_model("open-head"))


@pytest.fixture(scope="module")
def skins() -> SkinStatistics:
    found = statistics_of(get_model("open-head"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def normals() -> np.ndarray:
    model = get_model("open-head")
    return vertex_normals(model.mean.astype(np.float64), model.triangles)


@pytest.fixture(scope="module")
def seen(normals) -> np.ndarray:
    """As a camera in front of the face sees it."""
    return np.clip(normals[:, 2], 0.0, 1.0)


def lit(normals: np.ndarray, direction: tuple[float, float, float], ambient: float) -> np.ndarray:
    """(V,) log light of one lamp."""
    unit = np.array(direction) / np.linalg.norm(direction)
    return np.log(ambient + np.maximum(normals @ unit, 0.0))


def skin_of(skins: SkinStatistics, seed: int) -> np.ndarray:
    coefficients = np.random.default_rng(seed).normal(0.0, 0.7, len(skins.modes))
    return skins.mean + coefficients @ skins.modes


def off(surface: Surface, seen: np.ndarray, found: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square difference of log light, a factor taken out, on bare skin."""
    weight = surface.take * (1.0 - surface.feature) * surface.skin * seen
    apart = found - truth
    apart = apart - np.average(apart, weights=weight)
    return float(np.sqrt(np.average(apart**2, weights=weight)))


@pytest.mark.parametrize("direction", [(1.0, 0.4, 0.8), (-1.0, 0.0, 0.2), (0.0, 1.0, 0.5)])
def test_a_lamp_aside_is_found_better_than_by_harmonics(surface, skins, normals, seen, direction):
    truth = lit(normals, direction, 0.2)
    log = skin_of(skins, 1) + truth
    found = lamp_light(log, seen, normals, skins, surface)
    assert found is not None
    weight = surface.take * (1.0 - surface.feature) * surface.skin * seen
    basis = harmonics(normals)
    root = np.sqrt(weight)
    nine = basis @ np.linalg.lstsq(basis * root[:, None], (log - skins.mean) * root, rcond=None)[0]
    assert off(surface, seen, found.log_light, truth) < off(surface, seen, nine, truth)


def test_a_lamp_beside_the_camera_is_found(surface, skins, normals, seen):
    truth = lit(normals, (0.0, 0.0, 1.0), 0.2)
    found = lamp_light(skin_of(skins, 1) + truth, seen, normals, skins, surface)
    assert found is not None
    assert off(surface, seen, found.log_light, truth) < 0.05


def test_under_even_light_the_skin_keeps_what_is_its_own(surface, skins, normals, seen):
    mole = np.zeros(len(normals))
    mole[np.flatnonzero(surface.trust > 0.9)[::7]] = -0.6
    found = lamp_light(skin_of(skins, 2) + mole, seen, normals, skins, surface)
    assert found is not None
    assert off(surface, seen, found.log_light, np.zeros(len(normals))) < 0.05
    assert np.abs(found.shade).max() < 0.06


def test_where_the_light_changes_fast_what_is_left_is_light(surface, skins, normals, seen):
    """The photo is of a head whose normals are not quite those of the fit."""
    rng = np.random.default_rng(3)
    turned = normals + 0.25 * averaged(rng.normal(size=len(normals)), seen, surface)[:, None] * [1.0, 0.0, 0.0]
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    truth = lit(turned, (1.0, 0.0, 0.4), 0.1)
    found = lamp_light(skin_of(skins, 4) + truth, seen, normals, skins, surface)
    assert found is not None
    without, with_shade = (
        off(surface, seen, light, truth) for light in (found.log_light, found.log_light + found.shade)
    )
    assert with_shade < 0.8 * without


def test_too_little_skin_tells_nothing(surface, skins, normals):
    assert lamp_light(np.zeros(len(normals)), np.zeros(len(normals)), normals, skins, surface) is None


def test_a_black_photo_gives_finite_light(surface, skins, normals, seen):
    found = lamp_light(np.full(len(normals), np.log(1e-6)), seen, normals, skins, surface)
    assert found is not None
    assert np.isfinite(found.log_light).all() and np.isfinite(found.shade).all()


def test_lamps_as_a_general_solver_finds_them(normals):
    rng = np.random.default_rng(5)
    rows = lamp_basis(normals[::40])
    target, weight = rng.uniform(0.3, 1.5, len(rows)), rng.uniform(0.0, 1.0, len(rows))
    light = rng.uniform(0.5, 1.0, len(rows))
    ridge = np.sqrt(texture_lamps.RIDGE * weight.sum()) / target.mean() * np.eye(rows.shape[1])[1:]
    scale = (np.sqrt(weight) / light)[:, None]
    slow = lsq_linear(
        np.concatenate([rows * scale, ridge]),
        np.concatenate([target * scale[:, 0], np.zeros(len(ridge))]),
        (0.0, np.inf),
        tol=1e-12,
    ).x
    fast = solve_lamps(rows, target, weight, light)
    assert (fast >= 0).all() and (fast == 0).any()
    assert np.allclose(rows @ fast, rows @ slow, rtol=1e-3)


def test_slope_as_differences_give_it(normals):
    rng = np.random.default_rng(6)
    strengths = rng.uniform(0.0, 1.0, 1 + len(LAMPS))
    some = normals[::200]
    light, steep = light_and_slope(some, strengths, 1e-6)
    assert np.allclose(light, lamp_basis(some) @ strengths, rtol=1e-5)
    step, found = 1e-5, np.zeros(len(some))
    for angle in np.arange(0.0, 2 * np.pi, 0.05):
        aside = np.cross(some, [0.3, 0.5, 0.8])
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        turn = np.cos(angle) * aside + np.sin(angle) * np.cross(some, aside)
        moved = [np.log(lamp_basis(some * np.cos(step) + sign * turn * np.sin(step)) @ strengths) for sign in (1, -1)]
        found = np.maximum(found, (moved[0] - moved[1]) / (2 * step))
    assert np.allclose(steep, found, rtol=0.01, atol=1e-3)


def test_averages_as_a_loop_makes_them(surface):
    rng = np.random.default_rng(7)
    values, weight = rng.normal(size=len(surface.skin)), rng.uniform(size=len(surface.skin))
    fast = averaged(values, weight, surface)
    for vertex in range(0, len(values), 501):
        near = surface.neighbours[surface.neighbour_start[vertex] : surface.neighbour_start[vertex + 1]]
        each = np.concatenate([values[near], [values[vertex]]])
        how = np.concatenate([weight[near], [2.0 * weight[vertex]]]) + 1e-12
        assert fast[vertex] == pytest.approx(np.average(each, weights=how), abs=1e-5)
