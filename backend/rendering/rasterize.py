"""Rasterize and interpolate: one signature, several backends.

``torch`` is the portable reference, ``cpu`` the compiled one, ``cuda`` runs on NVIDIA GPUs, and
``nvdiffrast`` is an optional adapter. They follow the rule written in ``fragments.py``.

Symbols: B batch, V vertices, T triangles, H, W image size, C channels.
"""

from __future__ import annotations

from typing import cast

import torch

from backend.rendering import cpu_backend, torch_backend
from backend.rendering.backends import resolve
from backend.rendering.barycentric import surface_at_pixels
from backend.rendering.fragments import Fragments

CULL_MODES = ("none", "back")


def rasterize(
    vertices_image: torch.Tensor,
    triangles: torch.Tensor,
    height: int,
    width: int,
    backend: str = "auto",
    cull: str = "none",
) -> Fragments:
    """Find what each pixel sees.

    Parameters
    ----------
    vertices_image : (B, V, 3) float32 or float64
        x, y in pixels (the centre of the top-left pixel is (0.5, 0.5), y down) and camera depth in
        metres, see :func:`backend.rendering.transform.project_to_image`.
    triangles : (T, 3) int
        Vertex indices, shared by the batch.
    height, width : int
        Image size in pixels.
    backend : str
        ``auto``, ``torch``, ``cpu``, ``cuda`` or ``nvdiffrast``.
    cull : str
        ``none``, or ``back`` to leave out triangles that are clockwise as displayed (with outward
        counter-clockwise faces: those that look away from the camera).

    Returns
    -------
    Fragments
        On the device of ``vertices_image``. Barycentric weights and depth are differentiable with
        respect to ``vertices_image`` and have its type; coverage is not, see
        :func:`backend.rendering.antialias.antialias`.

    Raises
    ------
    ValueError
        Shapes, types or indices that make no sense.
    DependencyError
        The backend that was asked for cannot run here.
    """
    triangles = _checked(vertices_image, triangles, height, width, cull)
    cull_back = cull == "back"
    name = resolve(backend, vertices_image.device)
    if name == "nvdiffrast":
        from backend.rendering import nvdiffrast_backend

        return nvdiffrast_backend.rasterize(vertices_image, triangles, height, width, cull_back)
    if name == "cpu":
        on_cpu, single = vertices_image.device.type == "cpu", vertices_image.dtype == torch.float32
        if on_cpu and single:
            drawn = cpu_backend.CompiledSurface.apply(vertices_image, triangles, height, width, cull_back)
            found, barycentric, depth = cast("tuple[torch.Tensor, torch.Tensor, torch.Tensor]", drawn)
            return Fragments(found, barycentric, depth, name)
        found, _, _ = cpu_backend.rasterize_tensors(vertices_image, triangles, height, width, cull_back, False)
        found = found.to(vertices_image.device)
    elif name == "cuda":
        from backend.rendering import cuda_backend

        found = cuda_backend.find_triangles(vertices_image, triangles, height, width, cull_back)
    else:
        found = torch_backend.find_triangles(vertices_image, triangles, height, width, cull_back)
    barycentric, depth = surface_at_pixels(found, vertices_image, triangles)
    return Fragments(found, barycentric, depth, name)


def interpolate(attributes: torch.Tensor, fragments: Fragments, triangles: torch.Tensor) -> torch.Tensor:
    """Spread per-vertex values over the pixels.

    Parameters
    ----------
    attributes : (B or 1, V, C) float
        Values at the vertices that ``triangles`` indexes; a batch of 1 is shared.
    fragments : Fragments
    triangles : (T, 3) int
        The triangles that were rasterized, or another array of the same length that indexes
        ``attributes`` (texture coordinates: ``triangles_uv``).

    Returns
    -------
    (B, H, W, C) float
        0 for background. Differentiable with respect to ``attributes`` and the barycentric weights.
    """
    if attributes.dim() != 3 or attributes.shape[0] not in (1, fragments.triangle.shape[0]):
        raise ValueError(f"attributes must be (B or 1, V, C), not {tuple(attributes.shape)}")
    triangles = triangles.to(attributes.device).long()
    _check_indices(triangles, attributes.shape[1])
    if int(fragments.triangle.max()) >= len(triangles):
        raise ValueError("triangles has fewer rows than the triangles that were rasterized")
    if fragments.backend == "nvdiffrast":
        from backend.rendering import nvdiffrast_backend

        return nvdiffrast_backend.interpolate(attributes, fragments, triangles)
    needs_gradient = torch.is_grad_enabled() and (attributes.requires_grad or fragments.barycentric.requires_grad)
    on_cpu = attributes.device.type == "cpu" and fragments.barycentric.dtype == torch.float32
    if fragments.backend == "cpu" and on_cpu and attributes.dtype == torch.float32 and not needs_gradient:
        return cpu_backend.interpolate_tensors(attributes, fragments.triangle, fragments.barycentric, triangles)
    return interpolate_with_torch(attributes, fragments, triangles)


def interpolate_with_torch(attributes: torch.Tensor, fragments: Fragments, triangles: torch.Tensor) -> torch.Tensor:
    """The reference of :func:`interpolate`: gathers the corners of covered pixels and weighs them."""
    item, row, column = fragments.mask.nonzero(as_tuple=True)
    corners = triangles[fragments.triangle[item, row, column].long()]
    source = item if attributes.shape[0] > 1 else torch.zeros_like(item)
    weights = fragments.barycentric[item, row, column]
    values = (attributes[source[:, None], corners] * weights[..., None]).sum(dim=1)
    out = values.new_zeros((*fragments.triangle.shape, attributes.shape[-1]))
    return out.index_put((item, row, column), values)


def _checked(vertices_image: torch.Tensor, triangles: torch.Tensor, height: int, width: int, cull: str) -> torch.Tensor:
    """Refuse what cannot be drawn; triangles as int64 on the device of the vertices."""
    if vertices_image.dim() != 3 or vertices_image.shape[2] != 3 or not vertices_image.is_floating_point():
        raise ValueError(f"vertices_image must be (B, V, 3) float, not {tuple(vertices_image.shape)}")
    if triangles.dim() != 2 or triangles.shape[1] != 3:
        raise ValueError(f"triangles must be (T, 3), not {tuple(triangles.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"the image must have at least one pixel, not {width} x {height}")
    if cull not in CULL_MODES:
        raise ValueError(f"cull must be one of {', '.join(CULL_MODES)}, not {cull!r}")
    triangles = triangles.to(vertices_image.device).long()
    _check_indices(triangles, vertices_image.shape[1])
    return triangles


def _check_indices(triangles: torch.Tensor, count: int) -> None:
    """The compiled kernels trust indices, so nothing may pass unchecked."""
    if len(triangles) == 0:
        return
    # NumPy scans small arrays on one thread, faster than PyTorch wakes its own.
    lowest, highest = (
        (int(triangles.numpy().min()), int(triangles.numpy().max()))
        if triangles.device.type == "cpu"
        else (int(triangles.min()), int(triangles.max()))
    )
    if lowest < 0 or highest >= count:
        raise ValueError(f"triangles name vertices beyond the {count} that there are")
