"""The light's constants against integrals, its estimate against the truth, tone curves against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from raster_scenes import sphere

from backend.geometry.mesh import vertex_normals as vertex_normals_numpy
from backend.rendering import tone
from backend.rendering.shade import ambient_light, estimate_light, sh_basis, shade, vertex_normals


def directions(rings: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the unit sphere and quadrature weights (Gauss-Legendre in z), exact for polynomials."""
    z, weight = np.polynomial.legendre.leggauss(rings)
    angle = np.arange(2 * rings) * np.pi / rings
    around = np.sqrt(1 - z[:, None] ** 2)
    points = np.stack(np.broadcast_arrays(around * np.cos(angle), around * np.sin(angle), z[:, None]), axis=-1)
    weights = np.repeat(weight * np.pi / rings, 2 * rings)
    return torch.from_numpy(points.reshape(-1, 3).copy()), torch.from_numpy(weights)


def random_normals(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)


def test_basis_is_orthogonal_with_the_published_scales() -> None:
    """Real harmonics are orthonormal; ours carry pi, 2 pi / sqrt(3) and 2 pi / sqrt(8) by band."""
    points, weights = directions()
    basis = sh_basis(points)
    gram = basis.T @ (weights[:, None] * basis)
    bands = torch.tensor([math.pi**2] + [4 * math.pi**2 / 3] * 3 + [4 * math.pi**2 / 8] * 5, dtype=torch.float64)
    torch.testing.assert_close(gram, torch.diag(bands), atol=1e-10, rtol=0)


def test_basis_values_and_signs() -> None:
    """mgcnet.md section 4, digit by digit, at a point where all nine differ."""
    x, y, z = 0.48, -0.6, 0.64
    a0, a1, a2 = 0.8862269, 1.7724539, 2.4270324
    expected = [a0, -a1 * y, a1 * z, -a1 * x, a2 * x * y, -a2 * y * z, 0.7006239 * (3 * z * z - 1), -a2 * x * z]
    expected.append(1.2135162 * (x * x - y * y))
    result = sh_basis(torch.tensor([x, y, z], dtype=torch.float64))
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-7)


def test_ambient_light_is_the_published_grey() -> None:
    shading = shade(random_normals(5)[None].float(), ambient_light())
    torch.testing.assert_close(shading, torch.full_like(shading, 0.709), atol=1e-4, rtol=0)


def test_shade_shapes() -> None:
    normals = random_normals(2 * 4 * 5).reshape(2, 4, 5, 3)
    gamma = torch.randn(2, 3, 9, dtype=torch.float64)
    together = shade(normals, gamma)
    assert together.shape == (2, 4, 5, 3)
    torch.testing.assert_close(together[1], shade(normals[1], gamma[1]))
    torch.testing.assert_close(together[0, 1, 2, 2], sh_basis(normals[0, 1, 2]) @ gamma[0, 2])


def lit_pixels(count: int = 3000) -> tuple[torch.Tensor, ...]:
    """Pixels of a known light on the half of directions that a photo sees."""
    normals = random_normals(count, 3)
    normals[:, 2] = normals[:, 2].abs()
    generator = torch.Generator().manual_seed(4)
    gamma = ambient_light(dtype=torch.float64) + 0.15 * torch.randn(3, 9, generator=generator, dtype=torch.float64)
    albedo = 0.3 + 0.4 * torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return albedo * shade(normals, gamma), normals, albedo, gamma


def test_light_is_recovered() -> None:
    pixels, normals, albedo, gamma = lit_pixels()
    torch.testing.assert_close(estimate_light(pixels, normals, albedo, ridge=0.0).double(), gamma, atol=1e-4, rtol=0)
    close = shade(normals, estimate_light(pixels, normals, albedo).double())
    torch.testing.assert_close(close, shade(normals, gamma), atol=0.02, rtol=0)


