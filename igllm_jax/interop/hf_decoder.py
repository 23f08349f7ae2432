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
    expect_whole_weights,
    number_of,
    part_of,
    size_of,
    told,
)
from igllm_jax.models.llama import DecoderConfig


@dataclass(frozen=True)
class Family:
    """A model type. flags: the fields of DecoderConfig that it decides. defaults: what a key means that a config file
    inside another one leaves out; a None of num_key_value_heads and head_dim follows from the other sizes, and keys of
    SAID_BY and windows that are not here are none of this family. plain: key -> the values that this project's decoder
    computes.
    """

    architecture: str
    flags: Mapping[str, Any]
    defaults: Mapping[str, Any]
    plain: Mapping[str, tuple[Any, ...]]


# Source: the defaults of LlamaConfig, SmolLM3Config, MistralConfig, Qwen2Config, Qwen3Config, Gemma2Config,
# Gemma3TextConfig (transformers), and in what way Gemma's local and global layers alternate where layer_types doesn't
# say it.
LLAMA_DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": None,
}  # fmt: skip
SMOLLM3_DEFAULTS = {
    **LLAMA_DEFAULTS, "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2000000.0, "use_sliding_window": False,
    "no_rope_layer_interval": 4,
}  # fmt: skip
QWEN_DEFAULTS = {
    **LLAMA_DEFAULTS, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32,
    "use_sliding_window": False,
}  # fmt: skip
GEMMA_DEFAULTS = {
    **LLAMA_DEFAULTS, "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "use_bidirectional_attention": None,
}  # fmt: skip
GEMMA3_DEFAULTS = {
    **GEMMA_DEFAULTS, "vocab_size": 262208, "sliding_window_pattern": 6, "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip
# field of DecoderConfig -> the key that says it; null is 0
SAID_BY = {
    "query_scalar": "query_pre_attn_scalar",
    "attention_softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}
PLAIN = {"hidden_act": ("silu",), "mlp_bias": (False,), "tie_word_embeddings": (False, True)}
GEMMA_PLAIN = {
    "hidden_activation": ("gelu_pytorch_tanh",), "attention_bias": (False,), "tie_word_embeddings": (False, True),
    "use_bidirectional_attention": (None, False),
}  # fmt: skip
_no_flags = {
    "qkv_bias": False, "qk_norm": False, "activation": "silu", "unit_offset": False, "post_norms": False,
    "scaled_embedding": False,
}  # fmt: skip
_gemma = {
    **_no_flags, "activation": "gelu_pytorch_tanh", "unit_offset": True, "post_norms": True, "scaled_embedding": True,
}  # fmt: skip
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _no_flags, LLAMA_DEFAULTS, {**PLAIN, "attention_bias": (False,)}),
    "mistral": Family(
        "MistralForCausalLM",
        _no_flags,
        {**LLAMA_DEFAULTS, "intermediate_size": 14336, "num_key_value_heads": 8, "sliding_window": 4096},
        {**PLAIN, "attention_bias": (False,)},
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
    "gemma2": Family("Gemma2ForCausalLM", _gemma, GEMMA_DEFAULTS, GEMMA_PLAIN),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {**_gemma, "qk_norm": True},
        GEMMA3_DEFAULTS,
        {**GEMMA_PLAIN, "attn_logit_softcapping": (None,)},  # which transformers reads and doesn't apply
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        _no_flags,
        SMOLLM3_DEFAULTS,
        {**PLAIN, "attention_bias": (False,), "use_sliding_window": (False,)},
    ),
}
FULL, LOCAL = "full_attention", "sliding_attention"
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
    expect_whole_weights(config, own, where)
    kind = own.get("model_type")
    known: dict[Any, str] = {**dict.fromkeys(LLAMA_TYPES, "llama"), **{name: name for name in FAMILIES}}
    expect(own, where, model_type=tuple(known))
    family = FAMILIES[known[kind]]
    if own is config:
        expect_keys(own, where, ALWAYS_SAID)
    found = {**family.defaults, **own}
    expect(found, where, **family.plain)
    tied = bool(found["tie_word_embeddings"] or (own is not config and config.get("tie_word_embeddings", False)))
    size = partial(size_of, found, where)
    heads, width = size("num_attention_heads"), size("hidden_size")
    num_layers = size("num_hidden_layers", most=MAX_LAYERS)
    window, global_every = _windows(found, family, num_layers, where)
    theta, scaling, local_theta = _rope(found, where)
    keys = {field: key for field, key in SAID_BY.items() if found.get(key) is not None and key in family.defaults}
    if own is not config:  # what transformers builds around a decoder has a head of its own, whose logits aren't capped
        keys.pop("logit_softcap", None)
    numbers: dict[str, Any] = {
        field: number_of(found, where, keys[field]) if field in keys else 0.0 for field in SAID_BY
    }
    try:
        return DecoderConfig(
            vocab_size=size("vocab_size"),
            width=width,
            num_layers=num_layers,
            num_heads=heads,
            num_kv_heads=heads if found["num_key_value_heads"] is None else size("num_key_value_heads"),
            head_dim=width // heads if found["head_dim"] is None else size("head_dim"),
            mlp_width=size("intermediate_size"),
            rms_norm_epsilon=number_of(found, where, "rms_norm_eps"),
            rope_theta=theta,
            rope_scaling=scaling,
            window=window,
            global_every=global_every,
            local_rope_theta=local_theta if window else 0.0,
            nope_every=_nope_every(found, family, num_layers, where),
            tie_embeddings=tied,
            number_row=-1,
            attention="xla",
            remat="full",
            **numbers,
            **family.flags,
        )
    except (TypeError, ValueError) as error:
        raise told(error, where) from None


