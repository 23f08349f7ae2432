"""The programs of a stream of images: rows come and go in one running loop.

`begin` prefills a few images, `insert` puts them where rows are done, `run` goes on until so many images are done that
others can take their slots. A row reads its own cache alone, so what it writes doesn't depend on who is beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.decode import Parts, first_keys, prefill, stops, tiled
from igllm_jax.decoding.decode import decoded as decoded_rows
from igllm_jax.decoding.decode_options import Decoded, DecodeOptions
from igllm_jax.decoding.decode_step import Loop, Step, shared_caches
from igllm_jax.decoding.grammar import Grammar
from igllm_jax.models import axes
from igllm_jax.models.llama_decode import Cache
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.sharding import MeshLayout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WrittenRows:
    """decoded: what every row has written so far. counts: int32 [B], its tokens. is_done: bool [B]."""

    decoded: Decoded
    counts: Any
    is_done: Any


@dataclass(frozen=True)
class RefillPrograms:
    """Each compiled once, `insert` and `run` once for each length of the caches in use.

    shared: (params) -> keys and values of what stands before the image.
    begin: (params, shared, images [R], is_used [R], grammar, ids [R] or None) -> a loop of R images after their first
    token.
    empty: (what `begin` gives, table, images B) -> a loop of B images that are all done.
    resized: (loop, stop) -> the loop, its caches with room for `stop` tokens.
    insert: (loop, what `begin` gave, int32 [R], the slot of each image in the loop, B for none) -> the loop.
    run: (params, shared, loop, grammar, wanted, stop) -> the loop, and what its rows have written. It goes on until
    `wanted` images are done, or a row has written more than `stop` tokens. `insert` and `run` use up their loop.
    """

    stops: tuple[int, ...]
    shared: Callable[..., Any]
    begin: Callable[..., Loop]
    empty: Callable[..., Loop]
    resized: Callable[..., Loop]
    insert: Callable[..., Loop]
    run: Callable[..., tuple[Loop, WrittenRows]]

    @classmethod
    def of(cls, config: VLMConfig, options: DecodeOptions, layout: MeshLayout) -> "RefillPrograms":
        """For the devices of `layout`, the rows of every loop sharded as those of a batch."""
        parts = Parts.of(config)
        num_own = config.vision.num_patches + len(options.after)

        def within(function: Callable[..., Any]) -> Callable[..., Any]:
            def program(*arguments: Any, **more: Any) -> Any:
                with axes.sharding_rules(layout):
                    return function(*arguments, **more)

            return program

        def laid(loop: Loop) -> Loop:
            return _laid(loop, layout)

        # on one device nothing is laid out, and all the same each program has to get what the others give
        jit = partial(jax.jit, **({} if layout.mesh.size > 1 else {"out_shardings": layout.replicated()}))

        return cls(
            stops=tuple(stops(options.max_new_tokens - 1)),
            shared=jit(within(lambda params: shared_caches(*parts.build(params)[:2], options))),
            begin=jit(within(lambda *arguments: laid(_begin(parts, options, *arguments)))),
            empty=jit(lambda new, table, size: laid(_empty(options, new, table, size)), static_argnums=2),
            resized=jit(lambda loop, stop: laid(_resized(loop, num_own + stop + options.num_drafts)), static_argnums=1),
            insert=jit(lambda *arguments: laid(_insert(options, *arguments)), donate_argnums=0),
            run=jit(
                within(lambda *arguments: _told(laid(_run(parts, options, *arguments)), options, layout)),
                static_argnums=5,
                donate_argnums=2,
            ),
        )


def _begin(
    parts: Parts,
    options: DecodeOptions,
    params: dict[str, Any],
    shared: tuple[Cache, ...],
    images: UInt8[Array, "r s s 3"],
    is_used: Bool[Array, "r"],
    grammar: Grammar | None,
    ids: UInt32[Array, "r"] | None,
) -> Loop:
    """Images after their first token, with no room for more; it is learned by no table."""
    step = Step.of(*parts.build(params), options, grammar, shared)
    caches, x, is_used = tiled(*prefill(step, images, 0), is_used, options.num_samples)
    nothing = jnp.zeros((len(is_used), 0), jnp.int32)
    return step.write(Loop.of(caches, is_used, None, options, grammar, first_keys(ids, options)), x, nothing)


def _empty(options: DecodeOptions, new: Loop, table: ngram_drafts.Table | None, size: int) -> Loop:
    def many(x: Array) -> Array:
        return jnp.zeros((size * options.num_samples, *x.shape[1:]), x.dtype)

    found = _by_row(many, new)
    return replace(
        found,
        caches=jax.tree.map(many, new.caches),
        is_done=jnp.ones_like(found.is_done),
        table=jax.tree.map(partial(jnp.array, copy=True), table),  # the loop's is given away, this one stays
    )


def _resized(loop: Loop, length: int) -> Loop:
    def fitted(cache: Cache) -> Cache:
        if cache.keys.shape[2] < length:
            return cache.grown(length)
        return Cache(cache.keys[:, :, :length], cache.values[:, :, :length])

    return replace(loop, caches=tuple(map(fitted, loop.caches)))


def _insert(options: DecodeOptions, loop: Loop, new: Loop, slots: Int[Array, "r"]) -> Loop:
    """What lies in a cache behind the new rows' prompts is left there: a row reads nothing that it did not write."""
    rows = (slots[:, None] * options.num_samples + jnp.arange(options.num_samples)).reshape(-1)

    def put(old: Array, fresh: Array) -> Array:
        return old.at[rows].set(fresh, mode="drop")

    def put_cache(old: Array, fresh: Array) -> Array:
        return old.at[rows, :, : fresh.shape[2]].set(fresh, mode="drop")

    return replace(_by_row(put, loop, new), caches=jax.tree.map(put_cache, loop.caches, new.caches))


