"""Is light gone from a texture? One person under five lights must give one albedo, and the true one.

Invented heads wear skins of known albedo, from very dark to very light. Each is photographed three times under each of
five lights, as a camera meters them, and gets a texture from every three. Compared is linear light on the face where
all five textures were seen.

How light a skin is and how strong its light cannot be told apart in a photo. So figures stand for the textures as they
come out, and for what is left when each has its own brightness and white balance taken out (its mean in every
channel).

Symbols: S side of a texture, N texels compared, L lights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.errors import MgcFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.geometry.rotation import rotation_from_head_euler
from backend.reconstruction.person import reconstruct_person
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.texture_atlas import BARYCENTRIC_SCALE, atlas_of
from backend.rendering.tone import linear_to_srgb, srgb_to_linear
from backend.vision.photo import Photo
from trainer.build_albedo.tones import ITA_CLASSES, ita_class, ita_of
from trainer.data.looks import MOUTH_INSIDE, Look
from trainer.data.painter import METERED, METERING, Painter, background, developed, visible
from trainer.data.people import IDENTITY_SIGMA, Person
from trainer.data.skin_albedo import VertexAlbedo
from trainer.evaluate.markdown import percent, table
from trainer.evaluate.truth_sets import SetError
from trainer.train.start import chosen_albedo

# Seeds of the people, met by nothing else, and how many: two of each class of tone.
FIRST_SEED, PEOPLE = 9_480_000, 12
# One tone in the middle of each class of ITA_CLASSES, degrees.
TONES = (-48.0, -10.0, 19.0, 34.0, 48.0, 62.0)
YAWS, PICTURE, DISTANCE_M, FACE_PART = (-30.0, 0.0, 30.0), 640, 0.8, 0.55
TEXTURE = 512
# A texel counts where the photos showed at least this much (255 is straight on), in all textures.
SURE = 100


@dataclass(frozen=True)
class Lamp:
    """Ambient light and one lamp: where it stands in model space, how strong and of what colour."""

    name: str
    ambient: float
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    strength: float = 0.0
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


LIGHTS = (
    Lamp("even", 1.0),
    Lamp("from the left", 0.3, (1.0, 0.4, 0.8), 1.0),
    Lamp("from the right", 0.3, (-1.0, 0.4, 0.8), 1.0),
    Lamp("from above", 0.35, (0.0, 1.0, 0.5), 1.0),
    Lamp("warm, from a low left", 0.3, (0.7, -0.3, 0.9), 0.9, (1.12, 1.0, 0.84)),
)
# A lamp of some size reaches past the terminator.
WRAP = 0.15


@dataclass(frozen=True)
class Task:
    """One person: ``photos(lamp)`` gives three, ``truth`` (S, S, 3) is the linear albedo, ``ita`` its tone, degrees."""

    name: str
    photos: Callable[[Lamp], list[Photo]]
    truth: np.ndarray
    ita: float


@dataclass(frozen=True)
class Result:
    """Relative root mean squares, raw and levelled; ``bias`` (3,) is the mean of texture over truth by channel."""

    name: str
    tone: str = ""
    error: str | None = None
    texels: int = 0
    pairs: tuple[float, ...] = ()
    pairs_levelled: tuple[float, ...] = ()
    truths: tuple[float, ...] = ()
    truths_levelled: tuple[float, ...] = ()
    bias: tuple[float, float, float] = (1.0, 1.0, 1.0)


@lru_cache(maxsize=1)
def pipeline() -> Pipeline:
    return Pipeline(texture_size=TEXTURE, stages=("detect", "fit", "refine", "texture"))


def load(_: Path) -> list[Task]:
    """The people; raises SetError where the default head has no statistical albedo."""
    model = get_model("open-head")
    if chosen_albedo("open-head", model) is None:
        raise SetError("The set five_lights needs the albedo of open-head, which is not installed; reinstall mgcface.")
    return [invented(model, FIRST_SEED + number, TONES[number % len(TONES)]) for number in range(PEOPLE)]


def invented(model: FaceModel, seed: int, tone: float) -> Task:
    """Somebody with a skin of ``tone`` degrees, at rest."""
    rng = np.random.default_rng(seed)
    vertices = model.vertices(rng.normal(0.0, IDENTITY_SIGMA, len(model.identity)))
    skins = chosen_albedo("open-head", model)
    assert skins is not None
    worn = VertexAlbedo.of(skins, model, torch.device("cpu"))
    skin = worn(torch.from_numpy(skins.draw(rng, 1, np.array([tone]))))[0].numpy().astype(np.float64)
    albedo = np.where(worn.on.numpy()[:, None], skin, MOUTH_INSIDE)
    nothing = np.zeros(model.vertex_count)
    look = Look(albedo, np.ones(model.vertex_count, bool), nothing, np.zeros_like(albedo), 0.0)
    cheeks = albedo[model.regions["cheeks"]]
    return Task(
        f"{seed}",
        lambda lamp: photographs(Painter(model), vertices, look, seed, lamp),
        on_texture(model, albedo),
        float(ita_of(np.log(np.median(cheeks, axis=0)))),
    )


def on_texture(model: FaceModel, values: np.ndarray) -> np.ndarray:
    """(V, C) values of vertices -> (S, S, C) as the head shows them; NaN where no skin of the face is."""
    atlas = atlas_of(model, TEXTURE)
    share = atlas.barycentric / BARYCENTRIC_SCALE
    share = np.concatenate([1.0 - share.sum(axis=2, keepdims=True), share], axis=2)
    corners = atlas.surface.triangles[np.maximum(atlas.triangle, 0)]
    result = sum(share[..., k, None] * values[corners[..., k]] for k in range(3))
    on_face = (atlas.triangle >= 0) & model.regions["face"][corners].all(axis=2)
    return np.where(on_face[..., None], result, np.nan)


def photographs(painter: Painter, vertices: np.ndarray, look: Look, seed: int, lamp: Lamp) -> list[Photo]:
    """Three photos of a head that stays where it is, in a light that stays where it is."""
    photos = []
    surface, eye_triangles = painter.surface(vertices.astype(np.float64), look)
    for view, yaw in enumerate(YAWS):
        rotation = rotation_from_head_euler(yaw)
        translation = np.array([0.0, 0.0, DISTANCE_M]) - rotation @ np.array([0.0, 0.0, 0.05])
        lens = intrinsics(PICTURE * FACE_PART * DISTANCE_M / 0.2, PICTURE, PICTURE)
        camera = Camera(lens, rotation, translation, PICTURE, PICTURE)
        values, triangle = visible(surface, camera)
        on_eye = (triangle >= 0) & (triangle < eye_triangles)
        lit = painter.with_eyes(values, on_eye, np.random.default_rng([seed, 2])) * irradiance(values[..., 3:6], lamp)
        lit *= (METERED / lit[triangle >= 0].mean()) ** METERING
        rng = np.random.default_rng([seed, 6, view])
        behind = background(Person(np.zeros(0), np.zeros(0), vertices, camera), rng)
        picture = np.where((triangle >= 0)[..., None], lit, behind)
        photos.append(Photo(developed(linear_to_srgb(picture.clip(0.0, 1.0)), rng)))
    return photos


def irradiance(normals: np.ndarray, lamp: Lamp) -> np.ndarray:
    """(H, W, 3) normals in model space -> (H, W, 3)."""
    unit = normals / np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
    direction = np.array(lamp.direction) / np.linalg.norm(lamp.direction)
    fall = (unit @ direction * (1.0 - WRAP) + WRAP).clip(0.0)
    return lamp.ambient + fall[..., None] * lamp.strength * np.array(lamp.colour)


def measure(task: Task, reconstruct: object = None) -> Result:
    """One person under all lights, with the project's own joint fit and textures (``reconstruct`` is not asked)."""
    tone = list(ITA_CLASSES)[int(ita_class(np.array(task.ita)))]
    textures, seen = [], np.isfinite(task.truth[..., 0])
    for lamp in LIGHTS:
        try:
            texture = reconstruct_person(pipeline(), task.photos(lamp), keep_all=True).texture
        except MgcFaceError as error:
            return Result(task.name, tone, f"Light {lamp.name}: {error}")
        assert texture is not None
        textures.append(srgb_to_linear(texture.color))
        seen &= texture.confidence >= SURE
    if not seen.any():
        return Result(task.name, tone, "No texel was seen under all lights.")
    return compare(task.name, tone, np.stack([texture[seen] for texture in textures]), task.truth[seen])


