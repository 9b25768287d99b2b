# SPDX-License-Identifier: GPL-3.0-or-later
"""The photo's light as a sun and the world's colour."""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

from .. import naming
from ..typed import sure
from .axes import direction_to_blender
from .harmonics import PhotoLight, photo_light
from .head_data import Head

# A sun of this strength lights a white surface that faces it to 1: Blender counts watts per square metre.
STRENGTH_OF_ONE = math.pi
# How large the sun looks: the softbox or window of a portrait, not the sun in the sky.
SUN_ANGLE = math.radians(20.0)
# Metres from the middle of the head at which the sun's symbol stands, and where that middle is.
SYMBOL_M, HEAD_MIDDLE_M = 0.6, 0.03
# The world of a new file: one background of this grey, which no artist has touched.
FACTORY_GREY = 0.05087608844041824


def make_sun(head: Head, scale: float) -> bpy.types.Object | None:
    """The sun object, relative to the head at the origin; None when the photo's light is not known."""
    if head.light is None:
        return None
    light = photo_light(head.light)
    data = bpy.data.lights.new(f"{head.name} sun", "SUN")
    assert isinstance(data, bpy.types.SunLight)
    data[naming.UNFINISHED] = True
    obj = bpy.data.objects.new(data.name, data)
    obj[naming.UNFINISHED] = True
    obj[naming.ROLE] = naming.SUN
    data.angle = SUN_ANGLE
    set_sun(obj, light, scale)
    return obj


def set_sun(obj: bpy.types.Object, light: PhotoLight, scale: float) -> None:
    """Strength, colour and direction of an existing sun."""
    strength, color = split(light.sun)
    # Any: the artist may have made another kind of light of it.
    data: Any = obj.data
    data.energy, data.color = strength * STRENGTH_OF_ONE, color
    towards = Vector(direction_to_blender(light.direction).tolist())
    obj.rotation_mode = "QUATERNION"
    # A light shines along its -Z.
    obj.rotation_quaternion = towards.to_track_quat("Z", "Y")
    obj.location = towards * SYMBOL_M * scale + Vector((0.0, 0.0, HEAD_MIDDLE_M * scale))


def set_ambient(scene: bpy.types.Scene, head: Head) -> None:
    """The even part of the light as the world's colour, unless the artist has a world of their own."""
    if head.light is None:
        return
    if scene.world is None:
        scene.world = bpy.data.worlds.new("World")
        if bpy.app.version < (5, 0, 0):
            scene.world.use_nodes = True
    elif not untouched(scene.world):
        return
    strength, color = split(photo_light(head.light).ambient)
    background = _background(scene.world)
    if background is not None:
        inputs: Any = background.inputs
        inputs["Color"].default_value, inputs["Strength"].default_value = (*color, 1.0), strength
    eevee = sure(scene.eevee)
    if not eevee.use_raytracing:
        # EEVEE else lets the world shine into a mouth through the lips; Cycles looks what is in the way by nature.
        eevee.use_raytracing, eevee.fast_gi_method = True, "AMBIENT_OCCLUSION_ONLY"


def untouched(world: bpy.types.World) -> bool:
    """Whether it is the grey world that every new file has."""
    background = _background(world)
    if background is None or len(sure(world.node_tree).nodes) != 2:
        return False
    inputs: Any = background.inputs
    color, strength = inputs["Color"], inputs["Strength"].default_value
    grey = not color.is_linked and np.allclose(color.default_value[:3], FACTORY_GREY, atol=1e-4)
    return grey and strength == 1.0


def _background(world: bpy.types.World) -> bpy.types.Node | None:
    if world.node_tree is None:
        return None
    return next((node for node in world.node_tree.nodes if node.type == "BACKGROUND"), None)


def split(color: np.ndarray) -> tuple[float, tuple[float, float, float]]:
    """Linear RGB as a strength and a colour whose largest channel is 1."""
    strength = float(color.max())
    if strength <= 0.0:
        return 0.0, (1.0, 1.0, 1.0)
    red, green, blue = (float(value) / strength for value in color)
    return strength, (red, green, blue)
