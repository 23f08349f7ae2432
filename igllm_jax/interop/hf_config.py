"""Sizes and settings between the config files of Hugging Face, LLaVA and PEFT and our own dataclasses."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from igllm_jax.errors import UserError
from igllm_jax.interop.formats import DECODER_PROJECTIONS
from igllm_jax.models.clip import ACTIVATIONS, VisionConfig
from igllm_jax.models.llama import DecoderConfig
from igllm_jax.models.lora import LoRAConfig
from igllm_jax.models.vlm import VLMConfig

Json = Mapping[str, Any]

# What a key that a config file leaves out means: files of this format are written without the keys at these values.
# Source: the defaults of LlamaConfig, CLIPVisionConfig, LlavaConfig (transformers).
LLAMA_DEFAULTS = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "rope_theta": 10000.0, "rope_scaling": None, "rope_parameters": None,
}  # fmt: skip
CLIP_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
LLAVA_DEFAULTS = {
    "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True, "image_token_index": 32000, "tie_word_embeddings": False,
}  # fmt: skip
# Sizes that a file of its own always says; only a config inside another one may leave out what is at its default.
ALWAYS_SAID = {
    "decoder": (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps",
    ),
    "vision": (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
        "hidden_act", "layer_norm_eps",
    ),
}  # fmt: skip
MODEL_TYPES = {
    "decoder": ("llama", "llava", "llava_llama", "LlavaLlamaForCausalLM", None),
    "vision": ("clip_vision_model", None),
}
LEAST, MOST = 1e-30, 1e30  # of a number that isn't counted: float32 holds it and what is near it
MAX_SIZE, MAX_LAYERS = 2**24, 10_000  # far above every model: a damaged number is told instead of counted up to
# CLIP's images, where the folder has no preprocessor_config.json: every released CLIP tower was trained with these.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def vision_config(config: Json, preprocessor: Json | None, *, feature_layer: int, where: object) -> VisionConfig:
    """A CLIP tower. config: of a CLIPVisionModel, a CLIPModel or a LLaVA. preprocessor: preprocessor_config.json."""
    found = _found(config, "vision", where)
    _expect(found, where, hidden_act=tuple(ACTIVATIONS), num_channels=(3,))
    image = preprocessor or {}
    size = partial(_size, found, where)
    try:
        return VisionConfig(
            image_size=size("image_size", least=size("patch_size")),
            patch_size=size("patch_size"),
            width=size("hidden_size"),
            num_layers=size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=size("num_attention_heads"),
            mlp_width=size("intermediate_size"),
            layer_norm_epsilon=_number(found, where, "layer_norm_eps"),
            activation=str(found["hidden_act"]),
            feature_layer=feature_layer,
            image_mean=_three(image.get("image_mean", CLIP_MEAN)),
            image_std=_three(image.get("image_std", CLIP_STD), least=LEAST),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise _told(error, where) from None


def decoder_config(config: Json, where: object) -> DecoderConfig:
    """A LLaMA decoder. config: of a LlamaForCausalLM, a llava_llama or (its text_config) a LLaVA of Hugging Face."""
    found = _found(config, "decoder", where)
    plain = {"attention_bias": (False,), "mlp_bias": (False,), "tie_word_embeddings": (False, True)}
    _expect(found, where, hidden_act=("silu",), **plain)
    tied = bool(found["tie_word_embeddings"] or ("text_config" in config and config.get("tie_word_embeddings", False)))
    size = partial(_size, found, where)
    heads, width = size("num_attention_heads"), size("hidden_size")
    try:
        return DecoderConfig(
            vocab_size=size("vocab_size"),
            width=width,
            num_layers=size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=heads if found["num_key_value_heads"] is None else size("num_key_value_heads"),
            head_dim=width // heads if found["head_dim"] is None else size("head_dim"),
            mlp_width=size("intermediate_size"),
            rms_norm_epsilon=_number(found, where, "rms_norm_eps"),
            rope_theta=_rope_theta(found, where),
            tie_embeddings=tied,
            attention="xla",
            remat="full",
        )
    except (TypeError, ValueError) as error:
        raise _told(error, where) from None


def _rope_theta(found: Mapping[str, Any], where: object) -> float:
    """Newer files keep it in rope_parameters, older ones at the top."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = found[key] or {}
        if not isinstance(rope, Mapping):
            raise UserError(f"{where}: {key} is {rope!r}; an object is expected")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise UserError(f"{where}: {key} {dict(rope)} is not supported; only plain rotary positions are")
    rope = found["rope_parameters"] or {}
    return _number(rope if "rope_theta" in rope else found, where, "rope_theta")


