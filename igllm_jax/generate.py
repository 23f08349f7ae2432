"""`igllm generate`: images in, scene code out, in the reference's prediction format."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax import checkpoint, progress
from igllm_jax import config as configs
from igllm_jax.assemble import Assembly
from igllm_jax.data import images as image_files
from igllm_jax.data import pipeline, tars
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decode import DecodeOptions, make_decode, prepare
from igllm_jax.errors import UserError
from igllm_jax.interop import base
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.scene import code
from igllm_jax.scene.predictions import Predictions, write_predictions
from igllm_jax.sharding import Layout, make_mesh


@dataclass(frozen=True)
class Answer:
    """text: what the model wrote, numbers filled in. is_finished: whether it ended by itself."""

    text: str
    is_finished: bool


class Writer:
    """Writes answers for batches of images; compiled once."""

    def __init__(self, model: VLMConfig, tokenizer: Tokenizer, options: pipeline.DataOptions, max_new_tokens: int):
        before, after = pipeline.prompt_tokens(options, tokenizer)
        self.tokenizer = tokenizer
        self.options = DecodeOptions(
            before=tuple(before),
            after=tuple(after),
            max_new_tokens=max_new_tokens,
            end_id=tokenizer.eos_id,
            number_id=tokenizer.float_id,
            vocab_size=tokenizer.vocab_size,
            forbidden=tokenizer.forbidden_sequences(),
        )
        self.prepare = jax.jit(partial(prepare, config=model))
        self.decode = jax.jit(make_decode(model, self.options))

    def __call__(self, prepared: dict[str, Any], images: np.ndarray, is_used: np.ndarray) -> list[Answer]:
        """Answers of the used rows. images: uint8 [B, S, S, 3]. is_used: bool [B]. prepared: what `prepare` made."""
        decoded = jax.device_get(self.decode(prepared, images, is_used))
        rows = np.flatnonzero(is_used)
        return [self._answer(decoded.tokens[r], decoded.numbers[r], int(decoded.lengths[r])) for r in rows]

    def _answer(self, tokens: np.ndarray, numbers: np.ndarray, length: int) -> Answer:
        ids = tokens[:length]
        values = numbers[:length][ids == self.options.number_id]
        text = code.fill(self.tokenizer.decode(ids.tolist()), [float(value) for value in values])
        return Answer(text, is_finished=length < self.options.max_new_tokens)


@dataclass(frozen=True)
class Trained:
    """A model ready to write: from a run's workdir or from a folder of imported weights."""

    model: VLMConfig
    params: Params
    tokenizer: Tokenizer
    data: pipeline.DataOptions
    train_split: str | None  # of a 2D run: tells which cells were seen
    about: dict[str, str | None]  # model_path, model_base, model_name of the predictions file


def load_run(workdir: Path, step: str) -> Trained:
    """The model of a run at `step` ("last", "best" or a number)."""
    config = configs.read(workdir)
    found = checkpoint.find_step(workdir, step)
    layout = Layout.of("decode", make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    assembly = Assembly.of(config, layout)
    trained = {path: jnp.asarray(value) for path, value in checkpoint.load_params(workdir, found).items()}
    about = {"model_path": str(workdir), "model_base": config.model.base or None}
    return Trained(
        assembly.model,
        {**assembly.load_frozen(), **trained},
        Tokenizer.load(workdir),
        configs.data_options(config),
        str(config.data.train.images).rpartition(":")[2] if config.task == "twod" else None,
        {**about, "model_name": Path(workdir).resolve().name},
    )


def load_imported(folder: Path, *, task: str, rotation_rep: str, prompt: str) -> Trained:
    """The model of a folder that tools/convert_weights.py made; weights in the dtype they were stored in."""
    model = base.read_config(folder)
    vision = model.vision
    options = pipeline.DataOptions(
        task=task,
        rotation_rep=rotation_rep,
        head=model.head,
        prompt=prompt,
        image_size=vision.image_size,
        image_mean=vision.image_mean,
        max_length=2048,
        num_image_tokens=vision.num_patches,
    )
    about = {"model_path": str(folder), "model_base": None, "model_name": Path(folder).resolve().name}
    return Trained(model, base.restore(folder, base.paths(folder)), Tokenizer.load(folder), options, None, about)


def batches(
    source: Any, options: pipeline.DataOptions, size: int, limit: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """(names, uint8 [size, S, S, 3]) of the first `limit` images (0: all); the last batch is filled with zeros."""
    names = list(source.names)[: limit or None]
    shape = (size, options.image_size, options.image_size, 3)
    for start in range(0, len(names), size):
        part = np.zeros(shape, np.uint8)
        chosen = names[start : start + size]
        for row in range(len(chosen)):
            image = source.read(start + row)
            mean = options.image_mean
            part[row] = image_files.preprocess(image, options.image_size, options.image_aspect_ratio, mean)
        yield chosen, part


def predict(trained: Trained, source: Any, *, batch_size: int, limit: int, max_new_tokens: int) -> dict[str, Answer]:
    """Image name -> answer, for the first `limit` images (0: all) of an image source, with progress on stderr."""
    writer = Writer(trained.model, trained.tokenizer, trained.data, max_new_tokens)
    prepared = writer.prepare(trained.params)
    count = min(len(source), limit or len(source))
    answers: dict[str, Answer] = {}
    for names, images in progress.track(
        batches(source, trained.data, batch_size, limit), total=-(-count // batch_size), label="generate", unit="batch"
    ):
        is_used = np.arange(batch_size) < len(names)
        answers.update(zip(names, writer(prepared, images, is_used), strict=True))
    return answers


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="igllm generate", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=Path, help="a run")
    model.add_argument("--model", type=Path, help="a folder of imported weights")
    parser.add_argument("--step", default="last", help="N, best or last (default)")
    parser.add_argument("--images", required=True, help="TAR | FOLDER | 2d.npz:SPLIT")
    parser.add_argument("--out", type=Path, required=True, help="where the predictions go (JSON)")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--limit", type=int, default=0, help="only the first N images")
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation")
    parser.add_argument("--task", default="clevr", help="with --model: which task's code it writes")
    parser.add_argument("--rotation_rep", default="", help="with --model: how it writes rotations")
    parser.add_argument("--prompt", default="vicuna_v1", help="with --model: the prompt it was trained with")
    options = parser.parse_args(arguments)
    for name in ("batch_size", "max_new_tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(arguments: list[str]) -> int:
    """The command."""
    options = parse(arguments)
    source = tars.open_images(options.images)
    if not len(source):
        raise UserError(f"--images {options.images} holds no image")
    if options.workdir:
        trained = load_run(options.workdir, options.step)
    else:
        trained = load_imported(
            options.model, task=options.task, rotation_rep=options.rotation_rep, prompt=options.prompt
        )
    if options.dtype:
        trained = replace(trained, model=replace(trained.model, dtype=options.dtype))
    answers = predict(
        trained, source, batch_size=options.batch_size, limit=options.limit, max_new_tokens=options.max_new_tokens
    )
    data = trained.data
    texts = {name: answer.text for name, answer in answers.items()}
    predictions = Predictions(texts, data.task, data.rotation_rep, data.rotation_unit, trained.train_split)
    write_predictions(options.out, predictions, **trained.about)
    cut = sum(not answer.is_finished for answer in answers.values())
    print(f"{len(answers)} answers in {options.out}")
    if cut:
        print(f"{cut} did not end within --max_new_tokens {options.max_new_tokens}", file=sys.stderr)
    return 0
