"""Binary glTF, for web viewers and most 3D programs. Written by trimesh (`pip install igllm_jax[render]`).

glTF has y up, so everything hangs on one node that turns z up to y up. An object is a node with its transform; its
parts are meshes below it. Lights are not written (viewers bring their own), of a pattern only the first colour is.
"""

import math
from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera
from igllm_jax.render.export.transforms import camera_matrix, object_matrix, part_matrix
from igllm_jax.render.spec import FILE, Color, Ground, Material, Part, SceneSpec

ROOT, GROUND, CAMERA = "z_up", "ground", "camera"
Z_UP_TO_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
GROUND_REACH = 20.0  # half-side in scene units
SMOOTH_RAD = math.radians(30)  # faces that meet at less than this are shaded as one surface


def glb(spec: SceneSpec) -> bytes:
    """The scene as a .glb file. Raises: UserError where trimesh is not installed, or can't read a part's file."""
    trimesh = _trimesh()
    scene = trimesh.Scene(base_frame="world")
    scene.graph.update(frame_from="world", frame_to=ROOT, matrix=Z_UP_TO_Y_UP)
    if spec.ground is not None:
        _add(scene, _ground_mesh(trimesh, spec.ground), GROUND, ROOT)
    for thing in spec.objects:
        scene.graph.update(frame_from=ROOT, frame_to=thing.name, matrix=object_matrix(thing))
        for number, part in enumerate(thing.parts):
            _add(scene, _part_mesh(trimesh, part), f"{thing.name}.{part.role}_{number}", thing.name)
    _set_camera(trimesh, scene, spec.camera)
    return scene.export(file_type="glb")


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError:
        raise UserError("--export glb needs trimesh: pip install 'igllm_jax[render]'") from None
    return trimesh


def _add(scene: Any, mesh: Any, name: str, parent: str) -> None:
    scene.add_geometry(mesh, node_name=name, geom_name=name, parent_node_name=parent)


def _set_camera(trimesh: Any, scene: Any, camera: Camera) -> None:
    fov_deg = [2 * math.degrees(math.atan(side / 2 / camera.focal_pixels)) for side in (camera.width, camera.height)]
    scene.camera = trimesh.scene.Camera(name=CAMERA, resolution=(camera.width, camera.height), fov=fov_deg)
    scene.graph.update(frame_from="world", frame_to=CAMERA, matrix=Z_UP_TO_Y_UP @ camera_matrix(camera))


def _ground_mesh(trimesh: Any, ground: Ground) -> Any:
    corners = [[x * GROUND_REACH, y * GROUND_REACH, 0.0] for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    mesh = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    return _painted(trimesh, mesh, ground.color, 0.0, ground.roughness)


def _part_mesh(trimesh: Any, part: Part) -> Any:
    """The part's mesh in its object's frame: glTF's nodes cannot shear, vertices can."""
    mesh = _unit_mesh(trimesh, part)
    mesh.apply_transform(part_matrix(part))
    if part.kind == FILE:  # has its own look
        return mesh
    mesh = mesh if part.kind == "sphere" else trimesh.graph.smooth_shade(mesh, angle=SMOOTH_RAD)
    mesh.vertex_normals  # noqa: B018  (computed here, they are written)
    material: Material = part.material
    return _painted(trimesh, mesh, material.color, material.metallic, material.roughness)


def _unit_mesh(trimesh: Any, part: Part) -> Any:
    create = trimesh.creation
    if part.kind == "sphere":
        return create.icosphere(subdivisions=3, radius=1.0)
    if part.kind == "cube":
        return create.box(extents=(2.0, 2.0, 2.0))
    if part.kind == "cylinder":
        return create.cylinder(radius=1.0, height=2.0, sections=48)
    if part.kind == "cone":
        mesh = create.cone(radius=1.0, height=2.0, sections=48)
        mesh.apply_translation((0.0, 0.0, -1.0))
        return mesh
    try:
        return trimesh.load(part.file, force="mesh")
    except Exception as error:  # trimesh raises many kinds on broken and missing files
        raise UserError(f"{part.file}: no mesh can be read from it ({error})") from None


def _painted(trimesh: Any, mesh: Any, color: Color, metallic: float, roughness: float) -> Any:
    look = trimesh.visual.material.PBRMaterial(
        baseColorFactor=[*(round(255 * channel) for channel in color), 255],
        metallicFactor=metallic,
        roughnessFactor=roughness,
    )
    mesh.visual = trimesh.visual.TextureVisuals(material=look)
    return mesh
