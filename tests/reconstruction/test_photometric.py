"""The photometric refinement: its derivatives and equations against slow twins, and what it does to heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import Cancelled, DependencyError
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.reconstruction import photometric, photometric_solve
from backend.reconstruction.fit import Fitter
from backend.reconstruction.joint import JointFit, fit_together
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.photometric import BLURS_MM, best_shown, refine, refine_photos, shoot
from backend.reconstruction.photometric_face import face_of, normals_and_derivatives
from backend.reconstruction.photometric_solve import OWN_SKIN, Rows, Solve, Unknowns, normal_equations, sampled
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.texture import judge
from backend.reconstruction.texture_view import look
from backend.rendering.shade import sh_basis, sh_basis_gradient, vertex_normals
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.several_views import draw_series

# Met by no measurement; heads that face the camera more or less.
SEEDS, VIEWS, SIZE = (9_500_000, 9_500_001, 9_500_003), 3, 400


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def fitter(model) -> Fitter:
    return Fitter(LandmarkModel(model, "mediapipe478"))


@pytest.fixture(scope="module")
def people(model, fitter) -> list[tuple[np.ndarray, list[Photo], list[Observation], JointFit]]:
    """Invented people: identity, photos, landmarks two pixels off, and the fit of these."""
    painter, result = Painter(model), []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        photos, seen = [], []
        series = draw_series(model, seed, VIEWS, SIZE)
        for moment, person in enumerate(series):
            photos.append(Photo(painter.paint(person, seed, moment)))
            points = person.camera.project(model.landmark_points(person.vertices.astype(np.float64), "mediapipe478"))
            seen.append(Observation(points + rng.normal(0.0, 2.0, points.shape), SIZE, SIZE))
        result.append((series[0].identity, photos, seen, fit_together(fitter, seen)))
    return result


def away_mm(model, identity: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance over the face after a similarity."""
    face = face_of(model).vertices
    a, b = (model.vertices(each)[face].astype(np.float64) * 1e3 for each in (identity, truth))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    u, singular, vt = np.linalg.svd(a.T @ b)
    return float(np.linalg.norm(singular.sum() / (a**2).sum() * a @ (u @ vt) - b, axis=1).mean())


# --- what counts ------------------------------------------------------------------------------------------


def test_dark_fingers_over_a_mouth_do_not_count(model, people):
    """The texture takes what is dark there for a beard; the refinement must not read light from it."""
    _, photos, _, fit = people[0]
    camera, pixels = photos[0], photos[0].pixels.copy()
    view = Camera(intrinsics(fit.photos[0].focal_px, SIZE, SIZE), fit.photos[0].R, fit.photos[0].t, SIZE, SIZE)
    face, vertices = face_of(model), model.vertices(fit.identity, fit.photos[0].expression)
    places = view.project(vertices.astype(np.float64))
    nose, chin = places[model.regions["nose"], 1].max(), places[model.regions["face"], 1].max()
    between = slice(int(nose) + 2, int(chin) - 4)
    pixels[between] = (52, 36, 28)
    inside = (places[:, 1] > between.start + 6) & (places[:, 1] < between.stop - 6)
    plain, covered = (shoot(model, each, fit.photos[0]).seen for each in (camera.pixels, pixels))
    below, above = inside[face.vertices] & (plain > 0.2), places[face.vertices, 1] < nose - 12
    assert below.sum() > 100
    assert covered[below].mean() < 0.05 * plain[below].mean()
    assert covered[above].mean() > 0.7 * plain[above].mean()
    seen = look(pixels, view, model, face.surface, vertices, None)
    bearded = judge(seen, view, model, face.surface)[2][face.vertices]
    assert bearded[below].mean() > 5 * covered[below].mean() + 0.05


# --- derivatives ------------------------------------------------------------------------------------------


def test_normals_turn_as_autograd_says(model):
    face, rng = face_of(model), np.random.default_rng(1)
    shapes = model.identity[:3]
    vertices = model.vertices(rng.normal(0, 0.5, len(model.identity)))
    normals, turned = normals_and_derivatives(face, vertices, shapes)
    triangles = torch.from_numpy(model.triangles)
    step = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    moved = torch.as_tensor(vertices, dtype=torch.float64) + torch.einsum(
        "q,qvc->vc", step, torch.as_tensor(shapes, dtype=torch.float64)
    )
    slow = vertex_normals(moved[None], triangles)[0][face.vertices]
    assert np.abs(normals - slow.detach().numpy()).max() < 1e-9
    for point in rng.integers(0, len(face.vertices), 5):
        for axis in range(3):
            (gradient,) = torch.autograd.grad(slow[point, axis], step, retain_graph=True)
            assert np.allclose(turned[:, point, axis], gradient.numpy(), atol=1e-6)


