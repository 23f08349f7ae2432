"""Prepared TFDS data sets as sources: own ones that `igllm pack` wrote, and TFDS's CLEVR. No TensorFlow is needed.

The folder may lie in a bucket (`tfds:gs://BUCKET/FOLDER/SPLIT`): what describes the set is copied into the cache, once,
and records are read where they are (of s3://, which ArrayRecord cannot read, they are copied as well). A record of a
packed set holds `image` (the file's bytes), `file_name`, and `label` (the scene as JSON, as the label file had it).
CLEVR's holds `image`, `file_name` and `objects`, whose fields have the names of CLEVR's label files.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from igllm_jax import files
from igllm_jax.data.content import digest_some
from igllm_jax.data.images import decode_image
from igllm_jax.data.names import Names, digest
from igllm_jax.data.options import EXACT, PixelOptions
from igllm_jax.data.stores import cache_file, is_remote, keep, kept, list_folder, open_bytes
from igllm_jax.errors import BadSampleError, UserError
from igllm_jax.scene.labels import parse_labels
from igllm_jax.scene.language import Language
from igllm_jax.scene.scene import Scene

RECORDS_PREFIX = "tfds:"
_PIECE = 1 << 24  # bytes
_INFO_FILE = "dataset_info.json"
_FEATURES_FILE = "features.json"
_PACK_AGAIN = "copy the set again, or pack it again with `igllm pack`"
LABELS_FILE = "labels-{split}.json"  # in a packed set's folder: all labels, so that no image is read to know them


def is_records(spec: object) -> bool:
    """Whether it names a split of a prepared TFDS data set: `tfds:NAME/SPLIT`, `tfds:FOLDER/SPLIT`, `tfds:gs://…`."""
    return str(spec).startswith(RECORDS_PREFIX)


class Records(Names):
    """The images and labels of one split, in the records' order."""

    def __init__(self, spec: str):
        """Raises: UserError where there is no such set or split, or one that has no random access."""
        self.spec = self.origin = spec
        name, _, self._split = spec.removeprefix(RECORDS_PREFIX).rpartition("/")
        if not name or not self._split:
            raise UserError(f"{spec}: expected tfds:NAME/SPLIT or tfds:FOLDER/SPLIT")
        self._bucket = name.rstrip("/") if is_remote(name) else ""
        self._builder = _builder(str(_description(self._bucket)) if self._bucket else name, spec)
        with _damage_said(spec, "its description"):
            info = self._builder.info
            self.num_examples = {name: int(split.num_examples) for name, split in info.splits.items()}
            kind, has = info.file_format, set(info.features)
        if self._split not in info.splits:
            raise UserError(f"{spec}: there is no split {self._split}; choose one of {', '.join(sorted(info.splits))}")
        if kind is None or kind.name != "ARRAY_RECORD":
            raise UserError(
                f"{spec}: is stored as {kind.value if kind else 'nothing known'}, which has no random access; "
                "prepare it with file_format='array_record' (tfds build --file_format=array_record)"
            )
        if not ({"image", "file_name", "label"} <= has or {"image", "file_name", "objects"} <= has):
            raise UserError(
                f"{spec}: its records have {', '.join(sorted(has))}; needed are image, file_name and label or objects "
                "(sets that `igllm pack` wrote and TFDS's clevr have them)"
            )
        if not self.num_examples[self._split]:
            raise UserError(f"{spec}: the split is empty; choose one of {', '.join(sorted(info.splits))}")
        self.labels = self._read_labels()
        self.names = [label["image_filename"] for label in self.labels]

    def __reduce__(self):  # readers stay here; the labels are in the cache or the set's folder
        return Records, (self.spec,)

    @cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        with _damage_said(self.spec, "its records"):
            records = self._builder.as_data_source(self._split, decoders={"image": tfds.decode.SkipDecoding()})
            if self._bucket and not _is_copied(self._bucket):  # TFDS would look for the files beside the description
                records.data_source = _where_they_are(records, self._bucket)
            if len(records) != self.num_examples[self._split]:
                raise ValueError(f"{len(records)} of {self.num_examples[self._split]} are there")
        return records

    def _read_labels(self) -> list[dict[str, Any]]:
        """Every label, as CLEVR's label files have them."""
        packed = Path(self._builder.data_dir) / LABELS_FILE.format(split=self._split)
        if packed.exists():
            return self._checked(_parsed(packed), str(packed))
        file = cache_file("records", f"{packed} {self.fingerprint} {self.state}")
        text = kept(file)
        if text is not None:
            return json.loads(text)
        count = self.num_examples[self._split]
        labels = [_label(self._record(index), self._builder.info.features) for index in range(count)]
        keep(file, json.dumps(labels))
        return self._checked(labels, self.spec)

    def _checked(self, labels: Any, where: str) -> list[dict[str, Any]]:
        if not isinstance(labels, list) or not all(
            isinstance(label, dict) and isinstance(label.get("image_filename"), str) for label in labels
        ):
            raise UserError(f"{where}: expected a list of scenes, each with image_filename; {_PACK_AGAIN}")
        if len(labels) != self.num_examples[self._split]:
            raise UserError(
                f"{where}: holds {len(labels)} scenes, the split {self._split} {self.num_examples[self._split]} "
                f"records; {_PACK_AGAIN}"
            )
        return labels

    def scenes(self, task: Language | str) -> list[Scene]:
        """The labels as scenes. Raises: UserError where one does not fit the task."""
        return parse_labels(json.dumps(self.labels), task, where=self.spec)

    @cached_property
    def label_digest(self) -> str:
        """Stands for the labels' content."""
        return digest(self.labels)

    def _record(self, index: int) -> Any:
        records = self._records
        try:
            return records[index]
        except Exception as error:  # ArrayRecord's and TFDS's, for files that are missing, damaged or not allowed
            raise BadSampleError(
                f"{self.origin}: record {index} cannot be read ({error}); are all files there, as they were packed?"
            ) from None

    def read_bytes(self, index: int) -> bytes:
        """One image file's content."""
        record = self._record(index)
        name = _text(record["file_name"])
        if name != self.names[index]:
            raise BadSampleError(
                f"{self.origin}: record {index} is image {name}, but its label is of {self.names[index]}; {_PACK_AGAIN}"
            )
        return record["image"]

    def read(self, index: int, pixels: PixelOptions = EXACT) -> Image.Image:
        """The image, RGB. Raises: BadSampleError where it cannot be decoded."""
        return decode_image(self.read_bytes(index), f"{self.origin}: image {self.names[index]}", pixels)

    @property
    def fingerprint(self) -> str:
        """Stands for the images' content: how many bytes in which pieces."""
        split = self._builder.info.splits[self._split]
        return digest("records", self._builder.name, split.name, list(split.shard_lengths), split.num_bytes)

    @cached_property
    def content(self) -> str:
        return digest("records", self.fingerprint, digest_some(self))

    @property
    def state(self) -> str:
        """Stands for the records' files as they were last changed; in a bucket, for the set's description."""
        if self._bucket:
            return open_bytes(f"{self._bucket}/{_INFO_FILE}").identity
        stats = {file.name: file.stat() for file in sorted(Path(self._builder.data_dir).glob("*array_record*"))}
        return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()])


