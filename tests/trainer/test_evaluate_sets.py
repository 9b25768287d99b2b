"""The known faces: their landmarks, their paint, their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainer.evaluate import truth_render, truth_sets
from trainer.evaluate.face_paint import SKIN_TONES, Canvas, Contours, paint_face
from trainer.evaluate.truth_sets import SetError, frontal, read_obj, truth_items

SHARED = Path(__file__).parents[2].parent / "shared"
needs_scans = pytest.mark.skipif(not (SHARED / "scans").is_dir(), reason="the measuring scans are not on this machine")


def test_obj_reader_takes_every_corner_form(tmp_path):
    text = "# x\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0.25 0.75\nvt 1 0\nf 1/1 2/2/1 3/1\nf 3//4 2 1\n"
    (tmp_path / "a.obj").write_text(text)
    vertices, triangles, uv, uv_triangles = read_obj(tmp_path / "a.obj")
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert triangles.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert uv_triangles.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert uv.tolist() == [[0.25, 0.75], [1, 0]]


def test_frontal_frame_is_proper_and_upright():
    marks = np.array(
        [[-45, 30, 0], [-17, 30, 3], [17, 30, 3], [45, 30, 0], [0, -5, 25], [-25, -35, 10], [25, -35, 10.0]]
    )
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    for landmarks in (marks, marks @ turn.T + 7.0):
        rotation, origin = frontal(landmarks)
        posed = (landmarks - origin) @ rotation.T
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert posed[3, 0] > 0 > posed[0, 0] and posed[0, 1] > posed[5, 1]
        assert posed[4, 2] > posed[0, 2]


def test_camera_sees_the_centre_in_the_middle():
    centre = np.array([0.01, -0.02, 0.05])
    for yaw in (0.0, 30.0):
        camera = truth_render.truth_camera(centre, yaw)
        np.testing.assert_allclose(camera.project(centre), [500, 500], atol=1e-9)
        assert camera.to_camera(centre)[2] == pytest.approx(truth_render.DISTANCE)


def test_a_photograph_shows_the_texture_where_the_camera_projects_it():
    """A half red, half blue square: red must land left of the middle, and light must not change the hue order."""
    vertices = np.array([[-0.05, -0.05, 0], [0.05, -0.05, 0], [0.05, 0.05, 0], [-0.05, 0.05, 0]])
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    texture = np.zeros((10, 10, 3))
    texture[:, :5, 0] = texture[:, 5:, 2] = 0.8
    texel = np.array([[0.0, 10], [10, 10], [10, 0], [0, 0]])
    surface = truth_render.Surface(vertices, triangles, texel[triangles], texture)
    camera = truth_render.truth_camera(np.zeros(3), 0.0)
    picture = truth_render.photograph(surface, camera, np.random.default_rng(0)).astype(int)
    left, top = camera.project(vertices[3])
    row = picture[500]
    inside = row[int(left) + 3 : 490]
    assert (inside[:, 0] > inside[:, 2] + 50).all()
    assert (row[510 : int(1000 - left) - 3, 2] > row[510 : int(1000 - left) - 3, 0] + 50).all()
    assert abs(picture[int(top) - 5, 500] - picture[5, 500]).max() < 3


def test_paint_puts_lips_and_pupils_where_the_contours_say():
    lid = np.linspace([-45, 40], [-18, 38], 7)
    arch = np.sin(np.linspace(0, np.pi, 7))[:, None] * [0, 1]
    lips = np.linspace([-25, -30], [0, -30], 6)
    bow = np.linspace(0, 1, 6)[:, None] * [0, 6]
    box = np.array([[-10, 0], [-5, 0], [-5, 4], [-10, 4]], float)
    contours = Contours(
        lid + 5 * arch, lid - 2 * arch, np.linspace([-55, 55], [-12, 60], 8), lips + bow, lips, lips - bow, box
    )
    canvas = Canvas(np.array([-70.0, -80.0]), np.array([70.0, 90.0]))
    for tone in (0, len(SKIN_TONES) - 1):
        picture = paint_face(canvas, contours, tone, np.random.default_rng(1))

        def at(x, y, picture=picture):
            column, row = canvas.texels(np.array([x, y])).astype(int)
            return picture[row, column]

        for side in (-1, 1):
            assert at(side * 31.5, 40.3).max() < 0.15, "the pupil is dark"
            assert at(side * 40.5, 40.8).min() > at(side * 31.5, 40.3).max() + 0.3, "the white is bright"
            redness = at(side * 3, -33)[0] / at(side * 3, -33)[1]
            skin = at(side * 40, -20)
            assert redness > 1.15 * skin[0] / skin[1], "lips are redder than skin"
            assert at(side * 7, 2).mean() < 0.6 * skin.mean(), "nostrils are dark"


def test_unknown_sets_and_missing_folders_are_one_sentence(tmp_path):
    with pytest.raises(SetError, match="choose from"):
        truth_items("nobody", tmp_path)
    with pytest.raises(SetError, match="--data"):
        truth_items("meshmonk", tmp_path)


@needs_scans
def test_meshmonk_landmarks_lie_on_the_features():
    faces, triangles = truth_sets.meshmonk_faces(SHARED / "scans/meshmonk/simulated_faces")
    assert faces.shape == (45, 7160, 3) and triangles.max() == 7159
    mean = faces.mean(axis=0)
    marks = 1000 * mean[truth_sets.MESHMONK_LANDMARKS]
    # Landmarks mirror each other to within the asymmetry of a mean of 45 people.
    for right, left in ((0, 3), (1, 2), (5, 6)):
        np.testing.assert_allclose(marks[right] * [-1, 1, 1], marks[left], atol=2.0)
    assert 80 < marks[3, 0] - marks[0, 0] < 98, "outer eye corners as far apart as adults' are"
    assert 28 < marks[2, 0] - marks[1, 0] < 40
    assert 42 < marks[6, 0] - marks[5, 0] < 60
    # No contour number is mistyped: neighbours along a contour are near each other.
    for name, indices in truth_sets.MESHMONK_CONTOURS.items():
        steps = np.linalg.norm(np.diff(1000 * mean[indices], axis=0), axis=1)
        assert steps.max() < 12, name


@needs_scans
def test_james_has_a_plausible_size_and_landmarks_on_the_surface():
    surface, landmarks = truth_sets.james_surface(SHARED / "scans/james")
    assert np.linalg.norm(landmarks[36] - landmarks[45]) == pytest.approx(truth_sets.OUTER_EYE_DISTANCE)
    assert landmarks[36, 0] < 0 < landmarks[45, 0] and landmarks[8, 1] < landmarks[30, 1] < landmarks[27, 1]
    from backend.geometry.closest_point import SurfaceTree

    inner = SurfaceTree(surface.vertices, surface.triangles).query(landmarks[17:]).distances
    assert np.median(inner) < 0.003


@needs_scans
def test_pictures_repeat_and_faces_are_found_in_them():
    from backend.vision.detector import make_detector

    items = truth_items("meshmonk", SHARED)
    assert len(items) == 135 and len({item.group for item in items}) == 3
    detector = make_detector()
    try:
        for index in (15, 92):
            photo = items[index].photo()
            assert (photo.pixels == items[index].photo().pixels).all()
            assert detector.detect(photo), items[index].name
    finally:
        detector.close()
