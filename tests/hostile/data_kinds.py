"""Kinds of input that the data room reads: labels, predictions, tars, images, 2D files, packed sets, own caches."""

import io
import json
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from igllm_jax import evaluate, pack
from igllm_jax.data.examples import load_examples
from igllm_jax.data.images import decode_image, preprocess
from igllm_jax.data.manifest import DATA_FILE, changes, check_resumed, read_manifest, write_manifest
from igllm_jax.data.names import is_image, plain_name
from igllm_jax.data.pipeline import TrainPipeline
from igllm_jax.data.prompts import answer
from igllm_jax.data.rows import write_scene
from igllm_jax.data.stores import cache_file, keep, open_bytes
from igllm_jax.data.tar_index import read_index
from igllm_jax.data.tars import TarReader, open_images
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.scene.labels import read_points
from igllm_jax.scene.predictions import Predictions, read_predictions, write_predictions
from tests.data import samples
from tests.hostile import mutate
from tests.hostile.kinds import Kind, files_below
from tests.hostile.mutate import Files

_COUNT = 4  # scenes and images


def _set(folder: Path) -> Files:
    samples.clevr_set(folder, count=_COUNT)
    return files_below(folder)


def _source(folder: Path) -> samples.Source:
    return samples.Source(str(folder / "images/train.tar"), str(folder / "labels/train.json"))


@cache
def _tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return train_small([answer(text, "clevr") for text in samples.texts()], folder)


# labels


def _train(folder: Path) -> Any:
    """The scenes, once a batch has been made of them."""
    data = TrainPipeline([_source(folder)], samples.options(), _tokenizer(), seed=0, batch_size=_COUNT)
    batch = data.batch(0)
    if not np.isfinite(batch.numbers).all():
        raise AssertionError("a row holds a number that is not finite")
    return load_examples(_source(folder), samples.options()).scenes


def entries(content: bytes) -> list[dict[str, Any]]:
    """The scenes by Python's own reader: a list, `{"scenes": [...]}`, or one value after the other."""
    text = content.decode(json.detect_encoding(content), "surrogatepass").strip()
    values, at = [], 0
    while at < len(text):
        value, at = json.JSONDecoder().raw_decode(text, at)
        values.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    if len(values) > 1:
        return values
    if isinstance(values[0], list):
        return values[0]
    return values[0]["scenes"] if isinstance(values[0].get("scenes"), list) else values


def _labels_differ(folder: Path, scenes: Any) -> str:
    labels = entries((folder / "labels/train.json").read_bytes())
    if [scene.image for scene in scenes] != [entry["image_filename"] for entry in labels]:
        return "other scenes"
    for scene, entry in zip(scenes, labels, strict=True):
        for item, wanted in zip(scene.objects, entry["objects"], strict=True):
            for key in ("size", "color", "material", "shape"):
                if getattr(item, key) != wanted.get(key):
                    return f"another {key}"
            for value, key in ((item.location, "3d_coords"), (item.rotation, "rotation")):
                numbers = wanted.get(key)
                numbers = [numbers] if isinstance(numbers, int | float) else numbers
                if (None if value is None else list(value)) != numbers:
                    return f"another {key}"
    return ""


# predictions


def _scored_set(folder: Path) -> Files:
    _set(folder)
    scenes = load_examples(_source(folder), samples.options()).scenes
    texts = {scene.image: write_scene(scene, samples.options(head="none"), None).text for scene in scenes}
    predictions = Predictions(texts, task="clevr", rotation_unit="deg")
    write_predictions(folder / "predictions.json", predictions, model_path="run", model_base=None, model_name="step_7")
    return files_below(folder)


def _score(folder: Path) -> Any:
    files = ["--predictions", str(folder / "predictions.json"), "--labels", str(folder / "labels/train.json")]
    if evaluate.main([*files, "--out", str(folder / "metrics.json"), "--rotation_unit", "deg"]):
        raise AssertionError("evaluate returned an error without raising one")
    json.loads((folder / "metrics.json").read_bytes())
    return read_predictions(folder / "predictions.json").answers


def _predictions_differ(folder: Path, answers: Any) -> str:
    wanted = json.loads((folder / "predictions.json").read_bytes())["answers"]
    texts = {name: answer["outputs"].encode("utf-8", "replace").decode() for name, answer in wanted.items()}
    return "" if texts == answers else "other texts"


# tars


def _tar(folder: Path, form: int, names: list[str]) -> Files:
    rng = np.random.default_rng(0)
    with tarfile.open(folder / "x.tar", "w", format=form) as tar:
        for name in names:
            content = samples.png(rng, 5, 3)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if form == tarfile.PAX_FORMAT:
                entry.pax_headers = {"comment": "x" * 20}
            tar.addfile(entry, io.BytesIO(content))
        for kind, name, target in ((tarfile.SYMTYPE, "d/link.png", "0.png"), (tarfile.LNKTYPE, "hard.png", names[0])):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    return files_below(folder)


