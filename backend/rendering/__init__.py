"""Rasterize, interpolate, antialias, shade. See docs/rendering.md."""
