"""`igllm evaluate`: scores predictions files against labels. Needs numpy and scipy, no accelerator."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from igllm_jax import files, flags, paths, progress
from igllm_jax.errors import UserError, shown
from igllm_jax.scene.calibration import calibration, likeliest
from igllm_jax.scene.code import Reading, read
from igllm_jax.scene.detection import AP_METRICS, THRESHOLDS, average_precision, item_of
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.scene.labelled import LabelledPredictions, read_labelled
from igllm_jax.scene.labels import npz_spec
from igllm_jax.scene.measures import add_measures
from igllm_jax.scene.metrics import report
from igllm_jax.scene.tables import as_csv, as_markdown, as_text, confusion_table, main_table, object_count_table

SHOWN_PROBLEMS = 5  # kinds of problems in what could not be read
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
FORMATS = ("table", "markdown", "csv", "json")


def evaluate(
    labels: str,
    predictions: str | Sequence[str],
    *,
    task: str | None = None,
    rotation_rep: str | None = None,
    rotation_unit: str | None = None,
    train_split: str | None = None,
    as_reference: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    has_precision: bool = False,
    renders: str | Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Reports, see `scene.metrics.report`, of one or several predictions files: path -> report.

    What is None is taken from the predictions file, then from the kind of labels. Images without a prediction are left
    out of every average and counted in `num_missing`, predictions without a label in `num_unlabelled`.
    as_reference: read and score as the reference does, see `scene.code.read` and `scene.metrics.report`.

    has_precision: add `scene.detection.AP_METRICS`. renders: for each predictions file the folder that
    `igllm render` made of it; adds `render.scores.RENDER_METRICS` and the average precision.

    Raises: UserError for unreadable files, contradicting settings and predictions of other images.
    """
    paths = [predictions] if isinstance(predictions, str) else list(predictions)
    folders = dict(zip(paths, _folders(paths, renders), strict=True))
    runs = read_labelled(
        labels,
        paths,
        task=task,
        rotation_rep=rotation_rep,
        rotation_unit=rotation_unit,
        train_split=train_split,
        as_reference=as_reference,
    )
    averaging: dict[str, Any] = {"as_reference": as_reference, "bootstrap": bootstrap, "seed": seed}
    return {
        run.path: evaluate_run(run, **averaging, has_precision=has_precision, folder=folders[run.path]) for run in runs
    }


def _folders(paths: Sequence[str], renders: str | Sequence[str]) -> list[str | None]:
    """For each predictions file the folder of its renders, or None. Raises: UserError for another number of them."""
    folders = [renders] if isinstance(renders, str) else list(renders)
    if folders and len(folders) != len(paths):
        raise UserError(f"{len(folders)} --renders for {len(paths)} --predictions; give one for each, in their order")
    return [*folders] if folders else [None] * len(paths)


def evaluate_run(
    run: LabelledPredictions,
    *,
    as_reference: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
    has_precision: bool = False,
    folder: str | None = None,
) -> dict[str, Any]:
    """The report of one predictions file; see `evaluate`."""
    result = report(
        run.scenes,
        run.readings,
        run.language,
        rotation_rep=run.rotation_rep,
        rotation_unit=run.rotation_unit,
        is_seen=run.seen_cells(),
        as_reference=as_reference,
        bootstrap=bootstrap,
        seed=seed,
    )
    sampling = {"bootstrap": bootstrap, "seed": seed}
    if has_precision or folder is not None:
        _add_precision(result, run, **sampling)
    if folder is not None:
        _add_renders(result, paths.fetch(folder), run, **sampling)
    _add_samples(result, run, as_reference=as_reference)
    settings: dict[str, Any] = {"labels": run.labels, "predictions": run.path}
    settings |= {"task": run.language.name, "rotation_rep": run.rotation_rep}
    settings |= {"rotation_unit": run.rotation_unit, "train_split": run.train_split, "renders": folder}
    settings |= {"as_reference": as_reference}
    counts = {"num_missing": run.num_missing, "num_unlabelled": run.num_unlabelled}
    problems = _problems(run.names, run.readings)
    return {"metrics": result.pop("metrics"), **settings, **counts, **result, "problems": problems}


