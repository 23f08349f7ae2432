"""Answers for images: the decoder's programs on a mesh, and the text of what they write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from igllm_jax.data import pipeline
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.decode import Parts, make_decode, prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.decoding.grammar import Grammar, compile_grammar
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.sharding import MeshLayout, put
from igllm_jax.scene import code
from igllm_jax.scene.language import find_language

NO_TOKEN = -1  # of a vocabulary that needs no float token, where numbers are text


NUM_DRAFTS = 3  # tokens guessed a step: see BENCHMARKS.md


@dataclass(frozen=True)
class Answer:
    """text: what the model wrote, numbers filled in. is_finished: whether it ended by itself."""

    text: str
    is_finished: bool


def decode_layout(model: VLMConfig, layout: MeshLayout) -> MeshLayout:
    """Where to decode on the devices of `layout`: weights sharded over several, never gathered for a token."""
    heads = (model.decoder.num_heads, model.decoder.num_kv_heads, model.vision.num_heads)

    def fits(found: MeshLayout) -> bool:
        try:
            decode_shardings(model, found)
        except UserError:
            return False
        return not any(number % found.mesh.shape["tensor"] for number in heads)

    return layout.for_decoding(fits)


def decode_shardings(model: VLMConfig, layout: MeshLayout) -> dict[str, Any]:
    """Shardings of what `decode.prepare` makes."""
    parts = Parts.of(model)
    shapes, axes = parts.shapes(), parts.axes()
    layers = tuple(layout.params(*layer) for layer in zip(shapes["layers"], axes["layers"], strict=True))
    return {"rest": layout.params(shapes["rest"], axes["rest"]), "layers": layers}


def programs(model: VLMConfig, options: DecodeOptions, layout: MeshLayout) -> tuple[Any, Any]:
    """`decode.prepare` and `decode.make_decode`'s decoder, jitted for the devices of `layout` (from decode_layout)."""
    merge = jax.jit(partial(prepare, config=model), out_shardings=decode_shardings(model, layout))
    return merge, jax.jit(make_decode(model, options, layout), out_shardings=layout.replicated())


class AnswerGenerator:
    """Writes answers for batches of images; compiled once.

    layout: from decode_layout. Every process gives its own rows of a batch, and gets all answers. num_drafts: tokens
    guessed a step, from what was written so far. has_grammar: whether answers keep to the language, so that they always
    parse.

    Raises: UserError where the language or the tokenizer allows no grammar, or `max_new_tokens` no answer.
    """

    def __init__(
        self,
        model: VLMConfig,
        tokenizer: Tokenizer,
        options: pipeline.DataOptions,
        max_new_tokens: int,
        layout: MeshLayout,
        num_drafts: int = NUM_DRAFTS,
        has_grammar: bool = False,
    ):
        self.layout, self.data, self.num_drafts = layout, options, num_drafts
        self.table: ngram_drafts.Table | None = None
        self.guess_from(ngram_drafts.empty())
        before, after = pipeline.prompt_tokens(options, tokenizer)
        self.language = find_language(options.task)
        self.tokenizer, self.has_head = tokenizer, model.has_float_head
        self.options = DecodeOptions(
            before=tuple(before),
            after=tuple(after),
            max_new_tokens=max_new_tokens,
            end_id=tokenizer.eos_id,
            number_id=tokenizer.float_id if self.has_head else NO_TOKEN,
            vocab_size=tokenizer.vocab_size,
            forbidden=(*tokenizer.forbidden_sequences(), *tokenizer.float_token_in_bytes()),
            num_drafts=num_drafts,
        )
        self.grammar = self._compile_grammar(model) if has_grammar else None
        self.prepare, self.decode = programs(model, self.options, layout)

    def _compile_grammar(self, model: VLMConfig) -> Grammar:
        """The grammar of what the model was taught to write, on the layout's devices."""
        found = compile_grammar(
            self.language,
            self.tokenizer,
            rotation_rep=self.data.rotation_rep,
            numbers_as_tokens=self.has_head,
            shuffle_attributes=self.data.shuffle_attributes,
            vocab_size=model.decoder.vocab_size,
        )
        found.starts(1, self.options.max_new_tokens)
        return jax.tree.map(lambda x: put(x, self.layout.replicated()), found)

    def guess_from(self, table: ngram_drafts.Table) -> None:
        """What the next batch guesses from, where guesses are made at all."""
        if self.num_drafts:
            self.table = jax.tree.map(lambda x: put(np.asarray(x), self.layout.replicated()), table)

    def batch_size(self, wanted: int) -> int:
        """`wanted`, rounded up to what the layout can shard evenly."""
        ways = self.layout.mesh.shape["data"] * self.layout.mesh.shape["fsdp"]
        return -(-wanted // ways) * ways

    def __call__(
        self, prepared: dict[str, Any], images: np.ndarray, batch_size: int, names: Sequence[str]
    ) -> list[Answer]:
        """Answers of the first rows, as many as there are names, in order. prepared: what `prepare` made.

        images: uint8 [R, S, S, 3], those of the R rows of the global batch that `layout.rows(batch_size)` names.
        names: of the images, for errors. Raises: UserError naming the first image whose logits are not finite.
        """
        count = len(names)
        is_used = np.asarray(self.layout.rows(batch_size)) < count
        found = self.decode(prepared, *self.layout.shard((images, is_used), batch_size), self.table, self.grammar)
        self.table = found.table
        decoded = jax.device_get(replace(found, table=None))
        wrong = np.flatnonzero(~decoded.is_finite[:count])
        if wrong.size:
            raise UserError(
                f"image {names[wrong[0]]}: logits are not finite, so weights are damaged or too large for the dtype; "
                "try --dtype float32, or another --step"
            )
        return [self._answer(decoded.tokens[r], decoded.numbers[r], int(decoded.lengths[r])) for r in range(count)]

    def _answer(self, tokens: np.ndarray, numbers: np.ndarray, length: int) -> Answer:
        ids = tokens[:length]
        text = self.tokenizer.decode(ids.tolist())
        if self.has_head:
            values = numbers[:length][ids == self.options.number_id]
            text = code.fill(text, [float(value) for value in values], self.language, in_range=self.grammar is not None)
        return Answer(text, is_finished=length < self.options.max_new_tokens)
