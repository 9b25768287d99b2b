"""Faces are found where they are, nowhere else, and their landmarks move with the picture."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import skimage.data

from backend.vision import mediapipe_detector
from backend.vision.crop import Reduced, Window, shrink
from backend.vision.decode import photo_from_pixels
from backend.vision.detector import make_detector
from backend.vision.landmark_sets import (
    FACE_OVAL,
    IBUG68,
    LEFT_IRIS,
    MIRROR,
    RIGHT_IRIS,
    eye_openness,
    ibug68_from_mediapipe,
)
from backend.vision.mediapipe_detector import MediaPipeDetector

# Pupils of the astronaut, read off the enlarged picture: the subject's right and left.
PUPILS = np.array([[203.8, 101.0], [246.6, 103.2]])


@pytest.fixture(scope="module")
def detector() -> Iterator[MediaPipeDetector]:
    with MediaPipeDetector() as made:
        yield made


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage.data.astronaut()


@pytest.fixture(scope="module")
def head(astronaut) -> np.ndarray:
    """(150, 150, 3): the head alone."""
    return np.ascontiguousarray(astronaut[40:210, 140:310])


def _dense(face) -> np.ndarray:
    return face.landmarks["mediapipe478"].astype(np.float64)


def _warped(pixels, linear, size) -> tuple[np.ndarray, np.ndarray]:
    """The picture turned or scaled about its centre into one of ``size`` (w, h), and the offset of that map."""
    offset = np.array(size) / 2.0 - linear @ (np.array(pixels.shape[1::-1]) / 2.0)
    shift = offset + linear @ [0.5, 0.5] - 0.5  # OpenCV's centres lie at whole numbers
    matrix = np.column_stack([linear, shift])
    return cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE), offset


def _relative_error(found, expected) -> float:
    """Median distance over the height of the face."""
    return float(np.median(np.linalg.norm(found - expected, axis=1)) / np.ptp(expected[:, 1]))


# --- one face ---------------------------------------------------------------------------------------------


def test_astronaut(detector, astronaut):
    (face,) = detector.detect(photo_from_pixels(astronaut))
    points = _dense(face)
    assert points.shape == (478, 2) and face.landmarks["mediapipe478"].dtype == np.float32
    assert face.landmarks["ibug68"].shape == (68, 2)
    assert face.depth_mediapipe478.shape == (478,)
    assert 0.5 < face.score <= 1.0 and not face.cropped
    assert np.array_equal(face.box, np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32))
    irises = points[[RIGHT_IRIS[0], LEFT_IRIS[0]]]
    assert np.abs(irises - PUPILS).max() < 1.2
    # The nose is nearer than the cheeks beside the ears.
    assert face.depth_mediapipe478[4] < face.depth_mediapipe478[[234, 454]].min()
    for name, count in (("mediapipe478", 478), ("ibug68", 68)):
        noise = face.noise_px[name]
        assert noise.shape == (count,) and noise.dtype == np.float32
        assert 0.0 < noise.mean() < 0.02 * np.ptp(points[:, 1])


def test_the_same_photo_gives_the_same_numbers(detector, astronaut):
    first, second = (detector.detect(photo_from_pixels(astronaut))[0] for _ in range(2))
    assert np.array_equal(first.landmarks["mediapipe478"], second.landmarks["mediapipe478"])


def test_one_pass_and_many_agree(detector, astronaut):
    photo = photo_from_pixels(astronaut)
    with MediaPipeDetector(passes=1) as once:
        (single,) = once.detect(photo)
    (several,) = detector.detect(photo)
    assert single.noise_px == {}
    assert _relative_error(_dense(single), _dense(several)) < 0.01
    with pytest.raises(ValueError, match="passes"):
        MediaPipeDetector(passes=0)


@pytest.mark.parametrize("scale", [0.35, 0.7, 1.6, 3.0])
def test_landmarks_scale_with_the_picture(detector, astronaut, scale):
    reference = _dense(detector.detect(photo_from_pixels(astronaut))[0])
    size = tuple(round(side * scale) for side in astronaut.shape[1::-1])
    resized = cv2.resize(astronaut, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    (face,) = detector.detect(photo_from_pixels(resized))
    expected = reference * (np.array(size) / astronaut.shape[1::-1])
    # 1.5 % where the face is 38 pixels high, and the systematic part is far smaller than half a pixel.
    assert _relative_error(_dense(face), expected) < (0.02 if scale < 0.5 else 0.008)
    assert np.abs(np.mean(_dense(face) - expected, axis=0)).max() < 0.006 * np.ptp(expected[:, 1])


def test_landmarks_mirror_with_the_picture(detector, astronaut):
    reference = _dense(detector.detect(photo_from_pixels(astronaut))[0])
    (face,) = detector.detect(photo_from_pixels(np.ascontiguousarray(astronaut[:, ::-1])))
    back = _dense(face)[MIRROR] * [-1, 1] + [astronaut.shape[1], 0]
    assert _relative_error(back, reference) < 0.006
    # Pixel centres at +0.5: with another convention every point would be off by up to a whole pixel in x.
    assert abs(np.mean(back[:, 0] - reference[:, 0])) < 0.25


@pytest.mark.parametrize("degrees", [20, 45, 90, 135, 180, 270])
def test_turned_astronaut(detector, head, degrees):
    reference = _dense(detector.detect(photo_from_pixels(head))[0])
    angle = np.radians(degrees)
    turn = 2.0 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned, offset = _warped(head, turn, (480, 480))
    (face,) = detector.detect(photo_from_pixels(turned))
    expected = reference @ turn.T + offset
    error = np.median(np.linalg.norm(_dense(face) - expected, axis=1)) / (2 * np.ptp(reference[:, 1]))
    assert error < 0.02


def test_a_small_face_in_a_large_picture(detector, head):
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(90, 140, (30, 40, 3), dtype=np.uint8), (2000, 1500), interpolation=cv2.INTER_CUBIC)
    wall[1100:1160, 1400:1460] = cv2.resize(head, (60, 60), interpolation=cv2.INTER_AREA)
    (face,) = detector.detect(photo_from_pixels(wall))
    assert 1400 < face.box[0] and face.box[2] < 1460 and 1100 < face.box[1] and face.box[3] < 1160


@pytest.mark.parametrize("cut", ["right", "left", "bottom", "top"])
def test_a_face_cut_at_the_border(detector, astronaut, cut):
    (whole,) = detector.detect(photo_from_pixels(astronaut))
    left, top, right, bottom = whole.box
    window = {
        "right": np.s_[:, : int(left + 0.7 * (right - left))],
        "left": np.s_[:, int(left + 0.3 * (right - left)) :],
        "bottom": np.s_[: int(top + 0.8 * (bottom - top))],
        "top": np.s_[int(top + 0.2 * (bottom - top)) :],
    }[cut]
    (face,) = detector.detect(photo_from_pixels(np.ascontiguousarray(astronaut[window])))
    assert face.cropped
    shift = [window[1].start or 0 if isinstance(window, tuple) else 0, 0 if isinstance(window, tuple) else window.start]
    expected = _dense(whole) - [shift[0], shift[1] or 0]
    inside = (expected > 4).all(axis=1) & (expected < np.array(astronaut[window].shape[1::-1]) - 4).all(axis=1)
    assert inside.sum() > 150
    assert _relative_error(_dense(face)[inside], expected[inside]) < 0.06


def test_a_face_in_deep_shadow(detector, astronaut):
    dark = (255 * (astronaut / 255.0) ** 3 * 0.25).astype(np.uint8)
    (face,) = detector.detect(photo_from_pixels(dark))
    (reference,) = detector.detect(photo_from_pixels(astronaut))
    assert _relative_error(_dense(face), _dense(reference)) < 0.03


# --- several faces and none -------------------------------------------------------------------------------


def test_twenty_faces_largest_first(detector, head):
    rng = np.random.default_rng(1)
    group = np.full((4 * 180, 5 * 180, 3), 120, np.uint8)
    sizes = rng.permutation(np.linspace(90, 170, 20).astype(int))
    centres = []
    for index, size in enumerate(sizes):
        top, left = index // 5 * 180, index % 5 * 180
        group[top : top + size, left : left + size] = cv2.resize(head, (size, size), interpolation=cv2.INTER_AREA)
        centres.append((left + size / 2, top + size / 2))
    photo = photo_from_pixels(group)
    faces = detector.detect(photo, all_faces=True)
    assert len(faces) == 20
    sides = [float((face.box[2:] - face.box[:2]).max()) for face in faces]
    assert all(a >= 0.97 * b for a, b in itertools.pairwise(sides))
    owners = [int(np.argmin(np.linalg.norm(np.array(centres) - (f.box[:2] + f.box[2:]) / 2, axis=1))) for f in faces]
    assert sorted(owners) == list(range(20))
    (largest,) = detector.detect(photo)
    assert (largest.box[2:] - largest.box[:2]).max() > 0.95 * sides[0]


def test_a_single_face_is_found_once(detector, astronaut):
    assert len(detector.detect(photo_from_pixels(astronaut), all_faces=True)) == 1


def _noise(sigma):
    rng = np.random.default_rng(sigma)
    noise = rng.normal(size=(400, 500, 3))
    noise = cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def _grey(pixels):
    return np.ascontiguousarray(np.repeat(pixels[..., None], 3, axis=2))


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((300, 400, 3), np.uint8), id="black"),
        pytest.param(np.full((300, 400, 3), 255, np.uint8), id="white"),
        pytest.param(np.full((32, 32, 3), 90, np.uint8), id="tiny"),
        pytest.param(np.full((40, 3000, 3), 90, np.uint8), id="strip"),
        *[pytest.param(_noise(sigma), id=f"noise{sigma}") for sigma in (0, 3, 10, 30)],
        pytest.param(skimage.data.chelsea(), id="cat"),
        pytest.param(skimage.data.coffee(), id="saucer"),
        pytest.param(skimage.data.rocket(), id="rocket"),
        *[pytest.param(_grey(getattr(skimage.data, name)()), id=name) for name in ("brick", "grass", "coins", "page")],
    ],
)
def test_no_face_is_no_face(detector, pixels):
    photo = photo_from_pixels(pixels)
    assert detector.detect(photo) == []
    assert detector.detect(photo, all_faces=True) == []


def test_a_drawing_is_a_face_or_none_but_no_error(detector):
    paper = np.full((400, 400, 3), 255, np.uint8)
    cv2.ellipse(paper, (200, 200), (110, 150), 0, 0, 360, (40, 30, 30), 4)
    for x in (155, 245):
        cv2.circle(paper, (x, 165), 14, (40, 30, 30), 4)
    cv2.line(paper, (200, 180), (190, 235), (40, 30, 30), 4)
    cv2.ellipse(paper, (200, 270), (50, 22), 0, 0, 180, (40, 30, 30), 4)
    for face in detector.detect(photo_from_pixels(paper), all_faces=True):
        assert np.isfinite(face.landmarks["mediapipe478"]).all()


def test_a_large_photo(detector, astronaut):
    large = cv2.resize(astronaut, (6000, 6000), interpolation=cv2.INTER_LINEAR)
    (face,) = detector.detect(photo_from_pixels(large))
    reference = _dense(detector.detect(photo_from_pixels(astronaut))[0]) * (6000 / 512)
    assert _relative_error(_dense(face), reference) < 0.012


# --- many photos, threads, life cycle ---------------------------------------------------------------------


def test_many_photos_in_order_and_as_they_come(detector, astronaut, head):
    blank = np.zeros((200, 200, 3), np.uint8)
    order = [astronaut, blank, head, astronaut, head, blank, head]
    drawn = []

    def photos():
        for index, pixels in enumerate(order):
            drawn.append(index)
            yield photo_from_pixels(pixels)

    with MediaPipeDetector(threads=2) as pair:
        results = pair.detect_many(photos())
        first = next(results)
        assert len(drawn) < len(order)
        found = [first, *results]
    for pixels, faces in zip(order, found, strict=True):
        alone = detector.detect(photo_from_pixels(pixels))
        assert len(faces) == len(alone)
        for face, other in zip(faces, alone):
            assert np.array_equal(face.landmarks["mediapipe478"], other.landmarks["mediapipe478"])


def test_many_photos_can_be_left_early_and_errors_come_through(head):
    def photos():
        yield photo_from_pixels(head)
        raise OSError("the disk is gone")

    with MediaPipeDetector(threads=2) as pair:
        results = pair.detect_many(photo_from_pixels(head) for _ in range(6))
        next(results)
        results.close()
        with pytest.raises(OSError, match="the disk is gone"):
            list(pair.detect_many(photos()))


def test_threads_may_share_a_detector(detector, astronaut):
    photo = photo_from_pixels(astronaut)
    reference = detector.detect(photo)[0].landmarks["mediapipe478"]
    equal = []

    def work():
        for _ in range(3):
            equal.append(np.array_equal(detector.detect(photo)[0].landmarks["mediapipe478"], reference))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 9


def test_a_closed_detector_loads_again(head):
    made = make_detector("mediapipe", passes=2)
    assert len(made.detect(photo_from_pixels(head))) == 1
    made.close()
    made.close()
    assert len(made.detect(photo_from_pixels(head))) == 1
    made.close()


def test_a_user_sees_nothing_of_mediapipe_but_our_own_words():
    script = (
        "import sys, skimage.data\n"
        "from backend.vision.decode import photo_from_pixels\n"
        "from backend.vision.detector import make_detector\n"
        "assert 'mediapipe' not in sys.modules\n"
        "detector = make_detector()\n"
        "print('one of ours', file=sys.stderr)\n"
        "assert len(detector.detect(photo_from_pixels(skimage.data.astronaut()))) == 1\n"
        "detector.close()\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GLOG", "TF_"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "one of ours"
    assert done.stdout == ""


def test_what_else_is_written_meanwhile_comes_out(capfd):
    from backend.vision.mediapipe_graph import _quiet_stderr

    with _quiet_stderr():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"W0000 00:00:1795211857.098786    6901 inference_feedback_manager.cc:114] Feedback\n")
        os.write(2, b"a warning of ours\n")
        sys.stderr.write("and one more\n")
    assert sorted(capfd.readouterr().err.splitlines()) == ["a warning of ours", "and one more"]


def test_an_unknown_detector_is_refused():
    with pytest.raises(ValueError, match="no detector 'dlib'"):
        make_detector("dlib")


# --- the parts --------------------------------------------------------------------------------------------


def test_mirror_pairs_are_their_own_inverse_and_mirror_the_canonical_face(detector, head):
    assert np.array_equal(MIRROR[MIRROR], np.arange(478))
    assert MIRROR[33] == 263 and MIRROR[61] == 291 and MIRROR[1] == 1 and MIRROR[127] == 356
    assert [MIRROR[i] for i in RIGHT_IRIS] == [473, 476, 475, 474, 477]
    symmetric = (_dense(detector.detect(photo_from_pixels(head))[0]) + 0.0, MIRROR)
    points, mirror = symmetric
    middle = points[[10, 152, 1]].mean(axis=0)
    # Nearly frontal: twins lie on opposite sides of the middle, at about the same height.
    sides = (points - middle)[:, 0] * (points[mirror] - middle)[:, 0]
    off_middle = np.arange(478) != mirror
    assert (sides[off_middle & (np.abs(points[:, 0] - middle[0]) > 12)] < 0).all()


def test_ibug68_is_ordered_as_ibug(detector, astronaut):
    points = detector.detect(photo_from_pixels(astronaut))[0].landmarks["ibug68"]
    assert len(set(IBUG68)) == 68 and set(IBUG68[:17]) <= set(FACE_OVAL)
    jaw, brows, nose, eyes, mouth = points[:17], points[17:27], points[27:36], points[36:48], points[48:]
    assert (np.diff(jaw[:, 0])[3:13] > 0).all() and jaw[:, 1].argmax() in (7, 8, 9)
    assert (np.diff(brows[:, 0]) > 0).all() and (np.diff(nose[:4, 1]) > 0).all() and (np.diff(nose[4:, 0]) > 0).all()
    assert eyes[:6, 0].max() < nose[0, 0] < eyes[6:, 0].min()
    assert brows[:, 1].mean() < eyes[:, 1].mean() < nose[3, 1] < mouth[:, 1].mean() < jaw[8, 1]
    # Twins of the set are twins of the mesh.
    twins = {0: 16, 3: 13, 17: 26, 31: 35, 36: 45, 37: 44, 48: 54, 60: 64, 67: 65}
    assert all(MIRROR[IBUG68[a]] == IBUG68[b] for a, b in twins.items())
    batch = np.arange(2 * 478 * 3).reshape(2, 478, 3)
    assert np.array_equal(ibug68_from_mediapipe(batch), batch[:, list(IBUG68)])


def test_eye_openness(detector, astronaut):
    right, left = eye_openness(_dense(detector.detect(photo_from_pixels(astronaut))[0]))
    assert 0.15 < right < 0.5 and 0.15 < left < 0.5
    closed = np.zeros((478, 2))
    closed[[33, 133, 263, 362], 0] = [0.0, 1.0, 3.0, 2.0]
    assert eye_openness(closed) == (0.0, 0.0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_windows_there_and_back(mirrored):
    window = Window(310.0, 205.0, 150.0, 0.4)
    points = np.random.default_rng(0).uniform(0, 400, (20, 2))
    assert np.allclose(window.to_photo(window.to_crop(points, 192, mirrored), 192, mirrored), points)
    assert np.allclose(window.to_photo(np.array([96.0, 96.0]), 192, mirrored), [310, 205])


@pytest.mark.parametrize("size", [60.0, 192.0, 300.0, 700.0, 1500.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_agree_with_sampling_every_pixel_by_hand(size, mirrored):
    """The slow twin: the picture is a smooth function, so a crop's pixel is its value at the mapped centre."""

    def scene(points):
        x, y = points[..., 0], points[..., 1]
        return 127 + 60 * np.sin(x / 97.0) * np.cos(y / 83.0) + 40 * np.sin((x + 2 * y) / 151.0)

    height, width, side = 1000, 1200, 96
    y, x = np.mgrid[0:height, 0:width] + 0.5
    pixels = np.repeat(np.round(scene(np.stack([x, y], axis=-1)))[..., None], 3, axis=2).astype(np.uint8)
    window = Window(560.3, 480.7, size, 0.3)
    crop = Reduced(pixels, window, side).crop(window, mirrored)
    v, u = np.mgrid[0:side, 0:side] + 0.5
    places = window.to_photo(np.stack([u, v], axis=-1), side, mirrored)
    inside = (places > 20).all(axis=-1) & (places[..., 0] < width - 20) & (places[..., 1] < height - 20)
    # Of 8-bit rounding, and the curvature of the scene over a block of averaged pixels.
    assert np.abs(crop[..., 0] - scene(places))[inside].max() < 2.5


