"""The detector fan against a package of the same form, made here, and against the real one where its weights lie."""

from __future__ import annotations

import enum
import importlib.util
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from backend.errors import DependencyError
from backend.vision.decode import photo_from_pixels
from backend.vision.detector import make_detector

REAL_WEIGHTS = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")


class FakePackage:
    """``face_alignment`` 1.5 as far as it is used: signatures, module names and manners taken from its source."""

    def __init__(self, monkeypatch, boxes):
        self.boxes, self.fetched, self.made, self.seen = boxes, [], [], []
        self.fetch_error: Exception | None = None
        self.load_error: Exception | None = None
        fake = self

        class LandmarksType(enum.IntEnum):
            TWO_D = 1
            TWO_HALF_D = 2
            THREE_D = 3

        class FaceDetector:
            def detect_from_image(self, image):
                fake.seen.append(image.shape)
                return fake.boxes

        class FaceAlignment:
            def __init__(
                self,
                landmarks_type,
                network_size=4,
                device="cuda",
                dtype=None,
                flip_input=True,
                face_detector="sfd",
                face_detector_kwargs=None,
                verbose=False,
                compile=True,
                max_batch_size=1,
            ):
                if fake.load_error:
                    raise fake.load_error
                fake.made.append((landmarks_type, device, face_detector, face_detector_kwargs, compile))
                self.face_detector = FaceDetector()

            def get_landmarks_from_image(
                self, image_or_path, detected_faces=None, return_bboxes=False, return_landmark_score=False
            ):
                assert isinstance(image_or_path, np.ndarray) and image_or_path.dtype == np.uint8
                warnings.warn("the package warns", stacklevel=1)
                result = []
                for box in detected_faces:
                    fake.seen.append((image_or_path.shape, tuple(box)))
                    x = np.linspace(box[0], box[2], 68)
                    y = np.linspace(box[1], box[3], 68)
                    result.append(np.stack([x, y], axis=1).astype(np.int32).astype(np.float32))
                return result

        def load_file_from_url(url, model_dir=None, progress=True, check_hash=False, file_name=None):
            assert check_hash
            if fake.fetch_error:
                raise fake.fetch_error
            sys.stderr.write("Downloading: noise that no user needs\n")
            fake.fetched.append(url)
            return "/cache/" + url.rsplit("/", 1)[-1]

        base = "https://example.org/"
        modules = {
            "face_alignment": {"FaceAlignment": FaceAlignment, "LandmarksType": LandmarksType},
            "face_alignment.api": {"models_urls": {"2DFAN-4": base + "fan.pth", "3DFAN-4": base + "fan3.pth"}},
            "face_alignment.utils": {"load_file_from_url": load_file_from_url},
            "face_alignment.detection": {},
            "face_alignment.detection.sfd": {},
            "face_alignment.detection.sfd.sfd_detector": {"models_urls": {"s3fd": base + "s3fd.pth"}},
            "face_alignment.detection.blazeface": {},
            "face_alignment.detection.blazeface.blazeface_detector": {
                "models_urls": {"blazeface_weights": base + "blaze.pth", "blazeface_anchors": base + "anchors.npy"}
            },
        }
        for name, content in modules.items():
            module = types.ModuleType(name)
            module.__path__ = []
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def package(monkeypatch) -> FakePackage:
    small, large = np.array([20.0, 30, 60, 90, 0.8]), np.array([100.0, 50, 240, 210, 0.95])
    return FakePackage(monkeypatch, [small, large])


@pytest.fixture
def photo():
    return photo_from_pixels(np.full((300, 400, 3), 90, np.uint8))


def test_faces_largest_first(package, photo):
    with make_detector("fan", device="cpu") as detector:
        large, small = detector.detect(photo, all_faces=True)
        (only,) = detector.detect(photo)
    assert np.array_equal(only.landmarks["ibug68"], large.landmarks["ibug68"])
    assert large.score == pytest.approx(0.95) and small.score == pytest.approx(0.8)
    points = large.landmarks["ibug68"]
    assert points.shape == (68, 2) and points.dtype == np.float32
    assert set(large.landmarks) == {"ibug68"} and large.noise_px == {} and large.depth_mediapipe478 is None
    # Whole pixels of the package are cut off, so half a pixel comes back.
    assert np.allclose(points[[0, -1]], [[100.5, 50.5], [240.5, 210.5]])
    assert np.allclose(large.box, [100.5, 50.5, 240.5, 210.5]) and not large.cropped


