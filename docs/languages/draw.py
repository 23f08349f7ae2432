"""Pictures of made-up scenes, drawn with Pillow from the roles that a language gives its attributes.

    python docs/languages/draw.py LANGUAGE.toml FOLDER [NUM_TRAIN [NUM_VAL]]

writes FOLDER/images/{train,val_ID}.tar and FOLDER/labels/{train,val_ID}.json. It knows roles, not attributes: what has
a radius is a disc, what has a start and an end a line, what has a size a box, what has a width a gap on a line; points
in three dimensions are drawn as the plan shows them.
"""

import io
import json
import math
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from igllm_jax.scene.examples import example_scene, scene_label
from igllm_jax.scene.language import Language, find_language
from igllm_jax.scene.scene import Object, Scene

SIDE = 64  # pixels
GROUND, INK = "white", "black"


def draw(scene: Scene, language: Language, side: int = SIDE) -> Image.Image:
    """The picture of a scene whose places lie between 0 and 1, once scaled as for the float head."""
    picture = Image.new("RGB", (side, side), GROUND)
    pen = ImageDraw.Draw(picture)
    places = [a for _, a in language.attributes() if a.is_matched]
    unit = side / places[0].kind.format.scale[0]  # pixels per metre, or whatever the language measures in
    for item in scene.objects:
        _draw_call(pen, item, language, unit)
    return picture


def _draw_call(pen: ImageDraw.ImageDraw, item: Object, language: Language, unit: float) -> None:
    roles = {role: language.value(item, role) for role in language.by_name[item.function].by_role}
    fill, stroke = (None if word in (None, "none") else word for word in (roles.get("fill"), roles.get("stroke")))
    place = [unit * x for x in (roles.get("location") or (0.0, 0.0))[:2]]
    if roles.get("start"):
        ends = [tuple(unit * x for x in roles[role][:2]) for role in ("start", "end")]
        pen.line(ends, fill=stroke or INK, width=int(roles.get("line_width") or 2))
    elif roles.get("radius"):
        pen.circle(place, unit * roles["radius"], fill=fill, outline=stroke)
    elif roles.get("size"):
        angle = (roles.get("rotation") or (0.0,))[0]
        half = [unit * x / 2 for x in roles["size"][:2]]
        pen.polygon(_corners(place, half, angle), fill=fill or (None if stroke else "gray"), outline=stroke)
    elif roles.get("width"):
        pen.circle(place, unit * roles["width"] / 4, fill="red")


def _corners(center: list[float], half: list[float], angle: float) -> list[tuple[float, float]]:
    cos, sin = math.cos(angle), math.sin(angle)
    signs = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return [
        (center[0] + cos * x * half[0] - sin * y * half[1], center[1] + sin * x * half[0] + cos * y * half[1])
        for x, y in signs
    ]


def write_split(language: Language, folder: Path, split: str, count: int, seed: int, calls: int = 3) -> None:
    """Writes the pictures and labels of `count` scenes."""
    rng = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    labels: list[dict[str, Any]] = []
    with tarfile.open(folder / "images" / f"{split}.tar", "w") as tar:
        for index in range(count):
            scene = example_scene(language, rng, calls=calls, image=f"{split}_{index:06d}.png", least=0.1, most=0.9)
            png = io.BytesIO()
            draw(scene, language).save(png, "PNG")
            entry = tarfile.TarInfo(scene.image)
            entry.size = len(png.getvalue())
            tar.addfile(entry, io.BytesIO(png.getvalue()))
            labels.append(scene_label(scene, language))
    (folder / "labels" / f"{split}.json").write_text(json.dumps({"scenes": labels}))


if __name__ == "__main__":
    _, file, out, *counts = sys.argv
    wanted = [int(count) for count in counts] + [2000, 200][len(counts) :]
    for number, (name, size) in enumerate(zip(("train", "val_ID"), wanted, strict=True)):
        write_split(find_language(file), Path(out), name, size, seed=number)
