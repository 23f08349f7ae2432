"""`igllm refine`: predicted scenes moved until they explain their images. Numbers, camera and lamps are searched."""

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax

from igllm_jax import files, flags, paths, progress
from igllm_jax.data.tars import IMAGES_HELP, ImageSource, open_images
from igllm_jax.decoding.journal import Journal
from igllm_jax.errors import UserError
from igllm_jax.refine.alternatives import check_movable
from igllm_jax.refine.problems import Terms
from igllm_jax.refine.refined import Refined
from igllm_jax.refine.refining import RefineOptions, check_drawable, refine_texts
from igllm_jax.refine.revise import KINDS_OF_MOVES
from igllm_jax.refine.search import LEVELS
from igllm_jax.render.roles import default_rotation_rep, must_say_rotation_rep
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import Predictions, language_of, model_of, read_predictions, write_predictions

MOVES_HELP = (
    "also try single words (words), add and remove objects (count): kept where the image is explained better by more "
    "than noise; samples of the predictions are starts, too"
)


def _moves(text: str) -> tuple[str, ...]:
    """An argparse type: kinds of moves, in the order of KINDS_OF_MOVES."""
    said = text.split(",")
    if not set(said) <= set(KINDS_OF_MOVES) or len(said) != len(set(said)):
        raise argparse.ArgumentTypeError(f"expected {' or '.join(KINDS_OF_MOVES)}, or both with a comma, got {text!r}")
    return tuple(kind for kind in KINDS_OF_MOVES if kind in said)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="igllm refine", description=__doc__)
    parser.add_argument(
        "--predictions", type=flags.source, required=True, metavar="P.json", help="what igllm generate wrote"
    )
    parser.add_argument(
        "--images", type=flags.source, required=True, nargs="+", metavar="TAR", help=f"their images: {IMAGES_HELP}"
    )
    parser.add_argument(
        "--out", type=flags.path, required=True, metavar="Q.json", help="where the predictions go; flags and errors too"
    )
    default = ", ".join(str(level.steps) for level in LEVELS)
    parser.add_argument("--steps", type=flags.STEPS, help=f"of each level of blur, at most (default: {default})")
    parser.add_argument("--seconds", type=flags.SECONDS, help="a scene, at most (default: no limit)")
    parser.add_argument(
        "--batch", type=flags.BATCH, default=8, help="scenes at a time (default: 8), side by side on an accelerator"
    )
    parser.add_argument("--moves", type=_moves, default=(), metavar="words,count", help=MOVES_HELP)
    parser.add_argument("--limit", type=flags.LIMIT, default=0, help="only the first N predictions (default: all)")
    parser.add_argument("--task", type=flags.source, help="a language, where the predictions do not say theirs")
    parser.add_argument("--rotation_rep", help="how rotations are written, where the predictions do not say it")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code. Raises: UserError for anything the user can mend."""
    options = parse(arguments)
    files.try_writing(options.out)
    predictions, source = read_predictions(options.predictions), open_images(options.images)
    terms = _terms(options, predictions)
    names = list(predictions.answers)[: options.limit or None]
    if not names:
        raise UserError(f"predictions {options.predictions}: hold no answer")
    for name in names:
        source.find(name)  # raises: before the work
    journal: Journal[Refined] = Journal(options.out, _asked(options, predictions, terms, source), Refined)
    found, _ = journal.open()
    to_do = [name for name in names if name not in found]
    found |= _refine_all(options, predictions, terms, source, to_do, journal)
    _write(options, predictions, {name: found[name] for name in names})
    journal.remove()
    flagged = sum(bool(found[name].flag) for name in names)
    progress.result(f"{len(names)} answers in {options.out}, {flagged} of them flagged")
    return 0


def _terms(options: argparse.Namespace, predictions: Predictions) -> Terms:
    said = language_of(predictions, options.predictions)
    if said is None and options.task is None:
        raise UserError(f"predictions {options.predictions}: the file does not say its task; add --task")
    language = said or find_language(options.task)
    check_drawable(language)
    if options.moves:
        check_movable(language)
    rep = predictions.rotation_rep or options.rotation_rep
    if rep is None and must_say_rotation_rep(language):
        raise UserError(f"predictions {options.predictions}: add --rotation_rep {'|'.join(language.rotation_reps)}")
    return Terms(language, rep or default_rotation_rep(language), predictions.rotation_unit or ROTATION_UNITS[0])


def _asked(options: argparse.Namespace, predictions: Predictions, terms: Terms, source: ImageSource) -> dict[str, Any]:
    """All that the result depends on, for the journal: what differs is told by these names."""
    texts = [part for pair in predictions.answers.items() for part in pair]
    samples = [sample.text for row in predictions.samples.values() for sample in row]
    return {
        "predictions": _digest(texts),
        "images": source.fingerprint,
        "task": _digest([terms.language.text]),
        "rotation_rep": terms.rotation_rep,
        **{name: getattr(options, name) for name in ("steps", "seconds", "limit")},
        **({"moves": options.moves, "samples": _digest(samples)} if options.moves else {}),
    }


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _refine_all(
    options: argparse.Namespace,
    predictions: Predictions,
    terms: Terms,
    source: ImageSource,
    names: Sequence[str],
    journal: Journal[Refined],
) -> dict[str, Refined]:
    levels = tuple(level._replace(steps=options.steps or level.steps) for level in LEVELS)
    at_once = 1 if jax.default_backend() == "cpu" else options.batch
    how = RefineOptions(levels, options.seconds, at_once, options.moves)
    found: dict[str, Refined] = {}
    batches = [names[start : start + options.batch] for start in range(0, len(names), options.batch)]
    for batch in progress.track(batches, total=len(batches), label="refine", unit="batch"):
        pictures = {name: source.read(source.find(name)) for name in batch}
        new: dict[str, Refined] = {}
        for size in sorted({picture.size for picture in pictures.values()}):
            same = {name: picture for name, picture in pictures.items() if picture.size == size}
            texts = [predictions.answers[name] for name in same]
            samples = [[sample.text for sample in predictions.samples.get(name, ())] for name in same]
            outcome = refine_texts(texts, list(same.values()), terms, how, samples)
            new |= dict(zip(same, outcome, strict=True))
        journal.add(new)
        found |= new
    return found


def _write(options: argparse.Namespace, predictions: Predictions, found: dict[str, Refined]) -> None:
    changed = dataclasses.replace(
        predictions,
        answers={name: result.text for name, result in found.items()},
        details={name: result.details() for name, result in found.items()},
        confidences={},
        samples={},
    )
    write_predictions(options.out, changed, **model_of(paths.to_path(options.predictions)))
