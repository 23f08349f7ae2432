"""`igllm train`: one run from its config, resumed where it stopped.

Reads from top to bottom: arguments, data, model, state, loop. What a step does is in train_step.py.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from igllm_jax import checkpoint, logs
from igllm_jax import config as configs
from igllm_jax.assemble import Assembly
from igllm_jax.batch import Batch
from igllm_jax.data import pipeline
from igllm_jax.data.examples import load_examples
from igllm_jax.data.rows import sample_texts
from igllm_jax.data.tokens import MODEL_FILE, Tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.models.params import unnest
from igllm_jax.optim import groups, schedule
from igllm_jax.sharding import Layout, make_mesh
from igllm_jax.train_step import TrainState, make_eval_step, make_train_step
from igllm_jax.watch import HeldOut, Meter, describe, say, show_sample

TOKENIZER_TEXTS = 2000  # answers that a small tokenizer is trained on


def main(arguments: list[str]) -> int:
    """The command."""
    config, others = configs.load(arguments)
    parser = argparse.ArgumentParser(prog="igllm train", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="where the run lives; resumed if it is there")
    options = parser.parse_args(others)
    Run(config, options.workdir).train()
    return 0


class Run:
    """One training run in one folder."""

    def __init__(self, config: ConfigDict, workdir: Path):
        self.workdir = Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        is_new = not (self.workdir / configs.CONFIG_FILE).exists()
        self.tokenizer = set_up_tokenizer(config, self.workdir)
        if not is_new:
            configs.check_resume(config, configs.read(self.workdir))
        self.config = config

        # data
        self.layout = Layout.of(config.mesh.layout, make_mesh(config.mesh))
        self.data_options = configs.data_options(config)
        self.data = pipeline.TrainPipeline(
            configs.train_sources(config),
            self.data_options,
            self.tokenizer,
            seed=config.seed,
            batch_size=config.batch_size,
            rows=self.layout.rows(config.batch_size),
        )

        # model
        self.assembly = Assembly.of(config, self.layout)
        self.loss_options = configs.loss_options(config)
        shared = (self.assembly.skeleton, self.data.prompt)
        step = make_train_step(*shared, self.assembly.optim, self.loss_options, self.layout)
        self.step = jax.jit(step, donate_argnums=0)
        self.eval_step = jax.jit(make_eval_step(*shared, self.loss_options, self.layout))
        self.frozen = self.assembly.load_frozen()

        # state
        self.checkpoints = checkpoint.Checkpoints(self.workdir, keep=config.train.keep_checkpoints)
        self.state = self._restore() or self.assembly.initial_state()
        configs.write(config, self.workdir)
        self.held_out = HeldOut(config, self.data_options, self.tokenizer, self.assembly, self.layout)
        self.scores: dict[str, float] = {}

    def _restore(self) -> TrainState | None:
        latest = self.checkpoints.latest()
        if latest is None:
            return None
        state, meta = self.checkpoints.restore(latest, self.assembly.abstract_state())
        for key, value in self._meta().items():
            if meta.get(key) != value:
                raise UserError(
                    f"{self.workdir} was trained with another {key} ({meta.get(key)}, now {value}): "
                    "give it the data it had, or take another --workdir"
                )
        say(f"resumed from step {latest}")
        return state

    def _meta(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "data fingerprint": self.data.fingerprint,
            "tokenizer fingerprint": self.tokenizer.fingerprint,
        }

    # the loop

    def train(self) -> None:
        """Trains to the end, or to a stop signal; what was learned is saved either way."""
        config = self.config
        start, end = int(self.state.step), config.train.num_steps
        describe(self.assembly, self.data, self.layout, start, end)
        writer = logs.MetricsWriter(
            self.workdir,
            first_step=start,
            tensorboard=config.train.tensorboard,
            wandb=config.train.wandb,
            config=config.to_dict(),
        )
        meter = Meter(config.batch_size, self.data_options.num_image_tokens, start, end)
        batches = self.data.iterate(start)
        try:
            with checkpoint.stop_signal() as stop:
                for step in range(start + 1, end + 1):
                    if stop:
                        break
                    self._advance(step, batches, meter, writer)
                self._save(meter)
                if stop and int(self.state.step) < end:
                    say(
                        f"stopped by a signal at step {int(self.state.step)}; saved. The same command goes on from here"
                    )
        finally:
            batches.close()
            writer.close()
            meter.close()
            self.checkpoints.close()

    def _advance(self, step: int, batches: Iterator[Batch], meter: Meter, writer: logs.MetricsWriter) -> None:
        """One step and what is due after it."""
        config = self.config
        with meter.waiting():
            batch = next(batches)
        if step == 1:
            show_sample(batch, self.tokenizer)
        self.state, metrics = self.step(self.state, self.frozen, self.layout.place(batch, config.batch_size))
        meter.add(step, batch, metrics)
        if jax.default_backend() == "cpu" and self.layout.mesh.size > 1:
            jax.block_until_ready(self.state.step)  # several steps in flight dead-lock fake devices
        last = step == config.train.num_steps
        if step % config.train.log_every == 0 or last or step == 1:
            rates = {f"lr/{g}": float(schedule(r, self.assembly.optim)(step - 1)) for g, r in self._rates().items()}
            writer.write(step, {**meter.report(), **rates})
        if step % config.eval.loss_every == 0 or last:
            writer.write(step, self._evaluate(meter, generates=False))
        if config.eval.generate_every and (step % config.eval.generate_every == 0 or last):
            writer.write(step, self._evaluate(meter, generates=True))
        if step % config.train.checkpoint_every == 0:
            self._save(meter)

    def _rates(self) -> dict[str, float]:
        used = set(groups(self.assembly.trainable, self.config.optim.trainable).values())
        return {group: rate for group, rate in self.assembly.optim.learning_rates if group in used}

    def _evaluate(self, meter: Meter, *, generates: bool) -> dict[str, float]:
        """Held-out loss, or the scene metrics of generated code; names start with `val/`."""
        with meter.paused():
            if generates:
                found = self.held_out.scores({**self.frozen, **unnest(self.state.params)})
            else:
                found = self.held_out.losses(partial(self.eval_step, self.state.params, self.frozen))
        self.scores.update(found)
        shown = {f"val/{name}": value for name, value in found.items()}
        say(f"step {int(self.state.step)}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        return shown

    def _save(self, meter: Meter) -> None:
        meter.check()
        if self.checkpoints.latest() == int(self.state.step):
            return
        wanted = self.config.eval.best_metric
        self.checkpoints.save(self.state, self._meta(), self.scores.get(wanted))


def set_up_tokenizer(config: ConfigDict, workdir: Path) -> Tokenizer:
    """The run's tokenizer, kept in the workdir: the one there, the config's, the base's, or one trained now.

    A trained one sets model.decoder.vocab_size to its size. Raises: UserError where none is named.
    """
    if (workdir / MODEL_FILE).is_file():
        tokenizer = Tokenizer.load(workdir)
    elif config.tokenizer.train_vocab_size:
        source = configs.train_sources(config)[0][0]
        scenes = load_examples(source, configs.data_options(config)).scenes
        texts = sample_texts(scenes, configs.data_options(config), seed=config.seed, count=TOKENIZER_TEXTS)
        tokenizer = train_small(texts, workdir, config.tokenizer.train_vocab_size)
    elif config.tokenizer.path or config.model.base:
        tokenizer = Tokenizer.load(config.tokenizer.path or config.model.base)
        tokenizer.save(workdir)
    else:
        raise UserError("no tokenizer: set tokenizer.path, model.base, or tokenizer.train_vocab_size for a small one")
    if config.tokenizer.train_vocab_size:
        config.model.decoder.vocab_size = tokenizer.vocab_size
    if config.model.decoder.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.decoder.vocab_size {config.model.decoder.vocab_size} is smaller than the tokenizer's "
            f"{tokenizer.vocab_size}"
        )
    return tokenizer
