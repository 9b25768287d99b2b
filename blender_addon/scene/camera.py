# SPDX-License-Identifier: GPL-3.0-or-later
"""The photo's camera, with the photo behind the head."""

from __future__ import annotations

import os

import bpy
from mathutils import Matrix

from .. import naming
from . import axes
from .head_data import Camera, Shot

# Full-frame, the sensor that photographers think in: a focal length of 50 reads as they expect.
SENSOR_MM = 36.0
# A face fills the frame from a few centimetres on (metres).
NEAREST_M, FARTHEST_M = 0.01, 100.0
# How large the camera is drawn (metres); a metre, the default, hides a head.
DRAWN_M = 0.1


def make_camera(name: str, shot: Shot, scale: float, role: str = naming.CAMERA) -> bpy.types.Object:
    """The camera object; its matrix is relative to the head at the origin."""
    data = bpy.data.cameras.new(f"{name} camera")
    data[naming.UNFINISHED] = True
    obj = bpy.data.objects.new(data.name, data)
    obj[naming.UNFINISHED] = True
    obj[naming.ROLE] = role
    obj[naming.PHOTO] = shot.photo
    data.clip_start, data.clip_end = NEAREST_M * scale, FARTHEST_M * scale
    data.display_size = DRAWN_M * scale
    set_lens(obj, shot.camera, scale)
    image = photo_image(shot)
    if image is not None:
        background = data.background_images.new()
        background.image = image
        background.alpha = 1.0
        background.frame_method = "FIT"
        background.display_depth = "BACK"
        data.show_background_images = True
    return obj


def set_lens(obj: bpy.types.Object, camera: Camera, scale: float) -> None:
    """Focal length, shift and place, so that the head falls on the photo to the pixel."""
    data = obj.data
    assert isinstance(data, bpy.types.Camera)
    # The frame's longer side is the one that Blender measures the lens and the shift by.
    data.sensor_fit = "HORIZONTAL" if camera.width >= camera.height else "VERTICAL"
    data.sensor_width = data.sensor_height = SENSOR_MM
    data.lens, data.shift_x, data.shift_y = axes.lens(camera.K, camera.width, camera.height, SENSOR_MM)
    obj[naming.PHOTO_SIZE] = [camera.width, camera.height]
    obj.matrix_basis = Matrix(axes.camera_matrix(camera.R, camera.t, scale).tolist())


def photo_image(shot: Shot) -> bpy.types.Image | None:
    """The photo upright; None when it is neither on this machine nor sent along."""
    if shot.upright:
        for image in bpy.data.images:
            if image.get(naming.ROLE) == naming.PHOTO_IMAGE and image.get(naming.PHOTO) == shot.photo:
                return image
        image = bpy.data.images.new(os.path.basename(shot.photo), shot.camera.width, shot.camera.height)
        image[naming.PHOTO] = shot.photo
        image[naming.UNFINISHED] = True
        image.pack(data=shot.upright, data_len=len(shot.upright))  # type: ignore[arg-type] # Blender takes bytes
        image.source = "FILE"
    elif os.path.isfile(shot.photo):
        image = bpy.data.images.load(shot.photo, check_existing=True)
        if not image.users:
            image[naming.UNFINISHED] = True
    else:
        return None
    image[naming.ROLE] = naming.PHOTO_IMAGE
    return image


def look_through(scene: bpy.types.Scene, camera: bpy.types.Object) -> None:
    """Make it the scene's camera and the render as large as the photo, without which the frame would not match."""
    width, height = camera[naming.PHOTO_SIZE]
    scene.camera = camera
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
    render.pixel_aspect_x = render.pixel_aspect_y = 1.0
