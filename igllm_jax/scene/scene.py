"""Scenes as labels have them: objects with words, places and turns.

Units: `location` of 3D tasks is in scene units, of 2D in image sides from the top left corner; `pixel` is in pixels of
the labelled image and scene units of depth; `rotation` is what the label says, see `Object`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.scene.tasks import Task, find_task

_LARGEST = float(np.finfo(np.float32).max)  # what a float head learns, and what distances can be squared from
ROUND_SHAPES = ("sphere", "cylinder")  # a turn about the vertical axis cannot be seen on them


@dataclass(frozen=True, slots=True)
class Object:
    """One object; None is what the label does not say.

    location: (x, y, z) in scene units, or for 2D (x, y) in [0, 1].
    rotation: CLEVR (yaw,) in the label's unit; other 3D tasks extrinsic xyz Euler angles in radians.
    pixel: (x, y, depth) of the centre in the image.
    """

    size: str | None = None
    color: str | None = None
    material: str | None = None
    shape: str | None = None
    location: tuple[float, ...] | None = None
    rotation: tuple[float, ...] | None = None
    pixel: tuple[float, float, float] | None = None

    @property
    def is_turned(self) -> bool:
        """Whether the object has a rotation that the code says: the label has one and the shape is not a round one."""
        return self.rotation is not None and self.shape not in ROUND_SHAPES


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects of one image, in the label's order, and the image's name as the label has it."""

    objects: tuple[Object, ...]
    image: str

    @classmethod
    def from_label(cls, label: Mapping[str, Any], task: Task | str) -> "Scene":
        """The scene that one entry of a label file describes.

        label: `image_filename` and `objects`, each with any of size, color, material, shape, 3d_coords, rotation,
            pixel_coords (CLEVR's schema). Other keys are ignored.

        Raises: UserError that names the key and what was expected.
        """
        task = find_task(task)
        if not isinstance(label, Mapping):
            raise UserError(f"a scene must be a JSON object, not {_shown(label)}")
        image = label.get("image_filename")
        if not isinstance(image, str):
            raise UserError(f"image_filename must be text, not {_shown(image)}")
        objects = label.get("objects")
        if not isinstance(objects, list | tuple):
            raise UserError(f"objects must be a list, not {_shown(objects)} (image {image})")
        try:
            return cls(tuple(_object(entry, task) for entry in objects), image)
        except UserError as error:
            raise UserError(f"{error} (image {image})") from None


def _object(entry: Any, task: Task) -> Object:
    if not isinstance(entry, Mapping):
        raise UserError(f"an object must be a JSON object, not {_shown(entry)}")
    words = {}
    for key in task.words:
        word = entry.get(key)
        if word is not None and not _is_word(word):
            raise UserError(f"{key} must be text without quotes or line breaks, not {_shown(word)}")
        words[key] = word
    location = _numbers(entry, "3d_coords", task.location_size)
    rotation = _numbers(entry, "rotation", task.rotation_size) if task.rotation_size else None
    pixel = _numbers(entry, "pixel_coords", 3)
    return Object(**words, location=location, rotation=rotation, pixel=pixel)  # type: ignore[arg-type]


def _is_word(value: Any) -> bool:
    """Whether a line of code can say it: no quotes, no line breaks, no halves of characters (no tokenizer has them)."""
    if not isinstance(value, str):
        return False
    return not any(c in "'\n\r" or "\ud800" <= c <= "\udfff" for c in value)


def _numbers(entry: Mapping[str, Any], key: str, count: int) -> tuple[float, ...] | None:
    value = entry.get(key)
    if value is None:
        return None
    numbers = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if len(numbers) == count and all(_is_number(number) for number in numbers):
        return tuple(float(number) for number in numbers)
    raise UserError(f"{key} must be {count} finite number{'s' if count > 1 else ''}, not {_shown(value)}")


