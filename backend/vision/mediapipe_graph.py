"""The three networks of the MediaPipe wheel behind plain calls: pixels in, arrays out.

MediaPipe's ready-made ``FaceMesh`` couples its own short-range detector to the landmark network and hides the
score that says whether a face is there. These graphs use the same calculators and model files but run the
detectors and the landmark network one by one, so that the caller chooses the crop and sees the score.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from backend.errors import DependencyError

# Side of the square picture that the landmark network takes (face_landmark_with_attention.tflite).
MESH_INPUT_PX = 192

# The network's own idea of a pixel's centre lies between 0 and 0.5: on 37 photos, landmarks of a crop and of its
# mirror image, carried back, lie 0.44 crop pixels apart in x, so each is 0.22 too small; manual landmarks of the
# London set ask for about the same in y.
CENTRE_OFFSET_PX = 0.2

# ApplicationThreadExecutor runs a graph in the thread that waits for it: no hand-over between threads, and two
# detectors in two threads do not share a pool.
_EXECUTOR = 'executor { type: "ApplicationThreadExecutor" }'

_DETECTION_GRAPH = (
    _EXECUTOR
    + """
input_stream: "image"
output_stream: "detections"
node {
  calculator: "%s" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections"
  node_options { [type.googleapis.com/mediapipe.FaceDetectionOptions] { min_score_thresh: %f } }
}
"""
)

_MESH_GRAPH = (
    _EXECUTOR
    + """
input_stream: "image"
output_stream: "landmarks"
output_stream: "score"
node {
  calculator: "FaceLandmarksModelLoader"
  input_side_packet: "WITH_ATTENTION:with_attention" output_side_packet: "MODEL:model"
}
node { calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:resolver" }
node {
  calculator: "ImageToTensorCalculator" input_stream: "IMAGE:image" output_stream: "TENSORS:input"
  options { [mediapipe.ImageToTensorCalculatorOptions.ext] {
    output_tensor_width: 192 output_tensor_height: 192 output_tensor_float_range { min: 0.0 max: 1.0 } } }
}
node {
  calculator: "InferenceCalculator" input_stream: "TENSORS:input" output_stream: "TENSORS:outputs"
  input_side_packet: "MODEL:model" input_side_packet: "OP_RESOLVER:resolver"
  options { [mediapipe.InferenceCalculatorOptions.ext] { delegate { xnnpack { num_threads: 1 } } } }
}
node {
  calculator: "SplitTensorVectorCalculator" input_stream: "outputs"
  output_stream: "points" output_stream: "flag"
  options { [mediapipe.SplitVectorCalculatorOptions.ext] { ranges { begin: 0 end: 6 } ranges { begin: 6 end: 7 } } }
}
node {
  calculator: "TensorsToFloatsCalculator" input_stream: "TENSORS:flag" output_stream: "FLOAT:score"
  options { [mediapipe.TensorsToFloatsCalculatorOptions.ext] { activation: SIGMOID } }
}
node {
  calculator: "TensorsToFaceLandmarksWithAttention" input_stream: "TENSORS:points" output_stream: "LANDMARKS:landmarks"
}
"""
)

# What MediaPipe and TensorFlow Lite say on stderr while they start; it means nothing to a user and no setting of
# theirs turns it off.
_CHATTER = re.compile(
    rb"^(INFO: Created TensorFlow Lite|INFO: Initialized TensorFlow Lite"
    rb"|WARNING: All log messages before absl::InitializeLog"
    rb"|[IW]\d{4} \d{2}:\d{2}:\d{2}\.\d+ |[IW]0000 00:00:\d+\.\d+ )"
)
_stderr_lock = threading.Lock()


class DetectionGraph:
    """One of MediaPipe's BlazeFace detectors.

    Parameters
    ----------
    calculator : str
        ``FaceDetectionFullRangeCpu`` (192 px input, small faces) or ``FaceDetectionShortRangeCpu`` (128 px).
    min_score : float
        Hits below are dropped.
    """

    def __init__(self, calculator: str, min_score: float) -> None:
        self._graph = _Graph(_DETECTION_GRAPH % (calculator, min_score), ["detections"], {})
        self._graph.start(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 -> scores (N,), key points (N, 6, 2) and boxes (N, 4), in pixels.

        The key points: right eye, left eye, nose tip, mouth, right ear, left ear of the subject. A box is left,
        top, width, height; brows to chin.
        """
        packet = self._graph.run(pixels)["detections"]
        found = [] if packet is None else _modules().packet_getter.get_proto_list(packet)
        scores = np.array([hit.score[0] for hit in found], np.float64)
        points = [[(p.x, p.y) for p in hit.location_data.relative_keypoints] for hit in found]
        rectangles = [hit.location_data.relative_bounding_box for hit in found]
        boxes = [(box.xmin, box.ymin, box.width, box.height) for box in rectangles]
        size = np.array([pixels.shape[1], pixels.shape[0]], np.float64)
        return (
            scores,
            np.array(points, np.float64).reshape(-1, 6, 2) * size,
            np.array(boxes, np.float64).reshape(-1, 4) * np.tile(size, 2),
        )

    def close(self) -> None:
        self._graph.close()


class MeshGraph:
    """MediaPipe's landmark network with refined lips, eyes and irises."""

    def __init__(self) -> None:
        self._graph = _Graph(_MESH_GRAPH, ["landmarks", "score"], {"with_attention": True})
        self._graph.start(np.zeros((MESH_INPUT_PX, MESH_INPUT_PX, 3), np.uint8))

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, float]:
        """(192, 192, 3) uint8, an upright face -> points (478, 3) in pixels of the crop, and P(face) in [0, 1].

        Pixel centres lie at +0.5. The third coordinate is depth in the same unit, smaller is nearer.
        """
        packets, modules = self._graph.run(crop), _modules()
        landmarks = modules.packet_getter.get_proto(packets["landmarks"]).landmark
        points = np.array([(p.x, p.y, p.z) for p in landmarks], np.float64)
        points = points * MESH_INPUT_PX + [CENTRE_OFFSET_PX, CENTRE_OFFSET_PX, 0.0]
        return points, float(modules.packet_getter.get_float(packets["score"]))

    def close(self) -> None:
        self._graph.close()


