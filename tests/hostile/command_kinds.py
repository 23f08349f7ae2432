"""Kinds of input that whole commands take: flags, and the folders of `igllm check` and `igllm report`."""

import contextlib
import io
import json
import os
import random
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from igllm_jax import endings, make_data
from igllm_jax.__main__ import COMMANDS
from igllm_jax.data.examples import load_examples
from igllm_jax.data.options import Source
from igllm_jax.data.rows import RowMaker, write_scene
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.scene.predictions import Predictions, write_predictions
from tests import runs
from tests.data import samples
from tests.hostile import mutate
from tests.hostile.data_kinds import entries
from tests.hostile.kinds import Kind, files_below
from tests.hostile.mutate import Files

_COUNT = 3  # scenes of a split


def _run_in(folder: Path, command: str, words: Sequence[str]) -> int:
    """Runs a command inside `folder`; its exit code. What it prints must be what a terminal can take as it is.

    Raises: UserError where it ended in one line. --debug: anything else is raised as it came.
    """
    out, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = endings.run(COMMANDS[command][0], [*words, endings.DEBUG])
    finally:
        os.chdir(before)
        sys.stderr.write(out.getvalue().encode("utf-8", "backslashreplace").decode())
    for line in out.getvalue().split("\n"):
        if not line.isprintable():
            raise AssertionError(f"it printed {line[:200]!r}")
    errors = [line for line in out.getvalue().splitlines() if line.startswith("error: ")]
    if code not in (0, endings.MISTAKE) or len(errors) > 1 or (code == 0 and errors):
        raise AssertionError(f"exit code {code}, and {len(errors)} errors")
    if errors:
        raise UserError(errors[0])
    return code


def _sets(folder: Path) -> None:
    """Images and labels of two splits, and a vocabulary."""
    for seed, name in enumerate(("train", "val")):
        samples.clevr_set(folder, _COUNT, seed=seed, name=name)
    train_small(samples.texts(), folder)


def _predict(folder: Path) -> None:
    scenes = load_examples(Source(f"{folder}/images/val.tar", f"{folder}/labels/val.json"), samples.options()).scenes
    texts = {scene.image: write_scene(scene, samples.options(head="none"), None).text for scene in scenes}
    predictions = Predictions(texts, task="clevr", rotation_unit="deg")
    write_predictions(folder / "predictions.json", predictions, model_path="run", model_base=None, model_name="step_7")


# flags

_SHOWN = ("--labels", "labels/val.json", "--predictions", "predictions.json")
_SIZE = ("--image_size", "24x16", "--workers", "1")
# Lines that work or fail within a moment, with what else of the command may stand on them. Nothing here starts a
# training or installs anything, whatever a fault makes of it.
_LINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "evaluate": (
        (*_SHOWN, "--rotation_unit", "deg", "--seed", "1", "--bootstrap", "2"),
        ("--task", "--rotation_rep", "--train_split", "--out", "--format", "--confusion", "--ap", "--renders"),
    ),
    "render": (
        (*_SHOWN, "--images", "images/val.tar", "--out", "drawn", "--limit", "1", *_SIZE),
        ("--task", "--rotation_rep", "--rotation_unit", "--export", "--samples", "--device", "--meshes", "--code"),
    ),
    "report": (
        (*_SHOWN, "--images", "images/val.tar", "--out", "r.html", "--bootstrap", "2", "--scenes", "1", *_SIZE),
        ("--title", "--task", "--rotation_rep", "--rotation_unit", "--seed", "--overwrite", "--meshes", "--samples"),
    ),
    "language": (("clevr", "--labels", "labels/val.json", "--tokenizer", "."), ("--rotation_rep",)),
    "check-rotation": (("--images", "images/val.tar", "--labels", "labels/val.json", "--limit", "2"), ("--renderer",)),
    "make-data": (
        ("twod", "--out", "own", "--num_train", "2", "--num_val", "2", "--seed", "3"),
        ("--overwrite", "--shard", "--meshes", "--from"),
    ),
    "pack": (("--data", "absent", "--out", "packed"), ("--name",)),
    "generate": (
        ("--workdir", "absent", "--images", "images/val.tar", "--out", "p.json", "--batch_size", "2", "--limit", "1"),
        ("--model", "--step", "--num_drafts", "--grammar", "--dtype", "--tensor", "--task", "--max_new_tokens"),
    ),
    "check": (
        ("--config", "tiny:task=clevr", "--config.data.train.images", "absent", "--workdir", "w"),
        ("--all", "--config.optim.lr", "--config.data.cache", "--config.nothing", "--step"),
    ),
}
_WORDS = (
    "", " ", "0", "-1", "1", "2", "1.5", "1e9", "nan", "-inf", "9" * 400, "0x10", "٣", "1_0", "x", "None", "[", "--",
    "\x1b[2J", "a\nb", "\udcff.json", "\u202egnp", "labels", "x" * 300, "x" * 5000, "6d", "best", "1/2", "a/b",
)  # fmt: skip
_WHOLE = {
    "--limit", "--seed", "--bootstrap", "--workers", "--num_train", "--num_val", "--batch_size", "--scenes",
    "--samples", "--num_drafts", "--tensor", "--max_new_tokens",
}  # fmt: skip


