"""Materials, lights and the world, as Blender's nodes. Standard library and bpy alone; see worker.py."""

import math
import os

import bpy
from mathutils import Vector

AMBIENT_GAIN = 1.6  # by eye, after CLEVR's pictures, whose ground is lit more evenly than by three lamps alone
LAMP_SHARPNESS = 0.6  # of the sides of lamps, by eye: Cycles' shadows are as clear as CLEVR's then
BACKDROP = 0.36  # linear light of the wall behind objects without a ground
CLEVR_MATERIALS = {True: ("MyMetal", "MyMetal.blend"), False: ("Rubber", "Rubber.blend")}  # is metal -> group, file


def make_material(name, spec):
    """A Blender material of a scene's material: its keys color, metallic, roughness, pattern, second, repeats."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree = material.node_tree
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (*spec["color"], 1.0)
    shader.inputs["Metallic"].default_value = spec.get("metallic", 0.0)
    shader.inputs["Roughness"].default_value = spec["roughness"]
    material.diffuse_color = (*spec["color"], 1.0)
    if spec.get("pattern", "plain") != "plain":
        tree.links.new(_pattern(tree, spec), shader.inputs["Base Color"])
    return material


def _pattern(tree, spec):
    """The colour of stripes across the part's own x, or of checks, from the mesh's attribute `own`."""
    own = tree.nodes.new("ShaderNodeAttribute")
    own.attribute_name = "own"
    axes = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(own.outputs["Vector"], axes.inputs[0])
    total = None
    for axis in "X" if spec["pattern"] == "stripes" else "XYZ":
        shifted = _math(tree, "ADD", axes.outputs[axis], 1.001)
        step = _math(tree, "FLOOR", _math(tree, "MULTIPLY", shifted, spec["repeats"]), 0.0)
        total = step if total is None else _math(tree, "ADD", total, step)
    mix = tree.nodes.new("ShaderNodeMix")
    mix.data_type = "RGBA"
    colors = [socket for socket in mix.inputs if socket.type == "RGBA"]
    colors[0].default_value, colors[1].default_value = (*spec["color"], 1.0), (*spec["second"], 1.0)
    tree.links.new(_math(tree, "FLOORED_MODULO", total, 2.0), mix.inputs[0])
    return next(socket for socket in mix.outputs if socket.type == "RGBA")


def _math(tree, operation, value, other):
    node = tree.nodes.new("ShaderNodeMath")
    node.operation = operation
    tree.links.new(value, node.inputs[0])
    if isinstance(other, float):
        node.inputs[1].default_value = other
    else:
        tree.links.new(other, node.inputs[1])
    return node.outputs[0]


def make_light(spec):
    """A square lamp, or a point for size 0, whose light at the origin is what the scene says.

    A white surface that scatters evenly shows E / pi for an irradiance E. A square of P watts gives P / (pi d^2) at a
    distance d in front of it, a point P / (4 pi d^2).
    """
    squared = Vector(spec["position"]).length_squared
    if spec["size"] > 0:
        light = bpy.data.lights.new(spec["name"], "AREA")
        light.shape, light.size = "SQUARE", LAMP_SHARPNESS * spec["size"]
        light.energy = spec["strength"] * math.pi**2 * squared
    else:
        light = bpy.data.lights.new(spec["name"], "POINT")
        light.shadow_soft_size = 0.0
        light.energy = spec["strength"] * 4 * math.pi**2 * squared
    light.color = spec["color"]
    return light


def light_world(world, ambient, is_backdrop):
    """Even light from everywhere. is_backdrop: the camera sees a plain wall where there is no object."""
    world.use_nodes = True
    tree = world.node_tree
    background = next(node for node in tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (1.0, 1.0, 1.0, 1.0)
    background.inputs["Strength"].default_value = AMBIENT_GAIN * ambient
    for node in [node for node in tree.nodes if node.type in ("MATH", "LIGHT_PATH")]:
        tree.nodes.remove(node)  # of the scene before
    if is_backdrop:
        path = tree.nodes.new("ShaderNodeLightPath")
        more = _math(tree, "MULTIPLY", path.outputs["Is Camera Ray"], BACKDROP - AMBIENT_GAIN * ambient)
        tree.links.new(_math(tree, "ADD", more, AMBIENT_GAIN * ambient), background.inputs["Strength"])


def set_clevr_material(one, spec, is_metal, assets):
    """The official material of CLEVR: a node group with the colour as its input."""
    group_name, file = CLEVR_MATERIALS[is_metal]
    if group_name not in bpy.data.node_groups:
        with bpy.data.libraries.load(os.path.join(assets, "materials", file)) as (_, wanted):
            wanted.node_groups = [group_name]
    material = bpy.data.materials.new(one.name)
    material.use_nodes = True
    tree = material.node_tree
    group = tree.nodes.new("ShaderNodeGroup")
    group.node_tree = bpy.data.node_groups[group_name]
    group.inputs["Color"].default_value = (*spec["color"], 1.0)
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    tree.links.new(group.outputs["Shader"], output.inputs["Surface"])
    one.data.materials.clear()
    one.data.materials.append(material)
