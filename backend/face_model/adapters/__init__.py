"""Readers that turn other people's model files into a :class:`backend.face_model.model.FaceModel`."""
