"""What trains, how fast, and the optimizer: one table of path patterns, for gradients, optimizer and checkpoints."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from igllm_jax.errors import UserError
from igllm_jax.models.params import unnest

FROZEN = "frozen"
AVERAGED = "_ema"  # what names end with, of measurements and of steps, where averages stand for the weights
# table -> path pattern -> group; the first pattern that matches decides. A group's learning rate stands in the config.
TRAINABLE: dict[str, dict[str, str]] = {
    "lora": {
        "decoder/layers/*/lora_[ab]": "lora",
        "projector/*": "projector",
        "float_head/*": "float_head",
        "decoder/number_row/*": "float_head",
        "decoder/*": FROZEN,
        "*vision/*": FROZEN,
    },
    # LLaVA's first stage: the projector learns to speak the decoder's language
    "projector": {
        "projector/*": "projector",
        "float_head/*": "float_head",
        "decoder/number_row/*": "float_head",
        "decoder/*": FROZEN,
        "*vision/*": FROZEN,
    },
    # everything, as from random initialisation
    "full": {"projector/*": "projector", "float_head/*": "float_head", "decoder/*": "base", "*vision/*": "base"},
}


@dataclass(frozen=True)
class OptimOptions:
    """trainable: a key of TRAINABLE. learning_rates: (group, peak learning rate) pairs. warmup: share of the steps.

    clip_norm: global norm of the gradient, 0 for no clipping. accumulate: micro-batches per step. num_steps: where the
    cosine reaches 0. ema_decay: of the averages of what trains, 0 for none.
    """

    trainable: str
    learning_rates: tuple[tuple[str, float], ...]
    warmup: float
    num_steps: int
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    clip_norm: float
    accumulate: int
    ema_decay: float = 0.0


def groups(paths: Iterable[str], table: str) -> dict[str, str]:
    """Path -> group for every parameter.

    Raises: UserError for an unknown table, or naming the parameters that no pattern matches.
    """
    if table not in TRAINABLE:
        raise UserError(f"optim.trainable is {table!r}; choose one of {tuple(TRAINABLE)}")
    found = {path: _group(path, TRAINABLE[table]) for path in paths}
    unmatched = [path for path, group in found.items() if group is None]
    if unmatched:
        raise UserError(f"no pattern of optim.TRAINABLE[{table!r}] matches {unmatched}: add one, or 'frozen'")
    return {path: group for path, group in found.items() if group is not None}


def _group(path: str, patterns: Mapping[str, str]) -> str | None:
    return next((group for pattern, group in patterns.items() if fnmatch.fnmatchcase(path, pattern)), None)


def trainable_paths(paths: Iterable[str], table: str) -> frozenset[str]:
    """The parameters that train."""
    return frozenset(path for path, group in groups(paths, table).items() if group != FROZEN)


def schedule(peak: float, options: OptimOptions) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine to 0 at num_steps. Source: Loshchilov and Hutter 2017."""
    warmup_steps = -int(-options.warmup * options.num_steps // 1)  # rounded up
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(options.num_steps, warmup_steps + 1))


def optimizer(options: OptimOptions) -> optax.GradientTransformation:
    """AdamW on a nested tree of trainables, clipped by the norm over all groups, each group at its own rate."""

    def labels(tree: Any) -> Any:
        by_path = groups(unnest(tree), options.trainable)
        return jax.tree_util.tree_map_with_path(lambda path, _: by_path["/".join(str(part.key) for part in path)], tree)

    rates = {group: optax.scale_by_learning_rate(schedule(rate, options)) for group, rate in options.learning_rates}
    return optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        optax.scale_by_adam(options.beta1, options.beta2, options.epsilon),
        optax.add_decayed_weights(options.weight_decay) if options.weight_decay else optax.identity(),
        optax.partition(rates, labels),
        *([_averaging(options.ema_decay)] if options.ema_decay else []),  # last, where updates are what is added
    )


class Averages(NamedTuple):
    """The optimizer's part that keeps averages: nested float32 arrays, as the trainables are."""

    params: Any


def _averaging(decay: float) -> optax.GradientTransformation:
    """Changes no update; its state is the exponential moving average of the trainables, beginning with the first."""

    def update(updates: Any, state: Averages, params: Any) -> tuple[Any, Averages]:
        averages = jax.tree.map(lambda a, p, u: decay * a + (1 - decay) * (p + u), state.params, params, updates)
        return updates, Averages(averages)

    # a copy: the step is given its state to overwrite, which an array that stands in it twice would forbid
    return optax.GradientTransformation(lambda params: Averages(jax.tree.map(jnp.copy, params)), update)


def averages(optimizer_state: Any) -> Any | None:
    """The averaged trainables, nested; None where the run keeps none."""
    return next((part.params for part in optimizer_state if isinstance(part, Averages)), None)