def _description(bucket: str) -> Path:
    """The cache's copy of all files in a data set's remote folder, of the records only where they can't be read there.

    Raises: UserError where there are none, or the copy cannot be written.
    """
    folder = cache_file("tfds", open_bytes(f"{bucket}/{_INFO_FILE}").identity, suffix="")
    if folder.is_dir():
        return folder
    files.try_folder(folder.parent, "IGLLM_CACHE")
    with files.whole_folder(folder, is_synced=False, is_shared=True) as partial:
        for name in list_folder(bucket):
            if _is_copied(bucket) or ".array_record" not in name:
                _copy(f"{bucket}/{name}", partial / name)
    return folder


def _is_copied(bucket: str) -> bool:
    """Whether records are copied too: ArrayRecord reads gs:// itself, but of Google's own servers alone."""
    return bucket.startswith("s3://") or (bucket.startswith("gs://") and "STORAGE_EMULATOR_HOST" in os.environ)


def _copy(address: str, file: Path) -> None:
    store, offset = open_bytes(address), 0
    with file.open("wb") as copy:
        while piece := store.read(offset, _PIECE):
            copy.write(piece)
            offset += len(piece)


def _where_they_are(records: Any, bucket: str) -> Any:
    """The raw records of `records`, a TFDS data source, in the files of `bucket`."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from tensorflow_datasets.core.data_sources.base import file_instructions

    folder = bucket.removeprefix("file://")
    parts = file_instructions(records.dataset_info, records.split)
    return ArrayRecordDataSource([replace(part, filename=f"{folder}/{Path(part.filename).name}") for part in parts])


def _builder(name: str, spec: str) -> Any:
    """The set in a folder (or one version folder below it), or the one that TFDS finds under that name."""
    import tensorflow_datasets as tfds

    folder = Path(name)
    if folder.is_dir():
        found = [file.parent for depth in ("", "*/", "*/*/") for file in sorted(folder.glob(f"{depth}{_INFO_FILE}"))]
        if len(found) != 1:
            several = f"holds several data sets ({', '.join(map(str, found))}); name one" if found else "holds none"
            raise UserError(f"{spec}: the folder {several}; a data set's folder is the one with dataset_info.json")
        _check_features(found[0])
        with _damage_said(spec, "its description"):
            return tfds.builder_from_directory(found[0])
    try:
        with _damage_said(spec, "its description"):
            return tfds.core.read_only_builder.builder_from_files(name)
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(
            f"{spec}: neither a folder nor a prepared data set; check the path, or where $TFDS_DATA_DIR points"
        ) from None


@contextlib.contextmanager
def _damage_said(spec: str, what: str) -> Iterator[None]:
    """TFDS raises whatever the damaged files of a set lead to; a set that is not there is for others to tell."""
    import tensorflow_datasets as tfds

    try:
        yield
    except (UserError, tfds.core.registered.DatasetNotFoundError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        said = said if len(said) <= 200 else f"{said[:200]}..."
        raise UserError(f"{spec}: {what} cannot be read ({type(error).__name__}: {said}); {_PACK_AGAIN}") from None


def _check_features(folder: Path) -> None:
    """TFDS imports the modules that features.json names: let them be its own."""
    file = folder / _FEATURES_FILE
    if not file.is_file():
        raise UserError(f"{file}: is missing, which says what the records hold; {_PACK_AGAIN}")
    waiting = [_parsed(file)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for name in (value.get("type"), value.get("pythonClassName")):
                if isinstance(name, str) and "." in name and not name.startswith("tensorflow_datasets."):
                    raise UserError(f"{file}: names a feature {name} that is none of TFDS's; {_PACK_AGAIN}")


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check who may read it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}); {_PACK_AGAIN}") from None


def _label(record: Mapping[str, Any], features: Any) -> dict[str, Any]:
    """A record's label, as a label file would have it."""
    name = _text(record["file_name"])
    if "label" in record:
        try:
            return {**json.loads(_text(record["label"])), "image_filename": name}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"the label of image {name} is damaged ({error}); {_PACK_AGAIN}") from None
    fields = record["objects"]
    kinds = features["objects"].feature
    count = len(next(iter(fields.values()))) if fields else 0
    objects = [{key: _value(fields[key][index], kinds[key]) for key in fields} for index in range(count)]
    return {"image_filename": name, "objects": objects}


def _value(value: Any, kind: Any) -> Any:
    if hasattr(kind, "int2str"):  # a ClassLabel
        return kind.int2str(int(value))
    return _text(value) if isinstance(value, bytes | str) else np.asarray(value).tolist()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
