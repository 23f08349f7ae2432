"""What is written and read of 1000 random scenes of each shipped language, as digests: `golden.json` was made by the
code that knew the five tasks in Python, before they became files.

The scenes are label entries, drawn with the standard library alone, and the texts that are read are written ones,
spoilt as models spoil them. `python tests/scene/golden/record.py FOLDER` writes the record of the code that it runs
with; tests/scene/test_golden.py compares it with what lies here.
"""

import hashlib
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax.data.options import DataOptions
from igllm_jax.data.rows import RowMaker, sample_texts
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.scene.code import fill, read, scene_of
from igllm_jax.scene.metrics import report
from igllm_jax.scene.scene import Scene

FREE = ("euler", "euler_int", "aa", "6d", "quat")
# (task, rotation_rep, rotation_unit)
CASES = [("clevr", "", "deg"), ("clevr", "", "rad"), ("clevr", "yaw", "deg"), ("twod", "", "deg")] + [
    (task, rep, "deg") for task in ("so3", "sixdof", "shapenet") for rep in FREE
]
HEADS = ("none", "tanh_mlp_gelu")
COUNTS = (200, 1000)  # scenes: the few of every test run, and all
KEYS = ("size", "color", "material", "shape", "location", "rotation")
WORDS = {
    "size": ["large", "small", "huge"],
    "color": ["red", "blue", "dark red", "gray"],
    "material": ["metal", "rubber", "wood (oak)"],
    "shape": ["sphere", "cube", "cylinder", "chair_1a", "chair_2b", "cone"],
}


# ---- scenes and texts; nothing of ours in here


def label(task: str, unit: str, draw: random.Random, index: int) -> dict[str, Any]:
    if task == "twod":
        return {"image_filename": f"{index}", "objects": [{"3d_coords": [draw.random(), draw.random()]}]}
    objects = [_object(task, unit, draw) for _ in range(draw.choice([0, 1, 1, 2, 3, 5]))]
    return {"image_filename": f"{index}.png", "objects": objects}


def _object(task: str, unit: str, draw: random.Random) -> dict[str, Any]:
    item: dict[str, Any] = {key: draw.choice(words) for key, words in WORDS.items() if draw.random() < 0.85}
    if draw.random() < 0.9:
        item["3d_coords"] = [draw.choice([draw.uniform(-5, 5), 0.0, -0.0004]) for _ in range(3)]
    if draw.random() < 0.9:
        angles = [draw.choice([draw.uniform(-4, 4), 1.5707963267948966, 0.0]) for _ in range(3)]
        yaw = draw.choice([draw.uniform(0, 360), 90.0, 0])
        item["rotation"] = angles if task != "clevr" else yaw if unit == "deg" else yaw / 57.29577951308232
    return item | {"pixel_coords": [draw.randrange(480), draw.uniform(0, 320), 9.5], "mask": "ignored"}


def spoil(text: str, draw: random.Random) -> str:
    """A written text as a model might leave it: often right, sometimes with one of many faults."""
    kind = draw.randrange(16)
    if not text:
        return "Nothing:\n```python\n```"
    if kind == 0:
        return text[: draw.randrange(1, len(text) + 1)]
    if kind == 1:
        return "Here is the scene:\n```python\n" + text + "```\nBye"
    if kind == 2:
        return re.sub(r"\d\.\d", lambda m: draw.choice([m[0], m[0], "oops", "1_0", "nan"]), text)
    if kind == 3:
        return re.sub(r", [^,()]*\)", ")", text, count=1)
    if kind == 4:
        return text.replace("='", "=", 1)
    if kind == 5:
        return text.replace("\n", " # why not\n", 1) + "import os\n"
    if kind == 6:
        return "\n".join(draw.sample(text.split("\n"), text.count("\n") + 1))
    if kind == 7:
        return text.replace("add(", "add(size='big', z=3, x=1, ", 1)
    return re.sub(r"\d(?=\.\d)", lambda m: draw.choice([m[0], m[0], m[0], str(draw.randrange(10))]), text)


# ---- what the code makes of them


def record(case: tuple[str, str, str], head: str, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """Digests of rows, readings and counts of `count` scenes, the averages in clear, and two examples."""
    task, rep, unit = case
    draw, rng = random.Random(f"{task}/{rep}/{unit}/{head}"), np.random.default_rng(17)
    options = DataOptions(task, head, 28, (0.5, 0.5, 0.5), 4096, rotation_rep=rep, rotation_unit=unit)
    maker, scenes, readings, examples = RowMaker(options, tokenizer), [], [], []
    digests = {name: hashlib.sha256() for name in ("rows", "readings", "drawn")}
    for index in range(count):
        scene = Scene.from_label(label(task, unit, draw, index), task)
        row = maker.row(scene, None if index % 4 == 0 else rng)
        for part in (row.tokens, row.is_answer, row.is_number, row.numbers):
            digests["rows"].update(part.tobytes())
        answer = tokenizer.decode(row.tokens[row.is_answer])
        code = answer.partition("```python\n")[2].removesuffix("```")
        text = spoil(fill(code, row.numbers[row.is_number]) if head != "none" else code, draw)
        reading = read(text, task, rotation_rep=rep)
        items = [[_plain(getattr(item, key)) for key in KEYS] for item in reading.objects]
        digests["readings"].update(repr((items, [problem.line for problem in reading.problems])).encode())
        again = scene_of(reading, task, rotation_rep=rep, rotation_unit=unit, image=scene.image)
        turns = [[round(x, 5) + 0.0 for x in item.rotation] if item.rotation else None for item in again.objects]
        digests["drawn"].update(repr([turns, [_plain(item.location) for item in again.objects]]).encode())
        scenes.append(scene)
        readings.append(reading)
        if index in (1, 4):
            numbers = [round(float(number), 4) for number in row.numbers[row.is_number]]
            examples.append({"code": code, "num_tokens": len(row), "numbers": numbers})
    is_seen = [index % 2 == 0 for index in range(count)] if task == "twod" else None
    scores = report(scenes, readings, task, rotation_rep=rep, rotation_unit=unit, is_seen=is_seen)
    metrics = scores.pop("metrics")
    scores.pop("about", None)  # texts for tables
    for group in scores["by_object_count"].values():
        del group["metrics"]
    digests["counts"] = hashlib.sha256(json.dumps(scores, sort_keys=True).encode())
    found = {name: digest.hexdigest() for name, digest in digests.items()}
    return found | {"metrics": metrics, "examples": examples}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def name(case: tuple[str, str, str], head: str, count: int) -> str:
    return "/".join((*case, head, str(count)))


def main(folder: Path) -> None:
    draw = random.Random(3)
    texts = []
    for task, rep, unit in CASES:
        for head in HEADS:
            options = DataOptions(task, head, 28, (0.5, 0.5, 0.5), 4096, rotation_rep=rep, rotation_unit=unit)
            scenes = [Scene.from_label(label(task, unit, draw, index), task) for index in range(40)]
            texts += sample_texts(scenes, options, seed=1, count=40)
    if not (folder / "tokenizer.model").exists():
        train_small(texts, folder, 400)
    tokenizer = Tokenizer.load(folder)
    content = {
        name(case, head, count): record(case, head, tokenizer, count)
        for case in CASES
        for head in HEADS
        for count in COUNTS
    }
    for key, found in content.items():
        if key.endswith("/1000"):
            del found["examples"]  # those of the few
    (folder / "golden.json").write_text(json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
