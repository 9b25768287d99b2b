"""The default head and ICT-FaceKit through all writers."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trimesh
from glb_reader import Glb

from backend.export.folder import FORMATS, OUR_FILES, write_head
from backend.export.gltf import SMALLEST_MOVE_M
from backend.export.parts import split_parts, unify_corners
from backend.export.record import read_record
from backend.face_model.adapters.ict_facekit import read_ict_facekit
from backend.face_model.registry import get_model
from backend.vision.photo import Photo

ICT = Path(__file__).parents[2].parent / "shared" / "models" / "ict-facekit"


@pytest.fixture(scope="module", params=["open-head", "ict-facekit"])
def head(request, reconstruct_with):
    if request.param == "open-head":
        return reconstruct_with(get_model("open-head"))
    if not ICT.exists():
        pytest.skip("../shared/models/ict-facekit is not there")
    return reconstruct_with(read_ict_facekit(ICT))


@pytest.fixture(scope="module")
def place(head, photo_pixels, tmp_path_factory):
    out = tmp_path_factory.mktemp("heads")
    write_head(head, Photo(photo_pixels), out, FORMATS, "head")
    return out / "head"


def test_every_file_is_there(place):
    assert set(os.listdir(place)) == OUR_FILES


def test_the_glb_holds_the_model(head, place):
    glb = Glb((place / "head.glb").read_bytes())
    mesh, model = glb.document["meshes"][0], head.model
    assert mesh["extras"]["targetNames"] == list(model.expression_names)
    used = np.zeros(model.vertex_count, bool)
    for part, primitive in zip(split_parts(model), mesh["primitives"]):
        corners = unify_corners(part.faces, part.face_uv, len(model.uv))
        used[corners.vertex] = True
        positions = glb.accessor(primitive["attributes"]["POSITION"])
        np.testing.assert_array_equal(positions, head.neutral_vertices[corners.vertex])
        normals = glb.accessor(primitive["attributes"]["NORMAL"])
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
        assert len(primitive["targets"]) == len(model.expression)
        for shape, target in zip(model.expression, primitive["targets"]):
            moved = glb.accessor(target["POSITION"])
            np.testing.assert_allclose(moved, shape[corners.vertex], atol=SMALLEST_MOVE_M)
    assert used[np.unique(model.faces[model.faces >= 0])].all()


def test_trimesh_reads_glb_and_obj(head, place):
    scene = trimesh.load(BytesIO((place / "head.glb").read_bytes()), file_type="glb", process=False)
    assert sum(len(mesh.faces) for mesh in scene.geometry.values()) == len(head.model.triangles)
    text = (place / "head.obj").read_text("ascii")
    assert text.count("\nv ") == head.model.vertex_count and text.count("\nf ") == len(head.model.faces)
    mesh = trimesh.load(place / "neutral.obj", force="mesh", process=False)
    np.testing.assert_allclose(mesh.bounds, used_bounds(head), atol=1e-6)


def used_bounds(head):
    used = head.neutral_vertices[np.unique(head.model.triangles)]
    return np.stack([used.min(axis=0), used.max(axis=0)])


def test_the_record_gives_the_head_back(head, place):
    record = read_record(place / "reconstruction.json")
    np.testing.assert_array_equal(record.vertices(head.model), head.vertices)
