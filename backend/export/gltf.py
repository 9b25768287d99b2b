"""One binary glTF 2.0 file: the head with its 52 morph targets, textures and the photo's camera.

One mesh holds a primitive per material, so that a program that opens the file shows one object with one
set of named sliders. The base shape is the person's neutral face; the mesh's default weights are the
photographed expression. Model space and glTF share their axes (+Y up, +Z out of the face) and metres.

Symbols: V vertices, T triangles, E expression shapes, N corners of a part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pygltflib as gl
from scipy.spatial.transform import Rotation

from backend import __version__
from backend.export.gltf_buffer import BufferBuilder
from backend.export.images import jpeg_bytes
from backend.export.morph import any_of_three, morph_normals
from backend.export.parts import Part, split_parts, unify_corners
from backend.face_model.model import EYES, SKIN
from backend.geometry.camera import Camera
from backend.geometry.mesh import vertex_normals
from backend.geometry.rotation import FRONTAL
from backend.reconstruction.result import Reconstruction

# A shape moves a vertex when it does so by five thousandths of a millimetre, and turns its normal from a
# tenth of a degree on. What is less is left out of the sparse target: a fifth of open-head's file.
SMALLEST_MOVE_M = 5e-6
SMALLEST_TURN = 2e-3

# Clip distances of the camera node in metres: a face fills the frame from a few centimetres on.
Z_NEAR, Z_FAR = 0.01, 100.0


def head_glb(
    reconstruction: Reconstruction,
    eye_texture: np.ndarray | None,
    cameras: Mapping[str, Camera] | None = None,
    normals: bytes | None = None,
) -> bytes:
    """The whole file.

    Parameters
    ----------
    reconstruction : Reconstruction
    eye_texture : (S, S, 3) uint8 or None
        sRGB picture for the ``eyes`` part, see :mod:`backend.export.eye_texture`.
    cameras : mapping of name to Camera, optional
        Of all photos where there are several; by default the one of the reconstruction.
    normals : bytes, optional
        Normal map of the skin, a PNG file: the blocks of a JPEG would be slopes.
    """
    texture = reconstruction.texture
    pictures = {SKIN: None if texture is None else texture.color, EYES: eye_texture}
    document = gl.GLTF2(asset=_asset(reconstruction), scene=0)
    buffer = BufferBuilder(document)
    mesh = gl.Mesh(name="head", weights=[float(weight) for weight in reconstruction.expression])
    mesh.extras = {"targetNames": list(reconstruction.model.expression_names)}
    shape = _Shape(reconstruction)
    for part in split_parts(reconstruction.model):
        mesh.primitives.append(_primitive(part, shape, buffer, material=len(document.materials)))
        relief = normals if part.name == SKIN else None
        document.materials.append(_material(part, pictures.get(part.name), relief, buffer))
    document.meshes.append(mesh)
    document.nodes.append(gl.Node(name="head", mesh=0))
    for name, camera in (cameras or {"photo": reconstruction.camera}).items():
        document.nodes.append(_camera_node(camera, name, len(document.cameras)))
        document.cameras.append(_camera(camera, name))
    nodes = list(range(len(document.nodes)))
    document.scenes.append(gl.Scene(name="head", nodes=nodes, extras=_provenance(reconstruction)))
    return buffer.glb()


class _Shape:
    """The arrays that all parts take their corners from."""

    def __init__(self, reconstruction: Reconstruction) -> None:
        model = reconstruction.model
        self.uv = model.uv
        self.positions = np.ascontiguousarray(reconstruction.neutral_vertices, np.float32)
        # Normals come from the whole head before it is cut, so that neither a texture seam nor the
        # border between two materials shows as a line.
        self.normals = unit_normals(self.positions, model.triangles)
        self.moves = model.expression
        self.turns = morph_normals(self.positions, model.expression, model.triangles, SMALLEST_MOVE_M)
        self.moved = any_of_three(np.abs(self.moves) >= SMALLEST_MOVE_M)
        self.turned = any_of_three(np.abs(self.turns) >= SMALLEST_TURN)


def unit_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V, 3) float32 unit normals; vertices of no triangle or of empty ones point along +Z, as glTF wants a unit."""
    normals = vertex_normals(vertices, triangles)
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0.0, 0.0, 1.0)
    return normals.astype(np.float32)


