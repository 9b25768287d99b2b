"""The readers of statistical models, on small files of the right and of wrong forms."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from small_head import build_head, head_mesh

from backend.errors import DependencyError, ModelError
from backend.face_model.adapters.bfm09 import read_bfm09
from backend.face_model.adapters.flame import IDENTITY_COUNT, JAW_STEP, read_flame
from backend.face_model.adapters.gnm_head import read_gnm_head
from backend.face_model.model import FaceModel
from backend.geometry.mesh import triangulate, vertex_normals


def quads_only(faces: np.ndarray) -> np.ndarray:
    """GNM has quads alone: the pole triangles of the small head repeat their last corner."""
    return np.where(faces < 0, faces[:, [2, 2, 2, 2]], faces)


def gnm_arrays() -> dict[str, np.ndarray]:
    """A small ``gnm_head.npz``: the test head, with a shell around each eyeball that must not be drawn."""
    rng = np.random.default_rng(0)
    mean, faces, material = head_mesh()
    quads = quads_only(faces)
    eye_vertices = np.unique(quads[material == 2])
    shell = np.searchsorted(eye_vertices, quads[material == 2]) + len(mean)
    mean = np.concatenate([mean, mean[eye_vertices] * 1.01])
    quads = np.concatenate([quads, shell])
    groups = {name: np.zeros(len(mean)) for name in ("skin", "mouth_sock", "eyes", "eye_exteriors", "irises", "ears")}
    groups["skin"][np.unique(quads[: (material == 0).sum()])] = 1
    groups["mouth_sock"][np.unique(faces[material == 1])] = 1
    groups["eyes"][np.unique(np.concatenate([eye_vertices, shell.ravel()]))] = 1
    groups["eye_exteriors"][np.unique(shell)] = 1
    groups["irises"][eye_vertices[mean[eye_vertices, 2] > 0.08]] = 1
    groups["ears"][np.abs(mean[:, 0]) > 0.07] = 0.9
    corner_uv = rng.uniform(0.05, 0.95, (len(quads), 4, 2)).astype(np.float32)
    return {
        "version": np.array("3.0"),
        "variant": np.array("head"),
        "template_vertex_positions": mean.astype(np.float32),
        "vertex_identity_basis": rng.normal(0, 0.002, (4, len(mean), 3)).astype(np.float32),
        "expression_basis": rng.normal(0, 0.002, (3, len(mean), 3)).astype(np.float32),
        "expression_names": np.array(["left_eye_region_000", "lower_face_region_000", "tongue_mean"]),
        "quads": quads.astype(np.int32),
        "quad_uvs": corner_uv,
        "vertex_group_names": np.array(list(groups)),
        "vertex_groups": np.stack(list(groups.values())).astype(np.float32),
    }


def write_npz(path: Path, arrays: dict[str, np.ndarray], **changes: np.ndarray | None) -> Path:
    content = {name: array for name, array in {**arrays, **changes}.items() if array is not None}
    np.savez(path, **content)
    return path


def nose_points_out(model: FaceModel) -> bool:
    return vertex_normals(model.mean, model.triangles)[np.argmax(model.mean[:, 2]), 2] > 0


def test_gnm_head(tmp_path: Path) -> None:
    arrays = gnm_arrays()
    model = read_gnm_head(write_npz(tmp_path / "gnm_head.npz", arrays))
    kept = head_mesh()[0]
    np.testing.assert_allclose(model.mean, kept, atol=1e-7)
    np.testing.assert_array_equal(model.identity, arrays["vertex_identity_basis"][:, : len(kept)])
    np.testing.assert_array_equal(model.expression, arrays["expression_basis"][:, : len(kept)])
    assert model.expression_names == ("left_eye_region_000", "lower_face_region_000", "tongue_mean")
    assert model.expression_limits == "sigma" and model.info.commercial and model.info.licence == "Apache-2.0"
    assert np.bincount(model.face_material).tolist() == np.bincount(head_mesh()[2]).tolist()
    assert model.regions["ears"].any() and not model.landmarks
    # z > 0.08 on an eyeball of 13 mm around z = 0.07: the rim is below acos(10 / 13).
    assert 0 < model.info.extra["iris_radius_uv"] <= 0.5 * np.sin(np.arccos(10 / 13) / 2) + 1e-4
    assert nose_points_out(model)


def test_gnm_keeps_its_texture_coordinates(tmp_path: Path) -> None:
    arrays = gnm_arrays()
    model = read_gnm_head(write_npz(tmp_path / "gnm_head.npz", arrays))
    skin = model.face_material == 0
    np.testing.assert_allclose(model.uv[model.face_uv[skin]], arrays["quad_uvs"][: len(skin)][skin], atol=1e-7)


def test_gnm_landmark_file(tmp_path: Path) -> None:
    corners = np.random.default_rng(1).integers(0, 700, (68, 3))
    table = np.stack([corners, np.full((68, 3), 1 / 3)], axis=2).reshape(68, 6)
    write_npz(tmp_path / "gnm_head.npz", gnm_arrays())
    np.savetxt(tmp_path / "head_sparse_68.txt", table)
    model = read_gnm_head(tmp_path)
    points = model.landmark_points(model.mean, "ibug68")
    np.testing.assert_allclose(points, head_mesh()[0][corners].mean(axis=1), atol=1e-6)
    assert model.landmarks["now7"].corners.shape == (7, 3)
    np.savetxt(tmp_path / "head_sparse_68.txt", table[:60])
    with pytest.raises(ModelError, match="not GNM's list of 68 landmarks"):
        read_gnm_head(tmp_path)
    table[0, 0] = 10**6
    np.savetxt(tmp_path / "head_sparse_68.txt", table)
    with pytest.raises(ModelError, match="points outside"):
        read_gnm_head(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("quads", None, 'no array "quads"'),
        ("quads", np.zeros((4, 3), int), "is 4 x 3 where any x 4"),
        ("quads", np.full((1118, 4), 10**6), "points outside"),
        ("expression_basis", np.zeros((3, 5, 3)), "is 3 x 5 x 3"),
        ("vertex_groups", np.zeros((2, 2)), "is 2 x 2"),
        ("vertex_group_names", np.array([{"a": 1}] * 6, dtype=object), "holds Python objects"),
    ],
)
def test_gnm_of_the_wrong_form(tmp_path: Path, name: str, value: np.ndarray | None, fragment: str) -> None:
    arrays = gnm_arrays()
    if name == "quads" and value is not None and value.shape[1] == 4:
        value = np.full(arrays["quads"].shape, 10**6)
    with pytest.raises(ModelError, match=fragment):
        read_gnm_head(write_npz(tmp_path / "gnm_head.npz", arrays, **{name: value}))


def test_gnm_with_nan(tmp_path: Path) -> None:
    arrays = gnm_arrays()
    arrays["vertex_identity_basis"][2, 40, 1] = np.nan
    with pytest.raises(ModelError, match='"identity" holds NaN'):
        read_gnm_head(write_npz(tmp_path / "gnm_head.npz", arrays))


def flame_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    mean, faces, material = head_mesh()
    # FLAME has no mouth interior; its skin and eyeballs are triangles.
    triangles = triangulate(faces[material != 1])
    used, triangles = np.unique(triangles, return_inverse=True)
    mean, triangles = mean[used], triangles.reshape(-1, 3)
    weights = np.zeros((len(mean), 5))
    jaw = (mean[:, 1] < -0.045) & (mean[:, 2] > 0)
    weights[:, 2], weights[:, 1] = jaw, ~jaw
    regressor = np.full((5, len(mean)), 1 / len(mean))
    return {
        "v_template": mean,
        "shapedirs": rng.normal(0, 0.001, (len(mean), 3, IDENTITY_COUNT + 4)),
        "f": triangles.astype(np.uint32),
        "weights": weights,
        "J_regressor": regressor,
    }


def test_flame(tmp_path: Path) -> None:
    arrays = flame_arrays()
    model = read_flame(write_npz(tmp_path / "flame.npz", arrays))
    np.testing.assert_allclose(model.mean, arrays["v_template"], atol=1e-7)
    assert len(model.identity) == 300 and len(model.expression) == 4 + 1
    np.testing.assert_allclose(model.identity[299], arrays["shapedirs"][:, :, 299], atol=1e-8)
    np.testing.assert_allclose(model.expression[0], arrays["shapedirs"][:, :, 300], atol=1e-8)
    assert model.expression_names[-1] == "jawRotation" and model.expression_limits == "sigma"
    assert not model.info.commercial
    assert model.materials == ("skin", "eyes")
    assert model.regions["eyes"].sum() == len(np.unique(model.triangles[model.triangle_material == 1]))
    assert any("cylindrical" in note for note in model.info.extra["notes"])
    assert nose_points_out(model)


def test_flame_jaw_is_a_small_rotation(tmp_path: Path) -> None:
    arrays = flame_arrays()
    model = read_flame(write_npz(tmp_path / "flame.npz", arrays))
    joint = arrays["v_template"].mean(axis=0)
    for vertex in range(0, len(model.mean), 29):
        x, y, z = arrays["v_template"][vertex] - joint
        turned = np.array([x, np.cos(JAW_STEP) * y - np.sin(JAW_STEP) * z, np.sin(JAW_STEP) * y + np.cos(JAW_STEP) * z])
        expected = arrays["weights"][vertex, 2] * (turned - [x, y, z])
        np.testing.assert_allclose(model.expression[-1, vertex], expected, atol=1e-7)
    # It opens: the chin goes down.
    assert model.expression[-1, :, 1].min() < -0.003


def test_flame_open_licence_texture_and_landmarks(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays = flame_arrays()
    count = len(arrays["f"])
    faces, weights = rng.integers(0, count, 68), rng.dirichlet([1, 1, 1], 68)
    uv, corners = rng.uniform(size=(50, 2)), rng.integers(0, 50, (count, 3))
    path = write_npz(tmp_path / "f.npz", arrays, lmk_faces=faces, lmk_barycentric=weights, vt=uv, ft=corners)
    model = read_flame(path, open_licence=True)
    assert model.info.name == "flame-open" and model.info.commercial and model.info.licence == "CC-BY-4.0"
    triangles = arrays["f"].astype(int)[faces]
    expected = np.einsum("lkc,lk->lc", arrays["v_template"][triangles], weights)
    np.testing.assert_allclose(model.landmark_points(model.mean, "ibug68"), expected, atol=1e-6)
    skin = model.face_material == 0
    np.testing.assert_allclose(model.uv[model.face_uv[skin][:, :3]], uv[corners][skin], atol=1e-6)
    assert "notes" in model.info.extra and not any("cylindrical" in note for note in model.info.extra["notes"])


def test_flame_without_joints_has_no_jaw(tmp_path: Path) -> None:
    model = read_flame(write_npz(tmp_path / "flame.npz", flame_arrays(), J_regressor=None))
    assert "jawRotation" not in model.expression_names and len(model.expression) == 4


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"shapedirs": None}, 'no array "shapedirs"'),
        ({"shapedirs": np.zeros((872, 3, 100))}, "100 directions"),
        ({"f": np.full((5, 3), 10**6)}, "points outside"),
        ({"lmk_faces": np.zeros(51, int)}, "is 51 where 68"),
        ({"lmk_faces": np.full(68, 10**6), "lmk_barycentric": np.ones((68, 3)) / 3}, "points outside its triangles"),
        ({"vt": np.zeros((4, 2)), "ft": np.zeros((5, 3), int)}, "is 5 x 3"),
    ],
)
def test_flame_of_the_wrong_form(tmp_path: Path, changes: dict, fragment: str) -> None:
    arrays = flame_arrays()
    if changes.get("shapedirs") is not None:
        changes = {"shapedirs": np.zeros((len(arrays["v_template"]), 3, 100))}
    with pytest.raises(ModelError, match=fragment):
        read_flame(write_npz(tmp_path / "flame.npz", arrays, **changes))


@pytest.mark.parametrize("name", ["generic_model.pkl", "renamed.npz"])
def test_a_pickle_is_refused_without_being_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    # Protocol 2, then a call of os.system: opening it with pickle would create the file.
    witness = tmp_path / "witness"
    path.write_bytes(b"\x80\x02cposix\nsystem\nX" + len(f"touch {witness}").to_bytes(4, "little"))
    with open(path, "ab") as file:
        file.write(f"touch {witness}".encode() + b"\x85R.")
    with pytest.raises(ModelError, match=r"pickle.*docs/face-models\.md"):
        read_flame(path)
    assert not witness.exists()


def test_text_as_npz(tmp_path: Path) -> None:
    (tmp_path / "flame.npz").write_text("hello")
    with pytest.raises(ModelError, match=r"not an \.npz file"):
        read_flame(tmp_path / "flame.npz")


BFM_VERTICES = 738


def write_bfm(path: Path, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    mean, faces, material = head_mesh()
    triangles = triangulate(faces[material == 0])
    mean = mean[:BFM_VERTICES]
    content: dict[str, np.ndarray] = {
        "shape/model/mean": (mean * 1e6).ravel(),
        "shape/model/pcaBasis": rng.normal(0, 1, (3 * len(mean), 90)) * 10,
        "shape/model/pcaVariance": -rng.uniform(50, 100, 90),
        "shape/representer/tri": triangles.ravel() + 1,
        "shape/representer/idx_lm68": rng.integers(0, len(mean), 68),
        "color/model/mean": rng.uniform(20, 230, 3 * len(mean)),
        "color/model/pcaBasis": rng.normal(0, 0.01, (3 * len(mean), 90)),
        "color/model/pcaVariance": rng.uniform(50, 100, 90),
        "color/model/uv": rng.uniform(size=(len(mean), 2)),
        "expression/model/pcaBasis": rng.normal(0, 1, (3 * len(mean), 70)) * 10,
        "expression/model/pcaVariance": rng.uniform(50, 100, 70),
    }
    content |= {name.replace("__", "/"): value for name, value in changes.items()}
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value
    return content


def test_bfm09(tmp_path: Path) -> None:
    path = tmp_path / "bfm.h5"
    content = write_bfm(path)
    model = read_bfm09(path)
    assert (len(model.identity), len(model.expression)) == (80, 64)
    np.testing.assert_allclose(model.mean, head_mesh()[0][:BFM_VERTICES], atol=1e-7)
    sigma = abs(content["shape/model/pcaVariance"][5])
    for vertex in (0, 300, 737):
        expected = content["shape/model/pcaBasis"][3 * vertex : 3 * vertex + 3, 5] * sigma * 1e-6
        np.testing.assert_allclose(model.identity[5, vertex], expected, rtol=1e-5)
    np.testing.assert_allclose(
        model.landmark_points(model.mean, "ibug68"), model.mean[content["shape/representer/idx_lm68"]], atol=1e-7
    )
    np.testing.assert_allclose(model.uv[model.face_uv[:, :3]], content["color/model/uv"][model.faces[:, :3]], atol=1e-6)
    assert not model.info.commercial and model.expression_limits == "sigma" and nose_points_out(model)


def test_bfm09_albedo_is_linear(tmp_path: Path) -> None:
    """The basis is the derivative: a small step in sRGB is a small step in linear light."""
    content = write_bfm(tmp_path / "bfm.h5")
    model = read_bfm09(tmp_path / "bfm.h5")
    assert model.albedo_mean is not None and model.albedo_basis is not None

    def linear(value: np.ndarray) -> np.ndarray:
        return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)

    mean = content["color/model/mean"].reshape(-1, 3) / 255
    np.testing.assert_allclose(model.albedo_mean, linear(mean), atol=1e-6)
    step = content["color/model/pcaBasis"][:, 3].reshape(-1, 3) * abs(content["color/model/pcaVariance"][3]) / 255
    difference = (linear(mean + 1e-3 * step) - linear(mean - 1e-3 * step)) / 2e-3
    np.testing.assert_allclose(model.albedo_basis[3], difference, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"shape__model__mean": None}, 'no data set "shape/model/mean"'),
        ({"expression__model__pcaBasis": np.zeros((30, 70))}, "does not fit"),
        ({"shape__representer__tri": np.zeros(30, int)}, "not numbered from 1"),
        ({"shape__representer__idx_lm68": np.zeros(51, int)}, "does not list 68"),
        ({"color__model__uv": np.zeros((3, 2))}, "has 3 rows"),
        ({"shape__model__pcaVariance": np.full(90, np.nan)}, "holds NaN"),
    ],
)
def test_bfm09_of_the_wrong_form(tmp_path: Path, changes: dict, fragment: str) -> None:
    write_bfm(tmp_path / "bfm.h5", **changes)
    with pytest.raises(ModelError, match=fragment):
        read_bfm09(tmp_path / "bfm.h5")


def test_bfm09_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "bfm.h5").write_bytes(b"not hdf5 at all")
    with pytest.raises(ModelError, match="cannot be read as an HDF5 file"):
        read_bfm09(tmp_path / "bfm.h5")


def test_bfm09_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DependencyError, match=r"mgcface\[bfm\]"):
        read_bfm09(tmp_path / "bfm.h5")


def test_the_small_head_is_complete() -> None:
    assert set(build_head().landmarks) == {"ibug68", "mediapipe478", "now7"}
