"""USD as text (.usda), for Blender, Houdini, Omniverse and usdview: z up, one unit a metre, shapes as USD's own.

An object is an Xform with its transform; its parts are below it. Of a pattern only the first colour is written.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera
from igllm_jax.render.export.transforms import camera_matrix, facing_matrix, object_matrix, part_matrix
from igllm_jax.render.spec import FILE, Ground, Light, Material, ObjectSpec, Part, SceneSpec

HEADER = '#usda 1.0\n(\n    defaultPrim = "Scene"\n    metersPerUnit = 1\n    upAxis = "Z"\n)\n\n'
SHAPES = {  # kind of a part -> USD's schema, and its attributes for our unit shapes
    "sphere": ("Sphere", ("double radius = 1",)),
    "cube": ("Cube", ("double size = 2",)),
    "cylinder": ("Cylinder", ("double radius = 1", "double height = 2", 'uniform token axis = "Z"')),
    "cone": ("Cone", ("double radius = 1", "double height = 2", 'uniform token axis = "Z"')),
}
GROUND_REACH = 20.0  # half-side in scene units

Lines = list[str]


def usda(spec: SceneSpec) -> bytes:
    """The scene as a .usda file. Raises: UserError for parts whose mesh lies in a file: USD refers to USD only."""
    materials: dict[Material, str] = {}
    body: Lines = [*_camera(spec.camera)]
    for light in spec.lights:
        body += _light(light)
    if spec.ground is not None:
        body += _ground(spec.ground)
    for thing in spec.objects:
        body += _object(thing, materials)
    looks = [line for material, name in materials.items() for line in _material(material, name)]
    body += _prim("Scope", "Materials", looks)
    return (HEADER + "\n".join(_prim("Xform", "Scene", body)) + "\n").encode("ascii")


def identifier(name: str) -> str:
    """A name as USD allows it: letters, digits and `_`, no digit first."""
    return re.sub(r"^(?=[0-9])", "_", re.sub(r"[^A-Za-z0-9_]", "_", name))


def _prim(schema: str, name: str, body: Iterable[str], metadata: str = "") -> Lines:
    return [f'def {schema} "{name}"{metadata}', "{", *(f"    {line}" if line else line for line in body), "}"]


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(repr(float(value)) for value in values) + ")"


def _transform(matrix: np.ndarray) -> Lines:
    """USD multiplies row vectors from the left, so its matrices are ours transposed."""
    rows = ", ".join(_numbers(row) for row in matrix.T)
    return [f"matrix4d xformOp:transform = ({rows})", 'uniform token[] xformOpOrder = ["xformOp:transform"]']


def _camera(camera: Camera) -> Lines:
    longer = max(camera.width, camera.height)
    body = [
        f"float focalLength = {camera.lens_mm!r}",
        f"float horizontalAperture = {camera.sensor_mm * camera.width / longer!r}",
        f"float verticalAperture = {camera.sensor_mm * camera.height / longer!r}",
        "float2 clippingRange = (0.1, 1000)",
    ]
    return _prim("Camera", "Camera", [*body, *_transform(camera_matrix(camera))])


def _light(light: Light) -> Lines:
    side = max(light.size, 0.01)
    distance = float(np.linalg.norm(light.position))
    body = [
        f"float inputs:width = {side!r}",
        f"float inputs:height = {side!r}",
        f"color3f inputs:color = {_numbers(light.color)}",
        # Radiance of the lamp so that a white surface at the origin, facing it, sends out `strength`.
        f"float inputs:intensity = {float(light.strength * np.pi * distance**2 / side**2)!r}",
    ]
    return _prim("RectLight", identifier(f"light_{light.name}"), [*body, *_transform(facing_matrix(light.position))])


def _ground(ground: Ground) -> Lines:
    corners = [(x * GROUND_REACH, y * GROUND_REACH, 0.0) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    body = [
        "int[] faceVertexCounts = [4]",
        "int[] faceVertexIndices = [0, 1, 2, 3]",
        f"point3f[] points = [{', '.join(_numbers(corner) for corner in corners)}]",
        f"color3f[] primvars:displayColor = [{_numbers(ground.color)}]",
    ]
    return _prim("Mesh", "Ground", body)


def _object(thing: ObjectSpec, materials: dict[Material, str]) -> Lines:
    body: Lines = _transform(object_matrix(thing))
    for number, part in enumerate(thing.parts):
        body += _part(part, identifier(f"{part.role}_{number}"), materials)
    return _prim("Xform", identifier(thing.name), body)


def _part(part: Part, name: str, materials: dict[Material, str]) -> Lines:
    if part.kind == FILE:
        raise UserError(f"{part.file}: --export usda writes no meshes from files; choose --export glb")
    schema, attributes = SHAPES[part.kind]
    look = materials.setdefault(part.material, f"material_{len(materials)}")
    body: Sequence[str] = [
        *attributes,
        f"color3f[] primvars:displayColor = [{_numbers(part.material.color)}]",
        f"rel material:binding = </Scene/Materials/{look}>",
        *_transform(part_matrix(part)),
    ]
    return _prim(schema, name, body, ' (\n    prepend apiSchemas = ["MaterialBindingAPI"]\n)')


def _material(material: Material, name: str) -> Lines:
    surface = _prim(
        "Shader",
        "Surface",
        [
            'uniform token info:id = "UsdPreviewSurface"',
            f"color3f inputs:diffuseColor = {_numbers(material.color)}",
            f"float inputs:metallic = {material.metallic!r}",
            f"float inputs:roughness = {material.roughness!r}",
            "token outputs:surface",
        ],
    )
    connection = f"token outputs:surface.connect = </Scene/Materials/{name}/Surface.outputs:surface>"
    return _prim("Material", name, [connection, *surface])
