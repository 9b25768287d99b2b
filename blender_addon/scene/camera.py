# SPDX-License-Identifier: GPL-3.0-or-later
"""The photo's camera, with the photo behind the head."""

from __future__ import annotations

import os

import bpy
from mathutils import Matrix

from .. import naming
from . import axes
from .head_data import Camera, Head

# Full-frame, the sensor that photographers think in: a focal length of 50 reads as they expect.
SENSOR_MM = 36.0
# A face fills the frame from a few centimetres on (metres).
NEAREST_M, FARTHEST_M = 0.01, 100.0
# How large the camera is drawn (metres); a metre, the default, hides a head.
DRAWN_M = 0.1


def make_camera(head: Head, scale: float) -> bpy.types.Object:
    """The camera object; its matrix is relative to the head at the origin."""
    data = bpy.data.cameras.new(f"{head.name} camera")
    data[naming.UNFINISHED] = True
    obj = bpy.data.objects.new(data.name, data)
    obj[naming.UNFINISHED] = True
    obj[naming.ROLE] = naming.CAMERA
    data.clip_start, data.clip_end = NEAREST_M * scale, FARTHEST_M * scale
    data.display_size = DRAWN_M * scale
    set_lens(obj, head.camera, scale)
    image = photo_image(head)
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


def photo_image(head: Head) -> bpy.types.Image | None:
    """The photo upright; None when it is neither on this machine nor sent along."""
    if head.upright:
        for image in bpy.data.images:
            if image.get(naming.ROLE) == naming.PHOTO_IMAGE and image.get(naming.PHOTO) == head.photo:
                return image
        image = bpy.data.images.new(os.path.basename(head.photo), head.camera.width, head.camera.height)
        image[naming.PHOTO] = head.photo
        image[naming.UNFINISHED] = True
        image.pack(data=head.upright, data_len=len(head.upright))  # type: ignore[arg-type] # Blender takes bytes
        image.source = "FILE"
    elif os.path.isfile(head.photo):
        image = bpy.data.images.load(head.photo, check_existing=True)
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
