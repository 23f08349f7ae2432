"""Greedy decoding: one prefill, one compiled loop, numbers read from the hidden state that chose their token.

A step of the loop reads the weights once. It takes every row's last token and guesses of the tokens after it (see
ngram_drafts.py), and writes one token more than it finds guesses right. With a grammar (grammar.py) tokens that leave
the language have no chance, and where one token alone may follow, that is the guess.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from igllm_jax.decoding import grammar as grammars
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.grammar import Grammar
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
    (N where the end never came). is_finite: bool [B], whether all logits and numbers of the row were. num_steps: int32
    [], passes over the weights after the prefill. table: what the next batch guesses from, see ngram_drafts.py; None
    without guesses."""

    tokens: jax.Array | np.ndarray
    numbers: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    is_finite: jax.Array | np.ndarray
    num_steps: jax.Array | np.ndarray
    table: ngram_drafts.Table | None


@dataclass(frozen=True)
class Parts:
    """The model split for decoding: everything but the layers, and one layer. Layers stand apart, not stacked: a loop
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
    """The decoder, to be jitted once: (what `prepare` made, images, is_used, table, grammar) -> Decoded.

    Every row has the same prompt, so no row is padded, a batch decodes exactly as its rows would one by one, and what
    stands before the image is computed and kept once for all of them.
    is_used: False for rows that only fill the batch; they are done at once. table: to guess from (default: an empty
    one), of use with options.num_drafts alone. grammar: what answers keep to (default: anything), for the decoder's
    vocabulary; max_new_tokens has to leave room for its shortest answer.
    """
    parts = Parts.of(config)

    def decode(
        params: dict[str, Any],
        images: UInt8[Array, "b s s 3"],
        is_used: Bool[Array, "b"],
        table: ngram_drafts.Table | None = None,
        grammar: Grammar | None = None,
    ) -> Decoded:
        with axes.sharding_rules(rules):
            rest = dict(params["rest"])
            head = rest.pop(HEAD, rest[EMBEDDING])
            layers = tuple(parts.layer.build(layer) for layer in params["layers"])
            known = None
            if options.num_drafts:
                known = jax.tree.map(jnp.asarray, ngram_drafts.empty() if table is None else table)
            prefilled = _prefill(parts.rest.build(rest), layers, head, images, options, grammar)
            return _decode(*prefilled, is_used, known)

    return decode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Loop:
    """What a step changes. tokens, numbers: [B, N + drafts + 1], of which the first `counts` are written."""

    num_steps: jax.Array
    counts: jax.Array  # [B] tokens written so far
    caches: tuple[Cache, ...]
    tokens: jax.Array
    numbers: jax.Array
    recent: jax.Array  # [B, M] the last tokens written, newest last
    is_done: jax.Array
    is_finite: jax.Array  # [B] whether all logits and numbers were
    table: ngram_drafts.Table | None
    states: jax.Array | None  # [B, W] of the grammar

    @classmethod
    def of(
        cls, caches: tuple[Cache, ...], is_used: jax.Array, table: Any, options: DecodeOptions, grammar: Any
    ) -> "_Loop":
        """Before the first token."""
        batch, num_drafts = len(is_used), options.num_drafts
        memory = max((len(sequence) - 1 for sequence in options.forbidden), default=0)
        shape = (batch, options.max_new_tokens + num_drafts + 1)
        return cls(
            num_steps=jnp.zeros((), jnp.int32),
            counts=jnp.zeros(batch, jnp.int32),
            caches=caches,
            tokens=jnp.zeros(shape, jnp.int32),
            numbers=jnp.zeros(shape, jnp.float32),
            recent=jnp.full((batch, max(memory, ngram_drafts.LONGEST if num_drafts else 1)), -1, jnp.int32),
            is_done=~is_used,
            is_finite=jnp.ones(batch, bool),
            table=table,
            states=None if grammar is None else grammars.starts(grammar, batch, options.max_new_tokens),
        )

    def known(self) -> ngram_drafts.Table:
        """The table, where drafts are made."""
        assert self.table is not None
        return self.table

    def goes_on(self, stop: int) -> jax.Array:
        """Whether a row that is not done has written at most `stop` tokens."""
        farthest = jnp.max(jnp.where(self.is_done, 0, self.counts))
        return (farthest > 0) & (farthest <= stop)


@dataclass(frozen=True)
class _Step:
    """What every step reads and none changes.

    head: [V, D]. shared: keys and values of what stands before the image, one cache a layer. cos, sin: of the positions
    from the last one of the prompt on. num_own: positions of the prompt in each row's own caches.
    """

    model: VLM
    layers: tuple[DecodeLayer, ...]
    head: jax.Array
    shared: tuple[Cache, ...]
    cos: jax.Array
    sin: jax.Array
    num_own: int
    options: DecodeOptions
    grammar: Grammar | None

    def write(self, loop: _Loop, x: Float[Array, "d _"], guesses: Int[Array, "b n"]) -> _Loop:
        """Chooses the token after each column of x, and accepts drafts up to the first mismatch."""
        options, batch = self.options, len(guesses)
        state = self.model.decoder.final_norm(x, axis=0)
        logits = jnp.einsum("vd,db->vb", self.head, state, preferred_element_type=jnp.float32)
        width, memory = guesses.shape[1] + 1, loop.recent.shape[1]
        window = jnp.concatenate([loop.recent, guesses], axis=1)
        recent = jnp.stack([window[:, i : i + memory] for i in range(width)], axis=1).reshape(-1, memory)
        is_allowed, states = _is_allowed(recent, logits.shape[0], options), loop.states
        if self.grammar is not None:
            states = grammars.walk(self.grammar, loop.states, jnp.maximum(guesses, 0))
            is_allowed &= grammars.mask(self.grammar, states.reshape(batch * width, -1)).T
        token = _likeliest(jnp.where(is_allowed, logits, -jnp.inf))
        number = jnp.where(token == options.number_id, self.model.numbers(state.T), 0.0)
        # The largest logit is NaN where any is. Rows that are done read what no one asked for, so they are left out.
        is_finite = jnp.isfinite(jnp.max(logits, axis=0)) & jnp.isfinite(number)
        token, number, is_finite = (z.reshape(batch, width) for z in (token, number, is_finite))
        is_accepted = _is_accepted(loop, token, guesses, options)
        counts = loop.counts + jnp.sum(is_accepted, axis=1)
        num_new = counts - loop.counts
        newest = num_new[:, None] + jnp.arange(memory)
        if self.grammar is not None:
            assert states is not None and loop.states is not None
            rows, last = jnp.arange(batch), jnp.maximum(num_new - 1, 0)
            after = grammars.advance(self.grammar, states[rows, last], token[rows, last])
            states = jnp.where(num_new[:, None] > 0, after, loop.states)
        is_end = jnp.any(is_accepted & (token == options.end_id), axis=1)
        return replace(
            loop,
            counts=counts,
            tokens=_put(loop.tokens, token, loop.counts),
            numbers=_put(loop.numbers, number, loop.counts),
            recent=jnp.take_along_axis(jnp.concatenate([loop.recent, token], axis=1), newest, axis=1),
            is_finite=loop.is_finite & (jnp.all(is_finite | ~is_accepted, axis=1) | loop.is_done),
            is_done=loop.is_done | is_end | (counts >= options.max_new_tokens),
            table=loop.table and ngram_drafts.learn(loop.table, recent, token.ravel(), is_accepted.ravel()),
            states=states,
        )

    def advance(self, loop: _Loop, counts: Int[Array, "*b"], guesses: Int[Array, "b n"]) -> _Loop:
        """Reads the last token and guesses of the next, writes what comes after them. counts: tokens written so far."""
        decoder = self.model.decoder
        read = jnp.concatenate([loop.recent[:, -1:], jnp.maximum(guesses, 0)], axis=1)
        x = decoder.embed(read, jnp.dtype(self.model.config.dtype)).reshape(read.size, -1).T
        now = counts[..., None] + jnp.arange(guesses.shape[1] + 1)
        rope, caches = (self.cos[now], self.sin[now]), []
        for layer, before, cache in zip(self.layers, self.shared, loop.caches, strict=True):
            x, cache = layer.step(x, rope, before, cache, self.num_own - 1 + counts)
            caches.append(cache)
        return self.write(replace(loop, num_steps=loop.num_steps + 1, caches=tuple(caches)), x, guesses)

    def plain(self, loop: _Loop) -> _Loop:
        """One token more of every row; the rows that go on are equally far."""
        return self.advance(loop, loop.num_steps + 1, jnp.zeros((len(loop.counts), 0), jnp.int32))

    def guess(self, loop: _Loop, num_checked: int) -> _Loop:
        """The same, and as many guesses as are right; the table learns how often the first one is."""
        guesses = self.drafts(loop, max(num_checked, 1))
        after = self.advance(loop, loop.counts, guesses[:, :num_checked])
        first = jnp.take_along_axis(after.tokens, loop.counts[:, None], axis=1)[:, 0]
        return replace(after, table=ngram_drafts.judge(after.known(), guesses[:, 0], first, ~loop.is_done))

    def drafts(self, loop: _Loop, count: int) -> Int[Array, "b count"]:
        """Guesses of the next tokens: what has to follow in the language, or what the table says, if it may follow."""
        if self.grammar is None:
            return ngram_drafts.guess(loop.known(), loop.recent, count)
        recent, state, found = loop.recent, loop.states, []
        for _ in range(count):
            token, only = ngram_drafts.guess(loop.known(), recent, 1)[:, 0], grammars.forced(self.grammar, state)
            token = jnp.where(only >= 0, only, token)
            state = grammars.advance(self.grammar, state, jnp.maximum(token, 0))
            found.append(jnp.where(grammars.is_dead(state), ngram_drafts.UNKNOWN, token))
            recent = jnp.concatenate([recent[:, 1:], found[-1][:, None]], axis=1)
        return jnp.stack(found, axis=1)

    def run(self, loop: _Loop, stop: int) -> _Loop:
        """Steps until the answers end or `stop` tokens are written. With guesses two loops take turns: one checks them
        while enough are accepted, one only watches while they are not."""
        num_drafts, is_on = self.options.num_drafts, partial(_Loop.goes_on, stop=stop)
        if not num_drafts:
            return jax.lax.while_loop(is_on, self.plain, loop)

        def both(loop: _Loop) -> _Loop:
            checks, watches = partial(self.guess, num_checked=num_drafts), partial(self.guess, num_checked=0)
            loop = jax.lax.while_loop(lambda loop: is_on(loop) & loop.known().is_accepting, checks, loop)
            return jax.lax.while_loop(lambda loop: is_on(loop) & ~loop.known().is_accepting, watches, loop)

        return jax.lax.while_loop(is_on, both, loop)


def _prefill(
    model: VLM, layers: tuple[DecodeLayer, ...], head: Array, images: Array, options: DecodeOptions, grammar: Any
) -> tuple[_Step, tuple[Cache, ...], Float[Array, "d b"]]:
    """The prompt: what the steps read, each layer's cache with room for the loop's first piece, and the last layer's
    output at the last position."""
    free = _stops(options.max_new_tokens - 1)[0] + options.num_drafts
    batch, dtype, decoder = images.shape[0], jnp.dtype(model.config.dtype), model.decoder
    shared_x = decoder.embed(jnp.array([options.before], jnp.int32), dtype)
    x = model.embed(images, jnp.tile(jnp.array(options.after, jnp.int32), (batch, 1)), image_offset=0)
    num_shared, num_own = shared_x.shape[1], x.shape[1]
    positions = num_shared + num_own - 1 + jnp.arange(options.max_new_tokens + options.num_drafts)
    cos, sin = rope_cos_sin(positions, decoder.config.head_dim, decoder.config.rope_theta)
    shared, caches = [], []
    for number, layer in enumerate(layers, 1):
        shared_x, before = layer.prefill(shared_x, num_shared)
        if number < len(layers):
            x, cache = layer.prefill(x, num_own + free, before)
        else:
            x, cache = layer.prefill_last(x, num_own + free, before, (cos[:1], sin[:1]))
        shared.append(before)
        caches.append(cache)
    head = axes.weight(head.astype(dtype), "vocab", "embed")
    step = _Step(model, layers, head, tuple(shared), cos, sin, num_own, options, grammar)
    return step, tuple(caches), x


def _decode(
    step: _Step,
    caches: tuple[Cache, ...],
    x: Float[Array, "d b"],
    is_used: jax.Array,
    table: ngram_drafts.Table | None,
) -> Decoded:
    """After the prefill: the first token from it, and the loop in pieces between which the caches grow."""
    options = step.options
    most, num_drafts = options.max_new_tokens, options.num_drafts
    nothing = jnp.zeros((len(is_used), 0), jnp.int32)
    loop = step.write(_Loop.of(caches, is_used, table, options, step.grammar), x, nothing)
    for stop in _stops(most - 1):
        length = step.num_own + stop + num_drafts
        loop = step.run(replace(loop, caches=tuple(cache.grown(length) for cache in loop.caches)), stop)
    is_written = jnp.arange(most) < loop.counts[:, None]
    tokens = jnp.where(is_written, loop.tokens[:, :most], options.end_id)
    lengths = jnp.sum(is_written & (tokens != options.end_id), axis=1)
    numbers = jnp.where(is_written, loop.numbers[:, :most], 0.0)
    return Decoded(tokens, numbers, lengths, loop.is_finite, loop.num_steps, loop.table)


def _is_accepted(
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
