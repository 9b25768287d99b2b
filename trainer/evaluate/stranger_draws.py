"""How often a stranger among somebody's photos is found, and how often a right photo is thrown out.

Sets of photos of one person, with and without a photo of somebody else in a random place:

* ``series``: the four photos of ``zoom`` or of ``lisa``, strangers from ``london`` (neutral or smiling).
* ``london``: the neutral and the smiling photo of one person, strangers others of the set.
* ``invented``: four photos with a stranger or five without, other expression, camera and light in each; people of the
  set ``several_views``.

The statistics come from other invented people, the middle of real faces from ``canada``. The sets are not unseen: that
there are two middles was decided after a first measurement on them (`docs/benchmarks/multiview.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import MgcFaceError
from backend.face_model.registry import get_model
from backend.reconstruction.appearance import Appearance, AppearanceStatistics, Likeness, shipped_appearance
from backend.reconstruction.joint import Answers, regressed
from backend.reconstruction.observation import observe
from backend.reconstruction.person import appearance_in
from backend.reconstruction.same_person import PersonStatistics, shipped_statistics, strangers
from backend.vision.decode import load_photo
from backend.vision.photo import Photo
from trainer.evaluate.markdown import table
from trainer.evaluate.several_views import FIRST_SEED, bench, invented
from trainer.evaluate.truth_sets import SetError

DRAWS = 200
INVENTED_PEOPLE = 20
LONDON = ("london/neutral", "london/smiling")


@dataclass(frozen=True)
class Task:
    """All photos of one person of one kind."""

    kind: str
    name: str
    person: str
    paths: tuple[Path, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Result:
    """What the regression answers for each photo in which a face was found, and what it shows of the skin."""

    kind: str
    name: str
    person: str
    answers: Answers | None
    error: str | None = None
    shown: list[Appearance | None] = field(default_factory=list)


def load(data: Path) -> list[Task]:
    photos = data / "photos"
    tasks = []
    for series in ("zoom", "lisa"):
        tasks.append(Task("series", series, series, tuple(sorted((photos / series).glob("*.jpg")))))
    people: dict[str, list[Path]] = {}
    for folder in LONDON:
        for path in sorted((photos / folder).glob("*.jpg")):
            people.setdefault(path.name.split("_")[0], []).append(path)
    tasks += [Task("london", f"london {name}", name, tuple(paths)) for name, paths in people.items()]
    if not people or not all(task.paths for task in tasks):
        raise SetError(f"The sets zoom, lisa and london are not in {photos}; say with --data where the photos are.")
    tasks += [
        Task("invented", f"invented {seed}", str(seed), seed=seed)
        for seed in range(FIRST_SEED, FIRST_SEED + INVENTED_PEOPLE)
    ]
    return tasks


def measure(task: Task, reconstruct: object = None) -> Result:
    """Detect and regress the photos of one person (``reconstruct`` is not asked)."""
    pipeline = bench()
    if task.seed is not None:
        photos: list[Photo] = invented(get_model("open-head"), task.seed).photos()
    else:
        photos = [load_photo(path) for path in task.paths]
    observations, shown = [], []
    for photo in photos:
        try:
            faces = pipeline.faces(photo)
        except MgcFaceError:
            continue
        for face in faces[:1]:
            observations.append(observe(photo, face, pipeline.fitter.lm.name))
            shown.append(appearance_in(pipeline.fitter, photo, observations[-1]))
    if not observations:
        return Result(task.kind, task.name, task.person, None, "No photo shows a face.")
    return Result(task.kind, task.name, task.person, regressed(pipeline.fitter, observations), shown=shown)


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """Kind -> how many draws, strangers found, sets from which a right photo went, with and without a stranger."""
    model = get_model("open-head")
    statistics = shipped_statistics(model, "mediapipe478")
    assert statistics is not None
    found = {kind: [r for r in results if r.kind == kind and r.answers is not None] for kind in ("series", "london")}
    found["invented"] = [
        r for r in results if r.kind == "invented" and r.answers is not None and len(r.answers.doubt) > 4
    ]
    summary: dict[str, Any] = {}
    for kind, people in found.items():
        others = found["london"] if kind == "series" else people
        if people and len(others) > 1:
            summary[kind] = draws(statistics, shipped_appearance(model), people, others, np.random.default_rng(0))
    return summary


def draws(
    statistics: PersonStatistics,
    appearance: AppearanceStatistics | None,
    people: Sequence[Result],
    others: Sequence[Result],
    rng: np.random.Generator,
) -> dict[str, Any]:
    row = {"draws": DRAWS, "found": 0, "right_lost_beside_stranger": 0, "right_lost": 0, "size": 0}
    for _ in range(DRAWS):
        person = people[rng.integers(len(people))]
        other = person
        while other.person == person.person:
            other = others[rng.integers(len(others))]
        assert person.answers is not None and other.answers is not None
        count = len(person.answers.doubt)
        right = rng.permutation(count)[: min(count, 5)]
        row["right_lost"] += bool(odd_ones(statistics, appearance, [(person, int(photo)) for photo in right]))
        mixed = [(person, int(photo)) for photo in right[:4]]
        place = int(rng.integers(len(mixed) + 1)) if len(mixed) > 1 else 1
        mixed.insert(place, (other, int(rng.integers(len(other.answers.doubt)))))
        odd = odd_ones(statistics, appearance, mixed)
        row["found"] += place in odd
        row["right_lost_beside_stranger"] += any(photo != place for photo in odd)
        row["size"] = len(mixed)
    return row


def odd_ones(
    statistics: PersonStatistics, appearance: AppearanceStatistics | None, photos: Sequence[tuple[Result, int]]
) -> dict[int, float]:
    """Strangers among photos, each of a person and a place among that one's."""
    rows: list[tuple[np.ndarray, ...]] = []
    for person, photo in photos:
        assert person.answers is not None
        rows.append((person.answers.identity[photo], person.answers.views[photo], person.answers.doubt[photo]))
    identity, views, doubt = (np.array(column) for column in zip(*rows))
    likeness = None
    if appearance is not None and all(person.shown for person, _ in photos):
        likeness = Likeness.of(appearance, [person.shown[photo] for person, photo in photos], views)
    return strangers(statistics, identity, views, doubt, likeness)


def page(summary: dict[str, Any]) -> str:
    rows = [
        [kind, row["size"], row["draws"], row["found"], row["right_lost_beside_stranger"], row["right_lost"]]
        for kind, row in summary.items()
    ]
    columns = ["photos", "in a set with a stranger", "draws", "stranger found", "a right photo lost beside him"]
    return "## A stranger among somebody's photos\n\n" + table([*columns, "a right photo lost without stranger"], rows)
