# SPDX-License-Identifier: GPL-3.0-or-later
"""Every name that ends up in an artist's file, in one place: renaming one later loses what it marked."""

from __future__ import annotations

# Custom property that says what a data-block is, whatever the artist calls it.
ROLE = "mgcface_role"
SUBJECT, HEAD, CAMERA, SUN, ROOT = "subject", "head", "camera", "sun", "root"
# The cameras of a person's photos other than the main one, and the expressions of all of them.
SHOT, EXPRESSION = "photo camera", "photo expression"
PHOTO_IMAGE, SKIN_IMAGE, EYES_IMAGE, MAP_IMAGE = "photo", "skin image", "eyes image", "confidence image"
NORMAL_IMAGE = "skin normal map"
# Put on what a reconstruction has made until its collection stands in the scene.
UNFINISHED = "mgcface_unfinished"

# On the head: everything that is needed to do it again.
RECORD = "mgcface_record"
PHOTO = "mgcface_photo"
# Of a head from several photos, all of them, also those that were left out: a list as JSON.
PHOTOS = "mgcface_photos"
# And how many were used.
USED = "mgcface_photos_used"
FACE = "mgcface_face"
SETTINGS = "mgcface_settings"
# On an image that is packed: which of its contents this is.
PIXELS = "mgcface_pixels"
# On the head and the actions that are its expressions, to tell them from those of another head of the same photo.
HEAD_ID = "mgcface_head_id"
# The image that says which photo each texel came from; and on that image, the photos in it: a list as JSON.
MAP = "mgcface_confidence_map"
LEGEND = "mgcface_legend"
# On the camera: width and height of the photo in pixels.
PHOTO_SIZE = "mgcface_photo_size"

BASIS = "Basis"
CONFIDENCE = "confidence"
# On faces: whether they are skin.
SKIN = "skin"
UV_MAP = "UVMap"
