"""Image towers between Hugging Face's config.json and ours: one row of TOWERS for each model type."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from igllm_jax.errors import UserError
from igllm_jax.interop.hf_values import (
    LEAST,
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
from igllm_jax.models.vision import ACTIVATIONS, VisionConfig

CLIP, SIGLIP, DINOV2, DINOV2_REGISTERS = "clip_vision_model", "siglip_vision_model", "dinov2", "dinov2_with_registers"


@dataclass(frozen=True)
class Tower:
    """A model type. flags: the fields of VisionConfig that it decides, how many registers apart. defaults: what a key
    means that a config file inside another one leaves out. mean, std: of images, where the folder has no
    preprocessor_config.json. plain: key -> the values that this project's tower computes.
    """

    architecture: str
    flags: Mapping[str, Any]
    defaults: Mapping[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    plain: Mapping[str, tuple[Any, ...]]


# Source: the defaults of CLIPVisionConfig, SiglipVisionConfig, Dinov2Config, Dinov2WithRegistersConfig (transformers).
CLIP_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
SIGLIP_DEFAULTS = {**CLIP_DEFAULTS, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
DINOV2_DEFAULTS = {
    **CLIP_DEFAULTS, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4, "qkv_bias": True,
    "use_swiglu_ffn": False,
}  # fmt: skip
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PLAIN = {"hidden_act": tuple(ACTIVATIONS), "num_channels": (3,)}
DINOV2_PLAIN = {**PLAIN, "qkv_bias": (True,), "use_swiglu_ffn": (False,)}
_clip = {
    "class_token": True, "pre_norm": True, "patch_bias": False, "layer_scale": False, "position_resize": "bicubic",
}  # fmt: skip
_siglip = {**_clip, "class_token": False, "pre_norm": False, "patch_bias": True}
_dinov2 = {**_siglip, "class_token": True, "layer_scale": True}
TOWERS: dict[str, Tower] = {
    CLIP: Tower("CLIPVisionModel", _clip, CLIP_DEFAULTS, CLIP_MEAN, CLIP_STD, PLAIN),
    SIGLIP: Tower("SiglipVisionModel", _siglip, SIGLIP_DEFAULTS, HALF, HALF, PLAIN),
    DINOV2: Tower("Dinov2Model", _dinov2, DINOV2_DEFAULTS, IMAGENET_MEAN, IMAGENET_STD, DINOV2_PLAIN),
    DINOV2_REGISTERS: Tower(
        "Dinov2WithRegistersModel",
        {**_dinov2, "position_resize": "bicubic_antialias"},
        {**DINOV2_DEFAULTS, "patch_size": 16, "num_register_tokens": 4},
        IMAGENET_MEAN,
        IMAGENET_STD,
        DINOV2_PLAIN,
    ),
}
# The model type of a file whose vision_config does not say its own.
AROUND = {"siglip": SIGLIP}
# Sizes that a file of its own always says; DINOv2's says a ratio of two widths instead of the second.
ALWAYS_SAID = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
    "hidden_act", "layer_norm_eps",
)  # fmt: skip


def tower_type(config: Json, where: object) -> str:
    """The key of TOWERS that a config file's tower has. Raises: UserError where it is none of them."""
    own = part_of(config, "vision_config", where)
    kind = own.get("model_type")
    if kind is None:
        around = config.get("model_type")
        kind = AROUND.get(around, CLIP) if isinstance(around, str) else CLIP
    expect({"model_type": kind}, where, model_type=tuple(TOWERS))
    return str(kind)


def vision_config(config: Json, preprocessor: Json | None, *, feature_layer: int, where: object) -> VisionConfig:
    """A tower. config: of a model of TOWERS, a CLIPModel, a SiglipModel or a LLaVA. preprocessor:
    preprocessor_config.json."""
    own, kind = part_of(config, "vision_config", where), tower_type(config, where)
    tower = TOWERS[kind]
    expect_whole_weights(config, own, where)
    if own is config:
        is_ratio = "mlp_ratio" in tower.defaults
        expect_keys(own, where, tuple(key for key in ALWAYS_SAID if not (is_ratio and key == "intermediate_size")))
    found = {**tower.defaults, **own}
    expect(found, where, **tower.plain)
    image = preprocessor or {}
    size = partial(size_of, found, where)
    width = size("hidden_size")
    try:
        return VisionConfig(
            image_size=size("image_size", least=size("patch_size")),
            patch_size=size("patch_size"),
            width=width,
            num_layers=size("num_hidden_layers", most=MAX_LAYERS),
            num_heads=size("num_attention_heads"),
            mlp_width=width * size("mlp_ratio") if "mlp_ratio" in found else size("intermediate_size"),
            layer_norm_epsilon=number_of(found, where, "layer_norm_eps"),
            activation=str(found["hidden_act"]),
            feature_layer=feature_layer,
            registers=size("num_register_tokens", least=0) if "num_register_tokens" in found else 0,
            position_grid=0,
            image_mean=_three(image.get("image_mean", tower.mean)),
            image_std=_three(image.get("image_std", tower.std), least=LEAST),
            **tower.flags,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise told(error, where) from None


def _three(values: Any, *, least: float = 0.0) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    if not all(least <= channel <= 1 for channel in (red, green, blue)):
        raise ValueError(f"image_mean and image_std are shares of 1, and no std is 0, not {[red, green, blue]}")
    return red, green, blue


# ---- the other way ---------------------------------------------------------------------------------------------------


def type_of(config: VisionConfig) -> str:
    """The key of TOWERS whose tower this is. Raises: UserError where there is none."""
    for name, tower in TOWERS.items():
        has_registers = name == DINOV2_REGISTERS
        flags = {key: value for key, value in tower.flags.items() if key != "position_resize"}
        if bool(config.registers) == has_registers and all(getattr(config, key) == flags[key] for key in flags):
            return name
    raise UserError("no model type of Hugging Face has this image tower: export it as safetensors")


def vision_to_json(config: VisionConfig) -> dict[str, Any]:
    """config.json of the blocks that run: the last one's output is the feature.

    Raises: UserError for what the files of Hugging Face can't say.
    """
    kind = type_of(config)
    if config.table_grid != config.grid:
        raise UserError(
            f"the positions of {config.table_grid} patches on a side are interpolated for {config.grid}, which these "
            "files can't say: export it as safetensors"
        )
    written = {
        "architectures": [TOWERS[kind].architecture],
        "model_type": kind,
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
    if kind == SIGLIP:
        written["vision_use_head"] = False
    if config.layer_scale:
        ratio, rest = divmod(config.mlp_width, config.width)
        if rest:
            raise UserError(f"DINOv2's files can't say mlp_width {config.mlp_width} of width {config.width}")
        written |= {"mlp_ratio": ratio, "use_mask_token": False}
        written |= {"num_register_tokens": config.registers} if config.registers else {}
    return written
