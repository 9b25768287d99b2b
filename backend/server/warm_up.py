"""The first reconstruction of a process takes seconds longer: kernels load, MediaPipe builds its graphs.

So the worker makes one before anybody waits for it, of a portrait that it draws itself.
"""

from __future__ import annotations

import numpy as np

from backend.errors import MgcFaceError
from backend.export.eye_texture import eye_texture
from backend.export.preview import Previewer
from backend.face_model.model import EYES, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.rendering.viewer import over
from backend.server.engine import Engine, Step
from backend.server.face_message import EYE_TEXTURE_SIZE, face_message
from backend.server.jobs import DEFAULT_OPTIONS
from backend.vision.photo import Photo

# A portrait: the head fills half of the picture.
SIDE_PX, FOCAL_PX, DISTANCE_M = 512, 1000.0, 1.0
GREY = 110


def warm_up(engine: Engine) -> bool:
    """Run the default options once; whether a face was found in the drawing, which only then warms all stages."""
    pipeline = engine.pipeline(DEFAULT_OPTIONS, Step(engine.device, one_by_one=False))
    photo = Photo(portrait(pipeline.model))
    try:
        for head in pipeline.reconstruct_photo(photo):
            face_message(head, photo)
    except MgcFaceError:
        return False
    return True


def portrait(model: FaceModel) -> np.ndarray:
    """(512, 512, 3) uint8 sRGB: the mean head from the front, in clay, before grey."""
    middle = (model.mean.min(axis=0) + model.mean.max(axis=0)) / 2.0
    rotation = rotation_from_head_euler()
    translation = np.array([0.0, 0.0, DISTANCE_M]) - rotation @ middle
    camera = Camera(intrinsics(FOCAL_PX, SIDE_PX, SIDE_PX), rotation, translation, SIDE_PX, SIDE_PX)
    eyes = {EYES: eye_texture(EYE_TEXTURE_SIZE)} if EYES in model.materials else {}
    drawing = Previewer(model, model.mean).draw(camera, eyes)
    return over(drawing, np.full((SIDE_PX, SIDE_PX, 3), GREY, np.uint8))
