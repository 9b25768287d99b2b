"""What cameras and networks of the world do to pictures: blur, noise, JPEG. On the training device, many at once.

Symbols: P pictures, H, W picture size.
"""

from __future__ import annotations

import numpy as np
import torch

# Part of the pictures that are blurred (out of focus, small faces made large, or shaken) and that went through JPEG.
BLURRED, SHAKEN, COMPRESSED = 0.4, 0.1, 0.5

# Strongest blur in parts of the side (a standard deviation), and noise of the sRGB values.
STRONGEST_BLUR, STRONGEST_NOISE = 0.015, 0.04

# Luminance quantisation of the JPEG standard (ITU-T T.81, table K.1).
JPEG_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
BLOCK = 8

# RGB to luminance and two colour differences (JFIF, ITU-R BT.601).
TO_LUMINANCE = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def photographed(srgb: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures as a camera and a website leave them.

    Parameters
    ----------
    srgb : (P, H, W, 3) float
        0 to 1; sides that 8 divides.
    rng : Generator
        What is done to which picture, and the seed of the noise. The noise itself is drawn on the device, so
        that it is the same again on devices of one kind.

    Returns
    -------
    (P, H, W, 3) uint8
    """
    count, side = len(srgb), srgb.shape[1]

    def some(part: float, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.where(rng.random(count) < part, values, 0.0)).to(srgb)

    sigma = some(BLURRED, STRONGEST_BLUR * side * rng.beta(1.0, 2.0, count))
    shake = some(SHAKEN, STRONGEST_BLUR * side * rng.random(count))
    noise = torch.from_numpy(STRONGEST_NOISE * rng.beta(1.0, 3.0, count)).to(srgb)
    quality = some(COMPRESSED, rng.uniform(25.0, 95.0, count))
    dice = torch.Generator(srgb.device).manual_seed(int(rng.integers(2**62)))
    pictures = blurred(srgb.permute(0, 3, 1, 2), sigma + shake, sigma)
    grain = torch.randn(pictures.shape, generator=dice, device=srgb.device, dtype=srgb.dtype)
    pictures = (pictures + noise[:, None, None, None] * grain).clamp(0.0, 1.0)
    pictures = torch.where((quality > 0)[:, None, None, None], compressed(pictures, quality.clamp(min=1.0)), pictures)
    return (255.0 * pictures).round().clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def blurred(pictures: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """(P, 3, H, W) under Gauss kernels of standard deviations (P,), (P,) pixels; 0 leaves a picture as it is."""
    count, channels, height, width = pictures.shape
    reach = int(np.ceil(3.0 * float(torch.maximum(across.max(), down.max())))) if count else 0
    if not reach:
        return pictures
    offset = torch.arange(-reach, reach + 1, device=pictures.device)
    flat = pictures.reshape(1, count * channels, height, width)
    for sigma, along_x in ((across, True), (down, False)):
        kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
        shape = (-1, 1, 1, 2 * reach + 1) if along_x else (-1, 1, 2 * reach + 1, 1)
        pad = (reach, reach, 0, 0) if along_x else (0, 0, reach, reach)
        padded = torch.nn.functional.pad(flat, pad, mode="replicate")
        flat = torch.nn.functional.conv2d(padded, kernel.reshape(shape), groups=count * channels)
    return flat.reshape(pictures.shape)


def compressed(pictures: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """(P, 3, H, W) from 0 to 1 with what JPEG of ``quality`` (P,), 1 to 100, takes from them.

    Blocks of 8 x 8, cosine transform, quantisation of all three channels by the standard's table for
    luminance, scaled as the Independent JPEG Group does; colours are not subsampled.
    """
    count, _, height, width = pictures.shape
    colours = torch.tensor(TO_LUMINANCE).to(pictures)
    scale = torch.where(quality < 50.0, 5000.0 / quality, 200.0 - 2.0 * quality) / 100.0
    steps = (torch.tensor(JPEG_LUMINANCE).to(pictures) * scale[:, None, None]).clamp(min=1.0) / 255.0
    place = torch.arange(BLOCK).to(pictures)
    cosine = torch.cos(np.pi / BLOCK * (place + 0.5) * place[:, None]) * (2.0 / BLOCK) ** 0.5
    cosine[0] /= 2.0**0.5
    blocks = torch.einsum("cd,pdhw->pchw", colours, pictures)
    blocks = blocks.reshape(count, 3, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    transformed = cosine @ (blocks - 0.5) @ cosine.T
    table = steps[:, None, None, None]
    blocks = cosine.T @ ((transformed / table).round() * table) @ cosine + 0.5
    restored = blocks.transpose(3, 4).reshape(count, 3, height, width)
    return torch.einsum("cd,pdhw->pchw", torch.linalg.inv(colours), restored).clamp(0.0, 1.0)
