"""Several photos of one person, from files to one head.

decode -> detect -> who does not belong -> joint fit -> whose fit disagrees -> refine -> texture. The stages are those
of :class:`~backend.reconstruction.pipeline.Pipeline`; what is particular to one person is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from backend.errors import MgcFaceError
from backend.geometry.camera import Camera, intrinsics
from backend.reconstruction.appearance import (
    Appearance,
    AppearanceStatistics,
    Likeness,
    appearance_of,
    shipped_appearance,
)
from backend.reconstruction.fit import Fitter
from backend.reconstruction.joint import JointFit, fit_together, regressed
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.observation import observe
from backend.reconstruction.outcome import PhotoOutcome, Progress, Source, Steps, elapsed_ms, named
from backend.reconstruction.photometric import refine_photos
from backend.reconstruction.pipeline import Pipeline
from backend.reconstruction.result import Reconstruction, Texture
from backend.reconstruction.same_person import shipped_statistics, strangers
from backend.reconstruction.texture_views import bake_views
from backend.vision.decode import PhotoFile, read_photo
from backend.vision.photo import Photo

# Pixels of decoded photos that are kept from detection until the texture; the others are read again.
KEPT_MEGAPIXELS = 300.0

# A photo disagrees when its landmarks lie this much farther from the common head than those of the others do,
# and this far by themselves (median distance over the height of the face; real photos reach 0.3 to 0.7 %).
DISAGREES_TIMES, DISAGREES_FROM = 3.0, 0.015

MOST_PHOTOS = 100


ONLY_ONE = "Only one photo was used, so the head is no better than that photo's own."


class PersonError(MgcFaceError):
    """No head can be made of the photos of one person; ``errors`` has what is wrong with each, by its place."""

    code = "person"

    def __init__(self, message: str, errors: Mapping[int, MgcFaceError] | None = None) -> None:
        super().__init__(message)
        self.errors = dict(errors or {})


@dataclass(frozen=True)
class PersonPhoto:
    """One photo of the person, or the sentence that says why it was left out.

    ``index`` is its place in the call. ``head`` has the common identity and this photo's camera, expression and
    landmarks; None when the photo was not used. ``code`` is the error's code beside its ``reason``. ``light`` (9, 3)
    as in ``Texture``. ``photo`` holds the pixels, None where they were not kept; ``source`` is where they came from.
    """

    index: int
    path: Path | None
    head: Reconstruction | None = None
    reason: str | None = None
    code: str = ""
    light: np.ndarray | None = None
    photo: Photo | None = field(default=None, repr=False)
    source: str | Path | PhotoFile | None = field(default=None, repr=False)

    @property
    def used(self) -> bool:
        return self.head is not None

    def pixels(self) -> Photo:
        """The decoded photo, read again where it was not kept."""
        if self.photo is not None:
            return self.photo
        assert self.source is not None
        return read_photo(self.source)


@dataclass(frozen=True)
class Person:
    """One head from several photos.

    Attributes
    ----------
    photos : tuple of PersonPhoto
        In the order given, those that were left out too.
    main : int
        Place in ``photos`` of the one that shows the face best: its expression is the head's.
    texture : Texture or None
        From all photos.
    sources : (S, S) uint8 or None
        Which photo each texel came from: its place in ``photos`` plus one, 0 where none did.
    timings_ms : dict of str to float
    warnings : tuple of str
    """

    photos: tuple[PersonPhoto, ...]
    main: int
    texture: Texture | None = None
    sources: np.ndarray | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def used(self) -> list[PersonPhoto]:
        return [photo for photo in self.photos if photo.used]

    @property
    def head(self) -> Reconstruction:
        """The head as the main photo shows it, with the common texture."""
        main = self.photos[self.main].head
        assert main is not None
        return replace(main, texture=self.texture, timings_ms=self.timings_ms, warnings=self.warnings)


@dataclass
class Candidate:
    """A photo with a face on its way to being used: what the fit takes from it, and why it is left out."""

    outcome: PhotoOutcome
    observation: Observation
    reason: str | None = None


def reconstruct_person(
    pipeline: Pipeline,
    sources: Iterable[Source],
    keep_all: bool = False,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Person:
    """One head from all photos of one person.

    Parameters
    ----------
    pipeline : Pipeline
    sources : iterable of path, PhotoFile or Photo
        Up to :data:`MOST_PHOTOS`; of each the largest face counts.
    keep_all : bool
        Use photos that look like another person's or disagree with the others, too.
    progress, cancel
        As in :meth:`Pipeline.reconstruct_many`.

    Raises
    ------
    PersonError
        No photo shows a face, or there are too many.
    Cancelled
    """
    sources = list(sources)
    if len(sources) > MOST_PHOTOS:
        raise PersonError(f"These are {len(sources)} photos of one person; choose up to {MOST_PHOTOS} of them.")
    steps, timings = Steps(progress, cancel), {}
    started = time.perf_counter()
    outcomes = detected(pipeline, sources, steps)
    timings["detect"] = elapsed_ms(started)
    candidates = [
        Candidate(outcome, observe(outcome.photo, outcome.faces[0], pipeline.fitter.lm.name))
        for outcome in outcomes
        if outcome.error is None and outcome.photo is not None
    ]
    if not candidates:
        errors = {outcome.index: outcome.error for outcome in outcomes if outcome.error is not None}
        raise PersonError(nobody(outcomes), errors)
    started = time.perf_counter()
    steps.report(candidates[0].outcome.index, "fit", 0.4)
    if not keep_all:
        leave_out_strangers(pipeline, candidates, steps)
    drop_pixels([candidate.outcome for candidate in candidates], sources)
    fit = solve(pipeline, candidates, keep_all)
    timings["fit"] = elapsed_ms(started)
    if "refine" in pipeline.stages:
        started = time.perf_counter()
        fit = refined(pipeline, sources, candidates, fit, steps)
        timings["refine"] = elapsed_ms(started)
    person = assemble(pipeline, sources, outcomes, candidates, fit)
    if pipeline.texture_size is not None:
        started = time.perf_counter()
        person = textured(person, pipeline.texture_size, steps)
        timings["texture"] = elapsed_ms(started)
    return replace(person, timings_ms=timings)


def detected(pipeline: Pipeline, sources: Sequence[Source], steps: Steps) -> list[PhotoOutcome]:
    """Every photo with its faces or its error."""
    outcomes = []
    for group in pipeline.groups(sources, steps):
        for outcome in group:
            pipeline.detect(outcome, all_faces=False, steps=steps)
            outcomes.append(outcome)
    return outcomes


def drop_pixels(outcomes: Sequence[PhotoOutcome], sources: Sequence[Source]) -> None:
    """Forget the pixels of photos that can be read again once those before them fill the room."""
    kept = 0.0
    for outcome in outcomes:
        assert outcome.photo is not None
        kept += outcome.photo.pixels.size / 3e6
        if kept > KEPT_MEGAPIXELS and not isinstance(sources[outcome.index], Photo):
            outcome.photo = replace(outcome.photo, pixels=outcome.photo.pixels[:0])


def nobody(outcomes: Sequence[PhotoOutcome]) -> str:
    """The sentence for no usable photo; that photo's own where there is only one."""
    if len(outcomes) == 1 and outcomes[0].error is not None:
        return str(outcomes[0].error)
    if not outcomes:
        return "No photo was given; name at least one."
    return (
        f"None of the {len(outcomes)} photos can be used; the first one: {outcomes[0].error} "
        "Choose photos where one face is sharp, lit and turned less than 80 degrees."
    )