def test_shrink_is_the_mean_of_blocks():
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    slow = np.array(
        [[pixels[4 * r : 4 * r + 4, 4 * c : 4 * c + 4].mean(axis=(0, 1)) for c in range(12)] for r in range(9)]
    )
    assert np.abs(shrink(pixels, 4) - slow).max() <= 0.51
    assert np.array_equal(shrink(pixels, 1), pixels)


def test_jitter_is_centred_and_small():
    window = Window(100.0, 200.0, 300.0, 0.1)
    assert mediapipe_detector._jittered(window, 0, 1) == window
    for passes in (2, 4, 8):
        made = [mediapipe_detector._jittered(window, index, passes) for index in range(passes)]
        assert len({(w.x, w.y, w.size, w.angle) for w in made}) == passes
        assert abs(np.mean([w.size for w in made]) - 300.0) < 1e-9
        for name, scale in (("x", 300.0), ("y", 300.0), ("angle", 1.0)):
            assert abs(np.mean([getattr(w, name) for w in made]) - getattr(window, name)) < 0.021 * scale


def test_the_largest_face_comes_first_and_its_surest_candidate():
    made = [
        mediapipe_detector.Candidate(Window(*place), score)
        for place, score in (((50, 50, 60), 0.9), ((300, 300, 210), 0.5), ((300, 300, 200), 0.8), ((600, 50, 90), 0.7))
    ]
    assert [candidate.score for candidate in mediapipe_detector._largest_first(made)] == [0.8, 0.5, 0.7, 0.9]


