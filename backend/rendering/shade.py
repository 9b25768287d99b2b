"""Light: spherical harmonics of order 2, and how to read them off a photo.

The basis has MGCNet's constants and signs (the same as Deep3D's), so that its 27 coefficients mean the
same here. ``gamma`` is per colour channel; colour = albedo * (basis . gamma), linear, not clamped.

Symbols: B batch, V vertices, T triangles, N pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch

# Lambert's cosine lobe per band times the normalisation of the real harmonics, as published.
A0 = math.pi / math.sqrt(4 * math.pi)
A1 = (2 * math.pi / math.sqrt(3)) * (math.sqrt(3) / math.sqrt(4 * math.pi))
A2 = (2 * math.pi / math.sqrt(8)) * (3 * math.sqrt(5) / math.sqrt(12 * math.pi))

BASIS_SIZE = 9

# First coefficient of the light that MGCNet's output is added to: an even grey shade of 0.709.
AMBIENT = 0.8

# Huber's constant: 95 % efficiency for normal noise. The median absolute deviation of normal noise is
# 0.6745 of its standard deviation.
HUBER, MAD_TO_SIGMA = 1.345, 1.0 / 0.6745


def sh_basis(normals: torch.Tensor) -> torch.Tensor:
    """(..., 3) unit normals in model space -> (..., 9) basis values."""
    x, y, z = normals.unbind(-1)
    values = [
        A0 * torch.ones_like(x),
        -A1 * y,
        A1 * z,
        -A1 * x,
        A2 * x * y,
        -A2 * y * z,
        A2 / (2 * math.sqrt(3)) * (3 * z * z - 1),
        -A2 * x * z,
        A2 / 2 * (x * x - y * y),
    ]
    return torch.stack(values, dim=-1)


def sh_basis_gradient(normals: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 9, 3): how :func:`sh_basis` changes with the three numbers of a normal."""
    x, y, z = np.moveaxis(np.asarray(normals), -1, 0)
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = [
        [zero, zero, zero],
        [zero, -A1 * one, zero],
        [zero, zero, A1 * one],
        [-A1 * one, zero, zero],
        [A2 * y, A2 * x, zero],
        [zero, -A2 * z, -A2 * y],
        [zero, zero, A2 * math.sqrt(3) * z],
        [-A2 * z, zero, -A2 * x],
        [A2 * x, -A2 * y, zero],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def ambient_light(strength: float = AMBIENT, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(3, 9) light that comes evenly from everywhere."""
    gamma = torch.zeros(3, BASIS_SIZE, dtype=dtype)
    gamma[:, 0] = strength
    return gamma


def shade(normals: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """Light that arrives at surfaces.

    Parameters
    ----------
    normals : (B, ..., 3) float
        Unit normals in model space.
    gamma : (3, 9) or (B, 3, 9) float

    Returns
    -------
    (B, ..., 3) float
        Multiply by the albedo. Not clamped. Background pixels (zero normals) get meaningless values.
    """
    basis = sh_basis(normals)
    if gamma.dim() == 2:
        return torch.einsum("...k,ck->...c", basis, gamma)
    return torch.einsum("b...k,bck->b...c", basis, gamma)


def vertex_normals(vertices: torch.Tensor, triangles: torch.Tensor, weighting: str = "area") -> torch.Tensor:
    """Differentiable unit normals at the vertices.

    Parameters
    ----------
    vertices : (B, V, 3) float
    triangles : (T, 3) int
        Counter-clockwise seen from outside.
    weighting : str
        ``area`` weighs faces by their area; ``equal`` counts every face alike, as MGCNet does.

    Returns
    -------
    (B, V, 3) float
        An isolated vertex gets (0, 0, 0).
    """
    if weighting not in ("area", "equal"):
        raise ValueError(f"weighting must be area or equal, not {weighting!r}")
    triangles = triangles.to(vertices.device).long()
    a, b, c = (vertices[:, triangles[:, corner]] for corner in range(3))
    faces = torch.cross(b - a, c - a, dim=-1)
    if weighting == "equal":
        faces = torch.nn.functional.normalize(faces, dim=-1, eps=1e-20)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(1, triangles[:, corner], faces)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)


def estimate_light(
    pixels: torch.Tensor,
    normals: torch.Tensor,
    albedo: torch.Tensor,
    weights: torch.Tensor | None = None,
    ridge: float = 1e-3,
    iterations: int = 10,
) -> torch.Tensor:
    """Light that explains pixels of known normal and albedo, by robust least squares.

    Parameters
    ----------
    pixels : (N, 3) float
        Linear RGB.
    normals : (N, 3) float
        Unit normals in model space.
    albedo : (N, 3) or (3,) float
        Linear RGB.
    weights : (N,) float, optional
        Trust in each pixel, not negative.
    ridge : float
        Pull of all but the even part of the light towards zero, relative to the data. A photo shows
        half of a head at best, so some directions are hardly seen.
    iterations : int
        Rounds of reweighting (Huber) that take power from eyes, hair, highlights and cast shadows.

    Returns
    -------
    (3, 9) float
    """
    if len(pixels) < BASIS_SIZE:
        raise ValueError(f"{len(pixels)} pixels do not determine {BASIS_SIZE} coefficients of light")
    dtype = torch.float64 if pixels.device.type != "mps" else torch.float32
    pixels, basis = pixels.to(dtype), sh_basis(normals.to(dtype))
    albedo = albedo.to(dtype).expand_as(pixels)
    given = torch.ones_like(pixels[:, 0]) if weights is None else weights.to(dtype)
    penalty = torch.full((BASIS_SIZE,), float(ridge), dtype=dtype, device=pixels.device)
    penalty[0] = 0.0
    robust = torch.ones_like(given)
    gamma = ambient_light(dtype=dtype).to(pixels.device)
    for _ in range(max(1, iterations)):
        total = given * robust
        design = basis[None] * albedo.T[..., None]
        normal = torch.einsum("cnk,n,cnl->ckl", design, total, design)
        right = torch.einsum("cnk,n,nc->ck", design, total, pixels)
        scale = normal.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
        regular = torch.diag_embed(penalty * scale[:, None]) + 1e-12 * torch.eye(BASIS_SIZE, dtype=dtype).to(normal)
        gamma = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(normal + regular))[..., 0]
        residual = (pixels - torch.einsum("cnk,ck->nc", design, gamma)).norm(dim=1)
        seen = residual[given > 0]
        sigma = MAD_TO_SIGMA * seen.median().clamp(min=1e-9)
        robust = (HUBER * sigma / residual.clamp(min=1e-12)).clamp(max=1.0)
    return gamma.to(torch.float32)