def test_it_is_loaded_as_it_should_be(package, capsys):
    make_detector("fan", device="cpu")
    assert package.made == [(1, "cpu", "sfd", {"path_to_detector": "/cache/s3fd.pth"}, False)]
    assert package.fetched == ["https://example.org/fan.pth", "https://example.org/s3fd.pth"]
    make_detector("fan", device="cpu", face_detector="blazeface")
    files = {"path_to_detector": "/cache/blaze.pth", "path_to_anchor": "/cache/anchors.npy"}
    assert package.made[1] == (1, "cpu", "blazeface", files, False)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="dlib"):
        make_detector("fan", face_detector="dlib")


@pytest.mark.parametrize("nothing", [[], [[]][0], np.zeros((0, 5))])
def test_no_face(package, photo, nothing):
    package.boxes = nothing
    with make_detector("fan", device="cpu") as detector:
        assert detector.detect(photo) == [] and detector.detect(photo, all_faces=True) == []


def test_large_photos_are_reduced_and_points_come_back(package):
    package.boxes = [np.array([320.0, 160, 960, 800, 0.9])]
    photo = photo_from_pixels(np.zeros((3840, 5120, 3), np.uint8))
    with make_detector("fan", device="cpu") as detector:
        (face,) = detector.detect(photo)
    assert package.seen[0] == (960, 1280, 3)
    shape, box = package.seen[1]
    # The face is 2560 pixels wide in the photo: a tenth of that fits FAN's 256.
    assert shape == (384, 512, 3) and np.allclose(box, [128, 64, 384, 320, 0.9])
    assert np.allclose(face.landmarks["ibug68"][[0, -1]], [[1285, 645], [3845, 3205]])


def test_a_face_over_the_border_is_cropped(package, photo):
    package.boxes = [np.array([-20.0, 30, 80, 130, 0.9])]
    with make_detector("fan", device="cpu") as detector:
        assert detector.detect(photo)[0].cropped


def test_many_photos(package, photo):
    with make_detector("fan", device="cpu") as detector:
        assert [len(faces) for faces in detector.detect_many([photo] * 3, all_faces=True)] == [2, 2, 2]
    with pytest.raises(RuntimeError, match="closed"):
        detector.detect(photo)


def test_offline_is_one_sentence(package):
    package.fetch_error = OSError("Name or service not known")
    with pytest.raises(DependencyError, match=r"fan\.pth could not be fetched \(Name or service not known\)") as error:
        make_detector("fan")
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_damaged_weights_are_one_sentence(package):
    package.load_error = RuntimeError("Invalid magic number;\n corrupt file?")
    with pytest.raises(DependencyError, match=r"cannot be loaded on cpu \(Invalid magic number; corrupt file\?\)"):
        make_detector("fan", device="cpu")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(DependencyError, match=r"needs the package face-alignment.*mgcface\[fan\]"):
        make_detector("fan")


def _weights_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


@pytest.mark.skipif(importlib.util.find_spec("face_alignment") is None, reason="face-alignment is not installed")
@pytest.mark.skipif(
    not all((_weights_folder() / name).exists() for name in REAL_WEIGHTS),
    reason="the weights of face-alignment are not in torch's cache",
)
def test_the_real_package_agrees_with_mediapipe():
    photo = photo_from_pixels(skimage.data.astronaut())
    with make_detector("fan", device="cpu") as fan, make_detector("mediapipe") as mediapipe:
        ours, theirs = fan.detect(photo)[0].landmarks["ibug68"], mediapipe.detect(photo)[0].landmarks["ibug68"]
    distance = np.linalg.norm(ours - theirs, axis=1)[17:]
    assert np.median(distance) < 0.03 * np.ptp(theirs[:, 1])
