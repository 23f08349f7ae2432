"""What each config key may be: one table for command lines, config files and the config.json of runs.

A key without a row is none: RANGES has those of configs/common.py, a new key needs its row in both.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from igllm_jax.data.options import CHOICES
from igllm_jax.data.prompts import PROMPTS
from igllm_jax.data.tokens import NUMBER_TOKENS
from igllm_jax.errors import UserError
from igllm_jax.models.attention import KERNELS
from igllm_jax.models.float_heads import FLOAT_HEADS
from igllm_jax.models.llama import ACTIVATIONS as GATES
from igllm_jax.models.lora import DROPOUT_KINDS
from igllm_jax.models.projectors import PROJECTORS
from igllm_jax.models.remat import EXPECTED, find_policy
from igllm_jax.models.vision import ACTIVATIONS, RESIZES
from igllm_jax.parallel.sharding import LAYOUTS
from igllm_jax.scene.kind import ROTATION_UNITS
from igllm_jax.training.optim import TRAINABLE


class Range(ABC):
    """What a value may be; `str()` of it stands behind "it must be"."""

    @abstractmethod
    def holds(self, value: Any) -> bool: ...

    def typed(self, value: Any) -> Any:
        """The value in the type that configs have it in: JSON knows neither 1.0 nor tuples."""
        return value


@dataclass(frozen=True)
class Whole(Range):
    """A whole number, both ends included."""

    low: int
    high: int
    except_for: int | None = None

    def holds(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high and value != self.except_for

    def __str__(self) -> str:
        but = "" if self.except_for is None else f" but {self.except_for}"
        return f"a whole number from {self.low} to {self.high}{but}"


@dataclass(frozen=True)
class Real(Range):
    """A finite number; both ends included unless they are open."""

    low: float
    high: float
    is_open_low: bool = False
    is_open_high: bool = False

    def holds(self, value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        is_above = value > self.low or (value == self.low and not self.is_open_low)
        return is_above and (value < self.high or (value == self.high and not self.is_open_high))

    def typed(self, value: Any) -> float:
        return float(value)

    def __str__(self) -> str:
        low, high = "(" if self.is_open_low else "[", ")" if self.is_open_high else "]"
        return f"a number in {low}{self.low:g}, {self.high:g}{high}"


@dataclass(frozen=True)
class Reals(Range):
    """A tuple of numbers, of one of these lengths."""

    each: Real
    lengths: tuple[int, ...]

    def holds(self, value: Any) -> bool:
        is_tuple = isinstance(value, tuple | list) and len(value) in self.lengths
        return is_tuple and all(self.each.holds(number) for number in value)

    def typed(self, value: Any) -> tuple[float, ...]:
        return tuple(map(float, value))

    def __str__(self) -> str:
        return f"{' or '.join(map(str, self.lengths))} numbers, each {self.each}"


@dataclass(frozen=True)
class Choice(Range):
    """One of a table's keys, which may be added to after this module was read."""

    of: Iterable[str]

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and value in tuple(self.of)

    def __str__(self) -> str:
        return f"one of {', '.join(self.of)}"


@dataclass(frozen=True)
class Text(Range):
    """Any text of one line; a path or a name, whose own reader says more."""

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and not set(value) & {"\0", "\n", "\r"}

    def __str__(self) -> str:
        return "text of one line"


@dataclass(frozen=True)
class RematPolicy(Text):
    def holds(self, value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(find_policy(value))
        except ValueError:
            return False

    def __str__(self) -> str:
        return EXPECTED


@dataclass(frozen=True)
class Switch(Range):
    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class Sources(Range):
    """Entries of a mixture, or of validation sets; `config` looks at each. forms: what one is, for people."""

    forms: str = "(images, labels, weight) or (images, weight)"

    def holds(self, value: Any) -> bool:
        return isinstance(value, tuple | list)

    def typed(self, value: Any) -> tuple[Any, ...]:
        return tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)

    def __str__(self) -> str:
        return f"a tuple of {self.forms}"


EVERY = Whole(0, 1_000_000_000)  # of steps, 0: never
WIDTH, LAYERS = Whole(1, 1_048_576), Whole(1, 1024)
RATE = Real(0, 1e38)  # a rate that is too high shows in the loss, and may be meant
EPSILON = Real(0, 1, is_open_low=True)
MESH_SIZE = Whole(-1, 1_048_576, except_for=0)  # -1: what is left
DTYPES = ("float32", "bfloat16")

