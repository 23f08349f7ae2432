"""The pictures of docs/refine.md: images, where a search began, and where it ended, with its error bars. Run by hand:

python -m benchmarks.refine_pictures --out docs/refine.jpg
python -m benchmarks.refine_pictures --out F.jpg --predictions P.json --refined Q.json --images TAR --names IMAGE IMAGE
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.refine import SEED, case_of, noised, terms_of
from igllm_jax.data.tars import open_images
from igllm_jax.refine.problems import Start, Terms, start_of
from igllm_jax.refine.refined import Refined
from igllm_jax.refine.refining import refine_texts
from igllm_jax.render.camera import Camera
from igllm_jax.render.flat.draw import draw
from igllm_jax.scene.predictions import REFINED, read_predictions
from igllm_jax.scene.scene import Object

SCENES = (0, 3)
SURE = 1.96  # standard errors of a 95 % interval
TIP = 1 / 120  # of a picture's width: half a bar's end
GAP = 8  # pixels between pictures
MOST_WIDE = 1092  # pixels of the sheet


def with_bars(
    image: Image.Image, camera: Camera, things: Sequence[Object], errors: Mapping[str, Mapping[str, float]]
) -> Image.Image:
    """The picture, and around each object's middle the 95 % intervals of x and y, as seen."""
    marked = image.copy()
    pen, thick = ImageDraw.Draw(marked), max(1, image.width // 240)
    for number, own in errors.items():
        middle = np.array(things[int(number)]["location"], np.float64)
        for axis, name in enumerate("xy"):
            if name not in own:
                continue
            ends = np.stack([middle, middle])
            ends[:, axis] += np.array([-1, 1]) * SURE * own[name]
            bar = camera.project(ends)[:, :2]
            pen.line([*map(tuple, bar)], fill="white", width=thick)
            along = bar[1] - bar[0]
            across = TIP * image.width * np.array([-along[1], along[0]]) / max(np.linalg.norm(along), 1e-6)
            for end in bar:
                pen.line([tuple(end - across), tuple(end + across)], fill="white", width=thick)
    return marked


def strip_of(image: Image.Image, start: Start, result: Refined, terms: Terms) -> Image.Image:
    """Image, start and end of one scene, side by side."""
    width, height = size = image.size
    camera = dataclasses.replace(start.spec.camera, position=result.camera)
    end = start_of(result.text, terms, *size, camera)
    drawn = with_bars(draw(end.spec).image, camera, end.things, result.standard_errors)
    strip = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for number, picture in enumerate((image, draw(start.spec).image, drawn)):
        strip.paste(picture, (number * (width + GAP), 0))
    return strip


def with_noise(index: int) -> Image.Image:
    """The row of a scene that is searched from the truth with noise."""
    case, terms = case_of("clevr", index, SEED, noised), terms_of("clevr")
    (result,) = refine_texts([terms.write(case.start.things)], [case.image], terms)
    return strip_of(case.image, case.start, result, terms)


def of_files(options: argparse.Namespace) -> list[Image.Image]:
    """The rows of answers, and of what `igllm refine` made of them."""
    before, after = (read_predictions(path) for path in (options.predictions, options.refined))
    source, terms = open_images([str(options.images)]), terms_of("clevr")
    strips = []
    for name in options.names:
        image = source.read(source.find(name))
        start = start_of(before.answers[name], terms, *image.size)
        result = Refined.from_json({"text": after.answers[name], **after.details[name][REFINED]})
        strips.append(strip_of(image, start, result, terms))
    return strips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, nargs="+", default=SCENES)
    parser.add_argument("--predictions", type=Path, help="show these answers instead")
    parser.add_argument("--refined", type=Path, help="what igllm refine made of them")
    parser.add_argument("--images", type=Path, help="their images")
    parser.add_argument("--names", nargs="+", help="of the images that are shown")
    options = parser.parse_args()
    strips = of_files(options) if options.predictions else [with_noise(index) for index in options.scenes]
    width, height = strips[0].size
    sheet = Image.new("RGB", (width, len(strips) * (height + GAP) - GAP), "white")
    for number, strip in enumerate(strips):
        sheet.paste(strip, (0, number * (height + GAP)))
    if width > MOST_WIDE:
        sheet = sheet.resize((MOST_WIDE, round(sheet.height * MOST_WIDE / width)), Image.Resampling.LANCZOS)
    sheet.save(options.out, quality=85)


if __name__ == "__main__":
    main()
