from __future__ import annotations

import numpy as np
import pytest

from backend.errors import ModelError
from backend.face_model.adapters.ict_facekit import read_ict_facekit
from backend.face_model.embedding import NOW7_FROM_IBUG68, embed_vertices, subset, with_now7
from backend.face_model.model import FaceModel
from backend.face_model.registry import DEFAULT_MODEL, get_model
from backend.face_model.transfer import (
    JAW_OPEN,
    HeadWarp,
    complete,
    head_anchors,
    moved_to,
    transfer_landmarks,
    transfer_regions,
)
from backend.geometry.alignment import Similarity
from backend.geometry.rotation import matrix_from_rotation_vector


def without(model: FaceModel, *names: str) -> FaceModel:
    return model.replaced(landmarks={name: own for name, own in model.landmarks.items() if name not in names})


def shuffled(model: FaceModel, seed: int = 5) -> tuple[FaceModel, np.ndarray]:
    """The same head with its vertices numbered anew, and the old number of each."""
    order = np.random.default_rng(seed).permutation(model.vertex_count)
    place = np.argsort(order)
    renumber = np.where(model.faces < 0, -1, place[model.faces]).astype(np.int32)
    landmarks = {
        name: type(own)(place[own.corners].astype(np.int32), own.barycentric) for name, own in model.landmarks.items()
    }
    return model.replaced(
        mean=model.mean[order],
        identity=model.identity[:, order],
        expression=model.expression[:, order],
        faces=renumber,
        regions={},
        mirror=None,
        landmarks=landmarks,
    ), order


def test_embed_vertices(head: FaceModel) -> None:
    vertices = np.array([0, 40, 700, 41])
    embedding = embed_vertices(vertices, head.triangles)
    np.testing.assert_array_equal(embedding.corners[:, 0], vertices)
    np.testing.assert_array_equal(embedding.points(head.mean), head.mean[vertices])
    rows = {tuple(sorted(row)) for row in head.triangles.tolist()}
    assert all(tuple(sorted(row)) in rows for row in embedding.corners.tolist())


def test_now7_is_made_once(head: FaceModel) -> None:
    points = head.landmark_points(head.mean, "ibug68")
    np.testing.assert_array_equal(head.landmark_points(head.mean, "now7"), points[list(NOW7_FROM_IBUG68)])
    assert with_now7(head.landmarks) is head.landmarks
    assert with_now7({}) == {}
    dense = subset(head.landmarks["mediapipe478"], (3, 1))
    assert dense.spread_mm is not None and len(dense.spread_mm) == 2


def test_same_head_other_numbers(head: FaceModel) -> None:
    target = without(shuffled(head)[0], "mediapipe478", "now7")
    carried = transfer_landmarks(head, target)
    assert carried.keys() == {"mediapipe478", "now7"}
    for name, embedding in carried.items():
        expected = head.landmark_points(head.mean, name)
        np.testing.assert_allclose(embedding.points(target.mean), expected, atol=1e-6)
    np.testing.assert_array_equal(carried["mediapipe478"].spread_mm, head.landmarks["mediapipe478"].spread_mm)


def test_regions_of_the_same_head(head: FaceModel) -> None:
    target, order = shuffled(head)
    carried = transfer_regions(head, target)
    for name, mask in head.regions.items():
        np.testing.assert_array_equal(carried[name], mask[order])


def test_another_size_and_place(head: FaceModel) -> None:
    """Turned, scaled and shifted: the shared landmarks bring the heads together."""
    rotation = matrix_from_rotation_vector(np.array([0.1, -0.2, 0.05]))
    away = Similarity(1.12, rotation, np.array([0.05, -0.1, 0.02]))
    target = without(shuffled(head)[0], "mediapipe478", "now7")
    moved = target.replaced(
        mean=away.apply(target.mean).astype(np.float32),
        expression=(1.12 * target.expression @ rotation.T).astype(np.float32),
    )
    points = transfer_landmarks(head, moved)["mediapipe478"].points(moved.mean)
    expected = away.apply(head.landmark_points(head.mean, "mediapipe478"))
    np.testing.assert_allclose(points, expected, atol=2e-5)


def test_another_shape(head: FaceModel) -> None:
    """A head with another identity: the warp takes the points along better than the similarity alone."""
    someone = head.vertices(np.array([1.0, -1.0, 1.0]))
    target = without(shuffled(head.replaced(mean=someone))[0], "mediapipe478")
    truth = head.landmark_points(someone, "mediapipe478")
    carried = transfer_landmarks(head, target)["mediapipe478"].points(target.mean)
    warp = HeadWarp(head, target)
    plain = warp.similarity.apply(head.landmark_points(warp.source_vertices, "mediapipe478"))
    opened = head.landmark_points(someone + JAW_OPEN * head.expression[3], "mediapipe478")
    error, without_warp = np.linalg.norm(carried - truth, axis=1), np.linalg.norm(plain - opened, axis=1)
    assert np.median(error) < 0.6 * np.median(without_warp) and np.median(error) < 0.002


