"""Between sRGB, which files hold, and linear light, in which one may add and average (IEC 61966-2-1)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

# IEC 61966-2-1: the linear toe, its slope, the offset and the exponent of the power part.
TOE_SRGB, TOE_LINEAR, SLOPE, OFFSET, EXPONENT = 0.04045, 0.0031308, 12.92, 0.055, 2.4


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """Any shape, uint8 or float in [0, 1] -> float32 linear in [0, 1]."""
    if values.dtype == np.uint8:
        return _table()[values]
    values = np.asarray(values, np.float32)
    power = ((np.maximum(values, TOE_SRGB) + OFFSET) / (1 + OFFSET)) ** EXPONENT
    return np.where(values <= TOE_SRGB, values / SLOPE, power).astype(np.float32)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Any shape, float -> float32 in [0, 1]; values outside [0, 1] are clipped."""
    values = np.clip(np.asarray(values, np.float32), 0.0, 1.0)
    power = (1 + OFFSET) * np.maximum(values, TOE_LINEAR) ** (1 / EXPONENT) - OFFSET
    return np.where(values <= TOE_LINEAR, values * SLOPE, power).astype(np.float32)


def linear_to_srgb8(values: np.ndarray) -> np.ndarray:
    """Any shape, linear float -> uint8 sRGB."""
    return (linear_to_srgb(values) * 255.0 + 0.5).astype(np.uint8)


def srgb_to_linear_torch(values: torch.Tensor) -> torch.Tensor:
    """Differentiable twin of :func:`srgb_to_linear` for float tensors."""
    power = ((values.clamp(min=TOE_SRGB) + OFFSET) / (1 + OFFSET)) ** EXPONENT
    return torch.where(values <= TOE_SRGB, values / SLOPE, power)


def linear_to_srgb_torch(values: torch.Tensor) -> torch.Tensor:
    """Differentiable twin of :func:`linear_to_srgb`; not clipped above 1, so that gradients survive."""
    power = (1 + OFFSET) * values.clamp(min=TOE_LINEAR) ** (1 / EXPONENT) - OFFSET
    return torch.where(values <= TOE_LINEAR, values * SLOPE, power)


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    return srgb_to_linear(np.arange(256, dtype=np.float32) / 255.0)
