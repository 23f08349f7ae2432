"""Builds a scene in Blender: `blender --python FILE.py`, or `python FILE.py [OUT.png]` where bpy is installed.

Every object carries its `index + 1` as pass index. With a path behind it (`-- OUT.png` for blender) the scene is
rendered there, with the ending .blend it is saved.
"""

# ruff: noqa: I001  (bmesh and mathutils can be found after bpy only)
import json
import math
import sys

import bpy
import bmesh
from mathutils import Matrix, Vector

SCENE = json.loads("@SCENE@")


def matrix(axes, origin, scale=1.0):
    rows = [[scale * number for number in row] + [origin[i]] for i, row in enumerate(axes)]
    return Matrix([*rows, [0.0, 0.0, 0.0, 1.0]])


def add(name, data, transform, parent=None):
    thing = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(thing)
    thing.parent = parent
    if parent is None:
        thing.matrix_world = transform
    elif data is not None:
        data.transform(transform)  # an object's own transform cannot shear, its vertices can
    return thing


def material(look):
    made = bpy.data.materials.new("material")
    made.use_nodes = True
    shader = made.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = [*look["color"], 1.0]
    shader.inputs["Metallic"].default_value = look.get("metallic", 0.0)
    shader.inputs["Roughness"].default_value = look["roughness"]
    return made


def unit_mesh(part):
    if part["kind"] == "file":
        return file_mesh(part["file"])
    shape, mesh = bmesh.new(), bpy.data.meshes.new(part["role"])
    if part["kind"] == "sphere":
        bmesh.ops.create_uvsphere(shape, u_segments=96, v_segments=48, radius=1.0)
    elif part["kind"] == "cube":
        bmesh.ops.create_cube(shape, size=2.0)
    else:
        tip = 0.0 if part["kind"] == "cone" else 1.0
        bmesh.ops.create_cone(shape, cap_ends=True, segments=96, radius1=1.0, radius2=tip, depth=2.0)
    for face in shape.faces:
        face.smooth = part["kind"] == "sphere" or (part["kind"] != "cube" and len(face.verts) < 5)
    shape.to_mesh(mesh)
    shape.free()
    return mesh


def file_mesh(path):
    before = set(bpy.data.objects)
    load = bpy.ops.wm.obj_import if path.lower().endswith(".obj") else bpy.ops.import_scene.gltf
    load(filepath=path)
    new = [thing for thing in bpy.data.objects if thing not in before]
    shape, mesh = bmesh.new(), bpy.data.meshes.new("file")
    for thing in new:
        if thing.type == "MESH":
            copy = thing.data.copy()
            copy.transform(thing.matrix_world)
            shape.from_mesh(copy)
    shape.to_mesh(mesh)
    shape.free()
    for thing in new:
        bpy.data.objects.remove(thing)
    return mesh


def build_objects():
    for entry in SCENE["objects"]:
        frame = matrix(entry["rotation"], entry["location"], entry["scale"])
        empty = add(entry["name"], None, frame)
        for key, word in entry["words"]:
            empty[key[:60]] = word
        for part in entry["parts"]:
            mesh = unit_mesh(part)
            if part["kind"] != "file":
                mesh.materials.append(material(part["material"]))
            thing = add(entry["name"] + "." + part["role"], mesh, matrix(part["axes"], part["center"]), empty)
            thing.pass_index = entry["index"] + 1
            if part["bevel"] > 0:
                bevel = thing.modifiers.new("bevel", "BEVEL")
                bevel.width, bevel.segments = part["bevel"], 4


def build_stage():
    if SCENE["ground"] is not None:
        shape, mesh = bmesh.new(), bpy.data.meshes.new("ground")
        bmesh.ops.create_grid(shape, x_segments=1, y_segments=1, size=100.0)
        shape.to_mesh(mesh)
        shape.free()
        mesh.materials.append(material(SCENE["ground"]))
        add("ground", mesh, Matrix())
    for entry in SCENE["lights"]:
        lamp = bpy.data.lights.new(entry["name"], "AREA")
        lamp.size, lamp.color = max(entry["size"], 0.01), entry["color"]
        position = Vector(entry["position"])
        # The power with which a white surface at the origin that faces the lamp sends out `strength`.
        lamp.energy = entry["strength"] * math.pi**2 * position.length_squared
        turn = position.to_track_quat("Z", "Y").to_matrix()
        add("light_" + entry["name"], lamp, matrix(turn, position))
    world = bpy.context.scene.world or bpy.data.worlds.new("world")
    bpy.context.scene.world = world
    world.use_nodes = True
    background = world.node_tree.nodes["Background"]
    background.inputs["Color"].default_value = [SCENE["ambient"]] * 3 + [1.0]


def build_camera():
    entry, scene = SCENE["camera"], bpy.context.scene
    camera = bpy.data.cameras.new("camera")
    camera.lens, camera.sensor_width, camera.sensor_fit = entry["lens_mm"], entry["sensor_mm"], "AUTO"
    position = Vector(entry["position"])
    turn = (position - Vector(entry["look_at"])).to_track_quat("Z", "Y").to_matrix()
    scene.camera = add("camera", camera, matrix(turn, position))
    scene.render.resolution_x, scene.render.resolution_y = entry["width"], entry["height"]
    scene.render.resolution_percentage = 100
    scene.render.engine, scene.cycles.samples = "CYCLES", 64
    scene.view_settings.view_transform = "Standard"


def main():
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    build_objects()
    build_stage()
    build_camera()
    after = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    out = after[0] if after and after[0].endswith((".png", ".blend")) else ""
    if out.endswith(".blend"):
        bpy.ops.wm.save_as_mainfile(filepath=out)
    elif out:
        bpy.context.scene.render.filepath = out
        bpy.ops.render.render(write_still=True)


main()
