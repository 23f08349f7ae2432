"""Every path argument of every command, as an address in a bucket: a table of commands, checked to name them all."""

import argparse
import importlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from igllm_jax import __main__ as cli
from igllm_jax import buckets, files, flags, line_log, make_data, paths
from igllm_jax.data.tars import open_images
from igllm_jax.errors import UserError
from igllm_jax.interop import formats
from igllm_jax.scene.labels import read_labels
from igllm_jax.scene.language import FOLDER as LANGUAGES
from tests import runs
from tests.interop import made

ROOT = Path(__file__).parents[2]
COMMANDS = {name: module for name, (module, _) in cli.COMMANDS.items()} | {"convert": "igllm_jax.interop.command"}
DRAWN = ("--num_train", "8", "--num_val", "2", "--image_size", "64x48", "--workers", "1")
LABELS = ("--labels", "GIVEN/clevr/labels/val_ID.json")
VAL = (*LABELS, "--images", "GIVEN/clevr/images/val_ID.tar")
ANSWERS = ("--predictions", "GIVEN/answers.json")
LANGUAGE = ("--task", "GIVEN/words.toml")
SMALL = [f"--config.{key}={value}" for key, value in runs.SMALLER.items()]
DATA = [
    f"--config.data.{split}.{kind}=GIVEN/clevr/{kind}/{name}.{ending}"
    for split, name in (("train", "train"), ("val", "val_ID"))
    for kind, ending in (("images", "tar"), ("labels", "json"))
]
CONFIG = ["--config", "GIVEN/mine.py:task=clevr", *SMALL, *DATA]
SHORT = ["--config.train.num_steps=2", "--config.batch_size=8", "--config.eval.loss_every=0"]
DECODED = ("--max_new_tokens", "14", "--batch_size", "2")
# name -> the command's words (GIVEN holds what is there, OUT is the test's own), and what is there afterwards
CASES = {
    "make-data": (["make-data", "clevr", "--out", "OUT/data", *DRAWN], "data/labels/val_ID.json"),
    "make-data twod": (["make-data", "twod", "--out", "OUT", "--num_train", "3", "--num_val", "3"], "2d.npz"),
    "pack": (["pack", "--data", "GIVEN/clevr", "--out", "OUT"], "clevr/1.0.0/dataset_info.json"),
    "language": (
        ["language", "GIVEN/words.toml", "--labels", LABELS[1], "--tokenizer", "GIVEN/tokenizer.model"], None,
    ),
    "check-rotation": (["check-rotation", *VAL, "--workers", "1"], None),
    "check": (["check", *CONFIG, "--workdir", "OUT/run"], None),
    "train": (["train", *CONFIG, *SHORT, "--workdir", "OUT/run"], "run/checkpoints/2/params/_METADATA"),
    "generate": (
        ["generate", "--workdir", "GIVEN/run", *VAL[2:], "--out", "OUT/answers.json", *DECODED], "answers.json",
    ),
    "generate, imported": (
        ["generate", "--model", "GIVEN/base", "--images", "GIVEN/image.png", *LANGUAGE, "--grammar", "none", *DECODED,
         "--out", "OUT/answers.json"],
        "answers.json",
    ),
    "evaluate": (
        ["evaluate", *LABELS, *ANSWERS, *LANGUAGE, "--renders", "GIVEN/drawn", "--out", "OUT/scores.json"],
        "scores.json",
    ),
    "render": (
        ["render", *VAL, *ANSWERS, *LANGUAGE, "--out", "OUT/drawn", "--export", "json", "--workers", "1"],
        "drawn/render.json",
    ),
    "render, code": (["render", "--code", "GIVEN/code.txt", "--out", "OUT/drawn"], "drawn/render.json"),
    "refine": (
        ["refine", *ANSWERS, *VAL[2:], *LANGUAGE, "--out", "OUT/refined.json",
         "--limit", "1", "--steps", "1"],
        "refined.json",
    ),
    "report": (
        ["report", *VAL, *ANSWERS, *LANGUAGE, "--out", "OUT/page.html", "--workers", "1"], "page.html",
    ),
    "report, runs": (
        ["report", *VAL, *ANSWERS, *LANGUAGE, "--run", "GIVEN/run", "--out", "OUT/page.html", "--workers", "1"],
        "page.html",
    ),
    "compare": (["compare", "GIVEN/run", "--out", "OUT/page.html", "--csv", "OUT/table.csv"], "table.csv"),
    "sweep": (
        ["sweep", *CONFIG, *SHORT, "--set", "seed=3", "--out", "OUT/runs"],
        "runs/seed=3/checkpoints/2/params/_METADATA",
    ),
    "plan": (["plan", *CONFIG, "--topology", "local", "--json", "OUT/plan.json"], "plan.json"),
    "import": (
        ["convert", "import", "--vision", "GIVEN/vision", "--decoder", "GIVEN/decoder", "--adapter", "GIVEN/adapter",
         "--tokenizer", "GIVEN/decoder/tokenizer.model", "--out", "OUT/base"],
        "base/model.json",
    ),
    "import, a LLaVA": (["convert", "import", "--llava", "GIVEN/llava", "--out", "OUT/base"], "base/model.json"),
    "import, a projector": (
        ["convert", "import", "--vision", "GIVEN/vision", "--decoder", "GIVEN/decoder", "--projector",
         "GIVEN/projector.safetensors", "--out", "OUT/base"],
        "base/model.json",
    ),
    "import, two towers": (
        ["convert", "import", "--vision", "GIVEN/vision", "--second_vision", "GIVEN/vision", "--decoder",
         "GIVEN/decoder", "--out", "OUT/base"],
        "base/model.json",
    ),
    "export": (
        ["convert", "export", "--model", "GIVEN/base", "--format", "safetensors", "--out", "OUT/out"],
        "out/trained.safetensors",
    ),
    "export, a run": (
        ["convert", "export", "--workdir", "GIVEN/run", "--format", "safetensors", "--out", "OUT/out"],
        "out/trained.safetensors",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def given(gcs, tmp_path_factory):
    """An address with one of everything that commands read."""
    folder, address = tmp_path_factory.mktemp("given"), f"{gcs}/given-{tmp_path_factory.getbasetemp().name}"
    make_data.main(["clevr", "--out", str(folder / "clevr"), *DRAWN])
    model = made.model()
    for kind in ("vision", "decoder", "adapter"):
        getattr(made, kind)(folder / kind, model, made.params(model))
    projector = {path: array for path, array in made.params(model).items() if path.startswith("projector/")}
    made.save(made.tensors(formats.non_lora(model.projector, "none"), projector), folder / "projector.safetensors")
    shutil.copyfile(LANGUAGES / "clevr.toml", folder / "words.toml")
    made.tokenizer(folder)
    images = open_images(folder / "clevr" / "images" / "val_ID.tar")
    (folder / "image.png").write_bytes(images.read_bytes(0))
    (folder / "mine.py").write_text("from configs.tiny import get_config  # noqa: F401\n")
    scenes = read_labels(folder / "clevr" / "labels" / "val_ID.json", "clevr")
    code = "add(size='large', color='red', material='metal', shape='cube', loc=(0.1, 0.2, 0.7), rotation=0.5)"
    (folder / "code.txt").write_text(code)
    answers = {scene.image: {"outputs": code} for scene in scenes}
    files.write_text(folder / "answers.json", json.dumps({"task": "clevr", "answers": answers}))
    files.upload_folder(folder, paths.to_path(address))
    runs.untrained(paths.to_path(f"{address}/run"), f"{address}/clevr")
    files.write_text(f"{address}/run/metrics/000001.jsonl", '{"step": 1, "loss": 2.5}\n')
    llava = ["convert", "export", "--model", "OUT/base", "--format", "llava-hf", "--out", "OUT/llava"]
    drawn = ["render", *VAL, *ANSWERS, "--out", "OUT/drawn", "--workers", "1"]
    for words in ([*CASES["import"][0], "--merge_lora"], llava, drawn):
        assert run(words, address, address) == 0
    return address


def run(words, given, out):
    """The exit code of a command in this process."""
    words = [word.replace("GIVEN", str(given)).replace("OUT", str(out)) for word in words]
    return importlib.import_module(COMMANDS[words[0]]).main(words[1:])


@pytest.mark.parametrize("case", CASES)
def test_a_command_reads_and_writes_in_a_bucket(given, tmp_path, case, monkeypatch):
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    out = f"{given.rpartition('/')[0]}/{tmp_path.parent.name}/{tmp_path.name}"
    words, written = CASES[case]
    assert run(words, given, out) == 0
    found = buckets.find(paths.to_path(out))
    assert written is None or found[written]["size"] > 0
    assert not [name for name in found if name.endswith((files.PARTIAL, files.UNFINISHED))]
    assert not [path for path in tmp_path.rglob("*") if ":" in path.name]  # no folder `gs:` on this machine
    if case == "train":
        lines = line_log.read(paths.to_path(f"{out}/run/metrics.jsonl")).decode().splitlines()
        assert [json.loads(line)["step"] for line in lines if '"loss"' in line] == [1, 2]


# not run here: Blender's and what only Blender shows or reads; serve, which stays up, and reads as generate does; and
# demo, which runs the others for minutes
UNTRIED = {
    *((name, "--clevr_assets") for name in ("make-data", "check-rotation", "render", "report")),
    *((name, "--meshes") for name in ("make-data", "render", "report")),
    *(("serve", flag) for flag in ("--workdir", "--model", "--images")),
    ("make-data", "--from"), ("serve", "--task"), ("demo", "--out"),
}  # fmt: skip


def arguments(monkeypatch):
    """(command, name of an argument) -> its argparse type, of every command."""
    found, seen = {}, []

    def look(parser, *_, **__):
        seen.append(parser)
        raise UserError("only looked at")

    monkeypatch.setattr(flags.Parser, "parse_args", look)
    for name, words in [*((name, []) for name in COMMANDS), ("make-data", ["--from"])]:
        with pytest.raises(UserError, match="only looked at"):
            importlib.import_module(COMMANDS[name]).main(words)
        for parser in seen:
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    seen += action.choices.values()
                else:
                    kind = action.type if action.choices is None else str
                    found[name, (action.option_strings or [action.metavar])[-1]] = kind
        seen.clear()
    return found


def test_the_table_names_every_path_argument(monkeypatch):
    found = arguments(monkeypatch)
    takes_paths = {at for at, kind in found.items() if kind in (flags.path, flags.source)}
    tried = {("language", "FILE"), ("compare", "RUN")}
    for words, _ in CASES.values():
        for flag, value in pairwise(words):
            if value.startswith(("GIVEN", "OUT")):
                tried.add((words[0], flag))
    assert takes_paths - tried == UNTRIED - tried
    assert {at for at, kind in found.items() if kind is flags.local_program} == {
        (name, "--blender") for name in ("make-data", "check-rotation", "render", "report")
    }
    paths_by_name = {flag for _, flag in takes_paths}
    assert not [at for at, kind in found.items() if kind is Path or (kind is None and at[1] in paths_by_name)]


def test_what_only_this_machine_reads_is_copied_here_first(gcs, tmp_path):
    files.write_text(f"{gcs}/{tmp_path.name}/deep/model.glb", "m")
    copy = paths.fetch(f"{gcs}/{tmp_path.name}")
    assert (copy / "deep" / "model.glb").read_text() == "m" and paths.fetch(f"{gcs}/{tmp_path.name}") == copy
    with pytest.raises(UserError, match=f"{gcs}/none: cannot be read .no such object"):
        paths.fetch(f"{gcs}/none")