def test_light_survives_hair_and_highlights() -> None:
    """A fifth of the pixels is wrong: black or burnt out. Plain least squares is far off, ours is not."""
    pixels, normals, albedo, gamma = lit_pixels()
    dirty = pixels.clone()
    dirty[:400], dirty[400:600] = 0.02, 1.5
    truth = shade(normals, gamma)
    robust = (shade(normals, estimate_light(dirty, normals, albedo, ridge=0.0).double()) - truth).abs().mean()
    plain = estimate_light(dirty, normals, albedo, ridge=0.0, iterations=1).double()
    assert robust < 0.02 < (shade(normals, plain) - truth).abs().mean()
    weights = torch.ones(len(pixels))
    weights[:600] = 0.0
    exact = estimate_light(dirty, normals, albedo, weights, ridge=0.0).double()
    torch.testing.assert_close(exact, gamma, atol=1e-4, rtol=0)


def test_ridge_keeps_the_unseen_side_tame() -> None:
    """All pixels look the same way: nine coefficients cannot be told apart, and none explodes."""
    normals = torch.nn.functional.normalize(torch.tensor([[0.0, 0, 1]]) + 0.02 * random_normals(50).float(), dim=-1)
    pixels = 0.5 * shade(normals, ambient_light()) + 0.01 * torch.randn(
        50, 3, generator=torch.Generator().manual_seed(1)
    )
    gamma = estimate_light(pixels, normals, torch.full((3,), 0.5))
    assert gamma.abs().max() < 1.0
    with pytest.raises(ValueError, match="pixels"):
        estimate_light(pixels[:8], normals[:8], torch.full((3,), 0.5))


def test_vertex_normals() -> None:
    points, triangles = sphere(16, 24, radius=1.0)
    normals = vertex_normals(points[None], triangles)[0]
    np.testing.assert_allclose(normals.numpy(), vertex_normals_numpy(points.numpy(), triangles.numpy()), atol=1e-5)
    inner = points[:, 1].abs() < 0.95
    assert ((normals * points).sum(dim=1)[inner] > 0.99).all()
    bent = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 9], [5, 5, 5]]], dtype=torch.float64)
    two = torch.tensor([[0, 1, 2], [0, 2, 3]])
    equal = vertex_normals(bent, two, "equal")[0]
    torch.testing.assert_close(equal[0], torch.tensor([1.0, 0, 1], dtype=torch.float64) / math.sqrt(2))
    assert vertex_normals(bent, two)[0, 0, 0] > 0.99
    assert bool((equal[4] == 0).all())
    with pytest.raises(ValueError):
        vertex_normals(bent, two, "angle")


@pytest.mark.parametrize("weighting", ["area", "equal"])
def test_vertex_normals_are_differentiable(weighting: str) -> None:
    points, triangles = sphere(5, 7, radius=1.0)
    # Without the poles, whose triangles have no area and no normal.
    inner = ((triangles >= 7) & (triangles < 35)).all(dim=1)
    triangles, leaf = triangles[inner] - 7, points[None, 7:35].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: vertex_normals(p, triangles, weighting), (leaf,), atol=1e-5)


def test_tone_curves() -> None:
    every = np.arange(256, dtype=np.uint8)
    linear = tone.srgb_to_linear(every)
    assert linear[0] == 0 and linear[255] == 1 and linear[188] == pytest.approx(0.5029, abs=1e-4)
    np.testing.assert_array_equal(tone.linear_to_srgb8(linear), every)
    fine = np.linspace(0, 1, 1001, dtype=np.float32)
    np.testing.assert_allclose(tone.linear_to_srgb(tone.srgb_to_linear(fine)), fine, atol=1e-5)
    for one, two in (
        (tone.srgb_to_linear, tone.srgb_to_linear_torch),
        (tone.linear_to_srgb, tone.linear_to_srgb_torch),
    ):
        np.testing.assert_allclose(two(torch.from_numpy(fine)).numpy(), one(fine), atol=1e-6)
        # At the joint of the two pieces (0.0031308, 0.04045) the curve has a kink; stay clear of it.
        leaf = torch.tensor([0.0, 0.002, 0.2, 0.9], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(two, (leaf,))
