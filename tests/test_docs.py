"""The examples of docs/data.md are what the code does: labels give the code beside them."""

import json
import re
from pathlib import Path

import pytest

from igllm_jax.errors import UserError
from igllm_jax.scene.code import read, write
from igllm_jax.scene.kinds import ATTRIBUTE_KINDS
from igllm_jax.scene.labels import parse_labels
from igllm_jax.scene.language import SHIPPED, find_language, parse_language
from igllm_jax.scene.language_parts import ROLES
from igllm_jax.scene.predictions import SETTINGS, read_predictions
from igllm_jax.scene.scene import Scene

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
LABELS = dict(re.findall(r"```json (\w+)\n(.*?)```\n", PAGE, re.DOTALL))


def code(label: str, task: str, rotation_rep: str) -> str:
    scene = Scene.from_label(json.loads(label), task)
    return write(
        scene,
        task,
        rotation_rep=rotation_rep,
        numbers_as_tokens=False,
        rng=None,
        shuffle_attributes=False,
        use_synonyms=False,
    ).text


def test_every_task_has_an_example() -> None:
    tasks = set(SHIPPED) & {"clevr", "so3", "sixdof", "shapenet"}
    assert set(LABELS) >= tasks
    assert all(len(parse_labels(f"[{LABELS[task]}]", task, where="docs")) == 1 for task in tasks)


@pytest.mark.parametrize(("task", "rotation_rep"), [("clevr", ""), ("sixdof", "euler"), ("shapenet", "euler")])
def test_the_code_beside_a_label_is_what_it_gives(task: str, rotation_rep: str) -> None:
    _, _, after = PAGE.partition(f"```json {task}\n")
    shown = re.search(r"```text\n(.*?)```", after, re.DOTALL)
    assert shown is not None
    assert code(LABELS[task], task, rotation_rep) == shown[1]


def test_the_representations_beside_a_label_are_what_it_gives() -> None:
    rows = re.findall(r"\| `(\w+)` \| `(add\(.*?\))` \|", PAGE)
    assert [name for name, _ in rows] == list(find_language("so3").rotation_reps)
    for name, shown in rows:
        assert code(LABELS["so3"], "so3", name) == shown + "\n"


def test_the_predictions_example_is_read(tmp_path: Path) -> None:
    fenced = PAGE.partition("```json predictions\n")[2].partition('\\n```"}}}\n```\n')
    file = tmp_path / "predictions.json"
    file.write_text(fenced[0] + '\\n```"}}}')
    found = read_predictions(file)
    assert (found.task, found.rotation_rep, found.rotation_unit) == ("clevr", "", "deg")
    (answer,) = found.answers.values()
    reading = read(answer, "clevr", rotation_rep="")
    assert not reading.problems
    assert reading.objects[0].location == (1.285, -2.458, 0.35)
    assert all(f"`{name}`" in PAGE for name in SETTINGS)


def test_the_language_on_its_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "languages.md").read_text()
    text = page.partition("```toml\n")[2].partition("```\n\nA mistake")[0]
    language = parse_language(text, "room.toml")
    assert [function.name for function in language.functions] == ["wall", "door"]
    with pytest.raises(UserError) as caught:
        parse_language(text.replace('to = "wall"', 'to = "roof"'), "room.toml")
    assert str(caught.value) in page.replace("\n", " ")
    kinds = re.findall(r"^\| `(\w+)` \| .* \| (`\w+`.*) \|$", page, re.MULTILINE)
    measures = {name: tuple(re.findall(r"`(\w+)`", text)) for name, text in kinds}
    assert measures == {name: kind.measures for name, kind in ATTRIBUTE_KINDS.items()}
    assert all(f"`{role}`" in page for role in ROLES)
