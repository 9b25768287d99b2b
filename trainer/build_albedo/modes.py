"""Principal components of skins that are lent many tones, without ever making those skins.

A person's skin in another tone is ``tone + detail + (ratio - 1) * hair`` (:func:`trainer.build_albedo.tones.toned`): a
sum of three even colours and of two pictures of this person. Means, covariances and modes of all people in all
tones therefore need only the products of these pictures. Each skin also counts mirrored: what is alike on both
sides and what is not are uncorrelated then, and have modes of their own.

Symbols: P people, T tones, K modes, S side of the texture, X texels of skin, Q = 3 + 2 P pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.errors import ModelError
from backend.reconstruction.texture_atlas import ramp
from trainer.build_albedo.chart import Chart
from trainer.build_albedo.photos import Skins
from trainer.build_albedo.tones import contrast_ratio, even_cover, hair_part, without_highlights

# Missing texels are guessed from this many modes of what was seen, this many times.
GUESS_MODES, GUESS_ROUNDS = 20, 10
# Part of the people who showed a texel, from which on the others are asked about it, and from which on alone.
TOLD_BY_OTHERS = (0.1, 0.4)
# Confidence, 0 to 1, from which a texel counts as seen: the skin is turned away by 60 degrees there.
SEEN_FULLY = 0.5

# No person may bring more than this part of any mode's variance. Rounds of weighing until that holds, and how far
# below the bound each of them aims, so that they end.
MOST_SHARE, SHARE_ROUNDS, SHARE_AIM = 0.10, 60, 0.9
# Variances below this are rounding.
NOTHING = 1e-9


@dataclass(frozen=True)
class Modes:
    """What was learned.

    Attributes
    ----------
    mean : (S, S, 3) float32
        Log of linear albedo.
    modes : (K, S, S, 3) float32
        Per standard deviation, largest first.
    sigma : (K,) float64
        Root mean square of each over the skin, weighted as by :attr:`Chart.counts`.
    shares : (P, K) float64
        Part of each mode's variance that each person brings; columns sum to 1.
    coefficients : (P, T, K) float64
        Of every person in every tone, in standard deviations; for modes that differ between the sides, their size.
    symmetric : (K,) bool
    total : float
        Variance of all skins together, of which the modes take ``sigma ** 2`` each.
    """

    mean: np.ndarray
    modes: np.ndarray
    sigma: np.ndarray
    shares: np.ndarray
    coefficients: np.ndarray
    symmetric: np.ndarray
    total: float


@dataclass(frozen=True)
class Spectrum:
    """Modes as mixtures of pictures, not yet drawn.

    ``values`` (K,) are variances, ``recipes`` (K, Q) the mixtures, ``middle`` (Q,) that of the mean skin; the rest as
    in :class:`Modes`, but for the sign.
    """

    values: np.ndarray
    recipes: np.ndarray
    symmetric: np.ndarray
    shares: np.ndarray
    coefficients: np.ndarray
    middle: np.ndarray
    total: float


def details(skins: Skins, chart: Chart) -> np.ndarray:
    """(P, X, 3) float32: skins less their tone, without highlights, with what no photo showed guessed from the others.

    Guessing is probabilistic principal component analysis with missing data by expectation and maximisation (Tipping
    and Bishop 1999, section 3.3; Roweis 1998, section 3): what was seen pulls with its confidence, the rest follows
    the modes. Where hardly anybody was seen, others have nothing to say, and what the pipeline completed stays.
    """
    inside = chart.inside
    flipped = flat_flip(inside)
    plain = np.stack([without_highlights(log, tone)[inside] - tone for log, tone in zip(skins.log, skins.tone)]).astype(
        np.float32
    )
    seen = np.minimum(skins.seen[:, inside] / SEEN_FULLY, 1.0)[..., None]
    known = np.concatenate([plain, plain[:, flipped]])
    belief = np.concatenate([seen, seen[:, flipped]])
    told = ramp(belief.mean(axis=0), *TOLD_BY_OTHERS).astype(np.float32)
    scale = np.sqrt(chart.counts[inside])[None, :, None]
    modes = min(GUESS_MODES, len(skins) // 2)
    guess = (belief * known).sum(axis=0) / np.maximum(belief.sum(axis=0), 1e-3)
    filled = known
    for _ in range(GUESS_ROUNDS):
        filled = belief * known + (1.0 - belief) * (told * guess + (1.0 - told) * known)
        mean = filled.mean(axis=0)
        apart = ((filled - mean) * scale).reshape(len(filled), -1)
        values, vectors = np.linalg.eigh((apart @ apart.T).astype(np.float64))
        # The part of each mode that is not noise: as much noise as the modes that are left out have on average.
        kept = 1.0 - values[:-modes].mean() / np.maximum(values[-modes:], NOTHING)
        first = vectors[:, -modes:].astype(np.float32)
        made = (first * kept.astype(np.float32)) @ (first.T @ apart)
        guess = mean + made.reshape(filled.shape) / np.maximum(scale, 1e-4)
    return (belief * known + (1.0 - belief) * (told * guess + (1.0 - told) * known))[: len(skins)]


class Learner:
    """Holds the products of all pictures, so that people may be weighed again and again.

    Parameters
    ----------
    detail : (P, X, 3) float
        From :func:`details`.
    tone : (P, 3) float
        Of each person.
    wanted : (P, T, 3) float
        Tones that each is lent.
    chart : Chart
    """

    def __init__(self, detail: np.ndarray, tone: np.ndarray, wanted: np.ndarray, chart: Chart) -> None:
        people, tones = wanted.shape[:2]
        self.chart, self.shape = chart, (people, tones)
        self.texel_weight = np.repeat(chart.counts[chart.inside], 3).astype(np.float64)
        self.texel_weight /= self.texel_weight.sum()
        # u grows towards the subject's left.
        column = np.nonzero(chart.inside)[1]
        self.left = np.repeat(column >= chart.size / 2, 3)
        # How a skin is mixed: three colours, its own detail, its own hair.
        mixture = np.zeros((people, tones, 3 + 2 * people))
        mixture[..., :3] = wanted
        for person in range(people):
            mixture[person, :, 3 + person] = 1.0
            mixture[person, :, 3 + people + person] = contrast_ratio(tone[person], wanted[person]) - 1.0
        self.mixture = mixture.reshape(people * tones, -1)
        colours = np.broadcast_to(np.eye(3)[:, None], (3, detail.shape[1], 3))
        hair = np.broadcast_to(hair_part(detail), detail.shape)
        pictures = np.concatenate([colours, detail, hair]).astype(np.float32)
        mirrored = pictures[:, flat_flip(chart.inside)]
        # What is alike on both sides, and what is not.
        self.halves = [(0.5 * (pictures + sign * mirrored)).reshape(len(pictures), -1) for sign in (1.0, -1.0)]
        weight = self.texel_weight.astype(np.float32)
        self.products = [((half * weight) @ half.T).astype(np.float64) for half in self.halves]

    def spectrum(self, plan: np.ndarray, count: int) -> Spectrum:
        """The largest ``count`` modes as mixtures, when each skin counts as ``plan`` (P, T) says, summing to 1."""
        share = plan.ravel()
        middle = share @ self.mixture
        values, recipes, coefficients = [], [], []
        for products, centre in zip(self.products, (middle, np.zeros_like(middle))):
            apart = self.mixture - centre
            root = _root((apart * share[:, None]).T @ apart)
            own, vectors = np.linalg.eigh(root @ products @ root)
            values.append(own)
            recipes.append(root @ vectors)
            coefficients.append(apart @ (products @ recipes[-1]) / np.maximum(own, NOTHING))
        every = np.concatenate(values)
        order = np.argsort(every)[::-1][:count]
        order = order[every[order] > NOTHING]
        chosen = np.concatenate(coefficients, axis=1)[:, order]
        parts = (share[:, None] * chosen**2).reshape(*self.shape, -1).sum(axis=1)
        return Spectrum(
            every[order],
            np.concatenate(recipes, axis=1)[:, order].T,
            order < len(values[0]),
            parts / parts.sum(axis=0),
            chosen.reshape(*self.shape, -1),
            middle,
            float(every.sum()),
        )

    def modes(self, spectrum: Spectrum) -> Modes:
        """The pictures of a spectrum."""
        symmetric, odd = self.halves
        recipes = spectrum.recipes.astype(np.float32)
        flat = np.where(spectrum.symmetric[:, None], recipes @ symmetric, recipes @ odd)
        # Which way a mode points is a toss of the library's coin: more light is positive, on the subject's left
        # where the sides differ.
        weight = self.texel_weight * np.where(spectrum.symmetric[:, None], 1.0, self.left)
        sign = np.where((flat * weight).sum(axis=1) < 0, -1.0, 1.0)
        mean = spectrum.middle.astype(np.float32) @ symmetric
        return Modes(
            on_texture(mean.reshape(1, -1, 3), self.chart)[0],
            on_texture((sign[:, None] * flat).reshape(len(flat), -1, 3).astype(np.float32), self.chart),
            np.sqrt(spectrum.values),
            spectrum.shares,
            sign * spectrum.coefficients,
            spectrum.symmetric,
            spectrum.total,
        )


def shared_cover(learner: Learner, own: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """(P, T) plan in which every tone counts alike and no person brings more than :data:`MOST_SHARE` of a mode.

    Whoever brings more (a beard, a birthmark, light that stayed in a photo) counts less, until nobody does.

    Raises
    ------
    ModelError
        There are too few people for that.
    """
    people = np.full(len(own), 1.0 / len(own))
    for _ in range(SHARE_ROUNDS):
        plan = even_cover(own, targets, people)
        worst = learner.spectrum(plan, count).shares.max(axis=1)
        if worst.max() <= MOST_SHARE:
            return plan
        people = people * np.minimum(1.0, SHARE_AIM * MOST_SHARE / worst) ** 0.5
        people = people / people.sum()
    raise ModelError(
        f"{len(own)} people are too few or too unlike for {count} modes of which nobody brings more than "
        f"{MOST_SHARE:.0%}; ask for fewer modes or give more photos."
    )


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def flat_flip(inside: np.ndarray) -> np.ndarray:
    """(X,) for each texel of skin, in the order of ``picture[inside]``, the one on the other side."""
    place = np.zeros(inside.shape, int)
    place[inside] = np.arange(inside.sum())
    return place[:, ::-1][inside]


def on_texture(values: np.ndarray, chart: Chart) -> np.ndarray:
    """(N, X, 3) -> (N, S, S, 3) float32, each texel outside the skin like the nearest of it."""
    full = np.zeros((len(values), *chart.inside.shape, 3), np.float32)
    full[:, chart.inside] = values
    return chart.spread(full)
