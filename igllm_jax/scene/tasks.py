"""The tasks as one table: what a scene's label holds and how its code says it."""

from dataclasses import dataclass

from igllm_jax.errors import UserError
from igllm_jax.scene.rotations import REPRESENTATIONS, Representation

ROTATION_UNITS = ("deg", "rad")


@dataclass(frozen=True)
class Task:
    """What one task's labels and code look like.

    words: attributes that are words, in the order of the code (only those that the label has are written).
    location_keys: ("loc",) for one triple `loc=(N, N, N)`, ("x", "y") for two single numbers; it comes after the words.
    location_size: how many numbers a location has.
    rotation_size: how many numbers a label's `rotation` has: 0 none, 1 CLEVR's yaw, 3 extrinsic xyz Euler radians.
    rotation_reps: legal values of `rotation_rep`; names in REPRESENTATIONS, or "" where nothing is to be chosen.
    number_format: how a number is written where numbers are text.
    """

    name: str
    words: tuple[str, ...]
    location_keys: tuple[str, ...]
    location_size: int
    rotation_size: int
    rotation_reps: tuple[str, ...]
    number_format: str

    @property
    def attributes(self) -> tuple[str, ...]:
        """Every keyword of the code, in written order."""
        return self.words + self.location_keys + (("rotation",) if self.rotation_size else ())

    def representation(self, rotation_rep: str) -> Representation | None:
        """The rotation representation that `rotation_rep` names, or None for a task without rotations.

        Raises: UserError where the task does not have that representation.
        """
        if rotation_rep not in self.rotation_reps:
            legal = ", ".join(repr(name) for name in self.rotation_reps)
            raise UserError(f"rotation_rep={rotation_rep!r} does not exist for task {self.name}; choose one of {legal}")
        if not self.rotation_size:
            return None
        return REPRESENTATIONS[rotation_rep or "yaw"]


_WORDS = ("size", "color", "material", "shape")
_FREE_ROTATION = tuple(name for name in REPRESENTATIONS if name != "yaw")


def _task_3d(name: str, rotation_size: int, rotation_reps: tuple[str, ...]) -> Task:
    return Task(
        name=name,
        words=_WORDS,
        location_keys=("loc",),
        location_size=3,
        rotation_size=rotation_size,
        rotation_reps=rotation_reps,
        number_format="{:+.3f}",
    )


TASKS: dict[str, Task] = {
    "clevr": _task_3d("clevr", rotation_size=1, rotation_reps=("", "yaw")),
    "twod": Task(
        name="twod",
        words=(),
        location_keys=("x", "y"),
        location_size=2,
        rotation_size=0,
        rotation_reps=("",),
        number_format="{:.3f}",
    ),
    "so3": _task_3d("so3", rotation_size=3, rotation_reps=_FREE_ROTATION),
    "sixdof": _task_3d("sixdof", rotation_size=3, rotation_reps=_FREE_ROTATION),
    "shapenet": _task_3d("shapenet", rotation_size=3, rotation_reps=_FREE_ROTATION),
}


def find_task(task: Task | str) -> Task:
    """The task of that name (a Task passes through).

    Raises: UserError with the names that exist.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise UserError(f"there is no task {task!r}; choose one of {', '.join(TASKS)}")
    return TASKS[task]


def check_rotation_unit(unit: str) -> str:
    """`unit` itself if it is one of ROTATION_UNITS; raises UserError otherwise."""
    if unit not in ROTATION_UNITS:
        raise UserError(f"rotation_unit={unit!r} is unknown; choose one of {', '.join(ROTATION_UNITS)}")
    return unit
