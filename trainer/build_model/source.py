"""The samples that the default head is learned from: ICT-FaceKit light.

``open-head`` takes nothing from the file but numbers on its surface: every vertex of ours is a fixed
combination of a few vertices of the source, kept as a row of one sparse matrix. Mean, identity and
expressions of the source then become ours by that matrix.

Symbols: S source vertices, F faces, M modes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from backend.errors import ModelError
from backend.geometry.mesh import triangulate

SOURCE_FILE = "ict-facekit-light.npz"
CENTIMETRE = 0.01

# Runs of vertices in ICT-FaceKit's own order (connected components of its faces, counted once).
SKIN = slice(0, 11248)
SKIN_AND_SOCKETS = slice(0, 14062)
MOUTH_SOCKET = slice(11248, 13294)
GUMS_AND_TONGUE = slice(14062, 17039)
TEETH = slice(17039, 21451)
LEFT_EYE_SHELL = slice(21451, 22221)
RIGHT_EYE_SHELL = slice(23021, 23791)

# Deepest point of the ear concha, midway between both ears, in the file's own centimetres.
BETWEEN_EARS_CM = np.array([0.0, 0.60, 1.00])

VERTEX_COUNT, IDENTITY_COUNT, EXPRESSION_COUNT = 26719, 100, 53


@dataclass(frozen=True)
class Source:
    """ICT-FaceKit in our units.

    Attributes
    ----------
    mean : (S, 3) float64
        Metres, origin between the ears.
    identity : (100, S, 3) float32
        Metres per standard deviation, independent Gaussian coefficients.
    expression : (53, S, 3) float32
        Metres at coefficient 1.
    expression_names : tuple of str
        ICT's names, such as ``eyeBlink_L``.
    faces : (F, 4) int32
        -1 marks a triangle.
    landmarks68 : (68,) int64
        Vertices of the iBUG points.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: tuple[str, ...]
    faces: np.ndarray
    landmarks68: np.ndarray

    @cached_property
    def mirror(self) -> np.ndarray:
        """(14062,) int: partner of every vertex of skin and sockets."""
        points = self.mean[SKIN_AND_SOCKETS]
        _, partner = cKDTree(points).query(points * [-1.0, 1.0, 1.0])
        if not np.array_equal(partner[partner], np.arange(len(points))):
            raise ModelError("The source head is not symmetric; give the unchanged ICT-FaceKit light file.")
        return partner

    def part_faces(self, part: slice) -> np.ndarray:
        """Faces whose corners all lie in a run of vertices."""
        corners = np.where(self.faces < 0, self.faces[:, :1], self.faces)
        return self.faces[(corners.min(axis=1) >= part.start) & (corners.max(axis=1) < part.stop)]

    def part_triangles(self, part: slice) -> np.ndarray:
        """(T, 3) triangles of a run of vertices."""
        return triangulate(self.part_faces(part))


def read_source(folder: Path) -> Source:
    """Read ``ict-facekit-light.npz`` from a folder; :class:`ModelError` when it is not what we know."""
    path = Path(folder) / SOURCE_FILE
    if not path.is_file():
        raise ModelError(f"{folder} holds no {SOURCE_FILE}; give the folder of ICT-FaceKit light with --from.")
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in ("mean", "identity", "expression", "names", "faces", "landmarks68")}
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} cannot be read as ICT-FaceKit light; fetch it again.") from error
    wanted = {
        "mean": (VERTEX_COUNT, 3),
        "identity": (IDENTITY_COUNT, VERTEX_COUNT, 3),
        "expression": (EXPRESSION_COUNT, VERTEX_COUNT, 3),
    }
    for name, shape in wanted.items():
        if data[name].shape != shape or not np.isfinite(data[name]).all():
            raise ModelError(f"{path} holds a {name} of another form; give the unchanged ICT-FaceKit light file.")
    return Source(
        mean=(data["mean"].astype(np.float64) - BETWEEN_EARS_CM) * CENTIMETRE,
        identity=data["identity"].astype(np.float32) * np.float32(CENTIMETRE),
        expression=data["expression"].astype(np.float32) * np.float32(CENTIMETRE),
        expression_names=tuple(str(name) for name in data["names"]),
        faces=data["faces"].astype(np.int32),
        landmarks68=data["landmarks68"].astype(np.int64),
    )
