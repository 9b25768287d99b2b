"""The REALY protocol on surfaces whose answer is known, its slow twins, and the benchmark's form of files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backend.errors import NoFaceError
from backend.face_model.model import Embedding, FaceModel, ModelInfo
from backend.geometry.alignment import Similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.rotation import matrix_from_rotation_vector
from tests.trainer.test_evaluate_now import bumpy_face
from trainer.evaluate import accuracy, realy
from trainer.evaluate import nonrigid_icp as icp
from trainer.evaluate import realy_protocol as protocol
from trainer.evaluate.now_protocol import ProtocolError
from trainer.evaluate.realy_protocol import REGIONS, RegionScan, Subject
from trainer.evaluate.truth_sets import SetError

# Scan units per metre: the benchmark's faces are about 18 units wide and a unit is about 8 mm.
UNITS = 125.0
MM = 8.0
# Left, right, lower and upper limit of each region on the stand-in for a face, metres.
BOXES = {
    "nose": (-0.02, 0.02, -0.03, 0.03),
    "mouth": (-0.035, 0.035, -0.065, -0.035),
    "forehead": (-0.055, 0.055, 0.055, 0.085),
    "cheek": (0.02, 0.065, -0.03, 0.02),
}
MOVE = Similarity(0.013, matrix_from_rotation_vector(np.array([0.3, -1.0, 0.7])), np.array([4.0, -1.0, 0.5]))


@pytest.fixture(scope="module")
def face():
    vertices, triangles, _ = bumpy_face()
    return UNITS * vertices, triangles


@pytest.fixture(scope="module")
def chosen(face) -> np.ndarray:
    """85 vertices, each inside the region that it belongs to."""
    vertices = face[0] / UNITS
    rng = np.random.default_rng(85)
    chosen = rng.choice(len(vertices), 85, replace=False)
    for name, keypoints in protocol.RIGID_KEYPOINTS.items():
        if name != "cheek":
            left, right, low, high = BOXES[name]
            x, y, _ = vertices.T
            inside = np.flatnonzero((x > left) & (x < right) & (y > low) & (y < high))
            chosen[list(keypoints)] = rng.choice(inside, len(keypoints), replace=False)
    return chosen


def region(face, name) -> RegionScan:
    vertices, triangles = face
    left, right, low, high = (UNITS * side for side in BOXES[name])
    x, y, _ = vertices.T
    inside = (x >= left) & (x <= right) & (y >= low) & (y <= high)
    number = np.cumsum(inside) - 1
    return RegionScan(vertices[inside], number[triangles[inside[triangles].all(axis=1)]])


@pytest.fixture(scope="module")
def subject(face, chosen) -> Subject:
    return Subject({name: region(face, name) for name in REGIONS}, face[0][chosen], MM)


def test_a_scan_against_itself_and_moved_scores_nothing(face, chosen, subject):
    vertices, triangles = face
    own = protocol.score(subject, vertices, triangles, vertices[chosen])
    assert list(own) == list(REGIONS) and max(own.values()) < 1e-4
    moved = MOVE.apply(vertices)
    away = protocol.score(subject, moved, triangles, moved[chosen])
    assert max(away.values()) < 1e-3


def test_a_mirrored_mesh_is_refused(face, chosen, subject):
    mirrored = face[0] * [-1.0, 1.0, 1.0]
    with pytest.raises(ProtocolError, match="mirror image"):
        protocol.score(subject, mirrored, face[1][:, ::-1], mirrored[chosen])


def test_meshes_that_cannot_be_scored_are_refused(face, chosen, subject):
    vertices, triangles = face
    with pytest.raises(ProtocolError, match="85 keypoints"):
        protocol.score(subject, vertices, triangles, vertices[chosen[:68]])
    with pytest.raises(ProtocolError, match="finite surface"):
        protocol.score(subject, vertices * np.nan, triangles, vertices[chosen])
    with pytest.raises(ProtocolError, match="finite surface"):
        protocol.score(subject, vertices, triangles[:0], vertices[chosen])


def test_only_the_region_that_is_wrong_gets_an_error_of_its_size(face, chosen, subject):
    vertices, triangles = face
    x, y, _ = (vertices / UNITS).T
    wrong = vertices.copy()
    height = 0.004 * np.exp(-(((x - 0.0) / 0.012) ** 2) - ((y - 0.07) / 0.012) ** 2)
    wrong[:, 2] += UNITS * height
    errors = protocol.score(subject, wrong, triangles, wrong[chosen])
    assert max(errors[name] for name in ("nose", "mouth", "cheek")) < 0.05
    assert 0.2 < errors["forehead"] < 4.0


def test_global_scale_is_the_ratio_of_absolute_sums():
    rng = np.random.default_rng(1)
    source, noise = rng.normal(size=(7, 3)), rng.normal(scale=0.05, size=(7, 3))
    target = 3.0 * source + 2.0 + noise
    found = protocol.align_globally(source, target)
    turned = found.rotation @ (source - source.mean(axis=0)).T
    total = sum(abs(value) for row in target - target.mean(axis=0) for value in row)
    assert found.scale == pytest.approx(total / sum(abs(value) for row in turned for value in row))
    np.testing.assert_allclose(found.apply(source).mean(axis=0), target.mean(axis=0))
    exact = protocol.align_globally(source, MOVE.apply(source))
    np.testing.assert_allclose(exact.rotation, MOVE.rotation, atol=1e-12)
    assert exact.scale == pytest.approx(MOVE.scale), "not a bit off where the points match exactly, turned or not"


def test_rigid_alignment_is_that_of_repeated_keypoints(face, chosen, subject):
    """The slow twin moves the mesh itself and repeats keypoints as rows, as the benchmark is described."""
    vertices, triangles = face
    own = vertices[chosen][list(protocol.RIGID_KEYPOINTS["nose"])] + 0.1
    true = subject.keypoints[list(protocol.RIGID_KEYPOINTS["nose"])]
    points = subject.regions["nose"].vertices
    start = Similarity(1.02, matrix_from_rotation_vector(np.array([0.02, -0.03, 0.01])), np.array([0.2, 0.1, -0.1]))
    fast = protocol.align_region(points, SurfaceTree(vertices, triangles), start, own, true)

    mesh, repeats, before = start.apply(vertices), int(len(points) / len(own)), 0.0
    marks, targets = np.tile(start.apply(own), (repeats, 1)), np.concatenate([points, np.tile(true, (repeats, 1))])
    assert repeats > 1
    for _ in range(100):
        pairs = np.concatenate([SurfaceTree(mesh, triangles).query(points).points, marks])
        u, _, vt = np.linalg.svd((targets - targets.mean(axis=0)).T @ (pairs - pairs.mean(axis=0)))
        turn = u @ vt
        shift = (targets - pairs @ turn.T).mean(axis=0)
        error = ((pairs @ turn.T + shift - targets) ** 2).sum(axis=1).mean()
        if abs(error - before) < 1e-6:
            break
        before, mesh, marks = error, mesh @ turn.T + shift, marks @ turn.T + shift
    np.testing.assert_allclose(fast.apply(vertices), mesh, atol=1e-9)


def little_grid() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(4.0), np.arange(3.0))
    corners = np.array([[r * 4 + c, r * 4 + c + 1, (r + 1) * 4 + c] for r in range(2) for c in range(3)])
    other = np.array([[r * 4 + c + 1, (r + 1) * 4 + c + 1, (r + 1) * 4 + c] for r in range(2) for c in range(3)])
    return np.column_stack([x.ravel(), y.ravel(), 0.1 * x.ravel() ** 2]), np.concatenate([corners, other])


def test_one_solve_is_dense_least_squares():
    vertices, triangles = little_grid()
    edges = {tuple(sorted((int(t[a]), int(t[b])))) for t in triangles for a, b in ((0, 1), (1, 2), (0, 2))}
    count, rng = len(vertices), np.random.default_rng(0)
    targets = vertices + rng.normal(scale=0.1, size=vertices.shape)
    weights = rng.integers(0, 2, count).astype(float)
    pulled = icp.pulls(count, np.array([2, 7]), targets[[2, 7]] + 1.0, 5.0)
    rows = []
    for low, high in edges:
        for k, gain in enumerate((2.0, 2.0, 3.0, 2.0)):
            row = np.zeros(4 * count)
            row[4 * low + k], row[4 * high + k] = 30.0 * gain, -30.0 * gain
            rows.append((row, np.zeros(3)))
    for weight, wanted in ((weights, targets), pulled):
        for k in range(count):
            row = np.zeros(4 * count)
            row[4 * k : 4 * k + 4] = weight[k] * np.append(vertices[k], 1.0)
            rows.append((row, weight[k] * wanted[k]))
    dense = np.linalg.lstsq(np.array([row for row, _ in rows]), np.array([right for _, right in rows]), rcond=None)[0]
    from scipy import sparse

    stiffness = 30.0 * sparse.kron(icp.incidence(triangles, count), sparse.diags(icp.FIRM))
    fast = icp.solve(vertices, stiffness, [(weights, targets), pulled])
    np.testing.assert_allclose(icp.moved(vertices, fast), icp.moved(vertices, dense), atol=1e-6)
    assert icp.incidence(triangles, count).shape == (len(edges), count)


def test_bending_follows_an_affine_change_and_keypoints_lead_it():
    vertices, triangles = little_grid()
    stretched = vertices * [1.05, 0.97, 1.0] + [0.1, 0.0, 0.05]
    np.testing.assert_allclose(icp.bend(vertices, triangles, stretched), stretched, atol=0.02)
    # Shifted by one column, the nearest point of a vertex is its neighbour's: only keypoints can tell.
    shifted = vertices + np.array([1.0, 0.0, 0.0])
    ends = np.array([0, 3, 8, 5, 10])
    led = icp.bend(vertices, triangles, shifted, ends, shifted[ends])
    alone = icp.bend(vertices, triangles, shifted)
    assert np.abs(led - shifted).max() < 0.05 < np.linalg.norm(alone - shifted, axis=1).mean()


def bend_slowly(vertices, triangles, targets, keypoints=(), places=()) -> np.ndarray:
    """The benchmark's schedule with its numbers written out, every solve by dense least squares."""
    edges = sorted({tuple(sorted((int(t[a]), int(t[b])))) for t in triangles for a, b in ((0, 1), (1, 2), (0, 2))})
    count, current, solves = len(vertices), vertices, 0
    before, affine = np.zeros((4 * count, 3)), np.ones((4 * count, 3))
    passes = [(150.0, 2.0, True)] if len(keypoints) else []
    passes += [(50.0 * np.exp(-0.5 * k), 0.5**k, False) for k in range(3)]
    for alpha, epsilon, first in passes:
        steps = 0
        while np.linalg.norm(affine - before) > epsilon and not (len(keypoints) and steps > 10):
            before = affine
            gaps = np.linalg.norm(current[:, None] - targets[None], axis=2)
            near = gaps.min(axis=1) < max(2.0 * gaps.min(axis=1).mean(), 1.0)
            rows, right = [], []
            for low, high in edges:
                for k, gain in enumerate((2.0, 2.0, 3.0, 2.0) if first else (1.0,) * 4):
                    row = np.zeros(4 * count)
                    row[4 * low + k], row[4 * high + k] = alpha * gain, -alpha * gain
                    rows.append(row)
                    right.append(np.zeros(3))
            pulls = [] if first else [(k, float(near[k]), targets[gaps[k].argmin()]) for k in range(count)]
            strength = 50.0 if first else 5.0 * np.exp(-0.9 * solves)
            pulls += [(k, strength, place) for k, place in zip(keypoints, places)]
            for k, weight, wanted in pulls:
                row = np.zeros(4 * count)
                row[4 * k : 4 * k + 4] = weight * np.append(current[k], 1.0)
                rows.append(row)
                right.append(weight * wanted)
            affine = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
            current = icp.moved(current, affine)
            steps, solves = steps + 1, solves + 1
            if first:
                break
    return current


