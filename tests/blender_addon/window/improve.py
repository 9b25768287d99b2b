"""Add Photo by its button, cancelled, done, undone and redone; the map of confidence on the screen, and in the file."""

import os
import sys
import time

import bpy
import numpy as np
from common import FOLDER, PATIENCE_S, add_photos, check, problems, start_job, state, until, use_backend

SECOND = "tilted.png"
# Differences of a picture that software drawing of the same thing may leave (0 to 255), and how much of the screen a
# head covers at least that is drawn in other colours.
SAME, HEAD_PX = 12, 20_000
# The shaders of the material preview are compiled in software.
SHADERS_S = 240.0


def heads():
    return [obj for obj in bpy.data.objects if obj.get("mgcface_role") == "head"]


def skin():
    return next(image for image in bpy.data.images if image.get("mgcface_role") == "skin image")


def likeness():
    """What undo has to bring back: the shape, the pixels as Blender shows them and as they are packed, and the rest."""
    (head,) = heads()
    points = np.empty(len(head.data.vertices) * 3, np.float32)
    head.data.shape_keys.key_blocks[0].points.foreach_get("co", points)
    pixels = np.empty(len(skin().pixels), np.float32)
    skin().pixels.foreach_get(pixels)
    kinds = ("objects", "cameras", "actions", "images", "meshes", "materials")
    return {
        "points": hash(points.tobytes()),
        "pixels": hash(pixels.tobytes()),
        "packed": hash(bytes(skin().packed_file.data)),
        "photos": head.get("mgcface_photos"),
        "blocks": {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in kinds},
    }


def seen(gui, name):
    """(H, W, 3) int: the viewport's part of the screen, beside the sidebar."""
    path = gui.picture(name)
    image = bpy.data.images.load(path)
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    width, height = image.size
    bpy.data.images.remove(image)
    area, sidebar = gui.viewport, gui.region("UI")
    picture = (values.reshape(height, width, -1)[..., :3] * 255.0).astype(int)
    return picture[area.y + 60 : area.y + area.height - 200, area.x + 100 : sidebar.x - 100]


def differ(one, other):
    return int((np.abs(one - other).max(axis=2) > SAME).sum())


def orange(picture):
    """Pixels in the colour of the head's first photo."""
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    return int(((red > 120) & (red - blue > 90) & (red - green > 20)).sum())


def blue(picture):
    """And of its second."""
    return int(((picture[..., 2] > 100) & (picture[..., 2] - picture[..., 0] > 50)).sum())


def settled(gui):
    gui.move(gui.viewport.x + 150, 300)
    gui.redraw()
    yield 1.5


def sidebar(gui):
    region = gui.region("UI")
    return region.x + region.width / 2, 400


def choose(gui, name):
    """A file in the browser that the button has opened."""
    yield from until(lambda: browser(gui) is not None, "the file browser", 60.0)
    yield 1.0
    area = browser(gui)
    check(area.spaces.active.params.directory.rstrip(b"/") == os.fsencode(FOLDER), "it opens where the head's photo is")
    area.spaces.active.params.filename = name
    yield 1.0
    gui.picture("30-browser.png")
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=gui.window, area=area, region=region):
        bpy.ops.file.execute("INVOKE_DEFAULT")
    yield 0.1


def browser(gui):
    return next((area for area in gui.window.screen.areas if area.type == "FILE_BROWSER"), None)


