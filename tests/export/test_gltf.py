"""The GLB read back by three readers that are not ours: a small one here, trimesh, the Khronos validator."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import trimesh
from glb_reader import Glb
from PIL import Image
from scipy.spatial.transform import Rotation

from backend.export.gltf import SMALLEST_MOVE_M, SMALLEST_TURN, head_glb
from backend.export.images import png_bytes
from backend.export.parts import split_parts, unify_corners
from backend.geometry.mesh import triangulate, vertex_normals

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""
EYES = np.full((32, 32, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def data(reconstruction):
    return head_glb(reconstruction, EYES)


@pytest.fixture(scope="module")
def glb(data):
    return Glb(data)


def primitives(glb, model):
    """(part, its corners, the primitive's JSON) in the file's order."""
    entries = glb.document["meshes"][0]["primitives"]
    parts = split_parts(model)
    assert len(entries) == len(parts)
    return [
        (part, unify_corners(part.faces, part.face_uv, len(model.uv)), entry) for part, entry in zip(parts, entries)
    ]


def test_every_triangle_is_the_models(glb, model, reconstruction):
    for part, _, primitive in primitives(glb, model):
        positions = glb.accessor(primitive["attributes"]["POSITION"])
        triangles = glb.accessor(primitive["indices"]).reshape(-1, 3)
        np.testing.assert_array_equal(positions[triangles], reconstruction.neutral_vertices[triangulate(part.faces)])
        uv = glb.accessor(primitive["attributes"]["TEXCOORD_0"])
        expected = model.uv[triangulate(part.face_uv)]
        np.testing.assert_allclose(uv[triangles], np.stack([expected[..., 0], 1 - expected[..., 1]], -1), atol=1e-6)


def test_normals_are_smooth_over_seams(glb, model, reconstruction):
    whole = vertex_normals(reconstruction.neutral_vertices, model.triangles)
    for _, corners, primitive in primitives(glb, model):
        normals = glb.accessor(primitive["attributes"]["NORMAL"])
        np.testing.assert_allclose(normals, whole[corners.vertex], atol=1e-6)


def test_morph_targets_are_the_expressions(glb, model, reconstruction):
    mesh = glb.document["meshes"][0]
    assert mesh["extras"]["targetNames"] == list(model.expression_names)
    np.testing.assert_array_equal(np.float32(mesh["weights"]), reconstruction.expression)
    neutral = reconstruction.neutral_vertices.astype(np.float64)
    base = vertex_normals(neutral, model.triangles)
    for _, corners, primitive in primitives(glb, model):
        assert len(primitive["targets"]) == 52
        for shape, target in zip(model.expression, primitive["targets"]):
            np.testing.assert_allclose(glb.accessor(target["POSITION"]), shape[corners.vertex], atol=SMALLEST_MOVE_M)
            turn = vertex_normals(neutral + shape, model.triangles) - base
            np.testing.assert_allclose(glb.accessor(target["NORMAL"]), turn[corners.vertex], atol=SMALLEST_TURN + 1e-5)


def test_base_and_weights_give_the_photographed_head(glb, model, reconstruction):
    weights = glb.document["meshes"][0]["weights"]
    for _, corners, primitive in primitives(glb, model):
        positions = glb.accessor(primitive["attributes"]["POSITION"]).astype(np.float64)
        for weight, target in zip(weights, primitive["targets"]):
            positions += weight * glb.accessor(target["POSITION"])
        np.testing.assert_allclose(positions, reconstruction.vertices[corners.vertex], atol=52 * SMALLEST_MOVE_M)


def test_the_camera_sees_what_the_photo_saw(glb, reconstruction):
    """Projects through glTF's own conventions and compares with pixels of the OpenCV camera."""
    (node,) = [node for node in glb.document["nodes"] if "camera" in node]
    lens = glb.document["cameras"][node["camera"]]["perspective"]
    to_world = Rotation.from_quat(node["rotation"]).as_matrix()
    seen = (reconstruction.vertices - np.array(node["translation"])) @ to_world
    assert (seen[:, 2] < 0).all(), "the head lies in front of the camera, along -Z"
    tangent = math.tan(lens["yfov"] / 2)
    ndc = seen[:, :2] / (-seen[:, 2:] * np.array([tangent * lens["aspectRatio"], tangent]))
    pixels = (ndc * [1, -1] + 1) / 2 * [reconstruction.camera.width, reconstruction.camera.height]
    np.testing.assert_allclose(pixels, reconstruction.camera.project(reconstruction.vertices), atol=1e-3)
    assert -seen[:, 2].min() > lens["znear"] and -seen[:, 2].min() < lens["zfar"]


def test_materials_textures_and_provenance(glb, model, reconstruction):
    document = glb.document
    names = [material["name"] for material in document["materials"]]
    assert names == ["skin", "teeth", "mouth", "eyes"]
    assert [entry["material"] for entry in document["meshes"][0]["primitives"]] == [0, 1, 2, 3]
    for name, expected, tolerance in (("skin", reconstruction.texture.color, 3), ("eyes", EYES, 3)):
        surface = document["materials"][names.index(name)]["pbrMetallicRoughness"]
        assert surface["metallicFactor"] == 0.0 and surface["baseColorFactor"] == [1.0] * 4
        image = document["images"][document["textures"][surface["baseColorTexture"]["index"]]["source"]]
        pixels = np.asarray(Image.open(BytesIO(glb.view(image["bufferView"]))))
        assert np.abs(pixels.astype(int) - expected).mean() < tolerance
    extras = document["scenes"][0]["extras"]
    assert extras["face_model"] == "test-head" and extras["licence"] == "CC0-1.0"
    assert extras["photo"] == "astronaut.jpg" and "photos/" not in json.dumps(extras)
    assert document["asset"]["copyright"] == "Invented for tests."


def test_a_normal_map_travels_without_loss(reconstruction):
    normals = np.random.default_rng(1).integers(0, 256, reconstruction.texture.color.shape, np.uint8)
    data = head_glb(reconstruction, EYES, normals=png_bytes(normals))
    glb = Glb(data)
    skin, *others = glb.document["materials"]
    image = glb.document["images"][glb.document["textures"][skin["normalTexture"]["index"]]["source"]]
    assert image["mimeType"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(glb.view(image["bufferView"])))), normals)
    assert not any("normalTexture" in material for material in others)
    scene = trimesh.load(
        BytesIO(head_glb(reconstruction, EYES, normals=png_bytes(normals))), file_type="glb", process=False
    )
    assert sum(geometry.visual.material.normalTexture is not None for geometry in scene.geometry.values()) == 1


