"""`igllm evaluate`: scores predictions files against labels. Needs numpy and scipy, no accelerator."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax import files, flags
from igllm_jax.errors import UserError
from igllm_jax.scene.checkerboard import CELLS, is_seen, is_seen_from
from igllm_jax.scene.code import Reading, read
from igllm_jax.scene.detection import AP_METRICS, THRESHOLDS, average_precision, item_of
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.scene.labels import infer_task, npz_spec, read_labels, read_points
from igllm_jax.scene.language import Language, check_rotation_unit, find_language
from igllm_jax.scene.language_parts import points_attribute
from igllm_jax.scene.measures import add_measures
from igllm_jax.scene.metrics import report
from igllm_jax.scene.predictions import Predictions, language_of, match_names, read_predictions
from igllm_jax.scene.scene import Scene
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
    loaded = {path: read_predictions(path) for path in paths}
    settled = _settle_language(labels, loaded, task)
    scenes = read_labels(labels, settled)
    folders = dict(zip(paths, _folders(paths, renders), strict=True))
    return {
        path: _evaluate_one(
            labels,
            scenes,
            path,
            found,
            settled,
            rotation_rep=_settle_rotation_rep(path, settled, rotation_rep, found.rotation_rep),
            rotation_unit=check_rotation_unit(
                _agreed(path, "rotation_unit", rotation_unit, found.rotation_unit) or ROTATION_UNITS[0]
            ),
            train_split=_agreed(path, "train_split", train_split, found.train_split),
            averaging={"as_reference": as_reference, "bootstrap": bootstrap, "seed": seed},
            has_precision=has_precision,
            folder=folders[path],
        )
        for path, found in loaded.items()
    }


def _folders(paths: Sequence[str], renders: str | Sequence[str]) -> list[str | None]:
    """For each predictions file the folder of its renders, or None. Raises: UserError for another number of them."""
    folders = [renders] if isinstance(renders, str) else list(renders)
    if folders and len(folders) != len(paths):
        raise UserError(f"{len(folders)} --renders for {len(paths)} --predictions; give one for each, in their order")
    return [*folders] if folders else [None] * len(paths)


def _evaluate_one(
    labels: str,
    scenes: Sequence[Scene],
    path: str,
    found: Predictions,
    language: Language,
    *,
    rotation_rep: str,
    rotation_unit: str,
    train_split: str | None,
    averaging: dict[str, Any],
    has_precision: bool,
    folder: str | None,
) -> dict[str, Any]:
    names = match_names([scene.image for scene in scenes], found.answers)
    pairs = [(scene, name) for scene, name in zip(scenes, names, strict=True) if name is not None]
    if not pairs:
        raise _none_fits(labels, scenes, path, found)
    kept = [scene for scene, _ in pairs]
    how: dict[str, Any] = {"rotation_rep": rotation_rep, "as_reference": averaging["as_reference"]}
    readings = [read(found.answers[name], language, **how) for _, name in pairs]
    result = report(
        kept,
        readings,
        language,
        rotation_rep=rotation_rep,
        rotation_unit=rotation_unit,
        is_seen=_seen_cells(labels, kept, train_split, language) if train_split else None,
        **averaging,
    )
    sampling = {"bootstrap": averaging["bootstrap"], "seed": averaging["seed"]}
    if has_precision or folder is not None:
        sure = [found.confidences.get(name, ()) for _, name in pairs]
        _add_precision(result, kept, readings, sure, language, **sampling)
    if folder is not None:
        _add_renders(result, Path(folder), kept, readings, language, **sampling)
    settings: dict[str, Any] = {"labels": labels, "predictions": path}
    settings |= {"task": language.name, "rotation_rep": rotation_rep}
    settings |= {"rotation_unit": rotation_unit, "train_split": train_split, "renders": folder}
    settings |= {"as_reference": averaging["as_reference"]}
    counts = {
        "num_missing": len(scenes) - len(pairs),
        "num_unlabelled": len(found.answers) - len({name for _, name in pairs}),
    }
    problems = _problems([name for _, name in pairs], readings)
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


def _none_fits(labels: str, scenes: Sequence[Scene], path: str, found: Predictions) -> UserError:
    return UserError(
        f"predictions {path}: none of its {len(found.answers)} images is among the {len(scenes)} of {labels} ("
        f"{_example(found.answers)} against {_example([scene.image for scene in scenes])}); is it the right split?"
    )


def _add_precision(
    result: dict[str, Any],
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    confidences: Sequence[Sequence[float]],
    language: Language,
    **sampling: int,
) -> None:
    """Adds the average precision, where labels have words. Calls that say no log-probability have a confidence of 1."""
    pairs = []
    for scene, reading, said in zip(scenes, readings, confidences, strict=True):
        known = said if len(said) == len(reading.objects) else [1.0] * len(reading.objects)
        predicted = [item_of(thing, language, sure) for thing, sure in zip(reading.objects, known, strict=True)]
        pairs.append(([item_of(thing, language) for thing in scene.objects], predicted))
    if not any(item.words for true, _ in pairs for item in true):
        return
    values = {name: average_precision(pairs, threshold) for name, threshold in THRESHOLDS.items()}
    num_objects = np.array([len(scene.objects) for scene in scenes])
    counts = dict.fromkeys(values, len(scenes))
    add_measures(result, AP_METRICS, values, counts, num_objects=num_objects, **sampling)


def _add_renders(
    result: dict[str, Any],
    folder: Path,
    scenes: Sequence[Scene],
    readings: Sequence[Reading],
    language: Language,
    **sampling: int,
) -> None:
    """Adds the scores of the drawings in `folder`."""
    from igllm_jax.render.scores import RENDER_METRICS, render_scores  # pictures need Pillow, other scores don't

    values, counts = render_scores(folder, scenes, readings, language)
    num_objects = np.array([len(scene.objects) for scene in scenes])
    add_measures(result, RENDER_METRICS, values, counts, num_objects=num_objects, **sampling)


def _example(names) -> str:
    return repr(next(iter(names), "nothing"))


def _agreed(path: str, key: str, given: str | None, found: str | None) -> str | None:
    """The value asked for, else the file's; raises UserError where they contradict each other."""
    if given is not None and found is not None and given != found:
        raise UserError(f"predictions {path}: made with {key}={found!r}, but --{key} {given} was asked for")
    return found if given is None else given


