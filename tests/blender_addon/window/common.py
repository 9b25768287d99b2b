"""What the steps share: the add-on as it shows itself to Blender, and waiting."""

import glob
import os
import sys
import time

import bpy

ADDON = "bl_ext.user_default.mgcface"
FOLDER = os.path.dirname(os.path.abspath(__file__))
# Longest wait for a job: the backend shares two cores with Blender's software rendering.
PATIENCE_S = 240.0

problems = []


def module(name):
    return sys.modules[f"{ADDON}.{name}"]


def state():
    return bpy.context.window_manager.mgcface


def check(condition, text):
    """Goes on after a failure, so that one run shows all of them."""
    if not condition:
        problems.append(text)
        sys.stderr.write(f"FAILED {text}\n")


def use_backend(source, place):
    """As an artist would in the preferences; a connection file lies beside the steps."""
    preferences = bpy.context.preferences.addons[ADDON].preferences
    preferences.source = source
    if source == "REMOTE":
        preferences.connection_file = os.path.join(FOLDER, place)
    else:
        preferences.python = place


def photos(count=1):
    return sorted(os.path.basename(path) for path in glob.glob(os.path.join(FOLDER, "astronaut-*.jpg")))[:count]


def add_photos(count=1):
    bpy.ops.mgcface.add_photos(directory=FOLDER, files=[{"name": name} for name in photos(count)])


def start_job(gui):
    """The button's operator as a click calls it."""
    with gui.at("UI"):
        answer = bpy.ops.mgcface.reconstruct("INVOKE_DEFAULT")
    check(answer == {"RUNNING_MODAL"}, f"the operator answered {answer}")
    yield 0.1


def until(condition, what, patience=PATIENCE_S):
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            check(False, f"waited in vain for {what}; {state().text!r} {state().result!r}")
            return
        yield 0.05
