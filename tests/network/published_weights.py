"""Weights with the published names and shapes, made from numbers that every NumPy draws alike."""

from __future__ import annotations

import zlib

import numpy as np

PREFIX = "resnet_v1_50/"

# The table of docs/mgcnet.md written out by hand: block, units, inputs of its first unit, base width.
BLOCKS = ((1, 3, 64, 64), (2, 4, 256, 128), (3, 6, 512, 256), (4, 3, 1024, 512))


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The 108 tensors by their names in the checkpoint; kernels are height, width, inputs, outputs."""
    kernels = {"conv1": (7, 7, 3, 64), "logits": (1, 1, 2048, 257)}
    for block, units, inputs, base in BLOCKS:
        for unit in range(1, units + 1):
            name = f"block{block}/unit_{unit}/bottleneck_v1"
            if unit == 1:
                kernels[f"{name}/shortcut"] = (1, 1, inputs, 4 * base)
            kernels[f"{name}/conv1"] = (1, 1, inputs if unit == 1 else 4 * base, base)
            kernels[f"{name}/conv2"] = (3, 3, base, base)
            kernels[f"{name}/conv3"] = (1, 1, base, 4 * base)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, kernel in kernels.items():
        shapes[f"{PREFIX}{name}/weights"] = kernel
        shapes[f"{PREFIX}{name}/biases"] = kernel[3:]
    return shapes


def invented_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers from the name alone, scaled so that the activations of the deep layers stay of order 1.

    ``RandomState`` is frozen: every version of NumPy gives the same numbers.
    """
    numbers = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) - 0.5
    if len(shape) == 1:
        return (0.2 * numbers).astype(np.float32)
    reach = np.sqrt(24.0 / np.prod(shape[:3])) * (0.3 if name.endswith("conv3/weights") else 1.0)
    return (reach * numbers).astype(np.float32)


def invented_weights() -> dict[str, np.ndarray]:
    return {name: invented_tensor(name, shape) for name, shape in published_shapes().items()}


def invented_crops(count: int, side: int = 224) -> np.ndarray:
    """(count, side, side, 3) uint8 with coarse and fine structure."""
    state = np.random.RandomState(7)
    coarse = np.kron(state.randint(0, 200, (count, 8, 8, 3)), np.ones((1, side // 8, side // 8, 1), int))
    return (coarse + state.randint(0, 56, (count, side, side, 3))).astype(np.uint8)
