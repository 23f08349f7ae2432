"""What older versions meant in a run's config.json and a base folder's model.json, so that both stay usable.

Whoever adds a key to configs/common.py or a field to VLMConfig adds a row to ADDED, whoever renames one a row to
RENAMED. Keys are those of configs/common.py; model.json has the ones under `model.` that are fields of VLMConfig.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from igllm_jax.errors import UserError

FORMAT_KEY = "format"  # absent from config.json before 2
FORMAT = 5  # of the files that are written now
# today's key -> (the first format that has it, its key before)
RENAMED: dict[str, tuple[int, str]] = {
    "model.decoder.head_dim": (2, "model.decoder.head_width"),
}
_NO_TOWER = {
    "image_size": 336, "patch_size": 14, "width": 0, "num_layers": 24, "num_heads": 16, "mlp_width": 4096,
    "layer_norm_epsilon": 1e-5, "activation": "quick_gelu", "feature_layer": -2, "class_token": True, "registers": 0,
    "pre_norm": True, "patch_bias": False, "layer_scale": False, "position_grid": 0, "position_resize": "bicubic",
    "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5),
}  # fmt: skip
# today's key -> (the first format that has it, what the code did before)
ADDED: dict[str, tuple[int, Any]] = {
    "data.pixels": (2, "legacy"),
    "data.pixel_range": (2, ()),
    "data.exif": (2, "ignore"),
    "data.max_image_side": (2, 0),
    "data.max_image_aspect": (2, 0.0),
    "data.max_image_pixels": (2, 0),
    "data.on_bad_sample": (2, "error"),
    "data.max_bad_share": (2, 0.01),
    "model.start_from": (3, ""),
    "data.val_sets": (3, ()),
    "eval.patience": (3, 0),
    "mesh.slices": (3, 1),
    "optim.ema_decay": (3, 0.0),
    "data.augment.brightness": (3, 0.0),
    "data.augment.contrast": (3, 0.0),
    "data.augment.color": (3, 0.0),
    "data.augment.noise": (3, 0.0),
    "data.augment.blur": (3, 0.0),
    "data.augment.jpeg": (3, 0),
    "data.augment.flip": (3, False),
    "data.augment.shift": (3, 0.0),
    "model.vision.class_token": (3, True),
    "model.vision.registers": (3, 0),
    "model.vision.pre_norm": (3, True),
    "model.vision.patch_bias": (3, False),
    "model.vision.layer_scale": (3, False),
    "model.vision.position_grid": (3, 0),
    "model.vision.position_resize": (3, "bicubic"),
    "model.decoder.rope_scaling": (3, ()),
    "model.decoder.qkv_bias": (3, False),
    "model.decoder.qk_norm": (3, False),
    "tokenizer.number_token": (4, "piece"),
    "model.decoder.number_row": (4, -1),
    "data.augment.crop": (4, 0.0),
    **{f"model.second_vision.{key}": (4, meant) for key, meant in _NO_TOWER.items()},
    "model.decoder.activation": (4, "silu"),
    "model.decoder.window": (4, 0),
    "model.decoder.global_every": (4, 0),
    "model.decoder.local_rope_theta": (4, 0.0),
    "model.decoder.query_scalar": (4, 0.0),
    "model.decoder.attention_softcap": (4, 0.0),
    "model.decoder.logit_softcap": (4, 0.0),
    "model.decoder.unit_offset": (4, False),
    "model.decoder.post_norms": (4, False),
    "model.decoder.scaled_embedding": (4, False),
    "model.decoder.nope_every": (5, 0),
}


def check_format(values: Mapping[str, Any], where: object, default: int | None = None) -> int:
    """The format of a file. default: what a file without one is.

    Raises: UserError where it is no format that this version reads.
    """
    found = values.get(FORMAT_KEY, default)
    if type(found) is not int or found < 1:
        raise UserError(f"{where} is damaged: its {FORMAT_KEY} is {found!r}, not a number from 1 to {FORMAT}")
    if found > FORMAT:
        raise UserError(f"{where} has format {found}; this version reads formats 1 to {FORMAT}: update igllm_jax")
    return found


def upgrade(flat: Mapping[str, Any], written: int, keys: Collection[str]) -> dict[str, Any]:
    """Flat values of format `written` under today's keys, with what was meant by those that were not there yet.

    keys: today's. A key that no row explains stays absent, and one that is not today's stays there.
    """
    found = dict(flat)
    for key, (since, before) in RENAMED.items():
        if written < since and key in keys and key not in found and before in found:
            found[key] = found.pop(before)
    for key, (since, meant) in ADDED.items():
        if written < since and key in keys and key.rpartition(".")[0] not in found:  # there, a damaged file has a value
            found.setdefault(key, meant)
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        is_group = hasattr(value, "items")  # a mapping, or a ConfigDict, which is none
        flat.update(flatten(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value})
    return flat


def unflatten(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for path, value in items:
        *groups, key = path.split(".")
        group = nested
        for name in groups:
            group = group.setdefault(name, {})
        group[key] = value
    return nested
