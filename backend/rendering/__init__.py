"""Rasterize, interpolate, shade."""
