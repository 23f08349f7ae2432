"""Decoders between Hugging Face's config.json and ours: one row of FAMILIES for each model type."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from igllm_jax.errors import UserError
from igllm_jax.interop.hf_values import (
    MAX_LAYERS,
    Json,
    expect,
    expect_keys,
    number_of,
    part_of,
    size_of,
    told,
)
from igllm_jax.models.llama import DecoderConfig


@dataclass(frozen=True)
class Family:
    """A model type. flags: the fields of DecoderConfig that it decides. defaults: what a key means that a config file
    inside another one leaves out; a None of num_key_value_heads and head_dim follows from the other sizes.
    plain: key -> the values that this project's decoder computes.
    """

    architecture: str
    flags: Mapping[str, Any]
    defaults: Mapping[str, Any]
    plain: Mapping[str, tuple[Any, ...]]


# Source: the defaults of LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config (transformers).
LLAMA_DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": None,
}  # fmt: skip
QWEN_DEFAULTS = {
    **LLAMA_DEFAULTS, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "use_sliding_window": False,
}  # fmt: skip
PLAIN = {"hidden_act": ("silu",), "mlp_bias": (False,), "tie_word_embeddings": (False, True)}
_no_flags = {"qkv_bias": False, "qk_norm": False}
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _no_flags, LLAMA_DEFAULTS, {**PLAIN, "attention_bias": (False,)}),
    "mistral": Family(
        "MistralForCausalLM",
        _no_flags,
        {**LLAMA_DEFAULTS, "intermediate_size": 14336, "num_key_value_heads": 8, "sliding_window": 4096},
        {**PLAIN, "attention_bias": (False,), "sliding_window": (None,)},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", {**_no_flags, "qkv_bias": True}, QWEN_DEFAULTS, {**PLAIN, "use_sliding_window": (False,)}
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        {**_no_flags, "qk_norm": True},
        {**QWEN_DEFAULTS, "head_dim": 128},
        {**PLAIN, "attention_bias": (False,), "use_sliding_window": (False,)},
    ),
}
# Model types of files that hold a decoder in a model of their own; None: old files without the key.
LLAMA_TYPES = ("llama", "llava", "llava_llama", "LlavaLlamaForCausalLM", None)
# Sizes that a file of its own always says; only a config inside another one may leave out what is at its default.
ALWAYS_SAID = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps",
)  # fmt: skip
LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# rope_type -> the keys of our rope_scaling, in its order
ROPE_KEYS = {"default": (), "linear": ("factor",), "llama3": LLAMA3_KEYS}


def decoder_config(config: Json, where: object) -> DecoderConfig:
    """A decoder. config: of a model of FAMILIES, a llava_llama or (its text_config) a LLaVA of Hugging Face."""
    own = part_of(config, "text_config", where)
    kind = own.get("model_type")
    known: dict[Any, str] = {**dict.fromkeys(LLAMA_TYPES, "llama"), **{name: name for name in FAMILIES}}
    expect(own, where, model_type=tuple(known))
    family = FAMILIES[known[kind]]
    if own is config:
        expect_keys(own, where, ALWAYS_SAID)
    found = {**family.defaults, **own}
    expect(found, where, **family.plain)
    _expect_full_attention(found, where)
    tied = bool(found["tie_word_embeddings"] or (own is not config and config.get("tie_word_embeddings", False)))
    size = partial(size_of, found, where)
    heads, width = size("num_attention_heads"), size("hidden_size")
    theta, scaling = _rope(found, where)
    try:
        return DecoderConfig(
            vocab_size=size("vocab_size"),
            width=width,
            num_layers=size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=heads if found["num_key_value_heads"] is None else size("num_key_value_heads"),
            head_dim=width // heads if found["head_dim"] is None else size("head_dim"),
            mlp_width=size("intermediate_size"),
            rms_norm_epsilon=number_of(found, where, "rms_norm_eps"),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_embeddings=tied,
            attention="xla",
            remat="full",
            **family.flags,
        )
    except (TypeError, ValueError) as error:
        raise told(error, where) from None


def _expect_full_attention(found: Json, where: object) -> None:
    kinds = found.get("layer_types") or ()
    if not isinstance(kinds, list | tuple) or any(kind != "full_attention" for kind in kinds):
        raise UserError(f"{where}: layer_types is {str(kinds)[:60]}; supported: full_attention alone")


def _rope(found: Json, where: object) -> tuple[float, tuple[float, ...]]:
    """(theta, rope_scaling of ours). Newer files keep both in rope_parameters, older ones in two keys."""
    scalings = {}
    for key in ("rope_parameters", "rope_scaling"):
        rope = found[key] or {}
        if not isinstance(rope, Mapping):
            raise UserError(f"{where}: {key} is {rope!r}; an object is expected")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if not isinstance(kind, str) or kind not in ROPE_KEYS or rope.get("partial_rotary_factor", 1.0) != 1.0:
            known = ", ".join(ROPE_KEYS)
            raise UserError(f"{where}: {key} {str(dict(rope))[:200]} is not supported; whole heads, of {known} are")
        absent = [name for name in ROPE_KEYS[kind] if name not in rope]
        if absent:
            raise UserError(f"{where}: {key} of type {kind} does not say {', '.join(absent)}")
        scalings[key] = tuple(number_of(rope, where, name) for name in ROPE_KEYS[kind])
    rope = found["rope_parameters"] or {}
    theta = number_of(rope if "rope_theta" in rope else found, where, "rope_theta")
    return theta, scalings["rope_parameters"] or scalings["rope_scaling"]


# ---- the other way ---------------------------------------------------------------------------------------------------


def family_of(config: DecoderConfig) -> str:
    """The model type whose decoder this is.

    Raises: UserError where there is none.
    """
    for name, family in FAMILIES.items():
        if all(getattr(config, field) == value for field, value in family.flags.items()):
            return name
    told_flags = ", ".join(f"{field}={getattr(config, field)}" for field in _no_flags)
    raise UserError(f"no model type of Hugging Face has a decoder with {told_flags}: export it as safetensors")


def decoder_to_json(config: DecoderConfig, *, vocab_size: int, dtype: str) -> dict[str, Any]:
    """config.json, as far as the model decides it. What rotates stands where old and where new readers look."""
    kind = family_of(config)
    names = {len(keys): name for name, keys in ROPE_KEYS.items()}
    rope_type = names[len(config.rope_scaling)]
    scaling = dict(zip(ROPE_KEYS[rope_type], config.rope_scaling, strict=True))
    if "original_max_position_embeddings" in scaling:
        scaling["original_max_position_embeddings"] = int(scaling["original_max_position_embeddings"])
    written = {
        "architectures": [FAMILIES[kind].architecture],
        "model_type": kind,
        "vocab_size": vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": rope_type, **scaling},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
    }
    if scaling:
        written["rope_scaling"] = {"rope_type": rope_type, **scaling}
    return written