def _settle_language(labels: str, loaded: dict[str, Predictions], given: str | None) -> Language:
    languages = {path: language_of(found, path) for path, found in loaded.items()}
    wanted = None if given is None else find_language(given)
    for path, language in languages.items():
        _agreed(path, "task", wanted.name if wanted else None, language.name if language else None)
        if wanted and language and wanted.text != language.text:
            raise UserError(f"predictions {path}: made with another file of {wanted.name} than --task {given}")
    known = {language.text: language for language in [wanted, *languages.values()] if language}
    if len(known) > 1:
        said = ", ".join(f"{path}: {found.task}" for path, found in loaded.items())
        raise UserError(f"predictions are of different tasks ({said}); compare them one by one")
    return next(iter(known.values())) if known else find_language(infer_task(labels))


def _settle_rotation_rep(path: str, language: Language, given: str | None, found: str | None) -> str:
    if "" in language.rotation_reps:  # nothing to choose: a representation's name is the same as none
        for value in (given, found):
            language.settings(value or "")
        return ""
    name = _agreed(path, "rotation_rep", given, found)
    if name is None:
        raise UserError(
            f"predictions {path}: the file does not say how rotations are written;"
            f" add --rotation_rep {'|'.join(language.rotation_reps)}"
        )
    language.settings(name)
    return name


def _seen_cells(labels: str, scenes: Sequence[Scene], train_split: str, language: Language) -> list[bool] | None:
    """For each scene of a 2D file whether it lies in cells that `train_split` covers, read off that split's points if
    there; None for other labels."""
    npz, attribute = npz_spec(labels), points_attribute(language.functions[0])
    if npz is None or attribute is None:
        return None
    xy = np.array([scene.objects[0][attribute.name] for scene in scenes])
    try:
        training_xy = read_points(npz[0], train_split)
    except UserError:
        if train_split not in CELLS:
            raise
        return [bool(flag) for flag in is_seen(xy, train_split)]
    return [bool(flag) for flag in is_seen_from(xy, train_split, training_xy)]


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
            parts.append(title.format(f"By number of objects: {short[path]}") + lay_out(object_count_table(result)))
        if confusion:
            for key, words in result["confusion"].items():
                parts.append(title.format(f"Confusion of {key}: {short[path]}") + lay_out(confusion_table(words, key)))
    return "\n".join(parts)


def _short_names(paths: list[str]) -> dict[str, str]:
    names = [Path(path).name for path in paths]
    return dict(zip(paths, names if len(set(names)) == len(names) else paths, strict=True))


def _json(reports: dict[str, dict[str, Any]]) -> str:
    """One report as it is, several as `{"reports": {PATH: report}}`."""
    content = next(iter(reports.values())) if len(reports) == 1 else {"reports": reports}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = flags.Parser(prog="igllm evaluate", description="Score predictions against labels.")
    parser.add_argument("--labels", required=True, help="LABELS.json, or FILE.npz:SPLIT for 2D")
    parser.add_argument(
        "--predictions",
        required=True,
        action="append",
        metavar="PRED.json",
        help="what igllm generate wrote; give it several times to see several side by side",
    )
    parser.add_argument("--task", help="a language's name or .toml file (default: what the predictions or labels say)")
    parser.add_argument("--rotation_rep", help="how rotations are written (euler, euler_int, aa, 6d, quat; CLEVR: yaw)")
    parser.add_argument("--rotation_unit", choices=ROTATION_UNITS, help="unit of CLEVR's rotation labels")
    parser.add_argument("--train_split", help="2D: the split that was trained on, to tell seen from unseen cells")
    parser.add_argument("--out", metavar="METRICS.json", help="write everything as JSON")
    parser.add_argument("--format", choices=FORMATS, default="table", help="what is printed")
    parser.add_argument("--confusion", action="store_true", help="print the confusions of words too")
    parser.add_argument(
        "--bootstrap", type=flags.RESAMPLES, default=0, metavar="N", help="resamples for 95 %% intervals, say 1000"
    )
    parser.add_argument("--ap", action="store_true", help="average precision: words right, within 0.125 to 1 units")
    parser.add_argument(
        "--renders",
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
        task=arguments.task,
        rotation_rep=arguments.rotation_rep,
        rotation_unit=arguments.rotation_unit,
        train_split=arguments.train_split,
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
            print(f"note: {path}: {note}", file=sys.stderr)
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
    if npz_spec(result["labels"]) is not None and not result["train_split"]:
        notes.append("--train_split would tell seen from unseen cells")
    return notes
