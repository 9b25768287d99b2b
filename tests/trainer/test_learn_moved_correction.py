"""Learning what moved landmarks say of an identity: what is read, and that something is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.face_model.registry import get_model
from backend.network.turned_heads import LANDMARK_SET
from backend.reconstruction.correction import CorrectStage
from backend.reconstruction.landmark_model import LandmarkModel
from trainer import learn_moved_correction as learning
from trainer.face_lessons import Lesson
from trainer.learn_correction import correction_of, mean_distance_map
from trainer.measure_detector import Mirror
from trainer.see_faces import true_landmarks, turned_person

PEOPLE = 400


@pytest.fixture(scope="module")
def lm():
    return LandmarkModel(get_model("open-head"), LANDMARK_SET)


@pytest.fixture(scope="module")
def told(lm):
    """Of people whose detector squeezes faces across, all alike, and whose network undoes that."""
    people = [turned_person(lm.model, seed) for seed in range(PEOPLE)]
    wanted = torch.from_numpy(np.stack([true_landmarks(lm, person) for person in people])).float()
    wanted = (wanted - wanted.mean(dim=1, keepdim=True)) / 50.0
    detected = wanted * torch.tensor([0.8, 1.0])
    identity = torch.from_numpy(np.stack([person.identity for person in people])).float()
    faces = Lesson(detected, wanted, torch.eye(3).expand(PEOPLE, 3, 3), torch.zeros(PEOPLE, 1, 1, 3), identity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "put_right", lambda network, part: (part.wanted, None))
        mirror = Mirror.of(lm.model)
        assert mirror is not None
        return learning.told_of(lm, None, faces, mirror), faces


def test_it_reads_where_landmarks_were_and_how_they_moved(lm, told):
    told, faces = told
    count = 2 * lm.count
    torch.testing.assert_close(told.apart[:, :count], lm.regress.apart(faces.aligned.double()))
    after = lm.regress.apart(faces.wanted.double())
    torch.testing.assert_close(told.apart[:, :count] + told.apart[:, count:], after)
    np.testing.assert_array_equal(told.truth.numpy(), faces.identity.double().numpy())
    # A mirror image of a mirror image.
    halves = told.mirrored.unflatten(1, (2, -1, 2)).unbind(1)
    back = torch.cat([Mirror.of(lm.model).shapes(half).flatten(1) for half in halves], dim=1)
    torch.testing.assert_close(back, told.apart)


def test_it_learns_and_reports(lm, told):
    told, _ = told
    torch.manual_seed(0)
    learned = torch.arange(PEOPLE) % 10 != 9
    metres = torch.as_tensor(mean_distance_map(lm.model))
    correction = correction_of(told, learned, metres, Mirror.of(lm.model), learning.NUMBERS, 128)
    assert correction.weight_2.shape == (128, 128)
    assert correction.shape_rows.shape == (learning.NUMBERS, 4 * lm.count)
    found = CorrectStage(correction, lm.device, lm.dtype).identity(told.apart, told.answers)
    yaw = np.linspace(0.0, 90.0, PEOPLE)
    lines = learning.report(told, found, yaw, ~learned, metres)
    assert [line.split(":")[0] for line in lines] == ["yaw 0 to 25", "yaw 25 to 45", "yaw 45 to 95"]
    for line in lines:
        _, before, after = (float(word) for word in line.split("faces, ")[1].split())
        assert after < 0.8 * before
