# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws the heads' maps of confidence over them in the 3D viewport, as Blender draws its own overlays.

Nothing of the file is changed for it: no material, no attribute, no setting of a viewport. What is drawn is the head as
it stands there, with its shape keys and modifiers.

Symbols: C face corners, T triangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import bpy
import numpy as np
from bpy.app.handlers import persistent

from . import naming, properties
from .scene.confidence_map import map_of
from .typed import sure

# How much of the head's own shading is covered; the rest shows its shape.
OPACITY = 0.8
# How far above the surface the map lies, in sizes of the head, so that neither hides the other: 0.3 mm.
LIFT = 1e-3

VERTEX_SOURCE = """
void main()
{
  place = texCoord;
  gl_Position = ModelViewProjectionMatrix * vec4(pos, 1.0);
}
"""
# The map's colours are sRGB; where what is drawn on takes linear light, Blender says so by `srgbTarget`, as it does to
# its own shaders.
FRAGMENT_SOURCE = """
void main()
{
  vec3 color = texture(image, place).rgb;
  if (srgbTarget) {
    vec3 linear = pow((color + 0.055) / 1.055, vec3(2.4));
    color = mix(linear, color / 12.92, lessThan(color, vec3(0.04045)));
  }
  fragColor = vec4(color, opacity);
}
"""

_handle: Any = None
_shader: Any = None
# What was made for the graphics card, by the name of its head; made anew when the head has changed.
_batches: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Surface:
    """The skin of a head as it stands in the viewport, in its own space.

    ``points`` (C, 3) and ``uv`` (C, 2) float32 for each face corner, ``triangles`` (T, 3) int32.
    """

    points: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray


def surface(obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph) -> Surface | None:
    """The skin of the evaluated head; None where nothing of it is left that the map belongs to."""
    evaluated = obj.evaluated_get(depsgraph)
    mesh: Any = evaluated.to_mesh()
    try:
        skin = mesh.attributes.get(naming.SKIN)
        layer = mesh.uv_layers.get(naming.UV_MAP) or mesh.uv_layers.active
        if skin is None or skin.domain != "FACE" or skin.data_type != "BOOLEAN" or layer is None:
            return None
        faces = read(skin.data, "value", len(mesh.polygons), bool)
        mesh.calc_loop_triangles()
        count = len(mesh.loop_triangles)
        triangles = read(mesh.loop_triangles, "loops", 3 * count, np.int32).reshape(-1, 3)
        triangles = triangles[faces[read(mesh.loop_triangles, "polygon_index", count, np.int32)]]
        if not len(triangles):
            return None
        points = read(mesh.vertices, "co", 3 * len(mesh.vertices), np.float32).reshape(-1, 3)
        normals = read(mesh.vertex_normals, "vector", points.size, np.float32).reshape(-1, 3)
        points += np.float32(LIFT * np.ptp(points, axis=0).max()) * normals
        corners = read(mesh.loops, "vertex_index", len(mesh.loops), np.int32)
        uv = read(layer.uv, "vector", 2 * len(corners), np.float32).reshape(-1, 2)
        return Surface(np.ascontiguousarray(points[corners]), uv, np.ascontiguousarray(triangles))
    finally:
        evaluated.to_mesh_clear()


def read(collection: Any, name: str, count: int, kind: type) -> np.ndarray:
    values: np.ndarray = np.empty(count, kind)
    collection.foreach_get(name, values)
    return values


