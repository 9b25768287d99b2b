"""What the correction may and may not do to the regression's answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from backend.errors import ModelError
from backend.face_model.registry import get_model
from backend.network.turned_heads import TurnedHeads
from backend.reconstruction.correction import LARGEST_INPUT, Correction, CorrectStage, MovedCorrection
from backend.reconstruction.fit import Fitter
from backend.reconstruction.landmark_model import DATA, LandmarkModel, shipped_correction
from backend.reconstruction.observation import observe
from backend.vision.mediapipe_detector import MediaPipeDetector
from trainer.data.painter import Painter
from trainer.learn_correction import mean_distance_map
from trainer.measure_fit import draw, photograph
from trainer.measure_views import fingerprint

SET = "mediapipe478"


def stage(correction: Correction) -> CorrectStage:
    return CorrectStage(correction, torch.device("cpu"), torch.float64)


def drawn(seed: int = 0, landmarks: int = 5, modes: int = 4, numbers: int = 3, hidden: int = 6) -> Correction:
    rng = np.random.default_rng(seed)
    shapes = [(numbers, 2 * landmarks), (numbers, modes), (2 * numbers,), (hidden, 2 * numbers), (hidden,)]
    shapes += [(hidden, hidden), (hidden,), (modes, hidden), (modes,)]
    return Correction(*(rng.normal(0.0, 1.0, shape).astype(np.float32) for shape in shapes))


def test_it_is_three_layers_on_bounded_numbers():
    correction = drawn()
    rng = np.random.default_rng(1)
    apart, answer = rng.normal(0.0, 4.0, (7, 10)), rng.normal(0.0, 4.0, (7, 4))
    read = np.concatenate([apart @ correction.shape_rows.T, answer @ correction.answer_rows.T], axis=1)
    hidden = np.clip(read - correction.middle, -LARGEST_INPUT, LARGEST_INPUT)
    for weight, bias in ((correction.weight_1, correction.bias_1), (correction.weight_2, correction.bias_2)):
        hidden = np.maximum(hidden @ weight.T + bias, 0.0)
    expected = answer + hidden @ correction.weight_3.T + correction.bias_3
    found = stage(correction).identity(torch.as_tensor(apart), torch.as_tensor(answer))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_it_does_not_extrapolate():
    """Landmarks ten times as far off as any that were seen are put right as the farthest that were."""
    correction = replace(drawn(), middle=np.zeros(6, np.float32))
    far = torch.full((1, 10), 1e4, dtype=torch.float64)
    nothing = torch.zeros(1, 4, dtype=torch.float64)
    once, tenfold = (stage(correction).identity(factor * far, nothing) for factor in (1.0, 10.0))
    torch.testing.assert_close(once, tenfold)


def test_weights_come_back_from_their_file(tmp_path):
    path = tmp_path / "correction.safetensors"
    drawn().save(path, {"model": "none"})
    again = Correction.load(path)
    np.testing.assert_array_equal(again.weight_2, drawn().weight_2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"correction.safetensors cannot be read"):
        Correction.load(path)


def test_a_broken_file_is_named_with_the_command_that_makes_it(tmp_path):
    path = tmp_path / "moved.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(
        ModelError, match=r"moved.safetensors cannot be read.*python -m trainer.learn_moved_correction`"
    ):
        MovedCorrection.load(path)


@pytest.mark.parametrize("name", ["correction", "correction_moved"])
def test_the_weights_belong_to_the_regression(name):
    """Whoever learns the regression anew learns these anew: `python -m trainer.learn_correction`, `learn_moved_...`."""
    with safe_open(DATA / f"{name}_open-head_{SET}.safetensors", "numpy") as file:
        assert file.metadata()["regressor"] == fingerprint("open-head")


def test_other_models_and_detectors_have_none():
    model = get_model("open-head")
    assert shipped_correction(model, "ibug68") is None
    assert shipped_correction(model, "ibug68", moved=True) is None
    for lm in (LandmarkModel(model, "ibug68"), LandmarkModel(model, SET, regress=False)):
        assert lm.correct is None and lm.correct_moved is None


def test_covered_faces_come_nearer_and_open_ones_stay():
    """People that nothing was learned from, half of them behind hair, glasses, hands and masks of another painter."""
    model = get_model("open-head")
    corrected = Fitter(LandmarkModel(model, SET))
    plain = Fitter(LandmarkModel(model, SET))
    assert corrected.lm.correct is not None, "the weights come with the project"
    plain.lm.correct = None
    painter, detector = Painter(model), MediaPipeDetector(passes=2, threads=1)
    millimetres = 1000.0 * mean_distance_map(model)
    wrong: dict[bool, list[list[float]]] = {True: [], False: []}
    for number in range(700, 736):
        known = draw(model, number)
        if not known.occluder and abs(known.yaw) > 45.0:
            continue
        photo = photograph(model, painter, known, number)
        faces = detector.detect(photo)
        if faces:
            seen = observe(photo, faces[0], SET)
            found = [fitter.fit([seen])[0].identity for fitter in (plain, corrected)]
            off = [float(np.linalg.norm(millimetres @ (identity - known.identity))) for identity in found]
            wrong[bool(known.occluder)].append(off)
    covered, open_face = (np.mean(wrong[kind], axis=0) for kind in (True, False))
    assert len(wrong[True]) > 11 and len(wrong[False]) > 4
    assert covered[1] < 0.95 * covered[0]
    assert open_face[1] < 1.03 * open_face[0]


def test_what_was_moved_says_more_of_who_it_is():
    """The same kind of people, those whose landmarks are put right: with and without what reads that."""
    model = get_model("open-head")
    reads, plain = Fitter(LandmarkModel(model, SET)), Fitter(LandmarkModel(model, SET))
    assert reads.lm.correct_moved is not None, "the weights come with the project"
    plain.lm.correct_moved = None
    painter, detector, network = Painter(model), MediaPipeDetector(passes=2, threads=1), TurnedHeads()
    millimetres = 1000.0 * mean_distance_map(model)
    off = []
    for number in range(700, 736):
        known = draw(model, number)
        photo = photograph(model, painter, known, number)
        for face in network.put_right(photo, detector.detect(photo)[:1]):
            if face.moved > 0.5:
                seen = observe(photo, face, SET)
                found = [fitter.fit([seen])[0].identity for fitter in (plain, reads)]
                off.append([float(np.linalg.norm(millimetres @ (each - known.identity))) for each in found])
    assert len(off) > 11
    without, with_it = np.mean(off, axis=0)
    assert with_it < 0.97 * without
