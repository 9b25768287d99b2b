"""Wavefront OBJ: quads, metres, one vertex line per model vertex.

Vertex ``i`` of the model is ``v`` line ``i + 1`` in every file, so that two heads of one model are
morph targets of each other in any program. Symbols: V vertices, F faces, U texture coordinates.
"""

from __future__ import annotations

import numpy as np

from backend.export.parts import Part, split_parts
from backend.face_model.model import EYES, SKIN, FaceModel
from backend.geometry.mesh import NO_CORNER

MATERIAL_FILE = "head.mtl"
SKIN_TEXTURE_FILE = "texture.png"
EYE_TEXTURE_FILE = "eyes.png"
NORMAL_MAP_FILE = "normal.png"


class ObjWriter:
    """Writes heads of one model; what they share (texture coordinates and faces) is formatted once."""

    def __init__(self, model: FaceModel) -> None:
        self.vertex_count = model.vertex_count
        self._tail = _texture_lines(model.uv) + "s 1\n" + "".join(_part_lines(part) for part in split_parts(model))

    def text(self, vertices: np.ndarray, name: str) -> str:
        """The file's text.

        Parameters
        ----------
        vertices : (V, 3) float
            Metres; written to a thousandth of a millimetre.
        name : str
            The object's name.
        """
        head = f"# mgcface, metres, +Y up, +Z out of the face\nmtllib {MATERIAL_FILE}\no {name}\n"
        lines = ("v %.6f %.6f %.6f\n" * len(vertices)) % tuple(np.asarray(vertices, np.float64).ravel().tolist())
        return head + lines + self._tail


def material_text(model: FaceModel, skin_texture: bool, eye_texture: bool) -> str:
    """The MTL file beside the OBJ; colours are linear RGB, textures are named relative to it."""
    textures = {SKIN: SKIN_TEXTURE_FILE} if skin_texture else {}
    if eye_texture:
        textures[EYES] = EYE_TEXTURE_FILE
    lines = []
    for part in split_parts(model):
        texture = textures.get(part.name)
        # A texture replaces the colour; some readers multiply the two, so the colour becomes white.
        red, green, blue = (1.0, 1.0, 1.0) if texture else part.look.color
        lines += [f"newmtl {part.name}", f"Kd {red:.4f} {green:.4f} {blue:.4f}", "Ks 0.0400 0.0400 0.0400"]
        lines += [f"Ns {phong_exponent(part.look.roughness):.1f}", "d 1.0", "illum 2"]
        lines += [f"map_Kd {texture}"] if texture else []
        # The key that readers of physically based MTL know; others skip it.
        lines += [f"norm {NORMAL_MAP_FILE}"] if texture and part.name == SKIN else []
        lines.append("")
    return "\n".join(lines)


def phong_exponent(roughness: float) -> float:
    """MTL's ``Ns`` in 0 to 1000 for a roughness: ``1000 (1 - r)^2``, the inverse of Blender's OBJ reader."""
    return 1000.0 * (1.0 - roughness) ** 2


def _texture_lines(uv: np.ndarray) -> str:
    return ("vt %.6f %.6f\n" * len(uv)) % tuple(np.asarray(uv, np.float64).ravel().tolist())


def _part_lines(part: Part) -> str:
    """``usemtl`` and the faces of one part; quads and triangles stay in the model's order."""
    corners = np.stack([part.faces, part.face_uv], axis=2) + 1
    is_quad = part.faces[:, 3] != NO_CORNER
    quad, triangle = "f %d/%d %d/%d %d/%d %d/%d\n", "f %d/%d %d/%d %d/%d\n"
    if is_quad.all():
        template = quad * len(corners)
    else:
        template = "".join(quad if four else triangle for four in is_quad.tolist())
    keep = np.repeat(is_quad[:, None], 4, axis=1)
    keep[:, :3] = True
    return f"g {part.name}\nusemtl {part.name}\n" + template % tuple(corners[keep].ravel().tolist())
