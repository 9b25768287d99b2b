"""How invented people look: skin of every tone, brows, lips, lashes, beards, hair, glasses.

Landmark detectors answer to what is painted. Whoever learns from painted people therefore needs them to
differ in everything that says nothing about their shape, and by more than real people do: where brows
lie, how far hair comes into the face, whether a head ends at the hairline.

Symbols: V vertices, T triangles, K points of a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from backend.face_model.model import MOUTH, FaceModel
from backend.vision.landmark_sets import IBUG68, LEFT_EYE, RIGHT_EYE

# Linear RGB albedo of the darkest and lightest skin drawn; the tones between lie on a curve that
# bends towards red, as melanin and blood do. Read off colour charts of human skin.
DARK_SKIN = np.array([0.045, 0.025, 0.017])
LIGHT_SKIN = np.array([0.72, 0.50, 0.40])
MOUTH_INSIDE = np.array([0.10, 0.02, 0.02])

# Longest lengths of waves that vary a look over the head, metres: blotches, and strands of hair.
BLOTCH, STRAND = 0.05, 0.004

# Part of the people with each feature. Not as common as in life: as common as learning needs.
BARE_HEADS, CUT_FACES, BEARDS, MADE_UP, GLASSES = 0.2, 0.2, 0.25, 0.3, 0.1
# Where skins of real people are at hand, so many wear one; how its light and colour vary.
SKINNED, SKIN_COLOUR_SIGMA, SKIN_LIGHT_SIGMA = 0.6, 0.06, 0.3


@dataclass(frozen=True)
class Look:
    """One person's surface.

    Attributes
    ----------
    albedo : (V, 3) float
        Linear RGB of the head.
    shown : (V,) bool
        False where the head ends, for faces that are masks.
    hair : (V,) float
        Thickness of the hair over each vertex, metres; 0 where there is none.
    hair_albedo : (V, 3) float
    glasses : float
        Radius of the rims, metres; 0 for none.
    """

    albedo: np.ndarray
    shown: np.ndarray
    hair: np.ndarray
    hair_albedo: np.ndarray
    glasses: float


class Looks:
    """Draws looks for the heads of one model.

    ``skins`` (S, V, 3), linear RGB, are worn by some (see ``skins.py``); without them all are painted.
    """

    def __init__(self, model: FaceModel, skins: np.ndarray | None = None) -> None:
        self.model, self.skins = model, skins
        none = np.zeros(model.vertex_count, bool)
        self.masks = {name: model.regions.get(name, none) for name in ("lips", "brows", "scalp", "ears", "neck")}
        self.inside = none.copy()
        if MOUTH in model.materials:
            self.inside[model.triangles[model.triangle_material == model.materials.index(MOUTH)]] = True
        self.past_hairline = signed_distance(model.mean, self.masks["scalp"])
        points = model.landmark_points(model.mean.astype(np.float64), "mediapipe478")
        self.brows = [points[list(IBUG68[17:22])], points[list(IBUG68[22:27])]]
        lids = [points[list(eye[:9])] for eye in (RIGHT_EYE, LEFT_EYE)]
        self.from_lids = [KDTree(densify(lid)).query(model.mean)[0] for lid in lids]
        self.past_lips = signed_distance(model.mean, self.masks["lips"])
        self.points = points

    def draw(self, rng: np.random.Generator) -> Look:
        """The look of one person."""
        mean, count = self.model.mean, self.model.vertex_count
        skin = draw_skin(rng)
        hair_colour = rng.uniform(0.01, 0.25) * np.array([1.0, rng.uniform(0.6, 0.9), rng.uniform(0.3, 0.7)])
        albedo = skin * (1.0 + rng.uniform(0.01, 0.05) * waves(mean, BLOTCH, rng))[:, None]
        self._blush(albedo, rng)
        self._lips(albedo, skin, rng)
        self._beard(albedo, hair_colour, rng)
        self._brows(albedo, np.minimum(hair_colour, skin), rng)
        self._lashes(albedo, rng)
        if self.skins is not None and len(self.skins) and rng.random() < SKINNED:
            skin_worn = self.skins[rng.integers(len(self.skins))] * rng.normal(1.0, SKIN_COLOUR_SIGMA, 3)
            albedo = skin_worn * np.exp(rng.normal(0.0, SKIN_LIGHT_SIGMA))
        self._clothes(albedo, rng)
        albedo[self.inside] = MOUTH_INSIDE
        thickness = self._hair(rng)
        strands = hair_colour * (1.0 + 0.3 * waves(mean, STRAND, rng))[:, None]
        albedo = np.where((thickness > 0)[:, None], strands, albedo)
        shown = self._cut(rng) if rng.random() < CUT_FACES else np.ones(count, bool)
        glasses = rng.uniform(0.019, 0.028) if rng.random() < GLASSES else 0.0
        return Look(albedo.clip(0.0, 1.0), shown, thickness * shown, strands.clip(0.0, 1.0), glasses)

    def _blush(self, albedo: np.ndarray, rng: np.random.Generator) -> None:
        """Redder cheeks and nose, darker or lighter lids."""
        for centre, reach in ((50, 0.025), (280, 0.025), (4, 0.02), (159, 0.012), (386, 0.012)):
            near = np.exp(-((np.linalg.norm(self.model.mean - self.points[centre], axis=1) / reach) ** 2))
            tint = rng.normal([0.0, -0.06, -0.06] if centre in (50, 280, 4) else [-0.08] * 3, 0.06)
            albedo *= 1.0 + near[:, None] * tint

    def _lips(self, albedo: np.ndarray, skin: np.ndarray, rng: np.random.Generator) -> None:
        tint = np.array([rng.uniform(0.7, 1.05), rng.uniform(0.45, 1.0), rng.uniform(0.45, 1.0)])
        # Painted lips end where the painter's hand does.
        border = self.past_lips - rng.normal(0.0, 0.0008)
        albedo *= 1.0 + ((border < 0) & ~self.inside)[:, None] * (tint - 1.0)

    def _beard(self, albedo: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> None:
        if rng.random() > BEARDS:
            return
        mean = self.model.mean
        mouth, nose = self.points[13], self.points[2]
        low = mean[:, 1] < nose[1] - 0.003 - rng.uniform(0.0, 0.02) - 0.15 * np.abs(mean[:, 0])
        sides = (np.abs(mean[:, 0]) > rng.uniform(0.03, 0.06)) & (mean[:, 1] < mouth[1] + rng.uniform(-0.01, 0.05))
        beard = (low | sides) & (mean[:, 2] > self.points[132, 2] - 0.02) & ~self.masks["lips"] & ~self.masks["neck"]
        strength = rng.beta(1.0, 1.5) * beard * (0.8 + 0.2 * waves(mean, STRAND, rng))
        albedo += strength.clip(0.0, 1.0)[:, None] * (colour - albedo)

    def _brows(self, albedo: np.ndarray, colour: np.ndarray, rng: np.random.Generator) -> None:
        """Brows where a model has them, or strokes along them: higher, lower, thinner, steeper."""
        strength, mean = rng.uniform(0.1, 0.95), self.model.mean
        if rng.random() < 0.3:
            albedo[self.masks["brows"]] += strength * (colour - albedo[self.masks["brows"]])
            return
        rise, thickness, slope = rng.normal(0.0, 0.0025), rng.uniform(0.0015, 0.005), rng.normal(0.0, 0.12)
        for line in self.brows:
            line = line[np.argsort(np.abs(line[:, 0]))]
            across = np.abs(line[:, 0])
            height = np.interp(np.abs(mean[:, 0]), across, line[:, 1])
            height = height + rise + slope * (np.abs(mean[:, 0]) - across.mean()) + rng.normal(0.0, 0.0006)
            off = np.abs(mean[:, 1] - height) / thickness
            same_side = (mean[:, 0] * line[0, 0] > 0) & (mean[:, 2] > line[:, 2].min() - 0.01)
            within = same_side & (np.abs(mean[:, 0]) > across.min()) & (np.abs(mean[:, 0]) < across.max())
            stroke = strength * within * np.exp(-(off**2)) * (0.85 + 0.15 * waves(mean, STRAND, rng))
            albedo += stroke.clip(0.0, 1.0)[:, None] * (colour - albedo)

    def _lashes(self, albedo: np.ndarray, rng: np.random.Generator) -> None:
        """A dark line along the upper lids, thick on those made up."""
        made_up = rng.random() < MADE_UP
        reach = rng.uniform(0.0015, 0.004) if made_up else rng.uniform(0.0003, 0.0015)
        for away in self.from_lids:
            dark = rng.uniform(0.3, 0.9) * np.exp(-((away / reach) ** 2))
            albedo *= 1.0 - dark[:, None]

    def _clothes(self, albedo: np.ndarray, rng: np.random.Generator) -> None:
        neck = self.model.mean[self.masks["neck"], 1]
        if len(neck):
            collar = np.quantile(neck, rng.uniform(0.0, 0.7)) + 0.3 * (self.model.mean[:, 2] - self.points[152, 2])
            albedo[self.masks["neck"] & (self.model.mean[:, 1] < collar)] = rng.uniform(0.02, 0.8, 3)

    def _hair(self, rng: np.random.Generator) -> np.ndarray:
        """(V,) metres: a cap that thins out towards a ragged hairline, somewhere near that of the model."""
        if rng.random() < BARE_HEADS:
            return np.zeros(self.model.vertex_count)
        long = rng.random() < 0.4
        reach = rng.uniform(0.0, 0.04) if long else rng.uniform(-0.015, 0.012)
        field = self.past_hairline + rng.uniform(0.0, 0.012) * waves(self.model.mean, 3 * BLOTCH, rng)
        field += rng.uniform(0.0, 0.004) * waves(self.model.mean, BLOTCH, rng)
        # A parting or receding temples: the hairline leans.
        field += rng.normal(0.0, 0.1) * self.model.mean[:, 0]
        inward = (reach - field).clip(0.0)
        if not long:
            inward[self.masks["ears"]] = 0.0
        # Nobody's hair hangs from the middle of the face.
        inward[self.inside | (self.model.mean[:, 1] < self.points[152, 1])] = 0.0
        thickest = rng.uniform(0.002, 0.035)
        return np.minimum(inward * rng.uniform(0.3, 2.0), thickest)

    def _cut(self, rng: np.random.Generator) -> np.ndarray:
        """(V,) bool: a mask that ends at the ears, the hairline and the chin, or short of them."""
        mean = self.model.mean
        wobble = 0.004 * waves(mean, 3 * BLOTCH, rng)
        front = mean[:, 2] > self.points[234, 2] + rng.uniform(-0.03, 0.025) + wobble
        top = mean[:, 1] < self.points[10, 1] + rng.uniform(-0.01, 0.03) + wobble
        bottom = mean[:, 1] > self.points[152, 1] - rng.uniform(-0.003, 0.03) + wobble
        return (front & top & bottom & (~self.masks["ears"] | (rng.random() < 0.5))) | self.inside


def draw_skin(rng: np.random.Generator) -> np.ndarray:
    """(3,) linear RGB."""
    return DARK_SKIN * (LIGHT_SKIN / DARK_SKIN) ** rng.uniform() * rng.normal(1.0, 0.06, 3)


def waves(points: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """(V,) smooth field of about unit size over (V, 3) points, from waves of ``length`` metres and longer."""
    directions = rng.normal(0.0, 2.0 * np.pi / length / np.sqrt(3.0), (3, 6))
    return np.cos(points @ directions + rng.uniform(0.0, 2.0 * np.pi, 6)).sum(axis=1) / np.sqrt(3.0)


def signed_distance(points: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(V,) metres from the border of a set of vertices, negative inside it; infinite for an empty set."""
    if not inside.any() or inside.all():
        return np.full(len(points), -np.inf if inside.all() else np.inf)
    outward = KDTree(points[inside]).query(points)[0]
    inward = KDTree(points[~inside]).query(points)[0]
    return np.where(inside, -inward, outward)


def densify(line: np.ndarray, steps: int = 8) -> np.ndarray:
    """(K, 3) -> points between the points of a line."""
    where = np.linspace(0.0, len(line) - 1.0, steps * (len(line) - 1) + 1)
    return np.stack([np.interp(where, np.arange(len(line)), line[:, axis]) for axis in range(3)], axis=1)
