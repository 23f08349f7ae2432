"""`igllm generate`: images in, scene code out, in the reference's prediction format."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from igllm_jax import checkpoint, distributed, drafts, progress
from igllm_jax import config as configs
from igllm_jax.assemble import Assembly
from igllm_jax.data import images as image_files
from igllm_jax.data import pipeline, tars
from igllm_jax.data.tokens import MODEL_FILE as TOKENIZER_FILE
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decode import DecodeOptions, Parts, make_decode, prepare
from igllm_jax.errors import UserError
from igllm_jax.interop import base
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.scene import code
from igllm_jax.scene.predictions import Predictions, write_predictions
from igllm_jax.scene.tasks import find_task
from igllm_jax.sharding import Layout, make_mesh

NO_TOKEN = -1  # of a vocabulary that needs no float token, where numbers are text
NUM_DRAFTS = 3  # tokens guessed a step: see BENCHMARKS.md


@dataclass(frozen=True)
class Answer:
    """text: what the model wrote, numbers filled in. is_finished: whether it ended by itself."""

    text: str
    is_finished: bool


def decode_layout(model: VLMConfig, layout: Layout) -> Layout:
    """Where to decode on the devices of `layout`: weights cut over several, never gathered for a token."""
    heads = (model.decoder.num_heads, model.decoder.num_kv_heads, model.vision.num_heads)

    def fits(found: Layout) -> bool:
        try:
            decode_places(model, found)
        except UserError:
            return False
        return not any(number % found.mesh.shape["tensor"] for number in heads)

    return layout.for_decoding(fits)


def decode_places(model: VLMConfig, layout: Layout) -> dict[str, Any]:
    """Shardings of what `decode.prepare` makes."""
    parts = Parts.of(model)
    shapes, axes = parts.shapes(), parts.axes()
    layers = tuple(layout.params(*layer) for layer in zip(shapes["layers"], axes["layers"], strict=True))
    return {"rest": layout.params(shapes["rest"], axes["rest"]), "layers": layers}


def programs(model: VLMConfig, options: DecodeOptions, layout: Layout) -> tuple[Any, Any]:
    """`decode.prepare` and `decode.make_decode`'s decoder, jitted for the devices of `layout` (from decode_layout)."""
    merge = jax.jit(partial(prepare, config=model), out_shardings=decode_places(model, layout))
    return merge, jax.jit(make_decode(model, options, layout), out_shardings=layout.replicated())


