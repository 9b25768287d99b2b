"""Photometric loss: the head, drawn and lit, must look like the photo where there is skin.

Shang et al. 2020, section on the 2D feature loss (after Deng et al. 2019), with skin mask s and render mask M:

    L_render = sum_p s(p) M(p) |I_r(p) - I(p)| / sum_p s(p) M(p).

Differences from the published code:

* there, normals take no gradient and live in a variable that is never emptied: shading uses the running
  mean of the normals of all heads drawn before. Ours are new at every call and differentiable, so that
  shading teaches shape;
* there, the root's floor is summed over the whole picture, background included, and divided by the skin
  alone; ours is 0 for equal pictures;
* there, outlines have no gradient; ours are blended (``backend/rendering/antialias.py``).

Symbols: B batch, V vertices, T triangles, H, W image size.
"""

from __future__ import annotations

import torch

from backend.rendering.antialias import antialias
from backend.rendering.rasterize import interpolate
from backend.rendering.shade import shade, vertex_normals
from backend.rendering.synthesis import View
from backend.rendering.tone import linear_to_srgb_torch
from backend.rendering.transform import project_to_image
from trainer.losses.pixel_consistency import ROOT_FLOOR, colour_distance, weighted_mean


def lit_head(
    vertices: torch.Tensor,
    triangles: torch.Tensor,
    view: View,
    albedo: torch.Tensor,
    gamma: torch.Tensor,
    photo: torch.Tensor,
    neighbours: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw a head over its photo.

    Parameters
    ----------
    vertices : (B, V, 3) float
        Model space, metres: what ``view`` was drawn from. Normals and light are of model space.
    triangles : (T, 3) int
    view : View
    albedo : (B or 1, V, 3) float
        Linear RGB.
    gamma : (B, 3, 9) float
        Light, see ``backend/rendering/shade.py``.
    photo : (B, H, W, 3) float
        sRGB from 0 to 1, shows wherever the head does not.
    neighbours : (T, 3) int64, optional
        :func:`backend.rendering.antialias.edge_neighbours`, to save time.

    Returns
    -------
    (B, H, W, 3) float
        sRGB, not clipped above 1.
    """
    lit = shade(vertex_normals(vertices, triangles), gamma) * albedo
    picture = interpolate(lit, view.fragments, triangles)
    srgb = linear_to_srgb_torch(picture)
    over = torch.where(view.fragments.mask[..., None], srgb, photo)
    batch = len(vertices)
    still = torch.eye(3).to(vertices).expand(batch, 3, 3)
    image = project_to_image(view.vertices_camera, view.K, still, torch.zeros_like(view.t))
    return antialias(over, view.fragments, image, triangles, neighbours)


def photometric_loss(
    render: torch.Tensor, photo: torch.Tensor, skin: torch.Tensor, covered: torch.Tensor
) -> torch.Tensor:
    """Mean distance of colours over the skin.

    Parameters
    ----------
    render, photo : (B, H, W, 3) float
        In one colour space, 0 to 1.
    skin : (B, H, W) float
        How surely each pixel of the photo is bare skin, 0 to 1.
    covered : (B, H, W) bool
        Where the render shows the head.

    Returns
    -------
    (B,) float
    """
    return weighted_mean(colour_distance(render, photo), (skin * covered).detach())


def published_photometric_loss(
    render: torch.Tensor, photo: torch.Tensor, skin: torch.Tensor, covered: torch.Tensor
) -> torch.Tensor:
    """As published, the floor of all pixels over the area of the skin; arguments of :func:`photometric_loss`."""
    difference = skin[..., None] * (render - photo)
    error = ((difference**2).sum(dim=-1) + ROOT_FLOOR).sqrt()
    return error.sum(dim=(1, 2)) / ((skin * covered).sum(dim=(1, 2)) + 1e-6)


class PublishedNormals:
    """Normals as published: summed over every call, without gradient.

    One object stands for the variable of one view and one place in the batch.
    """

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None

    @torch.no_grad()
    def __call__(self, vertices: torch.Tensor, triangles: torch.Tensor) -> torch.Tensor:
        """(B, V, 3), (T, 3) -> (B, V, 3) unit normals of all the heads so far."""
        corners = triangles.long()
        a, b, c = (vertices[:, corners[:, corner]] for corner in range(3))
        faces = torch.nn.functional.normalize(torch.cross(b - a, c - a, dim=-1), dim=-1, eps=1e-12)
        total = torch.zeros_like(vertices) if self.total is None else self.total
        for corner in range(3):
            total = total.index_add(1, corners[:, corner], faces)
        self.total = total
        return torch.nn.functional.normalize(total, dim=-1, eps=1e-12)
