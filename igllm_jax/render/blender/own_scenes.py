"""Data of a user's own Blender scenes: what their objects are called, and the labels of views of them.

An object is said by custom properties with the names of the task's words (`shape`, `color`, ...), or by its name:
`large_red_metal_cube.001`, `chair_3`. All else in a scene is scenery. What is tagged may be the parent of what is seen.
"""

import dataclasses
import re
import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax import paths
from igllm_jax.errors import UserError
from igllm_jax.render.blender.drawing import BlenderRenderer
from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.compose import clevr
from igllm_jax.render.dataset import png_bytes
from igllm_jax.render.labels import RENDERING, Stage, pixel_of
from igllm_jax.render.materials import COLORS, FINISHES
from igllm_jax.render.objects import SIZES, SOLIDS
from igllm_jax.render.scenes import standard_stage
from igllm_jax.render.spec import vector
from igllm_jax.scene.kinds import Word
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.rotations import matrix_to_euler
from igllm_jax.scene.scene import Object, label_entry

ENDINGS = (".blend", ".glb", ".gltf")
KNOWN_WORDS: dict[str, Container[str]] = {"size": SIZES, "color": COLORS, "material": FINISHES, "shape": SOLIDS}
CLASS_NAME = re.compile(r"[A-Za-z]+_\d+")  # of shapes that are a class and a number
CAMERA_TRIES = 20
VAL_SPLIT = "val_ID"


@dataclass(frozen=True)
class Views:
    """What to draw. files: the scenes. views: pictures of each. jitter: of the camera, up to so many scene units along
    each axis. validation: how many of the files, the last ones, make up `val_ID`.
    """

    files: tuple[Path, ...]
    task: str
    seed: int
    width: int
    height: int
    views: int
    jitter: float
    validation: int

    @property
    def counts(self) -> dict[str, int]:
        """Split -> number of pictures."""
        counts = {"train": self.views * (len(self.files) - self.validation), VAL_SPLIT: self.views * self.validation}
        return {split: count for split, count in counts.items() if count}

    def file(self, split: str, index: int) -> Path:
        """The scene that a picture shows."""
        first = len(self.files) - self.validation if split == VAL_SPLIT else 0
        return self.files[first + index // self.views]


def find_scenes(folder: Path) -> tuple[Path, ...]:
    """The scene files of a folder, in order of their names. Raises: UserError where there are none."""
    files = tuple(sorted(path for path in paths.fetch(folder).glob("*") if path.suffix.lower() in ENDINGS))
    if not files:
        raise UserError(f"--from {folder}: expected a folder with scenes that end in {', '.join(ENDINGS)}")
    return files


def word_keys(language: Language) -> tuple[str, ...]:
    """The names of the words that the language says of an object."""
    return tuple(one.name for one in language.functions[0].attributes if isinstance(one.kind, Word))


def words_of(name: str, tags: Mapping[str, Any], language: Language) -> dict[str, str]:
    """The words of an object of Blender's, by its custom properties and, for words not among them, by its name.

    {} for what is scenery: what has no shape.
    """
    words = {key: str(tags[key]) for key in word_keys(language) if isinstance(tags.get(key), str) and tags[key]}
    stem = re.sub(r"\.\d{3,}$", "", name)  # Blender's way to tell apart what has the same name
    for token in re.split(r"[\s_.\-]+", stem.lower()):
        for key in word_keys(language):
            if token in KNOWN_WORDS.get(key, ()):
                words.setdefault(key, token)
    if "shape" not in words and "shape" in word_keys(language) and CLASS_NAME.fullmatch(stem):
        words["shape"] = stem
    return words if "shape" in words else {}


def read_objects(found: Sequence[Mapping[str, Any]], language: Language) -> tuple[list[Object], dict[str, int]]:
    """The scene's objects with location and rotation, and Blender's names -> `index + 1` of their object.

    found: of `BlenderRenderer.read_file`. A location is the middle of the box around the object, in its own frame.
    """
    by_name = {one["name"]: one for one in found}
    words = {one["name"]: words_of(one["name"], one["tags"], language) for one in found}
    pieces: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        owner: str | None = one["name"]
        while owner is not None and not words.get(owner):
            owner = by_name[owner]["parent"] if owner in by_name else None
        if owner is not None and one["is_mesh"]:
            pieces.setdefault(owner, []).append(one)
    objects, ids = [], {}
    for number, (owner, meshes) in enumerate(pieces.items()):
        ids.update({mesh["name"]: number + 1 for mesh in meshes})
        objects.append(_object(words[owner], by_name[owner]["matrix"], [mesh["corners"] for mesh in meshes], language))
    return objects, ids


def _object(words: Mapping[str, str], matrix: Any, corners: Any, language: Language) -> Object:
    frame = np.array(matrix, np.float64)
    axes = frame[:3, :3]
    own = np.linalg.solve(axes, (np.array(corners, np.float64).reshape(-1, 3) - frame[:3, 3]).T).T
    middle = axes @ ((own.min(axis=0) + own.max(axis=0)) / 2) + frame[:3, 3]
    turn = axes / np.linalg.norm(axes, axis=0)
    if language.has_rotation_unit:  # one yaw
        rotation: tuple[float, ...] = (float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])) % 360),)
    else:
        rotation = matrix_to_euler(turn)
    return Object(location=vector(middle), rotation=rotation, **words)