class Writer:
    """Writes answers for batches of images; compiled once.

    layout: from decode_layout. Every process gives its own rows of a batch, and gets all answers. num_drafts: tokens
    guessed a step, from what was written so far.
    """

    def __init__(
        self,
        model: VLMConfig,
        tokenizer: Tokenizer,
        options: pipeline.DataOptions,
        max_new_tokens: int,
        layout: Layout,
        num_drafts: int = NUM_DRAFTS,
    ):
        self.layout = layout
        nothing = jax.tree.map(lambda x: put(x, layout.replicated()), drafts.empty())
        self.known = (nothing,) if num_drafts else ()
        before, after = pipeline.prompt_tokens(options, tokenizer)
        self.tokenizer, self.has_head = tokenizer, model.head != "none"
        self.options = DecodeOptions(
            before=tuple(before),
            after=tuple(after),
            max_new_tokens=max_new_tokens,
            end_id=tokenizer.eos_id,
            number_id=tokenizer.float_id if self.has_head else NO_TOKEN,
            vocab_size=tokenizer.vocab_size,
            forbidden=(*tokenizer.forbidden_sequences(), *tokenizer.float_token_in_bytes()),
            num_drafts=num_drafts,
        )
        self.prepare, self.decode = programs(model, self.options, layout)

    def batch_size(self, wanted: int) -> int:
        """`wanted`, rounded up to what the layout can cut evenly."""
        ways = self.layout.mesh.shape["data"] * self.layout.mesh.shape["fsdp"]
        return -(-wanted // ways) * ways

    def __call__(self, prepared: dict[str, Any], images: np.ndarray, batch_size: int, count: int) -> list[Answer]:
        """Answers of the first `count` rows, in order. prepared: what `prepare` made.

        images: uint8 [R, S, S, 3], those of the R rows of the global batch that `layout.rows(batch_size)` names.
        """
        is_used = np.asarray(self.layout.rows(batch_size)) < count
        found = self.decode(prepared, *self.layout.place((images, is_used), batch_size), *self.known)
        if self.known:
            self.known = (found.table,)
        decoded = jax.device_get(replace(found, table=None))
        return [self._answer(decoded.tokens[r], decoded.numbers[r], int(decoded.lengths[r])) for r in range(count)]

    def _answer(self, tokens: np.ndarray, numbers: np.ndarray, length: int) -> Answer:
        ids = tokens[:length]
        text = self.tokenizer.decode(ids.tolist())
        if self.has_head:
            values = numbers[:length][ids == self.options.number_id]
            text = code.fill(text, [float(value) for value in values])
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


def load_run(workdir: Path, step: str, layout: Layout | None = None) -> Trained:
    """The model of a run at `step` ("last", "best" or a number). layout: where (default: the first device)."""
    config = configs.read(workdir)
    found = checkpoint.find_step(workdir, step)
    layout = one_device() if layout is None else layout
    assembly = Assembly.of(config, layout)
    values = checkpoint.load_params(workdir, found)
    trained = {path: put(values[path], shape.sharding) for path, shape in assembly.trainable.items()}
    about = {"model_path": str(workdir), "model_base": config.model.base or None}
    return Trained(
        assembly.model,
        {**assembly.load_frozen(), **trained},
        Tokenizer.load(workdir),
        configs.data_options(config),
        str(config.data.train.images).rpartition(":")[2] if config.task == "twod" else None,
        {**about, "model_name": Path(workdir).resolve().name},
    )


def one_device() -> Layout:
    return Layout.of("decode", make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.local_devices()[:1]))


def put(value: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A host's array to its place; every process holds all of it and keeps its part."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def load_imported(folder: Path, *, task: str, rotation_rep: str, prompt: str, layout: Layout | None = None) -> Trained:
    """The model of a folder that tools/convert_weights.py made; weights in the dtype they were stored in."""
    find_task(task).representation(rotation_rep)
    model = base.read_config(folder)
    vision = model.vision
    options = pipeline.DataOptions(
        task=task,
        rotation_rep=rotation_rep,
        head=model.head,
        prompt=prompt,
        image_size=vision.image_size,
        image_mean=vision.image_mean,
        image_aspect_ratio=base.aspect_ratio(folder),
        max_length=2048,
        num_image_tokens=vision.num_patches,
    )
    about = {"model_path": str(folder), "model_base": None, "model_name": Path(folder).resolve().name}
    stored, bones = base.paths(folder), skeleton(model)
    absent = sorted({path.split("/")[0] for path in bones.shapes if path not in stored})
    if absent:
        raise UserError(
            f"--model {folder} holds no {', '.join(absent)}, so it can't write code yet: train it with model.base, or "
            "import it with --projector or --adapter"
        )
    if not (Path(folder) / TOKENIZER_FILE).is_file():
        raise UserError(f"--model {folder} holds no {TOKENIZER_FILE}: import it again with --tokenizer FILE")
    places = (one_device() if layout is None else layout).params(stored, bones.axes)
    wanted = {path: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=places[path]) for path, s in stored.items()}
    return Trained(model, base.restore(folder, wanted), Tokenizer.load(folder), options, None, about)


