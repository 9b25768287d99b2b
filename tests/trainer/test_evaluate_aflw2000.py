"""The AFLW2000-3D protocol on labels whose answer is known, and through the evaluator with oracles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from backend.errors import NoFaceError
from trainer.evaluate import accuracy, aflw2000
from trainer.evaluate.aflw2000 import FaceResult, ProtocolError, SetError

YAW_DEGREES = (3.0, -45.0, 80.0)


def labels(seed: int = 0) -> np.ndarray:
    """(3, 68) MATLAB pixels round (225, 240)."""
    points = np.random.default_rng(seed).normal(size=(3, 68))
    return points * 40.0 + np.array([[225.0], [240.0], [0.0]])


class Head:
    """As much of a reconstruction as the protocol looks at: 68 points that project to known pixels."""

    def __init__(self, pixels: np.ndarray):
        self.vertices = np.column_stack([pixels, np.ones(len(pixels))])
        self.model = self.camera = self

    def landmark_points(self, vertices, name):
        assert name == "ibug68"
        return vertices

    def project(self, points):
        return points[:, :2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(aflw2000, "IMAGES", 3)
    place = tmp_path / "AFLW2000"
    place.mkdir()
    for number, yaw in enumerate(YAW_DEGREES):
        Image.new("RGB", (450, 450)).save(place / f"image0000{number}.jpg")
        pose = np.array([[0.1, math.radians(yaw), -0.2, 0, 0, 0, 1e-3]])
        savemat(place / f"image0000{number}.mat", {"pt3d_68": labels(number), "Pose_Para": pose})
    return tmp_path


def oracle(shift: float = 0.0, lost: str = ""):
    """Puts every point ``shift`` pixels beside its label, with another face in front of the labelled one."""

    def reconstruct(photo):
        if photo.path.stem == lost:
            raise NoFaceError("No face was found in the photo; use another one.")
        truth = labels(int(photo.path.stem[-1]))[:2].T - 0.5
        return [Head(truth + 1000.0), Head(truth + np.array([shift, 0.0]))]

    return reconstruct


def test_nme_is_the_slow_one():
    points, truth = np.random.default_rng(3).uniform(0, 400, (2, 68, 2))
    total = 0.0
    for (x, y), (gx, gy) in zip(points, truth):
        total += math.sqrt((x - gx) ** 2 + (y - gy) ** 2)
    width, height = max(truth[:, 0]) - min(truth[:, 0]), max(truth[:, 1]) - min(truth[:, 1])
    assert aflw2000.nme(points, truth) == pytest.approx(total / 68 / math.sqrt(width * height), rel=1e-12)
    assert aflw2000.nme(7.0 * points + 3.0, 7.0 * truth + 3.0) == pytest.approx(aflw2000.nme(points, truth))
    assert aflw2000.nme(truth, points) != pytest.approx(aflw2000.nme(points, truth)), "the box is the truth's"


def test_the_truth_scores_nothing_and_its_mirror_image_fails():
    """A face as symmetric as can be: only the order of the points tells the mirror image."""
    x, y = np.meshgrid(np.linspace(-1, 1, 4), np.linspace(-1, 1, 17))
    truth = np.column_stack([x.ravel(), y.ravel()])
    assert aflw2000.nme(truth, truth) == 0.0
    assert aflw2000.nme(truth * [-1.0, 1.0], truth) > 0.3


def test_points_that_cannot_be_scored_are_refused():
    truth = labels()[:2].T
    for wrong in (truth[:60], np.where(np.arange(68)[:, None] == 4, np.nan, truth)):
        with pytest.raises(ProtocolError, match="68 finite points"):
            aflw2000.nme(wrong, truth)
    with pytest.raises(ProtocolError, match="one line"):
        aflw2000.nme(truth, truth * [1.0, 0.0])


def test_bins_hold_their_upper_limits():
    yaw = np.array([0.0, -30.0, 30.01, 60.0, -60.01, 95.0])
    assert aflw2000.bin_of(yaw).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_headline_counts_each_bin_the_same():
    shares = {0.0: (0.01, 0.03), 40.0: (0.05,), 70.0: (0.09,)}
    results = [FaceResult("x", {"Pose_Para": yaw}, {"original": e}) for yaw, es in shares.items() for e in es]
    (row,) = aflw2000.figures(results)["rows"]
    assert [part["mean"] for part in row["bins"]] == pytest.approx([0.02, 0.05, 0.09])
    assert row["bins"][0]["std"] == pytest.approx(0.01)
    assert row["balanced_mean"] == pytest.approx(0.16 / 3)
    assert row["balanced_std"] == pytest.approx(np.std([0.02, 0.05, 0.09]))
    assert row["plain_mean"] == pytest.approx(0.18 / 4)


def run(folder, reconstruct, monkeypatch):
    model = SimpleNamespace(info=SimpleNamespace(name="m", version="1"))
    monkeypatch.setattr(accuracy, "get_model", lambda name: model)
    return accuracy.run("m", ["aflw2000"], folder / "out", None, folder, 1, reconstruct)["benchmarks"]["aflw2000"]


def test_labels_are_read_and_a_known_shift_comes_out(folder, monkeypatch):
    zero = run(folder, oracle(), monkeypatch)
    assert zero["found"] == 3 and zero["rows"][0]["balanced_mean"] == pytest.approx(0.0, abs=1e-12)
    assert "refused" not in zero
    three = run(folder, oracle(shift=3.0), monkeypatch)
    for number, part in enumerate(three["rows"][0]["bins"]):
        size = np.sqrt(np.prod(np.ptp(labels(number)[:2], axis=1)))
        assert (part["faces"], part["mean"]) == (1, pytest.approx(3.0 / size))
    page = (folder / "out" / "accuracy.md").read_text()
    assert f"**{100 * three['rows'][0]['balanced_mean']:.2f} %**" in page and "MGCNet" in page
    assert json.loads((folder / "out" / "accuracy.json").read_text())["benchmarks"]["aflw2000"]["rows"]


def test_other_landmarks_and_yaws_make_rows_of_their_own(folder, monkeypatch):
    moved = np.stack([labels(number)[:2] for number in range(3)]).astype(np.float32) + 2.0
    np.save(folder / aflw2000.REANNOTATED, moved)
    np.save(folder / "AFLW2000" / aflw2000.LABELLED_YAW, np.array([50.0, 20.0, -85.0], np.float32))
    rows = run(folder, oracle(), monkeypatch)["rows"]
    assert [(row["truth"], row["yaw"]) for row in rows] == [
        (truth, yaw) for truth in aflw2000.TRUTHS for yaw in aflw2000.YAWS
    ]
    assert rows[0]["balanced_mean"] < 1e-12 < 1e-3 < rows[2]["balanced_mean"]
    size = np.sqrt(np.prod(np.ptp(labels(1)[:2], axis=1)))
    assert rows[3]["bins"][0]["mean"] == pytest.approx(math.sqrt(8) / size, rel=1e-5), "image 1 is now the frontal one"


def test_a_missing_face_or_image_refuses_the_headline(folder, monkeypatch):
    lost = run(folder, oracle(lost="image00001"), monkeypatch)
    assert "1 of 3 faces" in lost["refused"] and list(lost["failures"]) == ["image00001"]
    page = (folder / "out" / "accuracy.md").read_text()
    assert "*refused*" in page and "**" not in page and "image00001: No face" in page
    far = run(folder, lambda photo: [Head(labels()[:2].T + 2000.0)], monkeypatch)
    assert "labelled one" in far["failures"]["image00000"]
    (folder / "AFLW2000" / "image00002.jpg").unlink()
    assert "2 of the 3 images" in run(folder, oracle(), monkeypatch)["refused"]


def test_files_of_another_form_are_one_sentence(folder):
    with pytest.raises(SetError, match="--data"):
        aflw2000.load(folder / "nowhere")
    np.save(folder / aflw2000.REANNOTATED, np.zeros((3, 2, 21), np.float32))
    with pytest.raises(SetError, match="fetch the file again"):
        aflw2000.load(folder)
    (folder / aflw2000.REANNOTATED).unlink()
    (folder / "AFLW2000" / "image00001.mat").write_bytes(b"no labels")
    with pytest.raises(SetError, match=r"image00001\.mat"):
        aflw2000.load(folder)
    (folder / "AFLW2000" / "image00001.mat").unlink()
    with pytest.raises(SetError, match=r"image00001\.mat"):
        aflw2000.load(folder)