def leave_out_strangers(pipeline: Pipeline, candidates: list[Candidate], steps: Steps) -> None:
    """Give photos of somebody else their reason."""
    statistics = shipped_statistics(pipeline.model, pipeline.fitter.lm.name)
    if statistics is None or len(candidates) < 2:
        return
    answers = regressed(pipeline.fitter, [candidate.observation for candidate in candidates])
    if answers is None:
        return
    shown = appearances(pipeline, candidates, steps)
    likeness = None if shown is None else Likeness.of(*shown, answers.views)
    odd = strangers(statistics, answers.identity, answers.views, answers.doubt, likeness)
    others = len(candidates) - len(odd)
    beside = "the other photo" if others == 1 else f"{others} other photos"
    for place in odd:
        candidates[
            place
        ].reason = f"The face is another person's than in {beside}; switch on Keep All (--keep-all) if it is the same."


def appearances(
    pipeline: Pipeline, candidates: Sequence[Candidate], steps: Steps
) -> tuple[AppearanceStatistics, list[Appearance | None]] | None:
    """What the photos show of the skin, with the statistics of it; None for models without."""
    statistics = shipped_appearance(pipeline.model)
    if statistics is None:
        return None
    shown = []
    for candidate in candidates:
        steps.report(candidate.outcome.index, "fit", 0.4)
        assert candidate.outcome.photo is not None
        shown.append(appearance_in(pipeline.fitter, candidate.outcome.photo, candidate.observation))
    return statistics, shown


def appearance_in(fitter: Fitter, photo: Photo, observation: Observation) -> Appearance | None:
    """What one photo shows of the skin, the head fitted to that photo alone."""
    (fit,) = fitter.fit([observation])
    camera = Camera(intrinsics(fit.focal_px, photo.width, photo.height), fit.R, fit.t, photo.width, photo.height)
    vertices = fitter.lm.model.vertices(fit.identity, fit.expression)
    return appearance_of(fitter.lm.model, photo.pixels, camera, vertices)


