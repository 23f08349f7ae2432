"""A run that goes on with more data than it began with, its images varied."""

import shutil

import jax
import numpy as np
import pytest

from igllm_jax import make_data, train
from igllm_jax.data.tokens import MODEL_FILE
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.weights import checkpoint
from tests import runs

VARIED = {f"data__augment__{key}": value for key, value in (("flip", True), ("contrast", 0.4), ("noise", 0.1))}
STILL = {f"optim__{key}": 0.0 for key in ("lr", "projector_lr", "float_head_lr")}
CHANGES = {"train__checkpoint_every": 2, "eval__loss_every": 0, "head": "none", **VARIED}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folders: the points of the first are the first of the second's."""
    few, many = (tmp_path_factory.mktemp(name) for name in ("few", "many"))
    make_data.main(["twod", "--out", str(many), "--num_train", "41", "--num_val", "4"])
    with np.load(many / "2d.npz") as found:
        points = dict(found)
    np.savez(few / "2d.npz", **{**points, "checkerboard_sparse": points["checkerboard_sparse"][:17]})
    return few, many


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    on = MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, jax.devices()[:1]))  # compiles sooner


@pytest.mark.slow
def test_the_order_is_that_of_a_run_which_always_had_them(data, tmp_path):
    few, many = data
    train.main(runs.arguments(tmp_path / "always", many, train__num_steps=5, **CHANGES, **STILL))
    (tmp_path / "grown").mkdir()
    shutil.copy(tmp_path / "always" / MODEL_FILE, tmp_path / "grown")  # else it would have been trained on few
    train.main(runs.arguments(tmp_path / "grown", few, train__num_steps=2, **CHANGES, **STILL))
    grown = runs.arguments(tmp_path / "grown", many, train__num_steps=5, **CHANGES, **STILL)
    with pytest.raises(UserError, match=r"24 scenes are new .*--accept_changed_data"):
        train.main(grown)
    assert train.main([*grown, "--accept_changed_data"]) == 0
    # at a rate of 0 a loss is a function of the rows that the step saw
    always, found = runs.losses(tmp_path / "always"), runs.losses(tmp_path / "grown")
    assert [found[step] for step in (3, 4, 5)] == [always[step] for step in (3, 4, 5)]
    assert found[1] != always[1] and len(set(found.values())) == 5


@pytest.mark.slow
def test_it_is_resumed_bit_for_bit(data, tmp_path):
    few, many = data
    trains = {**CHANGES, "optim__lr": 1e-3}
    train.main(runs.arguments(tmp_path, few, train__num_steps=2, **trains))
    words = [*runs.arguments(tmp_path, many, train__num_steps=6, **trains), "--accept_changed_data"]
    train.main(words)
    whole, params = runs.losses(tmp_path), checkpoint.load_params(tmp_path)
    checkpoint.go_back(tmp_path, "4")
    train.main(words[:-1])  # what was accepted is the run's data from now on
    assert runs.losses(tmp_path) == whole and set(whole) == {1, 2, 3, 4, 5, 6}
    again = checkpoint.load_params(tmp_path)
    assert all(np.array_equal(again[path], value) for path, value in params.items())
