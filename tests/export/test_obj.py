"""OBJ text against the line-by-line writer, and read back by trimesh."""

from __future__ import annotations

from io import StringIO

import numpy as np
import trimesh

from backend.export.obj import ObjWriter, material_text, phong_exponent
from backend.export.parts import split_parts


def slow_obj(model, vertices, name):
    """One formatted line at a time."""
    lines = ["# mgcface, metres, +Y up, +Z out of the face", "mtllib head.mtl", f"o {name}"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in model.uv.tolist()]
    lines.append("s 1")
    for part in split_parts(model):
        lines += [f"g {part.name}", f"usemtl {part.name}"]
        for face, face_uv in zip(part.faces.tolist(), part.face_uv.tolist()):
            lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, face_uv) if v >= 0))
    return "\n".join(lines) + "\n"


def test_same_text_as_the_slow_twin(model, reconstruction):
    writer = ObjWriter(model)
    for vertices in (reconstruction.vertices, reconstruction.neutral_vertices):
        assert writer.text(vertices, "head") == slow_obj(model, vertices, "head")


def test_quads_stay_quads_and_the_triangle_a_triangle(model, reconstruction):
    corners = [len(line.split()) - 1 for line in ObjWriter(model).text(reconstruction.vertices, "x").splitlines()
               if line.startswith("f ")]  # fmt: skip
    assert len(corners) == len(model.faces)
    assert corners.count(3) == 1 and corners.count(4) == len(model.faces) - 1


def test_head_and_neutral_share_their_topology(model, reconstruction):
    writer = ObjWriter(model)
    head, neutral = (
        [line for line in writer.text(vertices, "same").splitlines() if not line.startswith("v ")]
        for vertices in (reconstruction.vertices, reconstruction.neutral_vertices)
    )
    assert head == neutral


def test_trimesh_reads_the_surface(model, reconstruction):
    text = ObjWriter(model).text(reconstruction.vertices, "head")
    mesh = trimesh.load(StringIO(text), file_type="obj", force="mesh", process=False, maintain_order=True)
    expected = trimesh.Trimesh(reconstruction.vertices, model.triangles, process=False)
    assert mesh.faces.shape == expected.faces.shape
    np.testing.assert_allclose(mesh.bounds, expected.bounds, atol=1e-6)
    np.testing.assert_allclose(mesh.area, expected.area, rtol=1e-4)


def test_materials_are_those_that_the_faces_use(model, reconstruction):
    text = ObjWriter(model).text(reconstruction.vertices, "head")
    used = {line.split()[1] for line in text.splitlines() if line.startswith("usemtl ")}
    material = material_text(model, skin_texture=True, eye_texture=True)
    assert used == {line.split()[1] for line in material.splitlines() if line.startswith("newmtl ")}
    assert "map_Kd texture.png" in material and "map_Kd eyes.png" in material
    assert material.count("norm normal.png") == 1 and "norm" in material.split("newmtl ")[1]
    plain = material_text(model, skin_texture=False, eye_texture=False)
    assert "map_Kd" not in plain and "norm " not in plain


def test_phong_exponent_turns_back_into_the_roughness():
    """Blender's OBJ reader: roughness = 1 - sqrt(clamp(Ns, 0, 1000) / 1000)."""
    for roughness in (0.0, 0.1, 0.55, 1.0):
        assert np.isclose(1.0 - np.sqrt(phong_exponent(roughness) / 1000.0), roughness)
