# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend in the artist's hands: set up, start, stop, test, look at the log, copy a report."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bpy

from .. import jobs, properties, redraw, service
from ..link import events
from ..link.installer import Installation, environment_stamp
from ..link.self_test import SelfTest
from ..typed import Operator, sure
from . import allowed

if TYPE_CHECKING:
    from bpy.types import Context, Event

    from ..typed import Answer

# Seconds between two looks at a process.
TICK_S = 0.2
# How long the end of Blender waits for a set-up that it has cancelled to remove its files.
LAST_WAIT_S = 10.0
SETUP_LOG = "setup.log"
# The server's log, what its process printed when it could not even start, and what pip said.
LOGS = (service.LOG_NAME, service.LOG_NAME.replace(".log", ".out"), SETUP_LOG)
# Lines of the log that a new window has room for, some of them broken in two.
LOG_LINES = 25
# Lines of the log that go into a report.
REPORT_LINES = 60


def python_of_blender() -> str:
    """The Python program beside Blender; as a module, the Python that Blender runs in."""
    return sys.executable


def engine_files() -> tuple[Path, Path] | None:
    """The engine's wheel and the versions it was tested with, as build_addon.py puts them into the extension."""
    folder = Path(__file__).parents[1] / "engine"
    wheels = sorted(folder.glob("mgcface-*.whl"))
    return (wheels[0], folder / "constraints.txt") if wheels else None