def shown(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The heads over which a map is drawn in the viewport of this context."""
    space = context.space_data
    if not isinstance(space, bpy.types.SpaceView3D) or not space.overlay.show_overlays:
        return []
    if not properties.options(context).show_confidence:
        return []
    objects = sure(context.view_layer).objects
    heads = [obj for obj in objects if obj.get(naming.ROLE) == naming.HEAD and map_of(obj) is not None]
    return [obj for obj in heads if obj.visible_get(viewport=space)]


def draw() -> None:
    """Called by Blender for every 3D viewport, after it has drawn the scene."""
    context = bpy.context
    heads = shown(context)
    if not heads:
        return
    # Without a window there may be nothing to draw with, and nothing is drawn.
    gpu: Any = import_module("gpu")
    depsgraph = context.evaluated_depsgraph_get()
    shader = _made_shader(gpu)
    drawn = [(obj, _batch(obj, depsgraph, shader), _texture(obj, gpu)) for obj in heads]
    before = gpu.state.depth_test_get(), gpu.state.depth_mask_get(), gpu.state.blend_get()
    gpu.state.depth_test_set("LESS_EQUAL")
    gpu.state.blend_set("ALPHA")
    for obj, batch, texture in drawn:
        if batch is None or texture is None:
            continue
        shader.bind()
        shader.uniform_sampler("image", texture)
        shader.uniform_float("opacity", OPACITY)
        with gpu.matrix.push_pop():
            gpu.matrix.multiply_matrix(obj.evaluated_get(depsgraph).matrix_world)
            # First the depth alone: with X-ray, and while shaders are compiled, Blender has left none of the head's.
            for depth, colors in ((True, False), (False, True)):
                gpu.state.depth_mask_set(depth)
                gpu.state.color_mask_set(colors, colors, colors, colors)
                batch.draw(shader)
    gpu.state.depth_test_set(before[0])
    gpu.state.depth_mask_set(before[1])
    gpu.state.blend_set(before[2])


def _made_shader(gpu: Any) -> Any:
    """A shader of our own: which of Blender's draw a picture in its own colours differs from version to version."""
    global _shader
    if _shader is None:
        between = gpu.types.GPUStageInterfaceInfo("mgcface_confidence")
        between.smooth("VEC2", "place")
        info = gpu.types.GPUShaderCreateInfo()
        info.push_constant("MAT4", "ModelViewProjectionMatrix")
        info.push_constant("FLOAT", "opacity")
        info.push_constant("BOOL", "srgbTarget")
        info.sampler(0, "FLOAT_2D", "image")
        info.vertex_in(0, "VEC3", "pos")
        info.vertex_in(1, "VEC2", "texCoord")
        info.vertex_out(between)
        info.fragment_out(0, "VEC4", "fragColor")
        info.vertex_source(VERTEX_SOURCE)
        info.fragment_source(FRAGMENT_SOURCE)
        _shader = gpu.shader.create_from_info(info)
    return _shader


def _texture(obj: bpy.types.Object, gpu: Any) -> Any:
    try:
        return gpu.texture.from_image(sure(map_of(obj)))
    except RuntimeError:
        # The artist has taken what was in the image away.
        return None


def _batch(obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph, shader: Any) -> Any:
    from gpu_extras.batch import batch_for_shader

    name = obj.name_full
    if name not in _batches:
        found = surface(obj, depsgraph)
        if found is not None:
            content = {"pos": found.points, "texCoord": found.uv}
            _batches[name] = batch_for_shader(shader, "TRIS", content, indices=found.triangles)
        else:
            _batches[name] = None
    return _batches[name]


@persistent
def changed(_scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    """The shape of objects has changed."""
    if _batches:
        for update in depsgraph.updates:
            if isinstance(update.id, bpy.types.Object) and update.is_updated_geometry:
                _batches.pop(update.id.name_full, None)


@persistent
def all_changed(*_: object) -> None:
    """Undo, redo, another frame or another file: names may be those of others now."""
    _batches.clear()


HANDLERS = {
    "depsgraph_update_post": changed,
    "frame_change_post": all_changed,
    "undo_post": all_changed,
    "redo_post": all_changed,
    "load_post": all_changed,
}


def register() -> None:
    global _handle
    _handle = bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_VIEW")
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    global _handle, _shader
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
    _handle = _shader = None
    _batches.clear()
