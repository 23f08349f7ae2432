"""Label files: JSON of scenes, read piece by piece, JSON Lines, and points of a 2D file."""

import codecs
import gc
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np

from igllm_jax import paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import SHIPPED, Language, find_language
from igllm_jax.scene.language_parts import points_attribute
from igllm_jax.scene.scene import Object, Scene

CHUNK = 1 << 20  # bytes that are read at a time; a file of 100 000 scenes is never whole in memory
LOOKED_AT = 1000  # scenes of a file, to tell which language it is in
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\r\n]*")


def read_labels(path: str | FilePath, task: Language | str) -> list[Scene]:
    """Every scene of a label file, in order: `{"scenes": [...]}`, a list of scenes, one a line, or `2d.npz:SPLIT`.

    Raises: UserError that names the file, and in it the scene.
    """
    language = find_language(task)
    npz = check_label_kind(path, language)
    if npz is not None:
        return point_scenes(*npz, language)
    with _opened(path) as file, _uncollected():
        return parse_labels(file, language, where=str(path))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing in it looks for cycles, which cost a quarter of the time over millions of values that have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_label_kind(path: str | FilePath, language: Language) -> tuple[str, str] | None:
    """`npz_spec(path)`. Raises: UserError where the language's labels are points and these none, or the other way."""
    npz = npz_spec(path)
    if (npz is not None) != (language.label_file == "points"):
        wanted = "FILE.npz:SPLIT" if language.label_file == "points" else "a JSON file"
        raise UserError(f"labels {path}: task {language.name} needs {wanted}")
    return npz


def stream_labels(path: str, language: Language) -> Iterator[Any]:
    """A label file's scenes one at a time, as JSON values that nobody has read yet, or as scenes where they are points.

    Raises: UserError where the file cannot be read, at its beginning or later.
    """
    npz = npz_spec(path)
    if npz is not None:
        yield from point_scenes(*npz, language)
        return
    with _opened(path) as file:
        try:
            yield from entries(file, path, language.image_key)
        except OSError as error:
            raise _unreadable(path, error) from None


def point_scenes(file: str, split: str, language: Language) -> list[Scene]:
    """One scene, of one call, for each point of a 2D file."""
    function = language.functions[0]
    attribute = points_attribute(function)
    assert attribute is not None  # the language reads points
    points = read_points(file, split).tolist()
    calls = (Object.of(function.name, {attribute.name: (x, y)}) for x, y in points)
    return [Scene((call,), npz_name(file, split, index)) for index, call in enumerate(calls)]


def parse_labels(content: str | bytes | IO[bytes], task: Language | str, *, where: str) -> list[Scene]:
    """Every scene of a label file's content or open file; `where` names the file in error messages."""
    language = find_language(task)
    scenes: list[Scene] = []
    owners: dict[str, int] = {}
    for index, label in enumerate(entries(content, where, language.image_key)):
        try:
            scenes.append(Scene.from_label(label, language))
        except UserError as error:
            raise UserError(f"labels {where}, scene {index}: {error}") from None
        owner = owners.setdefault(scenes[-1].image, index)
        if owner != index:  # both can't be right
            raise UserError(
                f"labels {where}: scenes {owner} and {index} both describe image {scenes[-1].image}; keep one"
            )
    return scenes


def infer_task(labels: str | FilePath) -> str:
    """The name of a shipped language that these labels are in, for predictions that do not say theirs.

    Of those that read the first scenes, it is the one whose `recognised_by` asks for most. Which of several that are
    written and scored alike is named does not matter for a score.
    """
    is_points = npz_spec(labels) is not None
    kind = "points" if is_points else "scenes"
    languages = [language for language in map(find_language, SHIPPED) if language.label_file == kind]
    if is_points:
        return languages[0].name
    with _opened(labels) as file:
        found = [entry for entry in islice(entries(file, str(labels)), LOOKED_AT) if isinstance(entry, Mapping)]
    fitting = [language for language in languages if _is_recognised(found, language)]
    if not fitting:
        raise UserError(f"labels {labels}: in which language they are can't be told; say it with --task")
    return max(fitting, key=lambda language: language.recognised_by.strictness).name


def _is_recognised(found: list[Mapping[str, Any]], language: Language) -> bool:
    lists = [entry.get(language.calls_key) for entry in found]
    calls = [call for calls in lists if isinstance(calls, list) for call in calls if isinstance(call, Mapping)]
    wanted = language.recognised_by
    keys = {key for call in calls for key in call}
    if not keys.issuperset(wanted.has) or not keys.isdisjoint(wanted.lacks):
        return False
    if wanted.most_calls and any(isinstance(calls, list) and len(calls) > wanted.most_calls for calls in lists):
        return False
    try:
        for entry in found:
            Scene.from_label(entry, language)
    except UserError:
        return False
    return True