def solve(pipeline: Pipeline, candidates: list[Candidate], keep_all: bool) -> JointFit:
    """Joint fit of the candidates without a reason against them.

    One that disagrees with the rest gets its reason, and the rest is solved again.
    """
    while True:
        chosen = [candidate for candidate in candidates if candidate.reason is None]
        fit = fit_together(pipeline.fitter, [candidate.observation for candidate in chosen])
        if keep_all or len(chosen) < 3:
            return fit
        away = np.array(
            [off_landmarks(candidate.observation, photo.projected)[0] for candidate, photo in zip(chosen, fit.photos)]
        )
        worst = int(away.argmax())
        typical = float(np.median(np.delete(away, worst)))
        if away[worst] < max(DISAGREES_FROM, DISAGREES_TIMES * typical):
            return fit
        chosen[worst].reason = (
            f"The landmarks disagree with those of the other photos ({100 * away[worst]:.1f} % of the face height "
            f"where the others are off by {100 * typical:.1f} %); switch on Keep All (--keep-all) to use it."
        )


def refined(
    pipeline: Pipeline, sources: Sequence[Source], candidates: Sequence[Candidate], fit: JointFit, steps: Steps
) -> JointFit:
    """The joint fit, refined by what the photos show of the skin."""
    used = [candidate for candidate in candidates if candidate.reason is None]

    def photo(place: int) -> Photo | None:
        outcome = used[place].outcome
        if outcome.photo is not None and outcome.photo.pixels.size:
            return outcome.photo
        source = sources[outcome.index]
        return source if isinstance(source, Photo) else read_photo(source)

    def hear(part: float) -> None:
        steps.report(used[0].outcome.index, "refine", 0.45 + 0.05 * part)

    return refine_photos(pipeline.fitter, [candidate.observation for candidate in used], fit, photo, hear)


def textured(person: Person, size: int, steps: Steps) -> Person:
    """The person with the texture of all photos, and each photo with its light."""
    used = person.used
    baked = bake_views(
        [photo.head for photo in used if photo.head is not None],
        lambda place: used[place].pixels(),
        size,
        lambda place, part: steps.report(used[place].index, "texture", 0.5 + 0.5 * part),
    )
    places = {photo.index: place for place, photo in enumerate(used)}
    numbers = np.zeros(len(used) + 1, np.uint8)
    for place, photo in enumerate(used):
        numbers[place + 1] = next(n for n, other in enumerate(person.photos) if other is photo) + 1
    photos = tuple(
        replace(photo, light=baked.lights[places[photo.index]]) if photo.used else photo for photo in person.photos
    )
    return replace(person, photos=photos, texture=baked.texture, sources=numbers[baked.sources])


def off_landmarks(observation: Observation, projected: np.ndarray) -> tuple[float, float]:
    """Median and root mean square distance of detected and projected landmarks, over the height of the face."""
    seen = np.ones(len(projected), bool) if observation.trust is None else observation.trust > 0
    distance = np.linalg.norm(projected - observation.landmarks, axis=1)[seen]
    height = float(np.ptp(observation.landmarks[:, 1]))
    return float(np.median(distance)) / height, float(np.sqrt((distance**2).mean())) / height


def assemble(
    pipeline: Pipeline,
    sources: Sequence[Source],
    outcomes: Sequence[PhotoOutcome],
    candidates: Sequence[Candidate],
    fit: JointFit,
) -> Person:
    """Photos in the order given, each with its head or its reason."""
    used = [candidate for candidate in candidates if candidate.reason is None]
    heads = {
        candidate.outcome.index: replace(
            pipeline.assemble(candidate.outcome, candidate.outcome.faces[0], candidate.observation, result),
            offset=fit.offset,
        )
        for candidate, result in zip(used, fit.photos)
    }
    reasons = {candidate.outcome.index: candidate.reason for candidate in candidates}
    photos, warnings = [], []
    for outcome in outcomes:
        head = heads.get(outcome.index)
        reason = str(outcome.error) if outcome.error is not None else reasons[outcome.index]
        pixels = None if outcome.photo is None or not outcome.photo.pixels.size else outcome.photo
        code = "" if reason is None else outcome.error.code if outcome.error is not None else PersonError.code
        source = sources[outcome.index]
        again = None if isinstance(source, Photo) else source
        photos.append(PersonPhoto(outcome.index, outcome.path, head, reason, code, photo=pixels, source=again))
        for sentence in (reason,) if reason else head.warnings if head else ():
            warnings.append(f"{named(outcome.path)}: {sentence}")
    if len(used) == 1 and len(outcomes) > 1:
        warnings.append(ONLY_ONE)
    main = max(heads, key=lambda index: shown(heads[index]))
    return Person(tuple(photos), [photo.index for photo in photos].index(main), warnings=tuple(warnings))


def shown(head: Reconstruction) -> float:
    """How well a photo shows the face: its height in pixels, less where it is turned away or badly explained."""
    landmarks = head.landmarks["mediapipe478" if "mediapipe478" in head.landmarks else "ibug68"]
    pose = head.pose_euler_degrees
    facing = np.cos(np.radians(pose["yaw"])) * np.cos(np.radians(pose["pitch"]))
    return float(min(np.ptp(landmarks[:, 1]), 600.0) * max(facing, 0.0) ** 2 / (1.0 + 100.0 * head.fit.median_relative))
