"""Multi-view consistency and part overlap, with oracles whose answer is known."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backend.errors import NoFaceError
from backend.geometry.alignment import Similarity
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import FRONTAL, matrix_from_rotation_vector
from tests.trainer.test_evaluate_now import bumpy_face
from trainer.evaluate import accuracy, consistency, part_overlap
from trainer.evaluate.consistency import ViewResult, distance_mm
from trainer.evaluate.part_overlap import OverlapResult, ProtocolError
from trainer.evaluate.truth_sets import SetError

TURN = Similarity(1.0, matrix_from_rotation_vector(np.array([0.4, -1.1, 2.0])), np.array([0.3, -0.2, 5.0]))


def test_distance_forgets_the_pose_and_only_on_request_the_size():
    face = bumpy_face()[0]
    assert distance_mm(TURN.apply(face), face, False) < 1e-9
    larger = 1.1 * face
    assert distance_mm(larger, face, True) < 1e-9
    mean = face.mean(axis=0)
    expected = 1000 * 0.1 * np.linalg.norm(face - mean, axis=1).mean()
    assert distance_mm(TURN.apply(larger), face, False) == pytest.approx(expected, rel=1e-6)
    mirrored = face * [-1.0, 1.0, 1.0]
    assert distance_mm(mirrored, face, True) > 1.0, "a mirror image is no rigid motion"
    for with_scale in (False, True):
        assert distance_mm(mirrored, face, with_scale) == pytest.approx(distance_mm(face, mirrored, with_scale))


def test_spread_is_the_mean_over_pairs_and_people_count_the_same():
    rng = np.random.default_rng(0)
    face = bumpy_face()[0][::20]
    faces = {"a": [face + rng.normal(scale=1e-3, size=face.shape) for _ in range(4)], "b": [face, face]}
    given = [ViewResult(f"{name}/{k}", name, f) for name, own in faces.items() for k, f in enumerate(own)]
    found = consistency.figures(given)
    total, pairs = 0.0, 0
    for one, other in combinations(faces["a"], 2):
        total, pairs = total + distance_mm(one, other, False), pairs + 1
    assert found["people"]["a"]["rigid_mm"] == pytest.approx(total / pairs) and pairs == 6
    assert found["people"]["b"]["rigid_mm"] < 1e-9
    assert found["within"]["rigid_mm"] == pytest.approx(total / pairs / 2)
    assert found["between"]["rigid_mm"] == pytest.approx(distance_mm(faces["a"][0], face, False))
    lost = consistency.figures([*given, ViewResult("b/9", "b", error="No face.")])
    assert "1 of 7 faces" in lost["refused"] and "within" not in lost
    page = consistency.page(lost)
    assert "*refused*" in page and "**" not in page and "b/9: No face." in page


def test_people_are_read_through_the_evaluator(tmp_path, monkeypatch):
    vertices, _, chosen = bumpy_face()
    model = SimpleNamespace(
        info=SimpleNamespace(name="m", version="1"), mean=vertices, landmark_points=lambda v, name: v[chosen]
    )
    monkeypatch.setattr(accuracy, "get_model", lambda name: model)
    for name, count in (("ann", 2), ("ben", 3), ("once", 1)):
        (tmp_path / "people" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 64)).save(tmp_path / "people" / name / f"{number}.png")

    def reconstruct(photo):
        size = {"ann": 1.0, "ben": 1.0 + 0.01 * int(photo.path.stem)}[photo.path.parent.name]
        return [SimpleNamespace(model=model, neutral_vertices=size * vertices)]

    found = accuracy.run("m", ["multiview"], tmp_path / "out", None, tmp_path, 1, reconstruct)["benchmarks"][
        "multiview"
    ]
    assert list(found["people"]) == ["ann", "ben"], "one photo has nothing to agree with"
    assert found["people"]["ann"]["rigid_mm"] < 1e-9 < 0.1 < found["people"]["ben"]["rigid_mm"]
    assert found["within"]["similarity_mm"] < 1e-9
    assert f"**{found['within']['rigid_mm']:.3f}**" in (tmp_path / "out" / "accuracy.md").read_text()
    with pytest.raises(SetError, match="--data"):
        consistency.load(tmp_path / "nowhere")


@pytest.fixture
def head():
    """Two squares, one behind the other and reaching out to the right, in a photo of 40 x 30 pixels."""
    square = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [0.1, 0.1, 0], [-0.1, 0.1, 0]])
    vertices = np.concatenate([square, square * [2.0, 1.0, 1.0] + [0.0, 0.0, -0.2]])
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], np.int32)
    near = np.arange(8) < 4
    model = SimpleNamespace(
        info=SimpleNamespace(name="m", version="1"),
        triangles=triangles,
        regions={"nose": near, "lips": ~near, "eyes": near},
        materials=("skin", "eyes"),
        triangle_material=np.array([0, 0, 0, 1]),
    )
    camera = Camera(intrinsics(50.0, 40, 30), FRONTAL, np.array([0.0, 0.0, 0.5]), 40, 30)
    return SimpleNamespace(model=model, camera=camera, vertices=vertices)


def expected_mask(head) -> np.ndarray:
    """1 where the near square is, 2 where only the far one is: pixel centres against projected corners."""
    mask = np.zeros((30, 40), np.uint8)
    for value, corners in ((2, slice(4, 8)), (1, slice(0, 4))):
        low, high = (edge(head.camera.project(head.vertices[corners]), axis=0) for edge in (np.min, np.max))
        for row in range(30):
            for column in range(40):
                if low[0] < column + 0.5 < high[0] and low[1] < row + 0.5 < high[1]:
                    mask[row, column] = value
    return mask


def test_parts_are_what_is_in_front(head):
    drawn, mask = part_overlap.visible_parts(head, ("nose", "lips"), 30, 40), expected_mask(head)
    assert (mask == 1).sum() > 100 and (mask == 2).sum() > 50
    assert (drawn["nose"] == (mask == 1)).all() and (drawn["lips"] == (mask == 2)).all()
    # Half of the far square is an eyeball, and "eyes" means that, not the region round it.
    eyes = part_overlap.visible_parts(head, ("eyes",), 30, 40)["eyes"]
    assert 20 < eyes.sum() < (mask == 2).sum() and not (eyes & (mask != 2)).any()
    with pytest.raises(ProtocolError, match="no part 'ear'; it has skin, eyes, nose"):
        part_overlap.visible_parts(head, ("ear",), 30, 40)


def test_overlap_is_counted_pixel_by_pixel():
    a, b = np.random.default_rng(4).random((2, 6, 7)) < 0.4
    both = sum(bool(x and y) for x, y in zip(a.ravel(), b.ravel()))
    either = sum(bool(x or y) for x, y in zip(a.ravel(), b.ravel()))
    assert part_overlap.overlap(a, b) == both / either
    assert part_overlap.overlap(a, a) == 1.0 and part_overlap.overlap(a, ~a) == 0.0
    assert part_overlap.overlap(a & False, a & False) is None


def test_a_part_that_nobody_shows_does_not_count_and_a_lost_face_refuses():
    given = [OverlapResult("a", {"nose": 0.5, "ears": None}), OverlapResult("b", {"nose": 0.7, "ears": 0.2})]
    found = part_overlap.figures(given)
    assert found["parts"] == {"nose": pytest.approx(0.6), "ears": 0.2} and found["mean"] == pytest.approx(0.4)
    assert "**40.00 %**" in part_overlap.page(found)
    lost = part_overlap.figures([*given, OverlapResult("c", error="No face.")])
    assert "1 of 3 photos" in lost["refused"] and "*refused*" in part_overlap.page(lost)


@pytest.fixture
def folder(tmp_path, head) -> Path:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for stem in ("a", "b"):
        Image.new("RGB", (40, 32)).save(tmp_path / "photos" / f"{stem}.png")
        mask = np.zeros((32, 40), np.uint8)
        mask[:30] = 3 * expected_mask(head)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{stem}.png")
    (tmp_path / "labels.json").write_text(json.dumps({"nose": [3], "lips": [5, 6]}))
    return tmp_path


def test_masks_are_read_through_the_evaluator(folder, head, monkeypatch):
    monkeypatch.setattr(accuracy, "get_model", lambda name: head.model)
    found = accuracy.run("m", ["parts"], folder / "out", None, folder, 1, lambda photo: [head])["benchmarks"]["parts"]
    assert found["parts"] == {"nose": 1.0, "lips": 1.0} and "refused" not in found
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "masks" / "b.png")

    def reconstruct(photo):
        raise NoFaceError("No face was found in the photo; use another one.")

    found = accuracy.run("m", ["parts"], folder / "out", None, folder, 1, reconstruct)["benchmarks"]["parts"]
    assert found["failures"]["a"].startswith("No face") and "8 x 8" in found["failures"]["b"]
    assert found["mean"] is None and "2 of 2" in found["refused"]


def test_mask_files_of_another_form_are_one_sentence(folder):
    Image.new("RGB", (40, 32)).save(folder / "masks" / "a.png")
    with pytest.raises(ProtocolError, match="one number per pixel"):
        part_overlap.read_mask(folder / "masks" / "a.png")
    (folder / "masks" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ProtocolError, match="cannot be read"):
        part_overlap.read_mask(folder / "masks" / "a.png")
    (folder / "photos" / "b.png").unlink()
    with pytest.raises(SetError, match="no photo of that name"):
        part_overlap.load(folder)
    (folder / "labels.json").write_text("[1]")
    with pytest.raises(SetError, match=r"labels\.json"):
        part_overlap.load(folder)
