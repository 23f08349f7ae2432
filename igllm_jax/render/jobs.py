"""What `igllm render` draws: for each label its scene, and that of its prediction from the same viewpoint."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from igllm_jax import paths
from igllm_jax.data.stores import read_whole
from igllm_jax.data.tars import ImageSource
from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.folder import INPUT, MOST_OBJECTS, PREDICTED, TRUE, RenderedScene
from igllm_jax.render.labels import Stage
from igllm_jax.render.meshes import find_models
from igllm_jax.render.objects import plain_words
from igllm_jax.render.roles import Thing
from igllm_jax.render.scenes import STANDARD, is_drawable, label_stage, scene_spec, standard_stage
from igllm_jax.render.spec import SceneSpec
from igllm_jax.scene.labels import entries, parse_labels
from igllm_jax.scene.language import Language
from igllm_jax.scene.metrics import match
from igllm_jax.scene.predictions import Predictions, match_names
from igllm_jax.scene.reading import Reading, read
from igllm_jax.scene.scene import Scene

LISTED_PROBLEMS = 50  # of each prediction
LONGEST_PROBLEM = 200  # characters
LONGEST_NAME = 80


@dataclass(frozen=True)
class Job:
    """One scene to draw: the sides that are there, the image it belongs to, and its entry of the index."""

    entry: RenderedScene
    specs: dict[str, SceneSpec]
    picture: Image.Image | None = None


@dataclass(frozen=True)
class Reader:
    """How texts and labels are read. image_size: width and height where neither label nor image says them.

    meshes: the folder of the models that objects show, or None.
    """

    task: Language
    rotation_rep: str
    rotation_unit: str
    image_size: tuple[int, int]
    meshes: str | None = None

    def spec(self, things: Sequence[Thing], stage: Stage, paint_of: Mapping[int, int] | None = None) -> SceneSpec:
        """The scene of a label's or a prediction's objects on `stage`."""
        return scene_spec(
            things,
            self.task,
            stage,
            rotation_rep=self.rotation_rep,
            rotation_unit=self.rotation_unit,
            paint_of=paint_of,
            meshes=self.meshes,
        )

    def problems(self, reading: Reading) -> list[str]:
        """What of a prediction is not drawn, or not as it says, in words that are safe to print."""
        found = [f"line {problem.line}: {problem.reason}" for problem in reading.problems]
        models = {model.word for model in find_models(self.meshes)} if self.meshes else set()
        for index, thing in enumerate(reading.objects[:MOST_OBJECTS]):
            if not is_drawable(thing, self.task):
                found.append(f"object {index}: has no location in reach, and is not drawn")
                continue
            plain = plain_words(thing, self.task, models)
            found += [f"object {index}: {word} is unknown, and drawn plainly" for word in plain]
        if len(reading.objects) > MOST_OBJECTS:
            found.append(f"objects from number {MOST_OBJECTS} on are not drawn")
        return found

    def entry(
        self, image: str, name: str, camera: tuple[Camera, str], sides: list[str], reading: Reading | None
    ) -> RenderedScene:
        """The scene's entry of the index."""
        found = [] if reading is None else self.problems(reading)
        listed = tuple(problem[:LONGEST_PROBLEM] for problem in found[:LISTED_PROBLEMS])
        return RenderedScene(image, name, *camera, tuple(sides), len(found), listed)


@dataclass(frozen=True)
class LabelFile:
    """A label file's scenes, each with its entry as it stands, and what the file says of itself."""

    scenes: list[Scene]
    entries: list[Mapping[str, Any]]
    info: Mapping[str, Any]


def read_label_file(path: str, task: Language) -> LabelFile:
    """Raises: UserError that names the file, and in it the scene."""
    text = read_whole(path)
    scenes = parse_labels(text, task, where=path)
    return LabelFile(scenes, list(entries(text, path, task.image_key)), _info(text))


def _info(text: bytes) -> Mapping[str, Any]:
    """What a label file says of itself; nothing where it is a list of scenes, or one a line."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    info = content.get("info") if isinstance(content, dict) else None
    return info if isinstance(info, dict) else {}


def find_meshes(given: str | None, labels: LabelFile, where: str) -> str | None:
    """The folder of the models that the labels' objects show: the one that is given, else the one that `make-data
    --meshes` noted in the file. None for labels without such. Raises: UserError where that folder is gone."""
    if given is not None:
        return given
    noted = labels.info.get("meshes")
    if not isinstance(noted, str):
        return None
    if not paths.to_path(noted).is_dir():
        raise UserError(f"labels {where}: were made with the meshes of {noted}, which is not there; give --meshes DIR")
    return noted


def file_name(image: str, index: int) -> str:
    """A name for the scene's files that is safe everywhere and unlike any other's."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", PurePosixPath(image).name.rpartition(".")[0])
    return f"{index:06d}_{stem[:LONGEST_NAME]}"


def label_jobs(
    labels: LabelFile, predictions: Predictions | None, images: ImageSource | None, reader: Reader
) -> Iterator[Job]:
    """The jobs of a label file, in its order. Raises: UserError where a label or image is not as it should be."""
    names = match_names([scene.image for scene in labels.scenes], predictions.answers if predictions else {})
    for index, (scene, entry, name) in enumerate(zip(labels.scenes, labels.entries, names, strict=True)):
        picture = None if images is None else images.read(images.find(scene.image))
        width, height = reader.image_size if picture is None else picture.size
        stage, camera_from = label_stage(entry, scene, reader.task, width, height)
        if picture is not None and picture.size != (stage.camera.width, stage.camera.height):
            raise UserError(
                f"image {scene.image}: is {width}x{height}, but its label's camera says "
                f"{stage.camera.width}x{stage.camera.height}; give the images that the labels belong to"
            )
        specs, reading = {TRUE: reader.spec(scene.objects, stage)}, None
        if predictions is not None and name is not None:
            reading = read(predictions.answers[name], reader.task, rotation_rep=reader.rotation_rep)
            # Code does not say paint that is not in the words, so an object gets that of the one it stands for.
            paint_of = {predicted: true for true, predicted in match(scene, reading, reader.task)}
            specs[PREDICTED] = reader.spec(reading.objects[:MOST_OBJECTS], stage, paint_of)
        sides = [*specs, *([INPUT] if picture is not None else [])]
        camera = (stage.camera, camera_from)
        yield Job(reader.entry(scene.image, file_name(scene.image, index), camera, sides, reading), specs, picture)


def code_job(text: str, reader: Reader) -> Job:
    """The job of a text of scene code, seen by the camera that stands without jitter."""
    reading = read(text, reader.task, rotation_rep=reader.rotation_rep)
    stage = standard_stage(reader.task, clevr_camera(*reader.image_size))
    specs = {PREDICTED: reader.spec(reading.objects[:MOST_OBJECTS], stage)}
    return Job(reader.entry("code", "code", (stage.camera, STANDARD), [PREDICTED], reading), specs)
