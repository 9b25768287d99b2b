# SPDX-License-Identifier: GPL-3.0-or-later
"""The head's mesh: quads, UV, shape keys, confidence. Everything goes in by ``foreach_set``, nothing by loops.

Symbols: N vertices, E expression shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import bpy
import numpy as np

from .. import naming
from .head_data import SKIN, Head, Layout

# Shape keys set between two looks at the interface; 13 of open-head take about 10 ms.
KEYS_PER_STEP = 13


def make_mesh(name: str, layout: Layout, positions: np.ndarray) -> bpy.types.Mesh:
    """A mesh with UVs and material indices, smooth; ``positions`` (N, 3) float32."""
    mesh = bpy.data.meshes.new(name)
    mesh[naming.UNFINISHED] = True
    mesh.vertices.add(len(positions))
    mesh.vertices.foreach_set("co", positions.ravel())
    mesh.loops.add(len(layout.corner_vertex))
    mesh.loops.foreach_set("vertex_index", layout.corner_vertex)
    mesh.polygons.add(len(layout.face_start))
    mesh.polygons.foreach_set("loop_start", layout.face_start)
    mesh.polygons.foreach_set("material_index", layout.face_material)
    uv = mesh.uv_layers.new(name=naming.UV_MAP, do_init=False)
    uv.uv.foreach_set("vector", layout.corner_uv.ravel())
    mesh.update(calc_edges=True)
    mesh.shade_smooth()
    return mesh


def set_confidence(mesh: bpy.types.Mesh, values: np.ndarray | None) -> None:
    """(N,) float32 in [0, 1] as the point attribute ``confidence``; an old one goes when there is none."""
    attribute = mesh.attributes.get(naming.CONFIDENCE)
    if values is None:
        if attribute is not None:
            mesh.attributes.remove(attribute)
        return
    if attribute is None:
        attribute = mesh.attributes.new(naming.CONFIDENCE, "FLOAT", "POINT")
    assert isinstance(attribute, bpy.types.FloatAttribute)
    attribute.data.foreach_set("value", values)


def set_skin(mesh: bpy.types.Mesh, layout: Layout) -> None:
    """The face attribute ``skin``: whatever becomes of slots and materials, it tells what the skin's texture is on."""
    attribute = mesh.attributes.get(naming.SKIN)
    if attribute is None and len(mesh.polygons) == len(layout.face_material):
        attribute = mesh.attributes.new(naming.SKIN, "BOOLEAN", "FACE")
        assert isinstance(attribute, bpy.types.BoolAttribute)
        names = np.array([name == SKIN for name in layout.materials])
        attribute.data.foreach_set("value", names[layout.face_material])


def add_shape_keys(obj: bpy.types.Object, head: Head, layout: Layout, positions: np.ndarray) -> Iterator[None]:
    """Basis and one relative key per expression, in the model's order, at the photographed values."""
    obj.shape_key_add(name=naming.BASIS, from_mix=False)
    flat = positions.ravel()
    shape = np.empty_like(positions)
    for index, (name, value) in enumerate(zip(head.model.expression_names, head.values)):
        key = obj.shape_key_add(name=name, from_mix=False)
        np.add(positions, layout.moves[index], out=shape)
        key.points.foreach_set("co", shape.ravel())
        set_value(key, value)
        if index % KEYS_PER_STEP == KEYS_PER_STEP - 1:
            yield
    mesh = obj.data
    assert isinstance(mesh, bpy.types.Mesh) and mesh.shape_keys is not None
    mesh.shape_keys.key_blocks[0].points.foreach_set("co", flat)
    mesh.shape_keys.use_relative = True
    obj.active_shape_key_index = 0


def set_value(key: bpy.types.ShapeKey, value: float) -> None:
    widen(key, value)
    key.value = value


def widen(key: bpy.types.ShapeKey, value: float) -> None:
    """A statistical model's coefficients may leave [0, 1]; the slider then reaches as far."""
    key.slider_min = min(key.slider_min, value)
    key.slider_max = max(key.slider_max, value)


def posed(values: Sequence[float], layout: Layout, positions: np.ndarray) -> np.ndarray:
    """(N, 3) float32: the face with an expression (E,), for a head that has no shape keys."""
    result = positions.copy()
    for value, move in zip(values, layout.moves):
        if value:
            result += move * value
    return result


def update_mesh(
    mesh: bpy.types.Mesh, names: Sequence[str], values: Sequence[float], layout: Layout, positions: np.ndarray
) -> Iterator[None]:
    """The head of another fit in the same mesh; keys of the artist's own keep what they add to the basis.

    ``names`` and ``values`` (E,) are the model's expressions and how much of each is shown.
    """
    keys = mesh.shape_keys
    if keys is None:
        mesh.vertices.foreach_set("co", posed(values, layout, positions).ravel())
        mesh.update()
        return
    blocks = keys.key_blocks
    ours = {name: index for index, name in enumerate(names)}
    old, basis = np.empty_like(positions), np.empty_like(positions)
    blocks[0].points.foreach_get("co", basis.ravel())
    shift = positions - basis
    for number, key in enumerate(blocks):
        if number == 0:
            np.copyto(old, positions)
        elif key.name in ours:
            np.add(positions, layout.moves[ours[key.name]], out=old)
            set_value(key, values[ours[key.name]])
        else:
            key.points.foreach_get("co", old.ravel())
            old += shift
        key.points.foreach_set("co", old.ravel())
        if number % KEYS_PER_STEP == KEYS_PER_STEP - 1:
            yield
    mesh.vertices.foreach_set("co", positions.ravel())
    mesh.update()
