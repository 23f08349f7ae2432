"""Small data sets as tests need them: labels by task, tars of noise, a 2D file."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from igllm_jax.data.options import DataOptions, Source
from igllm_jax.scene.code import write
from igllm_jax.scene.language import SHIPPED, find_language
from igllm_jax.scene.scene import Object, Scene

WORDS = {
    "size": ("large", "small"),
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
}


def label_object(rng: np.random.Generator, rotation_size: int = 1) -> dict:
    words = {key: str(rng.choice(values)) for key, values in WORDS.items()}
    rotation = [float(angle) for angle in rng.uniform(-3, 3, rotation_size)]
    return {
        **words,
        "3d_coords": [float(number) for number in rng.uniform(-3, 3, 3)],
        "rotation": rotation if rotation_size > 1 else float(rng.uniform(0, 360)),
        "pixel_coords": [float(number) for number in rng.uniform(0, 300, 3)],
    }


def label(name: str, rng: np.random.Generator, count: int, rotation_size: int = 1) -> dict:
    return {"image_filename": name, "objects": [label_object(rng, rotation_size) for _ in range(count)]}


def scene(task: str, rng: np.random.Generator, count: int) -> Scene:
    """A scene of `count` objects of any task (2D always has one)."""
    if task == "twod":
        return Scene((Object(location=(float(rng.random()), float(rng.random()))),), "2d.npz:random/000000")
    return Scene.from_label(label("x.png", rng, count, 1 if task == "clevr" else 3), task)


def texts() -> list[str]:
    """Code of all tasks, both kinds of numbers, drawn with shuffling and synonyms."""
    rng = np.random.default_rng(0)
    written = []
    for name in SHIPPED:
        for numbers_as_tokens in (True, False):
            for _ in range(30):
                written.append(
                    write(
                        scene(name, rng, 3),
                        name,
                        rotation_rep=find_language(name).rotation_reps[0],
                        numbers_as_tokens=numbers_as_tokens,
                        rng=rng,
                        shuffle_attributes=True,
                        use_synonyms=True,
                    ).text
                )
    return written


def png(rng: np.random.Generator, width: int = 19, height: int = 13) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def clevr_set(
    folder: Path, count: int, seed: int = 0, objects: tuple[int, int] = (1, 4), name: str = "train"
) -> Source:
    """A CLEVR-like tar with folders in its names, and its labels, in the released layout."""
    rng = np.random.default_rng(seed)
    images = folder / "images" / f"{name}.tar"
    labels = folder / "labels" / f"{name}.json"
    images.parent.mkdir(parents=True, exist_ok=True)
    labels.parent.mkdir(parents=True, exist_ok=True)
    names = [f"CLEVR_{name}_{index:06d}.png" for index in range(count)]
    write_tar(images, {f"./images/{name}/{file}": png(rng) for file in names})
    scenes = [label(file, rng, int(rng.integers(*objects))) for file in names]
    labels.write_text(json.dumps({"info": {}, "scenes": scenes}))
    return Source(str(images), str(labels))


def options(**changed) -> DataOptions:
    given = {"task": "clevr", "head": "linear", "image_size": 7, "image_mean": (0.5, 0.25, 0.125), "max_length": 2048}
    return DataOptions(**{**given, "prompt": "short", **changed})
