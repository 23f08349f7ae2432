"""Greedy decoding: one prefill, one compiled loop, numbers read from the hidden state that chose their token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from igllm_jax.models import axes, lora
from igllm_jax.models.llama import rotations
from igllm_jax.models.llama_decode import Cache, DecodeLayer
from igllm_jax.models.params import Skeleton
from igllm_jax.models.vlm import VLM, VLMConfig, skeleton

NO_LORA = lora.LoRAConfig(rank=0, alpha=1.0, dropout=0.0, dropout_kind="hash")
STACK = "decoder/layers/"
EMBEDDING, HEAD = "decoder/embedding", "decoder/head/kernel"
MOST_PIECES, LEAST_PIECE = 4, 32  # of the loop, in steps


@dataclass(frozen=True)
class DecodeOptions:
    """before, after: token ids of the prompt before (at least the start token) and after the image. forbidden: id
    sequences never written.

    vocab_size: of the tokenizer; ids from there on (a padded vocabulary) are never written.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    max_new_tokens: int
    end_id: int
    number_id: int
    vocab_size: int
    forbidden: tuple[tuple[int, ...], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Decoded:
    """tokens: int32 [B, N], the end token and what follows it filled with the end token. numbers: float32 [B, N],
    the float head's reading where the token is the float token, 0 elsewhere. lengths: int32 [B], tokens before the end
    (N where the end never came)."""

    tokens: jax.Array
    numbers: jax.Array
    lengths: jax.Array


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
        rest = replace(config, decoder=replace(config.decoder, num_layers=0, tie_embeddings=True), lora=NO_LORA)
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
    config: VLMConfig, options: DecodeOptions, placer: axes.Placer | None = None
) -> Callable[[dict[str, Any], jax.Array, jax.Array], Decoded]:
    """The decoder, to be jitted once: (what `prepare` made, images [B, S, S, 3], is_used [B]) -> Decoded.

    Every row has the same prompt, so no row is padded, a batch decodes exactly as its rows would one by one, and what
    stands before the image is computed and kept once for all of them.
    is_used: False for rows that only fill the batch; they are done at once.
    """
    parts = Parts.of(config)

    def decode(params: dict[str, Any], images: UInt8[Array, "b s s 3"], is_used: Bool[Array, "b"]) -> Decoded:
        with axes.placing(placer):
            rest = dict(params["rest"])
            head = rest.pop(HEAD, rest[EMBEDDING])
            layers = [parts.layer.build(layer) for layer in params["layers"]]
            return _decode(parts.rest.build(rest), layers, head, images, is_used, options)

    return decode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Loop:
    count: jax.Array  # tokens written so far
    caches: tuple[Cache, ...]
    tokens: jax.Array
    numbers: jax.Array
    recent: jax.Array  # [B, M] the last tokens written, newest last
    is_done: jax.Array


def _decode(
    model: VLM,
    layers: list[DecodeLayer],
    head: jax.Array,
    images: jax.Array,
    is_used: jax.Array,
    options: DecodeOptions,
) -> Decoded:
    batch, dtype = images.shape[0], jnp.dtype(model.config.dtype)
    decoder = model.decoder
    shared_x = decoder.embed(jnp.array([options.before], jnp.int32), dtype)
    x = model.embed(images, jnp.tile(jnp.array(options.after, jnp.int32), (batch, 1)), image_offset=0)
    num_shared, num_own = shared_x.shape[1], x.shape[1]
    start = num_shared + num_own
    pieces = _pieces(options.max_new_tokens - 1)
    positions = start - 1 + jnp.arange(options.max_new_tokens)
    cos, sin = rotations(positions, decoder.config.head_width, decoder.config.rope_theta)
    past: list[list[Cache]] = []
    caches = []
    for number, layer in enumerate(layers, 1):
        shared_x, shared = layer.prefill(shared_x, num_shared)
        if number < len(layers):
            x, cache = layer.prefill(x, num_own + pieces[0], shared)
        else:
            x, cache = layer.prefill_last(x, num_own + pieces[0], shared, (cos[0], sin[0]))
        past.append([shared])
        caches.append(cache)
    head = axes.weight(head.astype(dtype), "vocab", "embed")

    def write(loop: _Loop, x: Float[Array, "d b"]) -> _Loop:
        state = decoder.final_norm(x, axis=0)
        logits = jnp.einsum("vd,db->vb", head, state, preferred_element_type=jnp.float32)
        token = _likeliest(jnp.where(_is_allowed(loop.recent, logits.shape[0], options), logits, -jnp.inf))
        token = jnp.where(loop.is_done, options.end_id, token)
        number = jnp.where(token == options.number_id, model.numbers(state.T), 0.0)
        return replace(
            loop,
            count=loop.count + 1,
            tokens=jax.lax.dynamic_update_slice(loop.tokens, token[:, None], (0, loop.count)),
            numbers=jax.lax.dynamic_update_slice(loop.numbers, number[:, None], (0, loop.count)),
            recent=jnp.concatenate([loop.recent[:, 1:], token[:, None]], axis=1),
            is_done=loop.is_done | (token == options.end_id),
        )

    def step(loop: _Loop, past: list[list[Cache]], first: int) -> _Loop:
        """Reads the last token, writes the next. first: where loop.caches begin, counted from the prompt's end."""
        x = decoder.embed(loop.recent[:, -1:], dtype)[:, 0].T
        rotation = cos[loop.count], sin[loop.count]
        caches = []
        for layer, own, cache in zip(layers, past, loop.caches, strict=True):
            x, cache = layer.step(x, rotation, own, cache, loop.count - 1 - first)
            caches.append(cache)
        return write(replace(loop, caches=tuple(caches)), x)

    def goes_on(loop: _Loop, stop: int) -> jax.Array:
        return (loop.count <= stop) & ~jnp.all(loop.is_done)

    memory = max((len(sequence) - 1 for sequence in options.forbidden), default=0)
    shape = (batch, options.max_new_tokens)
    loop = _Loop(
        count=jnp.zeros((), jnp.int32),
        caches=tuple(caches),
        tokens=jnp.full(shape, options.end_id, jnp.int32),
        numbers=jnp.zeros(shape, jnp.float32),
        recent=jnp.full((batch, max(memory, 1)), -1, jnp.int32),
        is_done=~is_used,
    )
    loop = write(loop, x)
    first, stop = -num_own, 0
    for piece, length in enumerate(pieces):
        if piece > 0:
            past = [[*own, cache] for own, cache in zip(past, loop.caches, strict=True)]
            loop = replace(loop, caches=tuple(Cache.empty(cache, length) for cache in loop.caches))
            first = stop
        stop += length
        loop = jax.lax.while_loop(partial(goes_on, stop=stop), partial(step, past=past, first=first), loop)
    lengths = jnp.sum(jnp.cumsum(loop.tokens == options.end_id, axis=1) == 0, axis=1)
    return Decoded(loop.tokens, loop.numbers, lengths)


def _pieces(steps: int) -> list[int]:
    """Cuts the loop: every piece has its own caches, so that no step reads positions beyond the end of its piece, and
    what an early end leaves over is never read. Every piece compiles its own loop, so they are few."""
    size = max(LEAST_PIECE, -(-steps // MOST_PIECES))
    return [min(size, steps - start) for start in range(0, steps, size)] or [0]


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
