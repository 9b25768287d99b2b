"""The regression of identity from landmarks: alignment, completion, and what shipped weights know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from backend.errors import ModelError
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.landmark_model import shipped_regressor
from backend.reconstruction.regress import FARTHEST, Regressor, RegressStage, align, lift
from backend.vision.landmark_sets import FACE_OVAL
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import Photo
from trainer.data.painter import Painter
from trainer.data.people import IDENTITY_SIGMA, draw_person

SET = "mediapipe478"


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def stage(model):
    regressor = shipped_regressor(model, SET)
    assert regressor is not None, "the weights for open-head come with the project"
    return RegressStage(regressor, torch.device("cpu"), torch.float64)


def landmarks_of(model, identity: np.ndarray, yaw: float = 0.0) -> np.ndarray:
    camera = Camera(intrinsics(1200.0, 800, 800), rotation_from_head_euler(yaw), np.array([0.0, 0.0, 1.0]), 800, 800)
    return camera.project(model.landmark_points(model.vertices(identity).astype(np.float64), SET))


def identity_from(stage: RegressStage, landmarks: np.ndarray, trust: np.ndarray | None = None) -> np.ndarray:
    trust = np.ones(len(landmarks)) if trust is None else trust
    return stage.identity(torch.as_tensor(landmarks[None]), torch.as_tensor(trust[None]))[0].numpy()


def test_alignment_undoes_every_similarity_of_the_plane():
    rng = np.random.default_rng(0)
    shape = torch.as_tensor(rng.normal(size=(20, 2)))
    shape -= shape.mean(0)
    cos, sin = np.cos(0.7), np.sin(0.7)
    turned = 31.0 * shape.numpy() @ np.array([[cos, sin], [-sin, cos]]) + [400.0, -20.0]
    aligned = align(torch.as_tensor(turned[None]), shape, torch.ones(1, 20, dtype=torch.float64))
    torch.testing.assert_close(aligned[0], shape)


def test_place_size_and_roll_of_a_face_do_not_change_who_it_is(model, stage):
    landmarks = landmarks_of(model, np.random.default_rng(1).normal(0.0, 0.7, len(model.identity)))
    cos, sin = np.cos(0.3), np.sin(0.3)
    moved = 0.37 * landmarks @ np.array([[cos, sin], [-sin, cos]]) + [50.0, 90.0]
    np.testing.assert_allclose(identity_from(stage, moved), identity_from(stage, landmarks), atol=1e-6)


def test_it_tells_people_apart_and_knows_the_same_one_turned(model, stage):
    rng = np.random.default_rng(2)
    people = rng.normal(0.0, 0.8, (12, len(model.identity)))
    frontal = np.array([identity_from(stage, landmarks_of(model, who)) for who in people])
    turned = np.array([identity_from(stage, landmarks_of(model, who, yaw=12.0)) for who in people])
    centred = [a - a.mean(axis=0) for a in (frontal, turned)]
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in centred]
    found = (unit[0] @ unit[1].T).argmax(axis=1)
    assert (found == np.arange(12)).sum() >= 10


def test_it_knows_which_numbers_landmarks_tell(model, stage):
    """On painted people that nothing was learned from."""
    painter, detector = Painter(model), MediaPipeDetector(passes=2, threads=1)
    truth, found = [], []
    for seed in range(9_210_000, 9_210_040):
        person = draw_person(model, seed)
        faces = detector.detect(Photo(painter.paint(person, seed)))
        if faces:
            truth.append(person.identity)
            found.append(identity_from(stage, faces[0].landmarks[SET].astype(np.float64)))
    assert len(truth) >= 36
    # Mixtures that vary by 1 among people, the best known first.
    told, mixtures = eigh(stage.covariance.numpy(), IDENTITY_SIGMA**2 * np.eye(len(model.identity)))
    left = (((np.array(found) - np.array(truth)) @ mixtures) ** 2).mean(axis=0)
    assert told[0] < 0.3 and told[20] > 0.75
    assert left[:5].mean() < 0.65 and left[-40:].mean() > 0.8
    assert 0.5 < stage.sigma.min() and stage.sigma.max() < 0.9, "and each coefficient alone is told little"


def test_landmarks_that_no_face_explains_are_completed(model, stage):
    """A tenth of the points far off moves the answer less than half of what they would unguarded."""
    landmarks = landmarks_of(model, np.random.default_rng(3).normal(0.0, 0.7, len(model.identity)))
    clean = identity_from(stage, landmarks)
    rng = np.random.default_rng(4)
    wild = landmarks.copy()
    hit = rng.choice(len(wild), len(wild) // 10, replace=False)
    wild[hit] += rng.normal(0.0, 80.0, (len(hit), 2))
    guarded = identity_from(stage, wild)
    normal = align(torch.as_tensor(wild[None]), stage.shape, torch.ones(1, len(wild), dtype=torch.float64))
    apart = normal.flatten(1) - stage.shape.flatten()
    plain = (lift(apart, stage.turn) @ stage.weights.mT + stage.intercept)[0].numpy()
    assert np.linalg.norm(guarded - clean) < 0.5 * np.linalg.norm(plain - clean)


def test_points_without_trust_are_not_listened_to(model, stage):
    landmarks = landmarks_of(model, np.random.default_rng(5).normal(0.0, 0.7, len(model.identity)))
    trust = np.ones(len(landmarks))
    trust[:40] = 0.0
    displaced = landmarks.copy()
    displaced[:40] += 500.0
    np.testing.assert_allclose(
        identity_from(stage, displaced, trust), identity_from(stage, landmarks, trust), atol=1e-6
    )


def test_a_handful_of_points_makes_no_monster(model, stage):
    """What a few noisy points of one cheek imply of all others may be no face; the answer stays one."""
    rng = np.random.default_rng(6)
    landmarks = landmarks_of(model, rng.normal(0.0, 0.7, len(model.identity)))
    trust = np.zeros(len(landmarks))
    trust[rng.choice(FACE_OVAL, 12, replace=False)] = 1.0
    noisy = landmarks + rng.normal(0.0, 12.0, landmarks.shape)
    assert np.linalg.norm(identity_from(stage, noisy, trust)) <= FARTHEST + 1e-9


def test_a_good_face_taken_for_a_wrong_one_is_read_as_it_is(stage, monkeypatch):
    """When completion gives nobody's face, landmarks that looked wrong are believed after all."""
    # As the detector sees a typical face: exact landmarks of invented heads are nothing that it would ever say.
    landmarks = 400.0 + 120.0 * stage.shape.numpy()
    plain = stage.read(torch.as_tensor(landmarks[None]))[0].numpy()

    def exploded(shapes: torch.Tensor) -> torch.Tensor:
        return stage.shape + torch.roll(shapes, 100, dims=1)

    wrong = torch.ones(1, len(landmarks), dtype=torch.bool)
    wrong[:, ::3] = False
    monkeypatch.setattr(stage, "complete", exploded)
    monkeypatch.setattr(stage, "believed", lambda *_: wrong)
    np.testing.assert_allclose(identity_from(stage, landmarks), plain, atol=1e-9)


def test_weights_survive_the_file(model, tmp_path):
    regressor = shipped_regressor(model, SET)
    regressor.save(tmp_path / "copy.safetensors", {"model": "open-head"})
    again = Regressor.load(tmp_path / "copy.safetensors")
    np.testing.assert_array_equal(again.weights, regressor.weights)
    np.testing.assert_array_equal(again.residual, regressor.residual)


@pytest.mark.parametrize("content", [b"", b"not a tensor file", b"\x00" * 4096])
def test_broken_weights_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.safetensors cannot be read; .*\.$"):
        Regressor.load(path)


def test_a_model_that_was_not_learned_on_gets_no_regression(model):
    assert shipped_regressor(model.replaced(identity=model.identity[:10]), SET) is None
    assert shipped_regressor(model, "ibug68") is None
