"""Starting a run from what another run trained, or from a folder of imported weights: every array that fits.

The optimizer and the count of steps begin anew; frozen weights stay those of `model.base`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from igllm_jax import config as configs
from igllm_jax import paths
from igllm_jax.data.tokens import Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import skeleton
from igllm_jax.parallel.sharding import put
from igllm_jax.training.optim import AVERAGED
from igllm_jax.training.options import RunOptions
from igllm_jax.weights import base_folder, checkpoint
from igllm_jax.weights.run_model import RunModel

VOCABULARY = "vocab"  # the axis whose rows belong to pieces


@dataclass
class StartAccount:
    """What became of every array, by path. taken: as it is, or (rows) as far as the vocabularies share pieces. drawn:
    trains here and has no equal there. left: is there, and is no array of this run or frozen in it."""

    taken: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def lines(self, name: str) -> list[str]:
        """For people."""
        told = {
            f"taken from {name}": self.taken,
            f"taken from {name} where pieces are the same": self.rows,
            "drawn anew": self.drawn,
            f"left in {name}": self.left,
        }
        return [f"{heading}: {', '.join(paths)}" for heading, paths in told.items() if paths]


@dataclass(frozen=True)
class Origin:
    """Arrays to start from. shapes: of all there are. read: the NumPy values of some paths."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[list[str]], Params]
    tokenizer: Tokenizer | None


def starting_values(run_model: RunModel, origin: str, tokenizer: Tokenizer) -> tuple[Params, StartAccount]:
    """What the run's trainables begin with (float32, by path, sharded), and what became of every array.

    origin: `model.start_from`. tokenizer: of the run that begins.
    Raises: UserError where nothing fits, or what was trained there stood on other frozen weights.
    """
    found = open_origin(origin, run_model)
    account, values = account_of(found, run_model, tokenizer), run_model.initial_values()
    read = found.read([*account.taken, *account.rows])
    for path in account.taken:
        values[path] = put(np.asarray(read[path], np.float32), run_model.trainable[path].sharding)
    for path in account.rows:
        assert found.tokenizer is not None  # else there are no rows
        axis = run_model.skeleton.axes[path].index(VOCABULARY)
        values[path] = with_rows_of(values[path], read[path], axis, found.tokenizer.pieces, tokenizer.pieces)
    return values, account


def account_of(found: Origin, run_model: RunModel, tokenizer: Tokenizer) -> StartAccount:
    """What will become of every array; nothing is read. Raises: UserError where nothing fits."""
    account = StartAccount()
    is_same_vocabulary = found.tokenizer is not None and found.tokenizer.fingerprint == tokenizer.fingerprint
    for path, wanted in run_model.trainable.items():
        axes, stored = run_model.skeleton.axes[path], found.shapes.get(path)
        if stored is None or len(stored) != len(wanted.shape):
            account.drawn.append(path)
        elif VOCABULARY in axes and not is_same_vocabulary:
            _note_rows(path, axes.index(VOCABULARY), stored, wanted.shape, found, account)
        else:
            (account.taken if stored == wanted.shape else account.drawn).append(path)
    account.left = [path for path in found.shapes if path not in {*account.taken, *account.rows}]
    if not account.taken and not account.rows:
        raise UserError(f"model.start_from={found.name}: none of its {len(found.shapes)} arrays fits what trains here")
    return account


def _note_rows(
    path: str, axis: int, stored: tuple[int, ...], wanted: tuple[int, ...], origin: Origin, account: StartAccount
) -> None:
    others = [size for number, size in enumerate(stored) if number != axis]
    fits = origin.tokenizer is not None and others == [size for number, size in enumerate(wanted) if number != axis]
    (account.rows if fits else account.drawn).append(path)


