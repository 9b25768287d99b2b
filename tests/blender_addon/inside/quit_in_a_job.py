"""A Blender of its own that starts a job, says which processes run for it, and ends: see test_quit.py.

python quit_in_a_job.py PHOTO    prints the process numbers of backend and worker, then ends at a line on stdin
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module

import bpy
from backend_in_use import children

ADDON = "bl_ext.user_default.mgcface"


def main() -> None:
    if os.path.isdir(os.path.join(os.environ["BLENDER_USER_RESOURCES"], "extensions", "user_default", "mgcface")):
        # Another Blender with the same settings has installed it.
        import addon_utils

        addon_utils.enable(ADDON, default_set=True)
    else:
        bpy.ops.extensions.package_install_files(
            repo="user_default", filepath=os.environ["MGCFACE_ZIP"], enable_on_install=True
        )
    preferences = bpy.context.preferences.addons[ADDON].preferences
    preferences.source, preferences.python = "PYTHON", os.environ["MGCFACE_PYTHON"]
    bpy.ops.mgcface.start_backend()
    service, jobs, build = (import_module(f"{ADDON}.{name}") for name in ("service", "jobs", "scene.build"))
    options = {"model": "open-head", "texture_size": 4096}
    job = jobs.Job([sys.argv[1]] * 8, [-1] * 8, options, build.BuildOptions())
    job.start()
    while bpy.context.window_manager.mgcface.fraction == 0.0:
        assert not job.pump(), job.ended
        time.sleep(0.01)
    server = int(service.status().hello["pid"])
    sys.stdout.write(json.dumps([server, *children(server)]) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


main()
