"""MICC Florence: the protocol on surfaces whose answer is known, its slow twin, and files in the benchmark's form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backend.errors import NoFaceError
from backend.face_model.registry import get_model
from backend.geometry.alignment import Similarity, fit_similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.mesh import vertex_normals
from backend.geometry.rotation import matrix_from_rotation_vector
from backend.reconstruction.result import FitReport, Reconstruction
from trainer.evaluate import accuracy, micc
from trainer.evaluate import micc_protocol as protocol
from trainer.evaluate.micc import CONDITIONS, VideoResult, as_mesh, figures, key, page
from trainer.evaluate.micc_protocol import FaceScan, Mesh, crop, score
from trainer.evaluate.now_protocol import ProtocolError
from trainer.evaluate.truth_sets import SetError

MOVE = Similarity(1.3, matrix_from_rotation_vector(np.array([0.3, -1.0, 0.7])), np.array([0.4, -0.1, 0.5]))
HEADLINE = key("video", "similarity", False)


@pytest.fixture(scope="module")
def model():
    return get_model("open-head")


@pytest.fixture(scope="module")
def person(model) -> np.ndarray:
    return np.random.default_rng(3).normal(0.0, 0.8, len(model.identity)).astype(np.float32)


def mesh_of(model, identity) -> Mesh:
    return as_mesh(model, model.vertices(identity).astype(np.float64))


def scan_of(mesh: Mesh, move: Similarity | None = None) -> FaceScan:
    move = move or Similarity(1.0, np.eye(3), np.zeros(3))
    used = np.unique(mesh.triangles)
    return FaceScan(move.apply(mesh.vertices[used]), move.apply(mesh.landmarks))


# --- the protocol -----------------------------------------------------------------------------------------


def test_a_scan_against_itself_is_nothing(model, person):
    mesh = mesh_of(model, person)
    for variant in protocol.VARIANTS:
        assert score(scan_of(mesh), mesh, variant) < 1e-4


def test_a_known_similarity_is_undone_and_only_the_rigid_variant_minds_the_size(model, person):
    mesh = mesh_of(model, person)
    turned = replace_scale(MOVE, 1.0)
    assert score(scan_of(mesh, turned), mesh, "rigid") < 1e-3
    # The sphere has a size of its own, so a larger scan is another crop of the same surface.
    assert score(scan_of(mesh, MOVE), mesh) < 1e-3
    assert score(scan_of(mesh, MOVE), mesh, "rigid") > 3.0


def replace_scale(move: Similarity, scale: float) -> Similarity:
    return Similarity(scale, move.rotation, move.translation)


def test_a_mirrored_mesh_is_refused(model, person):
    mesh = mesh_of(model, person)
    flip = np.array([-1.0, 1.0, 1.0])
    mirrored = Mesh(mesh.vertices * flip, mesh.triangles[:, ::-1], mesh.landmarks * flip)
    with pytest.raises(ProtocolError, match="mirror image"):
        score(scan_of(mesh), mirrored)


def test_a_plane_that_is_off_by_a_millimetre_scores_a_millimetre():
    """Point to plane and not point to point: sliding along the plane costs nothing."""
    x, y = np.meshgrid(np.linspace(-0.1, 0.1, 30), np.linspace(-0.1, 0.1, 30))
    flat = np.stack([x.ravel(), y.ravel(), 0.0 * x.ravel()], axis=1)
    corner = (np.arange(29)[:, None] * 30 + np.arange(29)).ravel()
    triangles = np.concatenate(
        [np.stack([corner, corner + 1, corner + 31], 1), np.stack([corner, corner + 31, corner + 30], 1)]
    )
    still = Similarity(1.0, np.eye(3), np.array([0.0, 0.0, 0.001]))
    points = flat[np.abs(flat).max(axis=1) < 0.08] + [0.003, 0.001, 0.002]
    mesh = Mesh(flat, triangles, flat[:5])
    found = protocol.to_plane(points, mesh, SurfaceTree(flat, triangles), still)
    np.testing.assert_allclose(found, 0.001, atol=1e-9)


def test_the_crop(model):
    mesh = mesh_of(model, np.zeros(len(model.identity)))
    scan = scan_of(mesh)
    with_forehead, without = crop(scan, True), crop(scan)
    away = np.linalg.norm(scan.vertices - scan.landmarks[protocol.NOSE_TIP], axis=1)
    assert (away[with_forehead] <= 0.095).all() and (away[~with_forehead] > 0.095).all()
    assert (without <= with_forehead).all() and 0.5 < without.sum() / with_forehead.sum() < 0.98
    # Brows stay, the hairline goes.
    brow, top = scan.vertices[without][:, 1].max(), scan.vertices[with_forehead][:, 1].max()
    eyes = scan.landmarks[:2, 1].mean()
    assert 0.02 < brow - eyes < 0.05 < top - eyes


def score_slowly(scan: FaceScan, mesh: Mesh) -> float:
    """Plain ICP until nothing moves: nearest surface points, best similarity, again; then point to plane by hand."""
    points = scan.vertices[crop(scan)]
    alignment = fit_similarity(mesh.landmarks, scan.landmarks)
    tree = SurfaceTree(mesh.vertices, mesh.triangles)
    for _ in range(1500):
        nearest = tree.query(alignment.inverse().apply(points)).points
        following = fit_similarity(nearest, points)
        moved = np.abs(following.apply(mesh.landmarks) - alignment.apply(mesh.landmarks)).max()
        alignment = following
        if moved < 1e-9:
            break
    vertices = alignment.apply(mesh.vertices)
    normals = vertex_normals(vertices, mesh.triangles)
    found = SurfaceTree(vertices, mesh.triangles).query(points)
    total = 0.0
    for point, nearest, triangle, weights in zip(points, found.points, found.triangles, found.barycentric):
        normal = weights @ normals[mesh.triangles[triangle]]
        total += ((point - nearest) @ (normal / np.linalg.norm(normal))) ** 2
    return 1000.0 * float(np.sqrt(total / len(points)))


def test_it_is_icp_to_the_end(model, person):
    mesh, other = mesh_of(model, person), mesh_of(model, 0.3 * person)
    scan = scan_of(mesh, replace_scale(MOVE, 1.0))
    thinned = FaceScan(scan.vertices[::6], scan.landmarks)
    found = score(thinned, other)
    assert found > 0.3
    assert found == pytest.approx(score_slowly(thinned, other), rel=0.02)


def test_what_cannot_be_scored_is_one_sentence(model, person):
    mesh = mesh_of(model, person)
    scan = scan_of(mesh)
    with pytest.raises(ProtocolError, match="five 3D landmarks"):
        score(FaceScan(scan.vertices, scan.landmarks[:4]), mesh)
    with pytest.raises(ProtocolError, match="check its unit"):
        score(FaceScan(1000.0 * scan.vertices, 1000.0 * scan.landmarks), mesh)
    with pytest.raises(ProtocolError, match="not numbers"):
        score(scan, replace(mesh, vertices=mesh.vertices * np.nan))
    with pytest.raises(ProtocolError, match="no triangles"):
        score(scan, replace(mesh, triangles=mesh.triangles[:0]))


# --- files ------------------------------------------------------------------------------------------------


def write_scan(path: Path, scan: FaceScan, picked: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"v {x:.5f} {y:.5f} {z:.5f} 0.5 0.5 0.5" for x, y, z in 1000.0 * scan.vertices]
    path.write_text("\n".join([*rows, "f 1/1 2/2 3/3 4/4", ""]))
    points = 1000.0 * scan.landmarks
    if picked:
        lines = [f'<point x="{x}" y="{y}" z="{z}" name="{k}" active="1"/>' for k, (x, y, z) in enumerate(points)]
        path.with_suffix(".pp").write_text(f"<!DOCTYPE PickedPoints><PickedPoints>{''.join(lines)}</PickedPoints>")
    else:
        np.savetxt(path.with_suffix(".txt"), points)


def subject(root: Path, number: int, scan: FaceScan, colour: int, picked: bool = True) -> None:
    """The benchmark's tree for one subject: two scans, a video and two folders of frames."""
    folder = root / f"subject_{number:02d}"
    write_scan(folder / "Model/frontal1/obj/110920150452.obj", scan, picked)
    (folder / "Model/sx").mkdir(parents=True)
    (folder / "Model/sx/another.obj").write_text("v 0 0 0\n")
    for condition in ("PTZ-Indoor", "PTZ-Outdoor"):
        frames = folder / "Videos" / condition
        frames.mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (32, 32), (colour, k, 0)).save(frames / f"{k:04d}.png")
    video = folder / "Videos/Indoor-Cooperative/a.avi"
    video.parent.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(45):
        writer.write(np.full((32, 32, 3), colour, np.uint8))
    writer.release()


