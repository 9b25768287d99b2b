"""The pipeline: photos in, heads out.

decode -> detect -> regress -> fit -> refine -> texture. Every stage times itself, reports progress and checks for
cancel before it starts; photos go through in groups so that the fit solves many at once while memory stays
bounded. One bad photo becomes a :class:`PhotoOutcome` with an error and stops nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from backend.errors import Cancelled, DependencyError, MgcFaceError, NoFaceError
from backend.face_model.model import FaceModel
from backend.face_model.registry import get_model
from backend.geometry.camera import Camera, intrinsics
from backend.network.choice import make_encoder, regress_by_default
from backend.network.interface import Encoder
from backend.network.turned_heads import TurnedHeads
from backend.reconstruction.fit import FitResult, Fitter
from backend.reconstruction.joint import JointFit
from backend.reconstruction.landmark_cost import Observation
from backend.reconstruction.landmark_model import LandmarkModel
from backend.reconstruction.observation import observe, report, unfitted
from backend.reconstruction.opinion import ASKED_YAW, HEARD_YAW, Opinion, opinion
from backend.reconstruction.outcome import PhotoOutcome, Progress, Source, Steps, decode, elapsed_ms, faces_of, named
from backend.reconstruction.photometric import refine_photos
from backend.reconstruction.photometric_face import face_of, normals_and_derivatives
from backend.reconstruction.result import Reconstruction, Texture
from backend.reconstruction.skin_statistics import albedo_of
from backend.reconstruction.texture import bake_texture, warm_up
from backend.reconstruction.texture_raster import serial_bands
from backend.rendering.cpu_backend import thread_count
from backend.vision.detector import DetectorName, make_detector
from backend.vision.photo import DetectedFace, Photo

STAGES = ("detect", "regress", "fit", "refine", "texture")

# A group ends at this many photos or megapixels, whichever comes first.
GROUP_PHOTOS = 16
GROUP_MEGAPIXELS = 100.0

# Photos whose textures are made at the same time, at most: at 4096 each takes 200 MB until it is written.
TEXTURES_AT_ONCE = 4
# How often a request to stop is heard while textures are made.
HEAR_EVERY_S = 0.1


class Pipeline:
    """Keeps model, detector and fit warm between calls. Not safe for concurrent calls.

    Parameters
    ----------
    model : str, Path or FaceModel
        Name of an installed model, path of a model file, or the model itself.
    device : {"auto", "cpu", "cuda"}
    detector : {"mediapipe", "fan"}
    texture_size : int or None
        Side of the texture in texels; None leaves the texture stage out.
    stages : sequence of str, optional
        Subset of :data:`STAGES`; None takes those of :func:`default_stages`. With ``regress`` and without ``fit``
        heads are what the network says; without both the mean head is posed on the landmarks.
    weights : path, optional
        Of the network for ``regress``; None takes what comes with the project.
    turned_heads : bool
        Put landmarks of heads that are turned far or covered right by the network that looks at the picture
        (:mod:`backend.network.turned_heads`).
    """

    def __init__(
        self,
        model: str | Path | FaceModel = "open-head",
        device: str = "auto",
        detector: DetectorName = "mediapipe",
        texture_size: int | None = 1024,
        stages: Iterable[str] | None = None,
        weights: str | Path | None = None,
        turned_heads: bool = True,
    ) -> None:
        self.model = model if isinstance(model, FaceModel) else get_model(model)
        self.stages = default_stages(self.model, weights) if stages is None else tuple(stages)
        check_stages(self.stages, self.model)
        self.device = resolve_device(device)
        self.weights = weights
        self.made_encoder: Encoder | None = None
        if "regress" in self.stages:
            self.made_encoder = make_encoder(weights, self.model, self.device)
        self.detector = make_detector(detector)
        self.turned_heads = TurnedHeads() if turned_heads else None
        self.texture_size = texture_size if "texture" in self.stages else None
        # While the detector loads and looks. What goes wrong here goes wrong again where it is told.
        threading.Thread(target=quietly, args=(self.warm_up,), name="warm-up").start()
        landmark_set = "ibug68" if detector == "fan" else "mediapipe478"
        self.fitter = Fitter(LandmarkModel(self.model, landmark_set, device=self.device))
        # Set while textures in the making are no longer wanted.
        self.stop = threading.Event()

    @property
    def encoder(self) -> Encoder:
        """The network, loaded when it is first asked for."""
        if self.made_encoder is None:
            self.made_encoder = make_encoder(self.weights, self.model, self.device)
        return self.made_encoder

    def warm_up(self) -> None:
        """Make the tables that refinement and texture need."""
        if "refine" in self.stages and (face := face_of(self.model)) is not None:
            normals_and_derivatives(face, self.model.mean, self.model.identity[:0])  # compiles it
        if self.texture_size is not None:
            warm_up(self.model, self.texture_size)

    # -- calls -----------------------------------------------------------------------------------

    def reconstruct_photo(self, photo: Photo, all_faces: bool = False) -> list[Reconstruction]:
        """Heads of one decoded photo, largest face first; raises what went wrong."""
        outcome = next(self.reconstruct_many([photo], all_faces))
        if outcome.error is not None:
            raise outcome.error
        return outcome.reconstructions

    def reconstruct_many(
        self,
        sources: Iterable[Source],
        all_faces: bool = False,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Iterator[PhotoOutcome]:
        """Reconstruct photos, yielding each in order as soon as its group is done.

        Parameters
        ----------
        sources : iterable of path, PhotoFile or Photo
        all_faces : bool
            Every face of a photo instead of the largest.
        progress : callable (photo index, stage, fraction of this photo's work in [0, 1]), optional
        cancel : callable returning True to stop, optional
            Raises :class:`Cancelled` at the next stage of the next photo.
        """
        steps = Steps(progress, cancel)
        for group in self.groups(sources, steps):
            for outcome in group:
                self.detect(outcome, all_faces, steps)
            self.regress(group, steps)
            self.fit(group, steps)
            yield from self.finished(group, steps)

    # -- stages ------------------------------------------------------------------------------------

    def groups(self, sources: Iterable[Source], steps: Steps) -> Iterator[list[PhotoOutcome]]:
        """Decode one photo ahead of the rest of the pipeline and hand photos out in bounded groups."""
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as ahead:
            pending: Future[PhotoOutcome] | None = None
            group: list[PhotoOutcome] = []
            for index, source in enumerate(sources):
                following = ahead.submit(decode, index, source)
                if pending is not None:
                    group.append(steps.run(pending.result))
                if is_full(group):
                    yield group
                    group = []
                pending = following
            if pending is not None:
                group.append(steps.run(pending.result))
            if group:
                yield group

    def detect(self, outcome: PhotoOutcome, all_faces: bool, steps: Steps) -> None:
        if outcome.error is not None or outcome.photo is None:
            return
        steps.report(outcome.index, "detect", 0.1)
        started = time.perf_counter()
        try:
            outcome.faces = self.faces(outcome.photo, all_faces)
            if not outcome.faces:
                raise NoFaceError(
                    f"No face was found in {named(outcome.path)}; use a photo where one face is sharp, "
                    "lit and turned less than 80 degrees."
                )
        except MgcFaceError as error:
            outcome.error = error
        outcome.timings_ms["detect"] = elapsed_ms(started)

    def faces(self, photo: Photo, all_faces: bool = False) -> list[DetectedFace]:
        """The faces of a photo, the largest first; landmarks of those that are turned far put right."""
        found = self.detector.detect(photo, all_faces=all_faces)
        return found if self.turned_heads is None else self.turned_heads.put_right(photo, found)

    def regress(self, group: list[PhotoOutcome], steps: Steps) -> None:
        """Ask the network about all faces of a group in one batch, but for those of whom it would not be heard."""
        if "regress" not in self.stages:
            return
        started = time.perf_counter()
        found = [(outcome, photo, face) for outcome, photo, face, _ in faces_of(group)]
        asked = self.asked([observe(photo, face, self.fitter.lm.name) for _, photo, face in found])
        if any(asked):
            steps.report(found[0][0].index, "regress", 0.3)
            crops = [self.encoder.crop(photo, face) for (_, photo, face), ask in zip(found, asked) if ask]
            said = self.encoder.regress(crops)
        place = 0
        for (outcome, photo, _), ask in zip(found, asked):
            try:
                outcome.opinions.append(opinion(said, place, crops[place], photo) if ask else None)
            except MgcFaceError as error:
                outcome.error, outcome.opinions = error, []
            place += ask
        share = elapsed_ms(started) / max(len(found), 1)
        for outcome, _, _ in found:
            outcome.timings_ms["regress"] = outcome.timings_ms.get("regress", 0.0) + share

    def asked(self, observations: list[Observation]) -> list[bool]:
        """Which faces the network is asked about."""
        if "fit" not in self.stages or self.fitter.lm.regress is None or not observations:
            return [True] * len(observations)
        turned = [yaw >= ASKED_YAW for yaw in self.fitter.rough_yaw(observations)]
        # Where landmarks were put right they know better: shapes get 1 % worse with its word, poses no better.
        return [far and seen.as_detected is None for far, seen in zip(turned, observations)]

    def fit(self, group: list[PhotoOutcome], steps: Steps) -> None:
        """Solve all faces of a group in one batch."""
        found = faces_of(group)
        if not found:
            return
        name = self.fitter.lm.name
        if "regress" in self.stages and "fit" not in self.stages:
            for outcome, photo, face, said in found:
                assert said is not None
                observation, result = unfitted(observe(photo, face, name), said, self.model, name)
                outcome.reconstructions.append(self.assemble(outcome, face, observation, result, said.camera))
            return
        steps.report(found[0][0].index, "fit", 0.4)
        started = time.perf_counter()
        observations = [replace(observe(photo, face, name), opinion=self.heard(said)) for _, photo, face, said in found]
        solve = self.fitter.fit if "fit" in self.stages else self.fitter.pose
        results = solve(observations)
        share = elapsed_ms(started) / len(found)
        for (outcome, _, face, _), observation, result in zip(found, observations, results):
            outcome.timings_ms["fit"] = outcome.timings_ms.get("fit", 0.0) + share
            outcome.fits.append((observation, result))
            outcome.reconstructions.append(self.assemble(outcome, face, observation, result))

    def heard(self, said: Opinion | None) -> Opinion | None:
        """What the fit takes of it: all or nothing, by how far the network sees the head turned."""
        if said is None or self.fitter.lm.regress is None or said.yaw >= HEARD_YAW:
            return said
        return None

    def assemble(
        self,
        outcome: PhotoOutcome,
        face: DetectedFace,
        observation: Observation,
        result: FitResult,
        camera: Camera | None = None,
    ) -> Reconstruction:
        """The head of one face; ``camera`` None is that of the fit, whose principal point is the photo's middle."""
        photo = outcome.photo
        assert photo is not None
        size = (photo.width, photo.height)
        fit_report, warnings = report(face, observation, result)
        return Reconstruction(
            model=self.model,
            photo_path=outcome.path,
            photo_width=photo.width,
            photo_height=photo.height,
            camera=camera or Camera(intrinsics(result.focal_px, *size), result.R, result.t, *size),
            identity=result.identity,
            expression=result.expression,
            landmarks=face.landmarks,
            fit=fit_report,
            warnings=warnings,
        )

    def finished(self, group: list[PhotoOutcome], steps: Steps) -> Iterator[PhotoOutcome]:
        """Refine the heads of a group and bake their textures, a few photos at once; yields the photos in order.

        Photos side by side need fewer threads to wait for each other than the loops of one photo. Progress is
        told and a request to stop is heard here, in the caller's thread.
        """
        waiting = [outcome for outcome in group if outcome.photo is not None and outcome.reconstructions]
        workers = max(1, min(TEXTURES_AT_ONCE, thread_count(), len(waiting)))
        # Several photos keep the cores busy by themselves; one alone is made by all of them.
        work = self.finish if workers == 1 else self.finish_on_one_core
        if waiting:
            self.warm_up()  # or wait for it
        pool = ThreadPoolExecutor(workers, thread_name_prefix="photo")
        begun: dict[int, Future[None]] = {}
        try:
            for outcome in group:
                while waiting and len(begun) < workers:
                    following = waiting.pop(0)
                    steps.report(following.index, following.stage, 0.6)
                    begun[following.index] = pool.submit(work, following)
                if outcome.index in begun:
                    self.wait(begun[outcome.index], outcome, steps)
                    del begun[outcome.index]
                    steps.report(outcome.index, "done", 1.0)
                yield outcome
        finally:
            self.stop.set()
            pool.shutdown(cancel_futures=True)
            self.stop.clear()

    def wait(self, begun: Future[None], outcome: PhotoOutcome, steps: Steps) -> None:
        """Until a photo is finished, hearing a request to stop every now and then."""
        while wait_for([begun], timeout=HEAR_EVERY_S).not_done:
            steps.report(outcome.index, outcome.stage, 0.8 if outcome.stage == "texture" else 0.65)
        begun.result()

    def finish_on_one_core(self, outcome: PhotoOutcome) -> None:
        with serial_bands():
            self.finish(outcome)

    def finish(self, outcome: PhotoOutcome) -> None:
        """Refine and texture every head and close the photo's books. Touches nothing but ``outcome``."""
        if "refine" in self.stages:
            started = time.perf_counter()
            outcome.stage = "refine"
            for place, (observation, fit) in enumerate(outcome.fits):
                better = self.refined(outcome, observation, fit)
                head = self.assemble(outcome, outcome.faces[place], observation, better.photos[0])
                outcome.reconstructions[place] = replace(head, offset=better.offset)
            outcome.timings_ms["refine"] = elapsed_ms(started)
        started = time.perf_counter()
        outcome.stage = "texture"
        try:
            done = [replace(head, texture=self.bake(outcome.photo, head)) for head in outcome.reconstructions]
        except MgcFaceError as error:
            outcome.error, outcome.reconstructions = error, []
            return
        if self.texture_size is not None:
            outcome.timings_ms["texture"] = elapsed_ms(started)
        outcome.reconstructions = [replace(head, timings_ms=dict(outcome.timings_ms)) for head in done]

    def refined(self, outcome: PhotoOutcome, observation: Observation, fit: FitResult) -> JointFit:
        """The fit of one face, refined by what the photo shows of the skin."""
        assert outcome.photo is not None
        # The network's word has gone into the fit.
        alone = replace(observation, opinion=None)
        joint = JointFit(fit.identity, fit.sigma_identity, [fit])
        return refine_photos(self.fitter, [alone], joint, lambda _: outcome.photo, self.hear_stop)

    def hear_stop(self, done: float = 0.0) -> None:
        if self.stop.is_set():
            raise Cancelled("Cancelled.")

    def bake(self, photo: Photo | None, head: Reconstruction) -> Texture | None:
        if self.texture_size is None or photo is None:
            return None
        return bake_texture(
            photo.pixels,
            head.camera,
            head.model,
            head.vertices,
            self.texture_size,
            landmarks=head.landmarks,
            cancel=self.stop.is_set,
        )


def default_stages(model: FaceModel, weights: str | Path | None = None) -> tuple[str, ...]:
    """All stages, but the network only where weights are named or are used by default, and the refinement only of
    heads that come with statistics of skin."""
    absent = set()
    if weights is None and not regress_by_default(model.info.name):
        absent.add("regress")
    if albedo_of(model) is None:
        absent.add("refine")
    return tuple(stage for stage in STAGES if stage not in absent)


def check_stages(stages: Sequence[str], model: FaceModel) -> None:
    """Raise DependencyError for stages that do not exist or cannot be done."""
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise DependencyError(f"There is no stage {unknown[0]!r}; choose from {', '.join(STAGES)}.")
    if "refine" not in stages:
        return
    if "fit" not in stages:
        raise DependencyError("The stage refine starts from the stage fit; add that or leave refine out.")
    if albedo_of(model) is None:
        raise DependencyError(
            f"The face model {model.info.name} comes without statistics of skin, which the stage refine needs; "
            "leave refine out."
        )


def quietly(work: Callable[[], object]) -> None:
    """Do what is done again where its result is needed; a program that ends meanwhile has shut the threads it uses."""
    with suppress(Exception):
        work()


def is_full(group: list[PhotoOutcome]) -> bool:
    pixels = sum(outcome.photo.pixels.size / 3e6 for outcome in group if outcome.photo is not None)
    return len(group) >= GROUP_PHOTOS or pixels >= GROUP_MEGAPIXELS


def resolve_device(device: str) -> str:
    """``auto`` is CUDA where PyTorch can use it, otherwise the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise DependencyError(
            "PyTorch finds no CUDA device here; use --device cpu, or install the extra gpu and a driver."
        )
    return device
