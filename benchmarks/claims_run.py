"""One cell of a claim: trains, generates, evaluates, and writes what came out as one JSON file of a few kB.

Resumable at every step: training goes on from its last checkpoint, predictions that are there are not made again, and
what is resumed gives the same numbers.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.claims_cells import CURVE_POINTS, MAX_NEW_TOKENS, PAPER_MAX_NEW_TOKENS, RELEASED, TEXT, Cell
from benchmarks.learn_clevr import shuffle_labels
from configs.claims import SINGLE
from igllm_jax import config, evaluate, files, train
from igllm_jax.data import tars
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.predict import predict
from igllm_jax.parallel.sharding import MeshLayout, make_mesh
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import Predictions, of_language, write_predictions
from igllm_jax.weights import checkpoint
from igllm_jax.weights.trained_model import load_run

ROOT = Path(__file__).resolve().parent.parent
PAPER_CONFIGS = {"twod": "twod", "clevr": "clevr", "so3": "so3", "sixdof": "sixdof", "shapenet": "shapenet"}
BATCH_SIZE = 50  # images that are answered at once
CURVE_IMAGES = 250  # that are answered at a point on the way
RESAMPLES = 1000


@dataclass(frozen=True)
class Setting:
    """Where cells run. data: data sets of this size. base: imported weights. overrides: --config.KEY=VALUE."""

    size: str
    out: Path
    data: Path
    results: Path
    base: str = ""
    overrides: tuple[str, ...] = ()

    def result(self, cell: Cell) -> Path:
        """The cell's JSON file."""
        return self.results / ("" if self.size == "tiny" else self.size) / f"{cell.name}.json"

    def workdir(self, cell: Cell) -> Path:
        """The cell's run."""
        return self.out / self.size / cell.name

    @property
    def real(self) -> Path:
        """What benchmarks/real_weights.py makes."""
        return self.out / "real"

    def source(self, data: str, split: str) -> tuple[str, str]:
        """Images and labels of a data set's split."""
        folder = self.data / (data if self.size == "tiny" else RELEASED[data])
        if data == "twod":
            points = f"{folder}/2d.npz:{split}"
            return points, points
        return f"{folder}/images/{split}.tar", f"{folder}/labels/{split}.json"


def train_arguments(cell: Cell, setting: Setting) -> list[str]:
    """The command line of `igllm train`."""
    images, labels = setting.source(cell.data, cell.train_split)
    if cell.is_shuffled:
        labels = str(setting.workdir(cell) / "shuffled.json")
    val_images, val_labels = setting.source(cell.data, cell.splits[0])
    chosen = [f"head={cell.head}"] + ([f"rotation_rep={cell.rotation_rep}"] if cell.rotation_rep else [])
    file = PAPER_CONFIGS[cell.task]
    if cell.weights:
        file = cell.claim
    elif setting.size == "tiny":
        file, chosen = "claims", [f"task={cell.task}", *chosen]
    values = {
        **(SINGLE[cell.task] if cell.is_single else {}),
        "seed": cell.seed,
        "data.train.images": images,
        "data.train.labels": labels,
        "data.val.images": val_images,
        "data.val.labels": val_labels,
        "data.cache": setting.out / "cache" / setting.size,
    }
    if cell.num_images:
        values["data.train.num_samples"] = cell.num_images
    if setting.base:
        values["model.base"] = setting.base
    if cell.weights:
        key = "model.base" if cell.weights == "real" else "tokenizer.path"
        values[key] = setting.real / "base"
    given = [f"--config.{key}={value}" for key, value in values.items()]
    named = [f"--config={ROOT}/configs/{file}.py:{','.join(chosen)}", "--workdir", str(setting.workdir(cell))]
    return [*named, *given, *setting.overrides]


