"""`igllm train`: one run from its config, resumed where it stopped.

Reads from top to bottom: arguments, data, model, state, loop. What a step does is in training/step.py.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from igllm_jax import check, files, flags, paths
from igllm_jax import config as configs
from igllm_jax.batch import Batch
from igllm_jax.config_vocabulary import fit_vocabulary, tokenizer_source, with_number_token
from igllm_jax.data import pipeline
from igllm_jax.data.examples import load_examples
from igllm_jax.data.manifest import DATA_FILE, check_resumed, data_meta, write_manifest
from igllm_jax.data.rows import TOKENIZER_TEXTS, sample_texts
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.models.params import unnest
from igllm_jax.parallel import distributed, elastic
from igllm_jax.parallel.sharding import MESH_AXES
from igllm_jax.paths import FilePath
from igllm_jax.planning.throughput import Profile, Speed
from igllm_jax.training import metrics_log
from igllm_jax.training.monitor import Meter, describe, log_line, show_sample
from igllm_jax.training.optim import AVERAGED, averages, groups, schedule
from igllm_jax.training.patience import Patience
from igllm_jax.training.samples import write_samples
from igllm_jax.training.state import TrainState
from igllm_jax.training.step import jit_step, make_eval_step, make_train_step
from igllm_jax.training.validation import HeldOutEvaluation
from igllm_jax.weights import checkpoint
from igllm_jax.weights.run_model import RunModel
from igllm_jax.weights.start_from import starting_values
from igllm_jax.weights.trained_model import TOKENIZER_FINGERPRINT

ONE_SET = "val"  # data.val alone: checkpoints keep its scores without this name


def main(arguments: list[str]) -> int:
    """The command."""
    own, others = configs.split(arguments)
    parser = flags.Parser(prog="igllm train", description=__doc__)
    configs.add_arguments(parser)
    parser.add_argument("--workdir", type=flags.path, required=True, help="where the run lives; resumed if it is there")
    parser.add_argument("--step", help="go on from this checkpoint (N or best); later ones are set aside")
    parser.add_argument("--accept_changed_data", action="store_true", help="resume with other data, listed first")
    parser.add_argument("--elastic", action="store_true", help="when hosts are lost, go on with those that are left")
    parser.add_argument("--profile", default="", help="START:STOP, steps to trace into WORKDIR/profile")
    distributed.add_arguments(parser)
    options = parser.parse_args(others)
    config = configs.load(own)[0]
    checkpoint.check_workdir(options.workdir)
    files.try_folder(options.workdir, "--workdir")
    if options.elastic:
        cluster = distributed.find_cluster(options, os.environ)
        sizes = {axis: config.mesh[axis] for axis in ("slices", *MESH_AXES)}
        rows = config.batch_size // config.optim.accumulate
        saved = partial(checkpoint.newest_step, options.workdir)
        return elastic.of(cluster, arguments, options.workdir, sizes, rows, saved).run()
    with distributed.session(options):
        elastic.tell_devices()
        if options.step:
            set_aside(options.workdir, options.step)
        profile = Profile(options.profile, options.workdir / "profile")
        Run(config, options.workdir, profile, accepts_changed_data=options.accept_changed_data).train()
    return 0


class Run:
    """One training run in one folder."""

    metrics: metrics_log.MetricsWriter | metrics_log.NullMetricsWriter = metrics_log.NullMetricsWriter()

    def __init__(
        self,
        config: ConfigDict,
        workdir: FilePath,
        profile: Profile | None = None,
        *,
        accepts_changed_data: bool = False,
    ):
        self.workdir = paths.to_path(workdir)
        self.profile = profile or Profile("", self.workdir)
        self.tokenizer = settle(config, self.workdir)
        self.config, self.accepts_changed_data = config, accepts_changed_data

        # data
        run_options = configs.run_options(config)
        self.layout = run_options.mesh.on()
        self.data_options = run_options.data
        self.data = pipeline.TrainPipeline(
            configs.train_sources(config),
            self.data_options,
            self.tokenizer,
            seed=config.seed,
            batch_size=config.batch_size,
            rows=self.layout.rows(config.batch_size),
        )

        # model
        self.run_model = RunModel.of(run_options, self.layout)
        shared = (self.run_model.skeleton, self.data.prompt)
        step = make_train_step(*shared, self.run_model.optim, run_options.loss, self.layout)
        self.step = jit_step(step, self.run_model.abstract_state())
        eval_step = make_eval_step(*shared, run_options.loss, self.layout)
        self.eval_step = jax.jit(eval_step, out_shardings=self.layout.replicated())
        self.frozen = self.run_model.load_frozen()

        # state
        scored_by = configs.best_metric(config)
        self.checkpoints = checkpoint.Checkpoints(self.workdir, keep=config.train.keep_checkpoints, scored_by=scored_by)
        self.is_data_kept = False  # whether they are what the last checkpoint saw
        self.is_evaluated = True  # whether what was due after the last step is done
        self.patience = Patience(config.eval.patience, metric=scored_by)
        self.state = self._restore() or self._begin()
        self._describe()
        self.held_out = self._held_out()
        self.best_metric = scored_by.removeprefix(f"{ONE_SET}/")
        self.scored_step, self.scores = -1, dict[str, float]()  # when what was measured

    def _describe(self) -> None:
        """Config and data of the run, as files in its folder."""
        if distributed.is_first():
            configs.write(self.config, self.workdir)
            if not (self.is_data_kept and (self.workdir / DATA_FILE).exists()):
                write_manifest(self.workdir / DATA_FILE, self.data.manifest())

    def _held_out(self) -> dict[str, HeldOutEvaluation]:
        """What is scored on the way, by the name of its set."""
        about, shared = configs.held_out_options(self.config), (self.data_options, self.tokenizer)
        return {
            name: HeldOutEvaluation(about, source, *shared, self.run_model.model, self.layout)
            for name, source in configs.val_sources(self.config).items()
        }

    def _restore(self) -> TrainState | None:
        latest = self.checkpoints.latest()
        if latest is None:
            return None
        state, meta = self.checkpoints.restore(latest, self.run_model.abstract_state())
        self.is_data_kept = check_resumed(self.data, meta, self.workdir, accepts=self.accepts_changed_data)
        for key in ("seed", TOKENIZER_FINGERPRINT):
            value = self._meta()[key]
            if meta.get(key) != value:
                raise UserError(
                    f"{self.workdir} was trained with another {key} ({meta.get(key)}, now {value}): "
                    "give it the data it had, or take another --workdir"
                )
        self.is_evaluated = meta["is_evaluated"]
        self.patience.restore(meta)
        log_line(f"resumed from step {latest}")
        return state

    def _begin(self) -> TrainState:
        """Step 0."""
        origin = self.config.model.start_from
        if not origin:
            return self.run_model.initial_state()
        values, account = starting_values(self.run_model, origin, self.tokenizer)
        for line in account.lines(origin):
            log_line(line)
        return self.run_model.state_of(values)

    def _meta(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            **data_meta(self.data),
            TOKENIZER_FINGERPRINT: self.tokenizer.fingerprint,
        }

    # the loop

    def train(self) -> None:
        """Trains to the end, or to a stop signal; what was learned is saved either way."""
        config = self.config
        start, end = int(self.state.step), config.train.num_steps
        describe(self.run_model.trainable, self.run_model.frozen, self.data, self.layout, start, end)
        writer = self.metrics = self._open_logs(start)
        speed = Speed.of(
            self.run_model.model, self.run_model.trainable, self.data.prompt, config.batch_size, self.layout.mesh.size
        )
        meter = Meter(config.batch_size, self.data_options.num_image_tokens, start, end, speed)
        batches = self.data.iterate(start)
        try:
            with distributed.stop_signal() as stops:
                try:
                    is_stopped = self._loop(start, end, batches, meter, writer, stops)
                except Exception as error:  # whatever it is, what was learned until then is worth more
                    self._end_with(error, meter)
                self._save(meter)
            if is_stopped:
                self.checkpoints.wait()
                log_line(
                    f"stopped by a signal at step {int(self.state.step)}; saved. The same command goes on from here"
                )
        finally:
            self.profile.close()
            batches.close()
            writer.close()
            meter.close()
            self.checkpoints.close()

    def _open_logs(self, start: int) -> metrics_log.MetricsWriter | metrics_log.NullMetricsWriter:
        if not distributed.is_first():
            return metrics_log.NullMetricsWriter()
        config = self.config
        boards = {"tensorboard": config.train.tensorboard, "wandb": config.train.wandb}
        return metrics_log.MetricsWriter(self.workdir, first_step=start, **boards, config=config.to_dict())

    def _loop(
        self, start: int, end: int, batches: Iterator[Batch], meter: Meter, writer: Any, stops: Callable[[], bool]
    ) -> bool:
        """Steps start + 1 to end; True where a signal stopped it before all was done."""
        try:
            if not self.is_evaluated:
                self._follow_up(start, meter, writer, stops)
            for step in range(start + 1, end + 1):
                if stops():
                    return True
                if self.patience.is_over:
                    log_line(f"ends at step {step - 1}: {self.patience.describe()}")
                    return False
                self._advance(step, batches, meter, writer)
                self._follow_up(step, meter, writer, stops)
        except distributed.Stopped:
            return True
        return False

    def _advance(self, step: int, batches: Iterator[Batch], meter: Meter, writer: Any) -> None:
        """One step, and its metrics where they are due."""
        config = self.config
        with meter.waiting():
            batch = next(batches)
        if step == 1:
            show_sample(batch, self.tokenizer)
            if distributed.is_first():
                write_samples(self.workdir, batch, self.tokenizer)
        self.profile.before(step, self.state)
        self.state, metrics = self.step(self.state, self.frozen, self.layout.shard(batch, config.batch_size))
        if self.profile.after(step, self.state):
            log_line(f"a trace of steps {self.profile.first} to {self.profile.last} is in {self.profile.folder}")
        meter.add(step, batch, metrics)
        if jax.default_backend() == "cpu" and self.layout.mesh.size > 1:
            jax.block_until_ready(self.state.step)  # several steps in flight dead-lock fake devices
        last = step == config.train.num_steps
        if step % config.train.log_every == 0 or last or step == 1:
            rates = {f"lr/{g}": float(schedule(r, self.run_model.optim)(step - 1)) for g, r in self._rates().items()}
            writer.write(step, {**meter.report(), **rates})

    def _follow_up(self, step: int, meter: Meter, writer: Any, stops: Callable[[], bool]) -> None:
        """What is due after a step. Raises: Stopped, with `is_evaluated` False, so that a resumed run does it."""
        config, self.is_evaluated = self.config, False
        last = step == config.train.num_steps
        for every, generates in ((config.eval.loss_every, False), (config.eval.generate_every, True)):
            if every and (step % every == 0 or last):
                writer.write(step, self._evaluate(meter, stops, generates=generates))
        if self.scored_step == step and self.best_metric in self.scores:
            self.patience.see(self.scores[self.best_metric])
        self.is_evaluated = True
        if step % config.train.checkpoint_every == 0:
            self._save(meter)

    def _end_with(self, error: Exception, meter: Meter) -> NoReturn:
        """Saves what was learned, then raises `error`, saying from where the run goes on where that is the user's."""
        if self.checkpoints.has_failed:
            raise error  # it says so itself
        try:
            self._save_now(meter)
        except UserError as failure:
            told = "" if str(failure) in str(error) else f"; {failure}"
        else:
            told = ""
        latest = self.checkpoints.latest()
        told += (
            "; nothing is saved yet" if latest is None else f"; step {latest} is saved, the same command goes on there"
        )
        if isinstance(error, UserError):
            raise type(error)(f"{error}{told}") from None
        log_line(f"stopped by an error{told}")
        raise error

    def _save_now(self, meter: Meter) -> None:
        """Saves the state where it is whole: not inside a step, and not where other processes would have to know."""
        has_arrays = not any(array.is_deleted() for array in jax.tree.leaves(self.state))
        if has_arrays and jax.process_count() == 1 and int(self.state.step) > 0:
            self._save(meter)
            self.checkpoints.wait()

    def _rates(self) -> dict[str, float]:
        used = set(groups(self.run_model.trainable, self.config.optim.trainable).values())
        return {group: rate for group, rate in self.run_model.optim.learning_rates if group in used}

    def _evaluate(self, meter: Meter, stops: Callable[[], bool], *, generates: bool) -> dict[str, float]:
        """Held-out loss, or the scene metrics of generated code, of every set; names start with the set's and `/`,
        for averaged weights with the set's, `_ema` and `/`."""
        shown: dict[str, float] = {}
        with meter.paused():
            for suffix, params in {"": self.state.params, AVERAGED: averages(self.state.optimizer)}.items():
                for name, held_out in self.held_out.items() if params is not None else ():
                    if generates:
                        found = held_out.scores({**self.frozen, **unnest(params)}, stops)
                    else:
                        found = held_out.losses(partial(self.eval_step, params, self.frozen), stops)
                    shown |= {f"{name}{suffix}/{metric}": value for metric, value in found.items()}
        step = int(self.state.step)
        kept = self.scores if self.scored_step == step else {}
        self.scores = {**kept, **{name.removeprefix(f"{ONE_SET}/"): value for name, value in shown.items()}}
        self.scored_step = step
        log_line(f"step {int(self.state.step)}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        return shown

    def _save(self, meter: Meter) -> None:
        meter.check()
        if self.checkpoints.latest() == int(self.state.step):
            return
        scores = self.scores if self.scored_step == int(self.state.step) else {}
        meta = {**self._meta(), "is_evaluated": self.is_evaluated, "scores": scores, **self.patience.meta()}
        with meter.saving():
            self.metrics.sync()  # the steps of a checkpoint that is found are found in metrics, too
            self.checkpoints.save(self.state, meta, scores.get(self.best_metric))


def set_aside(workdir: FilePath, step: str) -> None:
    """Moves the checkpoints after `step` away, so that the run goes on from there."""
    if distributed.is_first():
        checkpoint.go_back(workdir, step)
    distributed.barrier("set aside")


def settle(config: ConfigDict, workdir: FilePath) -> Tokenizer:
    """The run's tokenizer; completes `config` by it, and by what a run that is there already meant.

    Raises: UserError where the run in the workdir has another config.
    """
    is_new = not (workdir / configs.CONFIG_FILE).exists()
    kept = [] if is_new else configs.keep_meaning(config, workdir)
    if kept:
        log_line(f"as in the version that began this run: {', '.join(kept)}")
    check.quick(config, workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if distributed.is_first():
        set_up_tokenizer(config, workdir)
    distributed.barrier("tokenizer")  # the others find it in the workdir
    tokenizer = set_up_tokenizer(config, workdir)
    if not is_new:
        configs.check_resume(config, configs.read(workdir))
    return tokenizer


def set_up_tokenizer(config: ConfigDict, workdir: FilePath) -> Tokenizer:
    """The run's tokenizer, kept in the workdir: the one there, the config's, the base's, or one trained now.

    A trained one sets model.decoder.vocab_size to its size. Raises: UserError where none is named.
    """
    named = tokenizer_source(config, workdir)
    if named is None:
        source = configs.train_sources(config)[0][0]
        scenes = load_examples(source, configs.data_options(config)).scenes
        texts = sample_texts(scenes, configs.data_options(config), seed=config.seed, count=TOKENIZER_TEXTS)
        tokenizer = train_small(texts, workdir, config.tokenizer.train_vocab_size)
    else:
        tokenizer = Tokenizer.load(named)
        if named != workdir:
            tokenizer = with_number_token(config, tokenizer)
            tokenizer.save(workdir)
    fit_vocabulary(config, tokenizer)
    return tokenizer
