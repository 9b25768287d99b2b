"""Learning where landmarks of turned heads are: what is drawn, what is kept, and that something is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.geometry.rotation import head_euler_degrees
from backend.network.turned_heads import FACE_LANDMARKS, LANDMARK_SET, SIDE, load_turned_heads
from backend.network.weights_file import read_info
from backend.reconstruction.contour import CONTOURS
from backend.reconstruction.landmark_model import LandmarkModel
from trainer import learn_turned_heads as learning


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A few pictures of each kind, drawn in this process and kept."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK", 12), ("TRIPLETS", 5), ("LOOKS", 4)):
            patch.setattr(learning, name, value)
        paths = [learning.work((number, None, folder)) for number in (0, 1)]
        again = learning.work((0, None, folder))
    assert again == paths[0] and not list(folder.glob("*.part*"))
    with pytest.MonkeyPatch.context() as patch:
        # What is there is not drawn again.
        patch.setattr(learning.Drawer, "block", lambda self, number: pytest.fail("drawn again"))
        assert learning.work((1, None, folder)) == paths[1]
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            parts.append(learning.Seen(**arrays))
    return parts


def test_both_painters_people_are_seen_as_the_network_sees_them(seen):
    for part in seen:
        count = len(part.R)
        assert count >= 2
        assert part.crop.shape == (count, SIDE, SIDE, 3) and part.crop.std() > 10
        size = np.sqrt((part.aligned[:, :FACE_LANDMARKS] ** 2).sum(axis=2).mean(axis=1))
        assert (abs(size - 1.0) < 0.3).all(), "aligned onto a shape of unit radius"
        off = np.linalg.norm(part.wanted - part.aligned, axis=2)[:, :FACE_LANDMARKS]
        assert (np.median(off, axis=1) < 0.5).mean() > 0.7, "where landmarks are is near where they were detected"
        np.testing.assert_allclose(part.R @ part.R.transpose(0, 2, 1), np.tile(np.eye(3), (count, 1, 1)), atol=1e-4)
    assert all(abs(head_euler_degrees(R)["yaw"]) > 15.0 for R in seen[0].R.astype(np.float64))


def test_people_are_turned_and_come_again(model):
    yaws = [head_euler_degrees(learning.turned_person(model, seed).camera.R)["yaw"] for seed in range(20)]
    assert yaws == [head_euler_degrees(learning.turned_person(model, seed).camera.R)["yaw"] for seed in range(20)]
    assert min(map(abs, yaws)) > 15.0 and max(map(abs, yaws)) > 70.0 and min(yaws) < 0.0 < max(yaws)


def test_true_landmarks_are_the_models_but_for_the_outline_which_reaches_as_far_as_the_head(model):
    lm, person = LandmarkModel(model, LANDMARK_SET, regress=False), learning.turned_person(model, 4)
    found = learning.true_landmarks(lm, person)
    on_head = person.camera.project(model.landmark_points(person.vertices.astype(np.float64), LANDMARK_SET))
    inner = np.setdiff1d(np.arange(len(found)), CONTOURS[LANDMARK_SET])
    np.testing.assert_allclose(found[inner], on_head[inner], atol=0.02)
    outline = list(CONTOURS[LANDMARK_SET])
    middle = on_head.mean(axis=0)
    farther = np.linalg.norm(found[outline] - middle, axis=1) - np.linalg.norm(on_head[outline] - middle, axis=1)
    assert farther.max() > 5.0 and np.median(farther) > -0.5


def test_a_mirrored_lesson_twice_is_the_lesson(seen):
    lesson = learning.lesson(seen[0])
    twice = lesson.mirrored().mirrored()
    for name in ("crop", "aligned", "moves", "R"):
        torch.testing.assert_close(getattr(twice, name), getattr(lesson, name))
    np.testing.assert_allclose(lesson.mirrored().yaw(), -lesson.yaw(), atol=1e-3)


def test_what_is_no_face_is_not_learned_from(seen):
    part = seen[0]
    wrong = part.wanted.copy()
    wrong[0] += 1.0
    kept = learning.lesson(learning.Seen(part.aligned, wrong, part.R, part.crop))
    assert len(kept.R) == len(learning.lesson(part).R) - 1


def test_it_learns_and_what_is_written_says_the_same(model, seen, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learning, "EPOCHS", 60)
    monkeypatch.setattr(learning, "BATCH", 8)
    torch.manual_seed(0)
    both = learning.Seen(*(np.concatenate([getattr(p, f) for p in seen]) for f in ("aligned", "wanted", "R", "crop")))
    lesson = learning.lesson(both).with_mirrored()
    network = learning.prepared(lesson, learning.mean_landmarks(model))
    numbers = network.numbers(lesson.aligned)
    assert 0.3 < float(numbers.std()) < 1.2, "of about unit size, but for what hardly varies among so few"
    crops = lesson.crop.float() / 255.0
    with torch.no_grad():
        before = float(learning.loss(network.eval(), crops, numbers, lesson))
    learning.train(network, lesson)
    with torch.no_grad():
        after = float(learning.loss(network, crops, numbers, lesson))
    assert after < 0.5 * before
    assert "epoch 60 of 60" in capsys.readouterr().out
    lines = learning.report(network, lesson)
    assert lines and all("mm ->" in line and "degrees" in line for line in lines)
    path = tmp_path / "network.safetensors"
    learning.save(network, path, len(lesson.R), model)
    loaded = load_turned_heads(path)
    about = read_info(path)
    assert about.info.commercial and "CC-BY-4.0" in about.info.licence and about.info.extra == {"faces": len(lesson.R)}
    with torch.no_grad():
        for found, wanted in zip(loaded(crops, numbers), network(crops, numbers)):
            torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)
