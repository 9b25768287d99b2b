"""Photos become skins: fitted, unwrapped, freed of light and completed by the pipeline, then brought to one exposure.

Symbols: P people, S side of the texture.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from backend.errors import PhotoError
from backend.face_model.model import FaceModel
from backend.reconstruction.pipeline import Pipeline
from backend.rendering.tone import srgb_to_linear
from backend.vision.decode import load_photo
from trainer.build_albedo.chart import Chart
from trainer.build_albedo.tones import SkinLine, ita_of, tone_of

# Folders of photos in the order in which they are read: studio photos under even light, and portraits anywhere.
LONDON, CANADA, INTERFACES = "london/neutral", "canada", "interfaces"

# Every so many-th person of the studio photos, ordered by tone, is kept out of the learning, for honest measures.
HELD_OUT_EVERY = 12

# Texels a side that the pipeline unwraps at, before they are averaged down.
UNWRAP_SIZE = 1024

# Light below this is the noise of a camera (linear).
DARKEST = 0.004

# The part of bare skin that a portrait must show, and how red it must be (log red over green): less is a profile,
# hair or glasses over half a face, or a grey photo.
LEAST_SEEN, LEAST_RED = 0.45, 0.15
# Light that the texture leaves in a portrait in the open: skins whose brightness varies by more than this on cheeks
# and nose (standard deviation of log light; studio photos have 0.08 to 0.2) are left out.
MOST_UNEVEN = 0.30

# Corners of a photo that show its backdrop, as parts of its height and width.
BACKDROP_HIGH, BACKDROP_WIDE = 0.05, 0.125


@dataclass(frozen=True)
class Skins:
    """Unwrapped people.

    Attributes
    ----------
    names : tuple of str, P
        ``set/photo``.
    log : (P, S, S, 3) float32
        Log of linear albedo.
    seen : (P, S, S) float32 in [0, 1]
        How well the photo showed each texel.
    tone : (P, 3) float64
        Log of the linear colour of the bare skin.
    """

    names: tuple[str, ...]
    log: np.ndarray
    seen: np.ndarray
    tone: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, which: np.ndarray) -> Skins:
        """Those of a (P,) mask or index."""
        index = np.arange(len(self))[which]
        return Skins(tuple(self.names[i] for i in index), self.log[which], self.seen[which], self.tone[which])

    def moved_to(self, tone: np.ndarray) -> Skins:
        """Whole skins brighter, darker or of another hue, so that their tones are these (P, 3)."""
        return replace(self, log=self.log + (tone - self.tone)[:, None, None].astype(np.float32), tone=tone)


def read_skins(
    folder: Path, model: FaceModel, chart: Chart, progress: Callable[[float], None] | None = None
) -> tuple[Skins, Skins]:
    """People to learn from, and people held out, from a folder that holds the sets of photos.

    Raises
    ------
    PhotoError
        The folder lacks the studio photos.
    """
    sets = {name: sorted((folder / name).glob("*.jpg")) for name in (LONDON, CANADA, INTERFACES)}
    for name in (LONDON, CANADA):
        if len(sets[name]) < HELD_OUT_EVERY:
            raise PhotoError(
                f"{folder / name} does not hold the photos of faces to learn an albedo from; name their folder."
            )
    total, done = sum(map(len, sets.values())), 0
    read: dict[str, Skins] = {}
    for name, photos in sets.items():
        read[name] = unwrap(
            photos,
            name.split("/")[0],
            model,
            chart,
            lambda count, done=done: progress((done + count) / total) if progress else None,
        )
        done += len(photos)
    studio = joined(read[LONDON], aligned_to_london(read[CANADA], read[LONDON], folder))
    held = np.zeros(len(studio), bool)
    held[np.argsort(ita_of(studio.tone), kind="stable")[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]] = True
    learned = studio.chosen(~held)
    portraits = usable_portraits(read[INTERFACES], chart)
    portraits = portraits.moved_to(SkinLine.fitted(learned.tone).nearest(portraits.tone))
    return joined(learned, portraits), studio.chosen(held)


def unwrap(
    photos: list[Path], label: str, model: FaceModel, chart: Chart, progress: Callable[[int], None] | None = None
) -> Skins:
    """The largest face of every photo that shows one."""
    # Not refined: the refinement stands on the albedo that is being built.
    stages = ("detect", "fit", "texture")
    pipeline = Pipeline(model, device="cpu", texture_size=UNWRAP_SIZE, stages=stages)
    small = (chart.size, chart.size)
    names, logs, seen, tones = [], [], [], []
    for index, outcome in enumerate(pipeline.reconstruct_many(photos)):
        if progress is not None:
            progress(index + 1)
        for head in outcome.reconstructions:
            if head.texture is None:
                continue
            linear = cv2.resize(srgb_to_linear(head.texture.color), small, interpolation=cv2.INTER_AREA)
            shown = cv2.resize(head.texture.confidence, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
            log = np.log(np.maximum(linear, DARKEST))
            names.append(f"{label}/{photos[index].stem}")
            logs.append(log)
            seen.append(shown * chart.inside)
            tones.append(tone_of(log, shown, chart.trust))
    if not names:
        empty = np.zeros((0, *small, 3), np.float32)
        return Skins((), empty, empty[..., 0], np.zeros((0, 3)))
    return Skins(tuple(names), np.stack(logs), np.stack(seen), np.stack(tones))


def joined(*parts: Skins) -> Skins:
    """All people of several sets."""
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("log", "seen", "tone"))
    return Skins(tuple(name for part in parts for name in part.names), *arrays)


def aligned_to_london(canada: Skins, london: Skins, folder: Path) -> Skins:
    """The Canadian photos as the London studio would have taken them.

    London's photos have a neutral backdrop, and the mean colours of its groups lie within the ranges that
    spectrophotometers find (docs/albedo.md), so they stay as they are. Canada's are pink, and their exposure
    follows their backdrop: over its photos the log brightness of skin against that of the backdrop has a slope of
    1.05 and a correlation of 0.93, so each is divided by its backdrop. (In London they have 0.4 and 0.3: there the
    backdrop is lit by itself.) Then one factor per channel makes the median skin that of London's white people: the
    set was published as photos of white faces.
    """
    backdrop = np.array([backdrop_of(folder / f"{name}.jpg").mean() for name in canada.names])
    exposed = canada.tone - (backdrop - np.median(backdrop))[:, None]
    with open(folder / "london" / "info.csv", encoding="utf-8", newline="") as file:
        white = {row["face_id"] for row in csv.DictReader(file) if row["face_eth"] == "white"}
    likened = np.array([name.split("/")[1].split("_")[0] in white for name in london.names])
    return canada.moved_to(exposed + np.median(london.tone[likened], axis=0) - np.median(exposed, axis=0))


def backdrop_of(photo: Path) -> np.ndarray:
    """(3,) log of the linear colour in the upper corners."""
    pixels = srgb_to_linear(load_photo(photo).pixels)
    high, wide = (round(part * size) for part, size in zip((BACKDROP_HIGH, BACKDROP_WIDE), pixels.shape))
    corners = np.concatenate([pixels[:high, :wide].reshape(-1, 3), pixels[:high, -wide:].reshape(-1, 3)])
    return np.log(np.maximum(np.median(corners, axis=0), DARKEST))


def usable_portraits(portraits: Skins, chart: Chart) -> Skins:
    """Those in colour that show most of the face under light that the texture could take away."""
    bare = chart.trust > 0.5
    good = []
    for log, seen, tone in zip(portraits.log, portraits.seen, portraits.tone):
        shown = bare & (seen > 0.5)
        uneven = float(log[shown].mean(axis=1).std()) if shown.any() else np.inf
        good.append(shown.sum() > LEAST_SEEN * bare.sum() and tone[0] - tone[1] > LEAST_RED and uneven < MOST_UNEVEN)
    return portraits.chosen(np.array(good, bool))
