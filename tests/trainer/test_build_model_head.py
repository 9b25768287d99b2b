"""The committed default head, and that the build from the source gives it again."""

# The check for optional packages has to stand before the imports that need them.
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for package in ("igl", "pynanoinstantmeshes"):
    pytest.importorskip(package, reason=f"needs {package}, which the extra train installs")

from backend.errors import ModelError
from backend.face_model.file_format import load_model
from backend.face_model.model import FaceModel
from backend.geometry.mesh import boundary_edges, edges
from trainer.build_model import check, check_uv, pictures
from trainer.build_model.bases import ARKIT_NAMES
from trainer.build_model.build import assemble
from trainer.build_model.source import Source, read_source

SHARED = Path(__file__).parents[2].parent / "shared"
FILE = Path(__file__).parents[2] / "backend" / "face_model" / "data" / "open-head.safetensors"
REGIONS = "nose mouth eyes brows forehead cheeks ears neck scalp face lips eyelids teeth gums tongue".split()


@pytest.fixture(scope="module")
def head() -> FaceModel:
    return load_model(FILE)


@pytest.fixture(scope="module")
def source() -> Source:
    folder = SHARED / "models" / "ict-facekit"
    if not folder.is_dir():
        pytest.skip("needs ../shared/models/ict-facekit, which is not part of the repository")
    return read_source(folder)


@pytest.fixture(scope="module")
def rebuilt(source: Source):
    return assemble(source)


def skin_faces(head: FaceModel) -> np.ndarray:
    return head.faces[head.face_material == 0]


def test_file_is_small_enough_and_free(head: FaceModel):
    assert FILE.stat().st_size <= 16_000_000
    assert (head.info.name, head.info.licence, head.info.commercial) == ("open-head", "MIT", True)
    assert "Permission is hereby granted" in head.info.attribution


def test_all_quads_in_the_wanted_number(head: FaceModel):
    assert (head.faces >= 0).all()
    assert 8000 <= len(np.unique(skin_faces(head))) <= 14000
    figures = check.quad_figures(head)
    assert figures["skin_highest_valence"] <= 5
    for dense in ("eyelids", "lips", "ears", "nose"):
        assert figures[f"edge_mm_{dense}"] < 0.6 * figures["edge_mm_scalp"]


def test_skin_and_mouth_are_one_surface_open_at_neck_and_behind_the_eyes(head: FaceModel):
    extra = head.regions["teeth"] | head.regions["gums"] | head.regions["tongue"]
    body = head.triangles[(head.triangle_material < 2) & ~extra[head.triangles].all(axis=1)]
    open_edges = boundary_edges(body)
    middle = head.mean[open_edges].mean(axis=1)
    at_neck = middle[:, 1] < -0.12
    at_eyes = (np.abs(middle[:, 1] - 0.03) < 0.02) & (np.abs(np.abs(middle[:, 0]) - 0.031) < 0.02)
    assert at_neck.any() and at_eyes.any() and (at_neck | at_eyes).all()


def test_one_sees_into_the_head_nowhere(head: FaceModel):
    rest = head.mean.astype(float)
    figures = check.see_through(head, rest)
    assert max(figures.values()) <= 5
    # A head whose nostrils are open at the back shows: the figure can tell.
    deep = head.regions["nose"] & (pictures.hidden_sky(rest, head.triangles) > 0.95)
    kept = ~deep[head.faces].all(axis=1)
    open_nose = head.replaced(
        faces=head.faces[kept], face_uv=head.face_uv[kept], face_material=head.face_material[kept]
    )
    assert check.see_through(open_nose, rest)["inside_out"] > 100


def test_nostrils_are_pockets_of_some_depth(head: FaceModel):
    hidden = pictures.hidden_sky(head.mean.astype(float), head.triangles)
    nose = head.regions["nose"] & (head.mean[:, 0] > 0)
    rim = head.landmarks["ibug68"].points(head.mean)[[34, 35], 1].mean()
    assert head.mean[nose & (hidden > 0.95), 1].max() - rim > 0.012
    assert hidden[head.landmarks["ibug68"].corners[30]].max() < 0.1


