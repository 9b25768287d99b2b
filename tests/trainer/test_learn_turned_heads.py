"""Learning where landmarks of turned heads are: what is drawn, what is kept, and that something is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch

from backend.face_model.registry import get_model
from backend.geometry.rotation import head_euler_degrees
from backend.network.turned_heads import (
    FACE_LANDMARKS,
    LANDMARK_SET,
    RADIUS_MM,
    SIDE,
    TurnedHeads,
    align,
    load_turned_heads,
    shipped_network,
)
from backend.network.weights_file import read_info
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.landmark_model import LandmarkModel
from backend.vision.crop import Reduced
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer import face_lessons as lessons
from trainer import learn_turned_heads as learning
from trainer import see_faces
from trainer.data.bent_heads import bent
from trainer.see_faces import BENT, COVERED, STORED_REACH, STORED_SIDE, TURNED, Seen


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A few pictures of each kind, drawn in this process and kept."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK", 12), ("TRIPLETS", 5), ("LOOKS", 4)):
            patch.setattr(see_faces, name, value)
        jobs = [
            (TURNED, 0, None, folder),
            (TURNED, 1, None, folder),
            (COVERED, 0, None, folder),
            (BENT, 0, None, folder),
        ]
        paths = [see_faces.work(job) for job in jobs]
        again = see_faces.work(jobs[0])
    assert again == paths[0] and not list(folder.glob("*.part*"))
    with pytest.MonkeyPatch.context() as patch:
        # What is there is not drawn again.
        patch.setattr(see_faces.Drawer, "block", lambda self, kind, number: pytest.fail("drawn again"))
        assert see_faces.work(jobs[1]) == paths[1]
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            parts.append(Seen(**arrays))
    return parts


def test_people_of_all_kinds_are_seen_as_the_network_sees_them(seen):
    for part in seen:
        count = len(part.R)
        assert count >= 2
        assert part.crop.shape == (count, STORED_SIDE, STORED_SIDE, 3) and part.crop.std() > 10
        size = np.sqrt((part.aligned[:, :FACE_LANDMARKS] ** 2).sum(axis=2).mean(axis=1))
        assert (abs(size - 1.0) < 0.3).all(), "aligned onto a shape of unit radius"
        off = np.linalg.norm(part.wanted - part.aligned, axis=2)[:, :FACE_LANDMARKS]
        assert (np.median(off, axis=1) < 0.5).mean() > 0.7, "where landmarks are is near where they were detected"
        np.testing.assert_allclose(part.R @ part.R.transpose(0, 2, 1), np.tile(np.eye(3), (count, 1, 1)), atol=1e-4)
    assert all(abs(head_euler_degrees(R)["yaw"]) > 15.0 for R in seen[0].R.astype(np.float64))


def test_landmarks_of_a_bent_head_are_on_that_head(model):
    lm, person = LandmarkModel(model, LANDMARK_SET, regress=False), see_faces.turned_person(model, 4)
    other = bent(model, person, np.random.default_rng(1))
    on_head = person.camera.project(model.landmark_points(other.vertices.astype(np.float64), LANDMARK_SET))
    inner = np.setdiff1d(np.arange(len(on_head)), CONTOURS[LANDMARK_SET])
    np.testing.assert_allclose(see_faces.true_landmarks(lm, other)[inner], on_head[inner], atol=0.02)
    assert np.linalg.norm(see_faces.true_landmarks(lm, person) - on_head, axis=1)[inner].max() > 1.0


def test_people_are_turned_and_come_again(model):
    yaws = [head_euler_degrees(see_faces.turned_person(model, seed).camera.R)["yaw"] for seed in range(20)]
    assert yaws == [head_euler_degrees(see_faces.turned_person(model, seed).camera.R)["yaw"] for seed in range(20)]
    assert min(map(abs, yaws)) > 15.0 and max(map(abs, yaws)) > 70.0 and min(yaws) < 0.0 < max(yaws)


def test_true_landmarks_are_the_models_but_for_the_outline_which_reaches_as_far_as_the_head(model):
    lm, person = LandmarkModel(model, LANDMARK_SET, regress=False), see_faces.turned_person(model, 4)
    found = see_faces.true_landmarks(lm, person)
    on_head = person.camera.project(model.landmark_points(person.vertices.astype(np.float64), LANDMARK_SET))
    inner = np.setdiff1d(np.arange(len(found)), CONTOURS[LANDMARK_SET])
    np.testing.assert_allclose(found[inner], on_head[inner], atol=0.02)
    outline = list(CONTOURS[LANDMARK_SET])
    middle = on_head.mean(axis=0)
    farther = np.linalg.norm(found[outline] - middle, axis=1) - np.linalg.norm(on_head[outline] - middle, axis=1)
    assert farther.max() > 5.0 and np.median(farther) > -0.5


def test_a_mirrored_lesson_twice_is_the_lesson(seen):
    lesson = lessons.lesson(seen[0])
    twice = lesson.mirrored().mirrored()
    for name in ("crop", "aligned", "wanted", "R"):
        torch.testing.assert_close(getattr(twice, name), getattr(lesson, name))
    np.testing.assert_allclose(lesson.mirrored().yaw(), -lesson.yaw(), atol=1e-3)


def test_what_is_no_face_is_not_learned_from(seen):
    part = seen[0]
    wrong = part.wanted.copy()
    wrong[0] += 1.0
    kept = lessons.lesson(replace(part, wanted=wrong))
    assert len(kept.R) == len(lessons.lesson(part).R) - 1


def test_crops_are_covered_and_shaken_at_random_and_stay_what_they_are(seen):
    torch.manual_seed(0)
    crops = lessons.lesson(seen[2]).of(torch.tensor([0])).crops().repeat(200, 1, 1, 1)
    assert crops.shape == (200, SIDE, SIDE, 3) and 0.0 <= float(crops.min()) < float(crops.max()) <= 1.0
    found = lessons.pasted(crops)
    differs = (found != crops).any(dim=3)
    some = differs.flatten(1).any(dim=1).float().mean()
    # Of a batch of one picture, what is pasted from another crop is the same: only colours are seen.
    assert abs(float(some) - 0.5 * lessons.PASTED) < 0.08
    parts = differs[differs.flatten(1).any(dim=1)].float().mean(dim=(1, 2))
    assert 0.01 < float(parts.mean()) < 0.4 and float(parts.max()) < 0.8
    shaken = lessons.shaken(crops)
    assert shaken.shape == crops.shape and bool(shaken.isfinite().all())
    grey = (shaken.mean(dim=(1, 2)).std(dim=1) < 0.005).float().mean()
    assert 0.1 < float(grey) < 0.5, "some without colour"
    flat = torch.stack([crops[:, ::4, ::4].mean(dim=3).flatten(1), shaken[:, ::4, ::4].mean(dim=3).flatten(1)])
    apart = flat - flat.mean(dim=2, keepdim=True)
    alike = (apart[0] * apart[1]).sum(dim=1) / (apart[0].norm(dim=1) * apart[1].norm(dim=1))
    assert float(alike.min()) > 0.6, "the same face"


def test_what_asking_does_is_what_learning_reports(monkeypatch):
    """The network of the report, on stored crops, and the one at work, on the photo."""
    network = shipped_network()
    monkeypatch.setattr("backend.network.turned_heads.how_much", lambda yaw, off: 1.0)
    photo = Photo(skimage.data.astronaut())
    with MediaPipeDetector() as detector:
        face = detector.detect(photo)[0]
    (found,) = TurnedHeads(network).put_right(photo, [face])
    detected = face.landmarks[LANDMARK_SET].astype(np.float64)[None]
    lies = align(detected, network.shape.double().numpy())
    window = lies.window(0, STORED_REACH)
    crop = torch.from_numpy(Reduced(photo.pixels, window, STORED_SIDE).crop(window)[None])
    seen_now = Reduced(photo.pixels, lies.window(0), SIDE).crop(lies.window(0)) / 255.0
    aligned = torch.from_numpy(lies.to_radii(detected)).float()
    part = lessons.Lesson(aligned, aligned, torch.eye(3)[None], crop, torch.zeros(1, 1))
    assert np.abs(part.crops()[0].numpy() - seen_now).mean() < 0.01, "what is stored is what is seen, and more"
    points, _ = learning.put_right(network, part)
    apart = np.linalg.norm(points[0].numpy() - lies.to_radii(found.landmarks[LANDMARK_SET][None])[0], axis=1)
    assert apart.mean() < 0.5 / RADIUS_MM


def test_it_learns_and_what_is_written_says_the_same(model, seen, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learning, "BATCH", 8)
    torch.manual_seed(0)
    faces = lessons.together([lessons.lesson(part) for part in seen])
    network = learning.prepared(faces, see_faces.mean_landmarks(model))
    crops, numbers = faces.crops(), network.numbers(faces.aligned)
    assert 0.3 < float(numbers.std()) < 1.2, "of about unit size, but for what hardly varies among so few"
    with torch.no_grad():
        before = float(learning.loss(network.eval(), crops, numbers, faces))
    learning.train(network, faces, passes=60)
    with torch.no_grad():
        after = float(learning.loss(network, crops, numbers, faces))
    assert after < 0.6 * before
    assert "pass 60 of 60" in capsys.readouterr().out
    lines = learning.report(network, faces)
    assert lines and all("mm ->" in line and "degrees" in line for line in lines)
    path = tmp_path / "network.safetensors"
    learning.save(network, path, len(faces.R), model)
    loaded = load_turned_heads(path)
    about = read_info(path)
    assert about.info.commercial and "CC-BY-4.0" in about.info.licence and about.info.extra == {"faces": len(faces.R)}
    with torch.no_grad():
        for found, wanted in zip(loaded(crops, numbers), network(crops, numbers)):
            torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
