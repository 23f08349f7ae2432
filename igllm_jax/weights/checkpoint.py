"""Checkpoints of a run: what trains, its optimizer and what belongs to them; the frozen base by reference.

`workdir/checkpoints/STEP/` holds `params` (nested, float32), `optimizer` and `meta` (JSON, with a checksum for every
array, which restoring checks). STEP counts finished steps.
"""

import contextlib
import errno
import functools
import itertools
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from igllm_jax import files, paths
from igllm_jax.errors import UserError
from igllm_jax.models.params import Params, unnest
from igllm_jax.paths import FilePath
from igllm_jax.training.optim import AVERAGED
from igllm_jax.training.state import TrainState
from igllm_jax.weights.background import hush_failures
from igllm_jax.weights.checksums import checksums

FOLDER = "checkpoints"
ASIDE = "checkpoints_set_aside"
SCORE, SCORED_BY = "score", "by"  # smaller is better; the metric that it is of
ITEMS = ("params", "optimizer", "meta")
ARRAYS = ("params", "optimizer")
CHECKSUMS = "checksums"  # in meta; checkpoints from before they were kept have none
META_SUM = "meta/metadata"  # among them: of all else that meta holds


def check_workdir(workdir: str | FilePath) -> None:
    """Raises: UserError for a bucket in which checkpoints can't be kept."""
    if str(workdir).startswith("s3://"):
        raise UserError(
            f"--workdir {workdir}: checkpoints are saved by renaming, which s3:// cannot; give a path or gs://. Data, "
            "weights and every other output may lie on s3://"
        )


class Checkpoints:
    """Saves and restores the states of one run; keeps the last `keep` and the best.

    What an interrupted save left is removed before the next save: one run at a time owns the folder.
    """

    def __init__(self, workdir: str | FilePath, *, keep: int, scored_by: str = ""):
        """scored_by: the metric whose values `save` gets. Raises: UserError where the folder can't be opened."""
        check_workdir(workdir)
        self.scored_by, policies = scored_by, checkpoint_managers
        rank = functools.partial(_rank, scored_by=scored_by)
        best = policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=rank,
            best_mode="max",
            step_prefix=None,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self.folder = paths.absolute(workdir) / FOLDER
        self.has_failed = False  # whether a save could not be written
        try:
            self.manager = ocp.CheckpointManager(str(self.folder), options=options, item_names=ITEMS)
        except Exception as error:  # Orbax has no errors of its own
            raise UserError(f"{self.folder}: can't be opened ({_reason(error)})") from None

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None) -> None:
        """Starts saving `state` in the background. score: smaller is better; None where nothing was measured at it.

        Raises: UserError where this save, or the one before, found no room; what was saved before stays.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        self._check_room(state)
        sums, about = checksums({"params": state.params, "optimizer": state.optimizer}), {**meta, "step": step}
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(state.optimizer),
            meta=ocp.args.JsonSave({**about, CHECKSUMS: {**sums, META_SUM: _json_sum(about)}}),
        )
        hush_failures()
        metrics = None if score is None else {SCORE: float(score), SCORED_BY: self.scored_by}
        with self._told():
            self.manager.save(step, args=items, metrics=metrics, force=True)

    def _check_room(self, state: TrainState) -> None:
        """Raises: UserError where the disk has less room than the arrays take; a bucket has room."""
        if paths.is_remote(self.folder):
            return
        needed = sum(array.nbytes for array in jax.tree.leaves((state.params, state.optimizer)))
        with self._told():
            free = shutil.disk_usage(self.folder).free
            if free < needed:  # what is being saved just now will let an older one go
                self.manager.wait_until_finished()
                free = shutil.disk_usage(self.folder).free
            if free < needed:
                sizes = f"{needed / 1e9:.3g} GB are needed, {free / 1e9:.3g} GB are free"
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {sizes}")

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of `step`, sharded as `like` (arrays or ShapeDtypeStructs with shardings), and its meta.

        Raises: UserError where shapes or dtypes are not those of `like` (Orbax would cast in silence), and where the
            checkpoint is damaged.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, (like.params, like.optimizer))
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target[0]),
            optimizer=ocp.args.StandardRestore(target[1]),
            meta=ocp.args.JsonRestore(),
        )
        with _whole(self.folder, step):
            self._check(step, target[0])
            found = self.manager.restore(step, args=items)
            state = {name: found[name] for name in ARRAYS}
            meta, sums = _split_meta(found["meta"], step)
            _compare(checksums(state), sums)
        at = jax.device_put(jnp.int32(step), like.step.sharding)
        return TrainState(at, found["params"], found["optimizer"]), meta

    def _check(self, step: int, target: Any) -> None:
        found = unnest(_metadata(self.folder / str(step)))
        wanted = unnest(target)
        wrong = [path for path in wanted if path not in found] + [path for path in found if path not in wanted]
        wrong += [p for p in wanted if p in found and _spelled(wanted[p]) != _spelled(found[p])]
        if wrong:
            path = wrong[0]
            raise UserError(
                f"checkpoint {self.folder / str(step)} does not fit the config: {path} is {_spelled(found.get(path))} "
                f"there and {_spelled(wanted.get(path))} here ({len(wrong)} such); use the config that made it"
            )

    def wait(self) -> None:
        """Until what was saved is on disk. Raises: UserError where it could not be written."""
        with self._told():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """As `wait`, and no more can be saved."""
        with self._told():
            self.manager.wait_until_finished()
            self.manager.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # Orbax and tensorstore hand on whatever a file system said
            self.has_failed = True
            good = _steps(self.folder)
            last = f"the last good one is step {max(good)}" if good else "there is none before it"
            raise UserError(f"{self.folder}: a checkpoint was not saved ({_reason(error)}); {last}") from None


def _rank(metrics: Any, scored_by: str) -> float:
    """Larger is better. What was scored by another metric, or is not a number, is worse than anything."""
    is_comparable = metrics.get(SCORED_BY, scored_by) == scored_by and not math.isnan(metrics[SCORE])
    return -metrics[SCORE] if is_comparable else -math.inf


class _DamagedError(Exception):
    """What of a checkpoint is not as it was saved."""


def _compare(found: dict[str, int], saved: dict[str, int]) -> None:
    """Raises: _DamagedError naming the first array that is not what was saved."""
    wrong = [path for path, value in saved.items() if found.get(path) != value]
    if wrong:
        count = f" ({len(wrong)} such)" if len(wrong) > 1 else ""
        raise _DamagedError(f"{wrong[0]} is not what was saved{count}")


@contextlib.contextmanager
def _whole(folder: FilePath, step: int) -> Iterator[None]:
    """Turns whatever goes wrong while `folder/step` is read into one line that names a way on. Raises: UserError."""
    hush_failures()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax, tensorstore, JSON and zstd each have errors of their own
        others = sorted((other for other in _steps(folder) if other != step), reverse=True)
        good = next((other for other in others if _is_whole(folder / str(other))), None)
        way = (
            "no other step is whole"
            if good is None
            else f"the newest whole one is step {good}: take it with --step {good}"
        )
        raise UserError(f"checkpoint {folder / str(step)} is damaged ({_reason(error)}); {way}") from None


def _is_whole(folder: FilePath) -> bool:
    try:
        _, sums = _read_meta(folder)
        _compare(checksums({name: _load(folder / name) for name in ARRAYS}), sums)
    except Exception:  # as above: whatever it is, the checkpoint can't be read
        return False
    return True


def _reason(error: BaseException) -> str:
    """The one line of an error that helps: what the system said, where it is a system's error."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:197] + "..."


