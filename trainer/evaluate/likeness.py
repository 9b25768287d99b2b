"""Likeness: is the head from one photo the person in another?

Each person of ``london`` was photographed neutral and smiling. The head of one photo, identity and texture, is put into
the other: its pose, lens and expression are solved for the landmarks of that photo with the identity held, its light is
fitted to the pixels of that photo, and the drawing is compared with the photo where the face is. Three heads are
measured in every photo, each in the same way and over the same pixels:

* ``itself``: the head of that very photo, which says how far anything could come;
* ``other``: the head of the person's other photo, the figure that counts;
* ``stranger``: the head of the next person's other photo, the floor. Light and expression are fitted to the photo here
  too, so they give nothing away.

Structural similarity (Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity",
with its Gaussian window) and the colour difference CIEDE2000 are averaged over the face. Heads are drawn 480 x 640
pixels large, the face about 300 pixels wide: structural similarity depends on it.

Symbols: H, W height and width of the pictures, N pixels of the face, V vertices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from backend.errors import MgcFaceError
from backend.export.folder import eye_picture
from backend.export.overlay import above_neck, crop_photo, head_window, window_camera
from backend.export.preview import Previewer
from backend.face_model.model import EYES, SKIN, FaceModel
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.mesh import vertex_normals
from backend.reconstruction.fit import Fitter
from backend.reconstruction.joint import fit_to_identity
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.observation import observe
from backend.reconstruction.result import Reconstruction, with_offset
from backend.reconstruction.texture import bake_texture
from backend.rendering.rasterize import interpolate, rasterize
from backend.rendering.shade import A0, estimate_light
from backend.rendering.tone import srgb_to_linear
from backend.rendering.transform import project_to_image
from backend.vision.decode import load_photo
from backend.vision.photo import DetectedFace, Photo
from trainer.evaluate.markdown import table
from trainer.evaluate.photo_sets import IDENTITY_FOLDERS, Reconstruct, jpegs
from trainer.evaluate.truth_sets import SetError

HEADS = ("itself", "other", "stranger")
TEXTURE_SIZE = 1024
# Standard deviation of the Gaussian window, pixels, and the half width at which it ends: 11 x 11, as published.
SSIM_SIGMA, SSIM_REACH = 1.5, 5
# Light that leaves every albedo as it is: only the even part, which the basis scales by A0.
EVEN_LIGHT = np.zeros((9, 3), np.float32)
EVEN_LIGHT[0] = 1.0 / A0
# Light is fitted to every so manieth pixel of the face; nine numbers need no more.
LIGHT_STEP = 3


@dataclass(frozen=True)
class Pair:
    """The photos of one person and of the next one, ``neutral`` and ``smiling``."""

    name: str
    own: Mapping[str, Path]
    stranger: Mapping[str, Path]


@dataclass(frozen=True)
class Comparison:
    """How like a photo one drawing is: ``ssim`` at most 1, ``color`` in units of CIEDE2000."""

    ssim: float
    color: float


@dataclass(frozen=True)
class LikenessResult:
    """Kind of the photo that was drawn into -> head of :data:`HEADS` -> figures; ``before`` the refinement, too."""

    name: str
    photos: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    error: str | None = None
    before: dict[str, dict[str, Comparison]] = field(default_factory=dict)


def load(data: Path) -> list[Pair]:
    """Everybody with both photos, in order of name, each with the next one; the last with the first."""
    people: dict[str, dict[str, Path]] = {}
    for folder in IDENTITY_FOLDERS:
        for path in jpegs(data / folder):
            people.setdefault(path.name.split("_")[0], {})[path.parent.name] = path
    both = [(name, photos) for name, photos in sorted(people.items()) if len(photos) == len(IDENTITY_FOLDERS)]
    if len(both) < 2:
        raise SetError(f"Likeness needs two people with a neutral and a smiling photo each in {data}; see --data.")
    return [Pair(name, own, both[(place + 1) % len(both)][1]) for place, (name, own) in enumerate(both)]


def measure(pair: Pair, methods: Mapping[str, Reconstruct]) -> LikenessResult:
    """Both photos of a person, with refined heads and, before that, with what landmarks and network gave.

    ``methods`` are those of the evaluator; without ``refined`` among them there is no before.
    """
    plain = methods["both"] if "both" in methods else methods["fit"]
    try:
        found = drawings(pair, plain)
        if "refined" not in methods:
            return LikenessResult(pair.name, found)
        return LikenessResult(pair.name, drawings(pair, methods["refined"]), before=found)
    except MgcFaceError as error:
        return LikenessResult(pair.name, error=str(error))


def drawings(pair: Pair, reconstruct: Reconstruct) -> dict[str, dict[str, Comparison]]:
    """Kind of photo -> head of :data:`HEADS` -> figures, of one method."""
    own = {kind: known_head(path, reconstruct) for kind, path in pair.own.items()}
    strangers = {kind: known_head(path, reconstruct) for kind, path in pair.stranger.items()}
    figures = {}
    for kind, target in own.items():
        (other,) = set(own) - {kind}
        heads = {"itself": target, "other": own[other], "stranger": strangers[other]}
        figures[kind] = compare(target, heads)
    return figures


@dataclass(frozen=True, eq=False)
class KnownHead:
    """A head with its texture and eyes, and the photo that it came from."""

    photo: Photo
    head: Reconstruction
    textures: Mapping[str, np.ndarray]


# Each person is met twice, as oneself and as the stranger of the one before, by two methods.
@lru_cache(maxsize=8)
def known_head(path: Path, reconstruct: Reconstruct) -> KnownHead:
    """The largest face of a photo, textured."""
    photo = load_photo(path)
    head = reconstruct(photo)[0]
    texture = head.texture
    if texture is None:
        texture = bake_texture(
            photo.pixels, head.camera, head.model, head.vertices, TEXTURE_SIZE, landmarks=head.landmarks
        )
    eyes = eye_picture(head, photo)
    return KnownHead(photo, head, {SKIN: texture.color} | ({} if eyes is None else {EYES: eyes}))


def compare(target: KnownHead, heads: Mapping[str, KnownHead]) -> dict[str, Comparison]:
    """Every head in the target's photo, over the face that all of them cover."""
    fitted = target.head
    window = head_window(fitted.camera.project(fitted.vertices[above_neck(fitted.model, fitted.vertices)]))
    photo = crop_photo(target.photo.pixels, window)
    placed = {}
    for name, known in heads.items():
        vertices, camera = into_photo(known.head, target)
        placed[name] = Placed(known, vertices, window_camera(camera, window))
    face = np.logical_and.reduce([one.face() for one in placed.values()])
    return {name: likeness(photo, one.drawn(photo, face), face) for name, one in placed.items()}


