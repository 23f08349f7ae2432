"""The table of tasks."""

import pytest

from igllm_jax.errors import UserError
from igllm_jax.scene.rotations import REPRESENTATIONS
from igllm_jax.scene.tasks import TASKS, check_rotation_unit, find_task


def test_attributes_in_written_order() -> None:
    assert TASKS["clevr"].attributes == ("size", "color", "material", "shape", "loc", "rotation")
    assert TASKS["twod"].attributes == ("x", "y")


def test_representations_of_each_task() -> None:
    assert TASKS["clevr"].representation("") is TASKS["clevr"].representation("yaw") is REPRESENTATIONS["yaw"]
    assert TASKS["twod"].representation("") is None
    for name in ("so3", "sixdof", "shapenet"):
        for rotation_rep in ("euler", "euler_int", "aa", "6d", "quat"):
            assert TASKS[name].representation(rotation_rep) is REPRESENTATIONS[rotation_rep]


@pytest.mark.parametrize(("task", "rotation_rep"), [("clevr", "6d"), ("twod", "yaw"), ("so3", ""), ("so3", "yaw")])
def test_a_representation_that_the_task_has_not(task: str, rotation_rep: str) -> None:
    with pytest.raises(UserError, match=f"does not exist for task {task}; choose one of"):
        TASKS[task].representation(rotation_rep)


def test_unknown_names_are_said_with_those_that_exist() -> None:
    with pytest.raises(UserError, match="no task 'clever'; choose one of clevr, twod"):
        find_task("clever")
    with pytest.raises(UserError, match="rotation_unit='degrees' is unknown"):
        check_rotation_unit("degrees")
    assert find_task(TASKS["so3"]) is find_task("so3")
