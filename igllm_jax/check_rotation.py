"""`igllm check-rotation`: in which unit CLEVR's labels have their `rotation`, told by their images.

CLEVR's generator draws numbers from 0 to 360 but hands them to Blender as radians, so which unit the images follow
cannot be told from labels. Here each cube's turn is read off its image and compared with its label in both units.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from igllm_jax import flags, progress
from igllm_jax.data.stores import read_whole
from igllm_jax.data.tars import IMAGES_HELP, ImageSource, open_images
from igllm_jax.errors import UserError
from igllm_jax.render.arguments import add_renderer, renderer_options
from igllm_jax.render.camera import Camera, fit_camera
from igllm_jax.render.drawn_yaw import cube_leads
from igllm_jax.render.renderers import RendererOptions, run_jobs
from igllm_jax.render.scenes import scene_spec, standard_stage
from igllm_jax.render.yaw import seen_yaw_deg, smooth
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.scene.labels import parse_labels
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.rotations import yaw_error_deg
from igllm_jax.scene.scene import Object, Scene
from igllm_jax.scene.turn import Turn

TASK = "clevr"  # whose labels come in either unit
FEWEST_OBJECTS = 3  # that give the camera of an image away
MOST_PIXELS_OFF = 4.0  # of a label's pixel_coords from where the fitted camera sees the object
NEAR_DEG = 10.0
CHANCE_DEG, CHANCE_NEAR = 22.5, 100 * NEAR_DEG / 45  # of a label that says nothing: median difference, share near (%)
FEWEST_NEAR = 50.0  # share (%) of cubes that a unit must come near
APART_DEG = 5.0  # cubes whose two readings differ by less from the image say nothing about the unit
DEVIATIONS = 3.5  # of a fair coin, by which more cubes must be nearer to one unit: one in 2000 by chance


@dataclass(frozen=True)
class Difference:
    """How far a cube's label is from its image, in degrees modulo a quarter turn: unit of the label -> 0 to 45."""

    by_unit: dict[str, float]


def image_differences(picture: np.ndarray, scene: Scene, task: Language | str = TASK) -> list[Difference] | None:
    """The differences of an image's cubes; None where the image's camera does not follow from the label.

    picture: uint8 [H, W, 3]. Cubes that are hidden, or outside of the picture in part, are left out.
    """
    language = find_language(task)
    camera = _camera(scene, picture.shape[1], picture.shape[0])
    if camera is None:
        return None
    soft, found = smooth(picture), []
    for thing in scene.objects:
        period_deg = _period_deg(thing, language)
        if period_deg is None:
            continue
        seen_deg = seen_yaw_deg(soft, camera, thing, scene.objects)
        if seen_deg is not None:
            labels = {unit: _yaw_rad(thing, language, unit) for unit in ROTATION_UNITS}
            off = {
                unit: yaw_error_deg(float(np.radians(seen_deg)), labels[unit], period_rad=np.radians(period_deg))
                for unit in ROTATION_UNITS
            }
            found.append(Difference(off))
    return found


def _period_deg(thing: Object, language: Language) -> float | None:
    """After which turn an object looks the same, if it is a box with a yaw in its label; None otherwise."""
    function = language.by_name[thing.function]
    shape, rotation = function.by_role.get("shape"), function.by_role.get("rotation")
    if shape is None or rotation is None or rotation.name not in thing or not isinstance(rotation.kind, Turn):
        return None
    word = shape.kind.read(thing.get(shape.name) or "")
    is_box = function.meshes.get(str(word)) == "box"
    return rotation.kind.symmetry_of(thing).period_deg if is_box else None


def _yaw_rad(thing: Object, language: Language, unit: str) -> float:
    rotation = language.by_name[thing.function].by_role["rotation"]
    yaw_deg = rotation.kind.label_yaw_deg(thing[rotation.name], language.settings(rotation_unit=unit))  # type: ignore
    return float(np.radians(yaw_deg))


def _camera(scene: Scene, width: int, height: int) -> Camera | None:
    known = [thing for thing in scene.objects if thing.location and thing.pixel]
    if len(known) < FEWEST_OBJECTS:
        return None
    locations, pixels = np.array([thing.location for thing in known]), np.array([thing.pixel for thing in known])
    camera = fit_camera(locations, pixels, width, height)
    off = np.linalg.norm(camera.project(locations)[:, :2] - pixels[:, :2], axis=1)
    return camera if off.max() <= MOST_PIXELS_OFF else None


def verdict(differences: Sequence[Difference]) -> str | None:
    """The unit, one of ROTATION_UNITS, that the images follow; None where they do not tell."""
    unit, ahead = _leads(differences, APART_DEG)
    is_clear = abs(ahead.sum()) > DEVIATIONS * np.sqrt(len(ahead))
    off = np.array([one.by_unit[unit] for one in differences])
    return unit if is_clear and near_share(off) >= FEWEST_NEAR else None


def _leads(differences: Sequence[Difference], apart: float) -> tuple[str, np.ndarray]:
    """The unit that more cubes are nearer to; and for each that tells them `apart`: 1 for the first unit, else -1."""
    one, other = (np.array([found.by_unit[unit] for found in differences]) for unit in ROTATION_UNITS)
    ahead = np.sign(other - one)[np.abs(other - one) > apart]
    return ROTATION_UNITS[0 if ahead.sum() > 0 else 1], ahead