def _folder_for_flags(folder: Path) -> Files:
    _sets(folder)
    _predict(folder)
    (folder / "line.json").write_text(json.dumps(["evaluate", *_LINES["evaluate"][0]]))
    return files_below(folder)


def _draw_line(rng: random.Random, files: Files) -> Files:
    command = rng.choice(sorted(_LINES))
    words, others = list(_LINES[command][0]), _LINES[command][1]
    flags = [at for at, word in enumerate(words) if word.startswith("--")]
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.choice(flags)
        match rng.randrange(7):
            case 0:
                words += [rng.choice(others), rng.choice(_WORDS)]
            case 1:
                words.append(rng.choice((*others, "--nothing", words[at][:-1], words[at] + "=" + rng.choice(_WORDS))))
            case 2:
                words.insert(rng.randrange(len(words) + 1), rng.choice(_WORDS))
                flags = [at for at, word in enumerate(words) if word in _LINES[command][0] and word.startswith("--")]
            case 3 if at + 1 < len(words):
                words += words[at : at + 2]
            case _ if at + 1 < len(words):
                words[at + 1] = rng.choice(_WORDS)
    return {"line.json": json.dumps([command, *words]).encode()}


def _run_line(folder: Path) -> tuple[int, list[str]]:
    command, *words = json.loads((folder / "line.json").read_bytes())
    return _run_in(folder, command, words), words


def _line_differs(folder: Path, found: tuple[int, list[str]]) -> str:
    """What a command took for a whole number is one, and it is what `igllm make-data` made so many of."""
    code, words = found
    pairs = zip(words, [*words[1:], ""], strict=True)
    given = {word.partition("=")[0]: word.partition("=")[2] or following for word, following in pairs}
    for flag, value in given.items():
        if flag in _WHOLE and code == 0 and not re.fullmatch("-?[0-9]+", value):
            return f"{flag} took {value[:20]!r}"
    made = folder / "own/2d.npz"
    if code == 0 and made.exists():
        with np.load(made) as arrays:
            if len(arrays["random"]) != int(given["--num_val"]):
                return "another number of points"
    return ""


# `igllm check`

_SETTINGS = (
    "batch_size", "data.max_length", "data.image_size", "data.image_mean", "data.prompt", "data.num_workers",
    "data.train.num_samples", "data.max_image_side", "data.buckets", "data.rotation_unit", "optim.lr",
    "optim.trainable", "train.num_steps", "train.checkpoint_every", "train.keep_checkpoints", "mesh.fsdp",
    "mesh.tensor", "model.decoder.num_heads", "model.decoder.width", "model.vision.patch_size", "model.lora.rank",
    "model.base", "tokenizer.path", "eval.generate_samples", "task", "head", "rotation_rep", "seed",
)  # fmt: skip
_LITERALS = (
    "0", "-1", "1", "7", "1.5", "1e9", "float('nan')", "10**30", "''", "'x'", "'\\x1b[2J'", "'6d'", "()", "(1, 2)",
    "None", "True", "{}", "[1, 2, 3]", "'../absent'", "1 / 0", "undefined", "'\\udcff'", "'a\\nb'", "'a\\0b'",
    "open('absent')",
)  # fmt: skip
_START = "from configs import tiny\n\n\ndef get_config():\n    config = tiny.get_config('task=clevr,head=linear')\n"


def _folder_to_check(folder: Path) -> Files:
    _sets(folder)
    (folder / "own.py").write_text(_START + "    return config\n")
    return files_below(folder)


