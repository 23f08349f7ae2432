"""The model's side of sharding: it names axes, and whoever runs it says what the names mean.

Inside `sharding_rules(rules)` every `activation(x, ...)` and `weight(x, ...)` is sharded by the rules; outside they
return x.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import jax


@runtime_checkable
class ShardingRules(Protocol):
    """What sharding.py implements: names of axes to sharded arrays."""

    def activation(self, x: jax.Array, names: tuple[str | None, ...]) -> jax.Array: ...

    def weight(self, x: jax.Array, names: tuple[str | None, ...]) -> jax.Array: ...

    def per_shard(
        self, function: Callable, inputs: tuple[tuple[str | None, ...], ...], output: tuple[str | None, ...]
    ) -> Callable: ...


_rules: ContextVar[ShardingRules | None] = ContextVar("rules", default=None)


@contextmanager
def sharding_rules(rules: ShardingRules | None) -> Iterator[None]:
    """Traces what runs inside with `rules` deciding where arrays live."""
    token = _rules.set(rules)
    try:
        yield
    finally:
        _rules.reset(token)


def activation(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrains an activation whose dimensions are called `names` (None: not sharded)."""
    rules = _rules.get()
    return x if rules is None else rules.activation(x, names)


def weight(x: jax.Array, *names: str | None) -> jax.Array:
    """Gathers a weight over the axes that only store it, so that XLA moves weights once and not activations."""
    rules = _rules.get()
    return x if rules is None else rules.weight(x, names)


def per_shard(
    function: Callable, inputs: tuple[tuple[str | None, ...], ...], output: tuple[str | None, ...]
) -> Callable:
    """Wraps a kernel that XLA can't partition, so that each device runs it on its own part."""
    rules = _rules.get()
    return function if rules is None else rules.per_shard(function, inputs, output)
