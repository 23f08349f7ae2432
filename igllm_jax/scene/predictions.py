"""The predictions file: JSON with the text that a model wrote for each image, and which label it belongs to."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from igllm_jax import files, paths
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import Language, find_language, parse_language

_MOST_PARTS = 32  # of a name, counted from its end
LOG_PROBABILITIES = "log_probabilities"  # of an answer, if it has them: one number a call
SAMPLES, LOG_LIKELIHOOD = "samples", "log_likelihood"
REFINED = "refined"  # of an answer: how looking again went, see `refine.refined.Refined`
SETTINGS = ("task", "language", "rotation_rep", "rotation_unit", "train_split", "grammar")


@dataclass(frozen=True)
class Sample:
    """One of several answers. log_likelihood: of the whole answer."""

    text: str
    log_likelihood: float


@dataclass(frozen=True)
class Predictions:
    """answers: image name -> the text that was written. The settings are None where the file does not say them.

    task: the language's name. language: its file's text, where it is none of those that come along.
    train_split: for 2D, the split that the model was trained on. grammar: what answers were kept to while they were
    written ("scene": the language, so that they always parse; "none": nothing). confidences: image name -> the
    log-probability of each call of the text, of those answers that say it. samples: image name -> of several answers
    each, the first one is the text. details: image name -> what else its entry says: of a file that
    is written, anything; of one that is read, how it was refined.
    """

    answers: dict[str, str]
    task: str | None = None
    rotation_rep: str | None = None
    rotation_unit: str | None = None
    train_split: str | None = None
    language: str | None = None
    grammar: str | None = None
    confidences: dict[str, tuple[float, ...]] = field(default_factory=dict)
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    details: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def write_predictions(
    path: str | FilePath,
    predictions: Predictions,
    *,
    model_path: str,
    model_base: str | None,
    model_name: str,
) -> None:
    """Writes the file, whole or not at all. Raises: UserError where that is not possible."""
    content: dict[str, Any] = {"model_path": model_path, "model_base": model_base, "model_name": model_name}
    # Reference: it has no settings in the file, and its evaluation guesses rotation_rep from the file's name.
    content |= {key: value for key in SETTINGS if (value := getattr(predictions, key)) is not None}
    content["answers"] = {
        name: {"outputs": text, **predictions.details.get(name, {})} for name, text in predictions.answers.items()
    }
    # names that are not UTF-8 hold halves of characters, which JSON can say but a file can't hold: they are escaped
    files.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def of_language(language: Language) -> dict[str, Any]:
    """The settings of Predictions that say the language."""
    return {"task": language.name} | ({} if language.is_shipped else {"language": language.text})


def language_of(predictions: Predictions, where: str) -> Language | None:
    """The language that a predictions file names or brings, None where it says none; `where` is for messages."""
    if predictions.language is not None:
        return parse_language(predictions.language, f"language of the predictions {where}")
    return None if predictions.task is None else find_language(predictions.task)


def read_predictions(path: str | FilePath) -> Predictions:
    """The predictions of a file, as `generate` or the reference's inference writes it.

    Raises: UserError that says what is wrong with the file.
    """
    try:
        content = json.loads(paths.to_path(path).read_bytes())
    except OSError as error:
        raise UserError(f"predictions {path}: cannot be read ({error.strerror or error}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"predictions {path}: not JSON ({error}); is the file complete?") from None
    answers = content.get("answers") if isinstance(content, dict) else None
    if not isinstance(answers, dict):
        raise UserError(f'predictions {path}: expected {{"answers": {{IMAGE: {{"outputs": TEXT}}}}}}')
    for name, answer in answers.items():
        if not isinstance(answer, dict) or not isinstance(answer.get("outputs"), str):
            raise UserError(f'predictions {path}: answer of {name!r} must be {{"outputs": TEXT}}')
    settings = {key: content.get(key) for key in SETTINGS}
    for key, value in settings.items():
        if value is not None and not isinstance(value, str):
            raise UserError(f"predictions {path}: {key} must be text, not {value!r}")
    confidences = {
        name: _confidences(path, name, answer[LOG_PROBABILITIES])
        for name, answer in answers.items()
        if answer.get(LOG_PROBABILITIES) is not None
    }
    texts = {name: _printable(answer["outputs"]) for name, answer in answers.items()}
    samples = {
        name: _samples(path, name, answer[SAMPLES])
        for name, answer in answers.items()
        if answer.get(SAMPLES) is not None
    }
    details: dict[str, Mapping[str, Any]] = {
        name: {REFINED: answer[REFINED]} for name, answer in answers.items() if REFINED in answer
    }
    return Predictions(texts, **settings, confidences=confidences, samples=samples, details=details)


def model_of(path: FilePath) -> dict[str, Any]:
    """What a predictions file, which `read_predictions` took, says of the model: keywords of `write_predictions`."""
    content = json.loads(path.read_bytes())
    return {key: content.get(key) for key in ("model_path", "model_base", "model_name")}


def _samples(path: str | FilePath, name: str, found: Any) -> tuple[Sample, ...]:
    try:
        pairs = [(sample["outputs"], sample[LOG_LIKELIHOOD]) for sample in found]
        if pairs and all(isinstance(text, str) and type(sure) in (int, float) and sure == sure for text, sure in pairs):
            return tuple(Sample(_printable(text), float(sure)) for text, sure in pairs)
    except (KeyError, TypeError, IndexError, OverflowError):
        pass
    raise UserError(
        f'predictions {path}: {SAMPLES} of {name!r} must be a list of {{"outputs": TEXT, "{LOG_LIKELIHOOD}": NUMBER}}'
    )


def _confidences(path: str | FilePath, name: str, numbers: Any) -> tuple[float, ...]:
    if isinstance(numbers, list) and all(type(number) in (int, float) and number == number for number in numbers):
        return tuple(float(number) for number in numbers)
    raise UserError(f"predictions {path}: {LOG_PROBABILITIES} of {name!r} must be a list of numbers, one a call")


def _printable(text: str) -> str:
    """`text` with lone surrogates replaced: JSON can hold them, but no file or terminal can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def match_names(images: Sequence[str], answers: Mapping[str, str] | Iterable[str]) -> list[str | None]:
    """For each labelled image the name under which its answer is found, None where there is none.

    Two names are the same image where they are equal, or one is the end of the other, folder by folder:
    `val/a.png` is found as `a.png` and as `data/val/a.png`, not as `train/a.png`.

    Raises: UserError where two names fit one image equally well, or one name two images.
    """
    known = dict.fromkeys(answers)
    by_parts: dict[tuple[str, ...], list[str]] = {}  # the names of just these parts, two at most
    by_ending: dict[tuple[str, ...], list[str]] = {}  # the names that have folders in front of these parts
    for name in known:
        parts = _parts(name)
        _add(by_parts, parts, name)
        for start in range(1, len(parts)):
            _add(by_ending, parts[start:], name)
    found: list[str | None] = []
    owner: dict[str, str] = {}
    for image in images:
        fitting = [image]
        if image not in known:
            parts = _parts(image)
            shorter = [name for start in range(len(parts)) for name in by_parts.get(parts[start:], ())]
            fitting = shorter + by_ending.get(parts, [])
        if len(fitting) > 1:
            raise UserError(f"predictions {fitting[0]!r} and {fitting[1]!r} both fit the labelled image {image!r}")
        if fitting and owner.setdefault(fitting[0], image) != image:
            raise UserError(f"prediction {fitting[0]!r} fits both labelled images {owner[fitting[0]]!r} and {image!r}")
        found.append(fitting[0] if fitting else None)
    return found


def _parts(name: str) -> tuple[str, ...]:
    """The last folders of a name, and its file: deeper ones would make the tables grow with their square."""
    return PurePosixPath(name).parts[-_MOST_PARTS:]


def _add(table: dict[tuple[str, ...], list[str]], key: tuple[str, ...], name: str) -> None:
    names = table.setdefault(key, [])
    if len(names) < 2:
        names.append(name)