def batches(
    source: Any, options: pipeline.DataOptions, size: int, limit: int, rows: Sequence[int] | None = None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """(names, uint8 [R, S, S, 3]) of the first `limit` images (0: all), `size` at a time.

    rows: which rows of each batch to read (default: all, R = size); past the last image they are zeros.
    """
    names = list(source.names)[: limit or None]
    rows = range(size) if rows is None else rows
    for start in range(0, len(names), size):
        part = np.zeros((len(rows), options.image_size, options.image_size, 3), np.uint8)
        for place, row in enumerate(rows):
            if start + row < len(names):
                image = source.read(start + row)
                part[place] = image_files.preprocess(
                    image, options.image_size, options.image_aspect_ratio, options.image_mean
                )
        yield names[start : start + size], part


def predict(
    trained: Trained,
    source: Any,
    *,
    batch_size: int,
    limit: int,
    max_new_tokens: int,
    layout: Layout | None = None,
    num_drafts: int = NUM_DRAFTS,
    stops: Callable[[], bool] = distributed.never,
) -> dict[str, Answer]:
    """Image name -> answer, for the first `limit` images (0: all) of an image source, with progress on stderr.

    layout: where `trained` lives (default: one device). batch_size is rounded up to what it can cut evenly.
    num_drafts: see Writer.
    stops: asked before each batch. Raises: Stopped where it says so.
    """
    layout = one_device() if layout is None else layout
    writer = Writer(trained.model, trained.tokenizer, trained.data, max_new_tokens, layout, num_drafts)
    prepared = writer.prepare(trained.params)
    size = writer.batch_size(batch_size)
    count = min(len(source), limit or len(source))
    found = batches(source, trained.data, size, limit, layout.rows(size))
    if jax.process_index() == 0:
        found = progress.track(found, total=-(-count // size), label="generate", unit="batch")
    answers: dict[str, Answer] = {}
    for names, images in found:
        if stops():
            raise distributed.Stopped
        answers.update(zip(names, writer(prepared, images, size, len(names)), strict=True))
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
    parser.add_argument(
        "--num_drafts", type=int, default=NUM_DRAFTS, help="tokens guessed a step (0: none); answers stay the same"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation")
    parser.add_argument("--tensor", type=int, default=1, help="cut the weights over so many devices")
    distributed.add_arguments(parser)
    parser.add_argument("--task", default="clevr", help="with --model: which task's code it writes")
    parser.add_argument("--rotation_rep", default="", help="with --model: how it writes rotations")
    parser.add_argument("--prompt", default="vicuna_v1", help="with --model: the prompt it was trained with")
    options = parser.parse_args(arguments)
    for name in ("batch_size", "max_new_tokens", "tensor"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.num_drafts < 0:
        parser.error("--num_drafts must be at least 0")
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
    source = tars.open_images(options.images)
    if not len(source):
        raise UserError(f"--images {options.images} holds no image")
    layout = Layout.of("decode", make_mesh({"data": -1, "fsdp": 1, "tensor": options.tensor}))
    if options.workdir:
        trained = load_run(options.workdir, options.step, layout)
    else:
        about = {"task": options.task, "rotation_rep": options.rotation_rep, "prompt": options.prompt}
        trained = load_imported(options.model, **about, layout=layout)
    if options.dtype:
        trained = replace(trained, model=replace(trained.model, dtype=options.dtype))
    sizes = {name: getattr(options, name) for name in ("batch_size", "limit", "max_new_tokens", "num_drafts")}
    answers = predict(trained, source, **sizes, layout=layout, stops=stops)
    if jax.process_index() > 0:
        return 0
    data = trained.data
    texts = {name: answer.text for name, answer in answers.items()}
    predictions = Predictions(texts, data.task, data.rotation_rep, data.rotation_unit, trained.train_split)
    write_predictions(options.out, predictions, **trained.about)  # type: ignore[arg-type]
    cut = sum(not answer.is_finished for answer in answers.values())
    print(f"{len(answers)} answers in {options.out}")
    if cut:
        print(f"{cut} did not end within --max_new_tokens {options.max_new_tokens}", file=sys.stderr)
    return 0