_fitters: dict[int, Fitter] = {}


def fitter_of(model: FaceModel) -> Fitter:
    """Built once for each model; it holds the model, so that its number stays its own."""
    if id(model) not in _fitters:
        _fitters[id(model)] = Fitter(LandmarkModel(model, "mediapipe478"))
    return _fitters[id(model)]


def into_photo(head: Reconstruction, target: KnownHead) -> tuple[np.ndarray, Camera]:
    """(V, 3) vertices and camera of a head in the target's photo: pose, lens and expression solved, identity held."""
    fitter, photo = fitter_of(head.model), target.photo
    face = DetectedFace(np.zeros(4, np.float32), 1.0, target.head.landmarks, None, {}, False)
    (fit,) = fit_to_identity(fitter, [observe(photo, face, fitter.lm.name)], head.identity)
    lens = intrinsics(fit.focal_px, photo.width, photo.height)
    vertices = with_offset(head.model.vertices(head.identity, fit.expression), head.offset)
    return vertices, Camera(lens, fit.R, fit.t, photo.width, photo.height)


@dataclass(frozen=True)
class Placed:
    """A head before a camera of the size of the pictures."""

    known: KnownHead
    vertices: np.ndarray
    camera: Camera

    def face(self) -> np.ndarray:
        """(H, W) bool: pixels that show the face, eyes and mouth included, so far inside that no window leaves it."""
        model, triangle = self.known.head.model, self._seen()[0]
        inside = model.regions["face"][model.triangles].all(axis=1) | (
            model.triangle_material != model.materials.index(SKIN)
        )
        shown = ((triangle >= 0) & inside[triangle]).astype(np.uint8)
        return cv2.erode(shown, np.ones((2 * SSIM_REACH + 1,) * 2, np.uint8)).astype(bool)

    def drawn(self, photo: np.ndarray, face: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8: the head in the light that brings it nearest to the photo over the face."""
        previewer, textures = Previewer(self.known.head.model, self.vertices), dict(self.known.textures)
        albedo = srgb_to_linear(previewer.draw(self.camera, textures, EVEN_LIGHT)[..., :3])
        triangle, normals = self._seen()
        model = self.known.head.model
        skin = face & (model.triangle_material[triangle] == model.materials.index(SKIN))
        pixels, facing, own = (
            torch.from_numpy(part[skin][::LIGHT_STEP]) for part in (srgb_to_linear(photo), normals, albedo)
        )
        light = estimate_light(pixels, facing, own).T.numpy()
        return previewer.draw(self.camera, textures, light)[..., :3]

    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) triangle, -1 for the background, and (H, W, 3) float32 unit normals in model space."""
        model, camera = self.known.head.model, self.camera
        points = torch.from_numpy(np.ascontiguousarray(self.vertices, np.float32))[None]
        K, R, t = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (camera.K, camera.R, camera.t))
        triangles = torch.from_numpy(model.triangles)
        fragments = rasterize(project_to_image(points, K, R, t), triangles, camera.height, camera.width)
        table_of_normals = torch.from_numpy(vertex_normals(self.vertices, model.triangles).astype(np.float32))[None]
        normals = interpolate(table_of_normals, fragments, triangles)[0]
        return fragments.triangle[0].numpy(), torch.nn.functional.normalize(normals, dim=-1).numpy()