def test_the_harmonics_change_as_autograd_says():
    normals = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=1).requires_grad_()
    slow = torch.stack(
        [
            torch.autograd.grad(column.sum(), normals, retain_graph=True)[0] if index else 0 * normals
            for index, column in enumerate(sh_basis(normals).unbind(1))
        ],
        dim=1,
    )
    assert np.allclose(sh_basis_gradient(normals.detach().numpy()), slow.detach().numpy())


def test_brightness_changes_as_finite_differences_say(model, people):
    """With the pose (7) and the points, on a picture that is linear enough: a smooth wave."""
    _, photos, _, fit = people[0]
    shot = shoot(model, photos[0].pixels, fit.photos[0])
    wave = np.sin(np.linspace(0, 9, SIZE, dtype=np.float32)) + np.linspace(0, 3, SIZE, dtype=np.float32)[:, None]
    shot.levels = {1.0: photometric._level(np.ascontiguousarray(wave), 4.0)}
    shot.to_analysis = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5]])
    state = Unknowns.of(fit, face_of(model))
    points = model.vertices(fit.identity, fit.photos[0].expression)[face_of(model).vertices].astype(np.float64)
    value, by = sampled(shot, 1.0, points, state.rotation[0], state.pose[0])
    # OpenCV reads pictures in steps of 1/32 pixel, so moves are of a pixel or two.
    moves = enumerate((1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-2, 1e-1))
    for unknown, length in moves:
        local = np.zeros((VIEWS, photometric_solve.POSE + state.expression.shape[1] + 9))
        local[0, unknown] = length
        moved = state.moved(local, np.zeros(len(state.identity) + len(state.albedo)), (0.0, 1.0))
        other, _ = sampled(shot, 1.0, points, moved.rotation[0], moved.pose[0])
        assert _apart((other - value) / length, by.pose[:, unknown]) < 0.1, unknown
    other, _ = sampled(shot, 1.0, points + np.array([1e-3, 0.0, 0.0]), state.rotation[0], state.pose[0])
    assert _apart((other - value) / 1e-3, by.model[:, 0]) < 0.1


def _apart(slope: np.ndarray, derivative: np.ndarray) -> float:
    """Root mean square difference over the size of what is expected."""
    return float(np.linalg.norm(slope - derivative) / np.linalg.norm(derivative))


def test_equations_are_those_with_the_skins_own_part_as_unknowns():
    """Elimination against the large system that keeps ``a`` of every point."""
    rng = np.random.default_rng(2)
    photos, points, own, shared = 2, 12, 4, 3
    rows = Rows(
        rng.normal(size=(photos, points)),
        rng.uniform(0, 1, (photos, points)) * (rng.uniform(size=(photos, points)) > 0.2),
        rng.normal(size=(photos, points, own)),
        rng.normal(size=(photos, points, shared)),
        *np.zeros((2, photos, points, 3)),
    )
    hessian, gradient = normal_equations(rows, 0.3)
    size = photos * own + shared
    jacobian, residual, weight = np.zeros((photos * points, size + points)), [], []
    for n in range(photos):
        for f in range(points):
            row = n * points + f
            jacobian[row, n * own : (n + 1) * own] = rows.local[n, f]
            jacobian[row, photos * own : size] = rows.shared[n, f]
            jacobian[row, size + f] = -1.0
    residual, weight = rows.residual.ravel(), rows.weight.ravel()
    full = (jacobian * weight[:, None]).T @ jacobian
    full[range(size, size + points), range(size, size + points)] += OWN_SKIN
    pull = jacobian.T @ (weight * residual)
    inner = np.linalg.inv(full[size:, size:])
    factor = photometric_solve.INDEPENDENT / 0.3**2
    assert np.allclose(hessian, factor * (full[:size, :size] - full[:size, size:] @ inner @ full[size:, :size]))
    assert np.allclose(gradient, factor * (pull[:size] - full[:size, size:] @ inner @ pull[size:]))


def started(model, fitter, person):
    """Shots, start, what landmarks hold and the identity's covariance, as ``refine`` has them."""
    _, photos, seen, fit = person
    shots = [shoot(model, photo.pixels, each) for photo, each in zip(photos, fit.photos)]
    problem = photometric.JointProblem(fitter, seen)
    problem.believe()
    state = Unknowns.of(fit, face_of(model))
    return shots, state, problem.equations(state.state(fitter)).local.numpy(), problem.prior.covariance.numpy()


def test_each_step_lowers_what_it_minimises(model, fitter, people):
    """The robust cost with its priors, at one blur and one scale of errors."""
    shots, state, held, free = started(model, fitter, people[1])
    solve = Solve(fitter, face_of(model), shots, state, held, free)

    def cost() -> float:
        rows = solve.rows(BLURS_MM[0])
        sigma, scale = 0.1, photometric_solve.CAUCHY_SCALE
        own = (rows.weight * rows.residual).sum(axis=0) / (rows.weight.sum(axis=0) + OWN_SKIN)
        robust = np.log1p((rows.residual / (scale * sigma)) ** 2) * scale**2
        apart = solve.apart()
        known = 0.5 * float(apart @ solve.precision @ apart)
        return known + 0.5 * photometric_solve.INDEPENDENT * float((rows.weight * (robust - (own / sigma) ** 2)).sum())

    costs = [cost()]
    for _ in range(3):
        solve.step(BLURS_MM[0])
        costs.append(cost())
    assert costs[-1] < costs[0] and costs[1] < costs[0]


