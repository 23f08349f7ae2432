"""Greedy decoding: one prefill, one compiled loop, numbers read from the hidden state that chose their token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from igllm_jax.models import axes, lora
from igllm_jax.models.llama import Cache, Layer
from igllm_jax.models.params import Skeleton
from igllm_jax.models.vlm import VLM, VLMConfig, skeleton

NO_LORA = lora.LoRAConfig(rank=0, alpha=1.0, dropout=0.0, dropout_kind="hash")
STACK = "decoder/layers/"


@dataclass(frozen=True)
class DecodeOptions:
    """before, after: token ids of the prompt before and after the image. forbidden: id sequences never written.

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
    that scans over a stack copies every layer's weights and cache at every token."""

    config: VLMConfig
    rest: Skeleton
    layer: Skeleton

    @classmethod
    def of(cls, config: VLMConfig) -> "Parts":
        rest = replace(config, decoder=replace(config.decoder, num_layers=0), lora=NO_LORA)
        return cls(config, skeleton(rest), Skeleton.of(lambda rngs: Layer(config.decoder, NO_LORA, rngs, layers=None)))

    def shapes(self) -> dict[str, Any]:
        """Shapes of the tree that `prepare` makes."""
        layers = tuple(dict(self.layer.shapes) for _ in range(self.config.decoder.num_layers))
        return {"rest": self.rest.shapes, "layers": layers}

    def axes(self) -> dict[str, Any]:
        """Axis names of the same tree."""
        return {"rest": self.rest.axes, "layers": (self.layer.axes,) * self.config.decoder.num_layers}


def prepare(params: Mapping[str, Any], config: VLMConfig, dtype: jnp.dtype | None = None) -> dict[str, Any]:
    """LoRA merged and layers unstacked: {"rest": path -> array, "layers": (path -> array, ...)}.

    dtype: of the weights while decoding (default: the config's), the float head apart, which stays in float32.
    """
    dtype = jnp.dtype(config.dtype if dtype is None else dtype)
    merged = lora.merge(dict(params), config.lora) if config.lora.rank else dict(params)

    def cast(path: str, value: jax.Array) -> jax.Array:
        return value.astype(jnp.float32 if path.startswith("float_head/") else dtype)

    stack = {path.removeprefix(STACK): value for path, value in merged.items() if path.startswith(STACK)}
    layers = tuple(
        {path: cast(path, value[layer]) for path, value in stack.items()} for layer in range(config.decoder.num_layers)
    )
    return {"rest": {p: cast(p, v) for p, v in merged.items() if not p.startswith(STACK)}, "layers": layers}


def make_decode(
    config: VLMConfig, options: DecodeOptions, placer: axes.Placer | None = None
) -> Callable[[dict[str, Any], jax.Array, jax.Array], Decoded]:
    """The decoder, to be jitted once: (what `prepare` made, images [B, S, S, 3], is_used [B]) -> Decoded.

    Every row has the same prompt, so no row is padded and a batch decodes exactly as its rows would one by one.
    is_used: False for rows that only fill the batch; they are done at once.
    """
    parts = Parts.of(config)

    def decode(params: dict[str, Any], images: UInt8[Array, "b s s 3"], is_used: Bool[Array, "b"]) -> Decoded:
        with axes.placing(placer):
            model: VLM = parts.rest.build(params["rest"])
            layers = [parts.layer.build(layer) for layer in params["layers"]]
            return _decode(model, layers, images, is_used, options)

    return decode


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Loop:
    count: jax.Array  # tokens written so far
    state: jax.Array  # [B, D], predicts the next token
    caches: tuple[Cache, ...]
    tokens: jax.Array
    numbers: jax.Array
    recent: jax.Array  # [B, M] the last tokens written, newest last
    is_done: jax.Array


def _decode(model: VLM, layers: list[Any], images: jax.Array, is_used: jax.Array, options: DecodeOptions) -> Decoded:
    batch, dtype = images.shape[0], jnp.dtype(model.config.dtype)
    prompt = jnp.array([*options.before, *options.after], jnp.int32)
    x = model.embed(images, jnp.broadcast_to(prompt, (batch, len(prompt))), len(options.before))
    start = x.shape[1]
    caches = []
    for layer in layers:
        x, cache = layer.prefill(x, start + options.max_new_tokens)
        caches.append(cache)
    norm = model.decoder.final_norm
    head = model.decoder.head_kernel().astype(dtype)

    def write(loop: _Loop) -> _Loop:
        logits = jnp.einsum("bd,dv->bv", loop.state, head, preferred_element_type=jnp.float32)
        token = jnp.argmax(jnp.where(_is_allowed(loop.recent, logits.shape[1], options), logits, -jnp.inf), axis=-1)
        token = jnp.where(loop.is_done, options.end_id, token).astype(jnp.int32)
        number = jnp.where(token == options.number_id, model.numbers(loop.state), 0.0)
        tokens = jax.lax.dynamic_update_slice(loop.tokens, token[:, None], (0, loop.count))
        numbers = jax.lax.dynamic_update_slice(loop.numbers, number[:, None], (0, loop.count))
        recent = jnp.concatenate([loop.recent[:, 1:], token[:, None]], axis=1)
        is_done = loop.is_done | (token == options.end_id)
        return replace(loop, tokens=tokens, numbers=numbers, recent=recent, is_done=is_done)

    def body(loop: _Loop) -> _Loop:
        loop = write(loop)
        x = model.decoder.embed(loop.recent[:, -1:], dtype)
        caches = []
        for layer, cache in zip(layers, loop.caches, strict=True):
            x, cache = layer.step(x, cache, start + loop.count)
            caches.append(cache)
        return replace(loop, state=norm(x[:, 0]), caches=tuple(caches), count=loop.count + 1)

    def goes_on(loop: _Loop) -> jax.Array:
        return (loop.count < options.max_new_tokens) & ~jnp.all(loop.is_done)

    memory = max((len(sequence) - 1 for sequence in options.forbidden), default=0)
    shape = (batch, options.max_new_tokens)
    loop = _Loop(
        count=jnp.zeros((), jnp.int32),
        state=norm(x[:, -1]),
        caches=tuple(caches),
        tokens=jnp.full(shape, options.end_id, jnp.int32),
        numbers=jnp.zeros(shape, jnp.float32),
        recent=jnp.full((batch, max(memory, 1)), -1, jnp.int32),
        is_done=~is_used,
    )
    loop = jax.lax.while_loop(goes_on, body, loop)
    lengths = jnp.sum(jnp.cumsum(loop.tokens == options.end_id, axis=1) == 0, axis=1)
    return Decoded(loop.tokens, loop.numbers, lengths)


def _is_allowed(recent: Int[Array, "b m"], vocab_size: int, options: DecodeOptions) -> Bool[Array, "b v"]:
    """False for ids outside the tokenizer's vocabulary and for ids that would complete a forbidden sequence."""
    ids = jnp.arange(vocab_size)
    allowed = jnp.broadcast_to(ids < options.vocab_size, (recent.shape[0], vocab_size))
    for *before, last in options.forbidden:
        matches = jnp.ones(recent.shape[0], bool)
        if before:
            matches = jnp.all(recent[:, -len(before) :] == jnp.array(before, jnp.int32), axis=1)
        allowed &= ~(matches[:, None] & (ids == last))
    return allowed
