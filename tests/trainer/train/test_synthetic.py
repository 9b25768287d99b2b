"""Drawn triplets: their truth is true of the pictures, they repeat, and they are as varied as they should be."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from backend.network.framing import frame
from backend.rendering.rasterize import interpolate
from backend.rendering.shade import sh_basis, shade, vertex_normals
from backend.rendering.synthesis import draw_view
from trainer.data.camera_faults import blurred, compressed, photographed
from trainer.data.occluders import Capsules, draw_over
from trainer.data.synthetic import Head, SyntheticFaces, Triplets, project
from trainer.data.triplets import VIEWS, People, directional_light
from trainer.losses.flags import ANYBODY, ONE_MOMENT, ONE_PERSON

SIDE, COUNT = 64, 8


@pytest.fixture(scope="module")
def faces(head) -> SyntheticFaces:
    return SyntheticFaces(head, SIDE, seed=3, looks=6, supersampling=1)


@pytest.fixture(scope="module")
def batch(faces) -> Triplets:
    return faces.batch(5, COUNT)


@pytest.fixture(scope="module")
def scene(head):
    """A thousand triplets, without pictures."""
    people = People(head.model, 4, one_moment=0.4, one_sitting=0.3)
    return people.draw(1000, people.rng(0))


# --- repetition -------------------------------------------------------------------------------------------


def test_a_batch_is_its_number(faces, head, batch, record_property):
    start = time.perf_counter()
    faces.batch(6, COUNT)
    record_property("pictures_per_second", round(COUNT * VIEWS / (time.perf_counter() - start), 1))
    again = faces.batch(5, COUNT)
    another_maker = SyntheticFaces(head, SIDE, seed=3, looks=6, supersampling=1).batch(5, COUNT)
    for other in (again, another_maker):
        assert torch.equal(batch.photos, other.photos)
        assert torch.equal(batch.truth.identity, other.truth.identity)
        assert torch.equal(batch.landmarks["mediapipe478"], other.landmarks["mediapipe478"])
    assert not torch.equal(batch.truth.identity, faces.batch(6, COUNT).truth.identity)


def test_another_seed_is_other_people(head, batch):
    other = SyntheticFaces(head, SIDE, seed=4, looks=1, supersampling=1).batch(5, 2)
    assert float((other.truth.identity - batch.truth.identity[: 2 * VIEWS]).abs().max()) > 0.5


# --- truth ------------------------------------------------------------------------------------------------


def test_one_person_has_one_identity(batch):
    identity = batch.truth.identity.unflatten(0, (COUNT, VIEWS))
    assert torch.equal(identity, identity[:, :1].expand_as(identity))
    assert float((identity[0, 0] - identity[1, 0]).abs().max()) > 0.5


def test_a_moment_is_one_expression_and_a_sitting_one_light(scene):
    for flag in (ONE_MOMENT, ONE_PERSON, ANYBODY):
        mine = scene.flags == flag
        still = (scene.expression[mine] == scene.expression[mine][:, :1]).all(axis=(1, 2))
        lit = (scene.light[mine] == scene.light[mine][:, :1]).all(axis=(1, 2, 3))
        exposed = (scene.exposure[mine] == scene.exposure[mine][:, :1]).all(axis=(1, 2))
        assert 200 < mine.sum() < 500
        # Two pictures at rest have the same expression by chance.
        assert still.all() if flag == ONE_MOMENT else still.mean() < 0.1
        assert (lit & exposed).all() if flag != ANYBODY else not lit.any()
        assert (scene.moved[mine] == (flag != ONE_MOMENT)).all()


def test_the_metered_light_of_a_sitting_is_one(batch):
    light = batch.truth.light.unflatten(0, (COUNT, VIEWS))
    same = (light == light[:, :1]).flatten(1).all(dim=1)
    assert torch.equal(same, batch.flags != ANYBODY)
    assert 0 < int(same.sum()) < COUNT


def test_cameras_and_expressions_are_as_varied_as_told(scene):
    yaw = np.degrees(np.arctan2(scene.R[..., 0, 2], -scene.R[..., 2, 2]))
    assert np.abs(yaw).max() <= 95.01 and (np.abs(yaw) > 60).mean() > 0.1 and (np.abs(yaw) < 30).mean() > 0.25
    assert abs(yaw.mean()) < 3.0, "as many to the left as to the right"
    assert scene.distance.min() == 0.22 and scene.distance.max() == 8.0 and 0.8 < np.median(scene.distance) < 1.0
    assert scene.expression.min() >= 0.0 and scene.expression.max() <= 1.0
    assert (scene.expression.max(axis=(0, 1)) > 0.3).all(), "every shape is used"


def test_the_truth_is_where_the_picture_has_the_head(batch, head):
    """Pictures without skin, eyes or hair where the true head is drawn do not exist, unless something hides it."""
    truth = batch.truth
    vertices = head.vertices(truth.identity, truth.expression)
    view = draw_view(vertices, head.triangles, truth.K(SIDE), truth.R, truth.t(head.layout), SIDE, SIDE)
    shown = head.skin_triangles[view.fragments.triangle.clamp(min=0).long()] & view.fragments.mask
    skin = batch.skin.flatten(0, 1)
    # Some faces are masks that end at the ears: there one sees skin behind what is missing.
    assert float((skin[~shown] > 0).float().mean()) < 0.002
    bare = (skin > 0).flatten(1).sum(dim=1) / shown.flatten(1).sum(dim=1)
    # Hair, masks and hands hide most of some faces, and next to nothing of every fourth.
    assert float(bare.quantile(0.75)) > 0.9 and float(bare.min()) < 0.8


def test_colours_of_bare_skin_follow_the_true_light(batch, head):
    """Shade of the true light on the true normals explains most of how bright skin is in a picture."""
    truth = batch.truth
    vertices = head.vertices(truth.identity, truth.expression)
    view = draw_view(vertices, head.triangles, truth.K(SIDE), truth.R, truth.t(head.layout), SIDE, SIDE)
    normals = interpolate(vertex_normals(vertices, head.triangles), view.fragments, head.triangles)
    arriving = shade(torch.nn.functional.normalize(normals, dim=-1), truth.light).clamp(min=0.0).mean(dim=-1)
    linear = (batch.photos.flatten(0, 1).float() / 255.0).mean(dim=-1) ** 2.2
    alike = []
    for picture in range(len(linear)):
        mine = batch.skin.flatten(0, 1)[picture] == 1.0
        if int(mine.sum()) > 200 and float(linear[picture][mine].max()) < 0.95:
            pair = torch.stack([arriving[picture][mine], linear[picture][mine]])
            alike.append(float(torch.corrcoef(pair)[0, 1]))
    assert len(alike) > 5 and float(np.median(alike)) > 0.6


def test_landmarks_are_those_of_the_true_head(batch, head):
    truth = batch.truth
    vertices = np.asarray(head.model.vertices(truth.identity.numpy(), truth.expression.numpy()), np.float64)
    K, R, t = truth.K(SIDE).double().numpy(), truth.R.double().numpy(), truth.t(head.layout).double().numpy()
    for name, count in (("ibug68", 68), ("mediapipe478", 478)):
        points = head.model.landmark_points(vertices, name)
        camera = np.einsum("pij,plj->pli", R, points) + t[:, None]
        image = np.einsum("pij,plj->pli", K, camera)
        assert batch.landmarks[name].shape == (COUNT * VIEWS, count, 2)
        np.testing.assert_allclose(batch.landmarks[name], image[..., :2] / image[..., 2:], atol=2e-3)


def test_faces_are_framed_as_photos_would_be(batch):
    """A little off, as detected landmarks are; the principal point stays in the middle."""
    middle, side, angle = frame(batch.landmarks["ibug68"])
    off = (middle / SIDE - 0.5).flatten()
    assert 0.01 < float(off.std()) < 0.08 and float(off.abs().max()) < 0.2
    assert 0.02 < float((side / SIDE).log().std()) < 0.15 and 0.8 < float((side / SIDE).median()) < 1.2
    assert 0.03 < float(angle.std()) < 0.25
    np.testing.assert_allclose(batch.truth.K(SIDE)[:, :2, 2], SIDE / 2)


def test_hidden_landmarks_are_known(batch, head):
    """In profile the far side is hidden, whatever else is; from the front most is seen."""
    yaw = torch.rad2deg(torch.atan2(batch.truth.R[:, 0, 2], -batch.truth.R[:, 2, 2]))
    right_eye, left_eye = slice(36, 42), slice(42, 48)
    visible = batch.visible["ibug68"].float()
    # The nose to the picture's right: the subject's right side is the far one... the left of the picture is seen.
    turned = yaw.abs() > 60
    assert int(turned.sum()) >= 2
    for picture in turned.nonzero()[:, 0].tolist():
        near, far = (right_eye, left_eye) if float(yaw[picture]) > 0 else (left_eye, right_eye)
        assert float(visible[picture, far].mean()) <= float(visible[picture, near].mean()) + 1e-6
        assert float(visible[picture, far].mean()) < 0.5
    frontal = yaw.abs() < 25
    assert float(visible[frontal].mean()) > 0.6


def test_a_model_with_albedo_wears_it_and_says_so(head):
    model = head.model
    rng = np.random.default_rng(0)
    green = np.tile(np.float32([0.02, 0.5, 0.02]), (model.vertex_count, 1))
    basis = rng.normal(0.0, 0.001, (3, *model.mean.shape)).astype(np.float32)
    worn = Head(model.replaced(albedo_mean=green, albedo_basis=basis), torch.device("cpu"))
    batch = SyntheticFaces(worn, SIDE, seed=3, looks=2, supersampling=1).batch(0, 3)
    assert batch.truth.albedo.shape == (9, 3) and float(batch.truth.albedo.std()) > 0.5
    skin = batch.photos.flatten(0, 1)[batch.skin.flatten(0, 1) == 1.0].float()
    assert float((skin[:, 1] > skin[:, 0] + 20).float().mean()) > 0.8


# --- light and camera -------------------------------------------------------------------------------------


def test_a_lamp_is_what_lambert_says():
    """Nine harmonics of max(0, n . d), against the integral: off by a few percent of the lamp, as they must be."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(5, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normals = rng.normal(size=(4000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    basis = sh_basis(torch.from_numpy(normals)).numpy()
    for direction, light in zip(directions, directional_light(directions)):
        exact = np.clip(normals @ direction, 0.0, None)
        assert np.abs(basis @ light - exact).max() < 0.1
        assert np.abs(basis @ light - exact).mean() < 0.035
        # Nothing of order two explains it better.
        best = np.linalg.lstsq(basis, exact, rcond=None)[0]
        np.testing.assert_allclose(best, light, atol=0.01)