def test_mirror_is_exact(head: FaceModel):
    pairs = head.mirror
    assert np.array_equal(pairs[pairs], np.arange(head.vertex_count))
    assert np.abs(head.mean[pairs] * [-1, 1, 1] - head.mean).max() < 1e-7
    quads = {frozenset(quad) for quad in head.faces.tolist()}
    assert quads == {frozenset(pairs[quad].tolist()) for quad in head.faces}
    for mask in head.regions.values():
        assert np.array_equal(mask, mask[pairs])


def test_left_and_right_shapes_mirror_each_other(head: FaceModel):
    for left in (name for name in ARKIT_NAMES if name.endswith("Left") and name not in ("jawLeft", "mouthLeft")):
        a = head.expression[ARKIT_NAMES.index(left)]
        b = head.expression[ARKIT_NAMES.index(left.removesuffix("Left") + "Right")]
        assert np.abs(a[head.mirror] * [-1, 1, 1] - b).max() < 0.0015, left
        # The subject's left is +X, so that is where a Left shape moves most.
        moved = np.linalg.norm(a, axis=1)
        assert head.mean[moved.argmax(), 0] > 0, left


def test_52_shapes_all_move_something(head: FaceModel):
    assert list(head.expression_names) == list(ARKIT_NAMES) and len(ARKIT_NAMES) == 52
    assert (np.abs(head.expression).max(axis=(1, 2)) > 0.001).all()
    tongue = head.regions["tongue"]
    out = head.expression[ARKIT_NAMES.index("tongueOut")]
    assert out[tongue, 2].max() > 0.03 and not out[~tongue].any()
    down = head.expression[ARKIT_NAMES.index("jawOpen")]
    assert down[head.regions["teeth"], 1].min() < -0.01 and np.abs(down[head.regions["teeth"]]).min() < 1e-3


def test_eyeballs_turn_in_place(head: FaceModel):
    eyes = np.unique(head.faces[head.face_material == 2])
    left = eyes[head.mean[eyes, 0] > 0]
    front = left[head.mean[left, 2].argmax()]
    for name, axis, sign in (("eyeLookUpLeft", 1, 1), ("eyeLookOutLeft", 0, 1), ("eyeLookInLeft", 0, -1)):
        move = head.expression[ARKIT_NAMES.index(name)]
        assert sign * move[front, axis] > 0.004
        turned = head.mean[left] + move[left]
        before = np.linalg.norm(head.mean[left] - head.mean[left].mean(axis=0), axis=1)
        after = np.linalg.norm(turned - turned.mean(axis=0), axis=1)
        assert np.abs(before - after).max() < 1e-5


def test_texture_has_no_folds_no_overlap_little_stretch(head: FaceModel):
    figures = check.texture_figures(head)
    assert figures["flipped_triangles"] == 0
    assert figures["l2"] < 0.15 and figures["median"] < 0.15
    assert figures["face_share_of_texture"] > 0.35
    skin = head.uv[np.unique(head.face_uv[head.face_material == 0])]
    assert skin.min() > 0.009 and skin.max() < 0.991
    assert head.uv.min() >= 0 and head.uv.max() <= 1


def test_no_two_triangles_share_texture_anywhere(head: FaceModel):
    assert check_uv.overlap_figures(head) == {"pairs": 0, "texels": 0, "empty": 0}
    # The figures can tell: one corner of the gums pulled over its neighbours.
    gums = np.flatnonzero(head.regions["gums"][head.faces].all(axis=1))
    uv = head.uv.copy()
    uv[head.face_uv[gums[100], 0]] += 0.02
    figures = check_uv.overlap_figures(head.replaced(uv=uv))
    assert figures["pairs"] > 0 and figures["texels"] > 0 and figures["empty"] > 0


def test_the_seam_runs_down_the_back(head: FaceModel):
    skin = head.face_material == 0
    corners = np.column_stack([head.faces[skin].ravel(), head.face_uv[skin].ravel()])
    pairs = np.unique(corners, axis=0)
    doubled = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
    assert len(doubled) > 20
    assert np.abs(head.mean[doubled, 0]).max() < 1e-6 and head.mean[doubled, 2].max() < 0.02
    assert (head.mirror[doubled] == doubled).all()


