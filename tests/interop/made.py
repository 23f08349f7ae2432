"""Folders of others, made from our own random parameters and the tables, without torch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.interop import formats as tables
from igllm_jax.interop import hf_config, hf_decoder, hf_vision
from igllm_jax.interop.rules import WeightFormat
from igllm_jax.interop.safetensors_writer import Outgoing, write
from igllm_jax.models.vlm import VLMConfig, skeleton
from tests import small

TEXTS = [
    "add(size='large', color='red', loc=(数, 数, 数), rotation=数)\nadd(x=数, y=数)\nThe scene can be produced with:"
]
VOCAB = 331


def model(**changes: Any) -> VLMConfig:
    """A small model with room for a small tokenizer."""
    config = small.model(**changes)
    return replace(config, decoder=replace(config.decoder, vocab_size=VOCAB))


@cache
def params(config: VLMConfig) -> dict[str, np.ndarray]:
    """Random arrays by path; nothing is 0 or 1, so that nothing left out or under the wrong name goes unnoticed."""
    rng = np.random.default_rng(5)
    return {
        path: (0.1 * rng.normal(size=shape.shape) + path.endswith("/scale")).astype(np.float32)
        for path, shape in skeleton(config).shapes.items()
    }


def tokenizer(folder: Path) -> Tokenizer:
    """A small vocabulary with the float token whole, saved in `folder`."""
    return train_small(TEXTS, folder, VOCAB)


def tensors(source: WeightFormat, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of a source under its own name and in its own layout."""
    shapes = {path: array.shape for path, array in arrays.items()}
    return {
        name: np.asarray(rule.layout.to_theirs(arrays[rule.ours] if layer is None else arrays[rule.ours][layer]))
        for name, (rule, layer) in source.names(shapes).items()
    }


def save(named: Mapping[str, np.ndarray], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write({name: Outgoing(a.shape, a.dtype, lambda a=a: a) for name, a in named.items()}, path)
    return path


def put_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def vision(folder: Path, config: VLMConfig, arrays: Mapping[str, np.ndarray]) -> Path:
    """A CLIPVisionModel folder of the blocks that run, plus what is ignored."""
    named = tensors(tables.CLIP, arrays)
    named["vision_model.post_layernorm.weight"] = np.ones(3, np.float32)
    named["vision_model.embeddings.position_ids"] = np.arange(5)
    save(named, folder / "model.safetensors")
    put_json(
        folder / "config.json",
        {**hf_vision.vision_to_json(config.vision), "num_hidden_layers": config.vision.num_layers},
    )
    means = {"image_mean": config.vision.image_mean, "image_std": config.vision.image_std}
    put_json(folder / "preprocessor_config.json", means)
    return folder


def decoder(folder: Path, config: VLMConfig, arrays: Mapping[str, np.ndarray]) -> Path:
    """A LlamaForCausalLM folder with tokenizer and licence."""
    save(tensors(tables.LLAMA, arrays), folder / "model.safetensors")
    put_json(folder / "config.json", hf_decoder.decoder_to_json(config.decoder, vocab_size=VOCAB, dtype="float32"))
    (folder / "LICENSE.txt").write_text("may be used\n")
    tokenizer(folder)
    return folder


def adapter(folder: Path, config: VLMConfig, arrays: Mapping[str, np.ndarray]) -> Path:
    """A reference checkpoint: PEFT adapter, projector and float head beside it (as safetensors), config."""
    save(tensors(tables.peft("none", "none"), arrays), folder / "adapter_model.safetensors")
    beside = tensors(tables.non_lora(config.projector, config.head), arrays)
    save(beside, folder / "non_lora_trainables.safetensors")
    put_json(folder / "adapter_config.json", hf_config.lora_to_json(config.lora, base_model="vicuna"))
    put_json(folder / "config.json", hf_config.reference_to_json(config, vision_tower="clip", dtype="float32"))
    return folder


def base_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a decoder and a tower bring."""
    return {p: a for p, a in arrays.items() if p.startswith(("vision/", "decoder/")) and "/lora_" not in p}
