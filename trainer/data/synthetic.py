"""Triplets of pictures of invented people, drawn on the training device, with everything that is true of them.

The crop is drawn directly, as :mod:`backend.network.framing` would cut it from a photo, a little off. The camera is
first put before the head at its distance, then moved, turned about its axis and zoomed until the crop is framed. So
the principal point is the middle of the crop, as :class:`backend.network.interface.Regressed` has it; of real
photos that is nearly so where a face is not far from the photo's middle.

Light is the truth's nine harmonics. What they do not hold is in the pictures too: the strongest lamp throws shadows
(``shadows.py``), and skin shines a little.

Symbols: B triplets, N views of each, P = B N pictures, S side of a crop, V vertices, T triangles, L landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from backend.face_model.albedo import Albedo
from backend.face_model.model import EYES, MOUTH, FaceModel
from backend.network.encoder_weights import fingerprint
from backend.network.framing import frame, turned
from backend.network.outputs import Layout, Predicted, placed
from backend.rendering.rasterize import interpolate
from backend.rendering.shade import shade, vertex_normals
from backend.rendering.synthesis import View, draw_view, pixel_centres
from backend.rendering.tone import linear_to_srgb_torch
from backend.rendering.two_views import rays
from trainer.data.camera_faults import photographed
from trainer.data.look_bank import LookBank, Worn
from trainer.data.occluders import Capsules, draw_over, glasses_lines, hands_and_locks
from trainer.data.painter import IRIS_ANGLE, PUPIL_ANGLE, Painter
from trainer.data.shadows import lit_part
from trainer.data.skin_albedo import VertexAlbedo
from trainer.data.triplets import METERED, METERING, VIEWS, People, Scene

# A landmark is seen when nothing is before it by more than this, metres; and when less than this much of its
# pixel is covered.
BEFORE, COVERED = 0.008, 0.5

# Highlights: how sharp, and how strong at most, of the light that comes from the front.
SHINE_POWER, SHINE = (15.0, 50.0), 0.04

WIRE, TEMPLE = 0.0011, 0.0018
FIELDS = 5


@dataclass(frozen=True)
class Triplets:
    """A batch.

    Attributes
    ----------
    photos : (B, N, S, S, 3) uint8
        sRGB.
    skin : (B, N, S, S) float
        How much of each pixel is bare skin of the face.
    truth : Predicted
        Of all P pictures, in the order of the photos.
    landmarks : dict of str to (P, L, 2) float
        Pixels, by set.
    visible : dict of str to (P, L) bool
    flags : (B,) int64
    moved : (B,) bool
        The face moved between the views.
    one_person : (B,) bool
        All views are of one person, on whatever day; where not, on nobody's identity views agree.
    real : (B,) bool
        Photos: landmarks are those that a detector found, and only those that are ``visible`` were.
    trust : dict of str to (P,) float
        How far the truth of a group (:data:`backend.network.outputs.GROUPS`) is one: 1 where nothing is said, 0 where
        there is none.
    """

    photos: torch.Tensor
    skin: torch.Tensor
    truth: Predicted
    landmarks: dict[str, torch.Tensor]
    visible: dict[str, torch.Tensor]
    flags: torch.Tensor
    moved: torch.Tensor
    one_person: torch.Tensor
    real: torch.Tensor
    trust: dict[str, torch.Tensor] = field(default_factory=dict)


class Head:
    """A face model on a device: what is drawn, learned and compared over and over.

    ``albedo`` is the statistical one that lies beside the model's file, where there is one. Models that bring an albedo
    of their own have it as a mean and a basis of linear RGB.
    """

    def __init__(self, model: FaceModel, device: torch.device, albedo: Albedo | None = None) -> None:
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)

        self.model, self.device, self.layout = model, device, Layout.of(model)
        self.mean, self.identity, self.expression = tensor(model.mean), tensor(model.identity), tensor(model.expression)
        self.skin_albedo = None if albedo is None else VertexAlbedo.of(albedo, model, device)
        if self.skin_albedo is not None:
            self.layout = replace(self.layout, albedo=len(self.skin_albedo.modes))
        elif model.albedo_mean is not None and model.albedo_basis is not None:
            self.albedo_mean, self.albedo_basis = tensor(model.albedo_mean), tensor(model.albedo_basis)
        self.triangles = torch.from_numpy(model.triangles).long().to(device)
        face = model.regions.get("face", np.ones(model.vertex_count, bool))
        is_skin = np.isin(
            model.triangle_material,
            [model.materials.index(name) for name in (EYES, MOUTH) if name in model.materials],
            invert=True,
        )
        self.face = torch.from_numpy(face).to(device)
        self.skin_triangles = torch.from_numpy(is_skin & face[model.triangles].all(axis=1)).to(device)
        self.embeddings = {
            name: (torch.from_numpy(found.corners).long().to(device), tensor(found.barycentric))
            for name, found in model.landmarks.items()
            if name in ("ibug68", "mediapipe478")
        }

    def vertices(self, identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        """(B, I), (B, E) -> (B, V, 3) metres."""
        moved = identity @ self.identity.flatten(1) + expression @ self.expression.flatten(1)
        return self.mean + moved.reshape(-1, *self.mean.shape)

    @property
    def fingerprint(self) -> str:
        """Tells one set of shapes and skins from another."""
        skin = "" if self.skin_albedo is None else f"-{self.skin_albedo.fingerprint}"
        return fingerprint(self.model) + skin

    def albedo(self, coefficients: torch.Tensor) -> torch.Tensor | None:
        """(B, A) standard deviations -> (B, V, 3) linear RGB; None where the model has no albedo."""
        if self.skin_albedo is not None:
            return self.skin_albedo(coefficients)
        if not self.layout.albedo:
            return None
        colours = self.albedo_mean + torch.einsum("ba,avc->bvc", coefficients, self.albedo_basis)
        return colours.clamp(0.0, 1.0)

    def points(self, vertices: torch.Tensor, name: str) -> torch.Tensor:
        """(B, V, 3) -> (B, L, 3) landmarks of one set."""
        corners, weights = self.embeddings[name]
        return (vertices[:, corners] * weights[..., None]).sum(dim=2)


def project(
    points: torch.Tensor, K: torch.Tensor, R: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, L, 3) model space -> (P, L, 2) pixels and (P, L) depth, metres."""
    camera = points @ R.transpose(1, 2) + t[:, None]
    away = camera[..., 2]
    return (camera @ K.transpose(1, 2))[..., :2] / away.clamp(min=1e-4)[..., None], away


