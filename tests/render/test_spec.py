import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.spec import (
    RANGES,
    Ground,
    Light,
    Material,
    ObjectSpec,
    Part,
    SceneSpec,
    from_json,
    matrix,
    to_json,
)

NUMBERS = st.floats(-1e6, 1e6)
VECTORS = st.tuples(NUMBERS, NUMBERS, NUMBERS)


def scene(location=(1.0, -2.0, 0.7), words=(("shape", "cube"),)) -> SceneSpec:
    part = Part("cube", Material((0.5, 0.25, 0.125), metallic=1.0), bevel=0.07)
    thing = ObjectSpec(0, "cube_0", location, (part,), rotation=matrix(np.eye(3)), scale=0.7, words=words)
    lights = (Light("key", (6.4, -2.9, 4.2), 0.66),)
    return SceneSpec(clevr_camera(48, 32), lights, Ground((0.4, 0.4, 0.41)), (thing,), label={"objects": [{"a": 1}]})


@settings(max_examples=50, deadline=None)
@given(VECTORS, st.text(max_size=20))
def test_json_is_one_line_and_gives_the_same_scene_back(location, word) -> None:
    spec = scene(location, (("shape", word),))
    text = to_json(spec)
    assert "\n" not in text
    assert from_json(text) == spec


def test_json_may_leave_out_what_has_a_default() -> None:
    content = json.loads(to_json(dataclasses.replace(scene(), label={})))
    del content["label"], content["objects"][0]["rotation"], content["camera"]["lens_mm"]
    content["objects"][0]["scale"] = 1  # an integer is a number
    assert from_json(json.dumps(content)) == dataclasses.replace(
        scene(), label={}, objects=(dataclasses.replace(scene().objects[0], scale=1.0),)
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("camera", "width"), "48", r"scene\.camera\.width: expected int, not '48'"),
        (("objects", 0, "location"), [1, 2], r"scene\.objects\[0\]\.location: expected 3 entries, not 2"),
        (("objects", 0, "parts", 0, "colour"), 1, r"parts\[0\]: the key 'colour' is unknown"),
        (("ambient",), math.nan, r"scene\.ambient: expected float, not nan"),
        (("camera", "width"), 2**63, r"scene\.camera\.width: expected 1 to 4096, not 9\.22337e\+18"),
        (("camera", "height"), 0, r"scene\.camera\.height: expected 1 to 4096, not 0"),
        (("ground", "color"), [0.4, -1, 0.4], r"scene\.ground\.color: expected 0 to 1, not -1"),
        (("lights", 0, "position"), [0, 2**64, 3], r"lights\[0\]\.position: expected -1e\+06 to 1e\+06"),
        (
            ("objects", 0, "parts", 0, "axes"),
            [[1e300, 0, 0], [0, 1, 0], [0, 0, 1]],
            r"axes: expected -1e\+06 to 1e\+06",
        ),
    ],
)
def test_json_of_another_kind_is_named(path, value, message) -> None:
    content = json.loads(to_json(scene()))
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(UserError, match=message):
        from_json(json.dumps(content))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="the key 'camera' is missing"):
        from_json("{}")
    with pytest.raises(UserError, match="not JSON"):
        from_json('{"camera":')


def test_every_number_of_a_scene_has_a_range() -> None:
    for kind in (Camera, Light, Ground, Material, Part, ObjectSpec, SceneSpec):
        for one in dataclasses.fields(kind):
            is_number = any(word in str(one.type) for word in ("float", "int", "Color", "Vector", "Matrix"))
            assert ((kind, one.name) in RANGES) == (is_number and (kind, one.name) != (ObjectSpec, "index")), one.name
