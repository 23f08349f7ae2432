"""Greedy decoding: one prefill, one compiled loop, numbers read from the hidden state that chose their token.

A step of the loop reads the weights once. It takes every row's last token and guesses of the tokens after it (see
ngram_drafts.py), and writes one token more than it finds guesses right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from igllm_jax.decoding import ngram_drafts
from igllm_jax.models import axes, lora
from igllm_jax.models.llama import rope_cos_sin
from igllm_jax.models.llama_decode import Cache, DecodeLayer
from igllm_jax.models.params import Skeleton
from igllm_jax.models.vlm import VLM, VLMConfig, skeleton

STACK = "decoder/layers/"
EMBEDDING, HEAD = "decoder/embedding", "decoder/head/kernel"
MOST_PIECES, LEAST_PIECE = 4, 32  # of the loop, in tokens


@dataclass(frozen=True)
class DecodeOptions:
    """before, after: token ids of the prompt before (at least the start token) and after the image. forbidden: id
    sequences never written.

    vocab_size: of the tokenizer; ids from there on (a padded vocabulary) are never written. num_drafts: tokens guessed
    a step.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    max_new_tokens: int
    end_id: int
    number_id: int
    vocab_size: int
    forbidden: tuple[tuple[int, ...], ...]
    num_drafts: int = 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Decoded:
    """tokens: int32 [B, N], the end token and what follows it filled with the end token. numbers: float32 [B, N],
    the float head's reading where the token is the float token, 0 elsewhere. lengths: int32 [B], tokens before the end
    (N where the end never came). num_steps: int32 [], passes over the weights after the prefill. table: what the next
    batch guesses from, see ngram_drafts.py; None without guesses."""

    tokens: jax.Array
    numbers: jax.Array
    lengths: jax.Array
    num_steps: jax.Array
    table: ngram_drafts.Table | None