def added(gui):
    before = likeness()
    (head,) = heads()
    view = gui.viewport.spaces.active.region_3d.view_matrix.copy()
    # One that is cancelled.
    yield from gui.click_text("Add Photo", near=sidebar(gui))
    yield from choose(gui, SECOND)
    yield from until(lambda: state().running, "the job", 60.0)
    gui.press("Escape")
    yield from until(lambda: not state().running, "the end of a cancelled job", 60.0)
    check(state().result == "Cancelled", f"Esc cancelled it: {state().result}")
    check(likeness() == before, "and the head is as it was")
    # The same from a shortcut or a menu, and done.
    with gui.at("UI"):
        check(bpy.ops.mgcface.add_to_head("INVOKE_DEFAULT") == {"RUNNING_MODAL"}, "the file browser opens again")
    yield from choose(gui, SECOND)
    yield from until(lambda: state().running, "the job", 60.0)
    began = time.monotonic()
    yield from until(lambda: state().fraction > 0.1 or not state().running, "progress")
    gui.redraw()
    yield 0.3
    gui.picture("31-progress.png")
    yield from until(lambda: not state().running, "the better head", PATIENCE_S - (time.monotonic() - began))
    check(state().result == "1 head updated from 2 of 2 photos.", state().result)
    check(heads() == [head] and len(bpy.data.actions) == 2, "it is the same head, with an expression for each photo")
    check(gui.viewport.spaces.active.region_3d.view_matrix == view, "and the artist sees it from where they saw it")
    after = likeness()
    check(all(after[key] != before[key] for key in before), "shape, pixels and photos are others")
    yield from settled(gui)
    better = seen(gui, "32-better.png")
    with gui.at():
        bpy.ops.ed.undo()
    yield from settled(gui)
    check(likeness() == before, "undo brings the earlier head back, with its pixels")
    earlier = seen(gui, "33-undone.png")
    moved = differ(better, earlier)
    check(moved > 500, f"on the screen too: {moved} pixels are others")
    with gui.at():
        bpy.ops.ed.redo()
    yield from settled(gui)
    check(likeness() == after, "redo brings the better one back")
    again = differ(better, seen(gui, "34-redone.png"))
    check(again < moved / 2, f"on the screen too: {again} pixels are others, of {moved} that had changed")


def confidence(gui):
    options = bpy.context.scene.mgcface
    before, plain = likeness(), seen(gui, "35-plain.png")
    yield from gui.click_text("Show Confidence", near=sidebar(gui))
    yield from until(lambda: options.show_confidence, "the switch", 10.0)
    yield from settled(gui)
    shown = seen(gui, "36-confidence.png")
    check(orange(shown) > HEAD_PX / 4 > orange(plain), f"the first photo's part is orange: {orange(shown)} pixels")
    check(blue(shown) > 200 > blue(plain), f"the second's is blue: {blue(shown)} pixels")
    check(differ(shown, plain) > HEAD_PX, f"the head is covered: {differ(shown, plain)} pixels")
    check(likeness() == before, "nothing of the head was touched")
    with gui.at():
        bpy.ops.ed.undo()
    yield from settled(gui)
    check(not bpy.context.scene.mgcface.show_confidence, "undo switches it off")
    left = differ(plain, seen(gui, "37-off.png"))
    check(left < HEAD_PX / 10, f"and the head looks as before: {left} pixels are others")
    with gui.at():
        bpy.ops.ed.redo()
    check(bpy.context.scene.mgcface.show_confidence, "redo switches it on")
    # Blender's own switch for overlays takes it along.
    gui.viewport.spaces.active.overlay.show_overlays = False
    yield from settled(gui)
    check(orange(seen(gui, "38-no-overlays.png")) < HEAD_PX / 8, "it goes with the viewport's overlays")
    gui.viewport.spaces.active.overlay.show_overlays = True
    path = os.path.join(FOLDER, "confidence.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    yield 1.0
    yield from gui.show_tab("Face")
    yield from settled(gui)
    again = seen(gui, "39-opened.png")
    check(orange(again) > HEAD_PX / 4, f"it is there when the file is opened again: {orange(again)} pixels")
    gui.viewport.spaces.active.shading.type = "MATERIAL"
    end = time.monotonic() + SHADERS_S
    yield from settled(gui)
    while orange(seen(gui, "40-material.png")) < HEAD_PX / 4 and time.monotonic() < end:
        yield from settled(gui)
    found = orange(seen(gui, "40-material.png"))
    check(found > HEAD_PX / 4, f"in the material preview too: {found} pixels")


def steps(gui):
    bpy.context.scene.mgcface.texture_size = "1024"
    # The head is looked at alone.
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    use_backend("REMOTE", "connection.json")
    yield from gui.show_tab("Face")
    add_photos(1)
    yield from start_job(gui)
    yield from until(lambda: not state().running, "the head")
    check(len(heads()) == 1, f"there is a head to begin with: {state().result}")
    state().photos.clear()
    yield from settled(gui)
    for part in (added, confidence):
        # Blender may die in any of them; the log then names it.
        sys.stderr.write(f"PART {part.__name__}\n")
        yield from part(gui)
    assert not problems, problems