def _is_number(value: Any) -> bool:
    """Whether it is one that float32 takes for finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return abs(float(value)) <= _LARGEST  # false for NaN
    except OverflowError:  # an integer of hundreds of digits
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_labels(path: str | Path, task: Task | str) -> list[Scene]:
    """Every scene of a label file, in order: CLEVR's `{"scenes": [...]}`, a bare list of scenes, or `2d.npz:SPLIT`.

    Raises: UserError that names the file, and in it the scene.
    """
    task = find_task(task)
    npz = npz_spec(path)
    if (npz is not None) != (task.location_size == 2):
        wanted = "FILE.npz:SPLIT" if task.location_size == 2 else "a JSON file"
        raise UserError(f"labels {path}: task {task.name} needs {wanted}")
    if npz is not None:
        file, split = npz
        points = read_points(file, split)
        return [
            Scene((Object(location=(float(x), float(y))),), npz_name(file, split, index))
            for index, (x, y) in enumerate(points)
        ]
    return parse_labels(_read_file(path), task, where=str(path))


def parse_labels(text: str | bytes, task: Task | str, *, where: str) -> list[Scene]:
    """Every scene of a label file's text; `where` names the file in error messages."""
    task = find_task(task)
    scenes: list[Scene] = []
    owners: dict[str, int] = {}
    for index, label in enumerate(_entries(text, where)):
        try:
            scenes.append(Scene.from_label(label, task))
        except UserError as error:
            raise UserError(f"labels {where}, scene {index}: {error}") from None
        owner = owners.setdefault(scenes[-1].image, index)
        if owner != index:  # both can't be right
            raise UserError(
                f"labels {where}: scenes {owner} and {index} both describe image {scenes[-1].image}; keep one"
            )
    return scenes


def infer_task(labels: str | Path) -> str:
    """The name of a task that reads these labels, for predictions that do not say theirs.

    Points are `twod`, turns of one number or none `clevr`. Turns of three numbers are `so3`, `sixdof` or `shapenet`,
    which are read and scored alike, so that it does not matter for a score which one of them is named.
    """
    if npz_spec(labels) is not None:
        return "twod"
    entries = [entry for entry in _entries(_read_file(labels), str(labels)) if isinstance(entry, Mapping)]
    lists = [entry.get("objects") for entry in entries]
    objects = [item for items in lists if isinstance(items, list) for item in items if isinstance(item, Mapping)]
    if not any(isinstance(item.get("rotation"), list) for item in objects):
        return "clevr"
    if len(objects) > len(entries):
        return "shapenet"
    return "sixdof" if any("3d_coords" in item for item in objects) else "so3"


def _read_file(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"labels {path}: cannot be read ({error.strerror or error}); check the path") from None


def _entries(text: str | bytes, where: str) -> list[Any]:
    try:
        content = json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"labels {where}: not JSON ({error}); is the file complete?") from None
    if isinstance(content, dict):
        content = content.get("scenes")
    if not isinstance(content, list):
        raise UserError(f'labels {where}: expected a list of scenes or {{"scenes": [...]}}')
    return content


def npz_spec(spec: str | Path) -> tuple[str, str] | None:
    """`("DIR/2d.npz", "random")` for `DIR/2d.npz:random`, None for anything else.

    Raises: UserError for a .npz file without a split.
    """
    file, colon, split = str(spec).rpartition(":")
    if colon and file.endswith(".npz") and split:
        return file, split
    if str(spec).rstrip(":").endswith(".npz"):
        raise UserError(f"{spec}: say which split of the file, as in {str(spec).rstrip(':')}:random")
    return None


def npz_name(path: str | Path, split: str, index: int) -> str:
    """The name of a 2D example, for predictions and labels alike: `2d.npz:random/000012`."""
    return f"{PurePosixPath(str(path)).name}:{split}/{index:06d}"


def read_points(path: str | Path, split: str) -> np.ndarray:
    """The points of one split of a 2D file: float64 [N, 2] in [0, 1], x then y.

    Raises: UserError for a missing file or split, or points of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if split not in arrays.files:
                raise UserError(f"{path} has no split {split!r}; it has {', '.join(sorted(arrays.files))}")
            points = np.asarray(arrays[split])
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception as error:  # zipfile and numpy raise many kinds on a broken file
        raise UserError(f"{path}: not a readable .npz file ({error})") from None
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "fiu":
        raise UserError(f"{path}:{split} must be numbers of shape [N, 2], not {points.dtype} {list(points.shape)}")
    points = points.astype(np.float64)
    if not (np.isfinite(points).all() and (points >= 0).all() and (points <= 1).all()):
        raise UserError(f"{path}:{split} must lie in [0, 1]")
    return points