def _windows(found: Json, family: Family, num_layers: int, where: object) -> tuple[int, int]:
    """(window, global_every) of ours. layer_types says which layers are local; older files leave it to the family."""
    has_windows = "sliding_window" in family.defaults and found["sliding_window"] is not None
    period = found.get("sliding_window_pattern", 0)
    if type(period) is not int or not 0 <= period <= MAX_LAYERS:
        raise UserError(f"{where}: sliding_window_pattern is {str(period)[:60]}; a number of layers is expected")
    kinds = found.get("layer_types") or _layer_types(num_layers, period if has_windows else 1)
    first = kinds.index(FULL) + 1 if isinstance(kinds, list) and FULL in kinds else 0
    if kinds != _layer_types(num_layers, first) or not (first == 1 or has_windows):
        others = f", or {LOCAL} but for every N-th" if has_windows else ""
        raise UserError(
            f"{where}: layer_types is {str(kinds)[:60]}; supported: {FULL} in all {num_layers} layers{others}"
        )
    return (0, 0) if first == 1 else (size_of(found, where, "sliding_window"), first)


def _nope_every(found: Json, family: Family, num_layers: int, where: object) -> int:
    """Of ours. no_rope_layers has a 0 for each layer without positions."""
    if "no_rope_layer_interval" not in family.defaults:
        return 0
    every = size_of(found, where, "no_rope_layer_interval", most=MAX_LAYERS)
    flags = _rotated(num_layers, every)
    said = found.get("no_rope_layers") or flags
    if said == [1] * num_layers:
        return 0
    if said != flags:
        raise UserError(
            f"{where}: no_rope_layers is {str(said)[:60]}; supported: 1 but for every {every}-th of {num_layers}"
        )
    return every


def _rotated(num_layers: int, nope_every: int) -> list[int]:
    return [int((layer + 1) % nope_every != 0) for layer in range(num_layers)]


def _layer_types(num_layers: int, global_every: int) -> list[str]:
    return [FULL if global_every and (layer + 1) % global_every == 0 else LOCAL for layer in range(num_layers)]


