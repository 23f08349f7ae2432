"""`igllm generate`: images in, scene code out, in the reference's prediction format."""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from igllm_jax import endings, files, flags, progress
from igllm_jax.api import BATCH_SIZE, DTYPES, GRAMMARS, MAX_NEW_TOKENS
from igllm_jax.data import tars
from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.answers import NUM_DRAFTS, NUM_DRAFTS_CPU, AnswerGenerator
from igllm_jax.decoding.generated import details, generated
from igllm_jax.decoding.journal import Journal
from igllm_jax.decoding.predict import predict
from igllm_jax.decoding.sampling import SamplingOptions
from igllm_jax.errors import UserError
from igllm_jax.parallel import distributed
from igllm_jax.parallel.sharding import layout_for_decoding
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import Predictions, of_language, write_predictions
from igllm_jax.weights.trained_model import PROMPT, Trained, load_trained

LINES = Path("-")  # --out: JSON lines on standard output


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="igllm generate", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=flags.path, help="a run")
    model.add_argument("--model", type=flags.path, help="a folder of imported weights")
    parser.add_argument("--step", help="N, best or last (default); best_ema: the averages of it")
    parser.add_argument("--images", type=flags.source, required=True, nargs="+", help=tars.IMAGES_HELP)
    out = "where the predictions go (JSON); - prints JSON lines; of one image, whose code is printed, it may be absent"
    parser.add_argument("--out", type=flags.path, help=out)
    parser.add_argument("--batch_size", type=flags.BATCH, default=BATCH_SIZE)
    parser.add_argument("--limit", type=flags.LIMIT, default=0, help="only the first N images (default: all)")
    parser.add_argument("--max_new_tokens", type=flags.TOKENS, default=MAX_NEW_TOKENS)
    default = f"{NUM_DRAFTS_CPU} on a CPU, {NUM_DRAFTS} elsewhere"
    drafts = f"tokens guessed a step (default: {default}; 0: none); answers stay the same"
    parser.add_argument("--num_drafts", type=flags.DRAFTS, help=drafts)
    grammar = "scene: tokens that leave the language have no chance, so every answer parses; none: anything goes"
    parser.add_argument("--grammar", choices=GRAMMARS, default="scene", help=grammar)
    _add_sampling(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="of the computation")
    parser.add_argument("--tensor", type=flags.DEVICES, default=1, help="shard the weights over so many devices")
    distributed.add_arguments(parser)
    parser.add_argument(
        "--task", type=flags.source, help="with --model: its language, a name or a .toml file (default: its own)"
    )
    parser.add_argument("--rotation_rep", help="with --model: how it writes rotations")
    parser.add_argument("--prompt", help=f"with --model: the prompt it was trained with (default: {PROMPT})")
    options = parser.parse_args(arguments)
    for name in ("task", "rotation_rep", "prompt"):
        if options.workdir and getattr(options, name) is not None:
            parser.error(f"--{name} goes with --model; the run in --workdir {options.workdir} brings its own")
    if options.model and options.step is not None:
        parser.error("--step goes with --workdir; --model has no steps")
    _sampling(options).check(options.num_samples)
    return options


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    warmth = "0 (default): the likeliest token each time; above: draw tokens, 1 as the model says, less is surer"
    parser.add_argument("--temperature", type=flags.TEMPERATURE, default=0.0, help=warmth)
    top_p = "draw from the likeliest tokens that have this probability together (1: from all)"
    parser.add_argument("--top_p", type=flags.PROBABILITY, default=1.0, help=top_p)
    min_p = "draw from tokens of at least this share of the likeliest one's probability (0: from all)"
    parser.add_argument("--min_p", type=flags.PROBABILITY, default=0.0, help=min_p)
    seed = "of the draws; an image's answer depends on it and the image's name, not on the batch"
    parser.add_argument("--seed", type=flags.SEED, default=0, help=seed)
    samples = "answers of each image: the first is the prediction, all stand in the file with how far they agree"
    parser.add_argument("--num_samples", type=flags.ANSWERS, default=1, metavar="K", help=samples)


def _sampling(options: argparse.Namespace) -> SamplingOptions:
    return SamplingOptions(options.temperature, options.top_p, options.min_p, options.seed)