def _primitive(part: Part, shape: _Shape, buffer: BufferBuilder, material: int) -> gl.Primitive:
    corners = unify_corners(part.faces, part.face_uv, len(shape.uv))
    # glTF counts v downward from the top row of the picture.
    uv = np.stack([shape.uv[corners.uv, 0], 1.0 - shape.uv[corners.uv, 1]], axis=1)
    attributes = gl.Attributes(
        POSITION=buffer.vertices(shape.positions[corners.vertex], bounds=True),
        NORMAL=buffer.vertices(shape.normals[corners.vertex]),
        TEXCOORD_0=buffer.vertices(uv),
    )
    targets = [
        gl.Attributes(
            POSITION=buffer.sparse(shape.moves[e], shape.moved[e], corners.vertex, bounds=True),
            NORMAL=buffer.sparse(shape.turns[e], shape.turned[e], corners.vertex),
        )
        for e in range(len(shape.moves))
    ]
    indices = buffer.triangles(corners.triangles)
    return gl.Primitive(attributes=attributes, indices=indices, material=material, targets=targets)


def _material(part: Part, picture: np.ndarray | None, normals: bytes | None, buffer: BufferBuilder) -> gl.Material:
    surface = gl.PbrMetallicRoughness(
        baseColorFactor=[*part.look.color, 1.0], metallicFactor=0.0, roughnessFactor=part.look.roughness
    )
    if picture is not None:
        surface.baseColorFactor = [1.0, 1.0, 1.0, 1.0]
        surface.baseColorTexture = gl.TextureInfo(index=buffer.picture(jpeg_bytes(picture), f"{part.name}_color"))
    # The inside of lids, lips and nostrils is seen from both sides; an eyeball only from outside.
    material = gl.Material(name=part.name, pbrMetallicRoughness=surface, doubleSided=part.name != EYES)
    if normals is not None:
        place = buffer.picture(normals, f"{part.name}_normal")
        material.normalTexture = gl.NormalMaterialTexture(index=place)
    return material


def _camera(camera: Camera, name: str) -> gl.Camera:
    """The lens; glTF knows no principal point, so the exact intrinsics travel as extras."""
    perspective = gl.Perspective(
        yfov=2.0 * math.atan(camera.height / (2.0 * float(camera.K[1, 1]))),
        aspectRatio=camera.width / camera.height,
        znear=Z_NEAR,
        zfar=Z_FAR,
    )
    extras = {
        "focal_px": camera.focal_px,
        "principal_x_px": float(camera.K[0, 2]),
        "principal_y_px": float(camera.K[1, 2]),
        "width_px": camera.width,
        "height_px": camera.height,
    }
    return gl.Camera(name=name, type="perspective", perspective=perspective, extras=extras)


def _camera_node(camera: Camera, name: str, index: int) -> gl.Node:
    """Where the photographer stood. glTF cameras look along -Z with +Y up, OpenCV's along +Z with y down."""
    quaternion = Rotation.from_matrix(camera.R.T @ FRONTAL).as_quat()
    place, turn = camera.centre.tolist(), quaternion.tolist()
    return gl.Node(name=f"{name}_camera", camera=index, translation=place, rotation=turn)


def _asset(reconstruction: Reconstruction) -> gl.Asset:
    info = reconstruction.model.info
    return gl.Asset(generator=f"mgcface {__version__}", version="2.0", copyright=info.attribution or None)


def _provenance(reconstruction: Reconstruction) -> dict[str, str]:
    """What the head was made from; the photo's name without its folder, which may tell more than one likes."""
    info, photo = reconstruction.model.info, reconstruction.photo_path
    return {
        "generator": f"mgcface {__version__}",
        "photo": Path(photo).name if photo is not None else "",
        "face_model": info.name,
        "face_model_version": info.version,
        "licence": info.licence,
        "terms": info.terms,
        "attribution": info.attribution,
        "units": "metres",
    }
