"""One example as a row of tokens. Every piece of text brings its own masks; nothing is tokenised again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.data.options import DataOptions
from igllm_jax.data.prompts import answer, find_prompt
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.errors import UserError
from igllm_jax.scene.code import Written, write, write_call
from igllm_jax.scene.scene import Object, Scene

TOKENIZER_TEXTS = 2000  # answers that a small vocabulary is trained on
_BOUND_DRAWS = 32  # ways of writing one object that are tried


def prompt_tokens(options: DataOptions, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids before the image (begin token included) and after it, up to where the answer starts.

    Each part is encoded on its own, as pretrained weights expect: LLaMA's vocabulary and `vicuna_v1` give 35 and 20.
    A prompt of nothing gets the end token, which stands between texts where they have no begin token.

    Raises: UserError where the tokenizer lacks a token of the template.
    """
    prompt = find_prompt(options.prompt, options.task)
    try:
        before = tokenizer.encode(prompt.before_image, bos=True, control=prompt.control)
        after = tokenizer.encode(prompt.after_image, control=prompt.control)
    except KeyError as error:
        raise _lacks(tokenizer, options, error.args[0]) from None
    return before or [tokenizer.eos_id], after


def end_ids(options: DataOptions, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends an answer: the prompt's own token, which answers are taught to end with, then the tokenizer's.

    Raises: UserError where the tokenizer lacks the prompt's.
    """
    end = find_prompt(options.prompt, options.task).end
    if not end:
        return tokenizer.end_ids
    token = tokenizer.vocabulary.id_of(end)
    if token is None:
        raise _lacks(tokenizer, options, end)
    return tuple(dict.fromkeys((token, *tokenizer.end_ids)))


def _lacks(tokenizer: Tokenizer, options: DataOptions, piece: str) -> UserError:
    return UserError(
        f"tokenizer {tokenizer.origin}: has no {piece}, which data.prompt={options.prompt} needs; choose the prompt of "
        "its own model"
    )


def prompt_layout(options: DataOptions, tokenizer: Tokenizer) -> PromptLayout:
    """Where image and answer sit in every row."""
    before, after = prompt_tokens(options, tokenizer)
    return PromptLayout(image_offset=len(before), answer_offset=len(before) + len(after))


def write_scene(scene: Scene, options: DataOptions, rng: np.random.Generator | None) -> Written:
    """The scene's code as the options want it; `rng` draws order of attributes and synonyms, None writes it plainly."""
    return write(scene, options.task, rng=rng, **_writing(options))


def write_line(item: Object, options: DataOptions, rng: np.random.Generator | None) -> Written:
    """One call's line, as `write_scene` writes it."""
    return write_call(item, options.task, rng=rng, **_writing(options))


def _writing(options: DataOptions) -> dict[str, Any]:
    names = ("rotation_rep", "numbers_as_tokens", "shuffle_attributes", "use_synonyms", "rotation_unit")
    return {name: getattr(options, name) for name in names}


def sample_texts(scenes: Sequence[Scene], options: DataOptions, *, seed: int, count: int) -> list[str]:
    """The prompt and `count` answers as training writes them: what a small vocabulary is trained on."""
    prompt = find_prompt(options.prompt, options.task)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(scenes), size=count)
    texts = [answer(write_scene(scenes[index], options, rng).text, options.task) for index in chosen]
    return [f"{prompt.before_image}{prompt.after_image}", *texts]


def too_long(image: str, length: int, options: DataOptions) -> str:
    """What is wrong with a row of `length` text tokens, "" where data.max_length allows it; answers are never cut."""
    if length + options.num_image_tokens <= options.max_length:
        return ""
    return (
        f"image {image}: its row may take {length} text tokens and {options.num_image_tokens} of the image, above "
        f"data.max_length={options.max_length}; raise that, or leave the scene out of the labels"
    )


@dataclass(frozen=True)
class Row:
    """tokens int32 [T], is_answer and is_number bool [T], numbers float32 [T] (0 where there is none); see Batch."""

    tokens: np.ndarray
    is_answer: np.ndarray
    is_number: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


