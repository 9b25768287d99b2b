"""Which three pictures become a sample, and what may be compared between them.

Shang et al. 2020 train on three kinds of triplets at once, told apart by a flag (``trainer/losses/flags.py``): three
pictures of anybody; three of one person; and three of one person that suit their method best. What makes a pair suit
is not written down; their author says that neighbouring cameras with enough overlap do, and poses far apart do not
(``LEAST_YAW`` to ``MOST_YAW``, ``LEAST_OVERLAP`` here).

Symbols: N views of a triplet, V vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trainer.data.photo_views import PhotoView
from trainer.data.triplets import VIEWS
from trainer.losses.flags import ANYBODY, ONE_MOMENT, ONE_PERSON

# Degrees between the heads of two views, about any axis: less shows the same, more shares too little.
LEAST_TURN, MOST_TURN = 8.0, 65.0
# Vertices of the face that both views show, of those that the one shows that shows fewer.
LEAST_OVERLAP = 0.5
# Largest difference of a coefficient of expression up to which a face kept still.
STILL = 0.15

# Attempts to find two partners for a picture before it is left to strangers.
TRIES = 40


@dataclass(frozen=True)
class PhotoTriplet:
    """Three views.

    Attributes
    ----------
    views : tuple of PhotoView
    flag : int
        See ``trainer/losses/flags.py``.
    one_person : bool
    """

    views: tuple[PhotoView, ...]
    flag: int
    one_person: bool

    @property
    def moved(self) -> bool:
        return self.flag != ONE_MOMENT


@dataclass(frozen=True)
class Group:
    """Views that belong together.

    Attributes
    ----------
    views : tuple of PhotoView
        In the order in which they were taken, where there is one.
    one_person : bool
        Else anybody's.
    seconds : tuple of float, optional
        When each was taken; views of one moment are those that lie within ``moment`` seconds. Without it none are.
    moment : float
    """

    views: tuple[PhotoView, ...]
    one_person: bool
    seconds: tuple[float, ...] = ()
    moment: float = 0.0


def turn_between(a: PhotoView, b: PhotoView) -> float:
    """Degrees by which the head is turned from one view to the other, about whatever axis."""
    cosine = (np.trace(a.R @ b.R.T) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def overlap(a: PhotoView, b: PhotoView) -> float:
    """The part of the face that both views show, of what the one shows that shows less."""
    return float((a.facing & b.facing).sum() / max(min(a.facing.sum(), b.facing.sum()), 1))


def suits(a: PhotoView, b: PhotoView) -> bool:
    """Whether two views of a person differ by enough to say something, and not by too much to be compared."""
    return LEAST_TURN <= turn_between(a, b) <= MOST_TURN and overlap(a, b) >= LEAST_OVERLAP


def still(a: PhotoView, b: PhotoView) -> bool:
    """Whether the face has one expression in both."""
    return float(np.abs(a.numbers["expression"] - b.numbers["expression"]).max()) <= STILL


def make_triplets(groups: Sequence[Group], seed: int, most: int | None = None) -> list[PhotoTriplet]:
    """Every view is once the first of a triplet, with partners by chance: the best kind that can be found.

    Parameters
    ----------
    groups : sequence of Group
    seed : int
    most : int, optional
        How many triplets at most; those to leave out are drawn.

    Returns
    -------
    list of PhotoTriplet
        Shuffled.
    """
    rng = np.random.default_rng(seed)
    everybody = [view for group in groups for view in group.views]
    found = []
    for group in groups:
        for first in range(len(group.views)):
            triplet = _of_person(group, first, rng) if group.one_person and len(group.views) > 1 else None
            found.append(triplet or _of_anybody(group.views[first], everybody, rng))
    order = rng.permutation(len(found))[:most]
    return [found[index] for index in order]


def _of_person(group: Group, first: int, rng: np.random.Generator) -> PhotoTriplet:
    """Of one moment, else of one person in views that suit, else of one person with nothing to compare."""
    others = [index for index in range(len(group.views)) if index != first]
    if group.seconds:
        near = [index for index in others if abs(group.seconds[index] - group.seconds[first]) <= group.moment]
        picked = _partners(group, first, near, rng, keep_still=True)
        if picked is not None:
            return PhotoTriplet(picked, ONE_MOMENT, True)
    picked = _partners(group, first, others, rng, keep_still=False)
    if picked is not None:
        return PhotoTriplet(picked, ONE_PERSON, True)
    pair = rng.choice(others, 2, replace=len(others) < 2)
    views = (group.views[first], *(group.views[index] for index in pair))
    return PhotoTriplet(views, ANYBODY, True)


def _partners(
    group: Group, first: int, among: Sequence[int], rng: np.random.Generator, keep_still: bool
) -> tuple[PhotoView, ...] | None:
    """The view and two that suit it and each other; None where chance finds none."""
    target = group.views[first]

    def fits(a: PhotoView, b: PhotoView) -> bool:
        return suits(a, b) and (not keep_still or still(a, b))

    good = [index for index in among if fits(target, group.views[index])]
    for _ in range(TRIES if len(good) >= VIEWS - 1 else 0):
        one, other = (group.views[index] for index in rng.choice(good, 2, replace=False))
        if fits(one, other):
            return target, one, other
    return None


def _of_anybody(view: PhotoView, everybody: Sequence[PhotoView], rng: np.random.Generator) -> PhotoTriplet:
    others = rng.integers(len(everybody), size=VIEWS - 1)
    return PhotoTriplet((view, *(everybody[index] for index in others)), ANYBODY, False)


# --- one person or two ------------------------------------------------------------------------------------

# Distance of two fits' identities (:func:`identity_gap`) from which on they are taken for two people. Of 40 people of
# the London set, neutral and smiling: one person's two photos differ by 0.19 (median), 0.32 (95 %); two people's by
# 0.36 (median), 0.24 (1 %). So it finds a third of all strangers and loses hardly anybody.
OTHER_PERSON = 0.38


def identity_gap(a: PhotoView, b: PhotoView) -> float:
    """Root mean square difference of the identities, in standard deviations of the model."""
    return float(np.sqrt(((a.numbers["identity"] - b.numbers["identity"]) ** 2).mean()))


def strangers(views: Sequence[PhotoView]) -> list[bool]:
    """Which of the views of what should be one person do not look like the rest; of two nobody can tell."""
    if len(views) < 3:
        return [False] * len(views)
    usual = np.median([view.numbers["identity"] for view in views], axis=0)
    gaps = [float(np.sqrt(((view.numbers["identity"] - usual) ** 2).mean())) for view in views]
    return [gap > OTHER_PERSON for gap in gaps]


def split_where(breaks: Sequence[bool], count: int) -> list[range]:
    """Runs of ``count`` things that follow each other, broken before every one that says so (the first never)."""
    edges = [0, *(index for index in range(1, count) if breaks[index]), count]
    return [range(low, high) for low, high in pairwise(edges) if high > low]