def _steps(folder: FilePath) -> list[int]:
    return sorted(ocp.utils.checkpoint_steps(str(folder))) if folder.is_dir() else []


def _read_meta(folder: FilePath) -> tuple[dict[str, Any], dict[str, int]]:
    return _split_meta(json.loads((folder / "meta" / "metadata").read_bytes()), int(folder.name))


def _split_meta(found: Any, step: int) -> tuple[dict[str, Any], dict[str, int]]:
    """What was saved beside the arrays, and the arrays' checksums: none of checkpoints from before there were any.

    Raises: _DamagedError where meta is not what was saved.
    """
    if not isinstance(found, dict) or not isinstance(found.get(CHECKSUMS, {}), dict):
        raise _DamagedError("meta is no JSON object")
    meta = {key: value for key, value in found.items() if key != CHECKSUMS}
    sums = {**found.get(CHECKSUMS, {})}
    is_same = sums.pop(META_SUM, None) in (None, _json_sum(meta))
    is_known = all(path.partition("/")[0] in ARRAYS for path in sums)  # else that of meta goes by a damaged name
    is_apart = not any(isinstance(value, dict) and META_SUM in value for value in meta.values())
    if not (is_same and is_known and is_apart and meta.get("step") == step):
        raise _DamagedError("meta is not what was saved")
    return meta, sums


def _json_sum(value: Any) -> int:
    """CRC-32 of a value as JSON, whatever the order of its keys."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode())


def _spelled(array: Any) -> str:
    return "absent" if array is None else f"{np.dtype(array.dtype).name}{tuple(array.shape)}"


def _metadata(folder: FilePath) -> dict[str, Any]:
    """Nested shapes and dtypes of a checkpoint's params; nothing is loaded."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(str(folder / "params")).item_metadata.tree


def count(workdir: str | FilePath) -> int:
    """How many finished checkpoints there are."""
    return len(_steps(paths.absolute(workdir) / FOLDER))


def newest_step(workdir: str | FilePath) -> int:
    """The number of the last finished checkpoint, 0 where there is none."""
    return max(_steps(paths.absolute(workdir) / FOLDER), default=0)


def find_step(workdir: str | FilePath, step: int | str) -> int:
    """The number of `last`, `best` or a step that exists.

    Raises: UserError naming the steps that exist, and for `best` where no checkpoint was scored.
    """
    folder = paths.absolute(workdir) / FOLDER
    steps = _steps(folder)
    if not steps:
        raise UserError(f"{workdir} holds no finished checkpoint under {FOLDER}/")
    if step == "last":
        return max(steps)
    if step == "best":
        return _best(folder, steps)
    if str(step) in map(str, steps):
        return int(step)
    raise UserError(f"{workdir} has no checkpoint {step!r}; there are {', '.join(map(str, steps))}, last and best")


