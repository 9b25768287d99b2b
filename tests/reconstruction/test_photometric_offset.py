"""Offsets beyond the model: derivatives and the solve against slow twins, and a bump that is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.face_model.registry import get_model
from backend.geometry.mesh import vertex_normals
from backend.reconstruction import photometric_offset as module
from backend.reconstruction.fit import Fitter
from backend.reconstruction.joint import fit_together
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.photometric import refine_photos
from backend.reconstruction.photometric_face import face_of
from backend.reconstruction.photometric_offset import bend, mirrored, normals_by_displacement, offsets
from backend.reconstruction.photometric_solve import OWN_SKIN, Rows
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.several_views import draw_series

# Without a beard: those do not count.
SEED, VIEWS, SIZE = 9_500_004, 4, 400
BUMP_M, BUMP_RADIUS_M = 1.5e-3, 9e-3


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def face(model):
    return face_of(model)


def rows_of(face, photos: int = 2) -> Rows:
    rng, count = np.random.default_rng(3), len(face.vertices)
    weight = rng.uniform(0, 1, (photos, count)) * (rng.uniform(size=(photos, count)) > 0.3)
    residual = rng.normal(0, 0.1, (photos, count))
    point, normal = rng.normal(0, 20.0, (photos, count, 3)), rng.normal(0, 0.7, (photos, count, 3))
    return Rows(residual, weight, np.zeros((photos, count, 0)), np.zeros((photos, count, 0)), point, normal)


def test_normals_change_as_finite_differences_say(model, face):
    vertices = model.mean.astype(np.float64)
    normals = vertex_normals(vertices, model.triangles)
    turning = normals_by_displacement(face, vertices, normals)
    rng = np.random.default_rng(4)
    moved = np.zeros(model.vertex_count)
    moved[face.vertices] = rng.normal(0, 1.0, len(face.vertices))
    step = 1e-7
    other = vertex_normals(vertices + step * moved[:, None] * normals, model.triangles)
    slope = ((other - normals) / step)[face.vertices]
    for axis in range(3):
        found = turning[axis] @ moved[face.vertices]
        assert np.abs(found - slope[:, axis]).max() < 1e-3 * np.abs(slope).max()


def test_a_flat_displacement_does_not_bend_and_a_dent_does(model, face):
    matrix = bend(face)
    inside = np.isclose(matrix.sum(axis=1), 0.0)
    assert 0.8 < inside.mean() < 1.0  # at the rim of the face displacements end
    assert np.abs((matrix @ np.ones(len(face.vertices)))[inside]).max() < 1e-12
    dent = np.zeros(len(face.vertices))
    dent[np.flatnonzero(inside)[100]] = 1.0
    assert np.linalg.norm(matrix @ dent) > 0.9


def test_an_unseen_side_follows_the_other(model, face):
    left = model.mean[face.vertices, 0] > 0.01
    hessian = mirrored(face, left)
    place = {vertex: index for index, vertex in enumerate(face.vertices)}
    even, odd = np.zeros((2, len(face.vertices)))
    for index, vertex in enumerate(face.vertices):
        other = place.get(face.surface.mirror[vertex])
        if other is not None and left[index]:
            even[index], even[other] = 1.0, 1.0
            odd[index], odd[other] = 1.0, -1.0
    assert even @ hessian @ even == pytest.approx(0.0) and odd @ hessian @ odd > 100.0


def test_the_solution_is_the_lowest_point_of_its_cost(model, face):
    """The cost written out, normals by finite differences and the skin's own part minimised for each point."""
    rows = rows_of(face)
    identity = np.zeros(len(model.identity))
    found = offsets(model, face, identity, replace(rows, weight=rows.weight.copy()))
    sigma = module.noise(rows)  # lowers the weights of outliers, as the solve did
    vertices = model.vertices(identity).astype(np.float64)
    normals = vertex_normals(vertices, model.triangles)
    along = normals[face.vertices]
    best = (found[face.vertices] * along).sum(axis=1)
    assert np.abs(found[face.vertices] - best[:, None] * along).max() < 1e-12
    outside = np.ones(model.vertex_count, bool)
    outside[face.vertices] = False
    assert (found[outside] == 0).all()
    matrix, unseen = bend(face), rows.weight.max(axis=0) <= 0

    def cost(displacement: np.ndarray) -> float:
        moved = np.zeros(model.vertex_count)
        moved[face.vertices] = displacement
        step = 1e-4
        turned = (vertex_normals(vertices + step * moved[:, None] * normals, model.triangles) - normals) / step
        change = (rows.point * along).sum(axis=2) * displacement + (rows.normal * turned[face.vertices]).sum(axis=2)
        left = rows.residual + change
        own = (rows.weight * left).sum(axis=0) / (rows.weight.sum(axis=0) + OWN_SKIN)
        data = (rows.weight * (left - own) ** 2).sum() + OWN_SKIN * (own**2).sum()
        known = ((matrix @ displacement) ** 2).sum() / module.BEND**2 + (displacement**2).sum() / module.AWAY**2
        known += (module.MIRROR / module.AWAY) ** 2 * displacement @ mirrored(face, unseen) @ displacement
        return module.INDEPENDENT / sigma**2 * data + known

    lowest, rng = cost(best), np.random.default_rng(5)
    assert lowest < cost(np.zeros_like(best))
    for size in (0.3, 1.0):
        for _ in range(3):
            assert cost(best + size * best.std() * rng.normal(size=best.shape)) > lowest
        assert cost((1.0 + 0.2 * size) * best) > lowest and cost((1.0 - 0.2 * size) * best) > lowest


def test_a_bump_that_the_model_does_not_know_is_found(model, face):
    fitter = Fitter(LandmarkModel(model, "mediapipe478"))
    cheek = model.landmark_points(model.mean.astype(np.float64), "ibug68")[[2, 31]].mean(axis=0)
    middle = face.vertices[np.linalg.norm(model.mean[face.vertices] - cheek, axis=1).argmin()]
    away = np.linalg.norm(model.mean - model.mean[middle], axis=1)
    bump = BUMP_M * np.exp(-0.5 * (away / BUMP_RADIUS_M) ** 2)
    lifted = bump[:, None] * vertex_normals(model.mean, model.triangles)
    painter, rng, photos, seen = Painter(model), np.random.default_rng(1), [], []
    for moment, person in enumerate(draw_series(model, SEED, VIEWS, SIZE)):
        whole = replace(person, vertices=(person.vertices + lifted).astype(np.float32))
        photos.append(Photo(painter.paint(whole, SEED, moment)))
        points = person.camera.project(model.landmark_points(person.vertices.astype(np.float64), "mediapipe478"))
        seen.append(Observation(points + rng.normal(0, 1.0, points.shape), SIZE, SIZE))
    fit = fit_together(fitter, seen)
    found = refine_photos(fitter, seen, fit, lambda place: photos[place])
    assert found.offset is not None and found.offset.shape == model.mean.shape
    height = (found.offset * vertex_normals(model.vertices(found.identity), model.triangles)).sum(axis=1)
    near, far = away < BUMP_RADIUS_M, (away > 4 * BUMP_RADIUS_M) & (bump < 1e-5)
    used = np.zeros(model.vertex_count, bool)
    used[face.vertices] = True
    assert height[near & used].mean() > height[far & used].mean() + 0.05e-3
