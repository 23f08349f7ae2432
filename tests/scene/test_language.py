"""Language files: what they may hold, what is said of wrong ones, and that every one of them writes and reads."""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from igllm_jax.data.tokens import Tokenizer
from igllm_jax.errors import UserError
from igllm_jax.scene.code import FLOAT_TOKEN, fill, read, scene_of, write
from igllm_jax.scene.examples import example_scene, scene_label
from igllm_jax.scene.kind import Kind, Settings, Spelling
from igllm_jax.scene.kinds import ATTRIBUTE_KINDS
from igllm_jax.scene.language import FOLDER, SHIPPED, Language, check_rotation_unit, find_language, parse_language
from igllm_jax.scene.metrics import compare
from igllm_jax.scene.rotations import euler_to_matrix, matrix_to_euler
from igllm_jax.scene.scene import Object, Scene
from igllm_jax.scene.symmetry import Symmetry
from tests.scene.languages import languages

TOKENIZER = Tokenizer.load(Path(__file__).parent / "golden")
ROOM = """name = "room"
[[functions]]
name = "wall"
[[functions.attributes]]
name = "start"
kind = "vector"
size = 2
matched = true
scale = [2, 4]
offset = 1
[[functions]]
name = "door"
[[functions.attributes]]
name = "wall"
kind = "reference"
to = "wall"
label_key = "id"
required = true
[[functions.attributes]]
name = "style"
kind = "word"
words = ["sliding", "hinged"]
synonyms = { hinged = ["swing"] }
[[functions.attributes]]
name = "leaves"
kind = "integer"
minimum = 1
maximum = 2
only_for = { style = ["hinged"] }
[[functions.attributes]]
name = "width"
kind = "number"
minimum = 0
"""


def written(scene: Scene, language: Language, *, as_tokens: bool = False, rep: str = "", rng=None):
    return write(
        scene, language, rotation_rep=rep, numbers_as_tokens=as_tokens, rng=rng, shuffle_attributes=True,
        use_synonyms=True,
    )  # fmt: skip


def room() -> Language:
    return parse_language(ROOM, "room.toml")


def test_shipped_languages_say_what_the_tasks_said() -> None:
    assert SHIPPED == ("clevr", "shapenet", "sixdof", "so3", "twod")
    arguments = {
        name: [key for a in find_language(name).functions[0].attributes for key in a.arguments] for name in SHIPPED
    }
    assert arguments["clevr"] == ["size", "color", "material", "shape", "loc", "rotation"]
    assert arguments["twod"] == ["x", "y"]
    assert find_language("clevr").rotation_reps == ("", "yaw") and find_language("twod").rotation_reps == ("",)
    for name in ("so3", "sixdof", "shapenet"):
        assert find_language(name).rotation_reps == ("euler", "euler_int", "aa", "6d", "quat")


@pytest.mark.parametrize(("task", "rotation_rep"), [("clevr", "6d"), ("twod", "yaw"), ("so3", ""), ("so3", "yaw")])
def test_a_representation_that_the_language_has_not(task: str, rotation_rep: str) -> None:
    with pytest.raises(UserError, match=f"does not exist for task {task}; choose one of"):
        find_language(task).settings(rotation_rep)


def test_unknown_names_are_said_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'clever'; choose one of clevr, .* or give a language's .toml file"):
        find_language("clever")
    with pytest.raises(UserError, match=r"nowhere.toml: cannot be read \(No such file"):
        find_language(tmp_path / "nowhere.toml")
    with pytest.raises(UserError, match="rotation_unit='degrees' is unknown"):
        check_rotation_unit("degrees")
    assert find_language(find_language("so3")) is find_language("so3")


def test_a_file_travels_whole(tmp_path: Path) -> None:
    saved = room().save(tmp_path)
    again = find_language(saved)
    assert again.text == ROOM and again.name == "room" and not again.is_shipped
    assert pickle.loads(pickle.dumps(again)) is again
    assert find_language(find_language("clevr").save(tmp_path)).is_shipped


