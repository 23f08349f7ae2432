"""Kinds of text: a run's metrics, language files, scene code; and what `igllm render` reads: cameras, own meshes."""

import ast
import json
import math
import random
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax import language
from igllm_jax.data.rows import write_scene
from igllm_jax.data.tokens import train_small
from igllm_jax.render import command as render
from igllm_jax.render.meshes import box, find_models
from igllm_jax.scene.language import FOLDER, find_language
from igllm_jax.scene.reading import read
from igllm_jax.training.metrics_log import METRICS_FILE, MetricsWriter
from igllm_jax.training.metrics_log import read as read_metrics
from tests.data import samples
from tests.hostile import mutate, mutate_files
from tests.hostile.kinds import Kind, files_below
from tests.hostile.mutate import Files

# a run's metrics


def _metrics(folder: Path) -> Files:
    lines = [{"step": step, "loss": 1 / step, "val/parsed": 3.5} for step in range(1, 9)]
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return files_below(folder)


def _mutate_lines(rng: random.Random, files: Files) -> Files:
    """A line's JSON, or bytes."""
    lines = files[METRICS_FILE].splitlines(keepends=True)
    if rng.random() < 0.3:
        return mutate.of_bytes(rng, files)
    at = rng.randrange(len(lines))
    lines[at] = mutate.of_json(rng, {"x.json": lines[at].strip()})["x.json"] + rng.choice((b"\n", b"\n", b"\r\n", b""))
    return {METRICS_FILE: b"".join(lines)}


def _resume_metrics(folder: Path) -> list[dict[str, Any]]:
    found = read_metrics(folder / METRICS_FILE)
    writer = MetricsWriter(folder, first_step=6, tensorboard=False, wandb=False, config={})
    writer.write(7, {"loss": 0.5})
    writer.close()
    (last,) = [line for line in read_metrics(folder / METRICS_FILE) if line["step"] == 7]
    if last != {"step": 7, "loss": 0.5}:
        raise AssertionError("the line that was written is another")
    return found


def _metrics_differ(folder: Path, found: list[dict[str, Any]]) -> str:
    """What is kept is what Python reads of each line, up to the step that the run goes on from; nothing is lost."""
    kept = read_metrics(folder / METRICS_FILE)[:-1]
    if json.dumps(kept) != json.dumps([line for line in found if line["step"] <= 6]):
        return "other lines after going on"
    wanted = []
    for file in (*folder.glob(f"{METRICS_FILE}.damaged-*"),):
        for line in file.read_bytes().split(b"\n"):
            try:
                value = json.loads(line.decode())
            except (ValueError, RecursionError):
                continue
            wanted += [value] if isinstance(value, dict) and type(value.get("step")) is int else []
        return "" if json.dumps(wanted) == json.dumps(found) else "other lines"
    return ""


# language files


def _language(folder: Path) -> Files:
    (folder / "own.toml").write_bytes((FOLDER / "clevr.toml").read_bytes())
    train_small(samples.texts(), folder)
    return files_below(folder)


def _check_language(folder: Path) -> Any:
    """The language, once the command has shown its example."""
    found = find_language(folder / "own.toml")
    language.main([str(folder / "own.toml"), "--tokenizer", str(folder)])
    return found


def _language_differs(folder: Path, found: Any) -> str:
    values = tomllib.loads((folder / "own.toml").read_text())
    if found.name != values["name"] or found.question != values.get("question", found.question):
        return "another name or question"
    if [function.name for function in found.functions] != [entry["name"] for entry in values["functions"]]:
        return "other functions"
    for function, entry in zip(found.functions, values["functions"], strict=True):
        if [attribute.name for attribute in function.attributes] != [one["name"] for one in entry["attributes"]]:
            return "other attributes"
    return ""


# scene code


def _code(folder: Path) -> Files:
    """Of several languages, in one file each."""
    return {f"{name}.txt": text.encode() for name, text in _code_of().items()}


@cache
def _code_of() -> dict[str, str]:
    found = {}
    rng = np.random.default_rng(0)
    for task in ("clevr", "twod", "so3"):
        options = samples.options(task=task, head="none", rotation_rep=find_language(task).rotation_reps[0])
        found[task] = write_scene(samples.scene(task, rng, 3), options, None).text
    return found


_PIECES = (
    "(", ")", ",", "'", '"', "=", "add(", "\n", "```", "1e999", "-", "nan", "inf", "1_0", "0x10", "٣", "\x00", "\u2028",
    "loc=(1, 2, 3)", "loc=(1,2)", "size='x'", "size='small'", ", , ", " = ", "eval(1)", "__import__('os')", "1" * 5000,
    "(" * 3000, "\ud800", "\t", "\r",
)  # fmt: skip


