"""Every backend against the torch reference: ids to the last one, weights and depth to float32."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.util import find_spec

import pytest
import torch
from raster_scenes import Scene, ball, head, soup

from backend.errors import DependencyError
from backend.rendering import cpu_backend
from backend.rendering.backends import available_backends, missing_reason, resolve
from backend.rendering.fragments import IMAGE_LIMIT, Fragments
from backend.rendering.rasterize import interpolate, interpolate_with_torch, rasterize

FAST = ("cpu", "cuda")


def draw(scene: Scene, backend: str, cull: str = "none") -> Fragments:
    reason = missing_reason(backend)
    if reason is not None:
        pytest.skip(reason)
    device = "cuda" if backend == "cuda" else "cpu"
    found = rasterize(scene.vertices.to(device), scene.triangles, scene.height, scene.width, backend, cull)
    return Fragments(found.triangle.cpu(), found.barycentric.cpu(), found.depth.cpu(), backend)


def assert_same(scene: Scene, backend: str, cull: str = "none", covered: float = 0.05) -> None:
    expected, found = draw(scene, "torch", cull), draw(scene, backend, cull)
    assert expected.mask.float().mean() >= covered
    assert torch.equal(found.triangle, expected.triangle)
    torch.testing.assert_close(found.barycentric, expected.barycentric, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.depth, expected.depth, atol=1e-7, rtol=1e-6)
    total = found.barycentric.sum(dim=-1)
    torch.testing.assert_close(total, found.mask.float(), atol=1e-6, rtol=0)
    assert bool((found.depth[~found.mask] == 0).all()) and bool((found.depth[found.mask] > 0).all())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("seed", range(6))
def test_soups(backend: str, seed: int) -> None:
    assert_same(soup(seed, batch=1 + seed % 3, size=(2.0, 20.0, 200.0)[seed % 3]), backend, covered=0.03)


@pytest.mark.parametrize("backend", FAST)
def test_corners_and_edges_on_pixel_centres(backend: str) -> None:
    """Where the top-left rule decides."""
    scene = soup(12, batch=2, size=8.0)
    scene.vertices[..., :2] = scene.vertices[..., :2].floor() + 0.5
    assert_same(scene, backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("cull", ["none", "back"])
def test_closed_surface(backend: str, cull: str) -> None:
    assert_same(ball(batch=2), backend, cull)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("size", [64, 200])
def test_heads(backend: str, size: int) -> None:
    assert_same(head(size, batch=2), backend)


@pytest.mark.parametrize("backend", FAST)
def test_an_image_of_many_bands_and_threads(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_backend, "thread_count", lambda: 5)
    cpu_backend._pool.cache_clear()
    scene = soup(11, count=150, height=301, width=417, size=60.0)
    assert_same(scene, backend)
    cpu_backend._pool.cache_clear()


@pytest.mark.parametrize("backend", ("torch", *FAST))
def test_what_cannot_be_drawn_is_left_out(backend: str) -> None:
    good = [[2.0, 2, 1], [14, 2, 1], [2, 14, 1]]
    bad = [
        [[2.0, 2, 1e-4], [14, 2, 1], [2, 14, 1]],  # before the near plane
        [[2.0, 2, -1], [14, 2, -1], [2, 14, -1]],  # behind the camera
        [[2.0, 2, 0], [14, 2, 0.5], [2, 14, 0.5]],  # in the lens
        [[float("nan"), 2, 0.5], [14, 2, 0.5], [2, 14, 0.5]],
        [[2.0, 2, float("inf")], [14, 2, 0.5], [2, 14, 0.5]],
        [[2.0, 2, 0.5], [IMAGE_LIMIT * 2, 2, 0.5], [2, 14, 0.5]],
        [[2.0, 2, 0.5], [14, 14, 0.5], [8, 8, 0.5]],  # a line
        [[5.0, 5, 0.5], [5, 5, 0.5], [5, 5, 0.5]],  # a point
        [[-20.0, 2, 0.5], [-3, 2, 0.5], [-20, 14, 0.5]],  # beside the image
    ]
    vertices = torch.tensor([good, *bad]).reshape(1, -1, 3)
    scene = Scene(vertices, torch.arange(vertices.shape[1]).reshape(-1, 3), 16, 16)
    found = draw(scene, backend)
    assert set(found.triangle.unique().tolist()) == {-1, 0}
    assert bool(torch.isfinite(found.barycentric).all())


@pytest.mark.parametrize("backend", FAST)
def test_tiny_and_huge_triangles(backend: str) -> None:
    generator = torch.Generator().manual_seed(3)
    tiny = torch.rand(1, 900, 3, generator=generator) * torch.tensor([30.0, 30, 0.2]) + torch.tensor([0, 0, 0.4])
    tiny[:, 1::3] = tiny[:, 0::3] + 0.7 * torch.rand(1, 300, 3, generator=generator) * torch.tensor([1, 1, 0.01])
    tiny[:, 2::3] = tiny[:, 0::3] + 0.7 * torch.rand(1, 300, 3, generator=generator) * torch.tensor([1, 1, 0.01])
    far = IMAGE_LIMIT * 0.99
    huge = torch.tensor([[[-far, -far, 0.7], [far, -far, 0.9], [-far, far, 5.0], [far, -far, 0.9], [far, far, 1.2]]])
    vertices = torch.cat([tiny, huge], dim=1)
    triangles = torch.cat([torch.arange(900).reshape(-1, 3), torch.tensor([[900, 901, 902], [902, 903, 904]])])
    scene = Scene(vertices, triangles, 30, 30)
    assert_same(scene, backend, covered=1.0)
    assert (draw(scene, backend).triangle < 300).float().mean() > 0.005


@pytest.mark.parametrize("backend", ("torch", *FAST))
def test_empty_meshes_and_single_pixels(backend: str) -> None:
    nothing = Scene(torch.zeros(2, 0, 3), torch.zeros(0, 3, dtype=torch.int64), 3, 2)
    assert bool((draw(nothing, backend).triangle == -1).all())
    pixel = Scene(torch.tensor([[[-1.0, -1, 2], [3, -1, 2], [-1, 3, 2]]]), torch.tensor([[0, 1, 2]]), 1, 1)
    assert draw(pixel, backend).depth.item() == pytest.approx(2.0)


def test_threads_may_draw_at_the_same_time() -> None:
    scenes = [ball(96), ball(80, batch=2), soup(5)]
    expected = [draw(scene, "cpu") for scene in scenes]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            if not torch.equal(draw(scenes[number], "cpu").triangle, expected[number].triangle):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k % len(scenes),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("shared", [False, True])
def test_compiled_interpolation(shared: bool) -> None:
    scene = soup(2, batch=3)
    found = draw(scene, "cpu")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1 if shared else 3, scene.vertices.shape[1], 5, generator=generator)
    result = interpolate(values, found, scene.triangles)
    torch.testing.assert_close(result, interpolate_with_torch(values, found, scene.triangles), atol=1e-5, rtol=1e-5)
    assert bool((result[~found.mask] == 0).all())


KERNEL_ON_CPU = """
import sys
sys.path[:0] = {path!r}
import torch
from raster_scenes import Scene, soup
from backend.rendering import cuda_backend, torch_backend
cuda_backend.WINDOW = 8  # more windows than one per triangle
scene = soup(7, batch=2, count=40, height=21, width=26, size=6.0)
on_centres = Scene(scene.vertices.clone(), scene.triangles, scene.height, scene.width)
on_centres.vertices[..., :2] = on_centres.vertices[..., :2].floor() + 0.5
for scene, cull in ((scene, False), (on_centres, True)):
    arguments = (scene.vertices, scene.triangles, scene.height, scene.width, cull)
    expected = torch_backend.find_triangles(*arguments)
    assert (expected >= 0).float().mean() > 0.1
    assert torch.equal(cuda_backend.find_triangles(*arguments), expected)
