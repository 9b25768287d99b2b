"""The photometric loss: nothing at the truth, a pull towards light, albedo and shape, and normals as published."""

from __future__ import annotations

from functools import lru_cache

import torch
from loss_scenes import basis, descend, model, person, pose, triangles, view

from backend.rendering.antialias import edge_neighbours
from backend.rendering.shade import ambient_light, shade, vertex_normals
from backend.rendering.synthesis import View
from trainer.losses.render import PublishedNormals, lit_head, photometric_loss, published_photometric_loss

SIZE = 64


@lru_cache(maxsize=1)
def neighbours() -> torch.Tensor:
    return edge_neighbours(triangles())


def light() -> torch.Tensor:
    """(1, 3, 9) from the upper left, warm above cold."""
    gamma = ambient_light()[None].clone()
    gamma[0, :, 1:4] = torch.tensor([[-0.25, 0.2, -0.3], [-0.2, 0.2, -0.3], [-0.1, 0.25, -0.25]])
    return gamma


def albedo() -> torch.Tensor:
    return torch.tensor([0.5, 0.35, 0.28]).expand(1, model().vertex_count, 3)


def drawn(vertices: torch.Tensor, gamma: torch.Tensor, photo: torch.Tensor | None = None, yaw: float = 20.0):
    """The render over a photo (grey where there is none) and its view."""
    seen: View = view(vertices, pose(SIZE, yaw), SIZE)
    behind = torch.full((1, SIZE, SIZE, 3), 0.4) if photo is None else photo
    return lit_head(vertices, triangles(), seen, albedo(), gamma, behind, neighbours()), seen


@lru_cache(maxsize=1)
def truth() -> tuple[torch.Tensor, torch.Tensor]:
    """The photo and where its skin is: the face, softly."""
    picture, seen = drawn(person(), light())
    on_face = torch.from_numpy(model().regions["face"])[triangles()].any(dim=1)
    skin = on_face[seen.fragments.triangle.clamp(min=0).long()] & seen.fragments.mask
    return picture, 0.9 * skin.float()


def loss_of(vertices: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    photo, skin = truth()
    render, seen = drawn(vertices, gamma, photo)
    return photometric_loss(render, photo, skin, seen.fragments.mask).sum()


def test_nothing_at_the_truth_where_the_published_one_has_a_floor() -> None:
    photo, skin = truth()
    covered = view(person(), pose(SIZE, 20.0), SIZE).fragments.mask
    assert loss_of(person(), light()).item() < 1e-6
    # A floor of 1e-3 for every pixel of the picture, over the area of the skin.
    published = published_photometric_loss(photo, photo, skin, covered).item()
    assert abs(published - 1e-3 * SIZE**2 / float(skin.sum())) < 1e-5 and published > 3e-3


def test_only_skin_counts() -> None:
    photo, skin = truth()
    covered = view(person(), pose(SIZE, 20.0), SIZE).fragments.mask
    painted = torch.where((skin > 0)[..., None], photo, torch.zeros_like(photo))
    assert photometric_loss(painted, photo, skin, covered).item() == 0.0
    assert photometric_loss(painted, photo, torch.ones_like(skin), covered).item() > 0.1
    assert photometric_loss(painted, photo, skin, torch.zeros_like(covered)).item() == 0.0


def test_light_is_found() -> None:
    wrong = torch.zeros(27)
    wrong[:6] = torch.tensor([0.2, -0.1, 0.15, 0.2, -0.1, 0.1])
    ended, first, last = descend(lambda x: loss_of(person(), light() + x.reshape(1, 3, 9)), wrong, 0.03, 60)
    assert last < first / 10 and float(ended.norm()) < 0.5 * float(wrong.norm())


def test_shading_teaches_shape(record_property) -> None:
    """An even skin: the outline and the shade are all that can tell."""
    wrong = torch.tensor([1.5, -1.2, 1.0])

    def value(modes: torch.Tensor) -> torch.Tensor:
        return loss_of(person() + torch.einsum("k,kvc->vc", modes, basis()[:3]), light())

    ended, first, last = descend(value, wrong, 0.2, 60)
    record_property("loss before and after, standard deviations left of 2.2", [first, last, float(ended.norm())])
    assert last < first / 50 and float(ended.norm()) < 0.1 * float(wrong.norm())


def test_published_normals_remember_other_heads_and_have_no_gradient(record_property) -> None:
    """mgcnet: the second head of a session is shaded with normals that are off by 10 degrees."""
    first, second = person(3), person(8)
    published = PublishedNormals()
    published(first, triangles())
    vertices = second.clone().requires_grad_()
    stale = published(vertices, triangles())
    fresh = vertex_normals(vertices, triangles(), weighting="equal")
    assert not stale.requires_grad and fresh.requires_grad
    once = PublishedNormals()(second, triangles())
    torch.testing.assert_close(once, fresh.detach(), atol=1e-4, rtol=0)
    used = fresh.detach().norm(dim=-1) > 0.5
    off = torch.rad2deg(torch.acos((stale * fresh.detach()).sum(dim=-1).clamp(-1, 1)))[used]
    record_property("degrees off, mean and largest", [float(off.mean()), float(off.max())])
    assert off.mean() > 1.0 and off.max() > 20.0
    # The truth, shaded with them, is not the photo.
    difference = (shade(stale, light()) - shade(fresh.detach(), light())).abs()
    assert difference.mean() > 3e-3
    # So shading has nothing to say about shape, where ours has.
    shade(fresh, light()).sum().backward()
    assert vertices.grad is not None and float(vertices.grad.norm()) > 0
