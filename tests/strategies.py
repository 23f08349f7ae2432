"""Random scenes of every shipped language, for property tests."""

import string

import numpy as np
from hypothesis import strategies as st

from igllm_jax.scene.language import SHIPPED, find_language
from igllm_jax.scene.scene import Object, Scene

TASK_REPS = [(name, rep) for name in SHIPPED for rep in find_language(name).rotation_reps]
_CLEVR = find_language("clevr").functions[0].by_name
SYNONYMS = {name: _CLEVR[name].kind.synonyms() for name in ("size", "color", "material", "shape")}
NOT_LABEL_WORDS = {word for groups in SYNONYMS.values() for group in groups.values() for word in group[1:]}
free_word = st.text(string.ascii_letters + string.digits + "_-() =,.", min_size=1, max_size=9)
angle = st.one_of(st.floats(-7, 7), st.sampled_from([np.pi, -np.pi, np.pi / 2, -np.pi / 2]))


@st.composite
def scenes(draw, task: str) -> Scene:
    """Up to five objects, each with any of its attributes missing, known and free words, and angles at the poles."""
    count = draw(st.integers(0, 5))
    pixels = draw(st.lists(st.floats(0, 480), min_size=count, max_size=count, unique=True))
    location = st.tuples(*[st.floats(0, 1)] * 2) if task == "twod" else st.tuples(*[st.floats(-50, 50)] * 3)
    if task == "twod":
        return Scene(tuple(Object(location=draw(location), pixel=(x, 0.0, 0.0)) for x in pixels), "i")

    def word(key: str):
        known = list(SYNONYMS[key])
        options = [st.sampled_from(known)] if known else []
        return st.none() | st.one_of(*options, free_word.filter(lambda w: w not in NOT_LABEL_WORDS))

    rotation = st.tuples(st.floats(0, 360)) if task == "clevr" else st.tuples(angle, angle, angle)
    objects = st.builds(
        Object,
        size=word("size"),
        color=word("color"),
        material=word("material"),
        shape=word("shape"),
        location=st.none() | location,
        rotation=st.none() | rotation,
    )
    return Scene(tuple(draw(objects).replace(pixel=(x, 0.0, 0.0)) for x in pixels), "i")
