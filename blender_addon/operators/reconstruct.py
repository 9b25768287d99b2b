# SPDX-License-Identifier: GPL-3.0-or-later
"""Reconstruct Face, Refit, Cancel and the look through a photo's camera."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

import bpy
from bpy.props import BoolProperty, CollectionProperty, StringProperty
from mathutils import Euler

from .. import naming, properties, redraw, service
from ..jobs import Job
from ..link import events
from ..scene.build import BuildOptions, world_box
from ..scene.camera import look_through
from ..scene.refit import RefitError, build_options, family, photos_of, present
from ..typed import Operator, sure
from . import allowed

if TYPE_CHECKING:
    from bpy.types import Context, Event

    from ..typed import Answer

# Seconds between two looks at what has arrived.
TICK_S = 0.02
# Distance of the view from a head, in sizes of the head: with Blender's 50 mm lens it then fills most of the height.
FRAMED = 2.2
# Blender's front view, turned a little to the side and down on the face: both cheeks and the profile show.
FRONT_VIEW = (math.radians(82.0), 0.0, math.radians(25.0))


class RunsJob(Operator):
    """Runs a job: modal with a window, in a loop without one. Subclasses make the job."""

    _job: Job | None = None
    _timer: bpy.types.Timer | None = None

    def make_job(self, context: Context) -> Job:
        raise NotImplementedError

    def invoke(self, context: Context, event: Event) -> Answer:
        return self.run_modal(context)

    def run_modal(self, context: Context) -> Answer:
        job = self._begin(context)
        if job is None:
            return {"CANCELLED"}
        manager = sure(context.window_manager)
        self._timer = manager.event_timer_add(TICK_S, window=context.window)
        manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: Context, event: Event) -> Answer:
        job, state = self._job, properties.state(context)
        if job is None or not state.running:
            self._clean_up(context)
            return {"CANCELLED"}
        if event.type == "ESC" and event.value == "PRESS":
            job.cancel()
            return {"RUNNING_MODAL"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        if state.cancelling and not job.cancelled:
            job.cancel()
        over = job.pump()
        if job.news():
            redraw.panels(context)
        if not over:
            return {"PASS_THROUGH"}
        redraw.viewports(context)
        return self._end(context)

    def execute(self, context: Context) -> Answer:
        job = self._begin(context)
        if job is None:
            return {"CANCELLED"}
        try:
            while not job.pump():
                time.sleep(TICK_S / 4)
        except BaseException:
            # Ctrl-C in a script: nothing half-built stays.
            job.abandon()
            raise
        return self._end(context)

    def cancel(self, context: Context) -> None:
        """Blender ends the operator: another file is loaded, or the window is closed."""
        if self._job is not None:
            self._job.abandon()
        self._clean_up(context)

    def _begin(self, context: Context) -> Job | None:
        try:
            job = self.make_job(context)
        except RefitError as error:
            self.report({"ERROR"}, str(error))
            return None
        self._job = job
        job.start()
        redraw.watch_status()
        return job

    def _end(self, context: Context) -> Answer:
        job, state = self._job, properties.state(context)
        self._clean_up(context)
        assert job is not None and job.ended is not None
        if job.ended.kind == events.CANCELLED:
            self.report({"INFO"}, properties.CANCELLED)
        elif state.failed:
            # Without a window this raises RuntimeError with the sentence, as scripts expect.
            self.report({"ERROR"}, state.result)
        else:
            self.report({"WARNING" if job.problems else "INFO"}, state.result)
        if job.made and not job.added:
            show(context)
        return {"FINISHED"} if job.made else {"CANCELLED"}

    def _clean_up(self, context: Context) -> None:
        if self._timer is not None:
            sure(context.window_manager).event_timer_remove(self._timer)
        self._timer = self._job = None


def named_photos(operator: Any) -> list[str]:
    """The files that a script or the file browser gave an operator with `directory`, `files` and `filepath`."""
    folder = bpy.path.abspath(operator.directory)
    files = [os.path.abspath(os.path.join(folder, file.name)) for file in operator.files if file.name]
    return files or ([os.path.abspath(bpy.path.abspath(operator.filepath))] if operator.filepath else [])


class MGCFACE_OT_reconstruct(RunsJob, bpy.types.Operator):
    """Turn the photos of the list into heads"""

    bl_idname = "mgcface.reconstruct"
    bl_label = "Reconstruct Face"
    bl_options = {"UNDO"}  # noqa: RUF012 - Blender reads it from the class

    # For scripts: photos that are not in the list.
    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})
    filepath: StringProperty(subtype="FILE_PATH", options={"HIDDEN", "SKIP_SAVE"})
    same_person: BoolProperty(
        name="Same Person",
        description="One head from all photos; what the panel says where a script does not",
        options={"HIDDEN", "SKIP_SAVE"},
    )
    keep_all: BoolProperty(
        name="Keep All",
        description="With Same Person, photos too that do not seem to belong; what the panel says otherwise",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: Context) -> bool:
        state = properties.state(context)
        reason = service.missing()
        if state.running:
            reason = "A reconstruction is running: wait for it, or cancel it"
        elif state.setting_up:
            reason = "The backend is being set up: wait for that to end"
        elif context.mode != "OBJECT":
            reason = "Leave the current mode for object mode first"
        elif not reason and not state.photos and context.area is not None:
            # Scripts name their photos themselves, so only the button asks for the list.
            reason = "The list is empty: add photos first"
        return allowed(cls, reason)

    def make_job(self, context: Context) -> Job:
        options = properties.options(context)
        backend = {
            "model": options.model,
            "texture_size": int(options.texture_size),
            "normal_map": options.normal_map,
            "all_faces": options.all_faces,
        }
        build = BuildOptions(
            shape_keys=options.shape_keys,
            eyes=options.eyes,
            camera=options.camera,
            lights=options.lights,
            placement=options.placement,
            scale=options.scale,
        )
        photos = named_photos(self)
        listed = [-1] * len(photos)
        if not photos:
            photos = [photo.path for photo in properties.state(context).photos]
            listed = list(range(len(photos)))
        if not photos:
            raise RefitError("There is no photo to work on: add photos to the list or name one as filepath.")
        if self._chosen("same_person", options.same_person and not properties.not_one_person(len(photos))):
            # One person has one face in each photo.
            keep_all = self._chosen("keep_all", options.keep_all)
            backend |= {"all_faces": False, "same_person": True, "keep_all": keep_all}
        return Job(photos, listed, backend, build)

    def _chosen(self, name: str, otherwise: bool) -> bool:
        """What a script said, or what the panel says."""
        return getattr(self, name) if self.properties.is_property_set(name) else otherwise


class MGCFACE_OT_refit(RunsJob, bpy.types.Operator):
    """Fit the photo again and update this head; your own shape keys, modifiers and materials stay"""

    bl_idname = "mgcface.refit"
    bl_label = "Refit"
    bl_options = {"UNDO"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: Context) -> bool:
        reason = service.missing()
        if active_head(context) is None:
            reason = "Choose a head that was made here: none is active"
        elif properties.state(context).running:
            reason = "A reconstruction is running: wait for it, or cancel it"
        elif context.mode != "OBJECT":
            reason = "Leave the current mode for object mode first"
        return allowed(cls, reason)

    def make_job(self, context: Context) -> Job:
        head = active_head(context)
        assert head is not None
        build, backend = build_options(head)
        # Of one person all photos again, those too that were left out, so that the answer is the same.
        photos = present([*photos_of(head)], "put it back, or reconstruct from another")
        return Job(photos, [-1] * len(photos), backend, build, refit=head.name, face=head[naming.FACE])


class MGCFACE_OT_cancel(bpy.types.Operator):
    """Stop the reconstruction; heads that are done stay"""

    bl_idname = "mgcface.cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, context: Context) -> bool:
        return allowed(cls, "" if properties.state(context).running else "Nothing is running")

    def execute(self, context: Context) -> Answer:
        properties.state(context).cancelling = True
        return {"FINISHED"}


class MGCFACE_OT_look_through(bpy.types.Operator):
    """See the active head as its photo does: camera, size of the render and the viewport"""

    bl_idname = "mgcface.look_through"
    bl_label = "Look Through Photo Camera"
    bl_options = {"UNDO"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: Context) -> bool:
        none = photo_camera(context) is None
        return allowed(cls, "Choose a head that came with a camera: none is active" if none else "")

    def execute(self, context: Context) -> Answer:
        camera = photo_camera(context)
        assert camera is not None
        look_through(sure(context.scene), camera)
        space = context.space_data
        if isinstance(space, bpy.types.SpaceView3D):
            sure(space.region_3d).view_perspective = "CAMERA"
        return {"FINISHED"}


def active_head(context: Context) -> bpy.types.Object | None:
    """The active head, or the head of the active camera, sun or root."""
    obj = context.active_object
    if obj is None:
        return None
    candidates = [obj, *family(obj), *([obj.parent] if obj.parent is not None else [])]
    return next((each for each in candidates if each.get(naming.ROLE) == naming.HEAD), None)


def photo_camera(context: Context) -> bpy.types.Object | None:
    obj, head = context.active_object, active_head(context)
    if head is None or obj is None:
        return None
    if obj.get(naming.ROLE) == naming.SHOT:
        return obj
    return next((each for each in family(head) if each.get(naming.ROLE) == naming.CAMERA), None)


def show(context: Context) -> None:
    """Bring the new head into the viewport that the button is in: framed, its texture visible in solid shading."""
    head, space = active_head(context), context.space_data
    if head is None or not isinstance(space, bpy.types.SpaceView3D):
        return
    if space.shading.type == "SOLID" and space.shading.color_type == "MATERIAL":
        space.shading.color_type = "TEXTURE"
    # The head's place in the world follows from its root, which was just made.
    sure(context.view_layer).update()
    view = sure(space.region_3d)
    if view.view_perspective != "CAMERA":
        low, high = world_box(head)
        view.view_location = ((low + high) / 2.0).tolist()
        view.view_distance = float((high - low).max()) * FRAMED
        view.view_rotation = Euler(FRONT_VIEW).to_quaternion()


CLASSES = (MGCFACE_OT_reconstruct, MGCFACE_OT_refit, MGCFACE_OT_cancel, MGCFACE_OT_look_through)
