"""Answers for images: the decoder's programs on a mesh, and the text of what they write."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from igllm_jax.data import pipeline
from igllm_jax.data.rows import end_ids
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.answer import Answer, json_call, shortest
from igllm_jax.decoding.decode import Parts, make_decode, prepare
from igllm_jax.decoding.decode_options import Decoded, DecodeOptions
from igllm_jax.decoding.grammar import Grammar, compile_grammar
from igllm_jax.decoding.refill import RefillPrograms
from igllm_jax.decoding.sampling import GREEDY, SamplingOptions, image_ids
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.sharding import MeshLayout, put
from igllm_jax.scene import code
from igllm_jax.scene.language import find_language

NO_TOKEN = -1  # of a vocabulary that needs no float token, where numbers are text


# Tokens guessed a step. An accelerator waits for weights, so that more cost it little; see docs/decisions.md.
NUM_DRAFTS, NUM_DRAFTS_CPU = 7, 3


def default_drafts(layout: MeshLayout) -> int:
    """Tokens guessed a step on these devices."""
    return NUM_DRAFTS_CPU if layout.mesh.devices.flat[0].platform == "cpu" else NUM_DRAFTS


def decode_layout(model: VLMConfig, layout: MeshLayout) -> MeshLayout:
    """Where to decode on the devices of `layout`: weights sharded over several, never gathered for a token."""
    heads = [model.decoder.num_heads, model.decoder.num_kv_heads]
    heads += [tower.num_heads for tower in model.towers.values()]

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
    guessed a step, from what was written so far (None: as many as suit the devices). has_grammar: whether answers keep
    to the language, so that they always parse. has_details: whether answers bring more than their text, see Answer.
    sampling: how tokens are chosen. num_samples: answers of each image, the prompt and the image computed once.

    Raises: UserError where the language or the tokenizer allows no grammar, or `max_new_tokens` no answer.
    """

    def __init__(
        self,
        model: VLMConfig,
        tokenizer: Tokenizer,
        options: pipeline.DataOptions,
        max_new_tokens: int,
        layout: MeshLayout,
        num_drafts: int | None = None,
        has_grammar: bool = False,
        *,
        has_details: bool = False,
        sampling: SamplingOptions = GREEDY,
        num_samples: int = 1,
    ):
        self.model, self.layout, self.data = model, layout, options
        self.num_drafts = default_drafts(layout) if num_drafts is None else num_drafts
        self.table: ngram_drafts.Table | None = None
        self.guess_from(ngram_drafts.empty())
        before, after = pipeline.prompt_tokens(options, tokenizer)
        end_id, *other_ends = end_ids(options, tokenizer)
        self.language = find_language(options.task)
        self.tokenizer, self.has_head = tokenizer, model.has_float_head
        self.options = DecodeOptions(
            before=tuple(before),
            after=tuple(after),
            max_new_tokens=max_new_tokens,
            end_id=end_id,
            number_id=tokenizer.float_id if self.has_head else NO_TOKEN,
            vocab_size=tokenizer.vocab_size,
            forbidden=(*tokenizer.forbidden_sequences(), *tokenizer.float_token_in_bytes()),
            num_drafts=self.num_drafts,
            has_log_probabilities=has_details,
            sampling=sampling,
            num_samples=num_samples,
            other_ends=tuple(other_ends),
        )
        self.grammar = self._compile_grammar(model) if has_grammar else None
        self.prepare, self.decode = programs(model, self.options, layout)

    def _compile_grammar(self, model: VLMConfig) -> Grammar:
        """The grammar of what the model was taught to write, on the layout's devices."""
        try:
            found = compile_grammar(
                self.language,
                self.tokenizer,
                rotation_rep=self.data.rotation_rep,
                numbers_as_tokens=self.has_head,
                shuffle_attributes=self.data.shuffle_attributes,
                vocab_size=model.decoder.vocab_size,
                end_id=self.options.end_id,
            )
        except UserError as error:
            raise UserError(f"{error} (--grammar none lets answers be anything)") from None
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

    @cached_property
    def refill(self) -> RefillPrograms:
        """The programs of a stream, see stream.py."""
        return RefillPrograms.of(self.model, self.options, self.layout)

    def on_devices(self, images: np.ndarray, batch_size: int, names: Sequence[str]) -> tuple[Any, Any, Any]:
        """Images, which of them there are, and what stands for them where tokens are drawn (None where none are).
        Arguments as below."""
        rows = np.asarray(self.layout.rows(batch_size))
        ids = np.zeros(batch_size, np.uint32)
        ids[: len(names)] = image_ids(names)
        images, is_used, own_ids = self.layout.shard((images, rows < len(names), ids[rows]), batch_size)
        return images, is_used, None if self.options.sampling.is_greedy else own_ids

    def __call__(
        self, prepared: dict[str, Any], images: np.ndarray, batch_size: int, names: Sequence[str]
    ) -> list[Answer]:
        """Answers of the first images, as many as there are names, in order. prepared: what `prepare` made.

        images: uint8 [R, S, S, 3], those of the R rows of the global batch that `layout.rows(batch_size)` names.
        names: of the images, for errors, and for draws, which depend on them alone and on the seed.

        Raises: UserError naming the first image whose logits are not finite.
        """
        images, is_used, ids = self.on_devices(images, batch_size, names)
        found = self.decode(prepared, images, is_used, self.table, self.grammar, ids)
        self.table = found.table
        return self.answers(jax.device_get(replace(found, table=None)), names)

    def answers(self, decoded: Decoded, names: Sequence[str]) -> list[Answer]:
        """The answers of the first rows, `num_samples` of them an image. Raises: UserError as above."""
        each = self.options.num_samples
        wrong = np.flatnonzero(~np.asarray(decoded.is_finite)[: each * len(names)])
        if wrong.size:
            raise UserError(
                f"image {names[wrong[0] // each]}: logits are not finite, so weights are damaged or too large for the "
                "dtype; try --dtype float32, or another --step"
            )
        rows = [self._answer(decoded, row) for row in range(each * len(names))]
        if each == 1:
            return rows
        return [replace(rows[start], samples=tuple(rows[start : start + each])) for start in range(0, len(rows), each)]

    def _spelled(self, ids: np.ndarray) -> str:
        """The text of token ids, in which the float token stands for what the float head read alone: of a vocabulary
        with pieces that hold its character among others, such as Qwen's, those become question marks."""
        text, is_number = self.tokenizer.decode(ids.tolist()), ids == self.options.number_id
        if not self.has_head or text.count(code.FLOAT_TOKEN) == is_number.sum():
            return text
        parts = np.split(ids, np.flatnonzero(is_number))
        texts = [self.tokenizer.decode(part[number > 0 :].tolist()) for number, part in enumerate(parts)]
        return code.FLOAT_TOKEN.join(text.replace(code.FLOAT_TOKEN, "?") for text in texts)

    def _answer(self, decoded: Decoded, row: int) -> Answer:
        length = int(decoded.lengths[row])
        is_finished = length < self.options.max_new_tokens
        ids = np.asarray(decoded.tokens[row][:length])
        spelled, read = self._spelled(ids), decoded.numbers[row][:length]
        values = [float(number) for number in read[ids == self.options.number_id]] if self.has_head else []
        is_kept = self.grammar is not None  # to the language, so its numbers are too
        filled = code.Filled(spelled, spelled, ())
        if self.has_head:
            filled = code.filled(spelled, values, self.language, in_range=is_kept)
        if decoded.log_probabilities is None:
            return Answer(filled.text, is_finished)
        sure = np.asarray(decoded.log_probabilities[row][: length + is_finished])
        reading = code.read(filled.in_full, self.language, rotation_rep=self.data.rotation_rep)
        breaks = np.array([self.tokenizer.surface(token).count("\n") for token in ids.tolist()], int)
        lines = 1 + np.cumsum(breaks) - breaks
        return Answer(
            filled.text,
            is_finished,
            numbers=shortest(np.array(filled.numbers, np.float32)),
            calls=tuple(json_call(call) for call in reading.objects),
            log_probabilities=shortest(np.array([sure[:length][lines == line].sum() for line in reading.lines])),
            token_log_probabilities=shortest(sure),
        )
