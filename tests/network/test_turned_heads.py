"""Landmarks of turned and covered heads: how a face is laid upright, what is moved and what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch

from backend.errors import WeightsError
from backend.face_model.registry import get_model
from backend.geometry.rotation import head_euler_degrees, rotation_from_head_euler
from backend.network import turned_heads
from backend.network.turned_heads import (
    LANDMARK_SET,
    OFF_FROM_MM,
    OFF_WHOLLY_MM,
    SIDE,
    TURNED_FROM,
    TURNED_WHOLLY,
    TurnedHeads,
    align,
    how_much,
    load_turned_heads,
    shipped_network,
)
from backend.reconstruction.fit import Fitter, Problem
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.observation import observe
from backend.vision.crop import Reduced
from backend.vision.landmark_sets import MIRROR, ibug68_from_mediapipe
from backend.vision.mediapipe_detector import MediaPipeDetector
from backend.vision.photo import DetectedFace, Photo
from trainer.data import people
from trainer.data.before_faces import DRAWN, Face
from trainer.data.painter import Painter
from trainer.data.people import draw_person
from trainer.see_faces import true_landmarks

# Nobody in skins of photos, and nobody whose seed is learned from.
SEEDS = (9_700_001, 9_700_003, 9_700_004, 9_700_006)


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def lm(model):
    return LandmarkModel(model, LANDMARK_SET)


@pytest.fixture(scope="module")
def turned(model, lm):
    """Photo, detected face, true landmarks and rotation of people turned by 55 to 70 degrees."""
    painter, found = Painter(model), []
    with MediaPipeDetector() as detector:
        for place, seed in enumerate(SEEDS):
            R = rotation_from_head_euler((55.0 + 5.0 * place) * (-1.0) ** place)
            person = people.turned(draw_person(model, seed, size=500), R)
            photo = Photo(painter.paint(person, seed))
            faces = detector.detect(photo)
            assert faces, "the detector must find them for this to say anything"
            found.append((photo, faces[0], true_landmarks(lm, person), R))
    return found


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(a @ b.T) - 1.0) / 2.0, -1.0, 1.0))))


# --- upright ------------------------------------------------------------------------------------------------


def test_a_face_however_it_lies_is_brought_to_the_shape_and_back():
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(478, 2))
    shape -= shape[: turned_heads.FACE_LANDMARKS].mean(axis=0)
    angle, size, place = 2.1, 37.0, np.array([400.0, 250.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pixels = (size * shape @ turn.T + place)[None]
    lies = align(pixels, shape)
    np.testing.assert_allclose(lies.to_radii(pixels)[0], shape, atol=1e-9)
    moves = rng.normal(size=(1, 478, 2))
    moved = lies.to_radii(pixels + lies.moves_to_pixels(moves))
    np.testing.assert_allclose(moved[0], shape + moves[0], atol=1e-9)
    # The crop is the square about the face, upright with it.
    reach = turned_heads.REACH
    corners = np.array([[-reach, -reach], [reach, -reach], [0.0, 0.0]])
    seen = lies.window(0).to_crop(size * corners @ turn.T + place, SIDE)
    np.testing.assert_allclose(seen, [[0.0, 0.0], [SIDE, 0.0], [SIDE / 2, SIDE / 2]], atol=1e-9)


def test_the_upright_rotation_does_not_know_how_the_photo_was_held(model):
    points = model.landmark_points(model.mean.astype(np.float64), LANDMARK_SET)
    shape = points[:, :2] * [1.0, -1.0]
    R = rotation_from_head_euler(50.0, 10.0)
    found = []
    for roll in (0.0, 0.7, -2.5):
        held = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]) @ R
        pixels = (1000.0 * (points @ held.T)[:, :2] + 300.0)[None]
        found.append(align(pixels, shape).upright(held[None])[0])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-9)


# --- what is moved ------------------------------------------------------------------------------------------


def test_turned_heads_get_their_landmarks_and_poses(turned, lm):
    put_right, fitter = TurnedHeads(), Fitter(lm)
    before, after, pose_before, pose_after = [], [], [], []
    for photo, face, true, R in turned:
        (better,) = put_right.put_right(photo, [face])
        assert better.as_detected is not None
        np.testing.assert_array_equal(better.as_detected, face.landmarks[LANDMARK_SET])
        new = better.landmarks[LANDMARK_SET]
        np.testing.assert_array_equal(better.landmarks["ibug68"], ibug68_from_mediapipe(new))
        np.testing.assert_array_equal(better.box, [*new.min(axis=0), *new.max(axis=0)])
        height = np.ptp(true[:, 1])
        for found, figures in ((face.landmarks[LANDMARK_SET], before), (new, after)):
            figures.append(np.linalg.norm(found - true, axis=1).mean() / height)
        for seen, figures in ((face, pose_before), (better, pose_after)):
            figures.append(degrees(fitter.fit([observe(photo, seen, LANDMARK_SET)])[0].R, R))
    assert np.mean(after) < 0.4 * np.mean(before)
    assert np.mean(pose_after) < 0.4 * np.mean(pose_before) and np.mean(pose_after) < 8.0


def test_the_regression_reads_what_was_detected_and_what_was_moved(turned, lm):
    photo, face, *_ = turned[0]
    (better,) = TurnedHeads().put_right(photo, [face])
    fitter = Fitter(lm)
    as_detected, moved = (observe(photo, seen, LANDMARK_SET) for seen in (face, better))
    said = [Problem(fitter, [each]).regressed() for each in (as_detected, moved)]
    assert 0.1 < float((said[1] - said[0]).norm()) < 8.0
    # Beside others, and where landmarks are moved by part only.
    together = Problem(fitter, [as_detected, moved, replace(moved, moved=0.5)]).regressed()
    torch.testing.assert_close(together[:1], said[0])
    torch.testing.assert_close(together[1:2], said[1])
    torch.testing.assert_close(together[2:], (said[0] + said[1]) / 2.0)


def test_who_looks_into_the_camera_is_left_alone():
    photo = Photo(skimage.data.astronaut())
    with MediaPipeDetector() as detector:
        faces = detector.detect(photo)
    put_right = TurnedHeads()
    assert put_right.put_right(photo, faces)[0] is faces[0]
    assert put_right.put_right(photo, []) == []


def test_faces_of_a_detector_with_other_landmarks_are_left_alone():
    face = DetectedFace(np.zeros(4), 1.0, {"ibug68": np.zeros((68, 2), np.float32)}, None, {}, False)
    assert TurnedHeads().put_right(Photo(np.zeros((9, 9, 3), np.uint8)), [face]) == [face]


class Says(torch.nn.Module):
    """A network that moves all landmarks to the right by so much, and sees a yaw."""

    yaw, right_mm = 0.0, 0.0

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def numbers(self, aligned):
        return torch.zeros(len(aligned), turned_heads.SHAPE_NUMBERS)

    def forward(self, crops, numbers):
        assert crops.shape == (1, SIDE, SIDE, 3) and 0.0 <= float(crops.min()) <= float(crops.max()) <= 1.0
        R = torch.as_tensor(rotation_from_head_euler(self.yaw), dtype=torch.float32)[None]
        return torch.ones(1, turned_heads.MOVES), R

    def moved(self, along):
        return torch.tensor([self.right_mm / turned_heads.RADIUS_MM, 0.0]).expand(1, 478, 2)


def test_the_more_a_head_is_turned_or_its_landmarks_are_off_the_more_is_moved(turned):
    photo, face, *_ = turned[0]
    network = Says(shipped_network().shape)

    def moved(yaw: float, mm: float) -> float:
        network.yaw, network.right_mm = yaw, mm
        (found,) = TurnedHeads(network).put_right(photo, [face])
        return float(np.linalg.norm(found.landmarks[LANDMARK_SET] - face.landmarks[LANDMARK_SET], axis=1).mean())

    assert moved(20.0, 1.0) == moved(-TURNED_FROM, 1.0) == moved(0.0, 0.8 * OFF_FROM_MM) == 0.0
    whole = moved(TURNED_WHOLLY, 1.0)
    assert whole > 0.0 and moved(-TURNED_WHOLLY, 1.0) == pytest.approx(whole) == moved(70.0, 1.0)
    assert moved((TURNED_FROM + TURNED_WHOLLY) / 2.0, 1.0) == pytest.approx(0.5 * whole, rel=0.01)
    assert moved(0.0, 7.0) == pytest.approx(7.0 * whole, rel=0.01) == moved(60.0, 7.0)


def test_how_much_is_done_grows_between_the_limits():
    assert how_much(TURNED_FROM, OFF_FROM_MM) == how_much(-10.0, 0.0) == 0.0
    assert (
        how_much(TURNED_WHOLLY, 0.0)
        == how_much(-88.0, 0.0)
        == how_much(0.0, OFF_WHOLLY_MM)
        == how_much(0.0, 60.0)
        == 1.0
    )
    yaw, off = (TURNED_FROM + TURNED_WHOLLY) / 2.0, (OFF_FROM_MM + OFF_WHOLLY_MM) / 2.0
    assert how_much(0.0, off) == how_much(-yaw, OFF_FROM_MM) == how_much(yaw, off) == pytest.approx(0.5)


def test_covered_faces_get_their_landmarks(model, lm):
    """Behind masks and hands, looking into the camera; one of them the detector takes for something else."""
    painter, put_right = Painter(model), TurnedHeads()
    before, after = [], []
    with MediaPipeDetector() as detector:
        for seed in range(9_700_010, 9_700_016):
            person = people.turned(draw_person(model, seed, size=500), rotation_from_head_euler(0.0))
            true = true_landmarks(lm, person)
            kind = "mask" if seed % 2 else "hand"
            picture = DRAWN[kind][0](painter.paint(person, seed), Face(true), np.random.default_rng(seed))
            photo = Photo(picture)
            for face in detector.detect(photo)[:1]:
                (better,) = put_right.put_right(photo, [face])
                for found, figures in ((face, before), (better, after)):
                    off = np.linalg.norm(found.landmarks[LANDMARK_SET] - true, axis=1).mean()
                    figures.append(off / np.ptp(true[:, 1]))
    assert len(before) >= 4
    assert np.median(after) < 0.5 * np.median(before)


def test_a_mirrored_head_is_turned_the_other_way(turned):
    network = shipped_network()
    photo, face, *_ = turned[1]
    detected = face.landmarks[LANDMARK_SET].astype(np.float64)[None]
    lies = align(detected, network.shape.double().numpy())
    window = lies.window(0)
    crop = torch.from_numpy(Reduced(photo.pixels, window, SIDE).crop(window)[None]).float() / 255.0
    aligned = torch.as_tensor(lies.to_radii(detected), dtype=torch.float32)
    mirror = aligned[:, torch.as_tensor(MIRROR)] * torch.tensor([-1.0, 1.0])
    with torch.no_grad():
        yaws = [
            head_euler_degrees(network(picture, network.numbers(points))[1][0].double().numpy())["yaw"]
            for picture, points in ((crop, aligned), (crop.flip(2), mirror))
        ]
    assert abs(yaws[0]) > 30.0 and yaws[0] + yaws[1] == pytest.approx(0.0, abs=8.0)


# --- the file -----------------------------------------------------------------------------------------------


def test_a_file_that_is_none_of_this_network_is_refused(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(turned_heads.FILE.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="is not a weights file or is damaged"):
        load_turned_heads(broken)
    other = turned_heads.FILE.parent / "encoder_open-head.safetensors"
    with pytest.raises(WeightsError, match="holds weights of the network"):
        load_turned_heads(other)