RANGES: dict[str, Range] = {
    "seed": Whole(0, 2**32 - 1),
    "batch_size": Whole(1, 1_048_576),
    "task": Text(),  # config.check looks for it
    "head": Choice(FLOAT_HEADS),
    "rotation_rep": Text(),  # the task looks for it
    "tokenizer.path": Text(),
    "tokenizer.number_token": Choice(NUMBER_TOKENS),
    "tokenizer.train_vocab_size": Whole(0, 1_000_000),
    "data.train.images": Text(),
    "data.train.labels": Text(),
    "data.train.num_samples": Whole(0, 2**40),
    "data.val.images": Text(),
    "data.val.labels": Text(),
    "data.val.num_samples": Whole(0, 2**40),
    "data.val_sets": Sources("(name, images, labels) or (name, images)"),
    "data.sources": Sources(),
    "data.image_size": Whole(1, 16_384),
    "data.image_aspect_ratio": Choice(("pad", "square")),
    "data.image_mean": Reals(Real(0, 1), (3,)),
    "data.image_std": Reals(Real(0, 1, is_open_low=True), (3,)),
    "data.prompt": Choice(PROMPTS),
    "data.max_length": Whole(1, 1_048_576),
    "data.shuffle_attributes": Switch(),
    "data.use_synonyms": Switch(),
    "data.rotation_unit": Choice(ROTATION_UNITS),
    "data.buckets": Whole(1, 64),
    "data.num_workers": Whole(0, 1024),
    "data.prefetch": Whole(0, 1024),
    "data.cache": Text(),
    "data.pixels": Choice(CHOICES["pixels"]),
    "data.pixel_range": Reals(Real(-1e38, 1e38), (0, 2)),
    "data.exif": Choice(CHOICES["exif"]),
    "data.max_image_side": Whole(0, 2**31 - 1),
    "data.max_image_aspect": Real(0, 1e9),
    "data.max_image_pixels": Whole(0, 2**62),
    "data.on_bad_sample": Choice(CHOICES["on_bad_sample"]),
    "data.max_bad_share": Real(0, 1),
    "data.augment.brightness": Real(0, 1),
    "data.augment.contrast": Real(0, 1),
    "data.augment.color": Real(0, 1),
    "data.augment.noise": Real(0, 1),
    "data.augment.blur": Real(0, 1000),
    "data.augment.jpeg": Whole(0, 100),
    "data.augment.flip": Switch(),
    "data.augment.shift": Real(0, 0.5),
    "data.augment.crop": Real(0, 0.5),
    "model.base": Text(),
    "model.start_from": Text(),
    "model.dtype": Choice(DTYPES),
    "model.frozen_dtype": Choice(DTYPES),
    "model.projector": Choice(PROJECTORS),
    "model.vision.image_size": Whole(1, 16_384),
    "model.vision.patch_size": Whole(1, 16_384),
    "model.vision.width": WIDTH,
    "model.vision.num_layers": LAYERS,
    "model.vision.num_heads": WIDTH,
    "model.vision.mlp_width": WIDTH,
    "model.vision.layer_norm_epsilon": EPSILON,
    "model.vision.activation": Choice(ACTIVATIONS),
    "model.vision.feature_layer": Whole(-1025, 1024),
    "model.vision.class_token": Switch(),
    "model.vision.registers": Whole(0, 1024),
    "model.vision.pre_norm": Switch(),
    "model.vision.patch_bias": Switch(),
    "model.vision.layer_scale": Switch(),
    "model.vision.position_grid": Whole(0, 16_384),
    "model.vision.position_resize": Choice(RESIZES),
    "model.decoder.vocab_size": Whole(1, 16_777_216),
    "model.decoder.width": WIDTH,
    "model.decoder.num_layers": Whole(0, 1024),
    "model.decoder.num_heads": WIDTH,
    "model.decoder.num_kv_heads": WIDTH,
    "model.decoder.head_dim": Whole(2, 1_048_576),
    "model.decoder.mlp_width": WIDTH,
    "model.decoder.rms_norm_epsilon": EPSILON,
    "model.decoder.rope_theta": Real(1, 1e12),
    "model.decoder.rope_scaling": Reals(Real(0, 1e12, is_open_low=True), (0, 1, 4)),
    "model.decoder.qkv_bias": Switch(),
    "model.decoder.qk_norm": Switch(),
    "model.decoder.activation": Choice(GATES),
    "model.decoder.window": Whole(0, 16_777_216),
    "model.decoder.global_every": Whole(0, 1024),
    "model.decoder.local_rope_theta": Real(0, 1e12),
    "model.decoder.nope_every": Whole(0, 1024),
    "model.decoder.query_scalar": Real(0, 1e6),
    "model.decoder.attention_softcap": Real(0, 1e6),
    "model.decoder.logit_softcap": Real(0, 1e6),
    "model.decoder.unit_offset": Switch(),
    "model.decoder.post_norms": Switch(),
    "model.decoder.scaled_embedding": Switch(),
    "model.decoder.tie_embeddings": Switch(),
    "model.decoder.number_row": Whole(-1, 16_777_215),
    "model.decoder.attention": Choice(KERNELS),
    "model.decoder.remat": RematPolicy(),
    "model.lora.rank": Whole(0, 65_536),
    "model.lora.alpha": Real(0, 1e6),
    "model.lora.dropout": Real(0, 1, is_open_high=True),
    "model.lora.dropout_kind": Choice(DROPOUT_KINDS),
    "optim.trainable": Choice(TRAINABLE),
    "optim.lr": RATE,
    "optim.projector_lr": RATE,
    "optim.float_head_lr": RATE,
    "optim.warmup": Real(0, 1),
    "optim.beta1": Real(0, 1, is_open_high=True),
    "optim.beta2": Real(0, 1, is_open_high=True),
    "optim.epsilon": EPSILON,
    "optim.weight_decay": Real(0, 1e6),
    "optim.clip_norm": Real(0, 1e30),
    "optim.ema_decay": Real(0, 1, is_open_high=True),
    "optim.accumulate": Whole(1, 1_048_576),
    "train.num_steps": Whole(1, 1_000_000_000),
    "train.float_weight": Real(0, 1e9),
    "train.loss_chunk": Whole(1, 1_048_576),
    "train.log_every": Whole(1, 1_000_000_000),
    "train.checkpoint_every": Whole(1, 1_000_000_000),
    "train.keep_checkpoints": Whole(1, 1_000_000),
    "train.tensorboard": Switch(),
    "train.wandb": Switch(),
    "eval.loss_every": EVERY,
    "eval.loss_samples": Whole(1, 2**40),
    "eval.generate_every": EVERY,
    "eval.generate_samples": Whole(1, 2**40),
    "eval.max_new_tokens": Whole(1, 1_048_576),
    "eval.patience": EVERY,
    "eval.best_metric": Text(),  # config.check looks for it among the task's
    "mesh.layout": Choice(LAYOUTS),
    "mesh.slices": Whole(1, 1024),
    "mesh.data": MESH_SIZE,
    "mesh.fsdp": MESH_SIZE,
    "mesh.tensor": MESH_SIZE,
}
RANGES |= {
    key.replace("vision", "second_vision"): own for key, own in RANGES.items() if key.startswith("model.vision.")
}
RANGES |= {
    "model.second_vision.width": Whole(0, WIDTH.high),
    "model.second_vision.image_mean": RANGES["data.image_mean"],
    "model.second_vision.image_std": RANGES["data.image_std"],
}


def check_values(flat: Mapping[str, Any]) -> None:
    """Raises: UserError naming the first key whose value is outside of its range, the value and the range."""
    for key, value in flat.items():
        found = RANGES[key]
        if not found.holds(value):
            told = f"choose {found}" if isinstance(found, Choice) else f"it must be {found}"
            hint = "; it is a share of the steps, not a number of them" if key == "optim.warmup" else ""
            spelled = repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:97]}..."
            raise UserError(f"{key} is {spelled}; {told}{hint}")


def check_keys(flat: Iterable[str], known: Iterable[str]) -> None:
    """Raises: UserError for a key that is none (naming the nearest), a group of keys, or one that is absent."""
    flat, known = list(flat), list(known)
    for key in flat:
        if key not in known:
            raise UserError(no_such_key(key, known))
    for key in known:
        if key not in flat:
            raise UserError(f"the config key {key!r} is absent")


def no_such_key(key: str, known: Iterable[str]) -> str:
    known = list(known)
    group = [other for other in known if other.startswith(f"{key}.")]
    if group:
        return f"{key} is a group of keys; set one of them, such as {group[0]}"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"there is no config key {key!r}; the nearest is {near[0]!r}"
