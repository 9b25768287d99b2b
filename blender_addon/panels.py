# SPDX-License-Identifier: GPL-3.0-or-later
"""The tab Face in the 3D viewport's sidebar."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import bpy
import bpy.utils.previews

from . import naming, properties, service
from .link import events
from .operators.photos import TAB
from .operators.reconstruct import active_head
from .presets import MGCFACE_MT_presets
from .properties import CANCELLED, DONE, FAILED, RUNNING
from .scene.confidence import COMPLETED, photo_color
from .scene.confidence_map import legend
from .typed import Panel, sure

if TYPE_CHECKING:
    from bpy.types import Context, UILayout

    from .typed import Icon

ICONS: dict[str, Icon] = {DONE: "CHECKMARK", FAILED: "ERROR", RUNNING: "SORTTIME"}
# Letters that fit into a line of the sidebar as it opens, 260 pixels wide at a scale of 1.
LINE = 38
# Photos whose previews are kept; each takes 64 kB.
MOST_PREVIEWS = 500
# Pixels along each side of a colour's icon.
SWATCH = 16

_previews: bpy.utils.previews.ImagePreviewCollection | None = None


def preview_icon(path: str) -> int:
    """Icon of a photo's thumbnail; Blender makes it in a thread of its own when it is first drawn."""
    previews = _collection()
    if path not in previews:
        previews.load(path, path, "IMAGE")
    return previews[path].icon_id


def _collection() -> bpy.utils.previews.ImagePreviewCollection:
    global _previews
    if _previews is None:
        _previews = bpy.utils.previews.new()
    if len(_previews) > MOST_PREVIEWS:
        _previews.clear()
    return _previews


def swatch_icon(color: tuple[int, int, int]) -> int:
    """Icon of one colour, sRGB."""
    previews = _collection()
    name = "swatch {} {} {}".format(*color)
    if name not in previews:
        preview: Any = previews.new(name)
        preview.icon_size = (SWATCH, SWATCH)
        preview.icon_pixels_float = [*(channel / 255.0 for channel in color), 1.0] * SWATCH**2
    return previews[name].icon_id


