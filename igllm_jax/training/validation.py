"""Loss and scene metrics on held-out examples while a run trains."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import numpy as np
from ml_collections import ConfigDict

from igllm_jax import config as configs
from igllm_jax.batch import Batch
from igllm_jax.data import pipeline
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.answers import Answer, AnswerGenerator, decode_layout
from igllm_jax.models.params import Params
from igllm_jax.parallel.distributed import Stopped, never
from igllm_jax.parallel.sharding import MeshLayout
from igllm_jax.scene import code, metrics
from igllm_jax.scene.tasks import find_task
from igllm_jax.training.loss import Sums
from igllm_jax.weights.run_model import RunModel


class HeldOutEvaluation:
    """Loss and scene metrics on the first examples of data.val, the same ones every time."""

    def __init__(
        self,
        config: ConfigDict,
        options: pipeline.DataOptions,
        tokenizer: Tokenizer,
        run_model: RunModel,
        layout: MeshLayout,
    ):
        self.config, self.options, self.tokenizer = config, options, tokenizer
        self.run_model, self.layout = run_model, layout
        source = configs.source(config, "val")
        limit = max(config.eval.loss_samples, config.eval.generate_samples if config.eval.generate_every else 0)
        self.data = pipeline.EvalData(source, options, tokenizer, limit=limit)
        self._writer: AnswerGenerator | None = None

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
        """loss, token_loss, number_loss over eval.loss_samples examples.

        stops: asked before each batch. Raises: Stopped where it says so.
        """
        total: Sums | None = None
        for batch in self._batches(self.config.eval.loss_samples, self.layout, self.config.batch_size, stops):
            found = eval_step(self.layout.shard(batch, self.config.batch_size))
            total = found if total is None else jax.tree.map(lambda a, b: a + b, total, found)
        assert total is not None  # EvalData holds at least one example
        return {name: float(value) for name, value in total.mean(self.config.train.float_weight).items()}

    def scores(self, params: Params, stops: Callable[[], bool] = never) -> dict[str, float]:
        """Metrics of the code that the model writes for eval.generate_samples images. Raises: Stopped as above."""
        if self._writer is None:
            model, most = self.run_model.model, self.config.eval.max_new_tokens
            self._writer = AnswerGenerator(model, self.tokenizer, self.options, most, decode_layout(model, self.layout))
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