def test_without_textures_there_is_no_picture(reconstruction):
    document = Glb(head_glb(replace(reconstruction, texture=None), None)).document
    assert not document.get("images") and not document.get("textures")
    assert document["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"][0] < 1.0


def test_data_is_aligned_and_inside_the_buffer(glb):
    for view in glb.document["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(glb.binary)


def test_trimesh_loads_the_same_surface(data, model, reconstruction):
    scene = trimesh.load(BytesIO(data), file_type="glb", process=False)
    loaded = trimesh.util.concatenate([geometry.copy() for geometry in scene.geometry.values()])
    expected = trimesh.Trimesh(reconstruction.neutral_vertices, model.triangles, process=False)
    assert len(loaded.faces) == len(expected.faces)

    def rows(mesh):
        return np.sort(np.round(mesh.triangles.reshape(len(mesh.faces), 9), 7), axis=0)

    np.testing.assert_allclose(rows(loaded), rows(expected), atol=1e-7)
    assert scene.has_camera


@pytest.fixture(scope="session")
def validator(tmp_path_factory):
    """The folder that holds the Khronos validator, from npm."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; the Khronos glTF validator needs it")
    folder = tmp_path_factory.mktemp("validator")
    command = [shutil.which("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(folder), VALIDATOR]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install {VALIDATOR}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "validate.js").write_text(VALIDATE, encoding="utf-8")
    return folder


@pytest.mark.parametrize("eyes, texture", [(True, True), (False, False)])
def test_the_khronos_validator_finds_nothing(validator, reconstruction, tmp_path, eyes, texture):
    head = reconstruction if texture else replace(reconstruction, texture=None)
    path = tmp_path / "head.glb"
    path.write_bytes(head_glb(head, EYES if eyes else None))
    report = validated(validator, path)
    assert report["numErrors"] == 0 and report["numWarnings"] == 0, report["messages"][:5]
    assert {message["code"] for message in report["messages"]} <= {"UNUSED_OBJECT"}, "texture coordinates without use"


def test_the_validator_would_notice(validator, data, tmp_path):
    path = tmp_path / "broken.glb"
    path.write_bytes(data.replace(b'"VEC2"', b'"VEC4"', 1))
    assert validated(validator, path)["numErrors"] > 0


def validated(folder, path):
    command = [shutil.which("node"), str(folder / "validate.js"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=folder)
    return json.loads(done.stdout)