def _header_tar(folder: Path) -> Files:
    return _tar(folder, tarfile.GNU_FORMAT, ["d/0.png", "d/1.png", "d/notes.txt", "d/" + "n" * 120 + ".png", "2.png"])


def _pax_tar(folder: Path) -> Files:
    return _tar(folder, tarfile.PAX_FORMAT, ["d/0.png", "é" * 60 + ".png", "2.png"])


def _read_tar(folder: Path) -> dict[str, bytes]:
    images = open_images(folder / "x.tar")
    if isinstance(images, TarReader):
        _ = images.content, images.fingerprint
    return {name: images.read_bytes(index) for index, name in enumerate(images.names)}


def _tar_differs(folder: Path, found: dict[str, bytes]) -> str:
    """Python's own reader, member by member; of several with one name it takes the last."""
    members, folders = {}, set()
    with tarfile.open(folder / "x.tar") as tar:
        for member in tar:
            name = plain_name(member.name)
            if member.isdir():
                folders.add(name)
            elif is_image(name):
                members[name] = member
        if extra := set(found) - set(members):
            return f"images that tarfile has not: {len(extra)}"
        for name, member in members.items():
            if name in folders or not (member.isreg() or member.type not in tarfile.SUPPORTED_TYPES):
                continue
            if name not in found:
                return "an image is missing"
            if tar.extractfile(member).read() != found[name]:  # type: ignore[union-attr]
                return "other bytes"
    return ""


def _index_and_tar(folder: Path) -> Files:
    _header_tar(folder)
    keep(folder / "kept.config", read_index(open_bytes(folder / "x.tar"), "x").to_json())
    return files_below(folder)


def _read_tar_with_index(folder: Path) -> dict[str, bytes]:
    file = cache_file("tar", open_bytes(folder / "x.tar").identity)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((folder / "kept.config").read_bytes())
    return _read_tar(folder)


# images


def _pictures(folder: Path) -> Files:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (13, 19, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.save(folder / "rgb.png")
    colours.save(folder / "turned.jpg", exif=exif)
    colours.save(folder / "turned.png", exif=exif)
    colours.save(folder / "x.webp", lossless=True)
    colours.save(folder / "x.bmp")
    colours.convert("L").save(folder / "grey.png")
    colours.convert("P").save(folder / "palette.png", transparency=3)
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 256, (13, 19, 4), dtype=np.uint8)).save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 65536, (13, 19), dtype=np.uint16)).save(folder / "grey16.png")
    return files_below(folder)


