"""Parts and unified corners against the obvious loops."""

from __future__ import annotations

import numpy as np

from backend.export.parts import faces_within, split_parts, unify_corners
from backend.geometry.mesh import NO_CORNER, triangulate


def test_parts_hold_every_face_once(model):
    parts = split_parts(model)
    assert [part.name for part in parts] == ["skin", "teeth", "mouth", "eyes"]
    together = np.concatenate([part.faces for part in parts])
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, model.faces.tolist()))
    teeth = parts[1]
    assert model.regions["teeth"][teeth.faces].all()


def test_a_missing_fourth_corner_does_not_decide():
    region = np.array([True, True, True, False])
    faces = np.array([[0, 1, 2, NO_CORNER], [0, 1, 2, 3]])
    assert faces_within(faces, region).tolist() == [True, False]
    assert not faces_within(faces, None).any()


def test_corners_give_back_the_faces(model):
    for part in split_parts(model):
        corners = unify_corners(part.faces, part.face_uv, len(model.uv))
        np.testing.assert_array_equal(corners.vertex[corners.triangles], triangulate(part.faces))
        np.testing.assert_array_equal(corners.uv[corners.triangles], triangulate(part.face_uv))


def test_corners_split_at_the_seam_only(model):
    """The slow twin: a set of pairs."""
    skin = split_parts(model)[0]
    corners = unify_corners(skin.faces, skin.face_uv, len(model.uv))
    pairs = {
        (vertex, uv)
        for face, face_uv in zip(skin.faces.tolist(), skin.face_uv.tolist())
        for vertex, uv in zip(face, face_uv)
    }
    assert sorted(pairs) == list(zip(corners.vertex.tolist(), corners.uv.tolist()))
    seam = len(pairs) - len({vertex for vertex, _ in pairs})
    assert seam == 25, "the test head has one seam of 25 vertices"
