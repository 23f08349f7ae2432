"""What the tiny model learns of flat CLEVR on a CPU, beside a control that can't see.

The control trains the same way on the same images with their labels shuffled, so it learns how code looks and how
objects lie on average, and nothing of the image. Run by hand:

    python benchmarks/learn_clevr.py --out /tmp/learn_clevr
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
NAMES = {"real": "trained", "control": "control (labels shuffled)"}
COLUMNS = ("l2", "ace", "size", "color", "mat", "shape", "parsed")


def igllm(*words: str) -> None:
    print("igllm", *words, flush=True)
    subprocess.run([sys.executable, "-m", "igllm_jax", *words], cwd=ROOT, check=True)


def shuffle_labels(source: Path, out: Path, seed: int) -> None:
    """The same scenes, each with the name of another scene's image (a random cycle: none keeps its own)."""
    content = json.loads(source.read_text())
    order = np.random.default_rng(seed).permutation(len(content["scenes"]))
    names = [content["scenes"][index]["image_filename"] for index in order]
    for index, name in zip(order, names[1:] + names[:1], strict=True):
        content["scenes"][index]["image_filename"] = name
    out.write_text(json.dumps(content))


def train(name: str, options: argparse.Namespace) -> float:
    """Trains one model, unless it is there; returns minutes."""
    data, workdir = options.out / "data", options.out / name
    done = workdir / "minutes"
    if done.exists():
        return float(done.read_text())
    labels = data / "labels" / "train.json"
    if name == "control":
        labels = options.out / "shuffled.json"
        shuffle_labels(data / "labels" / "train.json", labels, seed=0)
    started = time.monotonic()
    igllm(
        "train", "--config=configs/tiny.py:task=clevr", "--workdir", str(workdir),
        f"--config.data.train.images={data}/images/train.tar", f"--config.data.train.labels={labels}",
        f"--config.data.val.images={data}/images/val_ID.tar", f"--config.data.val.labels={data}/labels/val_ID.json",
        f"--config.data.cache={options.out}/cache", "--config.eval.generate_every=0", *options.override,
    )  # fmt: skip
    minutes = (time.monotonic() - started) / 60
    done.write_text(f"{minutes:.2f}")
    return minutes


def score(name: str, split: str, options: argparse.Namespace) -> dict:
    """Writes code for the split's images and evaluates it, with bootstrap intervals."""
    data, stem = options.out / "data", options.out / f"{name}_{split}"
    predictions, report = f"{stem}.json", f"{stem}_metrics.json"
    images, labels = f"{data}/images/{split}.tar", f"{data}/labels/{split}.json"
    igllm(
        "generate", "--grammar", "none", "--workdir", str(options.out / name), "--images", images, "--out", predictions,
        "--batch_size", "50", "--max_new_tokens", "320",
    )  # fmt: skip
    igllm("evaluate", "--labels", labels, "--predictions", predictions, "--out", report, "--bootstrap", "1000")
    return json.loads(Path(report).read_text())


def cell(report: dict, name: str) -> str:
    value = report["metrics"].get(name)
    if value is None:
        return "-"
    low, high = report["intervals"][name]
    digits = 2 if name in ("l2", "ace") else 1
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=tuple(NAMES), help="train just one of the two, score nothing")
    parser.add_argument("--split", default="val_ID")
    parser.add_argument("override", nargs="*", help="more --config.KEY=VALUE, after --")
    options = parser.parse_args()
    options.out = options.out.absolute()
    if not (options.out / "data" / "labels").exists():
        sizes = ("--num_train", "2000", "--num_val", "200")
        igllm("make-data", "clevr", "--renderer", "flat", "--out", str(options.out / "data"), *sizes)
    minutes = {name: train(name, options) for name in ([options.only] if options.only else NAMES)}
    if options.only:
        return
    print(f"| {options.split} | minutes | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 2))
    for name in NAMES:
        report = score(name, options.split, options)
        print(f"| {NAMES[name]} | {minutes[name]:.1f} | " + " | ".join(cell(report, c) for c in COLUMNS) + " |")


if __name__ == "__main__":
    main()
