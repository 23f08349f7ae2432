"""`igllm demo`: the whole loop on 2D data that it makes itself, with the float head and with numbers as text.

Makes the data, trains both tiny models for the same steps, writes code for images they have not seen, scores it, and
leaves a table, a picture, a page and a report. Then the same once more on scenes of one or two solids.
"""

import argparse
import html
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from igllm_jax import config_files, evaluate, files, flags, generate, make_data, make_report, progress, train
from igllm_jax.errors import UserError
from igllm_jax.scene import checkerboard
from igllm_jax.scene.code import read
from igllm_jax.scene.labels import read_labels
from igllm_jax.scene.predictions import read_predictions

CONFIG = config_files.SHIPPED / "tiny.py"
HEADS = {"tanh_mlp_gelu": "float head", "none": "numbers as text"}
TRAIN_SPLIT, TEST_SPLIT = "checkerboard_sparse", "random"
PICTURE, PAGE, TABLE = "demo.png", "demo.html", "demo.json"
REPORT, SCENES_REPORT = "report.html", "scenes.html"
# Few and simple enough that minutes teach colours and rough places; see docs/decisions.md.
SCENES = {"--num_train": 3000, "--num_val": 60, "--min_objects": 1, "--max_objects": 2, "--image_size": "240x160"}
SCENE_COLUMNS = {"l2": "mean L2, units", "color": "right color, %", "size": "right size, %", "shape": "right shape, %"}
COLUMNS = {  # metric -> heading
    "parsed": "parses (%)",
    "l2_seen": "mean L2, seen cells",
    "l2_unseen": "mean L2, unseen cells",
    "within_5": "within 5 % (%)",
}

SceneMetrics = dict[str, float | None]  # of a report; None where nothing was measured


@dataclass(frozen=True)
class Result:
    """metrics: of METRICS.json. points: float64 [N, 2], predicted. seconds: of training."""

    metrics: dict[str, float]
    points: np.ndarray
    texts: list[str]
    seconds: float


def run_head(head: str, folder: Path, *, steps: int, images: int) -> Result:
    """Trains, generates and evaluates one head with the commands that a user would type."""
    data, workdir = folder / "data" / "2d.npz", folder / f"run_{head}"
    overrides = [f"--config.train.num_steps={steps}", f"--config.data.val.images={data}:{TEST_SPLIT}"]
    overrides += [f"--config.data.val.labels={data}:{TEST_SPLIT}"]
    overrides += [f"--config.data.train.{key}={data}:{TRAIN_SPLIT}" for key in ("images", "labels")]
    print(f"\n== {HEADS[head]}: {steps} steps ==", flush=True)
    started = time.monotonic()
    train.main([f"--config={CONFIG}:task=twod,head={head}", "--workdir", str(workdir), *overrides])
    seconds = time.monotonic() - started
    predictions, metrics = folder / f"predictions_{head}.json", folder / f"metrics_{head}.json"
    asked = ["--workdir", str(workdir), "--images", f"{data}:{TEST_SPLIT}", "--out", str(predictions)]
    generate.main([*asked, "--limit", str(images), "--batch_size", "50", "--max_new_tokens", "64", "--grammar", "none"])
    labels = f"{data}:{TEST_SPLIT}"
    report = evaluate.evaluate(labels, str(predictions))[str(predictions)]
    files.write_text(metrics, evaluate.render({str(predictions): report}, "json") + "\n")
    texts = list(read_predictions(predictions).answers.values())
    readings = [read(text, "twod", rotation_rep="") for text in texts]
    points = np.array([r.objects[0].location if r.objects else (np.nan, np.nan) for r in readings], np.float64)
    return Result(report["metrics"], points, texts, seconds)