def test_bending_keeps_the_benchmarks_schedule():
    vertices, triangles = little_grid()
    vertices[11] += [2.5, 1.5, 0.0]  # a corner that lies far from every target, so that it does not count
    rng = np.random.default_rng(11)
    targets = (vertices + rng.normal(scale=0.25, size=vertices.shape))[:11]
    assert np.linalg.norm(targets - vertices[11], axis=1).min() > 2.0
    slow = bend_slowly(vertices, triangles, targets)
    np.testing.assert_allclose(icp.bend(vertices, triangles, targets), slow, atol=1e-6)
    # Five points that are not in one plane: four of a plane would leave the first solve without an answer.
    ends = np.array([0, 3, 8, 5, 10])
    places = targets[ends] + rng.normal(scale=0.5, size=(5, 3))
    slow = bend_slowly(vertices, triangles, targets, ends, places)
    np.testing.assert_allclose(icp.bend(vertices, triangles, targets, ends, places), slow, atol=1e-6)


def test_each_region_goes_through_its_own_steps(face, chosen, subject):
    """The four steps written out with the benchmark's numbers, on a mesh that is wrong everywhere."""
    vertices, triangles = face
    wrong = vertices + np.column_stack([0.2 * np.sin(vertices[:, 1]), 0.1 * vertices[:, 0], np.cos(vertices[:, 0])])
    errors = protocol.score(subject, wrong, triangles, wrong[chosen])
    start = protocol.align_globally(wrong[chosen[list(protocol.GLOBAL)]], subject.keypoints[list(protocol.GLOBAL)])
    lips = [*range(48, 61), 64]
    upper = [*range(36, 48), *range(17, 27)]
    nose = list(range(27, 36))
    cheek = [*lips, 76, 77, 36, 41, 40, 39, 42, 47, 46, 45, 7, 8, 9]
    steps = {"nose": ([*nose, 70, 71], nose), "mouth": (lips, lips), "forehead": (upper, upper), "cheek": (cheek, [])}
    for name, (rigid, bending) in steps.items():
        scan = subject.regions[name]
        share = 4 if name == "cheek" else 1
        tree, own = SurfaceTree(wrong, triangles), wrong[chosen]
        pose = protocol.align_region(scan.vertices, tree, start, own[rigid], subject.keypoints[rigid], share)
        moved = SurfaceTree(pose.apply(wrong), triangles)
        nearest = [int(((scan.vertices - subject.keypoints[k]) ** 2).sum(axis=1).argmin()) for k in bending]
        targets = moved.query(scan.vertices).points
        bent = icp.bend(scan.vertices, scan.triangles, targets, np.array(nearest, int), pose.apply(own[bending]))
        slow = MM * np.linalg.norm(moved.query(bent).points - scan.vertices, axis=1).mean()
        assert errors[name] == pytest.approx(slow, rel=1e-6), name


