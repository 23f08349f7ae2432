"""A scene as data: everything that a renderer needs to draw it, and nothing that only one renderer knows.

Axes: right-handed, z up, the ground is z = 0; one scene unit is CLEVR's (a large object is 1.4 units wide). A rotation
is a matrix that takes points of the object's own frame to the scene: `location + scale * rotation @ point`. Colours are
linear light, 0 to 1, red, green and blue, as Blender's shaders take them. JSON holds every number exactly, one scene a
line; files that do not say a key that has a default here get that default.
"""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]  # rows
Color = Vector  # linear light
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FILE = "file"  # the kind of a part whose mesh lies in a file
FARTHEST = 1e6  # scene units; what a camera beside the origin cannot see, and float32 cannot tell apart
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # of an image that is asked for, in pixels


@dataclass(frozen=True)
class Light:
    """A square lamp that faces the origin.

    strength: the light that a surface at the origin gets from it when it faces the lamp, where 1 shows a white
    surface as white. size: side of the square, scene units (0: a point); larger is softer.
    """

    name: str
    position: Vector
    strength: float
    size: float = 1.8
    color: Color = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Ground:
    """The plane z = 0, without an end."""

    color: Color
    roughness: float = 0.9


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    metallic: 0 (rubber, plastic, paint) to 1 (mirrors in its own colour). roughness: 0 (polished) to 1 (chalk).
    pattern: plain, stripes (across the part's own x) or checks: `repeats` of them per unit of the part's own frame,
    by turns in `color` and `second`.
    """

    color: Color
    metallic: float = 0.0
    roughness: float = 0.7
    pattern: str = "plain"
    second: Color = (0.0, 0.0, 0.0)
    repeats: float = 2.0


@dataclass(frozen=True)
class Part:
    """A piece of an object: `center + axes @ p` is the point of the object's frame for the part's own point p.

    kind: sphere (|p| <= 1), cube ([-1, 1]^3), cylinder (upright, radius 1, z from -1 to 1), cone (radius 1 at z = -1,
    tip at z = 1), or file: the mesh in `file` (.glb, .obj, .blend) as it stands there, z up.
    axes: rows of a 3 x 3 matrix, which may stretch and shear. bevel: how wide the edges of a cube or cylinder are
    rounded, own-frame units. role: what the part is of its object (`body`, `glass`), the name of its material.
    """

    kind: str
    material: Material
    center: Vector = (0.0, 0.0, 0.0)
    axes: Matrix = IDENTITY
    bevel: float = 0.0
    file: str | None = None
    role: str = "body"


@dataclass(frozen=True)
class ObjectSpec:
    """One object. index: its number in the label or the code, from 0; in id masks it is `index + 1`, 0 is no object.

    name: unlike that of any other object, letters, digits, `_` and `-` only. words: what label or code say of it, as
    pairs such as ("shape", "cube"); from predictions they may be anything, so they are data only, never file names.
    """

    index: int
    name: str
    location: Vector
    parts: tuple[Part, ...]
    rotation: Matrix = IDENTITY
    scale: float = 1.0
    words: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class SceneSpec:
    """A scene with its camera and light.

    ground: None for a plain backdrop. ambient: the light from everywhere, in the unit of `Light.strength`.
    label: the scene's entry of a label file as far as it follows from the scene; {} for predictions.
    """

    camera: Camera
    lights: tuple[Light, ...]
    ground: Ground | None
    objects: tuple[ObjectSpec, ...]
    ambient: float = 0.26
    label: Mapping[str, Any] = field(default_factory=dict, hash=False)


# class, field -> least and greatest value of its numbers: outside, float32 has no picture for them
RANGES: dict[tuple[type, str], tuple[float, float]] = {
    (Camera, "position"): (-FARTHEST, FARTHEST),
    (Camera, "look_at"): (-FARTHEST, FARTHEST),
    (Camera, "width"): (1, LARGEST_SIDE),
    (Camera, "height"): (1, LARGEST_SIDE),
    (Camera, "lens_mm"): (1e-3, FARTHEST),
    (Camera, "sensor_mm"): (1e-3, FARTHEST),
    (Light, "position"): (-FARTHEST, FARTHEST),
    (Light, "strength"): (0, FARTHEST),
    (Light, "size"): (0, FARTHEST),
    (Light, "color"): (0, 1),
    (Ground, "color"): (0, 1),
    (Ground, "roughness"): (0, 1),
    (Material, "color"): (0, 1),
    (Material, "metallic"): (0, 1),
    (Material, "roughness"): (0, 1),
    (Material, "second"): (0, 1),
    (Material, "repeats"): (0, FARTHEST),
    (Part, "center"): (-FARTHEST, FARTHEST),
    (Part, "axes"): (-FARTHEST, FARTHEST),
    (Part, "bevel"): (0, FARTHEST),
    (ObjectSpec, "location"): (-FARTHEST, FARTHEST),
    (ObjectSpec, "rotation"): (-1.001, 1.001),  # a matrix whose numbers were rounded
    (ObjectSpec, "scale"): (1e-6, FARTHEST),
    (SceneSpec, "ambient"): (0, FARTHEST),
}


def to_json(spec: SceneSpec) -> str:
    """One line of JSON; `from_json` gives the very same scene back."""
    return json.dumps(dataclasses.asdict(spec), allow_nan=False, separators=(",", ":"))


def from_json(text: str) -> SceneSpec:
    """The scene of `to_json`. Raises: UserError naming the key that is missing, unknown or has a wrong value."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"scene: not JSON ({error}); is the line complete?") from None
    return from_value(SceneSpec, content, "scene")


def from_value(kind: Any, value: Any, where: str) -> Any:
    """`value` as JSON has it, as the type `kind`: one of this module's dataclasses or of their fields' types.

    where: what messages call it. Raises: UserError.
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        return None if value is None else from_value(options[0], value, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # no NaN, no 10**400
        return float(value)
    if kind in (int, str) and type(value) is kind:
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: from_value(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    raise UserError(f"{where}: expected {getattr(kind, '__name__', kind)}, not {repr(value)[:60]}")


def _tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: expected a list, not {repr(value)[:60]}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise UserError(f"{where}: expected {len(kinds)} entries, not {len(value)}")
    return tuple(from_value(kind, one, f"{where}[{i}]") for i, (kind, one) in enumerate(zip(kinds, value, strict=True)))


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object with keys, not {repr(value)[:60]}")
    fields = {one.name: one for one in dataclasses.fields(kind) if one.init}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise UserError(f"{where}: the key {unknown[0]!r} is unknown; expected some of {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    found = {}
    for name, one in fields.items():
        if name in value:
            found[name] = from_value(hints[name], value[name], f"{where}.{name}")
            _check_range(found[name], RANGES.get((kind, name)), f"{where}.{name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: the key {name!r} is missing")
    return kind(**found)


def _check_range(value: Any, limits: tuple[float, float] | None, where: str) -> None:
    if limits is None:
        return
    low, high = limits
    for number in np.ravel(value):
        if not low <= number <= high:
            raise UserError(f"{where}: expected {low:g} to {high:g}, not {number:g}")


def vector(numbers: Any) -> Vector:
    """Three numbers as a tuple of floats."""
    x, y, z = (float(number) for number in np.asarray(numbers))
    return (x, y, z)


def matrix(rows: Any) -> Matrix:
    """Three rows of three numbers as tuples of floats."""
    first, second, third = (vector(row) for row in np.asarray(rows))
    return (first, second, third)
