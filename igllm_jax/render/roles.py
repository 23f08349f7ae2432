"""What an object's attributes mean to a renderer: the one module of the room that knows how a language says it."""

from dataclasses import dataclass, field

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.spec import Vector
from igllm_jax.scene.kinds import Word
from igllm_jax.scene.language import Language
from igllm_jax.scene.scene import Object, Predicted

Thing = Object | Predicted  # what a label or a predicted line says of one object


@dataclass(frozen=True)
class Roles:
    """An object as a renderer needs it; None is what is not said.

    location: scene units. rotation: matrix [3, 3], the identity where it is not said. words: every word that is said.
    """

    size: str | None = None
    color: str | None = None
    material: str | None = None
    shape: str | None = None
    location: Vector | None = None
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    words: tuple[tuple[str, str], ...] = ()


def roles_of(thing: Thing, language: Language, *, rotation_rep: str, rotation_unit: str) -> Roles:
    """The roles that an object's attributes play.

    rotation_rep: how a prediction's numbers are meant. rotation_unit: of labels that come in either, "deg" or "rad".
    Raises: UserError for a representation that the language does not have.
    """
    words = words_of(thing, language)
    look = {role: words.get(role) for role in ("size", "color", "material", "shape")}
    rotation = rotation_matrix(thing, language, rotation_rep=rotation_rep, rotation_unit=rotation_unit)
    return Roles(**look, location=location_of(thing, language), rotation=rotation, words=tuple(words.items()))


def check_renderable(language: Language) -> None:
    """Raises: UserError for a language whose scenes are not of three dimensions."""
    locations = [function.by_role["location"] for function in language.functions if "location" in function.by_role]
    if not any(len(attribute.kind.numbers(None)) == 3 for attribute in locations):
        raise UserError(
            f"task {language.name} has no scenes to render: none of its functions has a location of three numbers "
            "(of twod, igllm_jax.data.images.draw_disc(x, y) draws the disc)"
        )


def location_of(thing: Thing, language: Language) -> Vector | None:
    """Where an object is, in scene units; None where it does not say, or not in three numbers."""
    numbers = language.value(thing, "location")
    if not isinstance(numbers, tuple) or len(numbers) != 3:
        return None
    x, y, z = numbers
    return (float(x), float(y), float(z))


def pixel_of_label(thing: Thing, language: Language) -> Vector | None:
    """`pixel_coords` of a label's object: x, y in pixels and the depth."""
    numbers = language.value(thing, "pixel")
    if not isinstance(numbers, tuple) or len(numbers) != 3:
        return None
    x, y, depth = numbers
    return (float(x), float(y), float(depth))


def words_of(thing: Thing, language: Language) -> dict[str, str]:
    """Every word that is said of an object: role, or name of an attribute without one -> word."""
    return {
        attribute.role or attribute.name: str(thing[attribute.name])
        for attribute in language.by_name[thing.function].attributes
        if isinstance(attribute.kind, Word) and attribute.name in thing
    }


def default_rotation_rep(language: Language) -> str:
    """How rotations are read where nothing says it."""
    return language.rotation_reps[0]


def must_say_rotation_rep(language: Language) -> bool:
    """Whether predictions have to say how rotations are written: the language has several ways."""
    return "" not in language.rotation_reps


def rotation_matrix(thing: Thing, language: Language, *, rotation_rep: str, rotation_unit: str) -> np.ndarray:
    """How an object is turned, as a rotation matrix [3, 3]; the identity where it does not say. See `roles_of`."""
    settings = language.settings(rotation_rep, rotation_unit)
    attribute = language.by_name[thing.function].by_role.get("rotation")
    if attribute is None or attribute.name not in thing:
        return np.eye(3)
    kind, value = attribute.kind, thing[attribute.name]
    if isinstance(thing, Predicted):
        return kind.said_matrix(value, thing, settings)  # type: ignore[attr-defined]
    return kind.label_matrix(value, settings)  # type: ignore[attr-defined]