def own_camera(found: Mapping[str, Any] | None, width: int, height: int) -> Camera:
    """The scene's camera, kept upright; CLEVR's where the file has none that can be kept."""
    if found is None:
        return clevr_camera(width, height)
    matrix = np.array(found["matrix"], np.float64)
    position, forward = matrix[:3, 3], -matrix[:3, 2] / np.linalg.norm(matrix[:3, 2])
    if np.hypot(*forward[:2]) < 1e-3:  # straight down: upright has no meaning
        return clevr_camera(width, height)
    ahead = max(float(-position @ forward), 1.0)  # where it passes the origin
    return Camera(
        vector(position), width, height, vector(position + ahead * forward), found["lens_mm"], found["sensor_mm"]
    )


def draw_view(renderer: Any, job: tuple[str, int], *, views: Views) -> tuple[str, int, bytes, dict[str, Any]]:
    """Split, index, PNG and label of one picture. Objects that hardly show are left out of its label.

    Raises: UserError that names the file, where it has no objects or none can be seen.
    """
    assert isinstance(renderer, BlenderRenderer)
    split, index = job
    file, task = views.file(split, index), find_language(views.task)
    content = renderer.read_file(file)
    objects, ids = read_objects(content["objects"], task)
    if not objects:
        raise UserError(
            f"{file}: no object is named or tagged with a shape; name them like large_red_metal_cube, or give them "
            f"custom properties {', '.join(word_keys(task))}"
        )
    base = own_camera(content["camera"], views.width, views.height)
    rng = np.random.default_rng([views.seed, zlib.crc32(f"{file.name}".encode()), index % views.views])
    fewest = clevr.MIN_SHARE_VISIBLE * views.width * views.height
    for _ in range(CAMERA_TRIES):
        jitter = rng.uniform(-views.jitter, views.jitter, 3)
        stage = standard_stage(task, dataclasses.replace(base, position=vector(np.array(base.position) + jitter)))
        seen = renderer.draw_file(file, stage, ids, seed=index)
        is_clear = seen.visible_pixels(len(objects)) >= fewest
        if is_clear.any():
            shown = [thing for thing, clear in zip(objects, is_clear, strict=True) if clear]
            name = f"{task.name}_{split}_{index:06d}.png"
            return split, index, png_bytes(seen.image), _label(shown, stage, task, split, index, name, file)
    raise UserError(f"{file}: from {CAMERA_TRIES} places around {base.position} no object can be seen; move the camera")


def _label(
    objects: Sequence[Object], stage: Stage, task: Language, split: str, index: int, name: str, file: Path
) -> dict[str, Any]:
    located = [thing.replace(pixel=pixel_of(stage.camera, thing.location)) for thing in objects]
    said = (
        clevr.label(located, stage.camera)
        if task.name == "clevr"
        else {"objects": [label_entry(thing, task) for thing in located]}
    )
    return {
        "image_index": index,
        "image_filename": name,
        "split": split,
        **said,
        "source": file.name,
        RENDERING: dataclasses.asdict(stage),
    }
