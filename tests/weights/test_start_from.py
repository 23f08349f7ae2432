"""Runs that start from another one: what is taken, drawn anew and left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax import make_data, train
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.weights import checkpoint
from igllm_jax.weights.start_from import with_rows_of
from tests import runs

# one step at rate 0 saves what the run began with
STILL = {"train__num_steps": 1, "eval__loss_every": 0, "optim__lr": 0.0} | {
    f"optim__{group}_lr": 0.0 for group in ("projector", "float_head")
}


def test_rows_follow_their_pieces():
    drawn, theirs = jnp.zeros((2, 3)), np.arange(6.0).reshape(2, 3)
    assert with_rows_of(drawn, theirs, 0, ["b", "c"], ["a", "b"]).tolist() == [[0, 0, 0], [0, 1, 2]]
    assert with_rows_of(jnp.zeros((2, 2)), theirs, 1, ["x", "a", "b"], ["a", "new"]).tolist() == [[1, 0], [4, 0]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data.main(["twod", "--out", str(folder), "--num_train", "24", "--num_val", "4"])
    return folder


@pytest.fixture
def begin(data, monkeypatch):
    on = MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, jax.devices()[:1]))  # compiles sooner
    return lambda workdir, **changes: train.main(runs.arguments(workdir, data, **{**STILL, **changes}))


def test_what_fits_is_taken(begin, tmp_path, capsys):
    begin(tmp_path / "a")
    begin(tmp_path / "b", head="none", model__start_from=f"{tmp_path}/a:1", seed=5, tokenizer__train_vocab_size=300)
    said = capsys.readouterr()
    told = said.out + said.err
    assert f"left in {tmp_path}/a:1: float_head/" in told and "where pieces are the same: decoder/embedding" in told
    old, new = checkpoint.load_params(tmp_path / "a"), checkpoint.load_params(tmp_path / "b")
    ours, theirs = (Tokenizer.load(tmp_path / name).pieces for name in "ba")
    assert ours != theirs
    for number, piece in enumerate(ours):
        is_same = (
            np.array_equal(new["decoder/embedding"][number], old["decoder/embedding"][theirs.index(piece)])
            if piece in theirs
            else False
        )
        assert is_same == (piece in theirs)
    same = [path for path in new if "embedding" not in path and "decoder/head" not in path]
    assert same and all(np.array_equal(new[path], old[path]) for path in same)


def test_a_run_that_started_from_another_is_resumed_without_it(begin, tmp_path):
    begin(tmp_path / "a")
    trains = {
        "train__num_steps": 4,
        "train__checkpoint_every": 2,
        "optim__lr": 1e-3,
        "model__start_from": tmp_path / "a",
    }
    begin(tmp_path / "b", **trains)
    whole = runs.losses(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "gone")
    checkpoint.go_back(tmp_path / "b", "2")
    begin(tmp_path / "b", **trains)
    assert runs.losses(tmp_path / "b") == whole and set(whole) == {1, 2, 3, 4}


def test_starting_from_what_does_not_fit(begin, tmp_path):
    begin(tmp_path / "a")
    with pytest.raises(UserError, match="is no run"):
        begin(tmp_path / "b", model__start_from=tmp_path / "nowhere")
    with pytest.raises(UserError, match="frozen weights were drawn from seed 0, not 3"):
        lora = {"optim__trainable": "projector", "seed": 3}
        begin(tmp_path / "c", optim__trainable="projector")
        begin(tmp_path / "d", model__start_from=tmp_path / "c", **lora)
    with pytest.raises(UserError, match=r"none of its \d+ arrays fits"):
        other = {"head": "none", "model__vision__width": 28, "model__decoder__width": 34}
        begin(tmp_path / "e", model__start_from=tmp_path / "c", optim__trainable="projector", **other)
