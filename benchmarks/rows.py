"""Rows a second: writing scenes as code and tokenising it, of this checkout and, in turns with it, of another.

    python benchmarks/rows.py [--against CHECKOUT] [--scenes N] [--rounds N]

Rows are those of training (attributes shuffled, synonyms drawn), of CLEVR scenes of 3 to 10 objects. A side runs in a
process of its own, on the same labels and tokenizer; only the rows are timed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__" and str(ROOT) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    sys.path.insert(0, str(ROOT))
HEADS = ("none", "tanh_mlp_gelu")
WORDS = {"size": ("large", "small"), "color": ("red", "blue", "gray"), "material": ("metal", "rubber")}
SHAPES = ("cube", "sphere", "cylinder")


def labels(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"image_filename": f"{i}.png", "objects": [thing(rng) for _ in range(rng.integers(3, 11))]}
            for i in range(count)]  # fmt: skip


def thing(rng: np.random.Generator) -> dict[str, Any]:
    words = {key: str(rng.choice(options)) for key, options in (WORDS | {"shape": SHAPES}).items()}
    numbers = {"3d_coords": rng.uniform(-3, 3, 3).tolist(), "pixel_coords": rng.uniform(0, 300, 3).tolist()}
    return {**words, **numbers, "rotation": float(rng.uniform(0, 360))}


def serve(folder: Path) -> None:
    """Prints the rows a second of each head, as JSON."""
    from igllm_jax.data.options import DataOptions
    from igllm_jax.data.rows import RowMaker
    from igllm_jax.data.tokens import Tokenizer
    from igllm_jax.scene.scene import Scene

    tokenizer = Tokenizer.load(folder)
    scenes = [Scene.from_label(label, "clevr") for label in json.loads((folder / "labels.json").read_text())]
    rates = {}
    for head in HEADS:
        maker, rng = (
            RowMaker(DataOptions("clevr", head, 336, (0.5, 0.5, 0.5), 2048), tokenizer),
            np.random.default_rng(0),
        )
        for scene in scenes[:50]:
            maker.row(scene, rng)
        start = time.perf_counter()
        for scene in scenes:
            maker.row(scene, rng)
        rates[head] = len(scenes) / (time.perf_counter() - start)
    print(json.dumps(rates))


def run_side(checkout: Path, folder: Path) -> dict[str, float]:
    own = {**os.environ, "PYTHONPATH": str(checkout)}
    line = [sys.executable, str(Path(__file__).resolve()), "--serve", str(folder)]
    return json.loads(subprocess.run(line, env=own, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the folder of another checkout")
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    from benchmarks import report
    from igllm_jax.data.tokens import train_small
    from igllm_jax.scene.code import write
    from igllm_jax.scene.scene import Scene

    report.heading("rows: writing and tokenising")
    sides = {"this": ROOT} | ({"other": wanted.against.resolve()} if wanted.against else {})
    with tempfile.TemporaryDirectory(prefix="igllm-bench-") as name:
        folder, made = Path(name), labels(wanted.scenes)
        (folder / "labels.json").write_text(json.dumps(made))
        plain = {"rotation_rep": "", "numbers_as_tokens": False, "shuffle_attributes": True, "use_synonyms": True}
        rng = np.random.default_rng(1)
        texts = [write(Scene.from_label(label, "clevr"), "clevr", rng=rng, **plain).text for label in made[:500]]
        train_small(texts, folder)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(wanted.rounds):
            for side, checkout in sides.items():
                found[side].append(run_side(checkout, folder))
    rows = []
    for side, rates in found.items():
        row = {"side": side} | {f"rows/s, head={head}": report.spread([rate[head] for rate in rates]) for head in HEADS}
        if side == "this" and "other" in found:
            pairs = list(zip(rates, found["other"], strict=True))
            row |= {
                f"over other, {head}": report.spread([a[head] / b[head] for a, b in pairs], ".2f") for head in HEADS
            }
        rows.append(row)
    report.table(rows)


if __name__ == "__main__":
    serve(Path(sys.argv[2])) if sys.argv[1:2] == ["--serve"] else main()
