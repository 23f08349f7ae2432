"""Meshes: the four solids, and those in files. Standard library and bpy alone; see worker.py."""

import math
import os

import bmesh
import bpy
from mathutils import Matrix

ROUND_STEPS = 64  # around a circle
BEVEL_STEPS = 5
SHARP_RAD = math.radians(32)  # edges with a larger angle stay edges when shaded smooth
MOST_FILES = 24  # that stay loaded
CLEVR_SHAPES = {"cube": "SmoothCube_v2", "sphere": "Sphere", "cylinder": "SmoothCylinder"}

_files: dict = {}  # path -> meshes, with a fake user so that they stay
_solids: dict = {}  # (kind, bevel) -> mesh, likewise


def part_meshes(part, name):
    """New meshes for a part, in the frame of its object."""
    # A matrix with shear would lose it as the matrix of an object, so it goes into the points.
    local = Matrix(part["axes"]).to_4x4()
    local.translation = part["center"]
    if part["kind"] == "file":
        meshes = [mesh.copy() for mesh in _file_meshes(part["file"])]
    else:
        meshes = [_solid_mesh(part["kind"], part["bevel"]).copy()]
    for mesh in meshes:
        mesh.name, mesh.use_fake_user = name, False
        mesh.transform(local)
        if local.determinant() < 0:
            mesh.flip_normals()
    return meshes


def _solid_mesh(kind, bevel):
    if (kind, bevel) not in _solids:
        _solids[kind, bevel] = _make_solid(kind, bevel)
        _solids[kind, bevel].use_fake_user = True
    return _solids[kind, bevel]


def _make_solid(kind, bevel):
    shape = bmesh.new()
    if kind == "sphere":
        bmesh.ops.create_uvsphere(shape, u_segments=ROUND_STEPS, v_segments=ROUND_STEPS // 2, radius=1.0)
    elif kind == "cube":
        bmesh.ops.create_cube(shape, size=2.0)
    else:
        tip = 0.0 if kind == "cone" else 1.0
        bmesh.ops.create_cone(shape, cap_ends=True, segments=ROUND_STEPS, radius1=1.0, radius2=tip, depth=2.0)
    if bevel > 0 and kind in ("cube", "cylinder"):
        rims = [edge for edge in shape.edges if edge.calc_face_angle(0.0) > SHARP_RAD]
        bmesh.ops.bevel(
            shape, geom=rims, offset=bevel, offset_type="OFFSET", segments=BEVEL_STEPS, profile=0.5, affect="EDGES"
        )
    mesh = bpy.data.meshes.new(kind)
    shape.to_mesh(mesh)
    shape.free()
    _keep_own_points(mesh)
    mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
    mesh.set_sharp_from_angle(angle=SHARP_RAD)
    return mesh


def _keep_own_points(mesh):
    """The points as they are now as an attribute: patterns are in the part's own frame."""
    own = mesh.attributes.new("own", "FLOAT_VECTOR", "POINT")
    own.data.foreach_set("vector", [number for vertex in mesh.vertices for number in vertex.co])


def import_file(path):
    """Adds what a .glb, .gltf, .obj or .blend holds to the scene; returns the new objects."""
    before = set(bpy.data.objects)
    ending = os.path.splitext(path)[1].lower()
    if ending in (".glb", ".gltf"):
        bpy.ops.import_scene.gltf(filepath=path)
    elif ending == ".obj":
        bpy.ops.wm.obj_import(filepath=path)  # y up, as in glTF
    elif ending == ".blend":
        with bpy.data.libraries.load(path) as (there, wanted):
            wanted.objects = list(there.objects)
        for one in wanted.objects:
            bpy.context.scene.collection.objects.link(one)
    else:
        raise ValueError(f"{path}: expected a .glb, .gltf, .obj or .blend file")
    return [one for one in bpy.data.objects if one not in before]


def _file_meshes(path):
    """The meshes of a file, in its own coordinates; kept, as reading takes seconds for large ones."""
    if path not in _files:
        while len(_files) >= MOST_FILES:
            for mesh in _files.pop(next(iter(_files))):
                mesh.use_fake_user = False
        added = import_file(path)
        bpy.context.view_layer.update()
        meshes = []
        for one in added:
            if one.type == "MESH":
                mesh = bpy.data.meshes.new_from_object(one.evaluated_get(bpy.context.evaluated_depsgraph_get()))
                mesh.transform(one.matrix_world)
                mesh.use_fake_user = True
                _keep_own_points(mesh)
                meshes.append(mesh)
        for one in added:
            bpy.data.objects.remove(one)
        if not meshes:
            raise ValueError(f"{path}: holds no mesh")
        _files[path] = meshes
    return _files[path]


def forget():
    """After another file was opened: what was loaded is gone with the old one."""
    _files.clear()
    _solids.clear()


def load_clevr(words, assets):
    """(object, whether it is metal) from CLEVR's own shapes, or None for words that CLEVR does not have."""
    name = CLEVR_SHAPES.get(words.get("shape", ""))
    if name is None or words.get("material") not in ("metal", "rubber"):
        return None
    with bpy.data.libraries.load(os.path.join(assets, "shapes", name + ".blend")) as (_, wanted):
        wanted.objects = [name]
    one = wanted.objects[0]
    bpy.context.scene.collection.objects.link(one)
    return one, words["material"] == "metal"
