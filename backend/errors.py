"""Errors that a user is meant to read.

Every message is one sentence that says what happened and what to do about it. Whatever reaches a
terminal, a log line or Blender's status bar comes from here; anything else that escapes is a bug.
"""

from __future__ import annotations


class MgcFaceError(Exception):
    """Base of every error whose text is written for the user."""

    code = "error"


class PhotoError(MgcFaceError):
    """The photo cannot be read: missing, corrupt, not an image, too small or too large."""

    code = "photo"


class NoFaceError(MgcFaceError):
    """No face was found in the photo."""

    code = "no_face"


class ModelError(MgcFaceError):
    """A face-model file is missing, corrupt, of another kind, or holds values that make no sense."""

    code = "model"


class WeightsError(MgcFaceError):
    """A file of network weights or a checkpoint is missing, corrupt, of another kind, or for another network."""

    code = "weights"


class OutputError(MgcFaceError):
    """The result cannot be written: no permission, no space, a file in the way."""

    code = "output"


class DependencyError(MgcFaceError):
    """An optional package, device or weight file that the request needs is not there."""

    code = "dependency"


class TrainingError(MgcFaceError):
    """A training run cannot start, go on or be resumed: its configuration, its checkpoints, its losses."""

    code = "training"


class Cancelled(MgcFaceError):
    """The user cancelled; nothing is wrong and nothing half-written stays behind."""

    code = "cancelled"
