"""What else a scene's code might say: one word changed, one object more or less."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.refine.problems import STANDING
from igllm_jax.render.camera import Camera
from igllm_jax.render.materials import COLORS, FINISHES
from igllm_jax.render.objects import SIZES, SOLIDS
from igllm_jax.scene.kinds import Word
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Function
from igllm_jax.scene.scene import Object

LOOKS = {"size": tuple(SIZES), "color": tuple(COLORS), "material": tuple(FINISHES), "shape": SOLIDS}
YAWS_DEG = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0)  # that a new cube is tried with
NEAREST = 0.7  # of the sum of two half-widths: solids that are nearer stand within each other
ROUNDEST = "sphere"  # what an object is first taken for
Things = tuple[Object, ...]


def check_movable(language: Language) -> None:
    """Raises: UserError for languages whose words do not show, or whose objects do not stand on the ground."""
    if language.name not in STANDING:
        raise UserError(
            f"task {language.name}: --moves tries words of objects that stand on the ground, which only the tasks "
            f"{', '.join(STANDING)} have; leave it out"
        )


def _words(function: Function) -> dict[str, tuple[str, tuple[str, ...]]]:
    """role -> the attribute's name, and the words that it may say and that show."""
    found = {}
    for role, words in LOOKS.items():
        attribute = function.by_role.get(role)
        if attribute is not None and isinstance(attribute.kind, Word):
            own = attribute.kind.words
            found[role] = attribute.name, tuple(word for word in words if own is None or word in own)
    return found


def with_word(thing: Object, role: str, word: str, language: Language, camera: Camera) -> list[Object]:
    """The object with that word: standing on the ground, at its point of the picture; a cube in each of YAWS_DEG."""
    function = language.by_name[thing.function]
    thing = thing.replace(**{function.by_role[role].name: word})
    location = function.by_role["location"].name
    if role == "size" and location in thing:
        thing = thing.replace(**{location: at_height(thing[location], SIZES[word], camera)})  # type: ignore[arg-type]
    if role != "shape" or "rotation" not in function.by_role:
        return [thing]
    rotation = function.by_role["rotation"].name
    if word != "cube":
        return [thing.replace(**{rotation: None})]
    return [thing.replace(**{rotation: (yaw,)}) for yaw in YAWS_DEG]


def at_height(location: tuple[float, ...], height: float, camera: Camera) -> tuple[float, float, float]:
    """The point of that height which the camera sees where it sees `location`."""
    position = np.array(camera.position)
    ray = np.asarray(location, np.float64) - position
    x, y, z = position + ray * (height - position[2]) / min(ray[2], -1e-3)
    return float(x), float(y), float(z)


def other_words(thing: Object, language: Language, camera: Camera) -> Iterator[Object]:
    """The object with one word changed."""
    function = language.by_name[thing.function]
    for role, (name, words) in _words(function).items():
        for word in words:
            if name in thing and thing[name] != word:
                yield from with_word(thing, role, word, language, camera)


def object_at(x: float, y: float, size: str, color: str, language: Language, camera: Camera) -> Object:
    """A rubber ball at a point of the picture, in pixels; what else it may be, `other_words` says."""
    function = language.functions[0]
    words = _words(function)
    said = {"size": size, "color": color, "material": "rubber", "shape": ROUNDEST}
    values = {words[role][0]: word for role, word in said.items() if role in words}
    dx, dy, dz = (float(component) for component in camera.rays(np.array(x), np.array(y)))
    location = at_height(tuple(np.add(camera.position, (dx, dy, dz))), SIZES[size], camera)
    return Object(function.name, **values, **{function.by_role["location"].name: location})


def stands_apart(things: Sequence[Object], number: int, language: Language) -> bool:
    """Whether one of the objects stands within none of the others, as one does that has no location."""
    roles = language.functions[0].by_role
    location, size = roles["location"].name, roles["size"].name

    def half_width(thing: Object) -> float:
        return SIZES.get(str(thing.get(size)), SIZES["small"])

    own = things[number]
    others = [thing for index, thing in enumerate(things) if index != number and location in thing]
    return location not in own or all(
        math.dist(own[location][:2], thing[location][:2])  # type: ignore[index]
        >= NEAREST * (half_width(own) + half_width(thing))
        for thing in others
    )


def inserted(things: Sequence[Object], new: Object, language: Language, camera: Camera) -> Things:
    """The objects and a new one, from left to right in the picture where the others are."""
    name = language.functions[0].by_role["location"].name

    def column(thing: Object) -> float:
        return float(camera.project(np.array(thing[name]))[0, 0]) if name in thing else np.inf

    number = sum(column(thing) < column(new) for thing in things)
    return (*things[:number], new, *things[number:])