"""


def test_the_gpu_kernel_in_triton_s_interpreter() -> None:
    """Without a GPU, Triton's interpreter runs the very same kernel on the CPU."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed, so its interpreter cannot run the kernel")
    code = KERNEL_ON_CPU.format(path=[os.path.dirname(__file__)])
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


NO_CACHE_FOLDER = """
from numba.core import caching
name = "UserProvidedCacheLocator" if hasattr(caching, "UserProvidedCacheLocator") else "_UserProvidedCacheLocator"
caching.CacheImpl._locator_classes = [getattr(caching, name)]
import torch
from backend.rendering.rasterize import rasterize
points = torch.tensor([[[1.0, 1, 1], [7, 1, 1], [1, 7, 1]]])
assert rasterize(points, torch.tensor([[0, 1, 2]]), 8, 8, "cpu").mask.any()
"""


def test_a_machine_where_nothing_can_be_cached() -> None:
    """A read-only installation and no home: the kernels compile into a temporary folder."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", NO_CACHE_FOLDER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_auto_takes_what_there_is() -> None:
    assert resolve("auto", "cpu") == "cpu"
    assert resolve("auto", "meta") == "torch"
    reasons = available_backends()
    assert set(reasons) == {"cuda", "cpu", "torch", "nvdiffrast"}
    assert reasons["torch"] is None and reasons["cpu"] is None
    for name, reason in reasons.items():
        if reason is not None:
            assert reason.endswith(".") and "\n" not in reason
            with pytest.raises(DependencyError):
                resolve(name, "cpu")
    with pytest.raises(ValueError, match="unknown"):
        resolve("opengl", "cpu")


def test_nonsense_is_refused() -> None:
    vertices, triangles = torch.rand(1, 4, 3), torch.tensor([[0, 1, 2]])
    for arguments in (
        (vertices[0], triangles, 8, 8),
        (vertices.long(), triangles, 8, 8),
        (vertices, triangles[0], 8, 8),
        (vertices, triangles + 2, 8, 8),
        (vertices, triangles - 1, 8, 8),
        (vertices, triangles, 0, 8),
    ):
        with pytest.raises(ValueError):
            rasterize(*arguments)
    with pytest.raises(ValueError, match="cull"):
        rasterize(vertices, triangles, 8, 8, cull="front")
    found = rasterize(vertices, triangles, 8, 8)
    with pytest.raises(ValueError):
        interpolate(torch.rand(2, 4, 3), found, triangles)
