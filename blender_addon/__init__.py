# SPDX-License-Identifier: GPL-3.0-or-later
"""MGC Face: photos to textured, animatable heads, in the tab Face of the 3D viewport's sidebar.

Nothing is imported until Blender registers the add-on, so that the parts without bpy can be used and tested
by any Python.
"""

from __future__ import annotations


def classes() -> tuple[type, ...]:
    """In the order in which Blender has to know them: properties before what points to them."""
    from . import panels, preferences, presets, properties
    from .operators import add_to_head, backend, photos, reconstruct

    modules = (properties, preferences, photos, reconstruct, add_to_head, backend, presets, panels)
    return tuple(each for module in modules for each in module.CLASSES)


def register() -> None:
    import bpy

    from . import jobs, overlay, presets, properties
    from .scene import packed_images

    for each in classes():
        bpy.utils.register_class(each)
    properties.register()
    presets.register()
    jobs.register()
    packed_images.register()
    overlay.register()


def unregister() -> None:
    import bpy

    from . import jobs, overlay, panels, presets, properties, redraw, service
    from .operators import backend
    from .scene import packed_images

    # The backend goes first: what it still sends must find nobody.
    service.forget()
    backend.unregister()
    redraw.unregister()
    overlay.unregister()
    packed_images.unregister()
    panels.unregister()
    jobs.unregister()
    presets.unregister()
    properties.unregister()
    for each in reversed(classes()):
        bpy.utils.unregister_class(each)