class _Graph:
    """A running calculator graph with one image input; not safe to share between threads."""

    def __init__(self, text: str, outputs: list[str], side_packets: dict[str, bool]) -> None:
        modules = _modules()
        config = modules.text_format.Parse(text, modules.calculator_pb2.CalculatorGraphConfig())
        self._packets: dict[str, object] = {}
        self._outputs = outputs
        self._timestamp = 0
        self._side_packets = {name: modules.packet_creator.create_bool(on) for name, on in side_packets.items()}
        with _quiet_stderr():
            self._graph = modules.calculator_graph.CalculatorGraph(graph_config=config)
        for name in outputs:
            self._graph.observe_output_stream(name, self._packets.__setitem__)

    def start(self, first: np.ndarray) -> None:
        """Start and run once, so that whatever is said at first use is said here."""
        with _quiet_stderr():
            self._graph.start_run(self._side_packets)
            self.run(first)

    def run(self, pixels: np.ndarray) -> dict[str, object]:
        modules = _modules()
        self._packets.clear()
        self._timestamp += 1
        packet = modules.packet_creator.create_image_frame(
            data=np.ascontiguousarray(pixels), image_format=modules.image_format
        )
        self._graph.add_packet_to_input_stream("image", packet.at(self._timestamp))
        self._graph.wait_until_idle()
        return {name: self._packets.get(name) for name in self._outputs}

    def close(self) -> None:
        with _quiet_stderr():
            self._graph.close_all_packet_sources()
            self._graph.wait_until_done()


class _Modules:
    """What is used of MediaPipe; importing it costs half a second and is put off until a detector is made."""

    def __init__(self) -> None:
        # Read by MediaPipe's logging when its library is loaded; a user's own choice wins.
        os.environ.setdefault("GLOG_minloglevel", "2")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            with _quiet_stderr(), _pyplot_later():
                import mediapipe
                from google.protobuf import text_format
                from mediapipe.calculators.core import split_vector_calculator_pb2  # noqa: F401 registers options
                from mediapipe.calculators.tensor import (  # noqa: F401 registers options
                    image_to_tensor_calculator_pb2,
                    inference_calculator_pb2,
                    tensors_to_floats_calculator_pb2,
                )
                from mediapipe.framework import calculator_pb2
                from mediapipe.modules.face_detection import face_detection_pb2  # noqa: F401 registers options
                from mediapipe.python import packet_creator, packet_getter
                from mediapipe.python._framework_bindings import calculator_graph, resource_util
        except (ImportError, OSError, AttributeError) as error:
            raise DependencyError(
                f"MediaPipe 0.10.21 cannot be loaded ({' '.join(str(error).split())[:120]}); "
                "install it with pip install mediapipe==0.10.21."
            ) from None
        # Model files are addressed from the folder that holds the package.
        resource_util.set_resource_dir(os.path.dirname(os.path.dirname(os.path.abspath(str(mediapipe.__file__)))))
        self.image_format = mediapipe.ImageFormat.SRGB
        self.text_format, self.calculator_pb2 = text_format, calculator_pb2
        self.packet_creator, self.packet_getter = packet_creator, packet_getter
        self.calculator_graph = calculator_graph


@cache
def _modules() -> _Modules:
    return _Modules()


class _Later(ModuleType):
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


@contextmanager
def _pyplot_later() -> Iterator[None]:
    """Let MediaPipe, whose drawing functions nobody calls here, go without Matplotlib until somebody does: its import
    takes as long as all the rest of MediaPipe's."""
    if "matplotlib" in sys.modules:
        yield
        return
    whole, pyplot = ModuleType("matplotlib"), _Later("matplotlib.pyplot")
    stand_ins = {"matplotlib": whole, "matplotlib.pyplot": pyplot}
    whole.pyplot = pyplot  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back MediaPipe's start-up chatter on file descriptor 2; whatever else was written comes out after."""
    with _stderr_lock:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
        except (OSError, AttributeError, ValueError):  # No stderr, as under pythonw: nothing to keep quiet.
            yield
            return
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(saved, 2)
                os.close(saved)
                held.seek(0)
                kept = [line for line in held.read().splitlines(keepends=True) if not _CHATTER.match(line)]
                if kept:
                    os.write(2, b"".join(kept))
