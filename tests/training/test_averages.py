"""Averages of what trains: their values, their names, and that a resumed run has the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax import make_data, train
from igllm_jax.errors import UserError
from igllm_jax.interop import exporting
from igllm_jax.models.params import unnest
from igllm_jax.parallel.sharding import MeshOptions, one_device
from igllm_jax.training import metrics_log, optim
from igllm_jax.training.state import TrainState, initial_state
from igllm_jax.weights import checkpoint
from igllm_jax.weights.run_model import RunModel
from igllm_jax.weights.start_from import open_origin
from igllm_jax.weights.trained_model import load_run
from tests import runs
from tests.training.test_step import OPTIONS


def test_an_average_follows_what_trains():
    options = replace(OPTIONS, ema_decay=0.75)
    params, grads = ({"projector": {"w": jnp.array(values)}} for values in ([1.0, 2.0], [0.5, -0.25]))
    state, expected = initial_state(params, options), np.array([1.0, 2.0])
    tx, optimizer_state = optim.optimizer(options), state.optimizer
    for _ in range(3):
        updates, optimizer_state = tx.update(grads, optimizer_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        expected = 0.75 * expected + 0.25 * np.asarray(params["projector"]["w"])
    np.testing.assert_allclose(optim.averages(optimizer_state)["projector"]["w"], expected, rtol=1e-6)
    assert not np.allclose(expected, params["projector"]["w"])
    assert optim.averages(initial_state(params, OPTIONS).optimizer) is None


@pytest.mark.slow
def test_a_resumed_run_has_the_same_averages(tmp_path, monkeypatch):
    on = MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, jax.devices()[:1]))  # compiles sooner
    make_data.main(["twod", "--out", str(tmp_path), "--num_train", "24", "--num_val", "8"])
    changes = {"optim__ema_decay": 0.9, "eval__best_metric": "val_ema/loss", "eval__loss_every": 2}
    changes |= {"train__num_steps": 4, "train__checkpoint_every": 2, "eval__loss_samples": 8, "optim__lr": 1e-2}
    workdir = tmp_path / "run"
    words = runs.arguments(workdir, tmp_path, **changes)
    assert train.main(words) == 0
    whole = checkpoint._load(workdir / "checkpoints" / "4" / "optimizer")
    lines = [line for line in metrics_log.read(workdir / "metrics.jsonl") if "val/loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line["val_ema/loss"] != line["val/loss"] for line in lines)
    assert checkpoint.read_meta(workdir)["scores"]["val_ema/loss"] == lines[-1]["val_ema/loss"]
    check_what_reads_averages(workdir, unnest(whole[-1]["params"]))
    checkpoint.go_back(workdir, "2")
    assert train.main(words) == 0
    again = checkpoint._load(workdir / "checkpoints" / "4" / "optimizer")
    assert len(jax.tree.leaves(whole)) == len(jax.tree.leaves(again)) > 0
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def check_what_reads_averages(workdir, kept):
    """Whatever takes a step of a run takes its averages by `_ema`. kept: those of its last step, by path."""
    raw = checkpoint.load_params(workdir)
    assert kept.keys() == raw.keys() and any(not np.array_equal(kept[path], raw[path]) for path in raw)
    assert checkpoint.find_source(workdir, "last_ema") == (4, "4_ema")
    for found in (
        checkpoint.load_params(workdir, "best_ema"),
        load_run(workdir, "last_ema").params,
        exporting.from_run(workdir, "4_ema").arrays,
        open_origin(f"{workdir}:4_ema", RunModel.of(configs.read_run(workdir), one_device())).read([*kept]),
    ):
        assert all(np.array_equal(found[path], value) for path, value in kept.items())


def test_a_run_without_averages_says_so(tmp_path):
    params = {"projector": {"w": jnp.zeros(2)}}
    state = initial_state(params, OPTIONS)
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    checkpoints.save(TrainState(jnp.int32(3), state.params, state.optimizer), {}, None)
    checkpoints.close()
    with pytest.raises(UserError, match=r"step 3 keeps no averages: it was trained with optim.ema_decay=0"):
        checkpoint.load_params(tmp_path, "last_ema")
    with pytest.raises(UserError, match="no checkpoint '7'; there are 3"):
        checkpoint.load_params(tmp_path, "7_ema")


def test_the_best_by_averages_needs_averages():
    words = ["--config=tiny", "--config.eval.best_metric=val_ema/loss"]
    with pytest.raises(UserError, match=r"eval.best_metric is 'val_ema/loss'; choose one of"):
        configs.load(words)
    assert configs.best_metric(configs.load([*words, "--config.optim.ema_decay=0.9"])[0]) == "val_ema/loss"
    with pytest.raises(UserError, match="nor end with _ema"):
        configs.load(["--config=tiny", "--config.data.val_sets=(('a_ema', 'x.tar'),)"])
