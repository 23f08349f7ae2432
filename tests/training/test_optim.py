"""The table of what trains, and the schedule."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.models.vlm import skeleton
from igllm_jax.training import optim
from tests import small
from tests.training.test_step import OPTIONS


def test_every_parameter_has_a_group():
    paths = skeleton(small.model()).shapes
    groups = optim.groups(paths, "lora")
    assert set(groups) == set(paths)
    assert {groups[path] for path in paths if "/lora_" in path} == {"lora"}
    assert groups["decoder/embedding"] == groups["vision/class_embedding"] == "frozen"
    assert "frozen" not in optim.groups(paths, "full").values()


def test_an_unmatched_parameter_is_an_error():
    with pytest.raises(UserError, match=r"no pattern .* matches .*elsewhere/kernel"):
        optim.groups(["elsewhere/kernel"], "lora")
    with pytest.raises(UserError, match="choose one of"):
        optim.groups([], "lor")


def test_schedule_is_linear_then_a_cosine_to_zero():
    from dataclasses import replace

    rate = optim.schedule(2.0, replace(OPTIONS, warmup=0.1, num_steps=100))
    found = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(found, [0.0, 1.0, 2.0, 1.0, 0.0], atol=1e-6)
