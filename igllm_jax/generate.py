"""`igllm generate`: images in, scene code out, in the reference's prediction format."""

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from igllm_jax import files, flags, progress
from igllm_jax.data import tars
from igllm_jax.data.eval_images import image_batches, reader
from igllm_jax.decoding.answers import NUM_DRAFTS, Answer, AnswerGenerator
from igllm_jax.errors import UserError
from igllm_jax.parallel import distributed
from igllm_jax.parallel.sharding import MeshLayout, make_mesh, one_device
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import Predictions, of_language, write_predictions
from igllm_jax.weights.trained_model import Trained, load_imported, load_run


def predict(
    trained: Trained,
    source: Any,
    *,
    batch_size: int,
    limit: int,
    max_new_tokens: int,
    layout: MeshLayout | None = None,
    num_drafts: int = NUM_DRAFTS,
    stops: Callable[[], bool] = distributed.never,
) -> dict[str, Answer]:
    """Image name -> answer, for the first `limit` images (0: all) of an image source, with progress on stderr.

    layout: where `trained` lives (default: one device). batch_size is rounded up to what it can shard evenly.
    num_drafts: see AnswerGenerator.
    stops: asked before each batch. Raises: Stopped where it says so.
    """
    layout = one_device() if layout is None else layout
    writer = AnswerGenerator(trained.model, trained.tokenizer, trained.data, max_new_tokens, layout, num_drafts)
    prepared = writer.prepare(trained.params)
    size = writer.batch_size(batch_size)
    count = min(len(source), limit or len(source))
    names, read = list(source.names)[:count], reader(source, trained.data)
    found: Iterable[np.ndarray] = image_batches(read, count, size, trained.data.image_size, list(layout.rows(size)))
    if jax.process_index() == 0:
        found = progress.track(found, total=-(-count // size), label="generate", unit="batch")
    answers: dict[str, Answer] = {}
    for start, images in zip(range(0, count, size), found, strict=True):
        if stops():
            raise distributed.Stopped
        here = names[start : start + size]
        answers.update(zip(here, writer(prepared, images, size, here), strict=True))
    return answers


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="igllm generate", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=Path, help="a run")
    model.add_argument("--model", type=Path, help="a folder of imported weights")
    parser.add_argument("--step", help="N, best or last (default)")
    parser.add_argument("--images", required=True, help="TAR | FOLDER | 2d.npz:SPLIT")
    parser.add_argument("--out", type=Path, required=True, help="where the predictions go (JSON)")
    parser.add_argument("--batch_size", type=flags.BATCH, default=16)
    parser.add_argument("--limit", type=flags.LIMIT, default=0, help="only the first N images (default: all)")
    parser.add_argument("--max_new_tokens", type=flags.TOKENS, default=1024)
    drafts = "tokens guessed a step (0: none); answers stay the same"
    parser.add_argument("--num_drafts", type=flags.DRAFTS, default=NUM_DRAFTS, help=drafts)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation")
    parser.add_argument("--tensor", type=flags.DEVICES, default=1, help="shard the weights over so many devices")
    distributed.add_arguments(parser)
    parser.add_argument("--task", help="with --model: its language, a name or a .toml file (default: its own)")
    parser.add_argument("--rotation_rep", help="with --model: how it writes rotations")
    parser.add_argument("--prompt", help="with --model: the prompt it was trained with (default: vicuna_v1)")
    options = parser.parse_args(arguments)
    for name in ("task", "rotation_rep", "prompt"):
        if options.workdir and getattr(options, name) is not None:
            parser.error(f"--{name} goes with --model; the run in --workdir {options.workdir} brings its own")
    if options.model and options.step is not None:
        parser.error("--step goes with --workdir; --model has no steps")
    return options


def main(arguments: list[str]) -> int:
    """The command."""
    options = parse(arguments)
    with distributed.session(options):
        if jax.process_count() == 1:
            return run(options)
        try:
            with distributed.stop_signal() as stops:  # JAX takes SIGTERM for itself where there are many processes
                return run(options, stops)
        except distributed.Stopped:
            if distributed.is_first():
                print(f"error: stopped by a signal; {options.out} was not written", file=sys.stderr)
            return 1


def run(options: argparse.Namespace, stops: Callable[[], bool] = distributed.never) -> int:
    if distributed.is_first():
        files.try_writing(options.out)
    source = tars.open_images(options.images)
    if not len(source):
        raise UserError(f"--images {options.images} holds no image")
    layout = MeshLayout.of("decode", make_mesh({"data": -1, "fsdp": 1, "tensor": options.tensor}))
    if options.workdir:
        trained = load_run(options.workdir, options.step or "last", layout)
    else:
        about = {
            "task": options.task,
            "rotation_rep": options.rotation_rep or "",
            "prompt": options.prompt or "vicuna_v1",
        }
        trained = load_imported(options.model, **about, layout=layout)
    if options.dtype:
        trained = replace(trained, model=replace(trained.model, dtype=options.dtype))
    sizes = {name: getattr(options, name) for name in ("batch_size", "limit", "max_new_tokens", "num_drafts")}
    answers = predict(trained, source, **sizes, layout=layout, stops=stops)
    if jax.process_index() > 0:
        return 0
    data = trained.data
    texts = {name: answer.text for name, answer in answers.items()}
    predictions = Predictions(
        texts,
        rotation_rep=data.rotation_rep,
        rotation_unit=data.rotation_unit,
        train_split=trained.train_split,
        **of_language(find_language(data.task)),
    )
    write_predictions(options.out, predictions, **trained.about)  # type: ignore[arg-type]
    unfinished = sum(not answer.is_finished for answer in answers.values())
    print(f"{len(answers)} answers in {options.out}")
    if unfinished:
        print(f"{unfinished} did not end within --max_new_tokens {options.max_new_tokens}", file=sys.stderr)
    return 0