def _run(
    parts: Parts,
    options: DecodeOptions,
    params: dict[str, Any],
    shared: tuple[Cache, ...],
    loop: Loop,
    grammar: Grammar | None,
    wanted: Int[Array, ""],
    stop: int,
) -> Loop:
    def goes_on(now: Loop) -> jax.Array:
        return now.goes_on(stop) & (jnp.sum(now.is_free(options.num_samples)) < wanted)

    return Step.of(*parts.build(params), options, grammar, shared).run(loop, goes_on)


def _told(loop: Loop, options: DecodeOptions, layout: MeshLayout) -> tuple[Loop, WrittenRows]:
    """The loop, and what its rows have written, on every device."""
    written = WrittenRows(replace(decoded_rows(loop, options), table=None), loop.counts, loop.is_done)
    if layout.mesh.size > 1:
        written = jax.lax.with_sharding_constraint(written, layout.replicated())
    return loop, written


def _laid(loop: Loop, layout: MeshLayout) -> Loop:
    """Rows sharded as a batch's, whoever made the loop, so that each program is compiled once."""

    def rows(x: Array) -> Array:
        return layout.activation(x, ("batch", *[None] * (x.ndim - 1)))

    def cached(x: Array) -> Array:
        return layout.activation(x, ("batch", "kv_heads", None, None))

    def everywhere(x: Array) -> Array:
        return jax.lax.with_sharding_constraint(x, layout.replicated()) if layout.mesh.size > 1 else x

    return replace(
        _by_row(rows, loop),
        caches=jax.tree.map(cached, loop.caches),
        table=jax.tree.map(everywhere, loop.table),
        num_steps=everywhere(loop.num_steps),
    )


def _by_row(function: Callable[..., Array], loop: Loop, *others: Loop) -> Loop:
    """The loop with `function` of every array that has a row for each answer, the caches apart."""
    bare = [replace(each, caches=(), table=None) for each in (loop, *others)]
    found: Loop = jax.tree.map(lambda x, *more: function(x, *more) if x.ndim else x, *bare)
    return replace(found, caches=loop.caches, table=loop.table)