def test_doubled_and_unused_vertices_are_taken_out(subject):
    scan = subject.regions["nose"]
    doubled = RegionScan(
        np.concatenate([scan.vertices, scan.vertices, [[99.0, 0.0, 0.0]]]),
        np.concatenate([scan.triangles[:50], scan.triangles[50:] + len(scan.vertices)]),
    )
    once = protocol.merged(doubled)
    assert len(once.vertices) == len(np.unique(scan.triangles))
    np.testing.assert_allclose(once.vertices[once.triangles], scan.vertices[scan.triangles], atol=1e-8)


@pytest.fixture(scope="module")
def model(face, chosen) -> FaceModel:
    vertices, triangles = face
    faces = np.concatenate([triangles, np.full((len(triangles), 1), -1)], axis=1).astype(np.int32)
    corners = np.repeat(chosen[:68, None], 3, axis=1).astype(np.int32)
    weights = np.tile(np.array([1, 0, 0], np.float32), (68, 1))
    return FaceModel(
        info=ModelInfo("bump", "1", "CC0-1.0", True, "", ""),
        mean=(vertices / UNITS).astype(np.float32),
        identity=np.zeros((0, *vertices.shape), np.float32),
        expression=np.zeros((0, *vertices.shape), np.float32),
        expression_names=(),
        faces=faces,
        uv=np.zeros((1, 2), np.float32),
        face_uv=np.zeros_like(faces),
        face_material=np.zeros(len(faces), np.uint8),
        materials=("skin",),
        regions={},
        landmarks={"ibug68": Embedding(corners, weights)},
    )


