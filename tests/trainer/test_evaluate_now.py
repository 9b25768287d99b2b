"""The NoW protocol on surfaces whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from backend.geometry.alignment import Similarity
from backend.geometry.closest_point import SurfaceTree
from backend.geometry.rotation import matrix_from_rotation_vector
from trainer.evaluate import now_protocol as now

# A stand-in for a face: an ellipsoid cap with a nose and eye hollows, 14 cm wide, in metres.
SIDE = 45


def bumpy_face(depth: float = 0.02) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, triangles and the vertex numbers of seven landmarks."""
    x, y = np.meshgrid(np.linspace(-0.07, 0.07, SIDE), np.linspace(-0.09, 0.09, SIDE))
    z = 0.05 * np.sqrt(np.maximum(1.0 - (x / 0.1) ** 2 - (y / 0.13) ** 2, 0.0))
    z += depth * np.exp(-(x**2) / 0.0002 - (y + 0.01) ** 2 / 0.0008)
    for side in (-1, 1):
        z -= 0.4 * depth * np.exp(-((x - 0.033 * side) ** 2 + (y - 0.04) ** 2) / 0.0002)
    # Nobody is symmetric; without this a mirror image would be a perfect match.
    z += 0.004 * np.sin(60.0 * x + 0.5) * np.cos(35.0 * y)
    vertices = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
    corner = (np.arange(SIDE - 1)[:, None] * SIDE + np.arange(SIDE - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + SIDE + 1], axis=1)
    upper = np.stack([corner, corner + SIDE + 1, corner + SIDE], axis=1)
    triangles = np.concatenate([lower, upper])
    places = [(-0.045, 0.04), (-0.018, 0.04), (0.018, 0.04), (0.045, 0.04), (0, -0.02), (-0.025, -0.05), (0.025, -0.05)]
    chosen = [int(np.argmin(((vertices[:, :2] - place) ** 2).sum(axis=1))) for place in places]
    return vertices, triangles, np.array(chosen)


@pytest.fixture(scope="module")
def face():
    return bumpy_face()


def moved(face, similarity: Similarity | None = None) -> now.Prediction:
    vertices, triangles, chosen = face
    if similarity is not None:
        vertices = similarity.apply(vertices)
    return now.Prediction(vertices, triangles, vertices[chosen])


def scan_of(face) -> now.Scan:
    vertices, _, chosen = face
    return now.Scan(vertices, vertices[chosen])


SIMILARITY = Similarity(1.7, matrix_from_rotation_vector(np.array([0.4, -1.1, 2.0])), np.array([0.3, -0.2, 5.0]))


def test_crop_is_the_sphere_of_the_protocol(face):
    vertices, _, chosen = face
    marks = vertices[chosen]
    bridge = (marks[1] + marks[2]) / 2
    radius = 1.4 * (np.linalg.norm(marks[0] - marks[3]) + np.linalg.norm(bridge - marks[4])) / 2
    expected = [np.linalg.norm(v - (marks[4] + 0.3 * (bridge - marks[4]))) <= radius for v in vertices]
    kept = now.crop(vertices, marks)
    assert kept.tolist() == expected
    assert 0 < kept.sum() < len(vertices)


@pytest.mark.parametrize("metrical", [False, True])
def test_a_scan_scored_against_itself_is_zero(face, metrical):
    result = now.score(scan_of(face), moved(face), metrical)
    assert result.distances_mm.max() < 1e-3


def test_a_known_similarity_is_recovered(face):
    result = now.score(scan_of(face), moved(face, SIMILARITY))
    assert result.distances_mm.max() < 1e-3
    assert result.alignment.scale == pytest.approx(1 / 1.7, rel=1e-6)
    np.testing.assert_allclose(result.alignment.rotation, SIMILARITY.rotation.T, atol=1e-6)


def test_wrong_landmarks_are_forgiven_by_the_refinement(face):
    vertices, triangles, chosen = face
    marks = vertices[chosen] + np.random.default_rng(1).normal(0, 0.003, (7, 3))
    result = now.score(scan_of(face), now.Prediction(vertices, triangles, marks))
    assert result.distances_mm.max() < 1e-2


def test_the_refinement_beats_its_neighbours(face):
    """The minimum is a minimum: nudging the alignment in any direction makes the squares larger."""
    scan, other = scan_of(face), moved(bumpy_face(0.028))
    points = scan.vertices[now.crop(scan.vertices, scan.landmarks)]
    tree = SurfaceTree(other.vertices, other.triangles)
    best = now.score(scan, other).alignment

    def squares(alignment):
        return ((alignment.scale * tree.query(alignment.inverse().apply(points)).distances) ** 2).sum()

    centre = points.mean(axis=0)
    for axis in range(7):
        for sign in (-1, 1):
            step = np.zeros(7)
            step[axis] = sign * 1e-3
            assert squares(now._moved(best, step, centre)) > squares(best)


def test_a_mirror_image_is_refused(face):
    vertices, triangles, chosen = face
    mirrored = vertices * [-1, 1, 1]
    with pytest.raises(now.ProtocolError, match="mirror"):
        now.score(scan_of(face), now.Prediction(mirrored, triangles[:, ::-1], mirrored[chosen]))


def test_scale_moves_the_metrical_figure_only(face):
    larger = moved(face, Similarity(1.05, np.eye(3), np.zeros(3)))
    assert now.score(scan_of(face), larger).median_mm < 1e-3
    assert now.score(scan_of(face), larger, metrical=True).median_mm > 0.2
    assert now.score(scan_of(face), larger, metrical=True).alignment.scale == 1.0


def test_a_known_offset_is_measured_in_millimetres():
    """A plane 2 mm in front of a plane, landmarks agreeing: without the refinement the distance is 2 mm."""
    vertices, triangles, _ = bumpy_face(0.0)
    flat = vertices * [1, 1, 0]
    tree = SurfaceTree(flat, triangles)
    np.testing.assert_allclose(tree.query(flat + np.array([0, 0, 0.002])).distances, 0.002, atol=1e-12)


def test_pooled_figures_weigh_points_and_refuse_gaps():
    identity = Similarity(1.0, np.eye(3), np.zeros(3))
    first = now.FaceScore(np.array([1.0, 1.0, 1.0, 1.0, 5.0, 5.0]), identity)
    second = now.FaceScore(np.array([3.0, 3.0]), identity)
    pooled = now.pool([first, second])
    assert (pooled.faces, pooled.median_mm, pooled.mean_mm) == (2, 2.0, 2.5)
    assert pooled.std_mm == pytest.approx(np.std([1, 1, 1, 1, 5, 5, 3, 3]))
    assert pooled.mean_of_medians_mm == 2.0
    for missing in ([first, None], []):
        with pytest.raises(now.ProtocolError, match="not reconstructed"):
            now.pool(missing)
    with pytest.raises(now.ProtocolError, match="1 of 3"):
        now.pool([first, second], expected=3)


@pytest.mark.parametrize("broken", ["nan", "points", "landmarks"])
def test_what_cannot_be_scored_is_refused(face, broken):
    good = moved(face)
    vertices = good.vertices.copy()
    if broken == "nan":
        vertices[3, 1] = np.nan
    triangles = good.triangles[:0] if broken == "points" else good.triangles
    marks = good.landmarks[:5] if broken == "landmarks" else good.landmarks
    with pytest.raises(now.ProtocolError):
        now.score(scan_of(face), now.Prediction(vertices, triangles, marks))
