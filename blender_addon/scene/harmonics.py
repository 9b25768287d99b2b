# SPDX-License-Identifier: GPL-3.0-or-later
"""Spherical harmonics of a photo's light become one sun and an even rest. No bpy in here.

The light on a surface with the unit normal n is ``sum_k gamma_k B_k(n)`` per colour channel, with the basis
of the engine (backend/rendering/shade.py). It is explained here as ``ambient + sun max(0, n . d)``.
Symbols: P sampled normals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Lambert's cosine lobe per band times the normalisation of the real harmonics, as in the engine.
A0 = math.pi / math.sqrt(4 * math.pi)
A1 = (2 * math.pi / math.sqrt(3)) * (math.sqrt(3) / math.sqrt(4 * math.pi))
A2 = (2 * math.pi / math.sqrt(8)) * (3 * math.sqrt(5) / math.sqrt(12 * math.pi))
# Luminance of linear RGB (ITU-R BT.709).
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
# Normals that the photo can have seen: those of the front of the face.
SAMPLES = 512
FRONT = 0.0
# A light whose sideways part is weaker than this has no direction to speak of.
WEAKEST = 1e-4


@dataclass(frozen=True)
class PhotoLight:
    """What to set up, for surfaces that answer with ``albedo * light``.

    Attributes
    ----------
    direction : (3,) float64
        Unit vector towards the sun, model space.
    sun, ambient : (3,) float64
        Linear RGB, not negative.
    """

    direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray


def photo_light(gamma: np.ndarray) -> PhotoLight:
    """The sun and the ambient light that come closest to ``gamma`` (9, 3) on the front of a head."""
    gamma = np.asarray(gamma, np.float64)
    luminance = gamma @ LUMINANCE
    # The three linear terms point to where most light comes from (basis: -y, z, -x).
    direction = np.array([-luminance[3], -luminance[1], luminance[2]])
    length = float(np.linalg.norm(direction))
    normals = front_normals()
    light = basis(normals) @ gamma
    if length < WEAKEST:
        return PhotoLight(np.array([0.0, 0.0, 1.0]), np.zeros(3), np.maximum(light.mean(axis=0), 0.0))
    direction /= length
    facing = np.maximum(normals @ direction, 0.0)
    columns = np.stack([np.ones(len(normals)), facing], axis=1)
    (ambient, sun), *_ = np.linalg.lstsq(columns, light, rcond=None)
    # A channel that would need negative light gets what is left when that part is zero.
    only_sun = facing @ light / (facing @ facing)
    sun = np.where(ambient < 0.0, only_sun, sun)
    ambient = np.where(sun < 0.0, light.mean(axis=0), ambient)
    return PhotoLight(direction, np.maximum(sun, 0.0), np.maximum(ambient, 0.0))


def front_normals() -> np.ndarray:
    """(P, 3): a spiral of even spacing over the sphere (Fibonacci), its front half."""
    index = np.arange(2 * SAMPLES) + 0.5
    z = 1.0 - index / SAMPLES
    angle = math.pi * (1.0 + math.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - z * z)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
    return normals[z > FRONT]


def basis(normals: np.ndarray) -> np.ndarray:
    """(P, 3) unit normals in model space -> (P, 9)."""
    x, y, z = normals.T
    values = [
        A0 * np.ones_like(x),
        -A1 * y,
        A1 * z,
        -A1 * x,
        A2 * x * y,
        -A2 * y * z,
        A2 / (2 * math.sqrt(3)) * (3 * z * z - 1),
        -A2 * x * z,
        A2 / 2 * (x * x - y * y),
    ]
    return np.stack(values, axis=1)
