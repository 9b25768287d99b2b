"""The nvdiffrast adapter against a stand-in that speaks its documented language.

The stand-in accepts and returns what nvdiffrast documents (clip coordinates, ids from one, weights of
the first two corners, row 0 at NDC y = -1), works on the CPU and refuses what nvdiffrast refuses.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
from raster_scenes import Scene, ball, soup

from backend.errors import DependencyError
from backend.rendering import nvdiffrast_backend
from backend.rendering.antialias import antialias
from backend.rendering.fragments import Fragments
from backend.rendering.rasterize import interpolate, rasterize


def from_clip(pos: torch.Tensor, height: int, width: int) -> torch.Tensor:
    ndc = pos[..., :2] / pos[..., 3:]
    return torch.stack([(ndc[..., 0] + 1) * width / 2, (ndc[..., 1] + 1) * height / 2, pos[..., 3]], dim=-1)


def check(pos: torch.Tensor, tri: torch.Tensor) -> None:
    assert pos.dtype == torch.float32 and pos.is_contiguous() and pos.dim() == 3 and pos.shape[2] == 4
    assert tri.dtype == torch.int32 and tri.is_contiguous() and tri.shape[1] == 3


class StandIn(types.ModuleType):
    class RasterizeCudaContext:
        def __init__(self, device: str) -> None:
            self.device = device

    def rasterize(self, context, pos, tri, resolution, ranges=None, grad_db=True):
        assert isinstance(context, self.RasterizeCudaContext) and ranges is None
        check(pos, tri)
        used = pos[:, tri.long()]
        assert bool((used[..., 2].abs() <= used[..., 3]).all()), "outside the depth range of clip space"
        found = rasterize(from_clip(pos, *resolution), tri, *resolution, backend="torch")
        z_over_w = (pos[..., 2] / pos[..., 3])[:, tri[:, 0].long()].amin()
        parts = [found.barycentric[..., :2], z_over_w.expand_as(found.depth)[..., None]]
        return torch.cat([*parts, (found.triangle + 1).float()[..., None]], dim=-1), None

    def interpolate(self, attr, rast, tri, rast_db=None, diff_attrs=None):
        assert attr.is_contiguous() and rast.is_contiguous() and tri.dtype == torch.int32
        ids = rast[..., 3].long() - 1
        weights = torch.stack([rast[..., 0], rast[..., 1], 1 - rast[..., 0] - rast[..., 1]], dim=-1)
        weights = torch.where((ids >= 0)[..., None], weights, torch.zeros_like(weights))
        item = torch.arange(len(ids))[:, None, None, None] if len(attr) > 1 else 0
        return (attr[item, tri.long()[ids.clamp(min=0)]] * weights[..., None]).sum(dim=-2), None

    def antialias(self, color, rast, pos, tri, topology_hash=None, pos_gradient_boost=1.0):
        check(pos, tri)
        height, width = color.shape[1:3]
        assert rast.is_contiguous() and color.is_contiguous()
        # z / w of the raster must order surfaces as the depths behind it do: compare with the clip positions.
        vertices = from_clip(pos, height, width)
        found = rasterize(vertices, tri, height, width, backend="torch")
        covered = (rast[..., 3] > 0) & (found.triangle + 1 == rast[..., 3])
        order_z, order_depth = rast[..., 2][covered].argsort(), found.depth[covered].argsort()
        torch.testing.assert_close(found.depth[covered][order_z], found.depth[covered][order_depth], atol=1e-4, rtol=0)
        return antialias(color, Fragments(found.triangle, found.barycentric, found.depth), vertices, tri)


@pytest.fixture()
def stand_in(monkeypatch: pytest.MonkeyPatch):
    module = StandIn("nvdiffrast.torch")
    package = types.ModuleType("nvdiffrast")
    package.torch = module
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    nvdiffrast_backend._context.cache_clear()
    yield module
    nvdiffrast_backend._context.cache_clear()


def both(scene: Scene, cull_back: bool) -> tuple[Fragments, Fragments]:
    cull = "back" if cull_back else "none"
    expected = rasterize(scene.vertices, scene.triangles, scene.height, scene.width, "torch", cull)
    arguments = (scene.vertices, scene.triangles, scene.height, scene.width, cull_back)
    return expected, nvdiffrast_backend.rasterize(*arguments)


@pytest.mark.parametrize("cull_back", [False, True])
@pytest.mark.parametrize("make", [ball, soup], ids=["ball", "soup"])
def test_conversions(stand_in, make, cull_back: bool) -> None:
    """Ids, weights in our order and depth come back; soups have corners behind the camera, different per item."""
    scene = make(batch=2) if make is ball else make(9, batch=2)
    if make is soup:
        scene.vertices[0, ::17, 2] = -0.1
    expected, found = both(scene, cull_back)
    # Pixels through clip space and back lose a few bits, which may flip pixels whose centre is on an edge.
    same = found.triangle == expected.triangle
    assert same.float().mean() > 0.998 and expected.mask.float().mean() > 0.05
    torch.testing.assert_close(found.barycentric[same], expected.barycentric[same], atol=2e-2, rtol=0)
    assert (found.barycentric[same] - expected.barycentric[same]).abs().mean() < 1e-4
    torch.testing.assert_close(found.depth[same], expected.depth[same], atol=1e-2, rtol=1e-3)
    assert found.backend == "nvdiffrast"


def test_gradients_pass_through(stand_in) -> None:
    scene = ball()
    leaf = scene.vertices.clone().requires_grad_()
    found = nvdiffrast_backend.rasterize(leaf, scene.triangles, 64, 64, False)
    values = torch.rand(1, leaf.shape[1], 2, generator=torch.Generator().manual_seed(0))
    image = interpolate(values, found, scene.triangles)
    smooth = antialias(image, found, leaf, scene.triangles)
    smooth.square().sum().backward()
    reference = scene.vertices.clone().requires_grad_()
    plain = rasterize(reference, scene.triangles, 64, 64, "torch")
    expected = antialias(interpolate(values, plain, scene.triangles), plain, reference, scene.triangles)
    expected.square().sum().backward()
    close = (leaf.grad - reference.grad).abs() < 0.02 * reference.grad.abs().max()
    assert close.float().mean() > 0.99 and reference.grad.abs().max() > 0.1


def test_nothing_to_draw(stand_in) -> None:
    scene = ball()
    behind = scene.vertices * torch.tensor([1.0, 1.0, -1.0])
    found = nvdiffrast_backend.rasterize(behind, scene.triangles, 8, 8, False)
    assert not bool(found.mask.any())


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", None)
    with pytest.raises(DependencyError, match="research and evaluation only"):
        nvdiffrast_backend.load()
