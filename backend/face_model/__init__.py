"""The morphable model: what it is, its file format, where models come from."""
