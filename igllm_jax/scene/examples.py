"""Made-up scenes of any language: to show what a file means, to test it, and to draw small data sets from."""

from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.scene.kind import Value
from igllm_jax.scene.language import Language
from igllm_jax.scene.language_parts import Function
from igllm_jax.scene.scene import Object, Scene, indices_by_function, label_entry


def example_scene(
    language: Language,
    rng: np.random.Generator,
    *,
    calls: int,
    image: str = "example.png",
    least: float = -1.0,
    most: float = 1.0,
) -> Scene:
    """A scene of `calls` calls, and what they refer to. Every value is one that a label may have.

    Each function comes once before any comes twice. least, most: of numbers whose range the language leaves open.
    Raises: UserError where a call can't be made up, as what it requires refers to itself.
    """
    objects: list[Object] = []
    order = [language.functions[int(i)] for i in rng.permutation(len(language.functions))]
    for number in range(calls):
        _add_call(order[number % len(order)], objects, language, rng, (least, most), ())
    return Scene(tuple(objects), image)


def _add_call(
    function: Function,
    objects: list[Object],
    language: Language,
    rng: np.random.Generator,
    open_range: tuple[float, float],
    within: tuple[str, ...],
) -> None:
    """Appends a call of a function; before it calls that it has to refer to, where there are none yet."""
    values: dict[str, Value] = {}
    for attribute in function.attributes:
        kind = attribute.kind
        if not kind.refers_to:
            values[attribute.name] = kind.example(rng, *open_range)
            continue
        count = sum(item.function == kind.refers_to for item in objects)
        if not count and attribute.is_required:
            if kind.refers_to in (*within, function.name):
                raise UserError(
                    f"language {language.name}: {attribute.name} of {function.name} requires a {kind.refers_to} before "
                    "it, so that no call can be the first; make it optional"
                )
            target = language.by_name[kind.refers_to]
            _add_call(target, objects, language, rng, open_range, (*within, function.name))
            count = 1
        if count:
            values[attribute.name] = int(rng.integers(count))
    made = Object.of(function.name, values)
    unsaid = [a.name for a in function.attributes if a.name in made and not a.may_be_said(made)]
    objects.append(made.replace(**dict.fromkeys(unsaid)) if unsaid else made)


def scene_label(scene: Scene, language: Language) -> dict[str, Any]:
    """The entry of a label file that describes a scene; what labels refer to by a key gets its number as that key."""
    entries = [label_entry(item, language) for item in scene.objects]
    of_function = indices_by_function(scene.objects)
    for item, entry in zip(scene.objects, entries, strict=True):
        for attribute in language.references.get(item.function, ()):
            kind = attribute.kind
            if kind.refers_by and attribute.name in item:
                number = item[attribute.name]
                target = entries[of_function[kind.refers_to][number]]
                entry[attribute.label] = target.setdefault(kind.refers_by, number)
    return {language.image_key: scene.image, language.calls_key: entries}
