"""Steps that end Blender in the middle of a job: what it leaves behind is looked at from outside."""

import os
import sys

import bpy
from common import add_photos, start_job, state, until, use_backend

# A backend that is started first loads its models; two cores are shared with a screen drawn in software.
PATIENCE_S = 240.0


def steps(gui, way, source, backend):
    """``way`` to end: quit or close; ``source`` and ``backend`` as in the add-on's preferences."""
    use_backend(source, backend)
    add_photos(4)
    bpy.context.scene.mgcface.texture_size = "4096"
    yield from gui.show_tab("Face")
    yield from start_job(gui)
    yield from until(lambda: state().fraction > 0.02 or not state().running, "progress", PATIENCE_S)
    assert state().running, f"the job is over: {state().result}"
    gui.picture(f"{way}-{source.lower()}.png")
    sys.stderr.write(f"LEAVING by {way} at {state().fraction:.2f} of the job\n")
    sys.stderr.flush()
    # Blender would ask whether the changes are to be saved.
    bpy.context.preferences.view.use_save_prompt = False
    if way == "quit":
        bpy.ops.wm.quit_blender()
    else:
        gui.close_window()
    yield 20.0
    gui.picture("still-here.png")
    sys.stderr.write("Blender did not end\n")
    os._exit(3)