def run_scenes(folder: Path, *, steps: int) -> SceneMetrics:
    """Trains on flat scenes of one or two solids, and leaves the report of those not seen; returns its metrics."""
    data, workdir, predictions = folder / "scenes", folder / "run_scenes", folder / "predictions_scenes.json"
    if not (data / "labels" / "val_ID.json").exists():
        make_data.main(["clevr", "--out", str(data), *(str(word) for pair in SCENES.items() for word in pair)])
    overrides = [f"--config.train.num_steps={steps}", "--config.eval.generate_every=0"]
    for split, name in (("train", "train"), ("val", "val_ID")):
        overrides += [f"--config.data.{split}.images={data / 'images' / name}.tar"]
        overrides += [f"--config.data.{split}.labels={data / 'labels' / name}.json"]
    print(f"\n== scenes of one or two solids: {steps} steps ==", flush=True)
    train.main([f"--config={CONFIG}:task=clevr", "--workdir", str(workdir), *overrides])
    images, labels = str(data / "images" / "val_ID.tar"), str(data / "labels" / "val_ID.json")
    asked = ["--workdir", str(workdir), "--images", images, "--out", str(predictions)]
    generate.main([*asked, "--batch_size", "20", "--max_new_tokens", "160"])
    _report(labels, images, [predictions], folder / SCENES_REPORT, "Scenes of one or two solids")
    return evaluate.evaluate(labels, str(predictions))[str(predictions)]["metrics"]


def _report(labels: str, images: str, predictions: list[Path], out: Path, title: str) -> None:
    said = [word for path in predictions for word in ("--predictions", str(path))]
    known = ["--labels", labels, "--images", images, "--out", str(out), "--title", title, "--overwrite"]
    make_report.main([*known, *said])


def scene_summary(scenes: SceneMetrics) -> str:
    """The scenes' metrics in a line; those that nothing was measured for are left out."""
    known = {title: scenes[name] for name, title in SCENE_COLUMNS.items() if scenes[name] is not None}
    return "; ".join(f"{title}: {value:.2f}" for title, value in known.items())


def table(results: dict[str, Result]) -> list[list[str]]:
    """Header and a row per head."""
    rows = [["", *COLUMNS.values(), "training (s)"]]
    for head, result in results.items():
        values = [result.metrics.get(name, math.nan) for name in COLUMNS]  # nan: no answer could be read
        cells = [
            f"{value:.1f}" if "%" in title else f"{value:.4f}"
            for value, title in zip(values, COLUMNS.values(), strict=True)
        ]
        rows.append([HEADS[head], *cells, f"{result.seconds:.0f}"])
    return rows


def draw(results: dict[str, Result], truth: np.ndarray, path: Path) -> None:
    """Predicted against true positions; grey cells were left out of training."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(5.2 * len(results), 5.6), layout="constrained")
    grid = (np.stack(np.meshgrid(*[np.arange(250)] * 2), axis=-1) + 0.5) / 250
    is_seen = checkerboard.is_seen(grid, TRAIN_SPLIT)
    for panel, (head, result) in zip(panels, results.items(), strict=True):
        panel.imshow(np.where(is_seen, 1.0, 0.86), cmap="gray", vmin=0, vmax=1, extent=(0, 1, 1, 0))
        panel.plot(*np.stack([truth, result.points]).transpose(2, 0, 1), color="#c44e52", linewidth=1, zorder=1)
        panel.scatter(*truth.T, s=14, facecolors="none", edgecolors="#4c72b0", label="true", zorder=2)
        panel.scatter(*result.points.T, s=7, color="#c44e52", label="predicted", zorder=3)
        seen, unseen = (result.metrics.get(name, math.nan) for name in ("l2_seen", "l2_unseen"))
        panel.set_title(f"{HEADS[head]}\nmean L2 {seen:.3f} in seen cells, {unseen:.3f} in unseen ones")
        panel.set(xlim=(0, 1), ylim=(1, 0), xlabel="x", ylabel="y (image sides)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    with files.whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight", pad_inches=0.1)
    pyplot.close(figure)


def page(rows: list[list[str]], results: dict[str, Result], truth: np.ndarray, steps: int, scenes: SceneMetrics) -> str:
    """A short page: table, picture, and what both models wrote for the first images."""

    def cells(row: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    examples = []
    for index in range(min(4, len(truth))):
        said = "".join(f"<td><pre>{html.escape(result.texts[index])}</pre></td>" for result in results.values())
        examples.append(f"<tr><td>({truth[index][0]:.3f}, {truth[index][1]:.3f})</td>{said}</tr>")
    heads = "".join(f"<th>{HEADS[head]}</th>" for head in results)
    more = f'<a href="{REPORT}">the report</a>: every image, worst first, with what is wrong marked'
    if scenes:
        told = html.escape(scene_summary(scenes))
        more += f'. <a href="{SCENES_REPORT}">Scenes of one or two solids</a>, from a third tiny model ({told})'
    return f"""<!doctype html><meta charset="utf-8"><title>igllm_jax demo</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
