"""The flat renderer under JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from igllm_jax.render.flat.arrays import Namespace, SceneArrays
from igllm_jax.render.flat.dense import Drawing, draw_dense


def fold_in_scan(step: Callable[[Any, Any], Any], carry: Any, items: Any) -> Any:
    """`Namespace.fold` for JAX: one body, however many items there are."""
    return jax.lax.scan(lambda carried, item: (step(carried, item), None), carry, items)[0]


def repeat_in_loop(step: Callable[[Any], Any], carry: Any, count: int) -> Any:
    """`Namespace.repeat` for JAX: one body, however often."""
    return jax.lax.fori_loop(0, count, lambda _, carried: step(carried), jax.lax.stop_gradient(carry))


JAX = Namespace(jnp, fold_in_scan, repeat_in_loop, jax.lax.stop_gradient)


def map_scenes(one: Callable[[Any], Any], rows: Any, at_once: int) -> Any:
    """What `one` makes of each scene (a leading axis on every array of `rows`), so many side by side."""
    return jax.lax.map(one, rows, batch_size=at_once if at_once > 1 else None)


@functools.partial(jax.jit, static_argnames=("width", "height", "most_edges", "kinds", "at_once"))
def draw_batch(
    scenes: SceneArrays, *, width: int, height: int, most_edges: int, kinds: tuple[str, ...], at_once: int = 1
) -> Drawing:
    """Pictures and masks of many scenes (a leading axis on every array). at_once: that are drawn side by side, by vmap;
    one after the other (1) is quicker on a CPU, where a picture then stays in the cache."""
    draw = functools.partial(draw_dense, width=width, height=height, most_edges=most_edges, kinds=kinds, space=JAX)
    return map_scenes(draw, scenes, at_once)
