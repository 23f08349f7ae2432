"""What a checkpoint holds of a run."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from igllm_jax.training import optim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds: steps done (int32), trainables (float32, nested by path), the optimizer's state; or the
    shapes or shardings of these."""

    step: Any
    params: Any
    optimizer: Any


def initial_state(trainables: Any, options: optim.OptimOptions) -> TrainState:
    """Step 0. trainables: nested float32 arrays."""
    return TrainState(jnp.zeros((), jnp.int32), trainables, optim.optimizer(options).init(trainables))