def with_rows_of(drawn: jax.Array, other: np.ndarray, axis: int, theirs: list[str], ours: list[str]) -> jax.Array:
    """`drawn` with the rows (along `axis`) of those of our pieces that are among theirs, taken from `other`.

    Example: of ours [a, b] and theirs [b, c], row 1 becomes their row 0, and row 0 stays as drawn.
    """
    position = {piece: number for number, piece in enumerate(theirs) if number < other.shape[axis]}
    pairs = [(number, position[piece]) for number, piece in enumerate(ours) if piece in position]
    rows = np.zeros(drawn.shape, np.float32)
    is_known = np.zeros([size if number == axis else 1 for number, size in enumerate(drawn.shape)], bool)
    mine, their = np.array(pairs, np.int64).reshape(-1, 2).T
    np.moveaxis(rows, axis, 0)[mine] = np.moveaxis(np.asarray(other, np.float32), axis, 0)[their]
    np.moveaxis(is_known, axis, 0)[mine] = True
    blend = jax.jit(jnp.where, out_shardings=drawn.sharding)
    return blend(is_known, put(rows, drawn.sharding), drawn)


def find_origin(origin: str) -> tuple[str, str]:
    """Folder and step of RUN[:STEP], or of a folder of imported weights, whose step says nothing.

    Example: "runs/a:500" is ("runs/a", "500"), "runs/a" is ("runs/a", "last").
    Raises: UserError where it is neither. No array is read.
    """
    folder, colon, step = origin.rpartition(":")
    if not colon or not re.fullmatch(rf"(best|last|[0-9]+)({AVERAGED})?", step):
        folder, step = origin, "last"
    if base_folder.is_base(folder):
        return folder, step
    if not (paths.to_path(folder) / configs.CONFIG_FILE).exists():
        raise UserError(
            f"model.start_from={origin}: there is no run, it has no {configs.CONFIG_FILE}; give RUN[:STEP], where STEP "
            f"is a number, best or last, with {AVERAGED} the averages of it, or a folder of imported weights"
        )
    try:
        checkpoint.find_source(folder, step)
    except UserError as error:
        raise UserError(f"model.start_from={origin}: {error}") from None
    return folder, step


def open_origin(origin: str, run_model: RunModel) -> Origin:
    """What `find_origin` finds. Raises: UserError, also where it fits another base."""
    folder, step = find_origin(origin)
    if base_folder.is_base(folder):
        shapes = {path: tuple(leaf.shape) for path, leaf in base_folder.paths(folder).items()}
        tokenizer = _tokenizer(folder) if find_tokenizer(folder) else None
        return Origin(folder, shapes, lambda paths: _read(folder, paths), tokenizer)
    options, values = configs.read_run(folder), checkpoint.load_params(folder, step)
    _check_frozen(folder, options, values, run_model)
    shapes = {path: value.shape for path, value in values.items()}
    return Origin(folder, shapes, lambda paths: {path: values[path] for path in paths}, _tokenizer(folder))


def _tokenizer(folder: str) -> Tokenizer:
    return Tokenizer.load(folder)


def _read(folder: str, paths: list[str]) -> Params:
    stored = base_folder.paths(folder)
    return {path: np.asarray(x) for path, x in base_folder.restore(folder, {p: stored[p] for p in paths}).items()}


def _check_frozen(folder: str, options: RunOptions, trained: Params, run_model: RunModel) -> None:
    """Raises: UserError where arrays that are frozen in both runs have other values in each."""
    shared = [path for path in skeleton(options.model).shapes if path not in trained and path in run_model.frozen]
    if not shared:
        return
    if _real_path(options.base) != _real_path(run_model.base):
        raise UserError(
            f"model.start_from={folder}: was trained on model.base={options.base!r}, not on {run_model.base!r}; "
            f"give --config.model.base={options.base}"
        )
    if not options.base and options.seed != run_model.seed:
        raise UserError(
            f"model.start_from={folder}: its frozen weights were drawn from seed {options.seed}, not "
            f"{run_model.seed}; give --config.seed={options.seed}"
        )


def _real_path(folder: str) -> str:
    return os.path.realpath(folder) if folder and "://" not in folder else folder
