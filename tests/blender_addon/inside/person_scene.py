"""A head of several photos as the tests look at it: its cameras, its expressions, where its landmarks fall."""

from __future__ import annotations

import os

import bpy
import numpy as np

PHOTOS = ("astronaut.jpg", "closer.jpg", "tilted.jpg")


def one_person(folder, *names: str, **more) -> set:
    return bpy.ops.mgcface.reconstruct(
        directory=str(folder), files=[{"name": name} for name in names], same_person=True, **more
    )


def cameras(head) -> dict[str, bpy.types.Object]:
    """Camera by the name of its photo."""
    return {os.path.basename(obj["mgcface_photo"]): obj for obj in head.parent.children if obj.type == "CAMERA"}


def expressions() -> dict[str, bpy.types.Action]:
    return {
        os.path.basename(action["mgcface_photo"]): action
        for action in bpy.data.actions
        if action.get("mgcface_role") == "photo expression"
    }


def lay_on(head, action) -> None:
    """As an artist chooses an action for the shape keys."""
    animation = head.data.shape_keys.animation_data_create()
    animation.action = action
    if hasattr(animation, "action_slot") and animation.action_slot is None:
        animation.action_slot = animation.action_suitable_slots[0]
    bpy.context.scene.frame_set(1)


def landmarks(head, truth) -> np.ndarray:
    """(L, 3) world coordinates of the evaluated head."""
    bpy.context.view_layer.update()
    mesh = head.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    points = np.array([head.matrix_world @ vertex.co for vertex in mesh.vertices])
    return (points[truth["corners"]] * truth["weights"][..., None]).sum(axis=1)


def seen_at(name: str, points: np.ndarray) -> np.ndarray:
    """Where pixels (L, 2) of the astronaut are in the photo that was made of it."""
    if name == "closer.jpg":
        return points - [60.0, 0.0]
    if name == "tilted.jpg":
        turn, middle = np.radians(8.0), np.array([256.0, 256.0])
        x, y = (points - middle).T
        return middle + np.stack([x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)], axis=1)
    return points