td,th{{padding:.3rem .9rem;text-align:left;border-bottom:1px solid #ddd}}img{{max-width:100%}}</style>
<h1>From an image to its code</h1>
<p>Each image shows one red disc. Two tiny models (1.8 million parameters, {steps} steps on this machine) learned to
write <code>add(x=…, y=…)</code> for it, from discs in the white cells alone; here they see discs anywhere.</p>
<table>{cells(rows[0], "th")}{"".join(cells(row, "td") for row in rows[1:])}</table>
<p><img src="{PICTURE}" alt="predicted against true positions of both models"></p>
<p>More: {more}.</p>
<h2>What they wrote</h2><table><tr><th>true (x, y)</th>{heads}</tr>{"".join(examples)}</table>
"""


def main(arguments: list[str]) -> int:
    """The command."""
    parser = flags.Parser(prog="igllm demo", description=__doc__)
    parser.add_argument("--out", type=flags.path, default=Path("demo_output"), help="folder (default: demo_output)")
    parser.add_argument("--num_steps", type=flags.STEPS, default=700, help="of each training (default: 700)")
    parser.add_argument("--images", type=flags.IMAGES, default=250, help="unseen images (default: 250)")
    parser.add_argument(
        "--scene_steps", type=flags.LIMIT, default=2000, help="of training on scenes; 0 leaves them out (default: 2000)"
    )
    options = parser.parse_args(arguments)
    if not CONFIG.is_file():
        raise UserError(f"the demo reads {CONFIG}: run it in a clone of the repository")
    out: Path = options.out
    if not (out / "data" / "2d.npz").exists():
        make_data.main(["twod", "--out", str(out / "data")])
    results = {head: run_head(head, out, steps=options.num_steps, images=options.images) for head in HEADS}
    scenes = read_labels(f"{out / 'data' / '2d.npz'}:{TEST_SPLIT}", "twod")[: options.images]
    truth = np.array([scene.objects[0].location for scene in scenes])
    rows = table(results)
    draw(results, truth, out / PICTURE)
    labels = f"{out / 'data' / '2d.npz'}:{TEST_SPLIT}"
    _report(labels, labels, [out / f"predictions_{head}.json" for head in HEADS], out / REPORT, "One disc per image")
    _print_table(rows, len(truth))
    scene_metrics: SceneMetrics = run_scenes(out, steps=options.scene_steps) if options.scene_steps else {}
    files.write_text(out / PAGE, page(rows, results, truth, options.num_steps, scene_metrics))
    files.write_text(out / TABLE, json.dumps(_summary(results, scene_metrics, options), indent=1) + "\n")
    if scene_metrics:
        print(f"\nscenes: {scene_summary(scene_metrics)}")
        progress.result(f"report: {out / SCENES_REPORT}")
    print()
    for name, path in (("picture:", PICTURE), ("report: ", REPORT), ("page:   ", PAGE)):
        progress.result(f"{name} {out / path}")
    return 0


def _print_table(rows: list[list[str]], num_images: int) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{num_images} images of the split {TEST_SPLIT!r}, which neither model has seen:\n")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _summary(results: dict[str, Result], scenes: SceneMetrics, options: argparse.Namespace) -> dict[str, Any]:
    heads = {head: {"metrics": result.metrics, "training_seconds": result.seconds} for head, result in results.items()}
    return {"num_steps": options.num_steps, "num_images": options.images, "heads": heads, "scenes": scenes}
