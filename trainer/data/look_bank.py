"""Looks on the training device: a few hundred people's skin and hair, made once, worn by all heads that are drawn.

Drawing a look (``looks.py``) takes a processor 60 ms, drawing a head a hundredth of that. So looks are drawn ahead
and then worn in turn, each time in another colour. Hair, and at times a cloth mask, is a second skin over the head:
where there is none it lies a little inside, hidden, so that all heads share one list of triangles and a whole batch
is drawn at once.

Symbols: N looks, P pictures, V vertices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from trainer.data.looks import BLOTCH, Look, Looks, waves

# Part of the looks that wear a cloth mask; how far it stands off the skin, metres.
MASKED, MASK_OFF = 0.08, (0.002, 0.009)

# Linear RGB of the darkest and the lightest teeth, gums and tongues; and how far from the lips the mouth is a third as
# light, metres. Teeth between the shade guides' C4 and B1.
MOUTH_PARTS = {
    "teeth": ((0.38, 0.30, 0.18), (0.80, 0.74, 0.62)),
    "gums": ((0.16, 0.05, 0.05), (0.50, 0.22, 0.21)),
    "tongue": ((0.22, 0.07, 0.07), (0.46, 0.20, 0.18)),
}
MOUTH_DARKENS = 0.025

# Where the second skin shows nothing it lies this far inside the head, metres.
INSIDE = -0.004

# Spread of the colours that a look is worn in: of all channels together and of each, natural logarithms.
LIGHTER, TINTED = 0.25, 0.06


@dataclass(frozen=True)
class Worn:
    """The looks of P pictures, as :meth:`LookBank.wear` picks them.

    Attributes
    ----------
    albedo, cover_albedo : (P, V, 3) float
        Linear RGB of the skin, and of what lies over it.
    cover : (P, V) float
        How far that lies off the skin, metres; negative where there is nothing.
    covered : (P, V) bool
        Vertices of what lies over the skin: where there is something, and one triangle beyond.
    shown : (P, V) bool
        False where the head ends.
    glasses : (P,) float
        Radius of the rims, metres; 0 for none.
    """

    albedo: torch.Tensor
    cover_albedo: torch.Tensor
    cover: torch.Tensor
    covered: torch.Tensor
    shown: torch.Tensor
    glasses: torch.Tensor


class LookBank:
    """Looks of one model, drawn from a seed.

    Parameters
    ----------
    painter : Looks
    count : int
        N.
    seed : int
    device : torch.device
        Holds 15 bytes for each look and vertex: 128 MB for 512 looks of the default head.
    """

    def __init__(self, painter: Looks, count: int, seed: int, device: torch.device) -> None:
        looks = []
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            looks.append(_masked(painter, _with_mouth(painter, painter.draw(rng), rng), rng))
        self.count = count

        def table(values: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
            return torch.from_numpy(np.stack(values)).to(device, dtype)

        self.albedo = table([look.albedo for look in looks], torch.float16)
        self.cover_albedo = table([look.hair_albedo for look in looks], torch.float16)
        self.cover = table([np.where(look.hair > 0, look.hair, INSIDE) for look in looks], torch.float16)
        # Elsewhere it is not drawn: inside of a thin nose it would come out on the other side.
        self.covered = table([_with_border(look.hair > 0, painter.model.triangles) for look in looks], torch.bool)
        self.shown = table([look.shown for look in looks], torch.bool)
        self.glasses = table([np.array(look.glasses) for look in looks], torch.float32)

    def wear(self, which: np.ndarray, rng: np.random.Generator) -> Worn:
        """The looks ``which`` (P,), each in colours of its own."""
        index = torch.from_numpy(which).to(self.albedo.device)
        tint = np.exp(rng.normal(0.0, LIGHTER, (len(which), 1, 1)) + rng.normal(0.0, TINTED, (len(which), 1, 3)))
        colour = torch.from_numpy(tint).to(self.albedo.device, torch.float32)
        return Worn(
            (self.albedo[index].float() * colour).clamp(max=1.0),
            self.cover_albedo[index].float(),
            self.cover[index].float(),
            self.covered[index],
            self.shown[index],
            self.glasses[index],
        )


def _with_border(there: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V,) bool grown by the triangles (T, 3) that reach into it."""
    grown = there.copy()
    grown[triangles[there[triangles].any(axis=1)]] = True
    return grown


def _with_mouth(painter: Looks, look: Look, rng: np.random.Generator) -> Look:
    """With teeth, gums and a tongue in colours of their own, where the model tells them apart."""
    regions, albedo = painter.model.regions, look.albedo.copy()
    # The depth of the mouth gets little light, which nine harmonics do not know: all of it is darker there.
    depth = painter.model.mean[:, 2]
    for name, (dark, light) in MOUTH_PARTS.items():
        part = regions.get(name)
        if part is not None and part.any():
            colour = np.array(dark) + rng.random() * (np.array(light) - np.array(dark))
            inward = (depth[part].max() - depth[part])[:, None]
            albedo[part] = colour * rng.normal(1.0, 0.04, 3) * np.exp(-inward / MOUTH_DARKENS)
    return replace(look, albedo=albedo.clip(0.0, 1.0))


def _masked(painter: Looks, look: Look, rng: np.random.Generator) -> Look:
    """At times with a cloth mask from the nose to under the chin, which takes the place of hair."""
    if rng.random() >= MASKED:
        return look
    mean, points = painter.model.mean, painter.points
    wobble = 0.002 * waves(mean, 3 * BLOTCH, rng)
    top = points[4, 1] + rng.uniform(-0.004, 0.022) - rng.uniform(0.0, 0.25) * np.abs(mean[:, 0]) + wobble
    cloth = (mean[:, 1] < top) & (mean[:, 1] > points[152, 1] - 0.02) & (mean[:, 2] > points[234, 2])
    colour = rng.uniform(0.02, 0.85) + rng.normal(0.0, 0.08, 3)
    thickness = np.where(cloth, rng.uniform(*MASK_OFF), look.hair)
    albedo = np.where(cloth[:, None], colour.clip(0.01, 0.9), look.hair_albedo)
    return Look(look.albedo, look.shown, thickness, albedo, look.glasses)
