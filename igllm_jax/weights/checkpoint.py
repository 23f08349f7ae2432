"""Checkpoints of a run: what trains, its optimizer and what belongs to them; the frozen base by reference.

`workdir/checkpoints/STEP/` holds `params` (nested, float32), `optimizer` and `meta` (JSON). STEP counts finished steps.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from igllm_jax.errors import UserError
from igllm_jax.models.params import Params, unnest
from igllm_jax.training.state import TrainState

FOLDER = "checkpoints"
SCORE = "score"  # smaller is better
ITEMS = ("params", "optimizer", "meta")


class Checkpoints:
    """Saves and restores the states of one run; keeps the last `keep` and the best.

    What an interrupted save left is removed before the next save: one run at a time owns the folder.
    """

    def __init__(self, workdir: Path, *, keep: int):
        policies = checkpoint_managers
        best = policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            best_fn=_rank,
            best_mode="max",
            step_prefix=None,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self.folder = Path(workdir).absolute() / FOLDER
        self.manager = ocp.CheckpointManager(self.folder, options=options, item_names=ITEMS)

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None) -> None:
        """Starts saving `state` in the background. score: smaller is better; None where nothing was measured."""
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave(state.optimizer),
            meta=ocp.args.JsonSave({**meta, "step": step}),
        )
        self.manager.save(step, args=items, metrics=None if score is None else {SCORE: float(score)}, force=True)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of `step`, sharded as `like` (arrays or ShapeDtypeStructs with shardings), and its meta.

        Raises: UserError where shapes or dtypes are not those of `like` (Orbax would cast in silence).
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, (like.params, like.optimizer))
        self._check(step, target[0])
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target[0]),
            optimizer=ocp.args.StandardRestore(target[1]),
            meta=ocp.args.JsonRestore(),
        )
        found = self.manager.restore(step, args=items)
        at = jax.device_put(jnp.int32(step), like.step.sharding)
        return TrainState(at, found["params"], found["optimizer"]), found["meta"]

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
        """Until what was saved is on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def _rank(metrics: Any) -> float:
    return -metrics[SCORE]


def _spelled(array: Any) -> str:
    return "absent" if array is None else f"{np.dtype(array.dtype).name}{tuple(array.shape)}"


def _metadata(folder: Path) -> dict[str, Any]:
    """Nested shapes and dtypes of a checkpoint's params; nothing is loaded."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.metadata(folder / "params").item_metadata.tree


def find_step(workdir: Path | str, step: int | str) -> int:
    """The number of `last`, `best` or a step that exists.

    Raises: UserError naming the steps that exist.
    """
    folder = Path(workdir).absolute() / FOLDER
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not steps:
        raise UserError(f"{workdir} holds no finished checkpoint under {FOLDER}/")
    if step == "last":
        return max(steps)
    if step == "best":
        # a reader only: the run may be saving just now
        options = ocp.CheckpointManagerOptions(best_fn=_rank, best_mode="max", read_only=True)
        with ocp.CheckpointManager(folder, options=options, item_names=ITEMS) as manager:
            best = manager.best_step()
        return max(steps) if best is None else best
    if str(step).isdigit() and int(step) in steps:
        return int(step)
    raise UserError(
        f"{workdir} has no checkpoint {step!r}; there are {', '.join(map(str, sorted(steps)))}, last and best"
    )


def load_params(workdir: Path | str, step: int | str = "last") -> Params:
    """Everything that trained, as NumPy arrays by path, whatever mesh and number of processes wrote it.

    workdir: of a run. step: a number, "last" or "best".
    """
    folder = Path(workdir).absolute() / FOLDER / str(find_step(workdir, step)) / "params"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return unnest(checkpointer.restore(folder, restore_args=restore_args))