def _decode(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for name, content in files_below(folder).items():
        image = decode_image(content, name)
        found[name] = np.asarray(image)
        for aspect_ratio in ("pad", "square"):
            preprocess(image, 14, aspect_ratio, (0.5, 0.5, 0.5))
    return found


def _pixels_differ(folder: Path, found: dict[str, np.ndarray]) -> str:
    """What Pillow opens, made colours by formulas of our own."""
    for name, pixels in found.items():
        image = ImageOps.exif_transpose(Image.open(folder / name))
        if image.mode.startswith("I"):
            grey = np.rint(np.asarray(image).astype(float) / 257)
            if "transparency" in image.info:
                continue
            wanted = np.repeat(grey[..., None], 3, -1)
        elif "A" in image.getbands() or "transparency" in image.info:
            layers = np.asarray(image.convert("RGBA")).astype(float)
            share = layers[..., 3:] / 255
            wanted = layers[..., :3] * share + 255 * (1 - share)
        else:
            wanted = np.asarray(image.convert("RGB")).astype(float)
        if pixels.shape != wanted.shape or np.abs(pixels - wanted).max() > 1:
            return f"other pixels ({image.mode})"
    return ""


# 2D files


def _points(folder: Path) -> Files:
    rng = np.random.default_rng(0)
    np.savez(folder / "2d.npz", random=rng.random((5, 2)), other=rng.random((3, 2)).astype(np.float32))
    return files_below(folder)


def _read_points(folder: Path) -> np.ndarray:
    images = open_images(f"{folder / '2d.npz'}:random")
    for index in range(len(images)):
        images.read(index)
    return read_points(folder / "2d.npz", "random")


def _points_differ(folder: Path, found: np.ndarray) -> str:
    with np.load(folder / "2d.npz", allow_pickle=False) as arrays:
        return "" if np.array_equal(arrays["random"], found) else "other points"


# packed sets

_PACKED: dict[str, bytes] = {}  # how the images were before they were packed


def _packed(folder: Path) -> Files:
    source = samples.clevr_set(folder / "data", count=_COUNT)
    images = open_images(source.images)
    _PACKED.update({Path(name).name: images.read_bytes(index) for index, name in enumerate(images.names)})
    out = pack.pack(folder / "data", folder / "packed", "own")
    return files_below(out)


def _read_packed(folder: Path) -> dict[str, bytes]:
    images = open_images(f"tfds:{folder}/train")
    images.scenes("clevr")  # type: ignore[attr-defined]
    _ = images.content
    return {name: images.read_bytes(index) for index, name in enumerate(images.names)}


def _packed_differ(folder: Path, found: dict[str, bytes]) -> str:
    return "" if found == _PACKED else "other images"


def _mutate_packed(rng: Any, files: Files) -> Files:
    return mutate.of_json(rng, files) if rng.random() < 0.7 else mutate.of_bytes(rng, files)


# what we keep ourselves


def _image_cache(folder: Path) -> Files:
    _set(folder)
    examples = load_examples(_source(folder), samples.options(cache=str(folder / "kept")))
    assert examples.cached is not None
    for file in (folder / "kept").iterdir():  # the name holds the time of change, which is another one in each trial
        file.rename(file.with_name(f"images{file.suffix}"))
    return files_below(folder)


def _read_cached(folder: Path) -> list[np.ndarray]:
    options = samples.options(cache=str(folder / "own"))
    examples = load_examples(_source(folder), options)  # says what the files are called here
    (file,) = (folder / "own").glob("*.u8")
    for suffix in (".u8", ".bad"):
        file.with_suffix(suffix).write_bytes((folder / "kept" / f"images{suffix}").read_bytes())
    examples = load_examples(_source(folder), options)
    return [examples.image(index) for index in range(_COUNT)]


def _mutate_cache(rng: Any, files: Files) -> Files:
    """Bytes of the list; of the images, whose every value is a colour, only their number."""
    name = rng.choice(sorted(files))
    if name.endswith(".bad"):
        return {**files, **mutate.of_bytes(rng, {name: files[name]})}
    content = files[name]
    return {
        **files,
        name: rng.choice((content[: rng.randrange(len(content))], content + bytes(rng.randrange(1, 600)), b"")),
    }


def _cached_differ(folder: Path, found: list[np.ndarray]) -> str:
    examples = load_examples(_source(folder), samples.options())
    is_same = all(np.array_equal(examples.image(index), image) for index, image in enumerate(found))
    return "" if is_same else "other images"


def _manifest(folder: Path) -> Files:
    _set(folder)
    data = TrainPipeline([_source(folder)], samples.options(), _tokenizer(), seed=0, batch_size=2)
    write_manifest(folder / DATA_FILE, data.manifest())
    return files_below(folder)


def _resume(folder: Path) -> list[str] | None:
    data = TrainPipeline([_source(folder)], samples.options(), _tokenizer(), seed=0, batch_size=2)
    check_resumed(data, {"data fingerprint": "another"}, folder, accepts=True)
    before = read_manifest(folder / DATA_FILE)
    return None if before is None else [line for line in changes(before, data.manifest()) if "images" not in line]


def _resumed_differ(folder: Path, found: list[str] | None) -> str:
    return "changes that did not happen" if found else ""


DATA_KINDS = {
    "labels": Kind(_set, _train, mutate.of_json, _labels_differ, lambda name: name.endswith(".json")),
    "labels, scored": Kind(_scored_set, _score, mutate.of_json, is_target=lambda name: name == "labels/train.json"),
    "predictions": Kind(
        _scored_set, _score, mutate.of_json, _predictions_differ, lambda name: name == "predictions.json"
    ),
    "tar headers": Kind(_header_tar, _read_tar, mutate.of_tar, _tar_differs),
    "tar PAX fields": Kind(_pax_tar, _read_tar, mutate.of_pax, _tar_differs),
    "tar index, kept": Kind(
        _index_and_tar, _read_tar_with_index, mutate.of_bytes, _tar_differs, lambda name: name == "kept.config"
    ),
    "images": Kind(_pictures, _decode, mutate.of_bytes, _pixels_differ),
    "npz": Kind(_points, _read_points, mutate.of_bytes, _points_differ),
    "packed sets": Kind(_packed, _read_packed, _mutate_packed, _packed_differ),
    "image cache": Kind(
        _image_cache,
        _read_cached,
        _mutate_cache,
        _cached_differ,
        lambda name: name.startswith("kept/images.") and name.endswith((".u8", ".bad")),
    ),
    "data manifest": Kind(_manifest, _resume, mutate.of_bytes, _resumed_differ, lambda name: name == DATA_FILE),
}