class _Watches(Operator):
    """Watches something that runs in a thread: modal with a window, in a loop without one."""

    _timer: bpy.types.Timer | None = None

    def begin(self, context: Context) -> bool:
        raise NotImplementedError

    def look(self, context: Context) -> Answer | None:
        """None while it runs, then what the operator returns."""
        raise NotImplementedError

    def stop(self, context: Context) -> None:
        raise NotImplementedError

    def invoke(self, context: Context, event: Event) -> Answer:
        if not self.begin(context):
            return {"CANCELLED"}
        manager = sure(context.window_manager)
        self._timer = manager.event_timer_add(TICK_S, window=context.window)
        manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: Context, event: Event) -> Answer:
        if event.type == "ESC" and event.value == "PRESS":
            self.stop(context)
            return {"RUNNING_MODAL"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        answer = self.look(context)
        redraw.panels(context)
        if answer is None:
            return {"PASS_THROUGH"}
        self._remove_timer(context)
        return answer

    def execute(self, context: Context) -> Answer:
        if not self.begin(context):
            return {"CANCELLED"}
        while True:
            answer = self.look(context)
            if answer is not None:
                return answer
            time.sleep(TICK_S)

    def cancel(self, context: Context) -> None:
        self.stop(context)
        self._remove_timer(context)

    def _remove_timer(self, context: Context) -> None:
        if self._timer is not None:
            sure(context.window_manager).event_timer_remove(self._timer)
        self._timer = None


class MGCFACE_OT_set_up_backend(_Watches, bpy.types.Operator):
    """Make a private Python environment for the backend in this extension's folder; nothing else is touched"""

    bl_idname = "mgcface.set_up_backend"
    bl_label = "Set Up Backend"

    # On the class: an operator's instance is gone when the add-on is disabled under it.
    under_way: Installation | None = None

    @classmethod
    def poll(cls, context: Context) -> bool:
        state = properties.state(context)
        reason = ""
        if state.setting_up:
            reason = "The backend is being set up"
        elif state.running:
            reason = "A reconstruction is running: wait for it, or cancel it"
        elif service.preferences().source != "OWN":
            reason = "The preferences name another backend: choose Set Up by the Add-on there"
        elif not bpy.app.online_access:
            reason = "Blender may not go online: allow it in Preferences, System, Network"
        elif engine_files() is None:
            reason = "This copy of the add-on has no engine in it: install the zip that build_addon.py made"
        return allowed(cls, reason)

    def invoke(self, context: Context, event: Event) -> Answer:
        # The size is told before anything is downloaded.
        return sure(context.window_manager).invoke_props_dialog(self, width=420, confirm_text="Set Up")

    def draw(self, context: Context) -> None:
        column = sure(self.layout).column(align=True)
        for line in service.setup_lines():
            column.label(text=line)
        column.label(text="You can go on working meanwhile; Esc or Cancel stops it")

    def execute(self, context: Context) -> Answer:
        if context.window is None or bpy.app.background:
            return super().execute(context)
        return super().invoke(context, None)  # type: ignore[arg-type]

    def begin(self, context: Context) -> bool:
        files = engine_files()
        assert files is not None
        service.forget()
        state = properties.state(context)
        state.setting_up, state.cancelling, state.failed, state.result = True, False, False, ""
        log = service.user_folder() / SETUP_LOG
        MGCFACE_OT_set_up_backend.under_way = Installation(
            service.environment_folder(), *files, python_of_blender(), log
        )
        return True

    def look(self, context: Context) -> Answer | None:
        if not follow_set_up(context):
            return None
        state = properties.state(context)
        assert self.under_way is not None
        if self.under_way.cancelled:
            self.report({"INFO"}, "Cancelled; what was downloaded is removed")
            return {"CANCELLED"}
        self.report({"ERROR" if state.failed else "INFO"}, state.result)
        return {"CANCELLED"} if state.failed else {"FINISHED"}

    def stop(self, context: Context) -> None:
        properties.state(context).cancelling = True
        if self.under_way is not None:
            self.under_way.cancel()

    def cancel(self, context: Context) -> None:
        """Another file is loaded, or the window is closed: what takes minutes goes on."""
        self._remove_timer(context)
        bpy.app.timers.register(follow_without_operator, first_interval=TICK_S, persistent=True)


def follow_set_up(context: Context) -> bool:
    """Show in the panel how far it is; True when it has ended, well or not."""
    installation, state = MGCFACE_OT_set_up_backend.under_way, properties.state(context)
    assert installation is not None
    if state.cancelling and not installation.cancelled:
        installation.cancel()
    state.setting_up = not installation.finished
    state.fraction, state.text = installation.step.fraction, installation.step.text
    if state.setting_up:
        return False
    state.cancelling, state.failed = False, bool(installation.error)
    if not installation.cancelled:
        state.result = installation.error or "The backend is set up."
    return True


def follow_without_operator() -> float | None:
    """For a timer: the operator has ended with the file that it was started in."""
    over = follow_set_up(bpy.context)
    redraw.panels(bpy.context)
    return None if over else TICK_S


class MGCFACE_OT_cancel_set_up(bpy.types.Operator):
    """Stop the set-up and remove what it has downloaded"""

    bl_idname = "mgcface.cancel_set_up"
    bl_label = "Cancel Set-Up"

    @classmethod
    def poll(cls, context: Context) -> bool:
        return properties.state(context).setting_up

    def execute(self, context: Context) -> Answer:
        properties.state(context).cancelling = True
        return {"FINISHED"}


class MGCFACE_OT_start_backend(bpy.types.Operator):
    """Start the backend now, so that the first reconstruction does not wait for it"""

    bl_idname = "mgcface.start_backend"
    bl_label = "Start Backend"

    @classmethod
    def poll(cls, context: Context) -> bool:
        reason = service.missing()
        if service.status().phase != events.STOPPED:
            reason = "The backend is running"
        return allowed(cls, reason)

    def execute(self, context: Context) -> Answer:
        link = service.link()
        link.start()
        redraw.watch_status()
        if bpy.app.background:
            wait_while(lambda: link.status.phase == events.STOPPED and not link.status.sentence)
            wait_while(lambda: link.status.phase == events.STARTING)
            if link.status.sentence:
                self.report({"ERROR"}, link.status.sentence)
                return {"CANCELLED"}
        return {"FINISHED"}


class MGCFACE_OT_stop_backend(bpy.types.Operator):
    """End the backend; the next reconstruction starts it again"""

    bl_idname = "mgcface.stop_backend"
    bl_label = "Stop Backend"

    @classmethod
    def poll(cls, context: Context) -> bool:
        return allowed(cls, "The backend is not running" if service.status().phase == events.STOPPED else "")

    def execute(self, context: Context) -> Answer:
        service.link().stop()
        redraw.watch_status()
        if bpy.app.background:
            wait_while(lambda: service.status().phase != events.STOPPED)
        return {"FINISHED"}


class MGCFACE_OT_test_backend(_Watches, bpy.types.Operator):
    """Check the backend's installation: every package, the face models, the graphics card"""

    bl_idname = "mgcface.test_backend"
    bl_label = "Self-Test"

    _test: SelfTest | None = None

    @classmethod
    def poll(cls, context: Context) -> bool:
        reason = service.missing()
        if service.preferences().source == "REMOTE":
            reason = "The backend runs elsewhere: run `mgcface doctor` there"
        return allowed(cls, reason)

    def begin(self, context: Context) -> bool:
        self._test = SelfTest(service.python())
        return True

    def look(self, context: Context) -> Answer | None:
        assert self._test is not None
        answer = self._test.look()
        if answer is None:
            return None
        good, sentence = answer
        state = properties.state(context)
        state.result, state.failed = sentence, not good
        self.report({"INFO" if good else "ERROR"}, sentence)
        return {"FINISHED"} if good else {"CANCELLED"}

    def stop(self, context: Context) -> None:
        if self._test is not None:
            self._test.end()


class MGCFACE_OT_open_log(bpy.types.Operator):
    """Open the backend's log in Blender's text editor"""

    bl_idname = "mgcface.open_log"
    bl_label = "Open Log"

    @classmethod
    def poll(cls, context: Context) -> bool:
        there = any((service.user_folder_if_there() / name).is_file() for name in LOGS)
        return allowed(cls, "" if there else "There is no log yet: the backend was never started")

    def execute(self, context: Context) -> Answer:
        files = [service.user_folder() / name for name in LOGS]
        newest = max((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime)
        text = bpy.data.texts.get(newest.name) or bpy.data.texts.new(newest.name)
        text.from_string(newest.read_text("utf-8", "replace"))
        if context.window is not None and not bpy.app.background:
            bpy.ops.wm.window_new()
            area = sure(context.window_manager).windows[-1].screen.areas[0]
            area.type = "TEXT_EDITOR"
            space = area.spaces.active
            assert isinstance(space, bpy.types.SpaceTextEditor)
            space.text = text
            # The end, which Blender else puts above the window's upper edge.
            space.top, space.show_word_wrap = max(0, len(text.lines) - LOG_LINES), True
        return {"FINISHED"}


class MGCFACE_OT_copy_report(bpy.types.Operator):
    """Copy versions, settings and the end of the log, for a bug report; photos and keys are not in it"""

    bl_idname = "mgcface.copy_report"
    bl_label = "Copy Report"

    def execute(self, context: Context) -> Answer:
        sure(context.window_manager).clipboard = report_text(context)
        self.report({"INFO"}, "The report is in the clipboard")
        return {"FINISHED"}


def report_text(context: Context) -> str:
    """What a developer asks first; the artist's home is not named."""
    status, chosen = service.status(), service.preferences()
    lines = [
        f"MGC Face {service.version()}, Blender {bpy.app.version_string}, Python {platform.python_version()}",
        f"{platform.system()} {platform.release()} {platform.machine()}",
        f"backend: {chosen.source}, {chosen.device}, {status.phase}. {status.sentence}",
        "server: " + json.dumps({k: status.hello.get(k) for k in ("server_version", "device")}),
        "environment: " + json.dumps(environment_stamp(service.environment_folder())),
        f"longest hold of the interface: {1000 * jobs.longest_pump_s:.0f} ms",
        f"last result: {properties.state(context).result}",
    ]
    for name in LOGS:
        file = service.user_folder() / name
        if file.is_file():
            lines += [f"-- {name}", *file.read_text("utf-8", "replace").splitlines()[-REPORT_LINES:]]
    return "\n".join(lines).replace(str(Path.home()), "~") + "\n"


def wait_while(condition) -> None:
    while condition():
        time.sleep(TICK_S / 10)


def unregister() -> None:
    installation = MGCFACE_OT_set_up_backend.under_way
    if installation is not None and not installation.finished:
        # pip must not go on for an add-on that is gone.
        installation.cancel()
        installation.wait(LAST_WAIT_S)
    if bpy.app.timers.is_registered(follow_without_operator):
        bpy.app.timers.unregister(follow_without_operator)


CLASSES = (
    MGCFACE_OT_set_up_backend,
    MGCFACE_OT_cancel_set_up,
    MGCFACE_OT_start_backend,
    MGCFACE_OT_stop_backend,
    MGCFACE_OT_test_backend,
    MGCFACE_OT_open_log,
    MGCFACE_OT_copy_report,
)