@dataclass(frozen=True)
class Parts:
    """The model cut for decoding: everything but the layers, and one layer. Layers stand apart, not stacked: a loop
    that scans over a stack copies every layer's weights and cache at every token. The vocabulary head is laid out like
    the layers' kernels (see llama_decode) and like the embedding, [V, D]."""

    config: VLMConfig
    rest: Skeleton
    layer: Skeleton

    @classmethod
    def of(cls, config: VLMConfig) -> "Parts":
        rest = replace(config, decoder=replace(config.decoder, num_layers=0, tie_embeddings=True), lora=lora.NO_LORA)
        return cls(config, skeleton(rest), Skeleton.of(lambda rngs: DecodeLayer(config.decoder, rngs)))

    def shapes(self) -> dict[str, Any]:
        """Shapes of the tree that `prepare` makes."""
        layers = tuple(dict(self.layer.shapes) for _ in range(self.config.decoder.num_layers))
        return {"rest": self.rest.shapes | self._head(self.rest.shapes), "layers": layers}

    def axes(self) -> dict[str, Any]:
        """Axis names of the same tree."""
        layers = (self.layer.axes,) * self.config.decoder.num_layers
        return {"rest": self.rest.axes | self._head(self.rest.axes), "layers": layers}

    def _head(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return {} if self.config.decoder.tie_embeddings else {HEAD: like[EMBEDDING]}


def prepare(params: Mapping[str, Any], config: VLMConfig, dtype: jnp.dtype | None = None) -> dict[str, Any]:
    """LoRA merged, layers unstacked, the decoder's kernels transposed.

    dtype: of the weights while decoding (default: the config's), the float head apart, which stays in float32.
    Returns: {"rest": path -> array, "layers": (path -> array, ...)}.
    """
    dtype = jnp.dtype(config.dtype if dtype is None else dtype)
    merged = lora.merge(dict(params), config.lora) if config.lora.rank else dict(params)

    def laid_out(path: str, value: jax.Array) -> jax.Array:
        value = value.astype(jnp.float32 if path.startswith("float_head/") else dtype)
        return value.T if path.startswith("decoder/") and path.endswith("/kernel") else value

    stack = {path: value for path, value in merged.items() if path.startswith(STACK)}
    layers = tuple(
        {path.removeprefix(STACK): laid_out(path, value[layer]) for path, value in stack.items()}
        for layer in range(config.decoder.num_layers)
    )
    return {"rest": {p: laid_out(p, v) for p, v in merged.items() if not p.startswith(STACK)}, "layers": layers}


def make_decode(
    config: VLMConfig, options: DecodeOptions, rules: axes.ShardingRules | None = None
) -> Callable[..., Decoded]:
    """The decoder, to be jitted once: (what `prepare` made, images [B, S, S, 3], is_used [B], table) -> Decoded.

    Every row has the same prompt, so no row is padded, a batch decodes exactly as its rows would one by one, and what
    stands before the image is computed and kept once for all of them.
    is_used: False for rows that only fill the batch; they are done at once. table: to guess from (default: an empty
    one), of use with options.num_drafts alone.
    """
    parts = Parts.of(config)

    def decode(
        params: dict[str, Any],
        images: UInt8[Array, "b s s 3"],
        is_used: Bool[Array, "b"],
        table: ngram_drafts.Table | None = None,
    ) -> Decoded:
        with axes.sharding_rules(rules):
            rest = dict(params["rest"])
            head = rest.pop(HEAD, rest[EMBEDDING])
            layers = [parts.layer.build(layer) for layer in params["layers"]]
            known = None
            if options.num_drafts:
                known = jax.tree.map(jnp.asarray, ngram_drafts.empty() if table is None else table)
            return _decode(parts.rest.build(rest), layers, head, images, is_used, known, options)

    return decode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Loop:
    num_steps: jax.Array
    counts: jax.Array  # [B] tokens written so far
    caches: tuple[Cache, ...]
    tokens: jax.Array
    numbers: jax.Array
    recent: jax.Array  # [B, M] the last tokens written, newest last
    is_done: jax.Array
    table: ngram_drafts.Table | None


def _decode(
    model: VLM,
    layers: list[DecodeLayer],
    head: jax.Array,
    images: jax.Array,
    is_used: jax.Array,
    table: ngram_drafts.Table | None,
    options: DecodeOptions,
) -> Decoded:
    batch, dtype = images.shape[0], jnp.dtype(model.config.dtype)
    decoder, most, num_drafts = model.decoder, options.max_new_tokens, options.num_drafts
    shared_x = decoder.embed(jnp.array([options.before], jnp.int32), dtype)
    x = model.embed(images, jnp.tile(jnp.array(options.after, jnp.int32), (batch, 1)), image_offset=0)
    num_shared, num_own = shared_x.shape[1], x.shape[1]
    positions = num_shared + num_own - 1 + jnp.arange(most + num_drafts)
    cos, sin = rope_cos_sin(positions, decoder.config.head_dim, decoder.config.rope_theta)
    stops = _stops(most - 1)
    shared, caches = [], []
    for number, layer in enumerate(layers, 1):
        shared_x, before = layer.prefill(shared_x, num_shared)
        length = num_own + stops[0] + num_drafts
        if number < len(layers):
            x, cache = layer.prefill(x, length, before)
        else:
            x, cache = layer.prefill_last(x, length, before, (cos[:1], sin[:1]))
        shared.append(before)
        caches.append(cache)
    head = axes.weight(head.astype(dtype), "vocab", "embed")

    def write(loop: _Loop, x: Float[Array, "d _"], guesses: Int[Array, "b n"]) -> _Loop:
        """Chooses the token after each column of x and keeps those whose columns stand on what was kept."""
        state = decoder.final_norm(x, axis=0)
        logits = jnp.einsum("vd,db->vb", head, state, preferred_element_type=jnp.float32)
        width, memory = guesses.shape[1] + 1, loop.recent.shape[1]
        window = jnp.concatenate([loop.recent, guesses], axis=1)
        recent = jnp.stack([window[:, i : i + memory] for i in range(width)], axis=1).reshape(-1, memory)
        token = _likeliest(jnp.where(_is_allowed(recent, logits.shape[0], options), logits, -jnp.inf))
        number = jnp.where(token == options.number_id, model.numbers(state.T), 0.0)
        token, number = (z.reshape(batch, width) for z in (token, number))
        is_kept = _is_kept(loop, token, guesses, options)
        counts = loop.counts + jnp.sum(is_kept, axis=1)
        newest = (counts - loop.counts)[:, None] + jnp.arange(memory)
        known = loop.table and ngram_drafts.learn(loop.table, recent, token.ravel(), is_kept.ravel())
        return replace(
            loop,
            counts=counts,
            tokens=_put(loop.tokens, token, loop.counts),
            numbers=_put(loop.numbers, number, loop.counts),
            recent=jnp.take_along_axis(jnp.concatenate([loop.recent, token], axis=1), newest, axis=1),
            is_done=loop.is_done | jnp.any(is_kept & (token == options.end_id), axis=1) | (counts >= most),
            table=known,
        )

    def step(loop: _Loop) -> _Loop:
        """One token more of every row; the rows that go on are equally far."""
        return advance(loop, loop.num_steps + 1, nothing)

    def guessing_step(loop: _Loop, num_checked: int) -> _Loop:
        """The same, and as many guesses as are right; the table learns how often the first one is."""
        guesses = ngram_drafts.guess(known(loop), loop.recent, max(num_checked, 1))
        after = advance(loop, loop.counts, guesses[:, :num_checked])
        first = jnp.take_along_axis(after.tokens, loop.counts[:, None], axis=1)[:, 0]
        return replace(after, table=ngram_drafts.judge(known(after), guesses[:, 0], first, ~loop.is_done))

    def advance(loop: _Loop, counts: Int[Array, "*b"], guesses: Int[Array, "b n"]) -> _Loop:
        """Reads the last token and guesses of the next, writes what comes after them. counts: tokens written so far."""
        read = jnp.concatenate([loop.recent[:, -1:], jnp.maximum(guesses, 0)], axis=1)
        x = decoder.embed(read, dtype).reshape(read.size, -1).T
        positions_now = counts[..., None] + jnp.arange(guesses.shape[1] + 1)
        caches = []
        for layer, before, cache in zip(layers, shared, loop.caches, strict=True):
            x, cache = layer.step(x, (cos[positions_now], sin[positions_now]), before, cache, num_own - 1 + counts)
            caches.append(cache)
        return write(replace(loop, num_steps=loop.num_steps + 1, caches=tuple(caches)), x, guesses)

    def known(loop: _Loop) -> ngram_drafts.Table:
        assert loop.table is not None
        return loop.table

    def goes_on(loop: _Loop, stop: int) -> jax.Array:
        farthest = jnp.max(jnp.where(loop.is_done, 0, loop.counts))
        return (farthest > 0) & (farthest <= stop)

    nothing = jnp.zeros((batch, 0), jnp.int32)
    memory = max((len(sequence) - 1 for sequence in options.forbidden), default=0)
    shape = (batch, most + num_drafts + 1)
    loop = _Loop(
        num_steps=jnp.zeros((), jnp.int32),
        counts=jnp.zeros(batch, jnp.int32),
        caches=tuple(caches),
        tokens=jnp.zeros(shape, jnp.int32),
        numbers=jnp.zeros(shape, jnp.float32),
        recent=jnp.full((batch, max(memory, ngram_drafts.LONGEST if num_drafts else 1)), -1, jnp.int32),
        is_done=~is_used,
        table=table,
    )
    loop = write(loop, x, nothing)

    def run(loop: _Loop, stop: int) -> _Loop:
        """Two loops in turns where guesses are made: one checks them while they are trusted, one while they are not."""
        is_on = partial(goes_on, stop=stop)
        if not num_drafts:
            return jax.lax.while_loop(is_on, step, loop)

        def turn(loop: _Loop) -> _Loop:
            checks, waits = partial(guessing_step, num_checked=num_drafts), partial(guessing_step, num_checked=0)
            loop = jax.lax.while_loop(lambda loop: is_on(loop) & known(loop).is_accepting, checks, loop)
            return jax.lax.while_loop(lambda loop: is_on(loop) & ~known(loop).is_accepting, waits, loop)

        return jax.lax.while_loop(is_on, turn, loop)

    for stop in stops:
        length = num_own + stop + num_drafts
        loop = run(replace(loop, caches=tuple(cache.grown(length) for cache in loop.caches)), stop)
    is_written = jnp.arange(most) < loop.counts[:, None]
    tokens = jnp.where(is_written, loop.tokens[:, :most], options.end_id)
    lengths = jnp.sum(is_written & (tokens != options.end_id), axis=1)
    return Decoded(tokens, jnp.where(is_written, loop.numbers[:, :most], 0.0), lengths, loop.num_steps, loop.table)


def _is_kept(
    loop: _Loop, token: Int[Array, "b t"], guesses: Int[Array, "b n"], options: DecodeOptions
) -> Bool[Array, "b t"]:
    """True for the tokens of a step that are written: all guesses before them are right, no end token stands before
    them, and the answer is not full."""
    is_right = jnp.pad(guesses == token[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    is_end = token == options.end_id
    is_before_end = jnp.cumsum(is_end, axis=1) - is_end == 0
    has_room = loop.counts[:, None] + jnp.arange(token.shape[1]) < options.max_new_tokens
    return (jnp.cumprod(is_right, axis=1) > 0) & is_before_end & has_room & ~loop.is_done[:, None]


def _stops(steps: int) -> list[int]:
    """Where the loop ends for its caches to grow: no step reads positions far beyond the longest answer so far, and
    what an early end leaves over is never read. Every piece compiles its own loop, so they are few."""
    size = max(LEAST_PIECE, -(-steps // MOST_PIECES))
    return list(accumulate(min(size, steps - start) for start in range(0, steps, size))) or [0]


def _put(rows: Array, new: Array, starts: Int[Array, "b"]) -> Array:
    """Every row of `new` into its row of `rows`, from its start on."""
    return jax.vmap(lambda row, part, start: jax.lax.dynamic_update_slice(row, part, (start,)))(rows, new, starts)


def _is_allowed(recent: Int[Array, "b m"], vocab_size: int, options: DecodeOptions) -> Bool[Array, "v b"]:
    """False for ids outside the tokenizer's vocabulary and for ids that would complete a forbidden sequence."""
    ids = jnp.arange(vocab_size)[:, None]
    allowed = jnp.broadcast_to(ids < options.vocab_size, (vocab_size, recent.shape[0]))
    for *before, last in options.forbidden:
        matches = jnp.ones(recent.shape[0], bool)
        if before:
            matches = jnp.all(recent[:, -len(before) :] == jnp.array(before, jnp.int32), axis=1)
        allowed &= ids != jnp.where(matches, last, -1)
    return allowed


def _likeliest(logits: Float[Array, "v b"]) -> Int[Array, "b"]:
    """The first id of the largest logit, int32: argmax in two plain reductions, which a CPU vectorises."""
    ids = jnp.arange(len(logits), dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(logits == jnp.max(logits, axis=0), ids, len(logits) - 1), axis=0)
