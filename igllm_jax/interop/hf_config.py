"""Sizes and settings between the config files of Hugging Face, LLaVA and PEFT and our own dataclasses."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from igllm_jax.errors import UserError
from igllm_jax.interop.formats import DECODER_PROJECTIONS
from igllm_jax.interop.hf_decoder import FAMILIES, decoder_to_json, family_of
from igllm_jax.interop.hf_values import Json, expect
from igllm_jax.interop.hf_vision import TOWERS, tower_type, vision_to_json
from igllm_jax.models.lora import LoRAConfig
from igllm_jax.models.vlm import VLMConfig

# What a key that a config file leaves out means: files of this format are written without the keys at these values.
# Source: the defaults of LlavaConfig and LlavaOnevisionConfig (transformers).
LLAVA_DEFAULTS = {
    "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True, "image_token_index": 32000, "tie_word_embeddings": False,
}  # fmt: skip
ONEVISION = "llava_onevision"
ONEVISION_DEFAULTS = {
    **LLAVA_DEFAULTS, "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "image_token_index": 151646,
}  # fmt: skip
# Whose tensors are a LLaVA's; its other kin cut images into tiles that no model here has.
LLAVA_TYPES = ("llava", ONEVISION, None)


def feature_layer_of(config: Json, where: object) -> int:
    """Which hidden state feeds the projector, by a LLaVA's config (Hugging Face's or the original's)."""
    is_hf = "vision_config" in config
    defaults = ONEVISION_DEFAULTS if config.get("model_type") == ONEVISION else LLAVA_DEFAULTS
    found = {**defaults, **config} if is_hf else {"mm_vision_select_feature": "patch", **config}
    layer = found.get("vision_feature_layer") if is_hf else found.get("mm_vision_select_layer")
    if is_hf:
        has_class_token = TOWERS[tower_type(config, where)].flags["class_token"]
        strategies = ("default",) if has_class_token else ("full",)
        expect(found, where, vision_feature_select_strategy=strategies, multimodal_projector_bias=(True,))
    else:
        expect(found, where, mm_vision_select_feature=("patch",))
    if not isinstance(layer, int) or isinstance(layer, bool):
        key = "vision_feature_layer" if is_hf else "mm_vision_select_layer"
        raise UserError(f"{where}: {key} is {layer!r}; one layer's number is expected")
    return layer


def aspect_ratio_of(config: Json, preprocessor: Json | None, where: object) -> str:
    """How a LLaVA makes images square: "pad", as the reference does where nothing is said, or "square" (crops)."""
    if config.get("model_type") == ONEVISION:  # as it does where there are several; one it cuts into tiles, too
        return "pad"
    if "vision_config" in config:  # Hugging Face's says it beside the config
        return "pad" if preprocessor is None or preprocessor.get("do_pad") else "square"
    expect({"image_aspect_ratio": "pad", **config}, where, image_aspect_ratio=("pad", "square"))
    return str(config.get("image_aspect_ratio", "pad"))


# ---- the other way ---------------------------------------------------------------------------------------------------


def llava_to_json(config: VLMConfig, *, vocab_size: int, image_token: int, dtype: str) -> dict[str, Any]:
    """LlavaConfig, with the float head's kind as the reference calls it.

    A single linear projection is written as linear_1, no activation, and an identity for linear_2. Logits have no soft
    cap there, which changes no greedy answer.
    """
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "vision_config": vision_to_json(config.vision),
        "text_config": decoder_to_json(replace(config.decoder, logit_softcap=0.0), vocab_size=vocab_size, dtype=dtype),
        "image_token_index": image_token,
        "image_seq_length": config.vision.num_patches,
        "projector_hidden_act": "gelu" if config.projector == "mlp2x_gelu" else "linear",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": _strategy(config),
        "tie_word_embeddings": config.decoder.tie_embeddings,
        "float_head_type": config.head,
        "torch_dtype": dtype,
    }


def _strategy(config: VLMConfig) -> str:
    """LLaVA's: "default" leaves out the first position, which is the class token, "full" leaves out none.

    Raises: UserError for a tower with registers, which no strategy leaves out.
    """
    if config.vision.registers:
        raise UserError(
            "LlavaForConditionalGeneration would take the tower's registers for features: export it as safetensors"
        )
    return "default" if config.vision.class_token else "full"


def processor_to_json(
    config: VLMConfig, *, image_token: int, aspect_ratio: str, tokenizer: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """File name -> JSON: how Hugging Face's processor prepares images and text for this model.

    tokenizer: what its settings file says, empty for a LLaMA's.
    """
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
        "num_additional_image_tokens": config.vision.num_prefix,  # which the strategy takes off again
        "vision_feature_select_strategy": _strategy(config),
    }
    return {
        "preprocessor_config.json": image,
        "tokenizer_config.json": _tokenizer_to_json(image_token, tokenizer or LLAMA_TOKENIZER),
        "processor_config.json": both,
    }


# How a LlamaTokenizer reads the tokenizer.model beside it.
LLAMA_TOKENIZER = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,  # left out, transformers 5 adds none, and the model has always seen one
    "add_eos_token": False,
    "pad_token": "<unk>",
    "padding_side": "left",
    "legacy": True,
}


def _tokenizer_to_json(image_token: int, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's settings, with the image's placeholder added."""
    return {
        "padding_side": "left",
        "pad_token": tokenizer["eos_token"],
        **tokenizer,
        "image_token": "<image>",
        "added_tokens_decoder": {
            str(image_token): {
                "content": "<image>", "special": True, "normalized": False,
                "lstrip": False, "rstrip": False, "single_word": False,
            }
        },
    }  # fmt: skip


def reference_to_json(config: VLMConfig, *, vision_tower: str, dtype: str, aspect_ratio: str = "pad") -> dict[str, Any]:
    """The reference's config.json (llava_llama; llava_qwen2 and the like for other decoders)."""
    family = family_of(config.decoder)
    return {
        **decoder_to_json(config.decoder, vocab_size=config.decoder.vocab_size, dtype=dtype),
        "architectures": [f"Llava{FAMILIES[family].architecture}"],
        "model_type": f"llava_{family}",
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": config.vision_width,
        "mm_projector_type": config.projector,
        "mm_vision_select_layer": config.vision.feature_layer,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": aspect_ratio,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "float_head_type": config.head,
    }


def lora_to_json(
    config: LoRAConfig, *, base_model: str, in_llava: bool = False, rows: Mapping[str, list[int]] | None = None
) -> dict[str, Any]:
    """PEFT's adapter_config.json. in_llava: the vision tower's layers, some with the same names, stay bare. rows: of
    tokens that come along, by module."""
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
        "trainable_token_indices": rows or None,
    }
