"""One step of the decoding loop, and what it changes: tokens chosen, guesses accepted, numbers read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from igllm_jax.decoding import grammar as grammars
from igllm_jax.decoding import ngram_drafts, sampling
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.decoding.grammar import Grammar
from igllm_jax.models import axes
from igllm_jax.models.attention import soft_capped
from igllm_jax.models.llama import LayerKind, config_cos_sin
from igllm_jax.models.llama_decode import Cache, CosSin, DecodeLayer
from igllm_jax.models.vlm import VLM

# A grammar whose tokens are at most this share of the vocabulary gets a head of their own, which is copied whenever the
# program is called and then read at every step.
MOST_OF_VOCABULARY = 0.5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loop:
    """What a step changes. tokens, numbers, log_probabilities: [B, N + drafts + 1], of which the first `counts` are
    written."""

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
    log_probabilities: jax.Array | None
    keys: jax.Array | None  # uint32 [B, 2], see sampling.row_keys; None where tokens are not drawn

    @classmethod
    def of(
        cls, caches: tuple[Cache, ...], is_used: jax.Array, table: Any, options: DecodeOptions, grammar: Any, keys: Any
    ) -> "Loop":
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
            log_probabilities=jnp.zeros(shape, jnp.float32) if options.has_log_probabilities else None,
            keys=keys,
        )

    def known(self) -> ngram_drafts.Table:
        """The table, where drafts are made."""
        assert self.table is not None
        return self.table

    def goes_on(self, stop: int) -> jax.Array:
        """Whether rows are not done, and none of them has written more than `stop` tokens."""
        farthest = jnp.max(jnp.where(self.is_done, 0, self.counts))
        return (farthest > 0) & (farthest <= stop)

    def is_free(self, num_samples: int) -> jax.Array:
        """bool [B / K]: whether all answers of an image are done."""
        return jnp.all(self.is_done.reshape(-1, num_samples), axis=1)


@dataclass(frozen=True)
class Step:
    """What every step reads and none changes.

    head: [V, D], of the tokens `ids`, int32 [V]: all of the vocabulary, or those of the language. classes: [V], theirs
    in the grammar. shared: keys and values of what stands before the image, one cache a layer. ropes: a layer's
    kind -> cosine and sine of the positions from the last one of the prompt on. num_own: positions of the prompt in
    each row's own caches. is_aligned: whether rows that are not done are equally far where nothing is guessed.
    """

    model: VLM
    layers: tuple[DecodeLayer, ...]
    head: jax.Array
    ids: jax.Array
    classes: jax.Array | None
    shared: tuple[Cache, ...]
    ropes: Mapping[LayerKind, CosSin]
    num_own: int
    options: DecodeOptions
    grammar: Grammar | None
    is_aligned: bool = True

    @classmethod
    def of(
        cls,
        model: VLM,
        layers: tuple[DecodeLayer, ...],
        head: jax.Array,
        options: DecodeOptions,
        grammar: Grammar | None,
        shared: tuple[Cache, ...] | None = None,
    ) -> "Step":
        """shared: as an earlier one computed them, for rows that come and go (default: computed now)."""
        decoder, is_aligned = model.decoder, shared is None
        shared = shared_caches(model, layers, options) if shared is None else shared
        num_shared, num_own = len(options.before), model.config.vision.num_patches + len(options.after)
        positions = num_shared + num_own - 1 + jnp.arange(options.max_new_tokens + options.num_drafts)
        ropes = {kind: config_cos_sin(positions, decoder.config, kind) for kind in {layer.kind for layer in layers}}
        head = axes.weight(head.astype(jnp.dtype(model.config.dtype)), "vocab", "embed")
        ids = jnp.arange(len(head), dtype=jnp.int32)
        if grammar is not None and len(grammar.tokens) <= MOST_OF_VOCABULARY * len(head):
            ids = jnp.asarray(grammar.tokens)
            head = axes.weight(head[ids], None, "embed")
        classes = None if grammar is None else jnp.asarray(grammar.classes)[ids]
        return cls(model, layers, head, ids, classes, shared, ropes, num_own, options, grammar, is_aligned)

    def write(
        self,
        loop: Loop,
        x: Float[Array, "d _"],
        guesses: Int[Array, "b n"],
        states: Int[Array, "b t w"] | None = None,
    ) -> Loop:
        """Chooses the token after each column of x, and accepts drafts up to the first mismatch.

        states: of the grammar, where there is one, before the token after each column; by default there are no guesses.
        """
        options, batch = self.options, len(guesses)
        state = self.model.decoder.final_norm(x, axis=0)
        logits = jnp.einsum("vd,db->vb", self.head, state, preferred_element_type=jnp.float32)
        logits = soft_capped(logits, self.model.decoder.config.logit_softcap)
        width, memory = guesses.shape[1] + 1, loop.recent.shape[1]
        window = jnp.concatenate([loop.recent, guesses], axis=1)
        recent = jnp.stack([window[:, i : i + memory] for i in range(width)], axis=1).reshape(-1, memory)
        states = loop.states[:, None] if states is None and loop.states is not None else states
        is_allowed = self._is_allowed(recent, states)
        token, log_probability = self._choose(jnp.where(is_allowed, logits, -jnp.inf), loop, width)
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
        is_end = jnp.any(is_accepted & options.is_end(token), axis=1)
        return replace(
            loop,
            counts=counts,
            tokens=_put(loop.tokens, token, loop.counts),
            numbers=_put(loop.numbers, number, loop.counts),
            log_probabilities=loop.log_probabilities
            if loop.log_probabilities is None or log_probability is None
            else _put(loop.log_probabilities, log_probability.reshape(batch, width), loop.counts),
            recent=jnp.take_along_axis(jnp.concatenate([loop.recent, token], axis=1), newest, axis=1),
            is_finite=loop.is_finite & (jnp.all(is_finite | ~is_accepted, axis=1) | loop.is_done),
            is_done=loop.is_done | is_end | (counts >= options.max_new_tokens),
            table=loop.table and ngram_drafts.learn(loop.table, recent, token.ravel(), is_accepted.ravel()),
            states=states,
        )

    def _is_allowed(self, recent: Int[Array, "bt m"], states: Int[Array, "b t w"] | None) -> Bool[Array, "v bt"]:
        """Which of `ids` may come next, after the last tokens of each column and in its state of the grammar."""
        allowed = _is_legal(recent, self.ids, self.options)
        if self.grammar is None or self.classes is None or states is None:
            return allowed
        # Barriers keep apart what would be computed anew for each token of a class, and for each use of the mask.
        legal = jax.lax.optimization_barrier(grammars.class_mask(self.grammar, states.reshape(-1, states.shape[-1])).T)
        return allowed & jax.lax.optimization_barrier(jnp.take(legal, self.classes, axis=0, mode="clip"))

    def _choose(
        self, logits: Float[Array, "v bt"], loop: Loop, width: int
    ) -> tuple[Int[Array, "bt"], Float[Array, "bt"] | None]:
        """The token of each column, and its log-probability where those are kept. logits: of what is allowed, the rest
        -inf. width: T, columns of a row."""
        scores = logits
        if loop.keys is not None:
            positions = loop.counts[:, None] + jnp.arange(width)
            scores = sampling.draw(logits, loop.keys, positions, self.options.sampling)
        row = _likeliest(scores)
        token = self.ids[row]
        if not self.options.has_log_probabilities:
            return token, None
        chosen = jnp.take_along_axis(logits, row[None], axis=0)[0]
        return token, chosen - jax.nn.logsumexp(logits, axis=0)

    def advance(
        self,
        loop: Loop,
        counts: Int[Array, "*b"],
        guesses: Int[Array, "b n"],
        states: Int[Array, "b t w"] | None = None,
    ) -> Loop:
        """Reads the last token and guesses of the next, writes what comes after them. counts: tokens written so far.
        states: as `write` takes them."""
        decoder = self.model.decoder
        read = jnp.concatenate([loop.recent[:, -1:], jnp.maximum(guesses, 0)], axis=1)
        x = decoder.embed(read, jnp.dtype(self.model.config.dtype)).reshape(read.size, -1).T
        now = counts[..., None] + jnp.arange(guesses.shape[1] + 1)
        ropes, caches = {kind: (cos[now], sin[now]) for kind, (cos, sin) in self.ropes.items()}, []
        for layer, before, cache in zip(self.layers, self.shared, loop.caches, strict=True):
            x, cache = layer.step(x, ropes[layer.kind], before, cache, self.num_own - 1 + counts)
            caches.append(cache)
        return self.write(replace(loop, num_steps=loop.num_steps + 1, caches=tuple(caches)), x, guesses, states)

    def plain(self, loop: Loop) -> Loop:
        """One token more of every row."""
        counts = loop.num_steps + 1 if self.is_aligned else loop.counts
        return self.advance(loop, counts, jnp.zeros((len(loop.counts), 0), jnp.int32))

    def guess(self, loop: Loop, num_checked: int) -> Loop:
        """The same, and as many guesses as are right; the table learns how often the first one is."""
        guesses, states = self.drafts(loop, max(num_checked, 1))
        before = None if states is None else states[:, : num_checked + 1]
        after = self.advance(loop, loop.counts, guesses[:, :num_checked], before)
        first = jnp.take_along_axis(after.tokens, loop.counts[:, None], axis=1)[:, 0]
        return replace(after, table=ngram_drafts.judge(after.known(), guesses[:, 0], first, ~loop.is_done))

    def drafts(self, loop: Loop, count: int) -> tuple[Int[Array, "b count"], Int[Array, "b _ w"] | None]:
        """Guesses of the next tokens: what has to follow in the language, or what the table says, if it may follow; and
        the grammar's states before each of them and after the last."""
        if self.grammar is None:
            return ngram_drafts.guess(loop.known(), loop.recent, count), None
        assert loop.states is not None
        recent, state, found, states = loop.recent, loop.states, [], [loop.states]
        for _ in range(count):
            token, only = ngram_drafts.guess(loop.known(), recent, 1)[:, 0], grammars.forced(self.grammar, state)
            token = jnp.where(only >= 0, only, token)
            state = grammars.advance(self.grammar, state, jnp.maximum(token, 0))
            states.append(state)
            found.append(jnp.where(grammars.is_dead(state), ngram_drafts.UNKNOWN, token))
            recent = jnp.concatenate([recent[:, 1:], found[-1][:, None]], axis=1)
        return jnp.stack(found, axis=1), jnp.stack(states, axis=1)

    def run(self, loop: Loop, is_on: Callable[[Loop], jax.Array]) -> Loop:
        """Steps while `is_on`. With guesses two loops take turns: one checks them while enough are accepted, one only
        watches while they are not."""
        num_drafts = self.options.num_drafts
        if not num_drafts:
            return jax.lax.while_loop(is_on, self.plain, loop)

        def both(loop: Loop) -> Loop:
            checks, watches = partial(self.guess, num_checked=num_drafts), partial(self.guess, num_checked=0)
            loop = jax.lax.while_loop(lambda loop: is_on(loop) & loop.known().is_accepting, checks, loop)
            return jax.lax.while_loop(lambda loop: is_on(loop) & ~loop.known().is_accepting, watches, loop)

        return jax.lax.while_loop(is_on, both, loop)