def main(arguments: list[str]) -> int:
    """The command."""
    options = parse(arguments)
    with distributed.session(options):
        if jax.process_count() == 1:
            try:
                with endings.interruptible():
                    return run(options)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("" if _is_printed(options) else "the same command goes on") from None
        try:
            with distributed.stop_signal() as stops:  # JAX takes SIGTERM for itself where there are many processes
                return run(options, stops)
        except distributed.Stopped:
            if distributed.is_first():
                end = "nothing was printed" if _is_printed(options) else f"{options.out} was not written"
                progress.note(f"error: stopped by a signal; {end}; the same command goes on")
            return 1


def run(options: argparse.Namespace, stops: Callable[[], bool] = distributed.never) -> int:
    if distributed.is_first() and not _is_printed(options):
        files.try_writing(options.out)
    source = tars.open_images(options.images)
    count = min(len(source), options.limit or len(source))
    if not count:
        raise UserError(f"--images {source.origin} holds no image")
    if options.out is None and count > 1:
        raise UserError(f"--images {source.origin} has {count} images: give --out FILE, or --out - for JSON lines")
    layout = layout_for_decoding(options.tensor)
    which = {name: getattr(options, name) for name in ("step", "dtype", "task", "rotation_rep", "prompt")}
    is_import = options.model is not None
    trained = load_trained(options.model if is_import else options.workdir, layout, is_import=is_import, **which)
    data = trained.data
    generator = AnswerGenerator(
        trained.model,
        trained.tokenizer,
        data,
        options.max_new_tokens,
        layout,
        options.num_drafts,
        has_grammar=options.grammar == "scene",
        has_details=True,
        sampling=_sampling(options),
        num_samples=options.num_samples,
    )
    sizes = {"batch_size": options.batch_size, "limit": options.limit}
    asked = _asked(options, trained, source)
    journal: Journal[Answer] | None = None if _is_printed(options) else Journal(options.out, asked)
    answers = predict(generator, generator.prepare(trained.params), source, **sizes, stops=stops, journal=journal)
    if jax.process_index() > 0:
        return 0
    if journal is not None:
        _write(options, trained, answers)
        journal.remove()
    _print(options, trained, answers)
    return 0


def _is_printed(options: argparse.Namespace) -> bool:
    """Whether answers are printed, and no file is written."""
    return options.out is None or options.out == LINES


def _write(options: argparse.Namespace, trained: Trained, answers: Mapping[str, Answer]) -> None:
    """The predictions file."""
    data = trained.data
    texts = {name: answer.text for name, answer in answers.items()}
    predictions = Predictions(
        texts,
        rotation_rep=data.rotation_rep,
        rotation_unit=data.rotation_unit,
        train_split=trained.train_split,
        grammar=options.grammar,
        details={name: details(answer, data) for name, answer in answers.items()},
        **of_language(find_language(data.task)),
    )
    write_predictions(options.out, predictions, **trained.about)  # type: ignore[arg-type]


def _print(options: argparse.Namespace, trained: Trained, answers: Mapping[str, Answer]) -> None:
    """JSON lines, or the code of one image; where answers stand on standard output, what is told of them does not."""
    if options.out == LINES:
        for name, answer in answers.items():
            progress.result(json.dumps(generated(name, answer, trained.data).to_json()))
    elif len(answers) == 1:
        (answer,) = answers.values()
        for line in answer.text.removesuffix("\n").split("\n"):
            progress.result(line)
    has_answers = options.out == LINES or len(answers) == 1
    if not _is_printed(options):
        (progress.note if has_answers else progress.result)(f"{len(answers)} answers in {options.out}")
    unfinished = sum(not answer.is_finished for answer in answers.values())
    if unfinished:
        progress.note(f"{unfinished} did not end within --max_new_tokens {options.max_new_tokens}")


def _asked(options: argparse.Namespace, trained: Trained, source: tars.ImageSource) -> dict[str, Any]:
    """All that answers depend on, for the journal: what differs is told by these names."""
    data, language = trained.data, find_language(trained.data.task)
    return {
        "model": trained.about,
        "checkpoint": trained.checkpoint,
        "tokenizer": trained.tokenizer.fingerprint,
        "images": source.fingerprint,
        "limit": options.limit,
        "max_new_tokens": options.max_new_tokens,
        "grammar": options.grammar,
        **{name: getattr(options, name) for name in ("temperature", "top_p", "min_p", "seed", "num_samples")},
        "dtype": options.dtype,
        "task": hashlib.sha256(language.text.encode()).hexdigest()[:16],
        "rotation_rep": data.rotation_rep,
        "prompt": data.prompt,
    }