def test_regions_lie_where_they_should(head: FaceModel):
    assert set(REGIONS) <= set(head.regions)
    middle = {name: head.mean[head.regions[name]].mean(axis=0) for name in REGIONS}
    assert head.mean[:, 1].argmax() in np.flatnonzero(head.regions["scalp"])
    order = ["forehead", "brows", "eyes", "nose", "mouth", "neck"]
    heights = [middle[name][1] for name in order]
    assert heights == sorted(heights, reverse=True)
    assert not (head.regions["nose"] & head.regions["mouth"]).any()
    assert not (head.regions["scalp"] & head.regions["face"]).any()
    assert (np.abs(head.mean[head.regions["ears"], 0]) > 0.06).all()


def test_landmarks_lie_on_their_surfaces(head: FaceModel):
    skin, eyes = (np.isin(np.arange(head.vertex_count), head.faces[head.face_material == slot]) for slot in (0, 2))
    dense = head.landmarks["mediapipe478"]
    assert skin[dense.corners[:468]].all() and eyes[dense.corners[468:]].all()
    for name, count in (("ibug68", 68), ("now7", 7), ("mediapipe478", 478)):
        embedding = head.landmarks[name]
        assert embedding.corners.shape == (count, 3)
        assert np.allclose(embedding.barycentric.sum(axis=1), 1.0, atol=1e-5)
    assert dense.spread_mm is not None and np.median(dense.spread_mm) < 3.0
    points = dense.points(head.mean)
    # Nose tip, chin and forehead of MediaPipe's list lie on the mid-line, from top to bottom 10, 1, 152.
    assert np.abs(points[[10, 1, 152], 0]).max() < 0.0005
    assert points[10, 1] > points[1, 1] > points[152, 1]
    # 33 and 133 are the corners of the subject's right eye, 263 and 362 of the left one.
    assert points[33, 0] < points[133, 0] < 0 < points[362, 0] < points[263, 0]
    now, all68 = head.landmarks["now7"].points(head.mean), head.landmarks["ibug68"].points(head.mean)
    assert np.allclose(now, all68[[36, 39, 42, 45, 33, 48, 54]])


def test_lip_points_part_when_the_jaw_opens(head: FaceModel):
    expression = np.zeros(52, np.float32)
    expression[ARKIT_NAMES.index("jawOpen")] = 0.6
    dense = head.landmarks["mediapipe478"]
    shut, wide = dense.points(head.mean), dense.points(head.vertices(None, expression))
    # 13 and 14: middle of the inner edge of the upper and the lower lip.
    assert shut[13, 1] > shut[14, 1] and shut[13, 1] - shut[14, 1] < 0.008
    assert (wide[13, 1] - wide[14, 1]) - (shut[13, 1] - shut[14, 1]) > 0.012


def test_rebuild_gives_the_committed_head(head: FaceModel, rebuilt):
    model, _ = rebuilt
    for name in ("faces", "face_uv", "face_material", "mirror"):
        assert np.array_equal(getattr(model, name), getattr(head, name)), name
    assert all(np.array_equal(model.regions[name], head.regions[name]) for name in head.regions)
    assert np.abs(model.uv - head.uv).max() < 1e-5
    assert np.abs(model.mean - head.mean).max() < 1e-6
    assert model.identity.shape == head.identity.shape
    assert np.abs(model.expression - head.expression).max() < 1e-5


def test_source_is_reproduced(head: FaceModel, source: Source, rebuilt):
    figures = check.reproduction(head, source, rebuilt[1]["rotation"], samples=12)
    assert figures["mean"] < 0.2 and figures["p99"] < 1.0


def test_lids_are_no_worse_than_the_source(head: FaceModel, source: Source, rebuilt):
    figures = check.lid_figures(head, source, rebuilt[1]["rotation"])
    assert figures["crossings"] <= figures["source_crossings"]
    assert figures["penetration"] < figures["source_penetration"] + 0.2
    assert figures["rest_penetration"] < figures["source_rest_penetration"] + 0.2


def test_edges_are_shared_by_two_quads(head: FaceModel):
    skin = skin_faces(head)
    loops = np.stack([skin, np.roll(skin, -1, axis=1)], axis=2).reshape(-1, 2)
    assert len(np.unique(loops, axis=0)) == len(loops)
    counts = len(loops) / len(edges(skin))
    assert 1.9 < counts <= 2.0


def test_a_folder_without_the_source_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="ict-facekit-light"):
        read_source(tmp_path)
    (tmp_path / "ict-facekit-light.npz").write_bytes(b"no zip")
    with pytest.raises(ModelError, match="cannot be read"):
        read_source(tmp_path)
