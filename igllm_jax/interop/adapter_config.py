"""What a PEFT adapter_config.json says: rank and scale of every LoRA, layer by layer; anything not known is refused.

An adapter that is not plain LoRA loads as if it were: its tensors have the same names. So every key is in a table here.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from igllm_jax.errors import UserError
from igllm_jax.models.llama import DecoderConfig
from igllm_jax.models.lora import LoRAConfig
from igllm_jax.models.number_row import MULTIPLE

Json = Mapping[str, Any]

# Source: the defaults of LoraConfig (peft); files are written without the keys at these values.
DEFAULTS = {
    "lora_dropout": 0.0, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "init_lora_weights": True,
    "layers_to_transform": None, "modules_to_save": None, "trainable_token_indices": None,
}  # fmt: skip
# Keys that change nothing about the weights' meaning: provenance, and which modules carry LoRA (the file's names tell).
WITHOUT_MEANING = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config",
    "loftq_config", "eva_config", "ensure_weight_tying",
)  # fmt: skip
READ = ("r", "lora_alpha", *DEFAULTS)
# key -> its values that mean plain LoRA. A key in no table is refused unless it is unset (None, False, empty).
PLAIN: dict[str, tuple[Any, ...]] = {"peft_type": ("LORA", None), "bias": ("none", None)}
# Starts that leave the weights under the adapter as they were. The others (pissa, olora, loftq, corda, lora_ga) do not.
PLAIN_STARTS = ("true", "false", "none", "gaussian", "eva", "orthogonal")
SAVED_MODULES = ("mm_projector", "multi_modal_projector", "float_head")  # modules_to_save that this model has
MAX_RANK, MAX_LAYERS = 2**24, 10_000


@dataclass(frozen=True)
class AdapterConfig:
    """lora: of every module that no pattern names. layers: the decoder layers that have LoRA (None: all).

    ranks, alphas: (pattern, value) pairs in the file's order; the first pattern that matches a module's name counts.
    is_rank_stabilised: the scale is alpha / sqrt(rank). number_row: the token whose rows of embedding and head come
    along, -1 for none.
    """

    lora: LoRAConfig
    layers: tuple[int, ...] | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()
    is_rank_stabilised: bool = False
    number_row: int = -1

    @property
    def is_uniform(self) -> bool:
        """Whether every module of every layer has the same rank and scale, as a model of ours keeps them apart."""
        return self.layers is None and not self.ranks and not self.alphas

    def of(self, module: str, layer: int) -> LoRAConfig:
        """The LoRA of one module, such as `model.layers.3.self_attn.q_proj`; rank 0 where it has none.

        Source: `get_pattern_key` of peft: a pattern matches the whole name, or its end after a dot.
        """
        if self.layers is not None and layer not in self.layers:
            return LoRAConfig(rank=0, alpha=1.0, dropout=0.0, dropout_kind="hash")
        rank = next((value for pattern, value in self.ranks if _matches(pattern, module)), self.lora.rank)
        plain = self.lora.alpha / (math.sqrt(self.lora.rank) if self.is_rank_stabilised else 1.0)
        alpha = next((value for pattern, value in self.alphas if _matches(pattern, module)), plain)
        if self.is_rank_stabilised:
            alpha *= math.sqrt(rank)
        return LoRAConfig(rank=rank, alpha=alpha, dropout=self.lora.dropout, dropout_kind="hash")


def _matches(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def read_adapter_config(adapter: Json, where: object) -> AdapterConfig:
    """The adapter that the JSON object describes.

    where: the file, for error messages. Raises: UserError naming the key that is missing, damaged or not plain LoRA.
    """
    absent = [key for key in ("r", "lora_alpha") if adapter.get(key) is None]
    if absent:
        raise UserError(f"{where} does not say {', '.join(absent)}: take the adapter_config.json that came with it")
    _refuse_other_adapters(adapter, where)
    found = {**DEFAULTS, **adapter}
    rank = _number(found["r"], int, where, "r", low=1)
    alpha = _number(found["lora_alpha"], float, where, "lora_alpha")
    dropout = _number(found["lora_dropout"] or 0.0, float, where, "lora_dropout")
    is_rank_stabilised = bool(found["use_rslora"])
    if not 0 <= dropout < 1:
        raise UserError(f"{where}: lora_dropout is {dropout}; a share in [0, 1) is expected")
    return AdapterConfig(
        lora=LoRAConfig(rank, alpha * (math.sqrt(rank) if is_rank_stabilised else 1.0), dropout, "hash"),
        layers=_layers(found["layers_to_transform"], where),
        ranks=_patterns(found, "rank_pattern", int, where),
        alphas=_patterns(found, "alpha_pattern", float, where),
        is_rank_stabilised=is_rank_stabilised,
        number_row=_number_row(found["trainable_token_indices"], where),
    )


def _number_row(value: Any, where: object) -> int:
    """The one token of trainable_token_indices, of the embedding alone or of the head too."""
    if not value:
        return -1
    groups = list(value.values()) if isinstance(value, Mapping) else [value]
    names = {str(name).rpartition(".")[2] for name in value} if isinstance(value, Mapping) else {"embed_tokens"}
    token = groups[0][0] if isinstance(groups[0], list) and groups[0] else None
    if not names <= {"embed_tokens", "lm_head"} or any(group != [token] for group in groups):
        raise UserError(f"{where}: trainable_token_indices is {str(value)[:60]}; one token of both tables is expected")
    return int(_number(token, int, where, "trainable_token_indices", low=0))


def with_number_row(decoder: DecoderConfig, adapter: AdapterConfig | None, where: object) -> DecoderConfig:
    """The decoder with the rows of a token that an adapter brings. Raises: UserError for one far beyond its tables."""
    token, rows = adapter.number_row if adapter else -1, decoder.vocab_size
    if token >= rows + MULTIPLE:
        raise UserError(
            f"{where} has rows of token {token}, and the decoder {rows} rows: it belongs to another decoder"
        )
    return replace(decoder, number_row=token)


def _refuse_other_adapters(adapter: Json, where: object) -> None:
    """Raises: UserError naming the first key that says that this is more than plain LoRA."""
    for key, value in adapter.items():
        if key in PLAIN:
            if value not in PLAIN[key]:
                raise UserError(f"{where}: {key} is {value!r}; supported: {PLAIN[key][0]}")
        elif key not in READ and key not in WITHOUT_MEANING and value:
            raise UserError(f"{where}: {key} is {value!r}, which makes it more than plain LoRA; this is not supported")
    start = str(adapter.get("init_lora_weights", True))
    if start.lower() not in PLAIN_STARTS:
        raise UserError(
            f"{where}: init_lora_weights is {start!r}, which changed the weights under the adapter too; save it with "
            "PEFT's path_initial_model_for_weight_conversion, as plain LoRA, and import that"
        )
    saved = adapter.get("modules_to_save") or ()
    if not isinstance(saved, list | tuple) or not all(isinstance(name, str) for name in saved):
        raise UserError(f"{where}: modules_to_save is {saved!r}; a list of names is expected")
    others = [name for name in saved if name.rpartition(".")[2] not in SAVED_MODULES]
    if others:
        raise UserError(
            f"{where}: modules_to_save names {', '.join(others)}, trained whole beside LoRA; only "
            f"{', '.join(SAVED_MODULES)} can come along"
        )


def _layers(value: Any, where: object) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    layers = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < MAX_LAYERS for n in layers):
        raise UserError(f"{where}: layers_to_transform is {value!r}; numbers of layers are expected")
    return tuple(layers)


def _patterns(found: Json, key: str, kind: Callable[[Any], Any], where: object) -> tuple[tuple[str, Any], ...]:
    if not isinstance(found[key] or {}, Mapping):
        raise UserError(f"{where}: {key} is {found[key]!r}; an object is expected")
    pairs = []
    for pattern, value in (found[key] or {}).items():
        try:
            re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(f"{where}: {key} has the pattern {pattern!r}, which can't be read: {error}") from None
        pairs.append((pattern, _number(value, kind, where, f"{key}[{pattern!r}]", low=0)))
    return tuple(pairs)


def _number(value: Any, kind: Callable[[Any], Any], where: object, key: str, *, low: float = -math.inf) -> Any:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError
        number = kind(value)
        if number != value or not low <= number <= MAX_RANK:
            raise ValueError
    except (ValueError, OverflowError):
        wanted = f"a whole number from {low:g} to {MAX_RANK}" if kind is int else "a finite number"
        raise UserError(f"{where}: {key} is {str(value)[:60]}; {wanted} is expected") from None
    return number
