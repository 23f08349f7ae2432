"""`igllm pack --data DIR --out DIR`: a data set in the released layout as ArrayRecord, with TFDS, without TensorFlow.

The pipeline reads it as `tfds:FOLDER/SPLIT` (also where it was copied to: `tfds:gs://BUCKET/FOLDER/SPLIT`), and
so does `tfds.data_source`: records with `image`, `file_name` and `label` (the scene as JSON), in the labels' order.
"""

import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from igllm_jax import files, flags, paths, progress
from igllm_jax.data.bucket_folder import BucketFolder
from igllm_jax.data.examples import check_one_scene_each
from igllm_jax.data.records import LABELS_FILE
from igllm_jax.data.tars import Folder, TarReader, open_images
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath

_VERSION = "1.0.0"
_SPLIT_NAME = re.compile(r"\w[\w-]*")  # what TFDS reads as one split, not as a part or a sum of some
_TAKEN_NAMES = ("all",)  # TFDS means every split together


class _Split:
    """One split's images and labels, checked against each other before anything is written."""

    def __init__(self, images: FilePath, labels: FilePath):
        self.name = labels.stem
        source = open_images(images)
        assert isinstance(source, TarReader | Folder | BucketFolder)
        self.images = source
        self.labels = _raw_labels(labels)
        try:
            indices = [source.find(label["image_filename"]) for label in self.labels]
        except UserError as error:
            raise UserError(f"{error} (labels {labels})") from None
        names = [label["image_filename"] for label in self.labels]
        self.image_indices = check_one_scene_each(names, indices, str(labels))

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(key, record) of every scene, in order."""
        scenes = zip(self.image_indices, self.labels, strict=True)
        for index, (image, label) in enumerate(progress.track(scenes, total=len(self.image_indices), label=self.name)):
            record = {
                "image": self.images.read_bytes(image),
                "file_name": label["image_filename"],
                "label": json.dumps(label),
            }
            yield index, record


def _raw_labels(path: FilePath) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"labels {path}: cannot be read ({error.strerror}); check who may read it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"labels {path}: not JSON ({error}); is the file complete?") from None
    scenes = content.get("scenes") if isinstance(content, dict) else content
    if not isinstance(scenes, list) or not all(_has_name(scene) for scene in scenes):
        raise UserError(f'labels {path}: expected a list of scenes or {{"scenes": [...]}}, each with image_filename')
    if not scenes:
        raise UserError(f"labels {path}: hold no scenes; take the file away, or fill it")
    for index, scene in enumerate(scenes):
        _check_utf8(json.dumps(scene, ensure_ascii=False), f"labels {path}, scene {index}")
    return scenes


def _check_utf8(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: has halves of characters (\\ud800 to \\udfff), which no record holds") from None


def _has_name(scene: Any) -> bool:
    return isinstance(scene, dict) and isinstance(scene.get("image_filename"), str)


def find_splits(data: FilePath) -> list[_Split]:
    """Every split that has both `labels/SPLIT.json` and `images/SPLIT.tar` (or a folder `images/SPLIT`).

    Raises: UserError where there is none, or images and labels do not belong together.
    """
    splits = []
    for labels in sorted((data / "labels").glob("*.json")):
        if not _SPLIT_NAME.fullmatch(labels.stem) or labels.stem.lower() in _TAKEN_NAMES:
            raise UserError(
                f"{labels}: a split that is called so could not be read back; name labels and images by letters, "
                f"digits, _ and -, and not {', '.join(_TAKEN_NAMES)}"
            )
        candidates = (data / "images" / f"{labels.stem}.tar", data / "images" / labels.stem)
        splits += [_Split(candidate, labels) for candidate in candidates if candidate.exists()][:1]
    if not splits:
        raise UserError(
            f"{data}: has no split with both labels/SPLIT.json and images/SPLIT.tar; give the folder that holds these "
            "(2D data are drawn when read, and need no packing)"
        )
    return splits


def pack(data: FilePath, out: FilePath, name: str) -> FilePath:
    """Writes `out`/`name`/1.0.0 whole or not at all; returns that folder."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"--name {name}: use small letters, digits and underscores, a letter first")
    final = out / name / _VERSION
    if final.exists() and not files.is_unfinished(final):
        raise UserError(f"{final} exists already; choose another --out or --name, or remove it")
    splits = find_splits(data)
    import tensorflow_datasets as tfds

    class Packed(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
        """Images with their scenes' labels."""

        VERSION = tfds.core.Version(_VERSION)
        code_path = None  # TFDS would look for download checksums beside this file, with a package it does not install

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "file_name": tfds.features.Text(),
                "label": tfds.features.Text(),
            }
            # In the labels' order, so that the first N scenes are the same ones, packed or not.
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split.name: split.records() for split in splits}

        def _generate_examples(self):
            raise NotImplementedError("splits bring their own generators")

    Packed.name = name
    tfds.disable_progress_bar()
    with _made_here(out) as here:
        made = here / name / _VERSION
        try:
            builder = Packed(data_dir=str(here), file_format="array_record")
            with contextlib.redirect_stdout(sys.stderr):  # TFDS tells what it does; our output is the folder's name
                builder.download_and_prepare()
            for split in splits:
                files.write_text(made / LABELS_FILE.format(split=split.name), json.dumps(split.labels))
            if paths.is_remote(out):
                files.upload_folder(made, final)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); choose another") from None
    return final


@contextlib.contextmanager
def _made_here(out: FilePath) -> Iterator[FilePath]:
    """Where TFDS writes: what goes into a bucket is made on this machine first."""
    if not paths.is_remote(out):
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="igllm-pack-") as folder:
        yield Path(folder)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code. Raises: UserError for anything the user can mend."""
    parser = flags.Parser(prog="igllm pack", description=__doc__)
    parser.add_argument(
        "--data", type=flags.path, required=True, help="folder with images/SPLIT.tar and labels/SPLIT.json"
    )
    parser.add_argument("--out", type=flags.path, required=True, help="folder to write NAME/1.0.0 into")
    parser.add_argument("--name", help="name of the data set (default: the name of the --data folder)")
    arguments = parser.parse_args(argv)
    files.try_folder(arguments.out)
    name = arguments.name or re.sub(r"\W+", "_", paths.name_of(arguments.data)).lower()
    folder = pack(arguments.data, arguments.out, name)
    progress.result(str(folder))
    for file in sorted(folder.glob(LABELS_FILE.format(split="*"))):
        split = file.stem.removeprefix("labels-")
        progress.note(f'read it with --config.data.train.images=tfds:{folder}/{split} --config.data.train.labels=""')
    return 0