def compare(name: str, tone: str, textures: np.ndarray, truth: np.ndarray) -> Result:
    """(L, N, 3) textures and (N, 3) truth, linear light."""
    even = textures / textures.mean(axis=1, keepdims=True) * truth.mean(axis=0)
    level = truth.mean(axis=0)
    return Result(
        name,
        tone,
        None,
        len(truth),
        tuple(apart(a, b, (a + b).mean(axis=0) / 2) for a, b in combinations(textures, 2)),
        tuple(apart(a, b, level) for a, b in combinations(even, 2)),
        tuple(apart(texture, truth, level) for texture in textures),
        tuple(apart(texture, truth, level) for texture in even),
        tuple(float(channel) for channel in (textures.mean(axis=1) / level).mean(axis=0)),  # pyright: ignore[reportArgumentType]
    )


def apart(a: np.ndarray, b: np.ndarray, level: np.ndarray) -> float:
    """Root mean square difference of (N, 3) and (N, 3), each channel over its mean ``level`` (3,)."""
    return float(np.sqrt((((a - b) / level) ** 2).mean()))


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Over all people, and the bias by tone."""
    good = [result for result in results if result.error is None]
    summary: dict[str, Any] = {"people": len(good), "rows": {}, "bias": {}}
    for key in ("pairs", "pairs_levelled", "truths", "truths_levelled") if good else ():
        values = [getattr(result, key) for result in good]
        summary["rows"][key] = {
            "mean": float(np.mean(values)),
            "worst_person": float(np.max([np.mean(row) for row in values])),
            "worst": float(np.max(values)),
        }
    for tone in ITA_CLASSES:
        biases = np.array([result.bias for result in good if result.tone == tone])
        if len(biases):
            brightness = biases.mean(axis=1)
            hue = biases / brightness[:, None]
            summary["bias"][tone] = {
                "people": len(biases),
                "brightness": float(brightness.mean() - 1.0),
                "red": float(hue[:, 0].mean() - 1.0),
                "blue": float(hue[:, 2].mean() - 1.0),
            }
    summary["failures"] = {result.name: result.error for result in results if result.error is not None}
    return summary


LABELS = {
    "pairs": "two lights, as they come out",
    "pairs_levelled": "two lights, brightness and white balance taken out",
    "truths": "texture and truth, as they come out",
    "truths_levelled": "texture and truth, brightness and white balance taken out",
}


def page(summary: dict[str, Any]) -> str:
    """The Markdown of this set."""
    parts = [f"## One person under five lights: {summary['people']} people, linear light, root mean square"]
    rows = [
        [LABELS[key], percent(row["mean"]), percent(row["worst_person"]), percent(row["worst"])]
        for key, row in summary["rows"].items()
    ]
    parts.append(table(["compared", "mean", "worst person", "worst of all"], rows))
    parts.append("Colour bias by tone of skin: mean of texture over truth, red and blue against all channels.")
    rows = [
        [tone, row["people"], *(f"{100.0 * row[key]:+.1f} %" for key in ("brightness", "red", "blue"))]
        for tone, row in summary["bias"].items()
    ]
    parts.append(table(["tone", "people", "brightness", "red", "blue"], rows))
    parts += [f"* {name}: {reason}" for name, reason in summary["failures"].items()]
    return "\n\n".join(parts)
