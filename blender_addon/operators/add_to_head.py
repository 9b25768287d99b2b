# SPDX-License-Identifier: GPL-3.0-or-later
"""Add Photo: more photos for a head that stands in the scene."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import bpy
from bpy.props import BoolProperty, StringProperty

from .. import naming, properties, service
from ..jobs import Job
from ..scene.refit import RefitError, build_options, photos_of, present
from ..typed import sure
from . import allowed
from .photos import ChoosesPhotos, problem_with
from .reconstruct import RunsJob, active_head, named_photos

if TYPE_CHECKING:
    from bpy.types import Context, Event

    from ..typed import Answer


class MGCFACE_OT_add_to_head(ChoosesPhotos, RunsJob, bpy.types.Operator):
    """Improve this head with more photos of the person; what you added to it stays"""

    bl_idname = "mgcface.add_to_head"
    bl_label = "Add Photo"
    bl_options = {"UNDO"}  # noqa: RUF012 - Blender reads it from the class

    filepath: StringProperty(subtype="FILE_PATH", options={"HIDDEN", "SKIP_SAVE"})
    keep_all: BoolProperty(
        name="Keep All",
        description="Use photos too that look like another person's or disagree with the others",
        options={"SKIP_SAVE"},
    )

    # The head that was active when the file browser was opened; empty without one.
    _chosen = ""

    @classmethod
    def poll(cls, context: Context) -> bool:
        return allowed(cls, why_not(context, active_head(context)))

    def invoke(self, context: Context, event: Event) -> Answer:
        head = active_head(context)
        assert head is not None
        if self.files or self.filepath:
            return super().invoke(context, event)
        self._chosen = head.name
        try:
            self.keep_all = bool(build_options(head)[1].get("keep_all"))
            # Also with no photo to begin with: nobody should choose one for nothing.
            present([*photos_of(head)], "put it back to add others to it")
        except RefitError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        # It would be the first file that the browser offers.
        self.directory = os.path.join(os.path.dirname(bpy.path.abspath(head[naming.PHOTO])), "")
        sure(context.window_manager).fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: Context) -> Answer:
        if self._chosen:
            # From the file browser: what takes long must not hold the window up.
            return self.run_modal(context)
        return super().execute(context)

    def make_job(self, context: Context) -> Job:
        head = bpy.data.objects.get(self._chosen) if self._chosen else active_head(context)
        reason = why_not(context, head)
        if reason or head is None:
            raise RefitError(f"{reason}.")
        build, backend = build_options(head)
        known = photos_of(head)
        new = self._new(known)
        photos = present([*known], "put it back to add others to it") + [photo for photo in new if photo not in known]
        reason = properties.not_one_person(len(photos))
        if reason:
            raise RefitError(f"{head.name} cannot take these photos ({reason}): nothing was changed.")
        keep_all = self.keep_all if self.properties.is_property_set("keep_all") else bool(backend.get("keep_all"))
        backend |= {"all_faces": False, "same_person": True, "keep_all": keep_all}
        return Job(photos, [-1] * len(photos), backend, build, refit=head.name, added=new)

    def _new(self, known: dict[str, bool]) -> list[str]:
        """The photos that were chosen, but for those that the head has; raises RefitError where none is left."""
        used = {os.path.normcase(photo) for photo, was_used in known.items() if was_used}
        chosen = named_photos(self)
        if not chosen:
            raise RefitError("No photo was chosen: choose one or more files.")
        for photo in chosen:
            problem = problem_with(photo)
            if problem:
                raise RefitError(problem)
        new = [photo for photo in dict.fromkeys(chosen) if os.path.normcase(photo) not in used]
        if not new:
            one = f"{os.path.basename(chosen[0])} is" if len(chosen) == 1 else "These photos are"
            raise RefitError(f"{one} in the head already: choose another photo of the person.")
        return new


def why_not(context: Context, head: bpy.types.Object | None) -> str:
    """Why no photo can be added to a head now; empty when one can."""
    state, hello = properties.state(context), service.status().hello
    reason = service.missing()
    if head is None:
        return "Choose a head that was made here: none is active"
    if state.running:
        return "A reconstruction is running: wait for it, or cancel it"
    if state.setting_up:
        return "The backend is being set up: wait for that to end"
    if context.mode != "OBJECT":
        return "Leave the current mode for object mode first"
    if not reason and head.get(naming.FACE):
        return "This head is not of the largest face in its photo: cut the photo to its face and reconstruct that"
    if not reason and hello and "same_person" not in hello.get("capabilities", ()):
        return "This backend cannot make one head of several photos yet: update it"
    return reason


CLASSES = (MGCFACE_OT_add_to_head,)