def shared_caches(model: VLM, layers: tuple[DecodeLayer, ...], options: DecodeOptions) -> tuple[Cache, ...]:
    """Keys and values of what stands before the image, one cache a layer."""
    x, caches = model.decoder.embed(jnp.array([options.before], jnp.int32), jnp.dtype(model.config.dtype)), []
    for layer in layers:
        x, cache = layer.prefill(x, len(options.before))
        caches.append(cache)
    return tuple(caches)


def _is_accepted(
    loop: Loop, token: Int[Array, "b t"], guesses: Int[Array, "b n"], options: DecodeOptions
) -> Bool[Array, "b t"]:
    """True for the tokens of a step that are written: all guesses before them are right, no end token stands before
    them, and the answer is not full."""
    is_right = jnp.pad(guesses == token[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    is_end = options.is_end(token)
    is_before_end = jnp.cumsum(is_end, axis=1) - is_end == 0
    has_room = loop.counts[:, None] + jnp.arange(token.shape[1]) < options.max_new_tokens
    return (jnp.cumprod(is_right, axis=1) > 0) & is_before_end & has_room & ~loop.is_done[:, None]


def _put(rows: Array, new: Array, starts: Int[Array, "b"]) -> Array:
    """Every row of `new` into its row of `rows`, from its start on."""
    return jax.vmap(lambda row, part, start: jax.lax.dynamic_update_slice(row, part, (start,)))(rows, new, starts)


def _is_legal(recent: Int[Array, "b m"], ids: Int[Array, "v"], options: DecodeOptions) -> Bool[Array, "v b"]:
    """False for ids outside the tokenizer's vocabulary and for ids that would complete a forbidden sequence."""
    ids = ids[:, None]
    allowed = jnp.broadcast_to(ids < options.vocab_size, (len(ids), recent.shape[0]))
    for *before, last in options.forbidden:
        matches = jnp.ones(recent.shape[0], bool)
        if before:
            matches = jnp.all(recent[:, -len(before) :] == jnp.array(before, jnp.int32), axis=1)
        allowed &= ids != jnp.where(matches, last, -1)
    return allowed


def _likeliest(logits: Float[Array, "v b"]) -> Int[Array, "b"]:
    """The first row of the largest logit, int32: argmax in two plain reductions, which a CPU vectorises."""
    rows = jnp.arange(len(logits), dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(logits == jnp.max(logits, axis=0), rows, len(logits) - 1), axis=0)