class RowMaker:
    """Writes scenes as rows: prompt, answer, end token."""

    def __init__(self, options: DataOptions, tokenizer: Tokenizer):
        self.options = options
        self.tokenizer = tokenizer
        before, after = prompt_tokens(options, tokenizer)
        self._prompt, self._end_id = before + after, end_ids(options, tokenizer)[0]
        self._known_lines: dict[str, tuple[float, float, float]] = {}
        if options.numbers_as_tokens:
            _ = tokenizer.float_id  # says early where the vocabulary has none

    def row(self, scene: Scene, rng: np.random.Generator | None) -> Row:
        """The row of a scene; `rng` draws order of attributes and synonyms, None writes it plainly."""
        written = write_scene(scene, self.options, rng)
        answer_ids = [*self.tokenizer.encode(answer(written.text, self.options.task)), self._end_id]
        tokens = np.array(self._prompt + answer_ids, np.int32)
        is_answer = np.arange(len(tokens)) >= len(self._prompt)
        numbers = np.zeros(len(tokens), np.float32)
        is_number = np.zeros(len(tokens), bool)
        if self.options.numbers_as_tokens:
            is_number = is_answer & (tokens == self.tokenizer.float_id)
            numbers[is_number] = written.numbers
        return Row(tokens, is_answer, is_number, numbers)

    def row_within(self, scene: Scene, rng: np.random.Generator, length: int) -> Row:
        """A row of at most `length` tokens, `length` being at least `bound(scene)`.

        The few draws that come out longer than the bound are drawn again, and after some the scene is written plainly.
        """
        for _ in range(8):
            row = self.row(scene, rng)
            if len(row) <= length:
                return row
        return self.row(scene, None)

    def bound(self, scene: Scene) -> int:
        """How long the scene's row gets, T: not below the plain row's length, and very rarely below a drawn one's.

        Drawn rows vary by a token or two per line, so the bound is three standard deviations above the mean; the sum of
        the longest lines would be padding nearly always. Lines are counted one by one and remembered by what they say,
        as counting every way to write every scene would take longer than an epoch. Where tokens reach across lines, or
        hold several digits, lines tell how much longer drawn rows are, and the plain row is counted as it is.
        """
        lines = [self._line_lengths(item) for item in scene.objects]
        counted, mean, variance = np.sum([(0, 0, 0), *lines], axis=0)
        plain = counted if self._is_additive else len(self.row(scene, None)) - self._frame
        return self._frame + int(max(plain, np.ceil(mean + (plain - counted) + 3 * np.sqrt(variance))))

    @cached_property
    def _is_additive(self) -> bool:
        """Whether a row is as long as its lines, and those as long as lines of other digits."""
        return self.tokenizer.splits_lines and self.tokenizer.splits_digits

    @cached_property
    def _frame(self) -> int:
        return len(self._prompt) + len(self.tokenizer.encode(answer("", self.options.task))) + 1

    def _line_lengths(self, item: Object) -> tuple[float, float, float]:
        """The number of tokens of an object's line: written plainly, and mean and variance over ways to draw it."""
        plain = write_line(item, self.options, None).text
        key = plain.translate(_SAME_DIGIT)
        if key not in self._known_lines:
            empty = len(self.tokenizer.encode(answer("", self.options.task)))
            lines = [write_line(item, self.options, rng).text for rng in self._draws()]
            texts = [answer(line, self.options.task) for line in lines]
            counts = np.array([len(self.tokenizer.encode(text)) - empty for text in texts])
            drawn = counts[1:] if len(counts) > 1 else counts
            self._known_lines[key] = (counts[0], drawn.mean(), drawn.var())
        return self._known_lines[key]

    def _draws(self) -> list[np.random.Generator | None]:
        """The plain way to write, and as many drawn ones as there is something to draw."""
        varies = self.options.shuffle_attributes or self.options.use_synonyms
        return [None, *(np.random.default_rng(seed) for seed in range(_BOUND_DRAWS if varies else 0))]


_SAME_DIGIT = str.maketrans("0123456789", "0000000000")


def stack(
    rows: Sequence[Row],
    images: np.ndarray,
    length: int,
    batch_size: int,
    pad_id: int,
    is_read: Sequence[bool] | None = None,
) -> Batch:
    """Rows and their images uint8 [b, S, S, 3] as a Batch of B = `batch_size` rows of T = `length` tokens.

    is_read: [b], whether the row's image could be read, default all; the others have weight 0.
    What is missing to B is filled with rows of weight 0.
    """
    shape = (batch_size, length)
    tokens = np.full(shape, pad_id, np.int32)
    is_answer, is_number, numbers = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.float32)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = row.tokens
        is_answer[index, : len(row)] = row.is_answer
        is_number[index, : len(row)] = row.is_number
        numbers[index, : len(row)] = row.numbers
    if len(images) < batch_size:
        images = np.concatenate([images, np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)])
    weight = np.zeros(batch_size, np.float32)
    weight[: len(rows)] = 1.0 if is_read is None else is_read
    return Batch(images, tokens, is_answer, is_number, numbers, weight)


def padding_share(batch: Batch, num_image_tokens: int = 0) -> float:
    """The share of a batch's positions that hold nothing: padded text, and rows that only fill the batch.

    num_image_tokens: I, the image slots of each row, which count as positions too.
    """
    is_answer, weight = np.asarray(batch.is_answer), np.asarray(batch.weight)
    rows, length = is_answer.shape
    ends = length - np.argmax(is_answer[:, ::-1], axis=1)  # a row ends with its last learned token
    used = ((ends + num_image_tokens) * (weight > 0)).sum()
    return float(1 - used / (rows * (length + num_image_tokens)))