def _best(folder: FilePath, steps: list[int]) -> int:
    # a reader only: the run may be saving just now; scores are kept for those who say how they rank
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: -metrics[SCORE], best_mode="max", read_only=True)
    try:
        with ocp.CheckpointManager(str(folder), options=options, item_names=ITEMS) as manager:
            scores = {step: found for step in sorted(steps) if (found := manager.metrics(step)) is not None}
        # a resumed run may score by another metric than before: the newest counts
        scored_by = next((found[SCORED_BY] for found in reversed(scores.values()) if SCORED_BY in found), "")
        ranks = {step: _rank(found, scored_by) for step, found in scores.items()}
    except Exception as error:  # a damaged file of scores
        raise UserError(f"{folder}: the scores can't be read ({_reason(error)}); choose a step or last") from None
    best = max(ranks, key=lambda step: (ranks[step], step), default=None)
    if best is None or ranks[best] == -math.inf:
        raise UserError(
            f"{folder}: no checkpoint was scored at its step, so none is the best; choose last or one of "
            f"{', '.join(map(str, steps))}. eval.loss_every, for scene metrics eval.generate_every, and "
            "train.checkpoint_every say which steps are both"
        )
    return best


def go_back(workdir: str | FilePath, step: int | str) -> int:
    """Makes `step` the last checkpoint, to train on from there: later ones are moved to `checkpoints_set_aside/`.

    Returns the step's number. Raises: UserError where it does not exist, or nothing can be moved.
    """
    found = find_step(workdir, step)
    folder = paths.absolute(workdir)
    try:
        for later in (other for other in _steps(folder / FOLDER) if other > found):
            names = (f"{later}.{number}" if number else str(later) for number in itertools.count())
            target = next(folder / ASIDE / name for name in names if not (folder / ASIDE / name).exists())
            files.move_folder(folder / FOLDER / str(later), target)
    except OSError as error:
        raise UserError(f"{folder / ASIDE}: checkpoints can't be moved there ({error.strerror})") from None
    return found


def read_meta(workdir: str | FilePath, step: int | str = "last") -> dict[str, Any]:
    """What was saved with a checkpoint: seed, fingerprints, scores. Raises: UserError where it is damaged."""
    number = find_step(workdir, step)
    folder = paths.absolute(workdir) / FOLDER
    with _whole(folder, number):
        return _read_meta(folder / str(number))[0]


def find_source(workdir: str | FilePath, step: int | str) -> tuple[int, int | str]:
    """The number of a step as `load_params` takes it, and the same step with its number: (500, "500_ema").

    Raises: UserError as `find_step`.
    """
    name = str(step).removesuffix(AVERAGED)
    number = find_step(workdir, name)
    return number, number if name == str(step) else f"{number}{AVERAGED}"


def load_params(workdir: str | FilePath, step: int | str = "last") -> Params:
    """Everything that trained, as NumPy arrays by path, whatever mesh and number of processes wrote it.

    workdir: of a run. step: a number, "last" or "best"; with `_ema` behind it, the averages that the run keeps of it
    (optim.ema_decay). Raises: UserError where the checkpoint is damaged, or has no averages.
    """
    number, source = find_source(workdir, step)
    folder = paths.absolute(workdir) / FOLDER
    with _whole(folder, number):
        if source != number:
            tree, prefix = _load_averages(folder / str(number) / "optimizer", f"{workdir}, step {number}")
        else:
            tree, prefix = _load(folder / str(number) / "params"), "params/"
        _, saved = _read_meta(folder / str(number))
        found = {f"{prefix}{path}": value for path, value in checksums(tree).items()}
        _compare(found, {path: value for path, value in saved.items() if path.startswith(prefix)})
        return unnest(tree)


def _load(folder: FilePath) -> dict[str, Any]:
    """The arrays of one item of a checkpoint, NumPy's, nested as they were saved."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(str(folder)).item_metadata.tree
        return checkpointer.restore(str(folder), restore_args=_as_numpy(tree))


def _load_averages(folder: FilePath, name: str) -> tuple[dict[str, Any], str]:
    """Of an optimizer the averages alone, and what their paths begin with. Raises: UserError where it has none."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        parts = checkpointer.metadata(str(folder)).item_metadata.tree
        number = next((n for n, part in enumerate(parts) if part and set(part) == {"params"}), None)
        if number is None:
            raise UserError(f"{name} keeps no averages: it was trained with optim.ema_decay=0")
        others = jax.tree.map(lambda _: ocp.PLACEHOLDER, parts)
        wanted = [*others[:number], parts[number], *others[number + 1 :]]
        found = checkpointer.restore(str(folder), item=wanted, restore_args=_as_numpy(parts))
    return found[number]["params"], f"optimizer/{number}/params/"


def _as_numpy(tree: Any) -> Any:
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
