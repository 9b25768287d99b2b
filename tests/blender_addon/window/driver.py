"""Drives Blender's window for a test: ``blender --python driver.py -- STEPS OUT LIMIT_S [ARGUMENT...]``.

STEPS is a Python file beside this one with a generator ``steps(gui, *arguments)``; each ``yield seconds`` gives
Blender its turn, to draw and to take what was clicked. Pictures go to the folder OUT. Clicks and keys are real
ones, sent to the screen by xdotool; what is clicked is found on the screen by reading it.

Exit code: 0 when the steps ended, 1 when one failed or they took longer than LIMIT_S. Steps that end Blender
themselves leave it to Blender.
"""

import csv
import faulthandler
import importlib
import math
import os
import subprocess
import sys
import time
import traceback

import bpy

# Blender draws nothing but grey at first.
FIRST_S = 1.5
# Between two steps when one does not say.
STEP_S = 0.05
# How long a text may take to appear: reading the screen once takes one second, or ten on a busy machine.
READING_S = 120.0
STANDS_STILL_PX = 4.0
# Text is read from a picture enlarged by this.
ENLARGED = 2
DESKTOP = ["/usr/bin/python3", os.path.join(os.path.dirname(os.path.abspath(__file__)), "desktop.py")]
BUTTONS = {"LEFT": "1", "RIGHT": "3"}


class Driver:
    """Eyes and hands: what a person at the screen has."""

    def __init__(self, out):
        self.out = out

    # -- Blender's own view of the window ----------------------------------------------------------

    @property
    def window(self):
        return bpy.context.window_manager.windows[0]

    @property
    def viewport(self):
        return next(area for area in self.window.screen.areas if area.type == "VIEW_3D")

    def region(self, kind):
        return next(region for region in self.viewport.regions if region.type == kind)

    def at(self, kind="WINDOW"):
        """Context of an operator that is called with the pointer in that region of the viewport."""
        return bpy.context.temp_override(window=self.window, area=self.viewport, region=self.region(kind))

    def redraw(self):
        for area in self.window.screen.areas:
            area.tag_redraw()

    def show_tab(self, name):
        """Open the viewport's sidebar at a tab. A generator, as all that need several turns."""
        self.viewport.spaces.active.show_region_ui = True
        for _ in range(40):
            self.redraw()
            yield 0.25
            try:
                self.region("UI").active_panel_category = name
            except TypeError:
                # Tabs are known once the region was drawn.
                continue
            self.redraw()
            yield 0.5
            return
        raise LookupError(f"the sidebar has no tab {name}")

    # -- the screen --------------------------------------------------------------------------------

    def picture(self, name):
        """The whole screen as a person sees it. Blender's own screenshot has only what was drawn last."""
        path = os.path.join(self.out, name)
        subprocess.run(["import", "-window", "root", path], check=True)
        return path

    def find(self, text, near=(0, 0)):
        """Where the text stands on the screen, in pixels from its upper left, nearest to a place; None if nowhere."""
        path = self.picture("reading.png")
        # The reader is trained on dark letters.
        change = ["-colorspace", "Gray", "-negate", "-resize", f"{100 * ENLARGED}%"]
        subprocess.run(["convert", path, *change, path], check=True)
        command = ["tesseract", path, "-", "--psm", "11", "tsv"]
        table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        os.remove(path)
        rows = [row for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)]
        words = [row for row in rows if (row["text"] or "").strip()]
        wanted = text.split()
        places = []
        for first in range(len(words) - len(wanted) + 1):
            found = words[first : first + len(wanted)]
            lines = {(row["block_num"], row["par_num"], row["line_num"]) for row in found}
            if [row["text"].strip() for row in found] == wanted and len(lines) == 1:
                left, top = (min(int(row[side]) for row in found) for side in ("left", "top"))
                right = max(int(row["left"]) + int(row["width"]) for row in found)
                bottom = max(int(row["top"]) + int(row["height"]) for row in found)
                places.append(((left + right) / 2 / ENLARGED, (top + bottom) / 2 / ENLARGED))
        return min(places, key=lambda place: math.dist(place, near), default=None)

    def move(self, x, y):
        xdotool("mousemove", round(x), round(y))

    def click(self, x, y, button="LEFT"):
        # A button has to see the pointer come before it can be pressed.
        self.move(x - 2, y)
        yield 0.2
        self.move(x, y)
        yield 0.2
        xdotool("mousedown", BUTTONS[button])
        yield 0.1
        xdotool("mouseup", BUTTONS[button])
        yield 0.2

    def click_text(self, text, near=(0, 0)):
        """Click where the text stands, once it stands still: what was drawn last may still be on its way."""
        end, last = time.monotonic() + READING_S, (math.inf, math.inf)
        while (place := self.find(text, near)) is None or math.dist(place, last) > STANDS_STILL_PX:
            if time.monotonic() > end:
                raise LookupError(f"{text!r} is not on the screen")
            last = place or last
            self.redraw()
            yield STEP_S
        say(f"click {text!r} at {place}")
        yield from self.click(*place)

    def press(self, key):
        xdotool("key", key)

    # -- the desktop, a program that runs while Blender answers it ---------------------------------

    def drop(self, path, x, y):
        """Drag a file from the desktop to that place."""
        process = subprocess.Popen([*DESKTOP, "drop", path, str(round(x)), str(round(y))])
        while process.poll() is None:
            yield 0.02
        if process.returncode:
            raise RuntimeError(f"{path} could not be dropped at {x}, {y}")

    def close_window(self):
        """As by the cross in its title bar."""
        subprocess.Popen([*DESKTOP, "close"])


def xdotool(*words):
    subprocess.run(["xdotool", *map(str, words)], check=True)


def say(line):
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def leave(code):
    # Without Blender's own end: what a failed step left behind must not change the answer.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(path, out, limit_s, arguments):
    # From a thread of C, so also when Blender hangs; says what every thread was doing.
    faulthandler.dump_traceback_later(limit_s, exit=True)
    sys.path.insert(0, os.path.dirname(path))
    module = importlib.import_module(os.path.basename(path).removesuffix(".py"))
    gui = Driver(out)
    steps = module.steps(gui, *arguments)
    began = time.monotonic()

    def step():
        try:
            wait = next(steps)
        except StopIteration:
            say(f"done in {time.monotonic() - began:.1f} s")
            leave(0)
        except BaseException:
            traceback.print_exc()
            gui.picture("failed.png")
            leave(1)
        else:
            return STEP_S if wait is None else wait

    # Persistent: a step may load another file.
    bpy.app.timers.register(step, first_interval=FIRST_S, persistent=True)


def settle():
    """No splash screen before the window, and no window beside it for the file browser."""
    view = bpy.context.preferences.view
    view.show_splash = False
    view.filebrowser_display_type = "SCREEN"


if __name__ == "__main__":
    settle()
    _path, _out, _limit, *_arguments = sys.argv[sys.argv.index("--") + 1 :]
    run(_path, _out, float(_limit), _arguments)