def likeness(photo: np.ndarray, drawn: np.ndarray, face: np.ndarray) -> Comparison:
    """Two pictures (H, W, 3) uint8 compared where ``face`` (H, W) says."""
    if not face.any():
        raise SetError("The heads have no pixel of the face in common, so there is nothing to compare.")
    # Its mean over the whole picture and, here asked for, its value at each pixel and channel.
    answer: Any = structural_similarity(
        photo,
        drawn,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
        full=True,
    )
    return Comparison(
        float(answer[1][face].mean()),
        float(deltaE_ciede2000(rgb2lab(photo)[face], rgb2lab(drawn)[face]).mean()),
    )


# --- figures ----------------------------------------------------------------------------------------------


def figures(results: Sequence[LikenessResult]) -> dict[str, Any]:
    """Kind of photo, and ``both`` together -> means, and how often the person is nearer than the stranger."""
    found = [item for item in results if item.error is None]
    summary: dict[str, Any] = {
        "people": len(results),
        "found": len(found),
        "failures": {item.name: item.error for item in results if item.error is not None},
        "photos": means([item.photos for item in found]),
        "before": means([item.before for item in found]),
    }
    return summary


def means(people: Sequence[Mapping[str, Mapping[str, Comparison]]]) -> dict[str, dict[str, Any]]:
    kinds = sorted({kind for photos in people for kind in photos})
    rows = {}
    for row, wanted in (*((kind, (kind,)) for kind in kinds), ("both", kinds)):
        found = [photos[kind] for photos in people for kind in wanted]
        if found:
            rows[row] = {
                "drawings": len(found),
                **{
                    f"{measure}_{head}": float(np.mean([getattr(one[head], measure) for one in found]))
                    for measure in ("ssim", "color")
                    for head in HEADS
                },
                "nearer_by_ssim": sum(one["other"].ssim > one["stranger"].ssim for one in found),
                "nearer_by_color": sum(one["other"].color < one["stranger"].color for one in found),
            }
    return rows


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""

    def cells(row: dict[str, Any], measure: str, digits: int) -> list[str]:
        values = [f"{row[f'{measure}_{head}']:.{digits}f}" for head in HEADS]
        return [values[0], f"**{values[1]}**", values[2], f"{row[f'nearer_by_{measure}']} of {row['drawings']}"]

    columns = ["drawn into", "drawings", *(f"SSIM, {head}" for head in HEADS), "person nearer than stranger"]
    columns += [*(f"colour, {head}" for head in HEADS), "person nearer than stranger"]
    rows = [
        [f"{kind} photos{note}", row["drawings"], *cells(row, "ssim", 3), *cells(row, "color", 2)]
        for note, part in (("", "photos"), (", before refinement", "before"))
        for kind, row in summary[part].items()
    ]
    text = "## Likeness: the head of one photo drawn into the person's other photo\n\n" + table(columns, rows)
    text += (
        "\n\n*itself*: the head of that photo; *other*: of the person's other photo; *stranger*: of the next person's "
        "other photo. SSIM: 1 is the photo; colour: CIEDE2000, 0 is the photo."
    )
    notes = [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return text + ("\n\n" + "\n".join(notes) if notes else "")
