"""Code is written as the reference writes it; reading gives back what was written, or says what it could not read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from igllm_jax.errors import UserError
from igllm_jax.scene.code import (
    FLOAT_TOKEN,
    Predicted,
    Problem,
    Reading,
    fill,
    in_order,
    read,
    scene_of,
    write,
)
from igllm_jax.scene.language import find_language
from igllm_jax.scene.rotations import euler_to_matrix, geodesic_deg
from igllm_jax.scene.scene import Object, Scene
from tests.strategies import TASK_REPS, scenes

CUBE = Object(
    size="large", color="red", material="metal", shape="cube",
    location=(0.5, -1.25, 0.7), rotation=(100.0,), pixel=(200.0, 7.0, 9.0),
)  # fmt: skip
BALL = Object(
    size="small", color="blue", material="rubber", shape="sphere",
    location=(-2.0, 0.0, 0.35), rotation=(33.0,), pixel=(100.0, 7.0, 9.0),
)  # fmt: skip
PLAIN: dict[str, Any] = {"rng": None, "shuffle_attributes": True, "use_synonyms": True}


def test_a_clevr_scene_with_numbers_as_text() -> None:
    written = write(Scene((CUBE, BALL), "i"), "clevr", rotation_rep="", numbers_as_tokens=False, **PLAIN)
    assert written.numbers == ()
    assert written.text == (
        "add(size='small', color='blue', material='rubber', shape='sphere', loc=(-2.000, +0.000, +0.350))\n"
        "add(size='large', color='red', material='metal', shape='cube', loc=(+0.500, -1.250, +0.700), "
        "rotation=-0.611)\n"
    )


def test_a_clevr_scene_with_numbers_as_tokens() -> None:
    written = write(Scene((CUBE, BALL), "i"), "clevr", rotation_rep="yaw", numbers_as_tokens=True, **PLAIN)
    assert written.text.count(FLOAT_TOKEN) == 7
    assert "loc=(数, 数, 数), rotation=数)\n" in written.text
    assert written.numbers == pytest.approx((-2.0, 0.0, 0.35, 0.5, -1.25, 0.7, np.radians(-35)))


def test_a_2d_scene() -> None:
    scene = Scene((Object(location=(0.25, 1.0)),), "i")
    assert write(scene, "twod", rotation_rep="", numbers_as_tokens=False, **PLAIN).text == "add(x=0.250, y=1.000)\n"
    orders = [
        write(scene, "twod", rotation_rep="", numbers_as_tokens=True, **PLAIN | {"rng": np.random.default_rng(seed)})
        for seed in range(200)
    ]
    swapped = [written for written in orders if written.text == "add(y=数, x=数)\n"]
    assert all(written.numbers == (1.0, 0.25) for written in swapped)
    assert 70 < len(swapped) < 130
    assert all(written.numbers == (0.25, 1.0) for written in orders if written.text == "add(x=数, y=数)\n")


@pytest.mark.parametrize(("rotation_rep", "count"), [("euler", 3), ("euler_int", 3), ("aa", 3), ("6d", 6), ("quat", 4)])
def test_a_turned_object_in_each_representation(rotation_rep: str, count: int) -> None:
    scene = Scene((Object(rotation=(0.1, 0.2, 0.3)),), "i")
    written = write(scene, "so3", rotation_rep=rotation_rep, numbers_as_tokens=True, **PLAIN)
    assert written.text == f"add(rotation=({', '.join('数' * count)}))\n"
    assert len(written.numbers) == count


def test_rotation_in_radians_where_labels_are() -> None:
    turned = Scene((Object(shape="cube", rotation=(np.radians(100),)),), "i")
    written = write(turned, "clevr", rotation_rep="", rotation_unit="rad", numbers_as_tokens=True, **PLAIN)
    assert written.numbers == pytest.approx((np.radians(-35),))


def test_attributes_and_synonyms_are_drawn_anew_and_all_of_them() -> None:
    rng = np.random.default_rng(0)
    draw: dict[str, Any] = {"rotation_rep": "", "numbers_as_tokens": True, "rng": rng}
    texts = [
        write(Scene((CUBE,), "i"), "clevr", shuffle_attributes=False, use_synonyms=True, **draw).text
        for _ in range(300)
    ]
    words = {"size": {"large", "big"}, "material": {"metal", "metallic", "shiny"}, "shape": {"cube", "block"}}
    for key, expected in words.items():
        assert {text.split(f"{key}='")[1].split("'")[0] for text in texts} == expected
    shuffled = {
        tuple(part.split("=")[0].strip() for part in text[4:-2].replace("数, 数, 数", "数").split(", "))
        for text in (
            write(Scene((CUBE,), "i"), "clevr", shuffle_attributes=True, use_synonyms=False, **draw).text
            for _ in range(300)
        )
    }
    assert len(shuffled) > 150  # of 720 orders
    assert all(set(order) == {"size", "color", "material", "shape", "loc", "rotation"} for order in shuffled)


def test_the_same_generator_state_writes_the_same() -> None:
    one, other = (
        write(
            Scene((CUBE, BALL), "i"),
            "clevr",
            rotation_rep="",
            numbers_as_tokens=True,
            rng=np.random.default_rng(5),
            shuffle_attributes=True,
            use_synonyms=True,
        )
        for _ in range(2)
    )
    assert one == other


def test_objects_that_cannot_be_ordered() -> None:
    with pytest.raises(UserError, match="image i: an object has no pixel_coords"):
        in_order(Scene((CUBE, Object()), "i"))
    assert in_order(Scene((Object(),), "i")) == [Object()]


def test_a_word_that_looks_like_a_number() -> None:
    with pytest.raises(UserError, match="image i: a word of the label holds 数"):
        write(Scene((Object(color="数"),), "i"), "clevr", rotation_rep="", numbers_as_tokens=True, **PLAIN)


def test_fill() -> None:
    assert fill("add(x=数, y=数)", (0.5, -0.25)) == "add(x=0.500, y=-0.250)"
    with pytest.raises(ValueError, match="2 float tokens, but there are 1 numbers"):
        fill("add(x=数, y=数)", (0.5,))


# What a real model leaves. Each case: text, objects, reasons of the problems.
READINGS = [
    ("add(x=0.5, y=0.25)\n", [(0.5, 0.25)], []),
    ("add(y=0.25, x=+.5)", [(0.5, 0.25)], []),
    ("add(x=0.5, y=oops)", [(0.5, 0.0)], ["y holds 'oops', which is not a number; 0 is taken"]),
    ("add(x=1e999, y=nan)", [(0.0, 0.0)], ["x holds '1e999'", "y holds 'nan'"]),
    ("add(x=1_0, y=inf)", [(0.0, 0.0)], ["x holds '1_0'", "y holds 'inf'"]),
    ("add(x=0.5)", [None], []),
    ("add(x=0.5, y=0.2", [None], ["y is cut off", "the line ends before its closing bracket"]),
    ("add(x=0.5, y=", [None], ["y is cut off", "the line ends before"]),
    ("add(", [None], ["the line ends before its closing bracket"]),
    ("add()", [None], []),
    ("add(x=0.1, x=0.2, y=0.3)", [(0.1, 0.3)], ["x is said twice; the first counts"]),
    ("add(x=0.1 y=0.3)", [None], ["x holds '0.1 y=0.3', which is not a number"]),
    ("add(x=(0.1, 0.2), y=0.3)", [None], ["x does not have 1 number"]),
    ("add(x=0.1, z=2, y=0.3)", [(0.1, 0.3)], ["'z' is not an attribute of task twod"]),
    ("add(x=0.1, y=0.3) # done", [(0.1, 0.3)], ["text after the closing bracket: '# done'"]),
    ("add(x=0.1, y=0.3)```", [(0.1, 0.3)], []),
    ("add(x=0.1, y=0.3)\r\n", [(0.1, 0.3)], []),
    ("add(x=数, y=数)", [(0.0, 0.0)], ["x holds '数'", "y holds '数'"]),
    (" add(x=0.1, y=0.3)", [(0.1, 0.3)], []),
    ("\tadd(x = 0.1, y= +0.3)", [(0.1, 0.3)], []),
    ("add(x=0.1, y=0.3,),", [(0.1, 0.3)], []),
    ("  ```python\n    add(x=(0.1,), y=0.3)\n  ```\nThat is all.", [(0.1, 0.3)], []),
    ("add(x==0.1, y=,)", [(0.0, 0.0)], ["x holds '=0.1'", "y holds ''"]),
    ("import os", [], ["not a line of code: 'import os'"]),
    ("", [], ["the answer is empty"]),
    (" \n\n", [], ["the answer is empty"]),
    ("The scene can be produced with:\n```python\nadd(x=0.1, y=0.3)\n```", [(0.1, 0.3)], []),
    ("Talk\n```python\nadd(x=0.1, y=0.3)\noops\n```\ntalk", [(0.1, 0.3)], ["not a line of code: 'oops'"]),
]


@pytest.mark.parametrize(("text", "locations", "reasons"), READINGS, ids=range(len(READINGS)))
def test_reading_2d(text: str, locations: list, reasons: list[str]) -> None:
    reading = read(text, "twod", rotation_rep="")
    assert [item.location for item in reading.objects] == locations
    assert len(reading.problems) == len(reasons)
    for problem, reason in zip(reading.problems, reasons, strict=True):
        assert problem.reason.startswith(reason)


def test_reading_as_the_reference_does_loses_what_its_patterns_do_not_find() -> None:
    text = "  add(size='large')\nadd(size = 'large', loc=(1, 2, 3,), color='red'),\n"
    reading = read(text, "clevr", rotation_rep="", as_reference=True)
    assert [dict(item) for item in reading.objects] == [{"color": "red"}]
    assert [problem.line for problem in reading.problems[:1]] == [1] and len(reading.problems) > 3
    plain = read(text, "clevr", rotation_rep="")
    assert [dict(item) for item in plain.objects] == [
        {"size": "large"},
        {"size": "large", "color": "red", "location": (1.0, 2.0, 3.0)},
    ]
    assert plain.problems == ()


def test_reading_takes_each_field_for_itself() -> None:
    text = (
        "add(size='big', color=red, material='shiny', shape='block', loc=(1, x, 3), rotation=(1, 2, 3))\n"
        "add(shape='chair_1', loc=(1, 2), rotation=(1,2,3,4), color='dark red')\n"
        "add(size='tiny, color='blue')\n"
    )
    reading = read(text, "sixdof", rotation_rep="quat")
    assert reading.objects == (
        Predicted(size="large", material="metal", shape="cube", location=(1.0, 0.0, 3.0)),
        Predicted(color="dark red", shape="chair_1", rotation=(1.0, 2.0, 3.0, 4.0)),
        Predicted(size="tiny, color="),
    )
    assert reading.problems[:4] == (
        Problem(1, "color is not a word in single quotes"),
        Problem(1, "loc holds 'x', which is not a number; 0 is taken"),
        Problem(1, "rotation does not have 4 number(s)"),
        Problem(2, "loc does not have 3 number(s)"),
    )
    assert all(problem.line == 3 for problem in reading.problems[4:])


@given(text=st.text(), task_rep=st.sampled_from(TASK_REPS))
@example(text="add(" * 1000, task_rep=("clevr", ""))
@example(text="add(loc=(((((", task_rep=("so3", "6d"))
def test_reading_never_raises(text: str, task_rep: tuple[str, str]) -> None:
    task, rotation_rep = task_rep
    assert isinstance(read(text, task, rotation_rep=rotation_rep), Reading)
    assert isinstance(read("add(" + text, task, rotation_rep=rotation_rep), Reading)


pieces = st.sampled_from(
    [
        "add(",
        "size=",
        "loc=",
        "rotation=",
        "x=",
        "'",
        "(",
        ")",
        ",",
        " ",
        "\n",
        "large",
        "0.5",
        "-",
        "=",
        "```",
        "数",
        ".",
    ]
)


@given(text=st.lists(pieces, max_size=60).map("".join), task_rep=st.sampled_from(TASK_REPS))
def test_one_object_for_each_line_that_starts_as_one(text: str, task_rep: tuple[str, str]) -> None:
    task, rotation_rep = task_rep
    language = find_language(task)
    reading = read(text, task, rotation_rep=rotation_rep)
    assert len(reading.objects) == sum(line.strip().startswith("add(") for line in text.split("\n"))
    for item in reading.objects:
        for name, value in item.items():
            attribute = language.functions[0].by_name[name]
            count = sum(spelling.count for spelling in attribute.spellings(language.settings(rotation_rep)))
            assert isinstance(value, str) or len(value) == count  # type: ignore[arg-type]
    scene_of(reading, task, rotation_rep=rotation_rep, image="i")  # any reading can be drawn


@pytest.mark.parametrize(("task", "rotation_rep"), TASK_REPS)
@pytest.mark.parametrize("numbers_as_tokens", [True, False])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 9))
def test_write_then_read_gives_the_scene(task, rotation_rep, numbers_as_tokens, data, seed) -> None:
    """With attributes shuffled and synonyms drawn; numbers to the three digits that the text has."""
    scene = data.draw(scenes(task))
    written = write(
        scene,
        task,
        rotation_rep=rotation_rep,
        numbers_as_tokens=numbers_as_tokens,
        rng=np.random.default_rng(seed) if seed else None,
        shuffle_attributes=True,
        use_synonyms=True,
    )
    assert written.text.count(FLOAT_TOKEN) == len(written.numbers)
    reading = read(fill(written.text, written.numbers), task, rotation_rep=rotation_rep)
    assert reading.problems == (() if scene.objects else (Problem(1, "the answer is empty"),))
    ordered = in_order(scene)
    assert len(reading.objects) == len(ordered)
    for item, found in zip(ordered, reading.objects, strict=True):
        assert (found.size, found.color, found.material, found.shape) == (
            item.size,
            item.color,
            item.material,
            item.shape,
        )
        _same_numbers(found.location, item.location)
        _same_numbers(found.rotation, said_rotation(item, task, rotation_rep))


def said_rotation(item: Object, task: str, rotation_rep: str):
    language = find_language(task)
    attribute = language.functions[0].by_name.get("rotation")
    if attribute is None or not attribute.is_present(item):
        return None
    return attribute.kind.write(item["rotation"], item, language.settings(rotation_rep))


def _same_numbers(found, expected) -> None:
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, abs=5.001e-4)


@pytest.mark.parametrize("rotation_unit", ["deg", "rad"])
def test_a_clevr_reading_as_a_scene_can_be_written_again(rotation_unit: str) -> None:
    options: dict[str, Any] = {"rotation_rep": "", "rotation_unit": rotation_unit}
    text = write(Scene((CUBE, BALL), "i"), "clevr", numbers_as_tokens=False, **PLAIN, **options).text
    scene = scene_of(read(text, "clevr", rotation_rep=""), "clevr", image="i", **options)
    assert [item.shape for item in scene.objects] == ["sphere", "cube"]
    again = write(scene, "clevr", numbers_as_tokens=False, **PLAIN, **options).text
    assert again == text


@pytest.mark.parametrize("rotation_rep", find_language("so3").rotation_reps)
def test_a_turned_reading_as_a_scene_has_the_labels_angles(rotation_rep: str) -> None:
    turned = Scene((Object(location=(1.0, 2.0, 3.0), rotation=(2.0, -1.0, 3.0)),), "i")
    text = write(turned, "sixdof", rotation_rep=rotation_rep, numbers_as_tokens=False, **PLAIN).text
    scene = scene_of(read(text, "sixdof", rotation_rep=rotation_rep), "sixdof", rotation_rep=rotation_rep, image="i")
    found = scene.objects[0]
    assert found.location == (1.0, 2.0, 3.0) and found.rotation is not None
    assert geodesic_deg(euler_to_matrix(found.rotation), euler_to_matrix((2.0, -1.0, 3.0))) < 0.2


def test_label_words() -> None:
    kinds = {name: attribute.kind for name, attribute in find_language("clevr").functions[0].by_name.items()}
    assert kinds["shape"].read("ball") == "sphere"
    assert kinds["color"].read("ball") == "ball"
    assert kinds["material"].read("matte") == "rubber"


def test_numbers_too_large_to_be_read_move_to_the_bound_where_answers_must_parse():
    text = fill("add(x=数, y=数)", (1e30, -1e30), in_range=True)
    assert text == "add(x=1000000000000.000, y=-1000000000000.000)"