def write_mesh(path: Path, vertices, triangles=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*vertex) for vertex in vertices]
    path.write_text("\n".join([*lines, *("f {}/1/1 {}/1/2 {}/2/3".format(*(t + 1)) for t in triangles)]) + "\n")


@pytest.fixture
def folder(tmp_path, monkeypatch, face, chosen, subject) -> Path:
    """The benchmark with two subjects, and one photo of each."""
    monkeypatch.setattr(realy, "SUBJECTS", 2)
    monkeypatch.setattr(realy, "_known", {})
    vertices, triangles = face
    for number in (1, 2):
        write_mesh(tmp_path / f"REALY_HIFI3D_keypoints/{number}.obj", subject.keypoints)
        for name in REGIONS:
            scan = subject.regions[name]
            write_mesh(tmp_path / f"REALY_scan_region/{number}/{name}.obj", scan.vertices, scan.triangles)
        for place in ("crop_image_frontal_512x512", "depth_frontal_512x512"):
            (tmp_path / "REALY_image" / place).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64)).save(tmp_path / f"REALY_image/{place}/{number}.png")
    np.savetxt(tmp_path / "metrical_scale.txt", [MM, MM])
    write_mesh(tmp_path / "HIFI3D.obj", vertices, triangles)
    rows = []
    for vertex in chosen:
        triangle, corner = np.argwhere(triangles == vertex)[0]
        rows.append([int(triangle), int(corner == 0), int(corner == 1)])
    (tmp_path / "HIFI3D.txt").write_text(json.dumps(rows))
    return tmp_path