def _rope(found: Json, where: object) -> tuple[float, tuple[float, ...], float]:
    """(theta, rope_scaling, local_rope_theta of ours). Newer files keep all in rope_parameters, one for each kind of
    layers where they differ; older ones in keys of their own."""
    both = found["rope_parameters"]
    if "rope_local_base_freq" not in found or not isinstance(both, Mapping):
        both = {FULL: both}
    theta, scaling = _one_rope({**found, "rope_parameters": both.get(FULL)}, where)
    if "rope_local_base_freq" not in found:
        return theta, scaling, 0.0
    of_local = {"rope_parameters": both.get(LOCAL), "rope_scaling": None, "rope_theta": found["rope_local_base_freq"]}
    local_theta, local_scaling = _one_rope(of_local, where)
    if local_scaling:
        raise UserError(f"{where}: rope_parameters scales {LOCAL}; only {FULL} can be scaled")
    return theta, scaling, local_theta


def _one_rope(found: Json, where: object) -> tuple[float, tuple[float, ...]]:
    """(theta, rope_scaling of ours) of one kind of layers."""
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
        is_flagged = all(getattr(config, field) == value for field, value in family.flags.items())
        if is_flagged and all(_can_say(family, key, value) for key, value in _optional(config).items()):
            return name
    told_flags = ", ".join(f"{field}={getattr(config, field)}" for field in (*_no_flags, *SAID_BY, "window"))
    raise UserError(f"no model type of Hugging Face has a decoder with {told_flags}: export it as safetensors")


def _optional(config: DecoderConfig) -> dict[str, Any]:
    """What some families alone can say, by their key."""
    return {
        **{key: getattr(config, field) for field, key in SAID_BY.items()},
        "sliding_window": config.window,
        "sliding_window_pattern": config.global_every,
        "rope_local_base_freq": config.local_rope_theta,
        "no_rope_layer_interval": config.nope_every,
    }


def _can_say(family: Family, key: str, value: float) -> bool:
    return not value or (key in family.defaults and value in family.plain.get(key, (value,)))


def decoder_to_json(config: DecoderConfig, *, vocab_size: int, dtype: str) -> dict[str, Any]:
    """config.json, as far as the model decides it. What rotates stands where old and where new readers look."""
    kind = family_of(config)
    names = {len(keys): name for name, keys in ROPE_KEYS.items()}
    rope_type = names[len(config.rope_scaling)]
    scaling = dict(zip(ROPE_KEYS[rope_type], config.rope_scaling, strict=True))
    if "original_max_position_embeddings" in scaling:
        scaling["original_max_position_embeddings"] = int(scaling["original_max_position_embeddings"])
    written: dict[str, Any] = {
        "architectures": [FAMILIES[kind].architecture],
        "model_type": kind,
        "vocab_size": vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_activation" if "hidden_activation" in FAMILIES[kind].defaults else "hidden_act": config.activation,
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
    return written | _told_windows(config, FAMILIES[kind], written["rope_parameters"])


def _told_windows(config: DecoderConfig, family: Family, rope: Mapping[str, Any]) -> dict[str, Any]:
    """What only families with local layers say, and what stands in SAID_BY. rope: rope_parameters of other layers."""
    told_all = {key: value or None for key, value in _optional(config).items() if key in family.defaults}
    if "query_pre_attn_scalar" in told_all:
        scalar = config.query_scalar or config.head_dim
        told_all["query_pre_attn_scalar"] = int(scalar) if scalar == int(scalar) else scalar
    if "no_rope_layer_interval" in told_all:
        told_all["no_rope_layers"] = _rotated(config.num_layers, config.nope_every)
    if "sliding_window_pattern" in told_all:
        kinds = [config.is_local(layer) for layer in range(config.num_layers)]
        told_all["layer_types"] = [LOCAL if is_local else FULL for is_local in kinds]
    if "rope_local_base_freq" in told_all:
        if config.rope_scaling and config.window and not config.local_rope_theta:
            raise UserError("no model type of Hugging Face scales rotations of local layers: export it as safetensors")
        theta = told_all["rope_local_base_freq"] = config.local_rope_theta or config.rope_theta
        told_all["rope_parameters"] = {FULL: dict(rope), LOCAL: {"rope_type": "default", "rope_theta": theta}}
    return told_all
