"""View synthesis: one photo of a head as another photo's camera would show it, without what was hidden.

After Shang et al. 2020, "Self-Supervised Monocular 3D Face Reconstruction by Occlusion-Aware Multi-view
Geometry Consistency", the section on occlusion-aware view synthesis: the depth of every pixel of the
*target* view carries it into the *source* view, whose picture is read there; the *covisible map* says
which pixels show skin that both views see. Differentiable with respect to the shape and pose of both
views; the map is a choice of pixels and has no gradient. Training and the joint solve over photos share
this module.

Symbols: B batch, V vertices, T triangles, H, W size of the target, H', W' of the source, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from backend.rendering.fragments import NEAR_PLANE, Fragments
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.transform import project_to_image
from backend.rendering.two_views import rays, relative_pose

# What a source pixel beside the place that is read may show and still count as the same surface, in widths
# of that pixel on the skin: a facet whose plane passes this near to the spot (lids and lips bend by more
# than half a width between neighbours of a small picture, and hardly anything by a whole one), and whose own
# visible spot is this near to it (what neighbours on skin seen under 83 degrees are apart; steeper
# skin is a smear and no evidence).
LARGEST_GAP, LARGEST_STRETCH = 1.0, 8.0


@dataclass(frozen=True)
class View:
    """A head in front of one camera, drawn.

    Attributes
    ----------
    vertices_camera : (B, V, 3) float
        Camera frame, metres.
    K : (B, 3, 3) float
    R : (B, 3, 3) float
    t : (B, 3) float
        ``X_cam = R X_model + t``.
    fragments : Fragments
        Triangle, weights and depth of each pixel, of the *whole* mesh, so that every part hides what is
        behind it.
    """

    vertices_camera: torch.Tensor
    K: torch.Tensor
    R: torch.Tensor
    t: torch.Tensor
    fragments: Fragments

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.fragments.triangle.shape[1:]
        return height, width


def draw_view(
    vertices: torch.Tensor,
    triangles: torch.Tensor,
    K: torch.Tensor,
    R: torch.Tensor,
    t: torch.Tensor,
    height: int,
    width: int,
) -> View:
    """Put a head before a camera and rasterize it.

    Parameters
    ----------
    vertices : (B, V, 3) float
        Model space, metres.
    triangles : (T, 3) int
        All of the head's.
    K, R : (B or none, 3, 3) float
    t : (B or none, 3) float
    height, width : int
        Pixels.

    Returns
    -------
    View
        Differentiable with respect to ``vertices``, ``K``, ``R`` and ``t``.
    """
    batch = vertices.shape[0]
    K, R = (value.to(vertices).expand(batch, 3, 3) for value in (K, R))
    t = t.to(vertices).expand(batch, 3)
    fragments = rasterize(project_to_image(vertices, K, R, t), triangles, height, width)
    return View(vertices @ R.transpose(-1, -2) + t[:, None], K, R, t, fragments)


@dataclass(frozen=True)
class Warp:
    """Where the source view has what each target pixel shows.

    Attributes
    ----------
    pixels : (B, H, W, 2) float
        Place in the source picture; without meaning where the target shows background.
    depth : (B, H, W) float
        Depth of that point in the *source* camera, metres.
    """

    pixels: torch.Tensor
    depth: torch.Tensor


def warp_rigidly(target: View, source: View) -> Warp:
    """The paper's warp: ``X_t = D_t(p) K_t^-1 p``, ``X_s = R X_t + t``, ``p_s = K_s X_s / z``.

    The head is taken to be one rigid body that both cameras see. Depth and both poses get gradients.
    """
    height, width = target.size
    points = rays(pixel_centres(height, width, target.K), target.K) * target.fragments.depth[..., None]
    R, t = relative_pose(target.R, target.t, source.R, source.t)
    return _seen_at(torch.einsum("bij,b...j->b...i", R, points) + t[:, None, None], source)


def warp_over_surface(target: View, source: View, triangles: torch.Tensor) -> Warp:
    """The same spot of skin on the source's own mesh, for people who move their face between photos.

    Where both views have the same shape this is :func:`warp_rigidly`. It says nothing about whether the
    two shapes agree.
    """
    return _seen_at(interpolate(source.vertices_camera, target.fragments, triangles), source)


def _seen_at(points: torch.Tensor, source: View) -> Warp:
    """(B, H, W, 3) points in the source's camera -> where they appear."""
    depth = points[..., 2]
    homogeneous = torch.einsum("bij,b...j->b...i", source.K, points)
    # Points at the lens belong to no pixel that counts, but their gradient must not be infinite.
    safe = torch.where(depth > NEAR_PLANE, depth, torch.ones_like(depth))
    return Warp(homogeneous[..., :2] / safe[..., None], depth)