def _opened(path: str | FilePath) -> IO[bytes]:
    try:
        return paths.to_path(path).open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str | FilePath, error: OSError) -> UserError:
    return UserError(f"labels {path}: cannot be read ({error.strerror or error}); check the path")


def entries(content: str | bytes | IO[bytes], where: str, image_key: str = "image_filename") -> Iterator[Any]:
    """The scenes of a label file as JSON values, one at a time; `image_key` is what an entry has at least.

    Raises: UserError where the content is not JSON, or neither a list of scenes, nor `{"scenes": [...]}`, nor lines.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    try:
        text = _Text(_as_utf8(io.BytesIO(content) if isinstance(content, bytes) else content))
        if text.peek() == "[":
            yield from text.items()
            text.end()
        elif text.peek() == "{":
            yield from _wrapped_or_lines(text, where, image_key)
        else:
            text.value()
            text.end()
            raise _not_scenes(where)
    except (ValueError, RecursionError) as error:
        raise UserError(f"labels {where}: not JSON ({error}); is the file complete?") from None


def _as_utf8(file: IO[bytes]) -> IO[bytes]:
    """The file after its byte order mark; one in UTF-16 or UTF-32, which are rare, is read whole and encoded anew."""
    encoding = json.detect_encoding(file.read(4))
    file.seek(3 if encoding == "utf-8-sig" else 0)
    return file if encoding.startswith("utf-8") else io.BytesIO(file.read().decode(encoding).encode())


def _not_scenes(where: str) -> UserError:
    return UserError(f'labels {where}: expected a list of scenes, {{"scenes": [...]}}, or one scene a line')


def _wrapped_or_lines(text: "_Text", where: str, image_key: str) -> Iterator[Any]:
    """The scenes of an object with the list `scenes`; of objects without, one after the other, these themselves."""
    first, has_scenes = {}, False
    for key in text.object_keys():
        if key == "scenes" and text.peek() == "[":
            has_scenes = True
            yield from text.items()
        else:
            first[key] = text.value()
    if has_scenes:
        return text.end()
    if not text.peek() and image_key not in first:
        raise _not_scenes(where)
    yield first
    while text.peek():
        yield text.value()


class _Text:
    """A file's text as a stream of JSON, of which only a window is in memory."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        start = file.read(CHUNK)
        self._decode = codecs.getincrementaldecoder(json.detect_encoding(start))("surrogatepass").decode
        self._window, self._at, self._num_before, self._is_all = self._decode(start), 0, 0, False

    def _read_more(self) -> bool:
        """Whether the window has grown: by as much as it holds, so that long values are not tried often."""
        if self._is_all:
            return False
        data = self._file.read(max(CHUNK, len(self._window) - self._at))
        self._is_all = not data
        self._window = self._window[self._at :] + self._decode(data, not data)
        self._num_before, self._at = self._num_before + self._at, 0
        return True

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            self._at = _BLANKS.match(self._window, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._read_more():
                return ""

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._read_more():
                    raise ValueError(f"{error.msg} at character {self._num_before + error.pos}") from None
                continue
            if end < len(self._window) or not self._read_more():  # a number at the window's end may go on
                self._at = end
                return value

    def _take(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            where = f"character {self._num_before + self._at}"
            raise ValueError(f"{' or '.join(characters)} expected at {where}")
        self._at += 1
        return found

    def items(self) -> Iterator[Any]:
        """The values of the list that comes next."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def object_keys(self) -> Iterator[str]:
        """The keys of the object that comes next; who takes them takes the value of each, too."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            key = self.value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def end(self) -> None:
        """Raises: ValueError where something follows."""
        if self.peek():
            raise ValueError(f"something follows at character {self._num_before + self._at}")


def npz_spec(spec: str | FilePath) -> tuple[str, str] | None:
    """`("DIR/2d.npz", "random")` for `DIR/2d.npz:random`, None for anything else.

    Raises: UserError for a .npz file without a split.
    """
    file, colon, split = str(spec).rpartition(":")
    if colon and file.endswith(".npz") and split:
        return file, split
    if str(spec).rstrip(":").endswith(".npz"):
        raise UserError(f"{spec}: say which split of the file, as in {str(spec).rstrip(':')}:random")
    return None


def npz_name(path: str | FilePath, split: str, index: int) -> str:
    """The name of a 2D example, for predictions and labels alike: `2d.npz:random/000012`."""
    return f"{PurePosixPath(str(path)).name}:{split}/{index:06d}"


def read_points(path: str | FilePath, split: str) -> np.ndarray:
    """The points of one split of a 2D file: float64 [N, 2] in [0, 1], x then y.

    Raises: UserError for a missing file or split, or points of another kind.
    """
    try:
        with paths.to_path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
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
