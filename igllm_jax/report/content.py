"""Everything that the page shows, as one value ready for JSON: text and numbers only, nothing that is markup."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax.data.tars import ImageSource
from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera
from igllm_jax.render.folder import INPUT, PREDICTED, TRUE
from igllm_jax.render.jobs import LabelFile, Reader, find_meshes, label_jobs, read_label_file
from igllm_jax.render.renderers import RendererOptions
from igllm_jax.render.roles import check_renderable
from igllm_jax.render.scores import RENDER_METRICS, as_measures
from igllm_jax.render.twod import disc_attribute, disc_picture
from igllm_jax.report.curves import RunCurves, curve_content
from igllm_jax.report.errors import Limits, find_limits
from igllm_jax.report.marks import Marker, compact
from igllm_jax.report.notes import notes_of
from igllm_jax.report.pictures import Drawn, PictureJob, data_url, draw_all, input_picture
from igllm_jax.report.plots import calibration, call_points, distance_name, filters, pair_columns, rounded
from igllm_jax.report.shapes import MOST_OBJECTS, Meshes, view_camera, view_scene
from igllm_jax.scene.kind import ROTATION_UNITS, Settings
from igllm_jax.scene.labelled import LabelledPredictions
from igllm_jax.scene.language import Language
from igllm_jax.scene.measures import add_measures
from igllm_jax.scene.metrics import Comparison, compare_all
from igllm_jax.scene.scene import Scene
from igllm_jax.scene.tables import main_table

DEFAULT_SIZE = (480, 320)  # CLEVR's
MOST_PROBLEMS = 8  # of an answer, on the page
LONGEST_NAME = 80


@dataclass(frozen=True)
class Options:
    """num_scenes: of the gallery. meshes, rotation_unit, image_size: as asked for, or None. workers: that draw.
    trained: runs whose curves are shown."""

    title: str
    num_scenes: int
    renderer: RendererOptions
    meshes: str | None
    rotation_unit: str | None
    image_size: tuple[int, int] | None
    workers: int
    bootstrap: int
    seed: int
    trained: Sequence[RunCurves] = ()


@dataclass(frozen=True)
class _Run:
    """One run with what is computed of it once: comparisons of its scenes, and where each labelled image is in it."""

    own: LabelledPredictions
    comparisons: list[Comparison]
    marker: Marker
    positions: dict[str, int]


def build_content(
    runs: Sequence[LabelledPredictions],
    reports: Sequence[dict[str, Any]],
    images: ImageSource | None,
    options: Options,
) -> dict[str, Any]:
    """The page's content. reports: of `metrics.report`, one for each run; scores of drawings are added to them.

    Raises: UserError where an image is missing or broken, or a scene can't be drawn.
    """
    language = runs[0].language
    limits = find_limits([scene for run in runs for scene in run.scenes], language)
    made = [_prepare(run, limits) for run in runs]
    every = {scene.image: scene for run in runs for scene in run.scenes}
    chosen = [every[image] for image in _choose(list(every), made[0], options.num_scenes)]
    meshes, view = Meshes(), view_of(language)
    drawn = _draw_3d(made, chosen, images, options) if view == "3d" else [{} for _ in made]
    words = filters(runs)
    content: dict[str, Any] = {"title": options.title, "task": language.name, "view": view}
    content |= {"num_labelled": len(every), "distance": distance_name(language), "renderer": options.renderer.name}
    content["scenes"] = []
    for scene in chosen:
        sides = [own.get(scene.image) for own in drawn]
        entry = _scene_entry(scene, made, sides, meshes, view)
        entry["words"] = words(scene)
        entry["input"] = _input(scene, sides, images, view)
        content["scenes"].append(entry)
    for run, report, own in zip(runs, reports, drawn, strict=True):
        if len(own) == len(run.scenes):  # else those that are drawn are the worst, and no fair average
            _add_drawings(report, run, own, options)
    content["meshes"] = meshes.content()
    content["curves"] = curve_content(options.trained, _names([run.name for run in options.trained]))
    content["runs"] = [_run_entry(run, report, limits) for run, report in zip(made, reports, strict=True)]
    names = _names([run.path for run in runs])
    for entry, name in zip(content["runs"], names, strict=True):
        entry["name"] = name
    content["table"] = main_table(dict(zip(names, reports, strict=True)))
    content["about"] = _about(reports)
    return content


def view_of(language: Language) -> str:
    """How a language's scenes are looked at: "3d", "2d", or "" where no call says where it is."""
    try:
        check_renderable(language)
    except UserError:
        kinds = [f.by_role["location"].kind for f in language.functions if "location" in f.by_role]
        return "2d" if any(len(kind.numbers(None)) == 2 for kind in kinds) else ""
    return "3d"


