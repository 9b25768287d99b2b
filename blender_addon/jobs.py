# SPDX-License-Identifier: GPL-3.0-or-later
"""A job as Blender's main thread sees it: start, pump until it is over.

The operator pumps from a timer when there is a window and in a loop when there is none. Nothing here keeps
hold of a data-block between two calls, because undo, another file or a deletion may take it away.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty

import bpy
from bpy.app.handlers import persistent

from . import naming, properties, service
from .link import events
from .link.events import Ended, FaceReady, PhotoFailed, Progress, Request
from .properties import CANCELLED, DONE, FAILED, RUNNING, WAITING
from .scene.build import Builder, BuildOptions, sweep
from .scene.head_data import Head
from .scene.refit import RefitError, Refitter
from .typed import sure

# How long one call may work before the interface gets its turn (seconds). A step takes up to 20 ms.
BUDGET_S = 0.015
LAST_STAGE = "done"
# Counts what pulls data-blocks away under a builder: undo, redo, another file.
_epoch = 0
# Longest time that one call has held Blender's interface, in seconds; goes into the report.
longest_pump_s = 0.0


class Job:
    """Photos on their way to heads.

    Parameters
    ----------
    photos : list of str
        Absolute paths.
    listed : list of int
        Where each photo stands in the panel's list; -1 when it does not.
    options : dict
        For the backend.
    build : BuildOptions
    refit : str
        Name of the head that is to be updated instead of making new ones.
    face : int
        Which face of its photo that head is.
    added : sequence of str
        Those of the photos that are new to that head.
    """

    def __init__(
        self,
        photos: list[str],
        listed: list[int],
        options: dict,
        build: BuildOptions,
        refit: str = "",
        face: int = 0,
        added: Sequence[str] = (),
    ) -> None:
        self.photos, self.listed, self.options, self.build = photos, listed, options, build
        self.refit, self.face, self.added = refit, face, tuple(added)
        # Names of the head objects.
        self.made: list[str] = []
        self.problems: list[str] = []
        # Why the head that was to be updated was not.
        self.refused = ""
        self.left_out = 0
        self.together = bool(options.get("same_person"))
        self.ended: Ended | None = None
        self.cancelled = False
        self._heads: deque[tuple[int, Head]] = deque()
        self._work: Builder | Refitter | None = None
        self._work_epoch = _epoch
        self._told: tuple[object, ...] = ()
        self._first_place = sum(obj.get(naming.ROLE) == naming.HEAD for obj in sure(bpy.context.scene).objects)
        self._request = Request(tuple(photos), options, build.eyes, build.scale)

    def start(self) -> None:
        state = properties.state(bpy.context)
        state.running, state.cancelling, state.failed = True, False, False
        state.fraction, state.text, state.result = 0.0, "", ""
        for index in self.listed:
            self._show_photo(index, WAITING, 0.0, "")
        service.link().submit(self._request)

    def cancel(self) -> None:
        """Ask the backend to stop; the job ends when it says so."""
        properties.state(bpy.context).cancelling = self.cancelled = True
        while len(self._heads) > (self._work is not None):
            self._heads.pop()
        service.link().cancel()

    def pump(self) -> bool:
        """Take what has arrived, build a little; True when the job is over and everything stands."""
        global longest_pump_s
        began = time.monotonic()
        end = began + BUDGET_S
        self._take_events()
        while (self._work or self._heads) and time.monotonic() < end:
            self._build_a_little()
        over = self.ended is not None and self._work is None and not self._heads
        if over:
            self._conclude()
        longest_pump_s = max(longest_pump_s, time.monotonic() - began)
        return over

    def news(self) -> bool:
        """Whether the panel has something else to show than when this was last asked."""
        state = properties.state(bpy.context)
        now = (state.running, state.cancelling, state.fraction, state.text, state.result, service.status())
        told, self._told = self._told, now
        return now != told

    def abandon(self) -> None:
        """Leave at once, with another file coming or the add-on going; what is half-built goes."""
        service.link().cancel()
        self._work = None
        sweep()
        properties.state(bpy.context).running = False

    def _take_events(self) -> None:
        queue = service.link().events
        try:
            while True:
                event = queue.get_nowait()
                if event.job == self._request.id:
                    self._take(event)
        except Empty:
            return

    def _take(self, event: events.Event) -> None:
        state = properties.state(bpy.context)
        self._told = ()
        if isinstance(event, Progress):
            state.fraction = event.job_fraction
            if event.stage != LAST_STAGE:
                # "Done" would be said of one photo while others are at work.
                state.text = event.text
            # One head of all photos is one work, so all of them are as far as the job.
            photos, fraction = [event.photo], event.fraction
            if self.together:
                photos, fraction = list(range(len(self.photos))), event.job_fraction
            for photo in photos:
                if self._state_of(photo) not in (DONE, FAILED):
                    self._show_photo(self._place(photo), RUNNING, fraction, "")
        elif isinstance(event, FaceReady):
            if not self.cancelled and (not self.refit or event.head.face == self.face):
                self._heads.append((event.photo, event.head))
            for photo in used_photos(event):
                self._show_photo(self._place(photo), DONE, 1.0, "")
        elif isinstance(event, PhotoFailed):
            self.problems.append(self._named(event))
            self.left_out += 1
            self._show_photo(self._place(event.photo), FAILED, 0.0, event.sentence)
        elif self.cancelled and event.kind == events.DONE:
            # The backend was quicker than the cancel; what it sent was dropped all the same.
            self.ended = Ended(event.job, events.CANCELLED)
        else:
            self.ended = event

    def _build_a_little(self) -> None:
        if self._work is None:
            photo, head = self._heads[0]
            self._work_epoch = _epoch
            if self.refit:
                self._work = Refitter(head, self.refit, self.build, self.options, self.added)
            else:
                # Faces of one photo keep their place in front of its camera; upright heads stand side by side.
                place = photo if self.build.placement == "CAMERA" and not self.together else len(self.made)
                self._work = Builder(head, self.build, self._first_place + place, self.options)
        elif self._work_epoch != _epoch:
            # Its data-blocks may be gone: once more from the beginning, the head is still here.
            sweep()
            self._work = None
            return
        try:
            if self._work.step():
                self.made.append(self._work.name)
                self._heads.popleft()
                self._work = None
        except (RefitError, ReferenceError) as error:
            sweep()
            self._work = None
            self._heads.popleft()
            gone = "The head was deleted while it was being made: click Reconstruct Face again."
            self.refused = str(error) if isinstance(error, RefitError) else gone

    def _conclude(self) -> None:
        assert self.ended is not None
        state = properties.state(bpy.context)
        state.running = state.cancelling = False
        if self.ended.kind == events.CANCELLED:
            state.result = CANCELLED
            for index in self.listed:
                self._show_photo(index, WAITING, 0.0, "", only=RUNNING)
        elif self.ended.kind == events.FAILED:
            state.result, state.failed = self.ended.sentence, True
            for index in self.listed:
                self._show_photo(index, FAILED, 0.0, self.ended.sentence, only=RUNNING)
        else:
            self._conclude_done(state, self.ended.notes)

    def _conclude_done(self, state: properties.MGCFACE_PG_state, notes: tuple[str, ...]) -> None:
        # What stands in the way of an update stands beside what is wrong with the photos, which is why.
        self.problems += [self.refused] if self.refused else []
        if self.refit and not self.made and not self.problems:
            self.problems.append(f"Face {self.face + 1} was not found in the photo again: reconstruct another.")
        elif not self.made and not self.problems:
            self.problems.append("No face was made from the photo: try a sharper one that shows it from the front.")
        heads = f"{len(self.made)} head" + ("s" if len(self.made) != 1 else "")
        done = f"{heads} updated" if self.refit else f"{heads} made"
        if self.made and self.together:
            done += f" from {len(self.photos) - self.left_out} of {len(self.photos)} photos"
        state.failed = not self.made
        if self.made:
            state.result = " ".join([done + ".", *self.problems, *notes])
        else:
            state.result = " ".join(self.problems) if self.refused else self.problems[0]

    def _named(self, event: PhotoFailed) -> str:
        """The sentence on a photo, which says of which where there are several."""
        name = os.path.basename(self.photos[event.photo])
        single = len(self.photos) == 1
        return event.sentence if single or name in event.sentence else f"{name}: {event.sentence}"

    def _state_of(self, photo: int) -> str:
        index = self._place(photo)
        photos = properties.state(bpy.context).photos
        return photos[index].state if 0 <= index < len(photos) else WAITING

    def _place(self, photo: int) -> int:
        return self.listed[photo] if photo < len(self.listed) else -1

    def _show_photo(self, index: int, state: str, fraction: float, note: str, only: str = "") -> None:
        photos = properties.state(bpy.context).photos
        if 0 <= index < len(photos) and only in ("", photos[index].state):
            photos[index].state, photos[index].fraction, photos[index].note = state, fraction, note


def used_photos(event: FaceReady) -> list[int]:
    """The photos that a head was made from."""
    photos = event.head.record.get("photos")
    return [event.photo] if photos is None else [place for place, photo in enumerate(photos) if photo["used"]]


@persistent
def pulled_away(*_: object) -> None:
    """Undo, redo or another file: data-blocks are not what they were, nor is what was said of them."""
    global _epoch
    _epoch += 1
    properties.state(bpy.context).result = ""


@persistent
def loaded(*_: object) -> None:
    """A file that was saved, by Blender itself perhaps, while a head was half-built holds its parts."""
    pulled_away()
    sweep()


HANDLERS = {"undo_post": pulled_away, "redo_post": pulled_away, "load_post": loaded}


def register() -> None:
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    # The operator of a running job ends with its class; what it said of itself would stay.
    state = properties.state(bpy.context)
    state.running = state.cancelling = state.setting_up = False
    sweep()
    for name, handler in HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