def _mutate_run(rng: random.Random, files: Files) -> Files:
    """The config file gets lines of its own, or labels or images a fault."""
    choice = rng.random()
    labels = [name for name in files if name.endswith(".json")]
    if choice < 0.4:
        name = rng.choice(sorted(labels))
        return {**files, **mutate.of_json(rng, {name: files[name]})}
    if choice < 0.6:
        name = rng.choice(sorted(name for name in files if name.endswith(".tar")))
        return {**files, **mutate.of_tar(rng, {name: files[name]})}
    lines = [f"    config.{rng.choice(_SETTINGS)} = {rng.choice(_LITERALS)}\n" for _ in range(rng.choice((1, 1, 2)))]
    return {**files, "own.py": (_START + "".join(lines) + "    return config\n").encode()}


_FEW = {key: value for key, value in runs.SMALLER.items() if key.startswith(("model.", "eval.", "train.tensor"))}


def _check(folder: Path) -> int:
    data = {
        f"data.{split}.{part}": folder / f"{part}/{split}.{end}"
        for split in ("train", "val")
        for part, end in (("images", "tar"), ("labels", "json"))
    }
    own = (folder / "own.py").read_text()
    values = {"tokenizer.path": folder, "tokenizer.train_vocab_size": 0, **_FEW, **data}
    said = [f"--config.{key}={value}" for key, value in values.items() if f"config.{key} =" not in own]
    return _run_in(folder, "check", ["--config", str(folder / "own.py"), *said, "--workdir", str(folder / "run")])


def _check_differs(folder: Path, code: int) -> str:
    """Where the config is ours and the run is said to be ready, every scene of both splits becomes a row."""
    if code or "config." in (folder / "own.py").read_text().removeprefix(_START):
        return ""
    for split in ("train", "val"):
        found = load_examples(
            Source(f"{folder}/images/{split}.tar", f"{folder}/labels/{split}.json"), samples.options()
        )
        maker = RowMaker(samples.options(), Tokenizer.load(folder))
        for index, scene in enumerate(found.scenes):
            if not np.isfinite(maker.row(scene, None).numbers).all() or not found.image(index).size:
                return f"a scene of {split} is none that can be learned from"
    return ""


# `igllm report`


def _folder_to_show(folder: Path) -> Files:
    counts = ("--num_train", "1", "--num_val", str(_COUNT), "--max_objects", "4")
    make_data.main(["clevr", "--out", str(folder), *counts, *_SIZE])
    for part in ("images", "labels"):
        (file,) = (folder / part).glob("val_ID.*")
        file.rename(file.with_stem("val"))
    _predict(folder)
    names = ("images/val.tar", "labels/val.json", "predictions.json")
    return {name: (folder / name).read_bytes() for name in names}


def _mutate_shown(rng: random.Random, files: Files) -> Files:
    name = rng.choice(sorted((*files, "predictions.json")))
    if name.endswith(".tar"):
        return {**files, **mutate.of_tar(rng, {name: files[name]})}
    return {**files, **mutate.of_json(rng, {name: files[name]})}


def _show(folder: Path) -> str:
    """The page."""
    sampling = ("--bootstrap", "5", "--scenes", "2", "--workers", "1")
    _run_in(folder, "report", (*_SHOWN, "--images", "images/val.tar", "--out", "report.html", *sampling))
    return (folder / "report.html").read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Python's own reader: how many elements of each kind there are, and the content that is data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.content = ""
        self._is_content = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._is_content = ("id", "content") in attrs

    def handle_data(self, data: str) -> None:
        if self._is_content:
            self.content += data

    def handle_endtag(self, tag: str) -> None:
        self._is_content = False


def _page_differs(folder: Path, page: str) -> str:
    """The page has no element that a text put there, and shows the answers that the file holds."""
    parser = _Page()
    parser.feed(page)
    if set(parser.tags) - {"html", "head", "meta", "title", "link", "style", "body", "noscript", "main", "script"}:
        return "an element of another kind"
    if parser.tags.count("script") > 3:
        return "another script"
    content = json.loads(parser.content)
    answers = json.loads((folder / "predictions.json").read_bytes())["answers"]
    named = {entry["image_filename"] for entry in entries((folder / "labels/val.json").read_bytes())}
    return "" if content["num_labelled"] == len(named & answers.keys()) else "other scenes"


COMMAND_KINDS = {
    "command flags": Kind(_folder_for_flags, _run_line, _draw_line, _line_differs, lambda name: name == "line.json"),
    "runs to check": Kind(
        _folder_to_check,
        _check,
        _mutate_run,
        _check_differs,
        lambda name: name.endswith((".json", ".tar", ".py")),
    ),
    "sets to report": Kind(_folder_to_show, _show, _mutate_shown, _page_differs),
}
