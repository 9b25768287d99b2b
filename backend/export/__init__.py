"""A reconstruction becomes files: glTF, OBJ, JSON, pictures."""
