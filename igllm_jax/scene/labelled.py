"""Predictions files with the labels that they belong to: settings settled, images matched, texts read.

What every command that scores or shows predictions starts from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.scene.checkerboard import CELLS, is_seen, is_seen_from
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.scene.labels import infer_task, npz_spec, read_labels, read_points
from igllm_jax.scene.language import Language, check_rotation_unit, find_language
from igllm_jax.scene.language_parts import points_attribute
from igllm_jax.scene.predictions import Predictions, language_of, match_names, read_predictions
from igllm_jax.scene.reading import Reading, read
from igllm_jax.scene.scene import Scene


@dataclass(frozen=True)
class LabelledPredictions:
    """One predictions file and the scenes of a label file that it has answers for.

    scenes, names, readings: of each such scene the label, the answer's name in the file, and what was read of it.
    num_missing: labelled images without an answer. rotation_rep, rotation_unit, train_split: as settled.
    """

    labels: str
    path: str
    found: Predictions
    language: Language
    rotation_rep: str
    rotation_unit: str
    train_split: str | None
    scenes: list[Scene]
    names: list[str]
    readings: list[Reading]
    num_missing: int

    @property
    def num_unlabelled(self) -> int:
        """Answers that belong to no labelled image."""
        return len(self.found.answers) - len(set(self.names))

    @property
    def num_objects(self) -> np.ndarray:
        """int [scenes]: the true ones of each."""
        return np.array([len(scene.objects) for scene in self.scenes])

    def confidences(self) -> list[list[float]]:
        """The log-probability of each call of each scene; 1.0 everywhere in scenes whose answers do not say it."""
        said = [self.found.confidences.get(name, ()) for name in self.names]
        pairs = zip(said, self.readings, strict=True)
        return [list(own) if len(own) == len(r.objects) else [1.0] * len(r.objects) for own, r in pairs]

    def seen_cells(self) -> list[bool] | None:
        """For each scene of a 2D file whether it lies in cells that `train_split` covers, read off that split's points
        if there; None for other labels, and where no split is said."""
        npz, attribute = npz_spec(self.labels), points_attribute(self.language.functions[0])
        if npz is None or attribute is None or not self.train_split:
            return None
        xy = np.array([scene.objects[0][attribute.name] for scene in self.scenes])
        try:
            training_xy = read_points(npz[0], self.train_split)
        except UserError:
            if self.train_split not in CELLS:
                raise
            return [bool(flag) for flag in is_seen(xy, self.train_split)]
        return [bool(flag) for flag in is_seen_from(xy, self.train_split, training_xy)]


def read_labelled(
    labels: str,
    predictions: str | Sequence[str],
    *,
    task: str | None = None,
    rotation_rep: str | None = None,
    rotation_unit: str | None = None,
    train_split: str | None = None,
    as_reference: bool = False,
) -> list[LabelledPredictions]:
    """One or several predictions files with their labels. What is None is taken from the predictions file, then from
    the kind of labels. as_reference: read as the reference does, see `reading.read`.

    Raises: UserError for unreadable files, contradicting settings and predictions of other images.
    """
    paths = [predictions] if isinstance(predictions, str) else list(predictions)
    loaded = {path: read_predictions(path) for path in paths}
    language = _settle_language(labels, loaded, task)
    scenes = read_labels(labels, language)
    runs = []
    for path, found in loaded.items():
        rep = _settle_rotation_rep(path, language, rotation_rep, found.rotation_rep)
        unit = _agreed(path, "rotation_unit", rotation_unit, found.rotation_unit) or ROTATION_UNITS[0]
        split = _agreed(path, "train_split", train_split, found.train_split)
        matched = match_names([scene.image for scene in scenes], found.answers)
        pairs = [(scene, name) for scene, name in zip(scenes, matched, strict=True) if name is not None]
        if not pairs:
            raise _none_fits(labels, scenes, path, found)
        kept, names = [scene for scene, _ in pairs], [name for _, name in pairs]
        how = {"rotation_rep": rep, "as_reference": as_reference}
        readings = [read(found.answers[name], language, **how) for name in names]  # type: ignore[arg-type]
        settings = (language, rep, check_rotation_unit(unit), split)
        missing = len(scenes) - len(pairs)
        runs.append(LabelledPredictions(labels, path, found, *settings, kept, names, readings, missing))
    return runs


def _none_fits(labels: str, scenes: Sequence[Scene], path: str, found: Predictions) -> UserError:
    return UserError(
        f"predictions {path}: none of its {len(found.answers)} images is among the {len(scenes)} of {labels} ("
        f"{_example(found.answers)} against {_example([scene.image for scene in scenes])}); is it the right split?"
    )


def _example(names: Iterable[str]) -> str:
    return repr(next(iter(names), "nothing"))


def _agreed(path: str, key: str, given: str | None, found: str | None) -> str | None:
    """The value asked for, else the file's; raises UserError where they contradict each other."""
    if given is not None and found is not None and given != found:
        raise UserError(f"predictions {path}: made with {key}={found!r}, but --{key} {given} was asked for")
    return found if given is None else given


def _settle_language(labels: str, loaded: dict[str, Predictions], given: str | None) -> Language:
    languages = {path: language_of(found, path) for path, found in loaded.items()}
    wanted = None if given is None else find_language(given)
    for path, language in languages.items():
        _agreed(path, "task", wanted.name if wanted else None, language.name if language else None)
        if wanted and language and not wanted.says_as(language):
            raise UserError(f"predictions {path}: made with another file of {wanted.name} than --task {given}")
    known = {language.text: language for language in [wanted, *languages.values()] if language}
    if len(known) > 1:
        said = ", ".join(f"{path}: {found.task}" for path, found in loaded.items())
        raise UserError(f"predictions are of different tasks ({said}); compare them one by one")
    return next(iter(known.values())) if known else find_language(infer_task(labels))


def _settle_rotation_rep(path: str, language: Language, given: str | None, found: str | None) -> str:
    if "" in language.rotation_reps:  # nothing to choose: a representation's name is the same as none
        for value in (given, found):
            language.settings(value or "")
        return ""
    name = _agreed(path, "rotation_rep", given, found)
    if name is None:
        raise UserError(
            f"predictions {path}: the file does not say how rotations are written;"
            f" add --rotation_rep {'|'.join(language.rotation_reps)}"
        )
    language.settings(name)
    return name
