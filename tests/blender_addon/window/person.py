"""The switch for photos of one person: grey with its reason, clicked, and what it makes."""

import time

import bpy
from common import FOLDER, PATIENCE_S, add_photos, check, problems, state, until, use_backend


def cameras():
    return [obj for obj in bpy.data.objects if obj.type == "CAMERA" and "mgcface_photo" in obj]


def switch(gui):
    """Where the click goes: the panel is narrow, and 'Same' may stand elsewhere."""
    region = gui.region("UI")
    yield from gui.click_text("Same Person", near=(region.x + region.width / 2, 300))


def steps(gui):
    options = bpy.context.scene.mgcface
    options.texture_size = "1024"
    use_backend("REMOTE", "connection.json")
    yield from gui.show_tab("Face")
    add_photos(1)
    gui.redraw()
    yield 1.0
    gui.picture("20-one-photo.png")
    yield from switch(gui)
    yield 1.0
    check(not options.same_person, "with one photo the switch cannot be clicked")
    gui.move(400, 400)
    yield 1.0
    add_photos(3)
    bpy.ops.mgcface.add_photos(directory=FOLDER, files=[{"name": "wall.png"}])
    gui.redraw()
    yield 1.0
    yield from switch(gui)
    yield from until(lambda: options.same_person, "the switch", 10.0)
    gui.move(400, 400)
    yield 1.0
    gui.picture("21-same-person.png")
    yield from gui.click_text("Reconstruct Face")
    began = time.monotonic()
    yield from until(lambda: state().fraction > 0.1 or not state().running, "progress")
    gui.redraw()
    yield 0.3
    gui.picture("22-progress.png")
    yield from until(lambda: not state().running, "the head", PATIENCE_S - (time.monotonic() - began))
    heads = [obj for obj in bpy.data.objects if obj.get("mgcface_role") == "head"]
    check(len(heads) == 1 and len(cameras()) == 3, f"one head, a camera for each photo with a face: {state().result}")
    check([photo.state for photo in state().photos] == ["DONE"] * 3 + ["FAILED"], "the list says what became of each")
    state().active = 3
    other = next(obj for obj in cameras() if obj["mgcface_role"] == "photo camera")
    with gui.at():
        bpy.context.view_layer.objects.active = other
        bpy.ops.mgcface.look_through()
    check(bpy.context.scene.camera == other, "the viewport looks through the other photo's camera")
    gui.redraw()
    yield 2.0
    gui.picture("23-other-camera.png")
    with gui.at():
        bpy.ops.ed.undo()
    yield 1.0
    kinds = ("objects", "cameras", "actions", "meshes")
    left = [block.name for kind in kinds for block in getattr(bpy.data, kind) if "astronaut" in block.name]
    check(not left, f"one undo takes all of it away: {left}")
    assert not problems, problems
