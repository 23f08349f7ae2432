"""What a person sees of a run while it trains: a sample with its masks, rates and losses."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from igllm_jax import progress
from igllm_jax.batch import Batch
from igllm_jax.data import pipeline
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.errors import UserError, shown
from igllm_jax.models.params import Params
from igllm_jax.parallel.sharding import MeshLayout
from igllm_jax.planning.throughput import Speed


def log_line(text: str) -> None:
    """A line on stderr that does not break a progress bar; from the first process alone. What a terminal should not
    get is escaped, line by line."""
    if jax.process_index() == 0:
        tqdm.write("\n".join(map(shown, text.split("\n"))), file=sys.stderr)


def describe(
    trainable: Params, frozen: Params, data: pipeline.TrainPipeline, layout: MeshLayout, start: int, end: int
) -> None:
    """Logs what is about to train, on what. trainable, frozen: shapes by path."""
    num_trainable, num_frozen = (sum(math.prod(s.shape) for s in shapes.values()) for shapes in (trainable, frozen))
    mesh = " x ".join(f"{axis} {size}" for axis, size in layout.mesh.shape.items())
    log_line(
        f"{num_trainable:,} parameters train, {num_frozen:,} are frozen; {data.num_examples:,} examples; "
        f"steps {start} to {end} on {layout.mesh.size} {jax.devices()[0].device_kind} ({mesh})"
    )


def show_sample(batch: Batch, tokenizer: Tokenizer) -> None:
    """The first row as the model sees it: the prompt, then each learned token, numbers in braces beside theirs."""
    tokens, is_answer, is_number = (np.asarray(x)[0] for x in (batch.tokens, batch.is_answer, batch.is_number))
    prompt = [int(token) for token in tokens[: int(np.argmax(is_answer))]]
    log_line(f"a sample, prompt (not learned): {tokenizer.decode(prompt)!r}")
    counts = f"{int(is_answer.sum())} learned tokens, {int(is_number.sum())} of them numbers"
    log_line(f"its answer ({counts}):\n{answer_text(batch, 0, tokenizer)}")


def answer_text(batch: Batch, row: int, tokenizer: Tokenizer) -> str:
    """The learned tokens of a row, numbers in braces beside theirs."""
    fields = [np.asarray(x)[row] for x in (batch.tokens, batch.is_answer, batch.is_number, batch.numbers)]
    pieces = []
    for token, is_answer, is_number, number in zip(*fields, strict=True):
        if is_answer:
            text = tokenizer.surface(int(token)) or tokenizer.piece(int(token))
            pieces.append(f"{text}{{{number:.3f}}}" if is_number else text)
    return "".join(pieces)


class Meter:
    """Losses as they come back from the device, rates, and the progress line. NaN ends the run with its step named."""

    def __init__(self, batch_size: int, num_image_tokens: int, start: int, end: int, speed: Speed):
        self.batch_size, self.num_image_tokens, self.start, self.end = batch_size, num_image_tokens, start, end
        self.speed = speed
        self.is_terminal = sys.stderr.isatty() and jax.process_index() == 0
        self.bar = tqdm(total=end, initial=start, unit="step", disable=not self.is_terminal, dynamic_ncols=True)
        self.begin = self.shown = time.monotonic()
        self.step = start
        self.pending: list[tuple[int, Any]] = []
        self.latest: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self.since = time.monotonic()
        self.idle = self.waited = self.saved = 0.0
        self.steps = self.answer_tokens = 0
        self.padding: list[float] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for data."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around what a step waits for while a checkpoint is saved; the rest is written meanwhile."""
        started = time.monotonic()
        yield
        self.saved += time.monotonic() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around evaluation, which the rates leave out."""
        self.check()
        started = time.monotonic()
        yield
        self.idle += time.monotonic() - started

    def add(self, step: int, batch: Batch, found: dict[str, Any]) -> None:
        """One step that was sent to the device, with the metrics that will come back."""
        self.step = step
        self.pending.append((step, found))
        self.padding.append(pipeline.padding_share(batch, self.num_image_tokens))
        # other processes have about as many in each of their rows
        self.answer_tokens += int(np.sum(batch.is_answer)) * self.batch_size // len(batch.is_answer)
        self.speed.add(batch.tokens.shape[1])
        self.steps += 1
        self.bar.update()

    def check(self) -> None:
        """Waits for what is under way.

        Raises: UserError naming the first step whose loss or gradient is not finite.
        """
        for step, found in self.pending:
            self.latest = {name: float(value) for name, value in found.items()}
            if not math.isfinite(self.latest["loss"]) or not math.isfinite(self.latest["grad_norm"]):
                raise UserError(
                    f"step {step}: the loss is {self.latest['loss']}, the gradient's norm {self.latest['grad_norm']}; "
                    "the last checkpoint is good. Lower optim.lr, or look at the data of this step"
                )
        self.pending.clear()

    def report(self) -> dict[str, float]:
        """The last step's losses, and rates since the last report (evaluation left out)."""
        self.check()
        now = time.monotonic()
        seconds = max(now - self.since - self.idle, 1e-9)
        rates = {
            "samples_per_second": self.steps * self.batch_size / seconds,
            "answer_tokens_per_second": self.answer_tokens / seconds,
            "data_wait_share": min(self.waited / seconds, 1.0),
            "save_wait_share": min(self.saved / seconds, 1.0),
            "padding_share": float(np.mean(self.padding)),
            **self.speed.rates(seconds),
        }
        self._show(now, rates)
        self._reset()
        return {**self.latest, **rates}

    def _show(self, now: float, rates: dict[str, float]) -> None:
        wait, saves, padding = (rates[f"{name}_share"] for name in ("data_wait", "save_wait", "padding"))
        speed = f"{rates['samples_per_second']:.3g} samples/s"
        if "mfu" in rates:
            speed += f", MFU {rates['mfu']:.0%}"
        waits = f"waits for data {wait:.0%}, for saves {saves:.0%}"
        told = f"loss {self.latest['loss']:.4f}, {speed}, {waits}, padding {padding:.1%}"
        self.bar.set_postfix_str(told)
        is_due = now - self.shown > progress.LINE_EVERY_SECONDS or self.step in (self.start + 1, self.end)
        if is_due and not self.is_terminal:
            self.shown = now
            done, total = self.step - self.start, self.end - self.start
            log_line(f"{progress.line('train', done, total, now - self.begin, 'step')}, {told}")

    def close(self) -> None:
        self.bar.close()