def _prepare(run: LabelledPredictions, limits: Limits) -> _Run:
    how: dict[str, Any] = {"rotation_rep": run.rotation_rep, "rotation_unit": run.rotation_unit}
    comparisons = compare_all(run.scenes, run.readings, run.language, is_seen=run.seen_cells(), **how)
    settings = Settings(run.rotation_rep, run.rotation_unit)
    positions = {scene.image: position for position, scene in enumerate(run.scenes)}
    return _Run(run, comparisons, Marker(run.language, settings, limits), positions)


def _choose(images: list[str], run: _Run, count: int) -> list[str]:
    """The images of the gallery, in the labels' order: all, or the worst half and as many spread over the rest."""
    if len(images) <= count:
        return images
    name, metric = next(iter(run.own.language.metrics.items()))
    sign = -1.0 if metric.is_better_low else 1.0  # goodness: the worst are the least

    def goodness(image: str) -> float:
        if image not in run.positions:
            return np.inf  # the run has no answer: another run has
        return sign * run.comparisons[run.positions[image]].values.get(name, -sign * np.inf)

    order = np.argsort([goodness(image) for image in images], kind="stable")
    worst, others = order[: (count + 1) // 2], np.sort(order[(count + 1) // 2 :])
    spread = others[np.linspace(0, len(others) - 1, count // 2).round().astype(int)]
    return [images[position] for position in sorted({*worst.tolist(), *spread.tolist()})]


def _draw_3d(
    runs: Sequence[_Run], scenes: Sequence[Scene], images: ImageSource | None, options: Options
) -> list[dict[str, Drawn]]:
    """For each run image -> its drawings, of the images that it has answers for."""
    own = runs[0].own
    file = read_label_file(own.labels, own.language)
    wanted = {scene.image for scene in scenes}
    kept = [(scene, e) for scene, e in zip(file.scenes, file.entries, strict=True) if scene.image in wanted]
    meshes = find_meshes(options.meshes, file, own.labels)
    width, height = file.info.get("width"), file.info.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) else DEFAULT_SIZE
    found = []
    for run in runs:
        pairs = [(scene, entry) for scene, entry in kept if scene.image in run.positions]
        labels = LabelFile([scene for scene, _ in pairs], [entry for _, entry in pairs], file.info)
        unit = options.rotation_unit or run.own.found.rotation_unit or file.info.get("rotation_unit")
        unit = unit if unit in ROTATION_UNITS else run.own.rotation_unit
        reader = Reader(run.own.language, run.own.rotation_rep, unit, options.image_size or size, meshes)
        jobs = [
            PictureJob(job, scene, run.own.readings[run.positions[scene.image]], run.own.language)
            for job, scene in zip(label_jobs(labels, run.own.found, images, reader), labels.scenes, strict=True)
        ]
        drawn = draw_all(jobs, options.renderer, most_objects=MOST_OBJECTS, workers=options.workers)
        found.append({one.scene.image: done for one, done in zip(jobs, drawn, strict=True)})
    return found


def _input(scene: Scene, sides: Sequence[Drawn | None], images: ImageSource | None, view: str) -> str | None:
    known = next((one.pictures[INPUT] for one in sides if one is not None and INPUT in one.pictures), None)
    if known is not None or view == "3d":
        return known
    picture = input_picture(images, scene)
    return None if picture is None else data_url(picture)


def _scene_entry(
    scene: Scene, runs: Sequence[_Run], sides: Sequence[Drawn | None], meshes: Meshes, view: str
) -> dict[str, Any]:
    """One scene of the gallery: its truth, and what each run says of it (None where it has no answer)."""
    entry: dict[str, Any] = {"image": scene.image[-LONGEST_NAME:], "objects": len(scene.objects)}
    entry["code"] = runs[0].marker.missed(scene, ())
    first = next((one for one in sides if one is not None), None)
    if first is not None:
        spec = first.specs[TRUE]
        camera: Camera = spec.camera
        entry |= {"true": first.pictures[TRUE], "camera": view_camera(camera), "has_ground": spec.ground is not None}
        entry["parts"] = view_scene(spec, meshes)
    elif view == "2d":
        entry["points"] = call_points(scene.objects, runs[0].own.language, MOST_OBJECTS)
    entry["runs"] = [
        _answer_entry(scene, run, side, meshes, view) if scene.image in run.positions else None
        for run, side in zip(runs, sides, strict=True)
    ]
    return entry


def _answer_entry(scene: Scene, run: _Run, drawn: Drawn | None, meshes: Meshes, view: str) -> dict[str, Any]:
    position = run.positions[scene.image]
    comparison, reading = run.comparisons[position], run.own.readings[position]
    name = run.own.names[position]
    lines = run.marker.lines(run.own.found.answers[name], scene, reading, comparison.pairs)
    values: Mapping[str, float] = comparison.values | (drawn.values if drawn is not None else {})
    entry: dict[str, Any] = {"values": {name: rounded(value) for name, value in values.items()}}
    entry |= {"lines": compact(lines), "missed": run.marker.missed(scene, comparison.pairs)}
    entry["problems"] = [f"line {p.line}: {p.reason[:200]}" for p in reading.problems[:MOST_PROBLEMS]]
    entry["num_problems"] = len(reading.problems)
    entry["notes"] = notes_of(run.own.found.details.get(name, {}))
    if drawn is not None:
        entry["picture"] = drawn.pictures[PREDICTED]
        entry["parts"] = view_scene(drawn.specs[PREDICTED], meshes)
        entry["pairs"] = [list(pair) for pair in comparison.pairs if max(pair) < MOST_OBJECTS]
    elif view == "2d":
        entry["points"] = call_points(reading.objects, run.own.language, MOST_OBJECTS)
        entry["pairs"] = [list(pair) for pair in comparison.pairs if max(pair) < MOST_OBJECTS]
        if disc_attribute(run.own.language) is not None:
            entry["picture"] = data_url(disc_picture(reading.objects, run.own.language))
    return entry


def _add_drawings(
    report: dict[str, Any], run: LabelledPredictions, drawn: Mapping[str, Drawn], options: Options
) -> None:
    """Adds the scores of the drawings to a report."""
    values, counts = as_measures([drawn[scene.image].values for scene in run.scenes])
    sampling = {"bootstrap": options.bootstrap, "seed": options.seed}
    add_measures(report, RENDER_METRICS, values, counts, num_objects=run.num_objects, **sampling)


def _run_entry(run: _Run, report: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    pairs = [comparison.pairs for comparison in run.comparisons]
    groups = {
        count: {name: None if value is None else rounded(value) for name, value in group["metrics"].items()}
        | {"num_scenes": group["num_scenes"]}
        for count, group in report["by_object_count"].items()
    }
    return {
        "by_object_count": groups,
        "confusion": report["confusion"],
        "problems": report["problems"][:MOST_PROBLEMS],
        "pairs": pair_columns(run.own, pairs, run.marker.settings),
        "calibration": calibration(run.own, limits),
    }


def _about(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """metric -> its text, digits and which way is better, of every metric that scenes may have."""
    found = {name: measure.about() for name, measure in RENDER_METRICS.items()}
    for report in reports:
        found = {**report["about"], **found}
    return found


def _names(paths: Sequence[str]) -> list[str]:
    """What runs are called: their file names, with as many folders as tell them apart."""
    for depth in range(1, 32):
        names = ["/".join(Path(path).parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return [name[-LONGEST_NAME:] for name in names]
    return [f"{number + 1}: {Path(path).name}" for number, path in enumerate(paths)]