def test_no_landmarks_at_all(head: FaceModel) -> None:
    """Eyes and nose are enough to find the rest on a head of nearly the same shape."""
    target = shuffled(head)[0].replaced(landmarks={})
    moved = target.replaced(mean=target.mean + np.float32(0.03))
    carried = transfer_landmarks(head, moved)
    assert carried.keys() == head.landmarks.keys()
    expected = head.landmark_points(head.mean, "ibug68") + 0.03
    np.testing.assert_allclose(carried["ibug68"].points(moved.mean), expected, atol=5e-4)


def test_impossible_transfer_says_what_is_missing(head: FaceModel) -> None:
    target = head.replaced(landmarks={}, materials=("skin", "mouth", "teeth"))
    with pytest.raises(ModelError, match=r"no landmarks.*left_eye, right_eye.*iBUG 68"):
        transfer_landmarks(head, target)


def test_anchors(head: FaceModel) -> None:
    anchors = head_anchors(head)
    np.testing.assert_allclose(anchors["left_eye"], [0.03, 0.035, 0.07], atol=1e-6)
    np.testing.assert_allclose(anchors["right_eye"], [-0.03, 0.035, 0.07], atol=1e-6)
    assert anchors["nose_tip"][2] > 0.11


def test_open_jaw_tells_the_lips_apart(head: FaceModel) -> None:
    """Two sheets that touch at rest: only the open jaw says to which one a point belongs."""
    mean, expression = head.mean.copy(), head.expression.copy()
    upper, lower = 300, 301
    triangles = head.triangles
    free = [np.flatnonzero((triangles == vertex).any(axis=1))[0] for vertex in (upper, lower)]
    mean[triangles[free[1]]] = mean[triangles[free[0]]]
    expression[3, triangles[free[1]]] = [0, -0.03, 0]
    expression[3, triangles[free[0]]] = 0
    touching = head.replaced(mean=mean, expression=expression)
    points = touching.landmarks["mediapipe478"]
    corners = points.corners.copy()
    corners[0] = triangles[free[1]]
    source = touching.replaced(landmarks={**head.landmarks, "mediapipe478": type(points)(corners, points.barycentric)})
    carried = transfer_landmarks(source, without(source, "mediapipe478"))["mediapipe478"]
    opened = source.vertices(expression=np.array([0, 0, 0, 1.0]))
    np.testing.assert_allclose(carried.points(opened)[0], source.landmark_points(opened, "mediapipe478")[0], atol=1e-5)


def test_moved_to(head: FaceModel) -> None:
    away = head.replaced(mean=head.mean + np.float32([0.1, 0.2, -0.3]))
    np.testing.assert_allclose(moved_to(away, head).mean, head.mean, atol=1e-6)
    np.testing.assert_allclose(moved_to(away.replaced(landmarks={}), head).mean, head.mean, atol=1e-6)


def test_moved_to_says_how_far(head: FaceModel) -> None:
    away = head.replaced(mean=head.mean + np.float32([0.1, 0.2, -0.3]))
    once = moved_to(away, head)
    np.testing.assert_allclose(once.info.extra["moved_m"], [-0.1, -0.2, 0.3], atol=1e-6)
    twice = moved_to(once, away)
    np.testing.assert_allclose(twice.info.extra["moved_m"], [0.0, 0.0, 0.0], atol=1e-6)
    assert "moved_m" not in away.info.extra


def test_complete_keeps_own_parts(head: FaceModel) -> None:
    own = np.zeros(head.vertex_count, bool)
    own[:50] = True
    reference = head.replaced(regions={**head.regions, "teeth": ~own, "tongue": np.arange(len(own)) < 10})
    model = head.replaced(regions={"teeth": own, "gums": own, "nose": own}, landmarks={})
    done = complete(model, reference)
    np.testing.assert_array_equal(done.regions["teeth"], own)
    np.testing.assert_array_equal(done.regions["gums"], own & ~done.regions["tongue"])
    np.testing.assert_array_equal(done.regions["nose"], head.regions["nose"])
    assert tuple(done.landmarks) == ("ibug68", "mediapipe478", "now7")


def test_open_head_onto_ict_facekit(ict_source) -> None:
    """The default head was made from ICT's surface, so its points lie on ICT's mesh to a fraction of a millimetre."""
    reference = get_model(DEFAULT_MODEL)
    model = complete(read_ict_facekit(ict_source), reference)
    for name in ("ibug68", "mediapipe478"):
        distance = np.linalg.norm(
            model.landmark_points(model.mean, name) - reference.landmark_points(reference.mean, name), axis=1
        )
        assert np.median(distance) < 1e-4 and distance.max() < 1e-3
    assert {"nose", "brows", "forehead", "cheeks", "ears", "neck", "scalp"} <= model.regions.keys()
    # Open the jaw: the points of the lower lip follow it, those of the upper lip stay.
    jaw = model.expression_names.index("jawOpen")
    moved = model.landmarks["mediapipe478"].points(model.expression[jaw])[:, 1]
    assert moved[13] > -0.004 and moved[14] < -0.012
