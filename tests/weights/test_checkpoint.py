"""Checkpoints: round trip, what is kept, what is refused, and how a notebook opens them."""

import jax
import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.models.params import nest, unnest
from igllm_jax.training.state import TrainState, initial_state
from igllm_jax.weights.checkpoint import Checkpoints, find_step, load_params
from tests import small
from tests.training.test_step import OPTIONS


@pytest.fixture(scope="module")
def state():
    params = {path: value for path, value in small.params(small.model()).items() if "lora_" in path}
    return jax.device_put(initial_state(nest(params), OPTIONS), jax.devices()[0])


def at(state, step):
    return TrainState(jax.device_put(np.int32(step), jax.devices()[0]), state.params, state.optimizer)


@pytest.fixture(scope="module")
def workdir(state, tmp_path_factory):
    """Steps 1 to 4, of which 2 was the best; the last one and the best are kept."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder, keep=1)
    for step, score in enumerate([0.4, 0.1, 0.3, 0.2], start=1):
        checkpoints.save(at(state, step), {"seed": 5}, score)
    checkpoints.close()
    return folder


def test_the_last_and_the_best_are_kept(workdir):
    assert find_step(workdir, "last") == 4
    assert find_step(workdir, "best") == 2
    assert find_step(workdir, "2") == 2
    with pytest.raises(UserError, match=r"no checkpoint '3'; there are 2, 4, last and best"):
        find_step(workdir, "3")
    with pytest.raises(UserError, match="holds no finished checkpoint"):
        find_step(workdir / "elsewhere", "last")


def test_a_restored_state_is_the_saved_one(workdir, state):
    checkpoints = Checkpoints(workdir, keep=1)
    found, meta = checkpoints.restore(4, state)
    checkpoints.close()
    assert int(found.step) == 4 and meta == {"seed": 5, "step": 4}
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.optimizer), (state.params, state.optimizer))


def test_load_params_gives_numpy_arrays_by_path(workdir, state):
    found = load_params(workdir, "best")
    wanted = unnest(state.params)
    assert set(found) == set(wanted) and all(isinstance(value, np.ndarray) for value in found.values())
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value)


def test_saving_goes_on_in_the_background(tmp_path):
    """64 MiB that don't compress take far longer to write than `save` takes to come back."""
    values = np.random.default_rng(0).random((16, 1024, 1024), np.float32)
    state = TrainState(np.int32(3), {"w": jax.device_put(values, jax.devices()[0])}, {"count": np.zeros(1)})
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state, {}, None)
    assert checkpoints.manager.is_saving_in_progress()
    checkpoints.wait()
    assert not checkpoints.manager.is_saving_in_progress() and find_step(tmp_path, "last") == 3
    checkpoints.close()
    np.testing.assert_array_equal(load_params(tmp_path)["w"], values)


def test_what_an_interrupted_save_left_is_removed_by_the_next_run_alone(state, tmp_path):
    """Readers leave it: the run may be saving just now."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(at(state, 3), {}, 0.5)
    checkpoints.close()
    left = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp" / "params"
    left.mkdir(parents=True)
    assert find_step(tmp_path, "last") == find_step(tmp_path, "best") == 3
    assert load_params(tmp_path) and left.is_dir()
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.latest() == 3
    checkpoints.save(at(state, 7), {}, None)
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"3", "7"}  # the best, the last


def test_another_shape_or_dtype_is_refused(workdir, state):
    params = unnest(state.params)
    path = next(iter(params))
    other = {**params, path: params[path].astype(np.float16)}
    checkpoints = Checkpoints(workdir, keep=1)
    with pytest.raises(UserError, match=f"{path} is float32.* there and float16"):
        checkpoints.restore(4, TrainState(state.step, nest(other), state.optimizer))
    checkpoints.close()
