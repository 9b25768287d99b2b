"""Rotations as the fit steps through them: batches of PyTorch tensors, from and to rotation vectors.

Symbols: B batch.
"""

from __future__ import annotations

import torch


def exponential(vector: torch.Tensor) -> torch.Tensor:
    """Rodrigues' formula, (B, 3) radians -> (B, 3, 3): ``cos(a) I + sin(a)/a [v]x + (1 - cos(a))/a^2 v v'``.

    The quotients are cardinal sines, which have no hole at zero. `torch.matrix_exp` is the slow twin in the tests.
    """
    angle = vector.norm(dim=1)
    zero = torch.zeros_like(angle)
    x, y, z = vector.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    first, second = torch.sinc(angle / torch.pi), torch.sinc(angle / (2.0 * torch.pi)) ** 2 / 2.0
    outer = vector[:, :, None] * vector[:, None] * second[:, None, None]
    return outer + first[:, None, None] * cross + torch.diag_embed(angle.cos()[:, None].expand(-1, 3))


def rotation_vector(R: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) -> (B, 3) radians: the logarithm, also near half a turn."""
    skewed = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], dim=1) / 2
    sine, cosine = skewed.norm(dim=1), (R.diagonal(dim1=1, dim2=2).sum(dim=1) - 1.0) / 2.0
    angle = torch.atan2(sine, cosine)
    axis = skewed / sine.clamp_min(1e-12)[:, None]
    # Near half a turn the skew part vanishes; (R + 1) / 2 is the axis times itself there.
    symmetric = (R + torch.eye(3).to(R)) / 2
    longest = symmetric.diagonal(dim1=1, dim2=2).argmax(dim=1)
    column = symmetric[torch.arange(len(R), device=R.device), :, longest]
    half = torch.nn.functional.normalize(column, dim=1)
    half = torch.where((half * skewed).sum(dim=1, keepdim=True) < 0, -half, half)
    axis = torch.where(((sine < 1e-4) & (cosine < 0))[:, None], half, axis)
    return torch.where((sine < 1e-7)[:, None] & (cosine > 0)[:, None], skewed, axis * angle[:, None])


def inverse_left_jacobian(vector: torch.Tensor) -> torch.Tensor:
    """(B, 3) -> (B, 3, 3): how ``log(exp(step) exp(vector))`` changes with the step."""
    x, y, z = vector.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    angle = vector.norm(dim=1)[:, None, None]
    safe = angle.clamp_min(1e-3)
    factor = safe**-2.0 - (1.0 + safe.cos()) / (2.0 * safe * safe.sin().clamp_min(1e-9))
    factor = torch.where(angle < 1e-3, torch.full_like(factor, 1.0 / 12.0), factor)
    return torch.eye(3).to(vector) - cross / 2 + factor * (cross @ cross)