def pixel_centres(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 2) x and y of pixel centres, one copy for each item of ``like`` (B, ...)."""
    x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    y = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return grid.expand(len(like), -1, -1, -1)


def sample(picture: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Bilinear reading.

    (B, H', W', C) picture, (B, H, W, 2) places -> (B, H, W, C). Beyond the outermost pixel centres the
    border is repeated; :func:`covisible` leaves those places out.
    """
    height, width = picture.shape[1:3]
    grid = 2.0 * pixels / pixels.new_tensor([width, height]) - 1.0
    read = torch.nn.functional.grid_sample(
        picture.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return read.permute(0, 2, 3, 1)


def sample_depth(source: View, pixels: torch.Tensor) -> torch.Tensor:
    """(B, H, W) metres: the source view's own depth at places (B, H, W, 2), 0 where it shows background.

    1 / depth is what is mixed: it is linear over the picture of a plane, depth is not.
    """
    shown = source.fragments.mask
    depth = source.fragments.depth
    inverse = torch.where(shown, 1.0 / torch.where(shown, depth, torch.ones_like(depth)), torch.zeros_like(depth))
    read = sample(inverse[..., None], pixels)[..., 0]
    found = read > 0
    return torch.where(found, 1.0 / torch.where(found, read, torch.ones_like(read)), torch.zeros_like(read))


def depth_gap(warp: Warp, source: View) -> torch.Tensor:
    """(B, H, W) metres: the target's surface behind (positive) or before the source's, along the source's view.

    Both depths are of the source's camera frame, the only one in which they may be compared.
    """
    return warp.depth - sample_depth(source, warp.pixels)


@torch.no_grad()
def covisible(
    target: View,
    source: View,
    triangles: torch.Tensor,
    warp: Warp | None = None,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """The covisible map: target pixels whose skin the source shows as well.

    A pixel counts when the target shows the front of a triangle there, the same spot of the source's
    mesh faces the source's camera, and all four source pixels round that spot show the surface it lies
    on. So background never counts, whatever hides the spot (counted or not) takes it out, and
    bilinear reading mixes in nothing from across an outline. The spot is found through the mesh, not
    through depth: views whose shapes do not agree yet are compared all the same.

    Parameters
    ----------
    target, source : View
        Of the same triangles; sizes may differ.
    triangles : (T, 3) int
    warp : Warp, optional
        Leave out pixels that this warp takes to the source's background or out of its picture.
    counted : (T,) bool, optional
        Triangles that may count: skin of the face, say. All of them hide.

    Returns
    -------
    (B, H, W) bool
    """
    triangles = triangles.to(target.K.device).long()
    seen = target.fragments.triangle.clamp(min=0).long()
    item = torch.arange(len(seen), device=seen.device)[:, None, None]
    result = target.fragments.mask & _faces_camera(target, triangles)[item, seen]
    result &= _faces_camera(source, triangles)[item, seen]
    if counted is not None:
        result &= counted.to(seen.device)[seen]
    spot = interpolate(source.vertices_camera.detach(), target.fragments, triangles)
    at = _seen_at(spot, source).pixels
    result &= _inside(at, source) & (spot[..., 2] > NEAR_PLANE)
    normals = _facet_normals(source, triangles)
    pixel_width = spot[..., 2] / source.K[:, 0, 0, None, None]
    for row, column in _four_pixels(at, source):
        other = source.fragments.triangle[item, row, column].long()
        centre = torch.stack([column, row], dim=-1).to(at.dtype) + 0.5
        shown = rays(centre, source.K) * source.fragments.depth[item, row, column][..., None]
        away = spot - shown
        gap = (away * normals[item, other.clamp(min=0)]).sum(dim=-1).abs()
        result &= (other >= 0) & (gap <= LARGEST_GAP * pixel_width)
        result &= away.norm(dim=-1) <= LARGEST_STRETCH * pixel_width
    if warp is not None:
        result &= _inside(warp.pixels, source) & (warp.depth > NEAR_PLANE)
        for row, column in _four_pixels(warp.pixels, source):
            result &= source.fragments.mask[item, row, column]
    return result


def _facet_normals(view: View, triangles: torch.Tensor) -> torch.Tensor:
    """(B, T, 3) unit normals in the camera frame; zero for triangles without area."""
    a, b, c = (view.vertices_camera.detach()[:, triangles[:, corner]] for corner in range(3))
    return torch.nn.functional.normalize(torch.cross(b - a, c - a, dim=-1), dim=-1, eps=1e-20)


def _faces_camera(view: View, triangles: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: the outside of the triangle looks at the camera."""
    return (_facet_normals(view, triangles) * view.vertices_camera.detach()[:, triangles[:, 0]]).sum(dim=-1) < 0


def _inside(pixels: torch.Tensor, view: View) -> torch.Tensor:
    """(B, H, W) bool: between the outermost pixel centres of the view, so that all four neighbours exist."""
    height, width = view.size
    x, y = pixels.unbind(-1)
    return (x >= 0.5) & (x <= width - 0.5) & (y >= 0.5) & (y <= height - 0.5)


def _four_pixels(pixels: torch.Tensor, view: View) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Row and column (B, H, W) int64 of the four pixels that bilinear reading mixes."""
    height, width = view.size
    # Places out of the picture or without meaning are clamped; the caller leaves them out.
    left = (pixels[..., 0] - 0.5).nan_to_num().clamp(0, max(width - 2, 0)).long()
    top = (pixels[..., 1] - 0.5).nan_to_num().clamp(0, max(height - 2, 0)).long()
    return [
        ((top + down).clamp(max=height - 1), (left + right).clamp(max=width - 1)) for down in (0, 1) for right in (0, 1)
    ]