def lines_of(text: str, width: int = LINE) -> list[str]:
    """A sentence broken at spaces, because labels do not wrap."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw_sentence(layout: UILayout, text: str, icon: Icon = "NONE", context: Context | None = None) -> None:
    width = LINE
    if context is not None and context.region is not None:
        scale = sure(context.preferences).system.ui_scale or 1.0
        # About 6.5 pixels a letter of the interface's font, less the panel's margins.
        width = max(20, int((context.region.width / scale - 70) / 6.2))
    column = layout.column(align=True)
    column.scale_y = 0.85
    for number, line in enumerate(lines_of(text, width)):
        column.label(text=line, icon=icon if number == 0 else "BLANK1" if icon != "NONE" else "NONE")


def waiting_for(status: events.Status) -> str:
    """What a job waits for that has not begun: seconds in which nothing else would move."""
    if status.phase in (events.READY, events.BUSY):
        return "Waiting for its turn" if status.hello.get("device") else "Loading the models"
    return status.sentence or "Starting the backend"


class MGCFACE_UL_photos(bpy.types.UIList):
    """Thumbnail, name and what became of it."""

    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):
        row = layout.row(align=True)
        if os.path.isfile(item.path):
            row.label(text=item.name, icon_value=preview_icon(item.path))
        else:
            row.label(text=f"{item.name} is gone", icon="LIBRARY_DATA_BROKEN")
        status = row.row()
        status.alignment = "RIGHT"
        if item.state == RUNNING:
            status.label(text=f"{item.fraction * 100:.0f} %")
        elif item.state in ICONS:
            status.label(text="", icon=ICONS[item.state])


class _InTab(Panel):
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB


class MGCFACE_PT_face(_InTab, bpy.types.Panel):
    bl_idname = "MGCFACE_PT_face"
    bl_label = "Face from Photos"

    def draw(self, context: Context) -> None:
        layout, state = sure(self.layout), properties.state(context)
        self._draw_list(layout, state)
        if state.photos:
            self._draw_person(layout, context)
        photo = state.photos[state.active] if 0 <= state.active < len(state.photos) else None
        if photo is not None and photo.state == FAILED:
            draw_sentence(layout, photo.note, "ERROR", context)
        if not state.running:
            row = layout.row()
            row.scale_y = 1.5
            row.operator("mgcface.reconstruct", icon="USER")
            reason = "The backend is being set up" if state.setting_up else service.missing()
            if reason:
                draw_sentence(layout, f"{reason}.", "INFO", context)
            elif state.result and not (photo is not None and photo.note == state.result):
                icon: Icon = "ERROR" if state.failed else "X" if state.result == CANCELLED else "CHECKMARK"
                draw_sentence(layout, state.result, icon, context)

    def _draw_person(self, layout: UILayout, context: Context) -> None:
        state, options = properties.state(context), properties.options(context)
        reason = properties.not_one_person(len(state.photos))
        row = layout.row()
        row.enabled = not reason and not state.running
        row.prop(options, "same_person", text=f"Same Person ({reason})" if reason else "Same Person")
        if options.same_person and not reason:
            row.prop(options, "keep_all")

    def _draw_list(self, layout: UILayout, state: properties.MGCFACE_PG_state) -> None:
        row = layout.row()
        if state.photos:
            rows = min(max(len(state.photos), 4), 8)
            row.template_list("MGCFACE_UL_photos", "", state, "photos", state, "active", rows=rows)
            column = row.column(align=True)
            column.operator("mgcface.add_photos", text="", icon="ADD")
            column.operator("mgcface.remove_photo", text="", icon="REMOVE")
            column.operator("mgcface.paste_photo", text="", icon="PASTEDOWN")
            if len(state.photos) > 1:
                column.operator("mgcface.move_photo", text="", icon="TRIA_UP").direction = "UP"
                column.operator("mgcface.move_photo", text="", icon="TRIA_DOWN").direction = "DOWN"
                column.operator("mgcface.clear_photos", text="", icon="TRASH")
            return
        box = row.box()
        box.scale_y = 1.2
        box.operator("mgcface.add_photos", icon="FILE_IMAGE")
        hint = box.row()
        hint.alignment = "CENTER"
        hint.label(text="or drop photos here")
        hint.operator("mgcface.paste_photo", text="", icon="PASTEDOWN")


class MGCFACE_PT_progress(_InTab, bpy.types.Panel):
    """In place of the button while a job runs.

    Not in the panel with the list, because there Blender draws a bar under the pointer for a label of another
    place: it knows both by no more than their order in the panel, and a job changes how many come before.
    """

    bl_label = "Progress"
    bl_parent_id = "MGCFACE_PT_face"
    bl_options = {"HIDE_HEADER"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: Context) -> bool:
        return properties.state(context).running

    def draw(self, context: Context) -> None:
        layout, state = sure(self.layout), properties.state(context)
        column = layout.column(align=True)
        column.scale_y = 1.2
        text = f"{state.text} {state.fraction * 100:.0f} %" if state.text else waiting_for(service.status())
        if state.cancelling:
            text = "Cancelling"
        column.progress(factor=state.fraction, type="BAR", text=text)
        row = column.row()
        row.enabled = not state.cancelling
        row.operator("mgcface.cancel", icon="X")


class MGCFACE_PT_options(_InTab, bpy.types.Panel):
    bl_label = "Options"
    bl_parent_id = "MGCFACE_PT_face"
    bl_options = {"DEFAULT_CLOSED"}  # noqa: RUF012

    def draw(self, context: Context) -> None:
        layout, options = sure(self.layout), properties.options(context)
        row = layout.row(align=True)
        row.menu("MGCFACE_MT_presets", text=MGCFACE_MT_presets.bl_label)
        row.operator("mgcface.add_preset", text="", icon="ADD")
        row.operator("mgcface.add_preset", text="", icon="REMOVE").remove_active = True
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.enabled = not properties.state(context).running
        layout.prop(options, "model")
        self._draw_licence(layout, context)
        layout.prop(options, "texture_size")
        layout.prop(options, "normal_map")
        row = layout.row()
        # One person has one face in each photo.
        row.enabled = not options.same_person or bool(properties.not_one_person(len(properties.state(context).photos)))
        row.prop(options, "all_faces")
        column = layout.column(heading="Create", align=True)
        column.prop(options, "shape_keys")
        column.prop(options, "eyes")
        column.prop(options, "camera")
        column.prop(options, "lights")
        layout.prop(options, "placement")
        layout.prop(options, "scale")

    def _draw_licence(self, layout: UILayout, context: Context) -> None:
        """The terms of the chosen model, once the backend has said them."""
        for model in service.status().hello.get("models", ()):
            if model.get("name") == properties.options(context).model:
                terms = f"{model.get('licence', '')}. {model.get('terms', '')}"
                draw_sentence(layout.box(), terms, "CHECKMARK" if model.get("commercial") else "ERROR", context)


class MGCFACE_PT_head(_InTab, bpy.types.Panel):
    bl_label = "Active Head"
    bl_parent_id = "MGCFACE_PT_face"

    @classmethod
    def poll(cls, context: Context) -> bool:
        return active_head(context) is not None

    def draw(self, context: Context) -> None:
        head = active_head(context)
        if head is None:
            return
        layout = sure(self.layout)
        column = layout.column(align=True)
        column.label(text=head.name, icon="MESH_DATA")
        used = head.get(naming.USED)
        more = f" and {used - 1} more" if isinstance(used, int) and used > 1 else ""
        column.label(text=f"from {os.path.basename(head[naming.PHOTO])}{more}", icon="FILE_IMAGE")
        column = layout.column(align=True)
        column.operator("mgcface.look_through", icon="CAMERA_DATA")
        column.operator("mgcface.add_to_head", icon="FILE_NEW")
        column.operator("mgcface.refit", icon="FILE_REFRESH")
        self._draw_confidence(layout, context, head)

    def _draw_confidence(self, layout: UILayout, context: Context, head: bpy.types.Object) -> None:
        """The switch, and below it which colour is which photo, and how much came from it."""
        options, photos = properties.options(context), legend(head)
        column = layout.column(align=True)
        row = column.row(align=True)
        row.enabled = bool(photos)
        text = "Show Confidence" if photos else "Show Confidence (no texture)"
        row.prop(options, "show_confidence", text=text, icon="OVERLAY", toggle=True)
        if not options.show_confidence or not photos:
            return
        box = column.box().column(align=True)
        for photo in photos:
            row = box.row()
            row.label(text=os.path.basename(photo.path), icon_value=swatch_icon(photo_color(photo.place)))
            part = row.row()
            part.alignment = "RIGHT"
            part.label(text=f"{photo.share * 100:.0f} %")
        box.label(text="in no photo: completed", icon_value=swatch_icon(COMPLETED))


class MGCFACE_PT_backend(_InTab, bpy.types.Panel):
    bl_label = "Backend"
    bl_parent_id = "MGCFACE_PT_face"

    def draw_header_preset(self, context: Context) -> None:
        sure(self.layout).label(text="", icon="LINKED" if service.status().hello else "UNLINKED")

    def draw(self, context: Context) -> None:
        layout, state, status = sure(self.layout), properties.state(context), service.status()
        if state.setting_up:
            column = layout.column(align=True)
            column.progress(factor=state.fraction, type="BAR", text=f"{state.fraction * 100:.0f} %")
            column.operator("mgcface.cancel_set_up", icon="X")
            draw_sentence(layout, "Removing what was downloaded" if state.cancelling else state.text, context=context)
            return
        if service.preferences().source == "OWN" and not service.python():
            self._draw_set_up(layout, context)
            return
        draw_sentence(layout, self._sentence(status), context=context)
        row = layout.row(align=True)
        if status.phase == events.STOPPED:
            row.operator("mgcface.start_backend", text="Start", icon="PLAY")
        else:
            row.operator("mgcface.stop_backend", text="Stop", icon="PAUSE")
        row.operator("mgcface.open_log", text="Log", icon="TEXT")
        row = layout.row(align=True)
        row.operator("mgcface.test_backend", icon="VIEWZOOM")
        row.operator("mgcface.copy_report", icon="COPYDOWN")

    def _draw_set_up(self, layout: UILayout, context: Context) -> None:
        """Before the first use: what has to be done once, and what stands in its way."""
        state = properties.state(context)
        draw_sentence(layout, f"Needed once. {service.setup_lines()[1]}.", "INFO", context)
        if not bpy.app.online_access:
            if bpy.app.online_access_override:
                reason = "Blender was started with --offline-mode; start it without."
                draw_sentence(layout, reason, "INTERNET_OFFLINE", context)
            else:
                draw_sentence(layout, "Blender may not go online; allow it first:", "INTERNET_OFFLINE", context)
                layout.prop(sure(context.preferences).system, "use_online_access", text="Allow Online Access")
        row = layout.row()
        row.scale_y = 1.5
        row.operator("mgcface.set_up_backend", icon="IMPORT")
        if state.failed and state.result:
            draw_sentence(layout, state.result, "ERROR", context)
        row = layout.row(align=True)
        row.operator("mgcface.open_log", text="Log", icon="TEXT")
        row.operator("mgcface.copy_report", icon="COPYDOWN")

    def _sentence(self, status: events.Status) -> str:
        if status.phase in (events.READY, events.BUSY):
            doing = "Working" if status.phase == events.BUSY else "Ready"
            device = status.hello.get("device")
            where = f" on {device}" if device else "; loading its models"
            return f"{doing}: version {status.hello['server_version']}{where}."
        if status.phase == events.STARTING:
            return f"{status.sentence}..."
        return status.sentence or "Not running; it starts by itself when it is needed."


CLASSES = (
    MGCFACE_UL_photos,
    MGCFACE_PT_face,
    MGCFACE_PT_progress,
    MGCFACE_PT_options,
    MGCFACE_PT_head,
    MGCFACE_PT_backend,
)


def unregister() -> None:
    global _previews
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
        _previews = None