def _problems(names: Sequence[str], readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Why texts could not be read entirely: each kind of reason with how many answers have it, the most frequent first.

    Reasons that differ in quoted text alone are one kind; `example` is where the first of them stands.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, reading in zip(names, readings, strict=True):
        kinds = {re.sub(_QUOTED, "...", problem.reason): problem for problem in reversed(reading.problems)}
        for kind, problem in kinds.items():
            example = f"{name}, line {problem.line}: {problem.reason}"
            found.setdefault(kind, {"reason": kind, "answers": 0, "example": example})["answers"] += 1
    return sorted(found.values(), key=lambda entry: -entry["answers"])


def _add_precision(result: dict[str, Any], run: LabelledPredictions, **sampling: int) -> None:
    """Adds the average precision, where labels have words. Calls that say no log-probability have a confidence of 1."""
    language, pairs = run.language, []
    for scene, reading, known in zip(run.scenes, run.readings, run.confidences(), strict=True):
        predicted = [item_of(thing, language, sure) for thing, sure in zip(reading.objects, known, strict=True)]
        pairs.append(([item_of(thing, language) for thing in scene.objects], predicted))
    if not any(item.words for true, _ in pairs for item in true):
        return
    values = {name: average_precision(pairs, threshold) for name, threshold in THRESHOLDS.items()}
    counts = dict.fromkeys(values, len(run.scenes))
    add_measures(result, AP_METRICS, values, counts, num_objects=run.num_objects, **sampling)


def _add_samples(result: dict[str, Any], run: LabelledPredictions, *, as_reference: bool) -> None:
    """Adds what several answers an image tell, over the scenes that have them: calibration, and metrics of the
    likeliest ones beside those of the first ones."""
    several = [number for number, name in enumerate(run.names) if len(run.found.samples.get(name, ())) > 1]
    if not several:
        return
    scenes, samples = [run.scenes[n] for n in several], [run.found.samples[run.names[n]] for n in several]
    how: dict[str, Any] = {"rotation_rep": run.rotation_rep}
    readings = [[read(x.text, run.language, as_reference=as_reference, **how) for x in found] for found in samples]
    best = [likeliest([x.log_likelihood for x in found]) for found in samples]
    chosen = [found[number] for found, number in zip(readings, best, strict=True)]
    how |= {"rotation_unit": run.rotation_unit, "as_reference": as_reference}
    result["calibration"] = calibration(scenes, readings, run.language)
    result["best_of_samples"] = {
        "num_scenes": len(scenes),
        "first": report(scenes, [found[0] for found in readings], run.language, **how)["metrics"],
        "likeliest": report(scenes, chosen, run.language, **how)["metrics"],
    }


def _add_renders(result: dict[str, Any], folder: Path, run: LabelledPredictions, **sampling: int) -> None:
    """Adds the scores of the drawings in `folder`."""
    from igllm_jax.render.scores import RENDER_METRICS, render_scores  # pictures need Pillow, other scores don't

    values, counts = render_scores(folder, run.scenes, run.readings, run.language)
    add_measures(result, RENDER_METRICS, values, counts, num_objects=run.num_objects, **sampling)


def render(reports: dict[str, dict[str, Any]], style: str, *, confusion: bool = False) -> str:
    """The reports as `table` (plain text), `markdown`, `csv` or `json`.

    The first two show metrics and counts side by side, then for each file the breakdown by number of objects where
    there are several numbers, and with `confusion` the confusions of words. CSV leaves the confusions out, JSON has
    everything.
    """
    if style == "json":
        return _json(reports)
    if style == "csv":
        return as_csv(reports)
    lay_out = as_markdown if style == "markdown" else as_text
    title = "### {}\n\n" if style == "markdown" else "{}\n"
    short = _short_names(list(reports))
    parts = [lay_out(main_table({short[path]: result for path, result in reports.items()}))]
    for path, result in reports.items():
        if len(result["by_object_count"]) > 1:
            parts.append(
                title.format(f"By number of objects: {shown(short[path])}") + lay_out(object_count_table(result))
            )
        if confusion:
            for key, words in result["confusion"].items():
                parts.append(
                    title.format(f"Confusion of {key}: {shown(short[path])}") + lay_out(confusion_table(words, key))
                )
    return "\n".join(parts)


def _short_names(paths: list[str]) -> dict[str, str]:
    names = [Path(path).name for path in paths]
    return dict(zip(paths, names if len(set(names)) == len(names) else paths, strict=True))


def _json(reports: dict[str, dict[str, Any]]) -> str:
    """One report as it is, several as `{"reports": {PATH: report}}`."""
    content = next(iter(reports.values())) if len(reports) == 1 else {"reports": reports}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The flags for what predictions files may not say of themselves."""
    parser.add_argument(
        "--task",
        type=flags.source,
        help="a language's name or .toml file (default: what the predictions or labels say)",
    )
    parser.add_argument("--rotation_rep", help="how rotations are written (euler, euler_int, aa, 6d, quat; CLEVR: yaw)")
    parser.add_argument("--rotation_unit", choices=ROTATION_UNITS, help="unit of CLEVR's rotation labels")
    parser.add_argument("--train_split", help="2D: the split that was trained on, to tell seen from unseen cells")


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What these flags said, as `read_labelled` and `evaluate` take it."""
    return {name: getattr(arguments, name) for name in ("task", "rotation_rep", "rotation_unit", "train_split")}


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="igllm evaluate", description="Score predictions against labels.")
    parser.add_argument("--labels", type=flags.source, required=True, help="LABELS.json, or FILE.npz:SPLIT for 2D")
    parser.add_argument(
        "--predictions",
        type=flags.source,
        required=True,
        action="append",
        metavar="PRED.json",
        help="what igllm generate wrote; give it several times to see several side by side",
    )
    add_settings(parser)
    parser.add_argument("--out", type=flags.path, metavar="METRICS.json", help="write everything as JSON")
    parser.add_argument("--format", choices=FORMATS, default="table", help="what is printed")
    parser.add_argument("--confusion", action="store_true", help="print the confusions of words too")
    parser.add_argument(
        "--bootstrap", type=flags.RESAMPLES, default=0, metavar="N", help="resamples for 95 %% intervals, say 1000"
    )
    parser.add_argument("--ap", action="store_true", help="average precision: words right, within 0.125 to 1 units")
    parser.add_argument(
        "--renders",
        type=flags.source,
        action="append",
        default=[],
        metavar="DIR",
        help="what igllm render made of the predictions: PSNR, SSIM, mask IoU, IR3D-Bench's metrics, and --ap",
    )
    parser.add_argument("--seed", type=flags.SEED, default=0, help="seed of the resamples")
    parser.add_argument(
        "--as_reference",
        "--reference_averages",
        action="store_true",
        help="score as the reference does: leave out scenes whose l2 is exactly 0 or that have no objects on a side, "
        "take the rotation nearest to 6d's rows (default: Gram-Schmidt), read no line that its patterns don't find",
    )
    return parser


