"""`igllm check`: what a run needs, looked at before it starts: data, lengths, weights, disk and memory.

    igllm check --config configs/tiny.py:task=clevr --workdir runs/tiny

Lists every problem, each with where it is, and returns 2; or says in one line that the run is ready.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax

from igllm_jax import config as configs
from igllm_jax import flags, paths, progress
from igllm_jax.config_vocabulary import fit_vocabulary, tokenizer_source, with_number_token
from igllm_jax.data.options import DataOptions
from igllm_jax.data.preflight import ALL, QUICK, SAMPLE, Depth, Looked, check_images, check_lengths, look
from igllm_jax.data.rows import TOKENIZER_TEXTS, RowMaker, sample_texts
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.paths import FilePath
from igllm_jax.planning.memory import activation_bound, local_memory, own_bytes, whole_bytes
from igllm_jax.training.options import RunOptions
from igllm_jax.training.state import TrainState
from igllm_jax.weights import checkpoint
from igllm_jax.weights.run_model import RunModel
from igllm_jax.weights.start_from import account_of, find_origin, open_origin

MOST_LISTED = 20  # problems that `igllm train` lists before it ends


@dataclass
class Findings:
    """problems: what keeps a run from starting, or would end it. notes: what is none, but may be news. facts: of a run
    that is ready. Each line of problems and notes is there once, in order."""

    problems: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)

    def tell(self, problem: str) -> None:
        self.problems[problem] = None

    def note(self, text: str) -> None:
        self.notes[text] = None

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """A mistake in the block becomes a problem, and what follows the block is looked at all the same."""
        try:
            yield
        except UserError as error:
            self.tell(str(error))


def main(arguments: list[str]) -> int:
    """The command."""
    own, others = configs.split(arguments)
    parser = flags.Parser(prog="igllm check", description=__doc__.split("\n")[0])
    configs.add_arguments(parser)
    parser.add_argument("--workdir", type=flags.path, help="of the run: its disk, and what a resumed run has to match")
    parser.add_argument("--all", action="store_true", help="decode every image, not a sample of them")
    options = parser.parse_args(others)
    if options.workdir is not None:
        checkpoint.check_workdir(options.workdir)
    found = inspect(configs.load(own)[0], options.workdir, ALL if options.all else SAMPLE)
    for note in found.notes:
        progress.note(f"note: {note}")
    for problem in found.problems:
        progress.result(problem)
    if found.problems:
        return 2
    progress.result(f"ready: {'; '.join(found.facts)}")
    return 0


def quick(config: configs.ConfigDict, workdir: FilePath) -> None:
    """What can be seen of a run in a moment, before it starts: the first labels, a few images, weights and memory.

    Raises: UserError. Where there are several problems, each has its line first.
    """
    problems = list(inspect(config, workdir, QUICK).problems)
    if len(problems) == 1:
        raise UserError(problems[0])
    if jax.process_index() == 0:
        for problem in problems[:MOST_LISTED]:
            progress.note(f"error: {problem}")
    if problems:
        listed = f"the first {MOST_LISTED} are listed above" if len(problems) > MOST_LISTED else "listed above"
        raise UserError(f"{len(problems)} problems, {listed}; `igllm check` with the same --config looks further")


def inspect(config: configs.ConfigDict, workdir: FilePath | None, depth: Depth) -> Findings:
    """Everything that is found. config: as `igllm train` gets it; it is left as it is."""
    found, config = Findings(), config.copy_and_resolve_references()
    resumed = workdir if workdir is not None and (workdir / configs.CONFIG_FILE).exists() else None
    if resumed is not None:
        with found.telling():
            configs.keep_meaning(config, resumed)
    data = configs.data_options(config)
    with found.telling():
        paths.local(data.cache, "data.cache")
    train, val = _look_at_data(config, data, depth, found)
    tokenizer = None
    with found.telling():
        tokenizer = _find_tokenizer(config, workdir, train, data, depth)
    if tokenizer is not None:
        with found.telling():
            fit_vocabulary(config, tokenizer)
            plain = replace(data, shuffle_attributes=False, use_synonyms=False)  # as held-out rows are written
            for parts, maker in ((train, RowMaker(data, tokenizer)), (val, RowMaker(plain, tokenizer))):
                for part in parts:
                    check_lengths(part, maker)
            if resumed is not None:
                configs.check_resume(config, configs.read(resumed))
    for part in (*train, *val):
        check_images(part)
        for note in part.notes:
            found.note(note)
    _count(train, val, data, found)
    with found.telling():
        run = configs.run_options(config)
        run_model = RunModel.of(run, run.mesh.on())
        size = _look_at_model(run, run_model, _longest(train, val), found)
        _look_at_disk(workdir, size, 1 if depth.is_quick else _num_kept(config), found)
        is_begun = workdir is not None and checkpoint.count(workdir) > 0  # which needs it no more
        if config.model.start_from and not is_begun:
            find_origin(config.model.start_from)
            if tokenizer is not None and not depth.is_quick:
                _look_at_origin(config.model.start_from, run_model, tokenizer, found)
    return found


def _look_at_data(
    config: configs.ConfigDict, data: DataOptions, depth: Depth, found: Findings
) -> tuple[list[Looked], list[Looked]]:
    """What training learns from, and what is held out, as far as it can be read."""
    train, val = [], []
    with found.telling():
        train = [look(source, data, depth, found.tell) for source, _ in configs.train_sources(config)]
    with found.telling():
        held_out = configs.held_out_options(config)
        limit = max(held_out.loss_samples, held_out.generate_samples)
        val = [look(one, data, depth, found.tell, limit=limit) for one in configs.val_sources(config).values()]
    return train, val


def _find_tokenizer(
    config: configs.ConfigDict, workdir: FilePath | None, train: Sequence[Looked], data: DataOptions, depth: Depth
) -> Tokenizer | None:
    """The run's; one that is to be trained is trained, into nowhere, where there is time and text for that."""
    named = tokenizer_source(config, workdir or Path())
    if named is not None:
        tokenizer = Tokenizer.load(named)
        return tokenizer if named == workdir else with_number_token(config, tokenizer)
    scenes = [scene for _, scene in train[0].scenes] if train else []
    if depth.is_quick or not scenes:
        return None
    texts = sample_texts(scenes, data, seed=config.seed, count=TOKENIZER_TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        return train_small(texts, folder, config.tokenizer.train_vocab_size)


def _count(train: Sequence[Looked], val: Sequence[Looked], data: DataOptions, found: Findings) -> None:
    scenes, held_out = (sum(len(part.scenes) for part in parts) for parts in (train, val))
    found.facts.append(f"{scenes} scenes to learn from, {held_out} held out")
    if longest := _longest(train, val):
        found.facts.append(f"rows of up to {longest + data.num_image_tokens} of {data.max_length} positions")
    found.facts.append(f"{sum(part.num_decoded for part in (*train, *val))} images decoded")


def _longest(train: Sequence[Looked], val: Sequence[Looked]) -> int:
    return max((part.longest for part in (*train, *val)), default=0)


def _look_at_origin(origin: str, run_model: RunModel, tokenizer: Tokenizer, found: Findings) -> None:
    account = account_of(open_origin(origin, run_model), run_model, tokenizer)
    taken, drawn, left = (len(paths) for paths in (account.taken + account.rows, account.drawn, account.left))
    found.facts.append(f"{taken} arrays from {origin}, {drawn} drawn anew, {left} left there")


def _look_at_model(run: RunOptions, run_model: RunModel, longest: int, found: Findings) -> float:
    """Weights against the config, and a device's memory. Returns the bytes of a checkpoint.

    longest: row, T, without its image; 0 where that is not known.
    """
    run_model.layout.rows(run.batch_size)
    drawn = run_model.check_base()
    if run.base and drawn:
        more = f" and {len(drawn) - 1} more" if len(drawn) > 1 else ""
        found.note(f"model.base={run.base} has no {drawn[0]}{more}: drawn at random, and frozen")
    state = run_model.abstract_state()
    _look_at_memory(run, run_model, state, longest, found)
    return whole_bytes((state.params, state.optimizer))


def _look_at_memory(run: RunOptions, run_model: RunModel, state: TrainState, longest: int, found: Findings) -> None:
    mesh = run_model.layout.mesh.shape
    # gradients are as large as what trains
    held = own_bytes(run_model.frozen) + 2 * own_bytes(state.params) + own_bytes(state.optimizer)
    added = activation_bound(
        run.model,
        rows=max(1, run.batch_size / (mesh["data"] * mesh["fsdp"]) / run.optim.accumulate),
        length=longest + run.data.num_image_tokens if longest else run.data.max_length,
        loss_chunk=run.loss.chunk,
        trains_vision=any(path.startswith("vision/") for path in run_model.trainable),
    )
    has = local_memory(jax.local_devices()[0])
    told = f"{_size(held)} of a device's {_size(has)} for weights, gradients and optimizer"
    if held > has:
        found.tell(f"memory: {told}; shard over more devices (mesh.fsdp), or train less (optim.trainable)")
    elif held + added > has:
        hint = "`igllm plan --topology local` asks the compiler; optim.accumulate and model.decoder.remat take less"
        found.note(f"memory: {told}, and roughly {_size(added)} for activations, which may be too much; {hint}")
    found.facts.append(f"{told}, and roughly {_size(added)} for activations")


def _num_kept(config: configs.ConfigDict) -> int:
    """Checkpoints that are on the disk at once: the last ones, the best, and the one that is being saved."""
    num_saved = -(-config.train.num_steps // config.train.checkpoint_every)
    return min(config.train.keep_checkpoints + 2, num_saved)


def _look_at_disk(workdir: FilePath | None, size: float, num_kept: int, found: Findings) -> None:
    """size: bytes of a checkpoint. num_kept: those that there has to be room for, some of which may be there."""
    told = f"a checkpoint takes {_size(size)}"
    if workdir is None or paths.is_remote(workdir):  # a bucket has room
        found.facts.append(told)
        return
    folder = next(folder for folder in (workdir.absolute(), *workdir.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    needed = size * max(0, num_kept - checkpoint.count(workdir))
    if free < needed:
        hint = "make room, or lower train.keep_checkpoints"
        found.tell(f"{workdir}: {_size(needed)} are needed for checkpoints, {_size(free)} are free; {hint}")
    found.facts.append(f"{told}, {_size(free)} are free")


def _size(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
