"""The buttons of the panel Backend with one that Blender starts itself; then Blender ends in the middle of a job."""

import bpy
import leaving
from common import check, module, problems, state, until, use_backend


def ready():
    return module("service").status().phase == "ready"


def steps(gui, python):
    """``python`` has the backend."""
    use_backend("PYTHON", python)
    yield from gui.show_tab("Face")
    yield from gui.click_text("Start", near=(1200, 400))
    yield from until(ready, "the backend", leaving.PATIENCE_S)
    check(ready(), f"it has started: {module('service').status().sentence}")
    with gui.at("UI"):
        check(bpy.ops.mgcface.test_backend("INVOKE_DEFAULT") == {"RUNNING_MODAL"}, "the self-test runs")
    yield from until(lambda: state().result, "the self-test", leaving.PATIENCE_S)
    check(state().result.startswith("The backend is well"), f"its self-test passed: {state().result}")
    gui.move(500, 500)
    gui.redraw()
    yield 0.5
    gui.picture("1-tested.png")
    yield from gui.click_text("Stop")
    yield from until(lambda: not ready(), "the end of the backend", leaving.PATIENCE_S)
    # A button under the pointer is lighter, and then hard to read.
    gui.move(500, 500)
    yield 1.0
    yield from gui.click_text("Log")
    yield 2.0
    (text,) = (text for text in bpy.data.texts if text.name.startswith("backend."))
    check("Listening" in text.as_string() or "stops" in text.as_string(), f"the log is open: {text.as_string()}")
    windows = bpy.context.window_manager.windows
    check(len(windows) == 2 and windows[1].screen.areas[0].type == "TEXT_EDITOR", "in a window of its own")
    gui.picture("2-log.png")
    check(windows[1].screen.areas[0].spaces.active.top < len(text.lines) - 1, "with some of its lines to be seen")
    with bpy.context.temp_override(window=windows[1]):
        bpy.ops.wm.window_close()
    yield 1.0
    assert not problems, problems
    yield from leaving.steps(gui, "quit", "PYTHON", python)