class SyntheticFaces:
    """Makes batches.

    Parameters
    ----------
    head : Head
    side : int
        S; 8 divides it.
    seed : int
    looks : int
        How many looks to draw ahead.
    supersampling : int
        Pictures are drawn this many times as large and averaged.
    one_moment, one_sitting : float
        See :class:`trainer.data.triplets.People`.
    """

    def __init__(
        self,
        head: Head,
        side: int,
        seed: int,
        looks: int = 256,
        supersampling: int = 2,
        one_moment: float = 0.4,
        one_sitting: float = 0.3,
    ) -> None:
        self.head, self.side, self.supersampling = head, side, supersampling
        skins = None if head.skin_albedo is None else head.skin_albedo.source
        self.people = People(head.model, seed, one_moment, one_sitting, skins)
        painter = Painter(head.model)
        self.bank = LookBank(painter.looks, looks, seed, head.device)
        self.eye_direction = torch.from_numpy(painter.eye_direction).to(head.device, torch.float32)
        self.eye_vertices = torch.from_numpy(painter.eye_centres).long().to(head.device)
        self.is_eye = torch.from_numpy(painter.is_eye).to(head.device)
        self.ears = torch.tensor([_ear(head.model, sign) for sign in (1, -1)], device=head.device)
        self.both = torch.cat([head.triangles, head.triangles + len(head.mean)])

    @torch.no_grad()
    def batch(self, number: int, count: int) -> Triplets:
        """The ``number``-th batch of ``count`` triplets; always the same."""
        rng = self.people.rng(number)
        scene = self.people.draw(count, rng)
        head, device = self.head, self.head.device

        def flat(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(device, torch.float32).flatten(0, 1)

        identity = torch.from_numpy(scene.identity).to(device, torch.float32).repeat_interleave(VIEWS, dim=0)
        expression = flat(scene.expression)
        vertices = head.vertices(identity, expression)
        R, t, focal = self._framed(vertices, scene)
        place, log_focal = placed(R, t, focal, head.layout)
        worn = self._worn(scene, rng)
        light, gain = self._metered(flat(scene.light), flat(scene.exposure), worn)
        key = flat(scene.key)
        key = torch.cat([key[:, :3], key[:, 3:6] * gain, key[:, 6:]], dim=1)
        albedo = torch.from_numpy(scene.albedo).to(device, torch.float32).repeat_interleave(VIEWS, dim=0)
        truth = Predicted(identity, expression, albedo, light, R, place, log_focal, {})
        photos, skin, depth, covered = self._draw(vertices, truth, worn, key, rng)
        landmarks, visible = {}, {}
        for name in head.embeddings:
            pixels, away = project(head.points(vertices, name), truth.K(self.side), R, truth.t(head.layout))
            landmarks[name], visible[name] = pixels, self._seen(pixels, away, depth, covered)
        return Triplets(
            photos=photos.unflatten(0, (count, VIEWS)),
            skin=skin.unflatten(0, (count, VIEWS)),
            truth=truth,
            landmarks=landmarks,
            visible=visible,
            flags=torch.from_numpy(scene.flags).to(device),
            moved=torch.from_numpy(scene.moved).to(device),
            one_person=torch.ones(count, dtype=torch.bool, device=device),
            real=torch.zeros(count, dtype=torch.bool, device=device),
            trust={"albedo": (~torch.from_numpy(scene.painted).to(device)).float().repeat_interleave(VIEWS)},
        )

    # --- camera and light ---------------------------------------------------------------------------------

    def _framed(self, vertices: torch.Tensor, scene: Scene) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cameras that frame the heads (P, V, 3): R (P, 3, 3), t (P, 3), focal length (P,) in sides."""
        points = self.head.points(vertices, "ibug68")
        distance = torch.from_numpy(scene.distance).to(vertices).flatten()
        R = torch.from_numpy(scene.R).to(vertices).flatten(0, 1)
        off = torch.from_numpy(scene.off).to(vertices).flatten(0, 1)
        ahead = torch.zeros_like(off[:, :3])
        ahead[:, 2] = distance
        t = ahead - R @ R.new_tensor(self.head.layout.reference)
        camera = points @ R.transpose(1, 2) + t[:, None]
        middle, size, angle = frame(camera[..., :2] / camera[..., 2:])
        size = size * off[:, 2].exp()
        # The crop's own axes are turned against the photo's, so the head is turned back in the crop.
        back = -(angle + off[:, 3])
        shift = -turned(middle[:, None], back)[:, 0] + off[:, :2] * size[:, None]
        turn = torch.stack([back.cos(), -back.sin(), back.sin(), back.cos()], dim=1).reshape(-1, 2, 2)
        roll = torch.eye(3).to(R).repeat(len(R), 1, 1)
        roll[:, :2, :2] = turn
        R, t = roll @ R, (roll @ t[..., None])[..., 0]
        t = t + torch.nn.functional.pad(shift * distance[:, None], (0, 1))
        return R, t, 1.0 / size

    def _worn(self, scene: Scene, rng: np.random.Generator) -> Worn:
        """What each of the P pictures' heads wears: one look for each triplet, the model's albedo for most."""
        count = len(scene.identity)
        worn = self.bank.wear(rng.integers(self.bank.count, size=count), rng)
        albedo = worn.albedo
        skins = self.head.albedo(torch.from_numpy(scene.albedo).to(albedo))
        if skins is not None:
            wears = torch.from_numpy(~scene.painted).to(albedo.device)[:, None, None]
            on = torch.ones_like(self.head.face) if self.head.skin_albedo is None else self.head.skin_albedo.on
            albedo = torch.where(wears & on[None, :, None], skins, albedo)
        values = (albedo, worn.cover_albedo, worn.cover, worn.covered, worn.shown, worn.glasses)
        return Worn(*(value.repeat_interleave(VIEWS, dim=0) for value in values))

    def _metered(self, light: torch.Tensor, exposure: torch.Tensor, worn: Worn) -> tuple[torch.Tensor, torch.Tensor]:
        """(P, 3, 9) light as the camera's exposure makes it, and the factor (P, 3); one for views of one sitting."""
        skin = worn.albedo[:, self.head.face].mean(dim=(1, 2))
        front = shade(torch.tensor([[0.0, 0.0, 1.0]]).to(light).expand(len(light), 1, 3), light).mean(dim=(1, 2))
        gain = (METERED / (skin * front.clamp(min=0.05))) ** METERING
        gain = gain[:, None] * exposure
        return light * gain[..., None], gain

    # --- pictures -----------------------------------------------------------------------------------------

    def _draw(
        self, vertices: torch.Tensor, truth: Predicted, worn: Worn, key: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Photos (P, S, S, 3) uint8, skin (P, S, S), depth (P, S, S) of all that is drawn, covered (P, S, S)."""
        head, side = self.head, self.side * self.supersampling
        normals = vertex_normals(vertices, head.triangles)
        points = torch.cat([vertices, vertices + worn.cover[..., None] * normals], dim=1)
        K, t = truth.K(side), truth.t(head.layout)
        # Triangles at the camera are not drawn: there go the vertices that do not belong to this head.
        whole, shown = points, torch.cat([worn.shown, worn.shown & worn.covered], dim=1)
        centre = -(truth.R.transpose(1, 2) @ t[..., None])[..., 0]
        points = torch.where(shown[..., None], points, centre[:, None])
        view = draw_view(points, self.both, K, truth.R, t, side, side)
        attributes = torch.cat(
            [
                torch.cat([worn.albedo, normals, self.eye_direction.expand_as(normals)], dim=2),
                torch.cat([worn.cover_albedo, normals, torch.zeros_like(normals)], dim=2),
            ],
            dim=1,
        )
        values = interpolate(attributes, view.fragments, self.both)
        away = rays(pixel_centres(side, side, K), K)
        picture = self._lit(values, view, truth, self._shadow(view, away, truth, whole, shown, key, values), rng)
        # A face that ends at the ears shows its inside from behind, which is no skin.
        outside = (torch.einsum("pij,phwj->phwi", truth.R, values[..., 3:6]) * away).sum(dim=-1) < 0
        bare = view.fragments.mask & (view.fragments.triangle < len(head.triangles)) & outside
        bare_skin = head.skin_triangles[view.fragments.triangle.clamp(0, len(head.triangles) - 1).long()] & bare
        picture = torch.where(view.fragments.mask[..., None], picture, self._behind(points, truth, side, rng))
        depth = _shrunk(view.fragments.depth[..., None], self.supersampling, nearest=True)[..., 0]
        picture = _shrunk(picture, self.supersampling)
        skin = _shrunk(bare_skin.float()[..., None], self.supersampling)[..., 0]
        picture, glass = draw_over(picture, depth, self._glasses(vertices, truth, worn))
        picture, hand = draw_over(picture, depth, hands_and_locks(len(picture), self.side, rng, picture.device))
        covered = 1.0 - (1.0 - glass) * (1.0 - hand)
        return photographed(linear_to_srgb_torch(picture.clamp(0.0, 1.0)), rng), skin * (1.0 - covered), depth, covered

    def _shadow(
        self,
        view: View,
        away: torch.Tensor,
        truth: Predicted,
        points: torch.Tensor,
        shown: torch.Tensor,
        key: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """(P, H, W, 3) light that shadows take, ``key`` (P, 8) as :class:`trainer.data.triplets.Light` has it."""
        taken = torch.zeros_like(values[..., :3])
        where = (key[:, 7] > 0).nonzero()[:, 0]
        if not len(where):
            return taken
        direction, colour, radius, part = key[where, :3], key[where, 3:6], key[where, 6], key[where, 7]
        surface = away[where] * view.fragments.depth[where, ..., None] - truth.t(self.head.layout)[where, None, None]
        surface = torch.einsum("pji,phwj->phwi", truth.R[where], surface)
        lit = lit_part(surface, points[where], shown[where], self.both, direction, radius)
        normal = torch.nn.functional.normalize(values[where, ..., 3:6], dim=-1)
        falls = (normal * direction[:, None, None]).sum(dim=-1).clamp(min=0.0)
        taken[where] = (part[:, None, None] * (1.0 - lit) * falls)[..., None] * colour[:, None, None]
        return taken

    def _lit(
        self, values: torch.Tensor, view: View, truth: Predicted, taken: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """(P, H, W, 3) linear colours from albedo, normal and place on the eyeball, (P, H, W, 9).

        ``taken`` (P, H, W, 3) is the light that shadows take.
        """
        count = len(values)

        def drawn(low: float, high: float, width: int = 1) -> torch.Tensor:
            return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, width))).to(values)

        albedo, normal = values[..., :3], torch.nn.functional.normalize(values[..., 3:6], dim=-1)
        direction = torch.nn.functional.normalize(values[..., 6:9], dim=-1)
        angle = direction[..., 2:].clamp(-1.0, 1.0).arccos()
        iris, white = drawn(0.02, 0.25) * drawn(0.4, 1.2, 3), drawn(0.5, 0.75)
        eye = torch.where(angle < PUPIL_ANGLE, 0.01, torch.where(angle < IRIS_ANGLE, iris, white))
        triangle = view.fragments.triangle
        on_eye = (
            (triangle >= 0)
            & (triangle < len(self.is_eye))
            & self.is_eye[triangle.clamp(0, len(self.is_eye) - 1).long()]
        )
        albedo = torch.where(on_eye[..., None], eye, albedo)
        arriving = (shade(normal, truth.light) - taken).clamp(min=0.0)
        # Skin shines towards a lamp at the camera, whose light is what arrives from there.
        towards = -truth.R[:, 2][:, None, None]
        facing = (normal * towards).sum(dim=-1, keepdim=True).clamp(0.0, 1.0)
        return arriving * (albedo + drawn(0.0, SHINE) * facing ** drawn(*SHINE_POWER))

    def _behind(self, points: torch.Tensor, truth: Predicted, side: int, rng: np.random.Generator) -> torch.Tensor:
        """(P, H, W, 3) linear background: blurred fields of colour, long hair and shoulders before them."""
        count, device = len(points), points.device
        fields = torch.from_numpy(rng.uniform(0.0, 0.9, (count, 3, FIELDS, FIELDS))).to(device, torch.float32)
        plain = torch.from_numpy(rng.beta(2.0, 1.0, (count, 1, 1, 1))).to(fields)
        fields = plain * fields.mean(dim=(2, 3), keepdim=True) + (1.0 - plain) * fields
        fine = torch.from_numpy(rng.normal(0.0, 0.05, (count, 3, 4 * FIELDS, 4 * FIELDS))).to(fields) * (1.0 - plain)
        picture = sum(
            torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
            for grid in (fields, fine)
        )
        assert isinstance(picture, torch.Tensor)
        picture = picture.clamp(0.0, 1.0).permute(0, 2, 3, 1)
        # Long hair hangs behind the ears; shoulders lie below the head. Ends in model space, metres.
        lines = torch.tensor(
            [
                [[-0.05, 0.0, -0.05], [-0.06, -0.18, -0.06]],
                [[0.05, 0.0, -0.05], [0.06, -0.18, -0.06]],
                [[-0.17, -0.25, -0.06], [0.17, -0.25, -0.06]],
            ],
            device=device,
        )
        lines = lines.expand(count, -1, -1, -1)
        pixels, _ = project(lines.flatten(1, 2), truth.K(side), truth.R, truth.t(self.head.layout))
        reach = torch.tensor([0.06, 0.06, 0.1], device=device) * (side * truth.focal / truth.distance)[:, None]
        there = torch.from_numpy(np.column_stack([*[rng.random(count) < 0.3] * 2, rng.random(count) < 0.8])).to(reach)
        hair = torch.from_numpy(rng.uniform(0.01, 0.25, (count, 1, 1)) * [1.0, 0.75, 0.5]).to(reach).expand(-1, 2, -1)
        cloth = torch.from_numpy(rng.uniform(0.01, 0.8, (count, 1, 3))).to(reach)
        ends = pixels.reshape(count, 3, 4)
        capsules = Capsules(ends, reach * there, torch.cat([hair, cloth], dim=1), torch.zeros_like(reach))
        return draw_over(picture, torch.zeros_like(picture[..., 0]), capsules)[0]

    def _glasses(self, vertices: torch.Tensor, truth: Predicted, worn: Worn) -> Capsules:
        """The wire of glasses; without width where none are worn."""
        if len(self.eye_vertices) < 2:
            nothing = vertices.new_zeros(len(vertices), 1)
            return Capsules(
                vertices.new_zeros(len(vertices), 1, 4), nothing, vertices.new_zeros(len(vertices), 1, 3), nothing
            )
        lines = glasses_lines(vertices[:, self.eye_vertices], vertices[:, self.ears], worn.glasses)
        pixels, away = project(lines.flatten(1, 2), truth.K(self.side), truth.R, truth.t(self.head.layout))
        count = lines.shape[1]
        width = torch.full((count,), WIRE, device=vertices.device)
        width[-2:] = TEMPLE
        scale = (self.side * truth.focal / truth.distance)[:, None]
        radius = width * scale * (worn.glasses > 0)[:, None]
        colour = torch.full((len(vertices), count, 3), 0.03, device=vertices.device)
        return Capsules(pixels.reshape(-1, count, 4), radius, colour, away.reshape(-1, count, 2).mean(dim=2))

    def _seen(
        self, pixels: torch.Tensor, away: torch.Tensor, depth: torch.Tensor, covered: torch.Tensor
    ) -> torch.Tensor:
        """(P, L) bool: landmarks inside the crop that nothing hides."""
        column, row = (pixels[..., axis].floor().clamp(0, self.side - 1).long() for axis in (0, 1))
        item = torch.arange(len(pixels), device=pixels.device)[:, None]
        before = depth[item, row, column]
        inside = ((pixels >= 0) & (pixels < self.side)).all(dim=-1)
        return inside & ((before == 0) | (away < before + BEFORE)) & (covered[item, row, column] < COVERED)


def _shrunk(picture: torch.Tensor, factor: int, nearest: bool = False) -> torch.Tensor:
    """(P, H, W, C) -> (P, H / factor, W / factor, C): means, or the corner of each block."""
    if factor == 1:
        return picture
    if nearest:
        return picture[:, ::factor, ::factor]
    return torch.nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def _ear(model: FaceModel, sign: int) -> int:
    """The vertex furthest to one side of the mean head among the ears, or of the whole head."""
    ears = model.regions.get("ears", np.zeros(model.vertex_count, bool))
    among = np.flatnonzero(ears) if ears.any() else np.arange(model.vertex_count)
    return int(among[(sign * model.mean[among, 0]).argmax()])
