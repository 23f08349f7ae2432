"""Checkpoints: round trip, what is kept, what is refused, and how a notebook opens them."""

import json
import shutil
from collections import namedtuple

import jax
import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.models.params import nest, unnest
from igllm_jax.training.state import TrainState, initial_state
from igllm_jax.weights import checkpoint
from igllm_jax.weights.checkpoint import Checkpoints, find_step, go_back, load_params, read_meta
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


@pytest.fixture
def two_steps(workdir, tmp_path):
    """A copy of the run, of which steps 2 and 4 are kept."""
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "run"


def flip(run, step, item):
    """Flips one bit in the largest file of an item's arrays; what each process wrote is stale once it was merged."""
    file = max((run / "checkpoints" / str(step) / item / "d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("item", ["params", "optimizer"])
def test_a_flipped_bit_is_noticed_and_the_newest_whole_step_named(two_steps, state, item):
    flip(two_steps, 4, item)
    told = r"checkpoints/4 is damaged \(.+\); the newest whole one is step 2: take it with --step 2"
    checkpoints = Checkpoints(two_steps, keep=1)
    with pytest.raises(UserError, match=told):
        checkpoints.restore(4, state)
    checkpoints.close()
    if item == "params":
        with pytest.raises(UserError, match=told):
            load_params(two_steps)
        flip(two_steps, 2, "optimizer")
        with pytest.raises(UserError, match=r"4 is damaged \(.+\); no other step is whole"):
            load_params(two_steps)
    assert set(load_params(two_steps, "2")) == set(unnest(state.params))


def test_what_differs_from_its_checksum_is_named(two_steps, state):
    file = two_steps / "checkpoints" / "4" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    path = next(path for path in meta["checksums"] if path.startswith("params/"))
    file.write_text(json.dumps(meta | {"checksums": meta["checksums"] | {path: 1}}))
    with pytest.raises(UserError, match=f"damaged .{path} is not what was saved"):
        load_params(two_steps)
    file.write_text("{")
    checkpoints = Checkpoints(two_steps, keep=1)
    with pytest.raises(UserError, match="checkpoints/4 is damaged"):
        checkpoints.restore(4, state)
    checkpoints.close()


@pytest.mark.parametrize("damage", [
    ('"seed": 5', '"seed": 4'), ('"seed"', '"seee"'),
    ('"checksums"', '"checksuls"'), ('"meta/metadata"', '"meta/metadatb"'),
])  # fmt: skip
def test_a_flipped_bit_of_what_lies_beside_the_arrays_is_noticed(two_steps, state, damage):
    file = two_steps / "checkpoints" / "4" / "meta" / "metadata"
    text = json.dumps(json.loads(file.read_text()))
    assert text.count(damage[0]) == 1
    file.write_text(text.replace(*damage))
    checkpoints = Checkpoints(two_steps, keep=1)
    told = r"checkpoints/4 is damaged \(meta is not what was saved\); the newest whole one is step 2"
    for read in (read_meta, lambda workdir: checkpoints.restore(4, state)):
        with pytest.raises(UserError, match=told):
            read(two_steps)
    checkpoints.close()


def test_meta_of_another_step_or_of_something_else_is_noticed(two_steps):
    file = two_steps / "checkpoints" / "4" / "meta" / "metadata"
    for other in ("2/meta/metadata", "4/params/_METADATA"):
        file.write_bytes((two_steps / "checkpoints" / other).read_bytes())
        with pytest.raises(UserError, match=r"checkpoints/4 is damaged \(meta is not what was saved\)"):
            read_meta(two_steps)


def test_a_checkpoint_from_before_there_were_checksums_loads(two_steps, state):
    file = two_steps / "checkpoints" / "4" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    assert len(meta.pop("checksums")) > len(unnest(state.params))
    file.write_text(json.dumps(meta))
    checkpoints = Checkpoints(two_steps, keep=1)
    found, meta = checkpoints.restore(4, state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, found.params, state.params)
    assert meta == read_meta(two_steps) == {"seed": 5, "step": 4} and load_params(two_steps)


def test_only_what_was_scored_can_be_the_best(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(at(state, 1), {}, None)
    checkpoints.wait()
    with pytest.raises(UserError, match=r"no checkpoint was scored at its step.* choose last or one of 1"):
        find_step(tmp_path, "best")
    for step, score in ((2, 0.5), (3, None), (4, 0.7), (5, None)):
        checkpoints.save(at(state, step), {}, score)
    checkpoints.close()
    assert find_step(tmp_path, "best") == 2
    with pytest.raises(UserError, match="there are 2, 4, 5, last and best"):
        find_step(tmp_path, 3)


def test_scores_of_another_metric_are_not_compared(state, tmp_path):
    """As of a run that is resumed with eval.best_metric of another set; what is not a number is never the best."""
    for first, scored_by, scores in ((1, "val/loss", (0.1, 0.2)), (3, "val_OOD/l2", (float("nan"), 3.0, 5.0))):
        checkpoints = Checkpoints(tmp_path, keep=1, scored_by=scored_by)
        for step, score in enumerate(scores, first):
            checkpoints.save(at(state, step), {}, score)
        checkpoints.close()
        assert find_step(tmp_path, "best") == {1: 1, 3: 4}[first]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "5"}


def test_going_back_moves_later_steps_aside(two_steps):
    assert go_back(two_steps, "2") == 2 and find_step(two_steps, "last") == 2
    shutil.copytree(two_steps / "checkpoints" / "2", two_steps / "checkpoints" / "4")
    go_back(two_steps, 2)
    assert {path.name for path in (two_steps / checkpoint.ASIDE).iterdir()} == {"4", "4.1"}
    with pytest.raises(UserError, match="no checkpoint '7'"):
        go_back(two_steps, "7")


def test_a_full_disk_is_one_line_before_anything_is_written(two_steps, state, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage(10, 7, 3))
    checkpoints = Checkpoints(two_steps, keep=1)
    with pytest.raises(UserError, match=r"\(No space left on device: .* GB are needed.*is step 4"):
        checkpoints.save(at(state, 9), {}, None)
    checkpoints.close()
    assert checkpoints.has_failed and find_step(two_steps, "last") == 4
