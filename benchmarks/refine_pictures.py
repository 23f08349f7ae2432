"""The pictures of docs/refine.md: images, where a search began, and where it ended, with its error bars. Run by hand:

python -m benchmarks.refine_pictures --out docs/refine.jpg
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.refine import SEED, case_of, noised, terms_of
from igllm_jax.refine.problems import start_of
from igllm_jax.refine.refined import Refined
from igllm_jax.refine.refining import refine_texts
from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.draw import draw
from igllm_jax.scene.scene import Object

SCENES = (0, 3)
SURE = 1.96  # standard errors of a 95 % interval
TIP = 4.0  # pixels: half a bar's end
GAP = 8  # pixels between pictures


def with_bars(
    image: Image.Image, camera: Camera, things: Sequence[Object], errors: Mapping[str, Mapping[str, float]]
) -> Image.Image:
    """The picture, and around each object's middle the 95 % intervals of x and y, as seen."""
    marked = image.copy()
    pen = ImageDraw.Draw(marked)
    for number, own in errors.items():
        middle = np.array(things[int(number)]["location"], np.float64)
        for axis, name in enumerate("xy"):
            if name not in own:
                continue
            ends = np.stack([middle, middle])
            ends[:, axis] += np.array([-1, 1]) * SURE * own[name]
            bar = camera.project(ends)[:, :2]
            pen.line([*map(tuple, bar)], fill="white", width=2)
            along = bar[1] - bar[0]
            across = TIP * np.array([-along[1], along[0]]) / max(np.linalg.norm(along), 1e-6)
            for end in bar:
                pen.line([tuple(end - across), tuple(end + across)], fill="white", width=2)
    return marked


def row(index: int) -> Image.Image:
    """Image, start and end of one scene, side by side."""
    case = case_of("clevr", index, SEED, noised)
    terms, size = terms_of("clevr"), case.image.size
    result: Refined = refine_texts([terms.write(case.start.things)], [case.image], terms)[0]
    camera = dataclasses.replace(case.start.spec.camera, position=result.camera)
    end = start_of(result.text, terms, *size, camera)
    drawn = with_bars(draw(end.spec).image, camera, end.things, result.standard_errors)
    strip = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1]), "white")
    for number, picture in enumerate((case.image, draw(case.start.spec).image, drawn)):
        strip.paste(picture, (number * (size[0] + GAP), 0))
    return strip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, nargs="+", default=SCENES)
    options = parser.parse_args()
    strips = [row(index) for index in options.scenes]
    width, height = strips[0].size
    sheet = Image.new("RGB", (width, len(strips) * (height + GAP) - GAP), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, number * (height + GAP)))
    sheet.resize((width * 3 // 4, sheet.height * 3 // 4), Image.Resampling.LANCZOS).save(options.out, quality=85)


if __name__ == "__main__":
    main()