def run_cell(cell: Cell, setting: Setting) -> bool:
    """All that is left of a cell; True once its JSON file is there, False where training was stopped by a signal."""
    if setting.result(cell).exists():
        return True
    workdir = setting.workdir(cell)
    workdir.mkdir(parents=True, exist_ok=True)
    arguments = train_arguments(cell, setting)
    if cell.is_shuffled and not (workdir / "shuffled.json").exists():
        shuffle_labels(Path(setting.source(cell.data, cell.train_split)[1]), workdir / "shuffled.json", seed=cell.seed)
    num_steps = config.load(arguments)[0].train.num_steps
    every = num_steps
    if cell.has_curve:
        every = -(-num_steps // CURVE_POINTS)
        arguments += [f"--config.train.checkpoint_every={every}", f"--config.train.keep_checkpoints={CURVE_POINTS}"]
    with _timed(workdir, "training"):
        train.main(arguments)
    if checkpoint.find_step(workdir, "last") < num_steps:
        return False
    with _timed(workdir, "scoring"):
        scores = _score(cell, setting, [*range(every, num_steps, every), num_steps])
    files.write_text(setting.result(cell), json.dumps(_content(cell, setting, arguments, scores), indent=1) + "\n")
    return True


@contextmanager
def _timed(workdir: Path, name: str) -> Iterator[None]:
    """Adds the minutes that a part took, by the clock and of the processor, to those of the sessions before."""
    path = workdir / "minutes.json"
    wall, processor = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        known = json.loads(path.read_text()) if path.exists() else {}
        spent = {name: time.monotonic() - wall, f"{name}_processor": time.process_time() - processor}
        files.write_text(path, json.dumps({**known, **{k: known.get(k, 0.0) + v / 60 for k, v in spent.items()}}))


def _score(cell: Cell, setting: Setting, steps: list[int]) -> dict[int, dict[str, Any]]:
    """Step -> split -> report of `igllm evaluate`. All splits at the last step, the first alone before."""
    generator, found = None, {}
    for step in steps:
        found[step] = {}
        for split in cell.splits if step == steps[-1] else cell.splits[:1]:
            out = setting.workdir(cell) / f"{split}-{step}.json"
            images, labels = setting.source(cell.data, split)
            if not out.exists():
                limit = 0 if step == steps[-1] else CURVE_IMAGES
                generator = _write_answers(cell, setting, generator, step, images, out, limit)
            found[step][split] = evaluate.evaluate(labels, str(out), bootstrap=RESAMPLES)[str(out)]
    return found


def _write_answers(
    cell: Cell, setting: Setting, generator: AnswerGenerator | None, step: int, images: str, out: Path, limit: int
) -> AnswerGenerator:
    """What `igllm generate --grammar none` writes, by one generator for all steps and splits, which compiles once."""
    layout = MeshLayout.of("decode", make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    trained = load_run(setting.workdir(cell), str(step), layout)
    most = MAX_NEW_TOKENS[cell.head == TEXT][cell.data] if setting.size == "tiny" else PAPER_MAX_NEW_TOKENS
    if generator is None:
        generator = AnswerGenerator(trained.model, trained.tokenizer, trained.data, most, layout)
    generator.guess_from(ngram_drafts.empty())  # so that answers do not depend on which were there before
    prepared = generator.prepare(trained.params)
    answers = predict(generator, prepared, tars.open_images(images), batch_size=BATCH_SIZE, limit=limit)
    predictions = Predictions(
        {name: answer.text for name, answer in answers.items()},
        rotation_rep=trained.data.rotation_rep,
        rotation_unit=trained.data.rotation_unit,
        train_split=trained.train_split,
        grammar="none",
        **of_language(find_language(trained.data.task)),
    )
    write_predictions(out, predictions, **trained.about)
    return generator


def _content(cell: Cell, setting: Setting, arguments: list[str], scores: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """What the JSON file holds."""
    steps = sorted(scores)
    short = {step: {split: _rounded(report) for split, report in scores[step].items()} for step in steps}
    command = " ".join(["igllm", "train", *arguments])
    for folder, name in ((setting.out, "OUT"), (setting.data, "DATA"), (ROOT, ".")):
        command = command.replace(f"{folder}", name)
    minutes = json.loads((setting.workdir(cell) / "minutes.json").read_text())
    return {
        "cell": {**asdict(cell), "size": setting.size},
        "command": command.replace("./", ""),
        "steps": steps[-1],
        "splits": short[steps[-1]],
        "curve": [{"step": step, **short[step][cell.splits[0]]} for step in steps],
        "minutes": {name: round(value, 2) for name, value in minutes.items()},
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in ("jax", "flax", "numpy")},
        "commit": _commit(),
    }


def scored(labels: str, answers: Path) -> dict[str, Any]:
    """What `igllm evaluate` says of answers, as a JSON file has it."""
    return _rounded(evaluate.evaluate(labels, str(answers), bootstrap=RESAMPLES)[str(answers)])


def _rounded(report: dict[str, Any]) -> dict[str, Any]:
    """Of a report what tables and plots show, in 6 digits after the point."""
    metrics = {name: value if value is None else round(value, 6) for name, value in report["metrics"].items()}
    intervals = {name: [round(end, 6) for end in ends] for name, ends in report["intervals"].items()}
    return {"metrics": metrics, "intervals": intervals, "num_scenes": report["num_scenes"]}


def machine() -> str:
    """Cores that this process may use, and whose they are; accelerators by their own name."""
    import jax

    if jax.default_backend() != "cpu":
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{cores} {'core' if cores == 1 else 'cores'}, {model}"


def _commit() -> str:
    """Of the code that ran, or nothing where this is no clone."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip()