def head(model, identity) -> Reconstruction:
    from backend.geometry.camera import Camera, intrinsics

    camera = Camera(intrinsics(1000.0, 32, 32), np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 0.6]), 32, 32)
    fit = FitReport(1.0, 0.01, 0.01, np.ones(len(identity), np.float32), 1, True)
    return Reconstruction(model, None, 32, 32, camera, identity, np.zeros(len(model.expression)), {}, fit)


def test_files_in_the_form_of_the_benchmark(model, person, tmp_path):
    scan = scan_of(mesh_of(model, person), replace_scale(MOVE, 1.0))
    subject(tmp_path / "MICC", 7, scan, 200)
    subject(tmp_path / "MICC", 3, scan, 100, picked=False)
    videos = micc.load(tmp_path)
    assert [(item.subject, item.condition) for item in videos] == [
        (number, name) for number in (3, 7) for name in CONDITIONS
    ]
    assert {item.scan.parent.parent.name for item in videos} == {"frontal1"}
    for item in (videos[0], videos[3]):
        found = micc.read_scan(item.scan)
        np.testing.assert_allclose(found.vertices, scan.vertices, atol=1e-8)
        np.testing.assert_allclose(found.landmarks, scan.landmarks, atol=1e-8)
    assert videos[0].source.suffix == ".avi" and videos[1].source.is_dir()
    pictures = list(micc.frames(videos[0].source))
    assert len(pictures) == micc.FRAMES and abs(int(pictures[5].pixels[3, 3, 0]) - 100) < 6
    assert [int(photo.pixels[0, 0, 1]) for photo in micc.frames(videos[1].source)] == [0, 1, 2]


