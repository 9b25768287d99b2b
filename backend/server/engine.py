"""Computes batches of photos with models that stay warm, and comes through when memory runs out.

A batch goes through the pipeline whole. When the memory of the graphics card or of the computer is used
up, what is left of it goes on one photo at a time and then on the CPU, and the jobs are told so.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from backend.errors import Cancelled, MgcFaceError
from backend.reconstruction.outcome import PhotoOutcome
from backend.reconstruction.pipeline import Pipeline, check_stages, default_stages, resolve_device
from backend.server.catalogue import installed_model
from backend.server.face_message import face_message, upright_jpeg
from backend.server.item import Item, Report
from backend.server.person_job import compute_person
from backend.vision.decode import load_photo, load_photo_bytes
from backend.vision.photo import Photo

log = logging.getLogger(__name__)

# Pipelines that stay in memory: another face model, and the way back.
WARM_PIPELINES = 2
# What libraries say when memory is used up and they have no exception of their own for it (PyTorch on the CPU
# and on CUDA, OpenCV).
OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "insufficient memory")


@dataclass(frozen=True)
class Step:
    """One way to compute a batch: where, and how much at once; ``note`` is said when it is taken."""

    device: str
    one_by_one: bool
    note: str = ""


class Engine:
    """Pipelines by what they were made for. Not safe for concurrent calls."""

    def __init__(self, device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.pipelines: dict[tuple[str, str, str], Pipeline] = {}

    @property
    def device_name(self) -> str:
        if self.device.startswith("cuda"):
            return f"cuda ({torch.cuda.get_device_name(0)})"
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'s' if threads != 1 else ''})"

    def run(self, items: list[Item], options: dict[str, Any], report: Report) -> None:
        """Compute a batch and report every photo; raises :class:`Cancelled` when stopped."""
        together = options["same_person"]
        for step in self.steps(together):
            left = [item for item in items if not item.ended]
            if step.note:
                log.warning(step.note)
                report.note(step.note)
            groups = [[item] for item in left] if step.one_by_one else [left]
            try:
                for group in groups:
                    self.attempt(group, options, step, report)
                return
            except Cancelled:
                raise
            except MgcFaceError as error:  # the pipeline itself cannot be made: no photo would go better
                report.refused(error.code, str(error))
                return
            except Exception as error:
                log.warning("%s: %s", step, error, exc_info=not is_out_of_memory(error))
                last = error
            # Outside of the except clause: the traceback holds every array of the failed attempt.
            self.forget()
        if together:
            report.refused(*explain(f"these {len(items)} photos", last))
            return
        for item in items:
            if not item.ended:
                item.ended = True
                report.photo_failed(item, *explain(item.name, last))

    def steps(self, together: bool = False) -> Iterator[Step]:
        """Ways to compute, each asking for less than the one before; ``together`` photos cannot go one by one."""
        yield Step(self.device, one_by_one=False)
        if not together:
            yield Step(self.device, one_by_one=True, note="Something was too much at once; going on photo by photo.")
        if self.device != "cpu":
            note = "The graphics card could not do it; going on with the processor, which is slower."
            yield Step("cpu", one_by_one=not together, note=note)

    def attempt(self, items: list[Item], options: dict[str, Any], step: Step, report: Report) -> None:
        """One call of the pipeline; raises whatever it raises."""
        pipeline = self.pipeline(options, step)
        if options["same_person"]:
            compute_person(pipeline, items, options, report)
            return
        decoded: list[Item] = []

        def photos() -> Iterator[Photo]:
            for item in items:
                if report.stopped():
                    raise Cancelled("Cancelled.")
                report.progress(item, "decode", 0.0)
                try:
                    photo = decode(item)
                except MgcFaceError as error:
                    if len(items) > 1 and isinstance(error.__context__, MemoryError):
                        raise error.__context__ from None  # alone it may fit
                    item.ended = True
                    report.photo_failed(item, error.code, str(error))
                else:
                    decoded.append(item)
                    yield photo

        def progress(index: int, stage: str, fraction: float) -> None:
            # The network and the fit take all photos of a batch together and report for the first.
            for item in decoded if stage in ("regress", "fit") else [decoded[index]]:
                report.progress(item, stage, fraction)

        outcomes = pipeline.reconstruct_many(
            photos(), all_faces=options["all_faces"], progress=progress, cancel=report.stopped
        )
        for outcome in outcomes:
            item = decoded[outcome.index]
            self.deliver(item, outcome, options["normal_map"], report)
            item.ended = True

    def deliver(self, item: Item, outcome: PhotoOutcome, with_normals: bool, report: Report) -> None:
        """The faces of one photo, or why there are none."""
        if outcome.error is not None:
            report.photo_failed(item, outcome.error.code, str(outcome.error))
            return
        assert outcome.photo is not None
        shown = {} if outcome.photo.plain else {"photo": upright_jpeg(outcome.photo.pixels)}
        for number, head in enumerate(outcome.reconstructions):
            body, arrays = face_message(head, outcome.photo, with_normals)
            arrays |= shown
            report.face(item, {"photo": item.index, "face": number, "name": item.name, **body}, arrays)
        report.photo_done(item, len(outcome.reconstructions), outcome.timings_ms)

    def pipeline(self, options: dict[str, Any], step: Step) -> Pipeline:
        """A warm pipeline, set to these options."""
        key = (options["model"], options["detector"], step.device)
        pipeline = self.pipelines.pop(key, None) or Pipeline(
            installed_model(options["model"]), step.device, options["detector"], texture_size=None
        )
        self.pipelines[key] = pipeline
        while len(self.pipelines) > WARM_PIPELINES:
            self.pipelines.pop(next(iter(self.pipelines)))
        stages = options["stages"]
        pipeline.stages = default_stages(pipeline.model) if stages is None else tuple(stages)
        check_stages(pipeline.stages, pipeline.model)
        wanted = options["texture_size"] if "texture" in pipeline.stages else 0
        pipeline.texture_size = wanted or None
        return pipeline

    def forget(self) -> None:
        """Give all memory back; what went wrong may have left a pipeline in any state."""
        self.pipelines.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def decode(item: Item) -> Photo:
    return load_photo(item.source) if isinstance(item.source, str) else load_photo_bytes(item.source, item.name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up, by any of the names that libraries have for it."""
    words = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        word in words for word in OUT_OF_MEMORY_WORDS
    )


def explain(name: str, error: Exception) -> tuple[str, str]:
    """Code and sentence of a photo, or several, that could not be computed in any way."""
    if is_out_of_memory(error):
        return "memory", f"The memory is used up by {name}; use smaller photos or a smaller texture."
    kind = type(error).__name__
    return "bug", f"Something went wrong with {name} that should not have ({kind}); please report it with the log."
