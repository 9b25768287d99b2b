"""The published encoder once more, in NumPy and in TensorFlow's order, as its description reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from published_weights import BLOCKS, PREFIX

Weights = Mapping[str, np.ndarray]


def run(weights: Weights, crops: np.ndarray) -> np.ndarray:
    """(B, 224, 224, 3) in [0, 1] -> (B, 257)."""
    x = relu(convolve(crops.astype(np.float64), weights, "conv1", stride=2))
    x = largest(x)
    for block, units, _, _ in BLOCKS:
        for unit in range(1, units + 1):
            stride = 2 if unit == units and block < 4 else 1
            x = bottleneck(x, weights, f"block{block}/unit_{unit}/bottleneck_v1", stride)
    x = x.mean(axis=(1, 2), keepdims=True)
    return convolve(x, weights, "logits")[:, 0, 0]


def bottleneck(x: np.ndarray, weights: Weights, name: str, stride: int) -> np.ndarray:
    deep = relu(convolve(x, weights, f"{name}/conv1"))
    deep = relu(convolve(deep, weights, f"{name}/conv2", stride))
    deep = convolve(deep, weights, f"{name}/conv3")
    if f"{PREFIX}{name}/shortcut/weights" in weights:
        x = convolve(x, weights, f"{name}/shortcut")
    return relu(x[:, ::stride, ::stride] + deep)


def convolve(x: np.ndarray, weights: Weights, name: str, stride: int = 1) -> np.ndarray:
    """(B, H, W, C) -> (B, H', W', O): zeros around by half the kernel, then a sum over the kernel's places."""
    kernel = weights[f"{PREFIX}{name}/weights"].astype(np.float64)
    size = len(kernel)
    around = size // 2
    padded = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    high, wide = ((padded.shape[axis] - size) // stride + 1 for axis in (1, 2))
    total = np.zeros((len(x), high, wide, kernel.shape[3])) + weights[f"{PREFIX}{name}/biases"]
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * (high - 1) + 1, stride)
            columns = slice(column, column + stride * (wide - 1) + 1, stride)
            total += padded[:, rows, columns] @ kernel[row, column]
    return total


def largest(x: np.ndarray) -> np.ndarray:
    """The largest of every 3 x 3 that lies wholly inside, every second place."""
    high, wide = ((x.shape[axis] - 3) // 2 + 1 for axis in (1, 2))
    parts = [
        x[:, row : row + 2 * high - 1 : 2, column : column + 2 * wide - 1 : 2]
        for row in range(3)
        for column in range(3)
    ]
    return np.max(parts, axis=0)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)
