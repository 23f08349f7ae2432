"""What a run was trained on, scene by scene, so that a resumed run can list what changed."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

from igllm_jax.data.stores import keep, kept
from igllm_jax.errors import UserError, shown
from igllm_jax.paths import FilePath
from igllm_jax.progress import note

if TYPE_CHECKING:
    from igllm_jax.data.examples import Examples

DATA_FILE = "data.manifest"  # in a run's folder
_NAMED = 3  # of many, so many are called by name


class Data(Protocol):
    """What a TrainPipeline says of its data."""

    fingerprint: str

    @property
    def content(self) -> str: ...

    def manifest(self) -> "Manifest": ...


class SourceManifest(TypedDict):
    """One source. scenes: image name -> CRC-32 of the scene. files: how the images were named, sized and filled."""

    images: str
    labels: str
    content: str
    files: str
    scenes: dict[str, int]


Manifest = list[SourceManifest]


def manifest(parts: Sequence["Examples"]) -> Manifest:
    """What these sources hold now."""
    return [
        {
            "images": part.source.images,
            "labels": part.source.labels,
            "content": part.content,
            "files": part.images.fingerprint,
            "scenes": {scene.image: zlib.crc32(repr(scene).encode("utf-8", "replace")) for scene in part.scenes},
        }
        for part in parts
    ]


def data_meta(data: Data) -> dict[str, str]:
    """What a checkpoint remembers of its data. Those of older versions know the first of the two alone."""
    return {"data fingerprint": data.fingerprint, "data content": data.content}


def check_resumed(data: Data, meta: Mapping[str, object], workdir: FilePath, *, accepts: bool) -> bool:
    """Whether the data are what a checkpoint with this meta saw; where not, what changed is listed on stderr.

    accepts: whether other data are taken. Raises: UserError that lists what changed where they are not.
    """
    now = data_meta(data)
    if all(meta.get(key, value) == value for key, value in now.items()):
        return True
    before = read_manifest(workdir / DATA_FILE)
    if before is None:
        listed = [f"what changed is not known, since there is no {workdir / DATA_FILE}"]
    else:
        listed = changes(before, data.manifest()) or ["the number of scenes taken, or the weights of the sources"]
    key = next(key for key, value in now.items() if meta.get(key, value) != value)
    if not accepts:
        raise UserError(
            f"{workdir} was trained with another {key} ({meta[key]}, now {now[key]}): {'; '.join(listed)}. Give it the "
            "data it had, go on with --accept_changed_data, or take another --workdir"
        )
    for line in listed:
        note(f"the data changed: {line}")
    return False


def changes(before: Manifest, after: Manifest) -> list[str]:
    """One line for each thing that differs; none where nothing does."""
    lines = []
    if len(before) != len(after):
        lines.append(f"there were {len(before)} sources, now {len(after)}")
    for old, new in zip(before, after, strict=False):
        lines += [f"{new['images']}: {line}" for line in _source_changes(old, new)]
    return lines


def _source_changes(old: SourceManifest, new: SourceManifest) -> list[str]:
    ours, theirs = new["scenes"], old["scenes"]
    groups = {
        "scenes are gone": [name for name in theirs if name not in ours],
        "scenes are new": [name for name in ours if name not in theirs],
        "scenes are labelled otherwise": [name for name in ours if name in theirs and ours[name] != theirs[name]],
    }
    lines = [f"{len(names)} {what} ({_some(names)})" for what, names in groups.items() if names]
    if not lines and list(ours) != list(theirs):
        lines.append("the scenes have another order")
    if old["files"] != new["files"]:
        lines.append("image files have other names or sizes")
    if old["content"] != new["content"] and old["files"] == new["files"]:
        lines.append("image files of the same names and sizes hold something else")
    return lines


def write_manifest(file: FilePath, content: Manifest) -> None:
    """Writes it, whole or not at all; where there is no room, a later run can only say that something changed."""
    keep(file, json.dumps(content))


def read_manifest(file: FilePath) -> Manifest | None:
    """What `write_manifest` wrote; None where nothing did, as in runs of older versions, or where it is damaged."""
    text = kept(file)
    return None if text is None else json.loads(text)


def _some(names: Sequence[str]) -> str:
    named = ", ".join(shown(name) for name in names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named}, ..."