def test_matplotlib_is_not_imported_until_somebody_draws():
    """In a fresh process: this one has it already, or another test needs it."""
    code = (
        "import sys\n"
        "from backend.vision.mediapipe_graph import _modules\n"
        "_modules()\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
        "import mediapipe\n"
        "drawn_with = mediapipe.solutions.drawing_utils.plt\n"
        "import matplotlib.pyplot\n"
        "assert drawn_with.figure is matplotlib.pyplot.figure\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "upright, on_its_head, believed",
    [
        # (drift, score of the detector): photos that were turned, and people with masks.
        ((0.0422, 0.69), (0.0078, 0.93), "on its head"),
        ((0.0279, 0.75), (0.0050, 0.84), "on its head"),
        ((0.0149, 0.82), (0.0106, 0.60), "upright"),
        ((0.0194, 0.83), (0.0124, 0.84), "upright"),
        ((0.0133, 0.84), (0.0287, 0.95), "upright"),
    ],
)
@pytest.mark.parametrize("first", ["upright", "on its head"])
def test_who_stands_on_his_head_must_be_surer_and_steadier(monkeypatch, upright, on_its_head, believed, first):
    found = {
        name: mediapipe_detector._Found(Window(50.0, 50.0, 40.0, angle), score, np.zeros((9, 9, 3), np.uint8), drift)
        for name, angle, (drift, score) in (("upright", 0.05, upright), ("on its head", 3.1, on_its_head))
    }
    rival = found["upright" if first == "on its head" else "on its head"]
    monkeypatch.setattr(
        mediapipe_detector.face_search, "turned", lambda *_: [mediapipe_detector.Candidate(rival.window, rival.score)]
    )
    monkeypatch.setattr(mediapipe_detector, "_verify", lambda *_: rival)
    networks = type("Networks", (), {"detect": None})()
    assert mediapipe_detector._right_way_up(found[first], networks) is found[believed]


def test_a_face_on_its_side_is_judged_by_steadiness_alone(monkeypatch):
    one, other = (
        mediapipe_detector._Found(Window(50.0, 50.0, 40.0, angle), score, np.zeros((9, 9, 3), np.uint8), drift)
        for angle, score, drift in ((1.5, 0.9, 0.02), (-1.6, 0.6, 0.01))
    )
    monkeypatch.setattr(
        mediapipe_detector.face_search, "turned", lambda *_: [mediapipe_detector.Candidate(other.window, other.score)]
    )
    monkeypatch.setattr(mediapipe_detector, "_verify", lambda *_: other)
    assert mediapipe_detector._right_way_up(one, type("Networks", (), {"detect": None})()) is other
