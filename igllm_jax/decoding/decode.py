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
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from igllm_jax.decoding import ngram_drafts, sampling
from igllm_jax.decoding.decode_options import Decoded, DecodeOptions
from igllm_jax.decoding.decode_step import Loop, Step
from igllm_jax.decoding.grammar import Grammar
from igllm_jax.models import axes, lora, number_row
from igllm_jax.models.llama_decode import Cache, DecodeLayer
from igllm_jax.models.params import Skeleton
from igllm_jax.models.vlm import VLM, VLMConfig, skeleton

STACK = "decoder/layers/"
EMBEDDING, HEAD = "decoder/embedding", "decoder/head/kernel"
MOST_PIECES, LEAST_PIECE = 4, 32  # of the loop, in tokens


@dataclass(frozen=True)
class Parts:
    """The model split for decoding: everything but the layers, and each layer. Layers stand apart, not stacked: a loop
    that scans over a stack copies every layer's weights and cache at every token. The vocabulary head is laid out like
    the layers' kernels (see llama_decode) and like the embedding, [V, D]."""

    config: VLMConfig
    rest: Skeleton
    layers: tuple[Skeleton, ...]

    @classmethod
    def of(cls, config: VLMConfig) -> "Parts":
        decoder = replace(config.decoder, num_layers=0, tie_embeddings=True, number_row=-1)
        rest = replace(config, decoder=decoder, lora=lora.NO_LORA)
        kinds = [config.decoder.kind(layer) for layer in range(config.decoder.num_layers)]
        made = {kind: Skeleton.of(partial(DecodeLayer, config.decoder, kind=kind)) for kind in set(kinds)}
        return cls(config, skeleton(rest), tuple(made[kind] for kind in kinds))

    def shapes(self) -> dict[str, Any]:
        """Shapes of the tree that `prepare` makes."""
        layers = tuple(dict(layer.shapes) for layer in self.layers)
        return {"rest": self.rest.shapes | self._head(self.rest.shapes), "layers": layers}

    def axes(self) -> dict[str, Any]:
        """Axis names of the same tree."""
        layers = tuple(layer.axes for layer in self.layers)
        return {"rest": self.rest.axes | self._head(self.rest.axes), "layers": layers}

    def build(self, params: Mapping[str, Any]) -> tuple[VLM, tuple[DecodeLayer, ...], jax.Array]:
        """Of what `prepare` made: the model but its layers, the layers, and the vocabulary head [V, D]."""
        rest = dict(params["rest"])
        head = rest.pop(HEAD, rest[EMBEDDING])
        layers = tuple(layer.build(own) for layer, own in zip(self.layers, params["layers"], strict=True))
        return self.rest.build(rest), layers, head

    def _head(self, like: Mapping[str, Any]) -> dict[str, Any]:
        return {} if self.config.decoder.tie_embeddings else {HEAD: like[EMBEDDING]}


def prepare(params: Mapping[str, Any], config: VLMConfig, dtype: jnp.dtype | None = None) -> dict[str, Any]:
    """LoRA and an added token's rows merged, layers unstacked, the decoder's kernels transposed.

    dtype: of the weights while decoding (default: the config's), the float head apart, which stays in float32.
    Returns: {"rest": path -> array, "layers": (path -> array, ...)}.
    """
    dtype = jnp.dtype(config.dtype if dtype is None else dtype)
    merged = lora.merge(dict(params), config.lora) if config.lora.rank else dict(params)
    merged = number_row.merged(merged, config.decoder.number_row)

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
    """The decoder, to be jitted once: (what `prepare` made, images, is_used, table, grammar, ids) -> Decoded.

    Every row has the same prompt, so no row is padded, a batch decodes exactly as its rows would one by one, and what
    stands before the image is computed and kept once for all of them.
    is_used: False for rows that only fill the batch; they are done at once. table: to guess from (default: an empty
    one), of use with options.num_drafts alone. grammar: what answers keep to (default: anything), for the decoder's
    vocabulary; max_new_tokens has to leave room for its shortest answer. ids: what stands for the images where tokens
    are drawn, see `sampling.image_ids`.
    """
    parts = Parts.of(config)

    def decode(
        params: dict[str, Any],
        images: UInt8[Array, "b s s 3"],
        is_used: Bool[Array, "b"],
        table: ngram_drafts.Table | None = None,
        grammar: Grammar | None = None,
        ids: UInt32[Array, "b"] | None = None,
    ) -> Decoded:
        with axes.sharding_rules(rules):
            step = Step.of(*parts.build(params), options, grammar)
            known = None
            if options.num_drafts:
                known = jax.tree.map(jnp.asarray, ngram_drafts.empty() if table is None else table)
            caches, x = prefill(step, images, stops(options.max_new_tokens - 1)[0] + options.num_drafts)
            caches, x, is_used = tiled(caches, x, is_used, options.num_samples)
            return _decode(step, caches, x, is_used, known, first_keys(ids, options))

    return decode