def run(folder, reconstruct, monkeypatch, model) -> dict:
    monkeypatch.setattr(accuracy, "get_model", lambda name: model)
    return accuracy.run("bump", ["realy"], folder / "out", None, folder, 1, reconstruct)["benchmarks"]["realy"]


def test_the_benchmarks_files_are_read_and_a_perfect_head_scores_nothing(folder, monkeypatch, model, chosen):
    found = run(folder, lambda photo: [SimpleNamespace(model=model, neutral_vertices=model.mean)], monkeypatch, model)
    row = found["views"]["frontal"]
    assert (row["photos"], row["found"]) == (2, 2) and "refused" not in row and list(found["views"]) == ["frontal"]
    assert row["all"] < 0.01 and set(row["regions"]) == set(REGIONS)
    page = (folder / "out" / "accuracy.md").read_text()
    assert f"**{row['all']:.3f}**" in page and "3DDFA_V3" in page
    # The 17 that the model does not know lie where the template has them.
    embedding = realy.keypoints85(model, *realy.read_template(folder))
    np.testing.assert_allclose(embedding.points(model.mean), model.mean[chosen], atol=1e-5)


def test_a_missing_face_view_or_subject_refuses_the_headline(folder, monkeypatch, model):
    def reconstruct(photo):
        if photo.path.stem == "2":
            raise NoFaceError("No face was found in the photo; use another one.")
        return [SimpleNamespace(model=model, neutral_vertices=model.mean)]

    found = run(folder, reconstruct, monkeypatch, model)
    assert "1 of 2 faces" in found["views"]["frontal"]["refused"]
    assert "*refused*" in (folder / "out" / "accuracy.md").read_text()
    whole = [realy.PortraitResult(str(k), "side", k, dict.fromkeys(REGIONS, float(k))) for k in (1, 2, 1)]
    assert "1 of 2 subjects" in str(realy.why_not_whole(whole[::2]))
    assert "same number" in str(realy.why_not_whole(whole))
    row = realy.figures(whole[:2])["views"]["side"]
    assert "refused" not in row and row["all"] == 1.5
    assert row["regions"]["nose"]["std"] == pytest.approx(np.sqrt(0.5)), "divided by one less than the count"


def test_files_of_another_form_are_one_sentence(folder):
    with pytest.raises(SetError, match="--data"):
        realy.load(folder / "nowhere")
    portraits = realy.load(folder)
    (folder / "REALY_scan_region/2/cheek.obj").unlink()
    with pytest.raises(SetError, match=r"cheek\.obj"):
        realy.measure(portraits[1], lambda photo: [])
    (folder / "HIFI3D.txt").write_text("[[1, 0]]")
    with pytest.raises(SetError, match="folder data"):
        realy.read_template(folder)
    (folder / "REALY_image/crop_image_frontal_512x512/alice.png").write_bytes(b"")
    with pytest.raises(SetError, match="called by its subject"):
        realy.load(folder)