def main(argv: list[str]) -> int:
    """Prints the scores and writes them to --out. Raises UserError for anything that the user can mend."""
    arguments = _parser().parse_args(argv)
    if arguments.out:
        files.try_writing(arguments.out)
    reports = evaluate(
        arguments.labels,
        arguments.predictions,
        **settings_of(arguments),
        as_reference=arguments.as_reference,
        bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        has_precision=arguments.ap,
        renders=arguments.renders,
    )
    if arguments.out:
        files.write_text(arguments.out, _json(reports))
    print(render(reports, arguments.format, confusion=arguments.confusion), end="")
    for path, result in reports.items():
        for note in _notes(result):
            progress.note(f"note: {path}: {note}")
    return 0


def _notes(result: dict[str, Any]) -> list[str]:
    """What a reader of the numbers should know about one report."""
    notes = [
        f"{p['answers']} answers: {p['reason']} (first: {p['example']})" for p in result["problems"][:SHOWN_PROBLEMS]
    ]
    if len(result["problems"]) > SHOWN_PROBLEMS:
        notes.append(f"{len(result['problems']) - SHOWN_PROBLEMS} more kinds of problems; --out has them all")
    if result["num_missing"]:
        total = result["num_scenes"] + result["num_missing"]
        notes.append(f"{result['num_missing']} of {total} labelled images have no prediction and are left out")
    num_drawn = result["averaged_scenes"].get("psnr", 0)
    if result["renders"] and num_drawn < result["num_scenes"]:
        notes.append(f"{result['renders']} has the drawings of {num_drawn} of {result['num_scenes']} scenes")
    if result["num_unlabelled"]:
        notes.append(f"{result['num_unlabelled']} predictions belong to no labelled image and are left out")
    if result["num_without_pairs"]:
        notes.append(f"{result['num_without_pairs']} scenes have no matched pair; only ace and parsed count them")
    if result["num_left_out"]:
        notes.append(f"{result['num_left_out']} scenes are left out of every average, as the reference does")
    found = result.get("calibration") or {}
    if "words" in found:
        notes.append(
            f"words by how many samples say them: expected calibration error {found['words']['error']:.3f} "
            f"({found['words']['count']} words)"
        )
    if "coverage" in found:
        shares = ", ".join(f"{share:.0%} in those of {float(level):.0%}" for level, share in found["coverage"].items())
        notes.append(f"true numbers within intervals of the samples: {shares} ({found['numbers']} numbers)")
    if "best_of_samples" in result:
        notes.append("--out has the metrics of the likeliest samples, as best_of_samples")
    if npz_spec(result["labels"]) is not None and not result["train_split"]:
        notes.append("--train_split would tell seen from unseen cells")
    return notes