# what is changed in ROOM (the first time that it stands there), and what is said
MISTAKES = [
    ('name = "room"', "name = room", r"room.toml: not TOML: .*line 1"),
    ('name = "room"\n', "", r"room.toml: name is missing"),
    ('name = "room"', 'name = "a room"', r"room.toml, line 1: name must be a name of letters, digits and _"),
    ('name = "room"', 'nmae = 1\nname = "room"', r"line 1: nmae is not a key of this table; the nearest .* 'name'"),
    ('kind = "vector"', 'kind = "vektor"', r"line 6: functions\[1\].attributes\[1\].kind must be one of word, number"),
    ("size = 2\n", "", r"line 4: functions\[1\].attributes\[1\].size is missing"),
    ("size = 2", "size = 0", r"line 7: functions\[1\].attributes\[1\].size must be 1 or more, not 0"),
    ("size = 2", "size = 9223372036854775808", r"line 7: .*size must be 64 or less, not 9223372036854775808"),
    ("size = 2", "size = " + 5000 * "9", r"room.toml: not TOML: .*4300"),
    ("size = 2", "size = " + 5000 * "[", r"room.toml: not TOML: "),
    ("scale = [2, 4]", "scale = [2, nan]", r"line 9: .*scale must be a number or a list of 2 numbers, not \[2, nan\]"),
    ("scale = [2, 4]", "minimum = -inf", r"line 9: .*minimum must be a number of at most 1e\+15, not -inf"),
    ("scale = [2, 4]", "digits = 400", r"line 9: .*digits must be 17 or less, not 400"),
    ("size = 2", "size = 2.5", r"line 7: .*size must be an integer, not 2.5"),
    ("scale = [2, 4]", "scale = [2]", r"line 9: .*scale must be a number or a list of 2 numbers, not \[2\]"),
    ("scale = [2, 4]", "scale = 0", r"line 9: .*scale must not be 0"),
    ("scale = [2, 4]", "digits = 1\nmaximum = 5.25", r"line 10: .*maximum must be a number of at most 1 digits after"),
    ("matched = true", 'matched = "yes"', r"line 8: .*matched must be true or false, not 'yes'"),
    ('to = "wall"', 'to = "roof"', r"line 16: functions\[2\].attributes\[1\].to must be a function .*\(wall, door\)"),
    ('name = "door"', 'name = "wall"', r"line 12: functions\[2\].name 'wall' stands twice"),
    ('name = "width"', 'name = "wall"', r"line 13: functions\[2\].attributes have the name 'wall' twice"),
    ('hinged = ["swing"]', 'folding = ["swing"]', r"line 23: .*synonyms.folding must be one of words"),
    ('["swing"]', '["sliding"]', r"line 23: .*synonyms.hinged holds 'sliding', which stands for another word already"),
    ('["sliding"', '["sli\'ding"', r"words holds \"sli'ding\"; words must not be empty nor hold quotes"),
    ('{ style = ["hinged"] }', '{ colour = ["red"] }', r"line 29: .*only_for must name a word of the same function"),
    ("required = true", "required = true\nmatched = true", r"line 19: .*matched is for numbers"),
    ("minimum = 1", 'minimum = 1\narguments = ["a", "b"]', r"line 28: .*arguments must be 1 name or 1"),
    ("minimum = 1", 'minimum = 1\nmetrics = [{ measure = "euclidean" }]', r"metrics\[1\].measure must be one of"),
    ("minimum = 1", 'minimum = 1\nmetrics = [{ name = "ace" }]', r"functions have the metric 'ace' twice"),
    ("minimum = 1", 'minimum = 1\nrole = "leaf"', r"line 28: .*role must be one of location"),
    ('name = "room"', 'name = "room"\n[label]\norder = "start[2]"', r"line 3: label.order must .* wall has no number"),
    ('name = "room"', 'name = "room"\n[label]\nfile = "points"', r"line 3: label.file = points needs one function"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES, ids=[new[:40] for _, new, _ in MISTAKES])
def test_mistakes_are_said_by_file_line_and_key(old: str, new: str, message: str) -> None:
    assert old in ROOM
    with pytest.raises(UserError, match=message) as caught:
        parse_language(ROOM.replace(old, new, 1), "room.toml")
    assert str(caught.value).startswith("room.toml") and "\n" not in str(caught.value)


def label(*objects: dict) -> dict:
    return {"image_filename": "i", "objects": list(objects)}


def test_references_are_numbers_of_calls_in_the_code() -> None:
    walls = [{"function": "wall", "id": id, "start": [id, 0]} for id in (7, 3)]
    scene = Scene.from_label(label({"function": "door", "wall": 3, "width": 1}, *walls), room())
    assert scene.objects[0] == Object("door", wall=1, width=1.0)
    text = written(scene, room()).text
    assert text == "wall(start=(3.000, 0.000))\ndoor(wall=0, width=1.000)\nwall(start=(7.000, 0.000))\n"
    compared = compare(scene, read(text, room(), rotation_rep=""), room())
    assert compared.values["door.wall"] == 100.0 and compared.values["parsed"] == 100.0
    other = "wall(start=(7, 0))\nwall(start=(3, 0))\ndoor(wall=0, width=1)\n"
    assert compare(scene, read(other, room(), rotation_rep=""), room()).values["door.wall"] == 0.0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"function": "door", "wall": 9}, "wall must be the id of one wall, not 9, which no wall of the scene has"),
        ({"function": "door"}, "wall is missing, which every door must have"),
        ({"function": "roof"}, "function must be one of wall, door, not 'roof'"),
        ({"function": "door", "wall": 7, "style": "folding"}, "style must be one of sliding, hinged, not 'folding'"),
        ({"function": "door", "wall": 7, "leaves": 3}, "leaves must be an integer from 1 to 2, not 3"),
        ({"function": "door", "wall": 7, "leaves": 1.5}, "leaves must be an integer, not 1.5"),
        ({"function": "door", "wall": 7, "width": -1}, "width must be 0 or more, not -1"),
        ({"function": "wall", "start": [1]}, r"start must be 2 finite numbers, not \[1\]"),
    ],
)
def test_labels_that_the_language_cannot_say(entry: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.* \\(image i\\)"):
        Scene.from_label(label({"function": "wall", "id": 7, "start": [1, 2]}, entry), room())


PROBLEMS = [
    ("door(wall=0)\nwall(start=(1, 2))", [(1, "wall=0 points at line 2, which comes later; a wall must stand before")]),
    ("wall()\ndoor(wall=1)", [(2, "wall=1 points at no wall: 1 stand before this line")]),
    ("wall()\ndoor(wall=-1)", [(2, "wall=-1 points at no wall")]),
    ("wall()\ndoor(wall=0.5)", [(2, "wall holds '0.5', which is not an integer"), (2, "wall is missing")]),
    ("door()", [(1, "wall is missing, which every door must say")]),
    ("wall()\ndoor(wall=0, style='folding')", [(2, "style is 'folding', which is none of sliding, hinged, swing")]),
    ("wall()\ndoor(wall=0, width=-2)", [(2, "width must be 0 or more")]),
    ("wall()\ndoor(wall=0, leaves=3)", [(2, "leaves must be an integer from 1 to 2")]),
    ("wall()\ndoor(wall=(0, 0))", [(2, "wall does not have 1 number(s)"), (2, "wall is missing")]),
    ("wall(start=(1, 2, 3))", [(1, "start does not have 2 number(s)")]),
    ("roof(x=1)", [(1, "not a line of code: 'roof(x=1)'")]),
]


@pytest.mark.parametrize(("text", "expected"), PROBLEMS, ids=[text for text, _ in PROBLEMS])
def test_problems_name_line_and_reason(text: str, expected: list) -> None:
    problems = read(text, room(), rotation_rep="").problems
    assert [problem.line for problem in problems] == [line for line, _ in expected]
    for problem, (_, reason) in zip(problems, expected, strict=True):
        assert problem.reason.startswith(reason)


CHAIN = ROOM.replace('to = "wall"\nlabel_key = "id"\nrequired = true', 'to = "door"')


def test_references_in_a_circle() -> None:
    language = parse_language(CHAIN, "chain.toml")
    doors = [{"function": "door", "wall": 1}, {"function": "door", "wall": 0}]
    with pytest.raises(UserError, match=r"image i: references go in a circle \(door -> door -> door\)"):
        written(Scene.from_label(label(*doors), language), language)
    with pytest.raises(UserError, match="wall must count a door from 0, not 2: the scene has 1"):
        Scene.from_label(label({"function": "door", "wall": 2}), language)
    (problem,) = read("door(wall=0)", language, rotation_rep="").problems
    assert problem.reason.startswith("wall=0 points at itself")


def test_what_a_word_forbids_is_not_written() -> None:
    for style, expected in (("hinged", True), ("swing", True), ("sliding", False)):
        scene = Scene((Object("wall"), Object("door", wall=0, style=style, leaves=2)), "i")
        assert ("leaves=2" in written(scene, room()).text) == expected


def test_the_head_learns_scaled_numbers_and_the_text_gets_them_back() -> None:
    scene = Scene((Object("wall", start=(5.0, -3.0)),), "i")
    found = written(scene, room(), as_tokens=True)
    assert found.text == f"wall(start=({FLOAT_TOKEN}, {FLOAT_TOKEN}))\n" and found.numbers == (2.0, -1.0)
    assert fill(found.text, found.numbers, room()) == "wall(start=(5.000, -3.000))\n"
    broken = (
        f"wall(start=({FLOAT_TOKEN}\nroof(start={FLOAT_TOKEN}) {FLOAT_TOKEN}"  # what no language says stays as it is
    )
    assert fill(broken, (2.0, 2.0, 2.0), room()) == "wall(start=(5.000\nroof(start=2.000) 2.000"


# ---- every language


@settings(max_examples=60, deadline=None)
@given(text=languages(), seed=st.integers(0, 2**32 - 1), as_tokens=st.booleans())
def test_write_tokenise_detokenise_read_is_the_identity(text: str, seed: int, as_tokens: bool) -> None:
    language, rng = parse_language(text, "random.toml"), np.random.default_rng(seed)
    rep = language.rotation_reps[seed % len(language.rotation_reps)]
    scene = example_scene(language, rng, calls=1 + seed % 6)
    assert Scene.from_label(json.loads(json.dumps(scene_label(scene, language))), language) == scene
    code = written(scene, language, as_tokens=as_tokens, rep=rep, rng=rng)
    assert TOKENIZER.decode(TOKENIZER.encode(code.text)) == code.text
    filled = fill(code.text, code.numbers, language)
    reading = read(filled, language, rotation_rep=rep)
    assert not reading.problems
    # Written again from what was read, it is the same text: nothing was lost, and nothing was read as something else.
    again = scene_of(reading, language, rotation_rep=rep, image="i")
    same = written(again, language, as_tokens=False, rep=rep).text
    assert read(same, language, rotation_rep=rep).problems == ()
    plain = read(written(scene, language, rep=rep).text, language, rotation_rep=rep)
    assert [item.function for item in plain.objects] == [item.function for item in reading.objects]
    for one, other in zip(plain.objects, reading.objects, strict=True):
        assert set(one) == set(other)
        for name, value in one.items():
            unit = 10.0 ** -language.by_name[one.function].by_name[name].kind.spelling(Settings(rep)).number.digits
            assert value == (other[name] if isinstance(value, str) else pytest.approx(other[name], abs=1.01 * unit))
    scores = compare(scene, reading, language, rotation_rep=rep).values
    assert scores["ace"] == 0 and scores["parsed"] == 100


@settings(max_examples=60, deadline=None)
@given(
    text=languages(), said=st.lists(st.sampled_from(["a_a(", "a_a=", "(", ")", "'", "1", "-", ".5", ",", "\n", "é"]))
)
def test_nothing_that_is_read_raises(text: str, said: list[str]) -> None:
    language = parse_language(text, "random.toml")
    rep = language.rotation_reps[0]
    reading = read("".join(said), language, rotation_rep=rep)
    scene_of(reading, language, rotation_rep=rep, image="i")
    compare(example_scene(language, np.random.default_rng(0), calls=2), reading, language, rotation_rep=rep)


# ---- a kind of attribute from outside


@dataclass(frozen=True)
class Flag(Kind):
    """Yes or no: `true` or `false` in labels, 'on' or 'off' in the code."""

    measures: ClassVar[tuple[str, ...]] = ("accuracy",)

    @classmethod
    def parse(cls, table) -> Self:
        return cls()

    def spelling(self, settings: Settings) -> Spelling:
        return Spelling("word", words=("on", "off"))

    def from_label(self, value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    def write(self, value: Any, item: Mapping[str, Any], settings: Settings) -> str:
        return "on" if value else "off"

    def read(self, said: Any) -> bool:
        return said == "on"

    def example(self, rng: np.random.Generator, least: float, most: float) -> bool:
        return bool(rng.integers(2))

    def score(self, metric, name, true, said, settings) -> float:
        return 100.0 * (true[name] == said.get(name))


def test_a_new_kind_is_one_entry_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTRIBUTE_KINDS, "flag", Flag)
    text = 'name = "lamps"\n[[functions]]\nname = "lamp"\n[[functions.attributes]]\nname = "lit"\nkind = "flag"\n'
    language = parse_language(text + "# with flags\n", "lamps.toml")
    scene = Scene.from_label(label({"lit": True}, {"lit": False}), language)
    code = written(scene, language).text
    assert code == "lamp(lit='on')\nlamp(lit='off')\n"
    reading = read(code.replace("off", "on"), language, rotation_rep="")
    assert compare(scene, reading, language).values["lit"] == 50.0
    assert read("lamp(lit='dim')", language, rotation_rep="").problems[0].reason.startswith("lit is 'dim'")
    assert scene_label(scene, language)["objects"] == [{"lit": True}, {"lit": False}]
    with pytest.raises(UserError, match="lit must be true or false, not 1"):
        Scene.from_label(label({"lit": 1}), language)
    assert len(example_scene(language, np.random.default_rng(0), calls=3).objects) == 3


# ---- symmetries


@pytest.mark.parametrize(
    ("rotation", "unit", "expected_deg"),
    [(100.0, "deg", -35.0), (0.0, "deg", -45.0), (90.0, "deg", -45.0), (359.0, "deg", 44.0), (np.pi / 4, "rad", 0.0)],
)
def test_a_cubes_yaw_is_written_modulo_its_symmetry(rotation: float, unit: str, expected_deg: float) -> None:
    kind, language = find_language("clevr").functions[0].by_name["rotation"].kind, find_language("clevr")
    for shape, expected in (("cube", expected_deg), ("block", expected_deg), ("cone", None)):
        (said,) = kind.write((rotation,), {"shape": shape}, language.settings("", unit))
        plain = rotation if unit == "rad" else np.radians(rotation)
        assert said == pytest.approx(plain if expected is None else np.radians(expected), abs=1e-12)


@pytest.mark.parametrize(
    "symmetry",
    [Symmetry(), Symmetry(is_full=True), Symmetry(group="D4"), Symmetry(group="O"), Symmetry(axis=0, period_deg=120.0),
     Symmetry(axis=1, period_deg=0.0)],
)  # fmt: skip
def test_turns_that_look_the_same_are_written_and_scored_the_same(symmetry: Symmetry) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
        written_turn = symmetry.canonical(turn)
        assert symmetry.error_deg(written_turn, turn) == pytest.approx(0, abs=1e-5)
        assert np.trace(written_turn) >= np.trace(turn) - 1e-9  # never further from no turn at all
        if symmetry.is_full or symmetry.period_deg == 0:
            spin = np.zeros(3)
            spin[symmetry.axis] = rng.uniform(0, 6)
            same = turn @ Rotation.from_rotvec(spin).as_matrix()
        else:
            group = symmetry.matrices()
            same = turn @ group[rng.integers(len(group))]
        assert symmetry.canonical(same) == pytest.approx(written_turn, abs=1e-6)
    off = euler_to_matrix((0.0, 0.0, np.radians(10)))
    assert symmetry.error_deg(off, np.eye(3)) == pytest.approx(0 if symmetry.is_full else 10)


def test_a_symmetry_of_a_word_in_three_dimensions() -> None:
    text = re.sub(r'representations = .*', 'representations = ["euler", "quat"]\n'
                  'symmetry_by = { shape = { box = { group = "D2" }, tube = { axis = "z", period_deg = 0 } } }',
                  find_language("so3").text)  # fmt: skip
    language = parse_language(text, "boxes.toml")
    turn = euler_to_matrix((0.3, 0.1, 0.2))
    half = euler_to_matrix((0.0, np.pi, 0.0))
    spins = (("box", half, 0.0), ("tube", euler_to_matrix((0, 0, 1.0)), 0.0), ("car", half, 180.0))
    for shape, spun, expected in spins:
        scene = Scene((Object(shape=shape, rotation=matrix_to_euler(turn @ spun)),), "i")
        numbers = ", ".join(f"{x:.9f}" for x in matrix_to_euler(turn))
        reading = read(f"add(shape='{shape}', rotation=({numbers}))", language, rotation_rep="euler")
        found = compare(scene, reading, language, rotation_rep="euler").values["geod"]
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("period", ["1e-300", "-90", "0.01", "100"])
def test_a_period_is_a_part_of_a_whole_turn(period: str) -> None:
    text = (FOLDER / "clevr.toml").read_text().replace("period_deg = 90", f"period_deg = {period}")
    with pytest.raises(UserError, match="period_deg must divide 360, or be 0"):
        parse_language(text, "own.toml")
