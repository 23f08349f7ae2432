"""Loss and scene metrics on held-out examples while a run trains."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import numpy as np

from igllm_jax.batch import Batch
from igllm_jax.data import pipeline
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.answers import AnswerGenerator, decode_layout
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.distributed import Stopped, never
from igllm_jax.parallel.sharding import MeshLayout
from igllm_jax.scene import code, metrics
from igllm_jax.scene.language import find_language
from igllm_jax.training.loss import Sums
from igllm_jax.training.options import HeldOutOptions


class HeldOutEvaluation:
    """Loss and scene metrics on the first examples of one set, the same ones every time."""

    def __init__(
        self,
        options: HeldOutOptions,
        source: pipeline.Source,
        data: pipeline.DataOptions,
        tokenizer: Tokenizer,
        model: VLMConfig,
        layout: MeshLayout,
    ):
        self.options, self.data_options, self.tokenizer = options, data, tokenizer
        self.model, self.layout = model, layout
        limit = max(options.loss_samples, options.generate_samples)
        self.data = pipeline.EvalData(source, data, tokenizer, limit=limit)
        self._generator: AnswerGenerator | None = None

    def _batches(self, limit: int, layout: MeshLayout, size: int, stops: Callable[[], bool]) -> Iterator[Batch]:
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
        """loss, token_loss, number_loss over options.loss_samples examples.

        stops: asked before each batch. Raises: Stopped where it says so.
        """
        total: Sums | None = None
        for batch in self._batches(self.options.loss_samples, self.layout, self.options.batch_size, stops):
            found = eval_step(self.layout.shard(batch, self.options.batch_size))
            total = found if total is None else jax.tree.map(lambda a, b: a + b, total, found)
        assert total is not None  # EvalData holds at least one example
        return {name: float(value) for name, value in total.mean(self.options.float_weight).items()}

    def scores(self, params: Params, stops: Callable[[], bool] = never) -> dict[str, float]:
        """Metrics of the code that the model writes for options.generate_samples images. Raises: Stopped as above."""
        if self._generator is None:
            layout, most = decode_layout(self.model, self.layout), self.options.max_new_tokens
            self._generator = AnswerGenerator(self.model, self.tokenizer, self.data_options, most, layout)
        generator = self._generator
        prepared = generator.prepare(params)
        size = generator.batch_size(self.options.batch_size)
        answers: list[Answer] = []
        scenes = self.data.scenes[: self.options.generate_samples]
        for batch in self._batches(len(scenes), generator.layout, size, stops):
            names = [scene.image for scene in scenes[len(answers) : len(answers) + size]]
            answers += generator(prepared, np.asarray(batch.images), size, names)
        data = self.data_options
        task = find_language(data.task)
        readings = [code.read(answer.text, task, rotation_rep=data.rotation_rep) for answer in answers]
        found = metrics.score(scenes, readings, task, rotation_rep=data.rotation_rep, rotation_unit=data.rotation_unit)
        finished = {"finished": 100 * float(np.mean([answer.is_finished for answer in answers]))}
        return {**found, **finished}