def _mutate_code(rng: random.Random, files: Files) -> Files:
    name = rng.choice(sorted(files))
    text = files[name].decode()
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        match rng.randrange(5):
            case 0:
                text = text[:at] + text[other:]
            case 1:
                text = text[:at] + text[at : at + 20] + text[at:]
            case 2 if text:
                text = text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) + text[at + 1 :]
            case _:
                text = text[:at] + rng.choice(_PIECES) + text[at:]
    return {**files, name: text.encode("utf-8", "surrogatepass")}


def _read_code(folder: Path) -> dict[str, Any]:
    """Read, and drawn by `igllm render` where the language can be."""
    found = {}
    for file in sorted(folder.glob("*.txt")):
        task = file.stem
        text = file.read_bytes().decode("utf-8", "replace")
        rep = find_language(task).rotation_reps[0]
        found[task] = read(text, task, rotation_rep=rep)
        read(text, task, rotation_rep=rep, as_reference=True)
        for thing in found[task].objects:
            _check_finite(thing.values())
    out = ["--code", str(folder / "clevr.txt"), "--out", str(folder / "out"), "--image_size", "24x16"]
    render.main([*out, "--export", "usda"])
    return found


def _check_finite(values: Any) -> None:
    for value in values:
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(number) for number in numbers if isinstance(number, int | float)):
            raise AssertionError("a number that is not finite")


def _code_differs(folder: Path, found: dict[str, Any]) -> str:
    """Where all of a text is Python's own syntax and nothing was reported, Python's parser reads the same numbers."""
    for task, reading in found.items():
        text = (folder / f"{task}.txt").read_bytes().decode("utf-8", "replace")
        if reading.problems:
            continue
        try:
            calls = [node.value for node in ast.parse(text).body]  # type: ignore[attr-defined]
            said = [{one.arg: ast.literal_eval(one.value) for one in call.keywords} for call in calls]  # type: ignore[attr-defined]
        except (SyntaxError, ValueError, AttributeError, MemoryError, RecursionError):
            continue
        if len(said) != len(reading.objects):
            return f"another number of calls ({task})"
        for one, thing in zip(said, reading.objects, strict=True):
            for argument, (attribute, part) in find_language(task).by_name[thing.function].by_argument.items():
                if attribute.name == "location" and argument in one and "location" in thing:
                    ours, theirs = thing[attribute.name], one[argument]
                    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
                    ours = ours[part : part + 1] if len(theirs) == 1 else ours
                    if not np.allclose(ours, theirs):
                        return f"other numbers ({task})"
    return ""


# what `igllm render` reads


def _stage_labels(folder: Path) -> Files:
    """Labels of an own set, which say camera, lamps and ground; and predictions for them."""
    from igllm_jax import make_data

    make_data.main(["clevr", "--out", str(folder / "own"), "--num_train", "2", "--num_val", "1", *_SMALL])
    labels = folder / "own/labels/train.json"
    (folder / "labels.json").write_bytes(labels.read_bytes())
    return {"labels.json": (folder / "labels.json").read_bytes()}


_SMALL = ("--image_size", "24x16", "--workers", "1")


def _render_labels(folder: Path) -> Any:
    out = ["--labels", str(folder / "labels.json"), "--out", str(folder / "out"), "--workers", "1"]
    render.main([*out, "--export", "usda"])
    return None


_TETRAHEDRON = "v 0 0 0\nv 4 0 0\nv 0 3 0\nv 0 0 2\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"


def _meshes(folder: Path) -> Files:
    import trimesh

    (folder / "toy.obj").write_text(_TETRAHEDRON)
    (folder / "mug.glb").write_bytes(trimesh.creation.box((1, 2, 3)).export(file_type="glb"))
    return files_below(folder)


def _read_meshes(folder: Path) -> dict[str, Any]:
    return {model.word: box(model.file) for model in find_models(str(folder))}


def _boxes_differ(folder: Path, found: dict[str, Any]) -> str:
    wanted = {"toy": "toy.obj", "mug": "mug.glb"}
    if found.keys() != wanted.keys():
        return "other models"
    return "" if all(np.isfinite(corner).all() for pair in found.values() for corner in pair) else "no finite box"


TEXT_KINDS = {
    "metrics.jsonl": Kind(_metrics, _resume_metrics, _mutate_lines, _metrics_differ),
    "language files": Kind(_language, _check_language, mutate_files.of_toml, _language_differs),
    "scene code": Kind(_code, _read_code, _mutate_code, _code_differs),
    "scenes to render": Kind(_stage_labels, _render_labels, mutate.of_json),
    "meshes": Kind(_meshes, _read_meshes, mutate.of_bytes, _boxes_differ, needs="trimesh"),
}
