"""`igllm generate`: images in, scene code out, in the reference's prediction format."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from igllm_jax import checkpoint, progress
from igllm_jax import config as configs
from igllm_jax.assemble import Assembly
from igllm_jax.data import images as image_files
from igllm_jax.data import pipeline, prompts, tars
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decode import DecodeOptions, make_decode, prepare
from igllm_jax.errors import UserError
from igllm_jax.interop import base
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.scene import code
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
    about: dict[str, Any]  # goes into the predictions file


def load_run(workdir: Path, step: str) -> Trained:
    """The model of a run at `step` ("last", "best" or a number)."""
    config = configs.read(workdir)
    found = checkpoint.find_step(workdir, step)
    layout = Layout.of("decode", make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    assembly = Assembly.of(config, layout)
    trained = {path: jnp.asarray(value) for path, value in checkpoint.load_params(workdir, found).items()}
    about = {
        "model_path": str(workdir),
        "model_base": config.model.base or None,
        "model_name": Path(workdir).resolve().name,
        "step": found,
        "task": config.task,
        "rotation_rep": config.rotation_rep,
        "rotation_unit": config.data.rotation_unit,
        "train_split": str(config.data.train.images).rpartition(":")[2] if config.task == "twod" else None,
    }
    return Trained(
        assembly.model,
        {**assembly.load_frozen(), **trained},
        Tokenizer.load(workdir),
        configs.data_options(config),
        {key: value for key, value in about.items() if value is not None or key == "model_base"},
    )


def load_imported(folder: Path, config: ConfigDict, dtype: str) -> Trained:
    """The model of a folder that tools/convert_weights.py made. config: says task, prompt and image padding."""
    from dataclasses import replace

    model = replace(base.read_config(folder), dtype=dtype)
    shapes = {path: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)) for path, s in base.paths(folder).items()}
    options = replace(configs.data_options(config), head=model.head, image_size=model.vision.image_size)
    about = {"model_path": str(folder), "model_base": None, "model_name": Path(folder).resolve().name}
    return Trained(model, base.restore(folder, shapes), Tokenizer.load(folder), options, about)


def batches(source: Any, options: pipeline.DataOptions, size: int, limit: int) -> Iterator[tuple[list[str], np.ndarray]]:
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