def test_what_is_known_of_an_identity_stays(model, fitter, people):
    """A mixture of coefficients that is known moves a thousandth as far as the others together."""
    shots, state, held, free = started(model, fitter, people[1])
    known = np.random.default_rng(0).normal(size=len(free))
    known /= np.linalg.norm(known)
    within = np.eye(len(free)) - np.outer(known, known)
    moves = []
    for covariance in (free, within @ free @ within + 1e-8 * np.outer(known, known)):
        solve = Solve(fitter, face_of(model), shots, replace(state, light=state.light.copy()), held, covariance)
        solve.step(BLURS_MM[0])
        moves.append(solve.now.identity - state.identity)
    assert abs(moves[0] @ known) > 0.03 * np.linalg.norm(moves[0])
    assert abs(moves[1] @ known) < 1e-3 * np.linalg.norm(moves[1])


# --- what it does -----------------------------------------------------------------------------------------


def test_heads_come_nearer_to_the_truth(model, fitter, people):
    before, after = [], []
    for truth, photos, seen, fit in people:
        found = refine_photos(fitter, seen, fit, lambda place, photos=photos: photos[place])
        assert len(found.photos) == VIEWS and (found.sigma_identity <= fit.sigma_identity).all()
        before.append(away_mm(model, fit.identity, truth))
        after.append(away_mm(model, found.identity, truth))
    assert np.mean(after) < 0.95 * np.mean(before)


def test_photos_that_show_no_skin_leave_the_fit_alone(fitter, people):
    _, _, seen, fit = people[0]
    black = Photo(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert refine_photos(fitter, seen, fit, lambda _: black) is fit
    assert refine_photos(fitter, seen, fit, lambda _: None) is fit


def test_a_head_that_leaves_its_landmarks_is_not_taken(fitter, people, monkeypatch):
    _, photos, seen, fit = people[0]
    monkeypatch.setattr(photometric, "WORSE_LANDMARKS", 0.0)
    assert refine_photos(fitter, seen, fit, lambda place: photos[place]) is fit


def test_photos_that_are_left_out_follow(fitter, people, monkeypatch):
    _, photos, seen, fit = people[0]
    monkeypatch.setattr(photometric, "MOST_PHOTOS", 2)
    asked = []
    found = refine_photos(fitter, seen, fit, lambda place: asked.append(place) or photos[place])
    assert len(asked) == 2 and len(found.photos) == VIEWS
    assert all(np.allclose(photo.identity, found.identity, atol=1e-3) for photo in found.photos)


def test_of_many_photos_those_from_other_sides_are_taken(people):
    frontal = people[0][3].photos[0]
    turned = [replace(frontal, R=frontal.R @ _yaw(angle)) for angle in (*np.zeros(20), 0.5, -0.5)]
    assert {20, 21} <= set(best_shown(turned)) and len(best_shown(turned)) == photometric.MOST_PHOTOS


def _yaw(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def test_a_stop_is_heard_between_steps(model, fitter, people):
    _, photos, seen, fit = people[0]
    shots = [shoot(model, photo.pixels, each) for photo, each in zip(photos, fit.photos)]

    def stop(part: float) -> None:
        if part > 0.4:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        refine(fitter, seen, fit, shots, stop)


# --- as a stage -------------------------------------------------------------------------------------------


def test_the_stage_refines_and_can_be_left_out():
    example = Path(__file__).parents[2] / "examples/astronaut.jpg"
    with_it = Pipeline(device="cpu", texture_size=None)
    assert "refine" in with_it.stages
    (refined,) = with_it.reconstruct_many([example])
    (plain,) = Pipeline(device="cpu", texture_size=None, stages=("detect", "fit")).reconstruct_many([example])
    assert refined.timings_ms["refine"] > 0 and "refine" not in plain.timings_ms
    moved = refined.reconstructions[0].identity - plain.reconstructions[0].identity
    assert np.abs(moved).max() > 0.05
    assert refined.reconstructions[0].fit.median_relative < 2.0 * plain.reconstructions[0].fit.median_relative


def test_heads_without_statistics_of_skin_say_so(model):
    other = replace(model, info=replace(model.info, name="another"))
    assert "refine" not in Pipeline(other, device="cpu", texture_size=None).stages
    with pytest.raises(DependencyError, match="another comes without statistics of skin"):
        Pipeline(other, device="cpu", texture_size=None, stages=("detect", "fit", "refine"))
    with pytest.raises(DependencyError, match="starts from the stage fit"):
        Pipeline(device="cpu", texture_size=None, stages=("detect", "refine"))
