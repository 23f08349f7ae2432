"""What a person sees of a run while it trains: a sample with its masks, rates and losses, held-out scores."""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from igllm_jax import config as configs
from igllm_jax import progress
from igllm_jax.assemble import Assembly
from igllm_jax.batch import Batch
from igllm_jax.data import pipeline
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.distributed import Stopped, never
from igllm_jax.errors import UserError
from igllm_jax.generate import Answer, Writer, decode_layout
from igllm_jax.loss import Sums
from igllm_jax.models.params import Params
from igllm_jax.scene import code, metrics
from igllm_jax.scene.tasks import find_task
from igllm_jax.sharding import Layout
from igllm_jax.speed import Speed


def say(text: str) -> None:
    """A line on stderr that does not break a progress bar; from the first process alone."""
    if jax.process_index() == 0:
        tqdm.write(text, file=sys.stderr)


def describe(assembly: Assembly, data: pipeline.TrainPipeline, layout: Layout, start: int, end: int) -> None:
    """Says what is about to train, on what."""
    count = {
        kind: sum(math.prod(s.shape) for s in getattr(assembly, kind).values()) for kind in ("trainable", "frozen")
    }
    mesh = " x ".join(f"{axis} {size}" for axis, size in layout.mesh.shape.items())
    say(
        f"{count['trainable']:,} parameters train, {count['frozen']:,} are frozen; {data.num_examples:,} examples; "
        f"steps {start} to {end} on {layout.mesh.size} {jax.devices()[0].device_kind} ({mesh})"
    )


def show_sample(batch: Batch, tokenizer: Tokenizer) -> None:
    """The first row as the model sees it: the prompt, then each learned token, numbers in braces beside theirs."""
    row = [np.asarray(x)[0] for x in (batch.tokens, batch.is_answer, batch.is_number, batch.numbers)]
    prompt = [int(token) for token, is_answer in zip(row[0], row[1], strict=True) if not is_answer]
    first = int(np.argmax(row[1]))
    pieces = []
    for token, is_answer, is_number, number in zip(*row, strict=True):
        if is_answer:
            text = "</s>" if token == tokenizer.eos_id else tokenizer.surface(int(token))
            pieces.append(f"{text}{{{number:.3f}}}" if is_number else text)
    say(f"a sample, prompt (not learned): {tokenizer.decode(prompt[:first])!r}")
    say(f"its answer ({int(row[1].sum())} learned tokens, {int(row[2].sum())} of them numbers):\n{''.join(pieces)}")


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
        self.idle = self.waited = 0.0
        self.steps = self.answer_tokens = 0
        self.padding: list[float] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for data."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

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
            "padding_share": float(np.mean(self.padding)),
            **self.speed.rates(seconds),
        }
        self._show(now, rates)
        self._reset()
        return {**self.latest, **rates}

    def _show(self, now: float, rates: dict[str, float]) -> None:
        wait, padding = rates["data_wait_share"], rates["padding_share"]
        speed = f"{rates['samples_per_second']:.3g} samples/s"
        if "mfu" in rates:
            speed += f", MFU {rates['mfu']:.0%}"
        shown = f"loss {self.latest['loss']:.4f}, {speed}, waits for data {wait:.0%}, padding {padding:.1%}"
        self.bar.set_postfix_str(shown)
        is_due = now - self.shown > progress.LINE_EVERY_SECONDS or self.step in (self.start + 1, self.end)
        if is_due and not self.is_terminal:
            self.shown = now
            done, total = self.step - self.start, self.end - self.start
            say(f"{progress.line('train', done, total, now - self.begin, 'step')}, {shown}")

    def close(self) -> None:
        self.bar.close()


class HeldOut:
    """Loss and scene metrics on the first examples of data.val, the same ones every time."""

    def __init__(
        self,
        config: ConfigDict,
        options: pipeline.DataOptions,
        tokenizer: Tokenizer,
        assembly: Assembly,
        layout: Layout,
    ):
        self.config, self.options, self.tokenizer = config, options, tokenizer
        self.assembly, self.layout = assembly, layout
        source = configs.source(config, "val")
        limit = max(config.eval.loss_samples, config.eval.generate_samples if config.eval.generate_every else 0)
        self.data = pipeline.EvalData(source, options, tokenizer, limit=limit)
        self._writer: Writer | None = None

    def _batches(self, limit: int, layout: Layout, size: int, stops: Callable[[], bool]) -> Iterator[Batch]:
        """The first `limit` examples, this process's rows. What fills the last batch weighs 0, also if the data go on.

        Raises: Stopped once `stops()`.
        """
        rows = np.asarray(layout.rows(size))
        wanted = itertools.islice(self.data.batches(size, layout.rows(size)), -(-limit // size))
        for start, batch in zip(itertools.count(0, size), wanted, strict=False):
            if stops():
                raise Stopped
            yield replace(batch, weight=np.where(start + rows < limit, batch.weight, 0).astype(np.float32))

    def losses(self, eval_step: Callable[[Batch], Sums], stops: Callable[[], bool] = never) -> dict[str, float]:
        """loss, token_loss, number_loss over eval.loss_samples examples.

        stops: asked before each batch. Raises: Stopped where it says so.
        """
        total: Sums | None = None
        for batch in self._batches(self.config.eval.loss_samples, self.layout, self.config.batch_size, stops):
            found = eval_step(self.layout.place(batch, self.config.batch_size))
            total = found if total is None else jax.tree.map(lambda a, b: a + b, total, found)
        assert total is not None  # EvalData holds at least one example
        return {name: float(value) for name, value in total.mean(self.config.train.float_weight).items()}

    def scores(self, params: Params, stops: Callable[[], bool] = never) -> dict[str, float]:
        """Metrics of the code that the model writes for eval.generate_samples images. Raises: Stopped as above."""
        if self._writer is None:
            model, most = self.assembly.model, self.config.eval.max_new_tokens
            self._writer = Writer(model, self.tokenizer, self.options, most, decode_layout(model, self.layout))
        writer = self._writer
        prepared = writer.prepare(params)
        size = writer.batch_size(self.config.batch_size)
        answers: list[Answer] = []
        scenes = self.data.scenes[: self.config.eval.generate_samples]
        for batch in self._batches(len(scenes), writer.layout, size, stops):
            answers += writer(prepared, np.asarray(batch.images), size, min(size, len(scenes) - len(answers)))
        task = find_task(self.config.task)
        readings = [code.read(answer.text, task, rotation_rep=self.config.rotation_rep) for answer in answers]
        unit = self.options.rotation_unit
        found = metrics.score(scenes, readings, task, rotation_rep=self.config.rotation_rep, rotation_unit=unit)
        finished = {"finished": 100 * float(np.mean([answer.is_finished for answer in answers]))}
        return {**found, **finished}
