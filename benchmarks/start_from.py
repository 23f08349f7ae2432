"""Held-out loss of tiny CLEVR runs that start from a run on another language, beside runs that start from nothing.

    python benchmarks/start_from.py --out DIR

One run on the other language, then for each seed two on CLEVR that differ by model.start_from alone. The same command
goes on where it was stopped; what is done is read, not trained again. Intervals are over seeds, not over source runs.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from igllm_jax.report.curves import RunCurves, RunGroup, read_run
from igllm_jax.weights import checkpoint

ROOT = Path(__file__).resolve().parent.parent
TARGET = "clevr"
KINDS = ("nothing", "other")
SETS = ("val_ID", "val_OOD")
DATA = ("--num_train", "2000", "--num_val", "128", "--image_size", "144x96", "--workers", "1")


def igllm(*words: str) -> None:
    """Runs a command; its output goes to ours."""
    print("igllm", *words, flush=True)
    subprocess.run([sys.executable, "-m", "igllm_jax", *words], cwd=ROOT, check=True)


def make_data(task: str, options: argparse.Namespace) -> None:
    """Images and labels of a language, unless they are there."""
    folder = options.out / "data" / task
    is_made = folder / "is_made"
    if not is_made.exists():
        igllm("make-data", task, "--out", str(folder), *DATA, "--overwrite")
        is_made.touch()


def train(task: str, workdir: Path, options: argparse.Namespace, *more: str) -> RunCurves:
    """What a run measured, trained first as far as it is not yet."""
    steps = options.steps if task == TARGET else options.source_steps
    is_done = checkpoint.count(workdir) > 0 and checkpoint.find_step(workdir, "last") >= steps
    if not is_done:
        make_data(task, options)
        folder = options.out / "data" / task
        sets = [(name, f"{folder}/images/{name}.tar", f"{folder}/labels/{name}.json") for name in SETS]
        igllm(
            "train", f"--config=configs/tiny.py:task={task}", "--workdir", str(workdir),
            f"--config.data.train.images={folder}/images/train.tar",
            f"--config.data.train.labels={folder}/labels/train.json",
            f"--config.data.val_sets={tuple(sets if task == TARGET else sets[:1])}",
            f"--config.data.cache={options.out}/cache", f"--config.train.num_steps={steps}",
            "--config.train.checkpoint_every=250", "--config.eval.generate_every=0",
            f"--config.eval.loss_every={max(1, steps // 5)}", "--config.eval.loss_samples=128", *more,
        )  # fmt: skip
    return read_run(workdir)


def table(groups: list[RunGroup]) -> list[str]:
    """Markdown: a row for each set and step, means with 95 % intervals, and whether these are apart."""
    lines = ["| set, step | " + " | ".join(group.name for group in groups) + " | apart |", "|" + " --- |" * 4]
    for name in SETS:
        first, second = (group.mean_curve(f"{name}/loss") for group in groups)
        for step in sorted(set(first) & set(second)):
            one, other = first[step], second[step]
            is_known = one.low is not None and other.high is not None
            is_apart = "" if not is_known else "yes" if one.low > other.high else "no"
            lines.append(f"| {name}, {step} | {one} | {other} | {is_apart} |")
    return lines


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", default="shapenet", help="the other language (default: shapenet)")
    parser.add_argument("--source_steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out = options.out.absolute()
    runs: dict[str, list[RunCurves]] = {kind: [] for kind in KINDS}
    source = options.out / options.source
    train(options.source, source, options)
    for seed in range(options.seeds):
        for kind in KINDS:
            chosen = [f"--config.seed={seed}"]
            chosen += [f"--config.model.start_from={source}"] if kind == "other" else []
            runs[kind].append(train(TARGET, options.out / f"from_{kind}-{seed}", options, *chosen))
    names = ("from nothing", f"from {options.source_steps} steps on {options.source}")
    print("\n".join(table([RunGroup(name, tuple(runs[kind])) for name, kind in zip(names, KINDS, strict=True)])))


if __name__ == "__main__":
    main()
