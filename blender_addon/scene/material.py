# SPDX-License-Identifier: GPL-3.0-or-later
"""Materials that look the same in EEVEE and Cycles: one Principled shader each, packed textures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy

from .. import naming
from ..typed import sure
from .head_data import EYES, MOUTH, SKIN, Head, Picture
from .packed_images import packed_image, repack


@dataclass(frozen=True)
class Look:
    """Linear RGB (unused where there is a texture), roughness, weight of light under the skin, clear coat."""

    color: tuple[float, float, float]
    roughness: float
    subsurface: float = 0.0
    coat: float = 0.0


# Colours and roughness are those of the glTF export (backend/export/parts.py), chosen by eye under a neutral
# light. The texture holds the light of pores and folds already, so that little of the skin is scattered.
LOOKS = {
    SKIN: Look((0.60, 0.36, 0.26), 0.50, subsurface=0.15),
    MOUTH: Look((0.22, 0.045, 0.04), 0.35, subsurface=0.1),
    "teeth": Look((0.72, 0.66, 0.54), 0.25, subsurface=0.1),
    "gums": Look((0.42, 0.12, 0.11), 0.35, subsurface=0.1),
    "tongue": Look((0.40, 0.11, 0.10), 0.45, subsurface=0.1),
    EYES: Look((0.82, 0.80, 0.77), 0.10, coat=1.0),
}
OTHER_LOOK = Look((0.5, 0.5, 0.5), 0.6)
# How far red, green and blue light travel in skin, relative to each other, and how far red does (metres):
# Jensen et al. 2001, "skin1", mean free paths 3.67, 1.37 and 0.68 mm.
SCATTER_RADIUS = (1.0, 0.37, 0.19)
SCATTER_M = 0.0037
# Skin reflects 2.8 % of light straight on (index of refraction 1.4), 0.35 on Blender's scale of 8 %.
SKIN_SPECULAR = 0.35
# Where the textures stand in the node editor, left of the shader.
TEXTURE_NODE_AT = (-320.0, 300.0)
NORMAL_TEXTURE_AT, NORMAL_NODE_AT = (-520.0, -20.0), (-220.0, -20.0)


def make_materials(mesh: bpy.types.Mesh, names: tuple[str, ...], head: Head, scale: float) -> None:
    """One material slot per name, in order."""
    pictures = {SKIN: head.texture, EYES: head.eyes}
    roles = {SKIN: naming.SKIN_IMAGE, EYES: naming.EYES_IMAGE}
    for name in names:
        picture = pictures.get(name)
        image = None if picture is None else packed_image(picture, roles[name])
        material = _material(f"{head.name} {name}", LOOKS.get(name, OTHER_LOOK), image, scale)
        if name == SKIN and head.normals is not None:
            _add_normals(material, head.normals)
        mesh.materials.append(material)


def update_images(mesh: bpy.types.Mesh, head: Head) -> None:
    """New pixels for the textures that this add-on made, where the artist still uses them."""
    pictures = {
        naming.SKIN_IMAGE: head.texture,
        naming.EYES_IMAGE: head.eyes,
        naming.NORMAL_IMAGE: head.normals,
    }
    for material in mesh.materials:
        if material is None or material.node_tree is None:
            continue
        for node in material.node_tree.nodes:
            image = getattr(node, "image", None)
            picture = pictures.get(image.get(naming.ROLE)) if image is not None else None
            if image is not None and picture is not None:
                repack(image, picture.data)


def _material(name: str, look: Look, image: bpy.types.Image | None, scale: float) -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material[naming.UNFINISHED] = True
    material.diffuse_color = (*look.color, 1.0)
    if bpy.app.version < (5, 0, 0):
        # From 5.0 every material has nodes, and saying so is deprecated.
        material.use_nodes = True
    tree = sure(material.node_tree)
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    # Any: Blender's types know no sockets' values and not which node comes back.
    inputs: Any = shader.inputs
    inputs["Base Color"].default_value = (*look.color, 1.0)
    inputs["Roughness"].default_value = look.roughness
    inputs["Subsurface Weight"].default_value = look.subsurface
    inputs["Subsurface Radius"].default_value = SCATTER_RADIUS
    inputs["Subsurface Scale"].default_value = SCATTER_M * scale
    inputs["Coat Weight"].default_value = look.coat
    if look.subsurface:
        inputs["Specular IOR Level"].default_value = SKIN_SPECULAR
    if image is not None:
        texture: Any = tree.nodes.new("ShaderNodeTexImage")
        texture.location = TEXTURE_NODE_AT
        texture.image = image
        tree.links.new(texture.outputs["Color"], inputs["Base Color"])
    return material


def _add_normals(material: bpy.types.Material, picture: Picture) -> None:
    """A normal map between the skin's UV coordinates and its shader."""
    tree = sure(material.node_tree)
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    image = packed_image(picture, naming.NORMAL_IMAGE)
    # Directions are no colours.
    sure(image.colorspace_settings).name = "Non-Color"  # type: ignore[assignment] # the stubs know no names
    texture: Any = tree.nodes.new("ShaderNodeTexImage")
    texture.location, texture.name = NORMAL_TEXTURE_AT, "Normal Map Texture"
    texture.image = image
    normals: Any = tree.nodes.new("ShaderNodeNormalMap")
    normals.location = NORMAL_NODE_AT
    inputs: Any = shader.inputs
    tree.links.new(texture.outputs["Color"], normals.inputs["Color"])
    tree.links.new(normals.outputs["Normal"], inputs["Normal"])
