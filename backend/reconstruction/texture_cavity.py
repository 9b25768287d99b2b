"""Nostrils, ear canals and the seam of the lips: how much of the sky each vertex sees.

A photo shows little of them, so they would be completed with lit skin; a viewer without ambient occlusion
then shows glowing nostrils. Symbols: V vertices, T triangles, D directions.
"""

from __future__ import annotations

import numpy as np

from backend.reconstruction.texture_raster import cover

# Directions from which the head is drawn, and pixels along a side of these pictures: 1.5 mm on a head with its
# neck, a fifth of a nostril.
DIRECTIONS, PICTURE = 96, 224
# A vertex is seen when it lies within this of the nearest surface (metres): a pixel, seen at a slant.
SEEN_WITHIN = 2.5e-3
# Open skin sees more than the first part of its sky (beside the nose 0.45, the inner corner of the eye 0.4),
# the end of a nostril less than the second.
OPEN_SKY, CLOSED_SKY = 0.26, 0.10
# Light that comes out of a deep cavity, as a part of what lit skin sends back: blood filters it to dark red.
DEEP_LIGHT = (0.075, 0.035, 0.028)


def sky_directions(count: int) -> np.ndarray:
    """(D, 3) unit vectors spread evenly over the sphere by the golden angle."""
    index = np.arange(count) + 0.5
    height = 1.0 - 2.0 * index / count
    angle = np.pi * (1.0 + np.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - height**2)
    return np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], axis=1)


def sky_seen(vertices: np.ndarray, normals: np.ndarray, triangles: np.ndarray, count: int = DIRECTIONS) -> np.ndarray:
    """(V,) float64 in [0, 1]: the cosine-weighted part of each vertex's half of the sky that nothing hides.

    Parameters
    ----------
    vertices, normals : (V, 3) float
        Metres; unit vectors.
    triangles : (T, 3) int
        Everything that hides, whatever its material.
    count : int
        Directions.
    """
    centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2.0
    local = vertices - centre
    reach = 1.01 * float(np.linalg.norm(local, axis=1).max())
    open_sky, all_sky = np.zeros(len(vertices)), np.zeros(len(vertices))
    for towards in sky_directions(count):
        aside = np.cross(towards, [0.0, 1.0, 0.0] if abs(towards[1]) < 0.9 else [1.0, 0.0, 0.0])
        aside /= np.linalg.norm(aside)
        axes = np.stack([aside, np.cross(towards, aside)])
        points = (local @ axes.T / reach + 1.0) * (PICTURE / 2.0)
        depth = reach * 2.0 - local @ towards
        # A camera infinitely far away: all depths nearly alike, so that the rasterizer's perspective is none.
        nearest = cover(points, depth + 1e3, triangles, PICTURE, PICTURE).depth - 1e3
        column, row = np.clip(points.astype(int), 0, PICTURE - 1).T
        cosine = np.maximum(normals @ towards, 0.0)
        open_sky += cosine * (depth < nearest[row, column] + SEEN_WITHIN)
        all_sky += cosine
    return open_sky / np.maximum(all_sky, 1e-9)


def cavity_depth(vertices: np.ndarray, normals: np.ndarray, triangles: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(V,) in [0, 1]: 0 on open skin, 1 deep in a cavity, in proportion less where ``light`` (V,) in [0, 1] is."""
    sky = sky_seen(vertices, normals, triangles)
    return np.interp(sky, [CLOSED_SKY, OPEN_SKY], [1.0, 0.0]) * (1.0 - light)


def darkened(base: np.ndarray, seen: np.ndarray, cavity: np.ndarray) -> np.ndarray:
    """(V, 3): completed skin, square root of light, with the shade of its cavities; what was seen brings its own."""
    depth = (cavity * (1.0 - seen))[:, None]
    return base * (1.0 - depth + depth * np.sqrt(DEEP_LIGHT))
