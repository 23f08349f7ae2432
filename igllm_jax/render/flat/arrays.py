"""A scene as arrays of fixed shapes: what array code draws, one compiled program for any scene up to so many parts.

Every class here is a tuple of arrays, so namespaces that map, batch and differentiate take it as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.flat.rays import INTERSECTIONS, Array
from igllm_jax.render.spec import SceneSpec
from igllm_jax.render.world import all_world_parts

KINDS = tuple(INTERSECTIONS)  # a part's kind is its position here
PATTERNS = ("plain", "stripes", "checks")
NO_PART = -1  # the kind of a part that only fills the shape


class Namespace(NamedTuple):
    """What array code runs on. xp: NumPy, or another of its names (`jax.numpy`).

    fold: `fold(step, carry, items)` is `carry = step(carry, item)` over the first axis of all arrays of `items`.
    repeat: `repeat(step, carry, count)` is `carry = step(carry)`, so often; without derivatives. constant: its argument
    (arrays, or tuples of them), which derivatives take for a constant.
    """

    xp: Any
    fold: Callable[[Callable[[Any, Any], Any], Any, Any], Any]
    repeat: Callable[[Callable[[Any], Any], Any, int], Any]
    constant: Callable[[Any], Any]


def fold_in_python(step: Callable[[Any, Any], Any], carry: Any, items: Any) -> Any:
    """`Namespace.fold` for NumPy: a loop."""
    for row in zip(*items, strict=True):
        carry = step(carry, type(items)(*row))
    return carry


def repeat_in_python(step: Callable[[Any], Any], carry: Any, count: int) -> Any:
    """`Namespace.repeat` for NumPy: a loop."""
    for _ in range(count):
        carry = step(carry)
    return carry


NUMPY = Namespace(np, fold_in_python, repeat_in_python, lambda value: value)


class CameraArrays(NamedTuple):
    """position, look_at: float32 [3]. focal: float32, of an image that is 1 wide along its longer side."""

    position: Array
    look_at: Array
    focal: Array


class PartArrays(NamedTuple):
    """N parts: kind int32 [N], center [N, 3], inverse [N, 3, 3] (see `WorldPart`), color and second [N, 3] linear,
    metallic, repeats [N], pattern int32 [N] (of PATTERNS), owner int32 [N]: the position of the part's object."""

    kind: Array
    center: Array
    inverse: Array
    color: Array
    second: Array
    metallic: Array
    repeats: Array
    pattern: Array
    owner: Array


class LampArrays(NamedTuple):
    """L lamps: position [L, 3], strength and size [L]."""

    position: Array
    strength: Array
    size: Array


class SceneArrays(NamedTuple):
    """A scene. ids: int32 [M], the id that a mask has for each object. ground: float32 [3], the ground's colour, or the
    backdrop's where has_ground (bool) is not true."""

    camera: CameraArrays
    parts: PartArrays
    lamps: LampArrays
    ambient: Array
    ground: Array
    has_ground: Array
    ids: Array


def pack(spec: SceneSpec, *, most_parts: int, most_objects: int, backdrop: Sequence[float] = (0, 0, 0)) -> SceneArrays:
    """A scene as NumPy arrays, filled up with what is never seen.

    Raises: UserError where there are more parts or objects, or meshes from files.
    """
    found = all_world_parts(spec.objects)
    if len(found) > most_parts or len(spec.objects) > most_objects:
        raise UserError(
            f"the scene has {len(spec.objects)} objects of {len(found)} parts, and the program is for {most_objects} "
            f"objects of {most_parts} parts; make it for more"
        )
    for part in found:
        if part.kind not in KINDS:
            raise UserError(f"the renderer flat draws {', '.join(KINDS)}, not a mesh from a {part.kind}")
    camera = spec.camera
    focal = camera.lens_mm / camera.sensor_mm
    ids = [thing.index + 1 for thing in spec.objects]
    return SceneArrays(
        CameraArrays(*(np.array(x, np.float32) for x in (camera.position, camera.look_at, focal))),
        _parts(found, most_parts),
        LampArrays(*(np.array([getattr(x, key) for x in spec.lights], np.float32) for key in LampArrays._fields)),
        np.float32(spec.ambient),
        np.array(backdrop if spec.ground is None else spec.ground.color, np.float32),
        np.array(spec.ground is not None),
        np.array(ids + [0] * (most_objects - len(ids)), np.int32),
    )


def _parts(found: Sequence[Any], most_parts: int) -> PartArrays:
    rows = [
        (
            KINDS.index(part.kind),
            part.center,
            part.inverse,
            part.material.color,
            part.material.second,
            part.material.metallic,
            part.material.repeats,
            PATTERNS.index(part.material.pattern),
            part.owner,
        )
        for part in found
    ]
    empty = (NO_PART, np.zeros(3), np.eye(3), np.zeros(3), np.zeros(3), 0.0, 1.0, 0, 0)
    rows += [empty] * (most_parts - len(rows))
    is_integer = {"kind", "pattern", "owner"}
    columns = zip(PartArrays._fields, zip(*rows, strict=True), strict=True)
    return PartArrays(*(np.array(c, np.int32 if name in is_integer else np.float32) for name, c in columns))