def test_capsules_cover_what_they_should_and_heads_hide_them():
    picture, depth = torch.zeros(2, 32, 32, 3), torch.full((2, 32, 32), 0.5)
    ends = torch.tensor([[[4.0, 16.0, 28.0, 16.0]]]).expand(2, 1, 4)
    radius, colour = torch.full((2, 1), 4.0), torch.ones(2, 1, 3)
    drawn, covered = draw_over(picture, depth, Capsules(ends, radius, colour, torch.tensor([[0.4], [0.6]])))
    assert float(covered[1].max()) == 0.0 and float(drawn[1].max()) == 0.0, "behind the head"
    area = 24.0 * 8.0 + np.pi * 16.0
    assert float(covered[0].sum()) == pytest.approx(area, rel=0.03)
    assert float(drawn[0, 16, 16, 0]) > 0.9 and float(drawn[0, 2, 2, 0]) == 0.0


def test_blur_keeps_brightness_and_spreads_as_told():
    pictures = torch.zeros(2, 3, 65, 65)
    pictures[:, :, 32, 32] = 1.0
    soft = blurred(pictures, torch.tensor([3.0, 0.0]), torch.tensor([1.5, 0.0]))
    assert torch.equal(soft[1], pictures[1])
    place = torch.arange(65.0) - 32.0
    np.testing.assert_allclose(soft[0].sum(dim=(1, 2)), 1.0, atol=1e-5)
    across, down = soft[0, 0].sum(dim=0), soft[0, 0].sum(dim=1)
    assert float((across * place**2).sum()) ** 0.5 == pytest.approx(3.0, rel=0.02)
    assert float((down * place**2).sum()) ** 0.5 == pytest.approx(1.5, rel=0.02)


def test_compression_is_like_jpeg():
    """Against Pillow's: much the same loss on a drawn face, and hardly any at the best quality."""
    import io

    from PIL import Image
    from skimage import data

    face = data.astronaut()[32:224, 160:352].copy()
    ours = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255.0
    for quality in (25, 60, 90):
        encoded = io.BytesIO()
        Image.fromarray(face).save(encoded, "JPEG", quality=quality, subsampling=0)
        theirs = np.asarray(Image.open(encoded), np.float32)
        loss = np.sqrt(((theirs - face) ** 2).mean())
        mine = compressed(ours, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy() * 255.0
        assert np.sqrt(((mine - face) ** 2).mean()) == pytest.approx(loss, rel=0.35), quality


def test_what_a_camera_does_is_a_seed():
    pictures = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    first, again, other = (photographed(pictures, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.uint8 and first.shape == pictures.shape


def test_points_behind_the_camera_do_not_break_the_projection():
    points = torch.tensor([[[0.0, 0.0, -1.0], [0.0, 0.0, 2.0]]])
    pixels, away = project(points, torch.eye(3)[None], torch.eye(3)[None], torch.zeros(1, 3))
    assert torch.isfinite(pixels).all() and away.tolist() == [[-1.0, 2.0]]