def prefill(step: Step, images: UInt8[Array, "b s s 3"], free: int) -> tuple[tuple[Cache, ...], Float[Array, "d b"]]:
    """The prompt from the image on: each layer's cache, with room for `free` tokens, and the last layer's output at the
    last position."""
    model, layers, after = step.model, step.layers, jnp.array(step.options.after, jnp.int32)
    x = model.embed(images, jnp.tile(after, (images.shape[0], 1)), image_offset=0)
    length, caches = step.num_own + free, []
    for number, (layer, before) in enumerate(zip(layers, step.shared, strict=True), 1):
        if number < len(layers):
            x, cache = layer.prefill(x, length, before)
        else:
            cos, sin = step.ropes[layer.kind]
            x, cache = layer.prefill_last(x, length, before, (cos[:1], sin[:1]))
        caches.append(cache)
    return tuple(caches), x


def _decode(
    step: Step,
    caches: tuple[Cache, ...],
    x: Float[Array, "d b"],
    is_used: jax.Array,
    table: ngram_drafts.Table | None,
    keys: jax.Array | None,
) -> Decoded:
    """After the prefill: the first token from it, and the loop in pieces between which the caches grow."""
    options = step.options
    num_drafts = options.num_drafts
    nothing = jnp.zeros((len(is_used), 0), jnp.int32)
    loop = step.write(Loop.of(caches, is_used, table, options, step.grammar, keys), x, nothing)
    for stop in stops(options.max_new_tokens - 1):
        length = step.num_own + stop + num_drafts
        loop = replace(loop, caches=tuple(cache.grown(length) for cache in loop.caches))
        loop = step.run(loop, partial(Loop.goes_on, stop=stop))
    return decoded(loop, options)


def decoded(loop: Loop, options: DecodeOptions) -> Decoded:
    """What the loop's rows have written so far, of a row that is done its answer."""
    most = options.max_new_tokens
    is_written = jnp.arange(most) < loop.counts[:, None]
    tokens = jnp.where(is_written, loop.tokens[:, :most], options.end_id)
    lengths = jnp.sum(is_written & options.goes_on(tokens), axis=1)
    numbers, log_probabilities = (
        None if found is None else jnp.where(is_written, found[:, :most], 0.0)
        for found in (loop.numbers, loop.log_probabilities)
    )
    assert numbers is not None
    return Decoded(tokens, numbers, lengths, loop.is_finite, loop.num_steps, loop.table, log_probabilities)


def first_keys(ids: UInt32[Array, "b"] | None, options: DecodeOptions) -> UInt32[Array, "bk 2"] | None:
    """The keys of each row, None where tokens are not drawn."""
    if options.sampling.is_greedy:
        return None
    if ids is None:
        raise ValueError("tokens are drawn, so images need ids")
    return sampling.row_keys(ids, options.num_samples, options.sampling.seed)


def tiled(
    caches: tuple[Cache, ...], x: Float[Array, "d b"], is_used: Bool[Array, "b"], num_samples: int
) -> tuple[tuple[Cache, ...], Float[Array, "d bk"], Bool[Array, "bk"]]:
    """What the prefill left of each image, once for each of its answers, side by side."""
    if num_samples == 1:
        return caches, x, is_used
    repeated = jax.tree.map(lambda z: jnp.repeat(z, num_samples, axis=0), caches)
    return repeated, jnp.repeat(x, num_samples, axis=1), jnp.repeat(is_used, num_samples)


def stops(steps: int) -> list[int]:
    """Where the loop ends for its caches to grow: no step reads positions far beyond the longest answer so far, and
    what an early end leaves over is never read. Every piece compiles its own loop, so they are few."""
    size = max(LEAST_PIECE, -(-steps // MOST_PIECES))
    return list(accumulate(min(size, steps - start) for start in range(0, steps, size))) or [0]