def feature_layer_of(config: Json, where: object) -> int:
    """Which hidden state feeds the projector, by a LLaVA's config (Hugging Face's or the original's)."""
    is_hf = "vision_config" in config
    found = {**LLAVA_DEFAULTS, **config} if is_hf else {"mm_vision_select_feature": "patch", **config}
    layer = found.get("vision_feature_layer") if is_hf else found.get("mm_vision_select_layer")
    if is_hf:
        _expect(found, where, vision_feature_select_strategy=("default",), multimodal_projector_bias=(True,))
    else:
        _expect(found, where, mm_vision_select_feature=("patch",))
    if not isinstance(layer, int) or isinstance(layer, bool):
        key = "vision_feature_layer" if is_hf else "mm_vision_select_layer"
        raise UserError(f"{where}: {key} is {layer!r}; one layer's number is expected")
    return layer


def aspect_ratio_of(config: Json, preprocessor: Json | None, where: object) -> str:
    """How a LLaVA makes images square: "pad", as the reference does where nothing is said, or "square" (crops)."""
    if "vision_config" in config:  # Hugging Face's says it beside the config
        return "pad" if preprocessor is None or preprocessor.get("do_pad") else "square"
    _expect({"image_aspect_ratio": "pad", **config}, where, image_aspect_ratio=("pad", "square"))
    return str(config.get("image_aspect_ratio", "pad"))


def _found(config: Json, part: str, where: object) -> dict[str, Any]:
    """The config of a part, with the format's defaults where it stands inside another one.

    Raises: UserError where a file of its own leaves out a size.
    """
    inner, defaults = ("vision_config", CLIP_DEFAULTS) if part == "vision" else ("text_config", LLAMA_DEFAULTS)
    own = config.get(inner, config)
    if not isinstance(own, Mapping):
        raise UserError(f"{where}: {inner} is {own!r}; an object is expected")
    _expect(own, where, model_type=MODEL_TYPES[part])
    if own is config:
        _expect_keys(own, where, ALWAYS_SAID[part])
    return {**defaults, **own}


def _expect_keys(found: Json, where: object, keys: tuple[str, ...]) -> None:
    absent = [key for key in keys if found.get(key) is None]
    if absent:
        raise UserError(f"{where} does not say {', '.join(absent)}: take the config.json that came with the weights")


def _size(found: Json, where: object, key: str, *, least: int = 1, most: int = MAX_SIZE) -> int:
    value = _number(found, where, key)
    if value != int(value) or not least <= value <= most:
        raise UserError(f"{where}: {key} is {found[key]!r}; a whole number from {least} to {most} is expected")
    return int(value)


def _number(found: Json, where: object, key: str) -> float:
    value = found[key]
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and LEAST <= float(value) <= MOST:
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise UserError(f"{where}: {key} is {str(value)[:60]}; a number above 0 is expected, from {LEAST:g} to {MOST:g}")


def _told(error: Exception, where: object) -> UserError:
    return error if isinstance(error, UserError) else UserError(f"{where}: {error}")


def _expect(found: Json, where: object, **allowed: tuple[Any, ...]) -> None:
    for key, values in allowed.items():
        if found.get(key) not in values:
            known = ", ".join(str(value) for value in values if value is not None)
            raise UserError(f"{where}: {key} is {found.get(key)!r}; supported: {known}")