def confidence(differences: Sequence[Difference], apart: float = APART_DEG) -> str:
    """In words: how many cubes are nearer to the unit ahead, and how often chance alone would show such a lead.

    Source: the sign test; cubes are taken to be independent.
    """
    unit, ahead = _leads(differences, apart)
    if not len(ahead):
        return "no cube tells the units apart"
    nearer = int((ahead == (1 if unit == ROTATION_UNITS[0] else -1)).sum())
    chance = float(binomtest(nearer, len(ahead)).pvalue)
    return f"{nearer} of {len(ahead)} cubes that tell are nearer to {unit}, confidence 1 - {chance:.2g}"


def near_share(off_deg: np.ndarray) -> float:
    """The share in percent of differences below NEAR_DEG degrees."""
    return 100.0 * float((np.asarray(off_deg) < NEAR_DEG).mean()) if len(off_deg) else 0.0


def check_rotation(images: ImageSource, scenes: list[Scene], *, where: str) -> tuple[list[Difference], int]:
    """The differences of all cubes that can be read, and how many images they come from.

    Raises: UserError that names `where`, where there are none.
    """
    differences: list[Difference] = []
    used = 0
    for scene in progress.track(scenes, total=len(scenes), label="comparing cubes with their labels", unit="image"):
        found = image_differences(np.asarray(images.read(images.find(scene.image))), scene)
        if found is not None:
            used += 1
            differences += found
    if not used:
        raise UserError(
            f"labels {where}: no image has {FEWEST_OBJECTS} objects whose 3d_coords and pixel_coords fit CLEVR's "
            "camera and the image's size; give the images as they were rendered"
        )
    if not differences:
        raise UserError(f"labels {where}: no cube with a rotation can be seen in {used} images; give more images")
    return differences, used


def _table(differences: list[Difference]) -> str:
    lines = [f"{'rotation_unit':14} {'median difference (degrees)':>28} {f'within {NEAR_DEG:.0f} degrees (%)':>24}"]
    for unit in ROTATION_UNITS:
        off = np.array([one.by_unit[unit] for one in differences])
        lines.append(f"{unit:14} {np.median(off):28.1f} {near_share(off):24.1f}")
    return "\n".join([*lines, f"{'(chance)':14} {CHANCE_DEG:28.1f} {CHANCE_NEAR:24.1f}"])


def main(argv: list[str]) -> int:
    """Prints how well both units fit, and which one to set. Raises: UserError for anything the user can mend."""
    parser = flags.Parser(prog="igllm check-rotation", description=__doc__)
    pictures = f"of CLEVR, in the size of the labels: {IMAGES_HELP}"
    parser.add_argument("--images", type=flags.source, required=True, nargs="+", help=pictures)
    parser.add_argument("--labels", type=flags.source, required=True, help="their LABELS.json")
    parser.add_argument("--limit", type=flags.IMAGES, default=200, help="at most so many images (default: 200)")
    parser.add_argument(
        "--workers", type=flags.WORKERS, default=os.cpu_count() or 1, help="with --renderer (default: cores)"
    )
    add_renderer(parser)
    parser.set_defaults(renderer=None)  # reads the cubes' edges off the images alone
    arguments = parser.parse_args(argv)
    options = renderer_options(arguments)
    images = open_images(arguments.images)
    scenes = parse_labels(read_whole(arguments.labels), TASK, where=arguments.labels)[: arguments.limit]
    if arguments.renderer is not None:
        return _compare_drawings(options, arguments.workers, images, scenes)
    differences, used = check_rotation(images, scenes, where=arguments.labels)
    print(f"{len(differences)} cubes in {used} images: how far labels are from what the images show")
    print(_table(differences))
    unit = verdict(differences)
    if unit is None:
        print("the images do not tell: neither unit fits clearly better and well; give more images with --limit")
    else:
        print(f"the images follow {unit}: set --config.data.rotation_unit={unit}")
        print(confidence(differences))
    if len(scenes) > used:
        progress.note(f"note: {len(scenes) - used} images are left out: their labels do not give the camera")
    return 0


def drawn_differences(
    images: ImageSource, scenes: Sequence[Scene], options: RendererOptions, *, workers: int
) -> list[Difference]:
    """As `check_rotation`, by drawing each scene again in both units: how far edges are off, from 0 (not) to 2."""
    jobs = []
    for scene in scenes:
        picture = np.asarray(images.read(images.find(scene.image)))
        camera = _camera(scene, picture.shape[1], picture.shape[0])
        if camera is not None and any(thing.shape == "cube" and thing.rotation for thing in scene.objects):
            stage = standard_stage("clevr", camera)
            specs = {unit: scene_spec(scene.objects, "clevr", stage, rotation_unit=unit) for unit in ROTATION_UNITS}
            jobs.append((picture, specs))
    results = run_jobs(cube_leads, jobs, options, count=len(jobs), workers=workers)
    tracked = progress.track(results, total=len(jobs), label="drawing both readings", unit="image")
    return [Difference(lead) for leads in tracked for lead in leads]


def _compare_drawings(options: RendererOptions, workers: int, images: ImageSource, scenes: Sequence[Scene]) -> int:
    differences = drawn_differences(images, scenes, options, workers=workers)
    unit, ahead = _leads(differences, 0.0)
    said = confidence(differences, 0.0)
    print(f"{len(differences)} cubes, drawn in both units by {options.name}: {said}")
    if abs(ahead.sum()) > DEVIATIONS * np.sqrt(len(ahead)):
        print(f"the images follow {unit}: set --config.data.rotation_unit={unit}")
    else:
        print("the images do not tell: neither unit fits clearly better; give more images with --limit")
    return 0