def test_a_video_is_scored_by_its_mean_shape(model, person, tmp_path):
    """Frames that err to both sides: their mean does not, one of them does; a frame without a face is left out."""
    subject(tmp_path, 1, scan_of(mesh_of(model, person)), 50)
    video = next(item for item in micc.load(tmp_path) if item.condition == "indoor")
    error = np.random.default_rng(9).normal(0.0, 0.5, len(person)).astype(np.float32)

    def reconstruct(photo):
        frame = int(photo.pixels[0, 0, 1])
        if frame == 2:
            raise NoFaceError("No face was found in the photo; use another one.")
        return [head(model, person + (-1.0) ** frame * error)]

    result = micc.measure(video, reconstruct)
    assert (result.frames, result.found, result.error) == (3, 2, None)
    assert result.rmse_mm[HEADLINE] < 0.01 < 0.2 < result.rmse_mm[key("image", "similarity", False)]
    assert len(result.rmse_mm) == 8

    def blind(photo):
        raise NoFaceError("No face was found in the photo; use another one.")

    assert micc.measure(video, blind).error == "No face was found in the photo; use another one."


def test_broken_files_fail_their_video_and_missing_ones_the_set(model, person, tmp_path):
    with pytest.raises(SetError, match="no folders of MICC's subjects"):
        micc.load(tmp_path)
    subject(tmp_path, 1, scan_of(mesh_of(model, person)), 50)
    video = micc.load(tmp_path)[0]
    video.source.write_bytes(b"nothing")
    answer = lambda photo: [head(model, person)]  # noqa: E731
    assert "cannot be read" in (micc.measure(video, answer).error or "")
    other = micc.load(tmp_path)[1]
    other.scan.with_suffix(".pp").unlink()
    assert "There are no landmarks beside" in (micc.measure(other, answer).error or "")
    other.scan.with_suffix(".txt").write_text("1 2 3\n4 5 6\n")
    assert "are not five points" in (micc.measure(other, answer).error or "")
    other.scan.write_text("nothing\n")
    assert "cannot be read (it has no vertices)" in (micc.measure(other, answer).error or "")
    other.scan.unlink()
    (other.scan.parents[2] / "sx/another.obj").unlink()
    with pytest.raises(SetError, match=r"no scan \(.obj\) below"):
        micc.load(tmp_path)


# --- the table --------------------------------------------------------------------------------------------


def everybody() -> list[VideoResult]:
    return [
        VideoResult(
            f"subject {number}, {condition}",
            number,
            condition,
            20,
            20,
            {
                key(shape, variant, forehead): 1.0 + 0.02 * (number % 2)
                for shape in micc.SHAPES
                for variant in protocol.VARIANTS
                for forehead in (False, True)
            },
        )
        for number in range(1, 54)
        for condition in CONDITIONS
    ]


def test_the_headline_needs_everybody():
    whole = figures(everybody())
    assert whole["refused"] is None
    assert whole["headline"]["mean"] == pytest.approx(1.0 + 0.02 * 27 / 53)
    assert whole["headline"]["std"] == pytest.approx(0.01, abs=1e-4)
    text = page(whole)
    assert "| ours, mean shape of the video, similarity, without forehead | 1.01 ± 0.01 | this run |" in text
    assert "| Deep3D (TensorFlow) | 1.67 ± 0.50 |" in text
    assert "| cooperative | 53 of 53 |" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda items: [item for item in items if item.subject != 9], "1 of 53 subjects are missing (the first is 9)"),
        (
            lambda items: [item for item in items if (item.subject, item.condition) != (4, "outdoor")],
            "Subject 4 has no video outdoor",
        ),
        (
            lambda items: [replace(items[0], rmse_mm={}, error="No face."), *items[1:]],
            "1 videos have no figure (the first is subject 1, cooperative)",
        ),
    ],
)
def test_the_headline_is_refused(change, sentence):
    found = figures(change(everybody()))
    assert found["headline"] is None and sentence in found["refused"]
    text = page(found)
    assert sentence in text and "*refused*" in text
    assert found["conditions"]["indoor"]["rmse_mm"][HEADLINE]["mean"] > 1.0


def test_the_runner_knows_it(model, person, tmp_path):
    subject(tmp_path / "data", 1, scan_of(mesh_of(model, person)), 50)
    shapes = [head(model, person)]
    found = accuracy.run("open-head", ["micc"], tmp_path / "out", None, tmp_path / "data", 1, lambda photo: shapes)
    row = found["benchmarks"]["micc"]
    assert row["conditions"]["all"]["scored"] == 3 and "52 of 53" in row["refused"]
    assert row["conditions"]["all"]["rmse_mm"][HEADLINE]["mean"] < 0.01
    assert "## MICC Florence" in (tmp_path / "out/accuracy.md").read_text("utf-8")