def _three(values: Any, *, least: float = 0.0) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(least <= channel <= 1 for channel in (red, green, blue)):
        raise ValueError(f"image_mean and image_std are shares of 1, and no std is 0, not {[red, green, blue]}")
    return red, green, blue


# ---- the other way ---------------------------------------------------------------------------------------------------


def decoder_to_json(config: DecoderConfig, *, vocab_size: int, dtype: str) -> dict[str, Any]:
    """LlamaConfig, as far as the model decides it. rope_theta stands where old and where new readers look."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
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
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
    }


def vision_to_json(config: VisionConfig) -> dict[str, Any]:
    """CLIPVisionConfig of the blocks that run: the last one's output is the feature."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_blocks,
        "num_attention_heads": config.num_heads,
        "num_channels": 3,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_epsilon,
    }


def llava_to_json(config: VLMConfig, *, vocab_size: int, image_token: int, dtype: str) -> dict[str, Any]:
    """LlavaConfig, with the float head's kind as the reference calls it.

    A single linear projection is written as linear_1, no activation, and an identity for linear_2.
    """
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": vision_to_json(config.vision),
        "text_config": decoder_to_json(config.decoder, vocab_size=vocab_size, dtype=dtype),
        "image_token_index": image_token,
        "image_seq_length": config.vision.num_patches,
        "projector_hidden_act": "gelu" if config.projector == "mlp2x_gelu" else "linear",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": config.decoder.tie_embeddings,
        "float_head_type": config.head,
        "torch_dtype": dtype,
    }


def processor_to_json(config: VLMConfig, *, image_token: int, aspect_ratio: str) -> dict[str, dict[str, Any]]:
    """File name -> JSON: how Hugging Face's processor prepares images and text for this model."""
    vision = config.vision
    size = {"height": vision.image_size, "width": vision.image_size}
    image = {
        "image_processor_type": "LlavaImageProcessor" if aspect_ratio == "pad" else "CLIPImageProcessor",
        "do_pad": aspect_ratio == "pad",  # to a square, with the mean colour
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": vision.image_size},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(vision.image_mean),
        "image_std": list(vision.image_std),
    }
    both = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": vision.patch_size,
        "num_additional_image_tokens": 1,  # the class token, which the strategy takes off again
        "vision_feature_select_strategy": "default",
    }
    return {
        "preprocessor_config.json": image,
        "tokenizer_config.json": _tokenizer_to_json(image_token),
        "processor_config.json": both,
    }


def _tokenizer_to_json(image_token: int) -> dict[str, Any]:
    """How a LlamaTokenizer reads the tokenizer.model beside it, with the image's placeholder added."""
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,  # left out, transformers 5 adds none, and the model has always seen one
        "add_eos_token": False,
        "pad_token": "<unk>",
        "padding_side": "left",
        "legacy": True,
        "image_token": "<image>",
        "added_tokens_decoder": {
            str(image_token): {
                "content": "<image>", "special": True, "normalized": False,
                "lstrip": False, "rstrip": False, "single_word": False,
            }
        },
    }  # fmt: skip


def reference_to_json(config: VLMConfig, *, vision_tower: str, dtype: str, aspect_ratio: str = "pad") -> dict[str, Any]:
    """The reference's config.json (llava_llama)."""
    return {
        **decoder_to_json(config.decoder, vocab_size=config.decoder.vocab_size, dtype=dtype),
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": config.vision.width,
        "mm_projector_type": config.projector,
        "mm_vision_select_layer": config.vision.feature_layer,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": aspect_ratio,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "float_head_type": config.head,
    }


def lora_to_json(config: LoRAConfig, *, base_model: str, in_llava: bool = False) -> dict[str, Any]:
    """PEFT's adapter_config.json. in_llava: the vision tower's layers, some with the same names, stay bare."""
    projections = [name.split(".")[-1] for name in DECODER_PROJECTIONS]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": rf".*language_model.*\.({'|'.join(projections)})" if in_llava else projections,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
