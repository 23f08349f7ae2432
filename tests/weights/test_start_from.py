"""Runs that start from another one: what is taken, drawn anew and left."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax import make_data, train
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.errors import UserError
from igllm_jax.interop import base_exporting, exporting
from igllm_jax.parallel.sharding import MeshLayout, MeshOptions, make_mesh
from igllm_jax.weights import checkpoint
from igllm_jax.weights.run_model import RunModel
from igllm_jax.weights.start_from import starting_values, with_rows_of
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
    counts = ["--num_train", "8", "--num_val", "2", "--image_size", "48x32", "--workers", "1"]
    make_data.main(["so3", "--out", str(folder), *counts])
    return folder


@pytest.fixture
def begin(data, monkeypatch):
    on = MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, jax.devices()[:1]))  # compiles sooner
    return lambda workdir, **changes: train.main(runs.arguments(workdir, data, **{**STILL, **changes}))


def test_what_fits_is_taken_for_another_language_and_head(begin, data, tmp_path, capsys):
    begin(tmp_path / "a")
    files = {
        f"data__{split}__{kind}": f"{data}/{kind}/{name}.{ending}"
        for split, name in (("train", "train"), ("val", "val_ID"))
        for kind, ending in (("images", "tar"), ("labels", "json"))
    }
    origin = f"{tmp_path}/a:1"
    begin(tmp_path / "b", task="so3", head="none", model__start_from=origin, seed=5, **files)
    said = capsys.readouterr()
    pattern = r"(taken from \S+|taken from \S+ where pieces are the same|drawn anew|left in \S+): (\w+/.*)"
    told = {kind: set(paths.split(", ")) for kind, paths in re.findall(pattern, said.out + said.err)}
    old, new = checkpoint.load_params(tmp_path / "a"), checkpoint.load_params(tmp_path / "b")
    rows = {"decoder/embedding", "decoder/head/kernel"}
    taken = {path for path in new if path in old and old[path].shape == new[path].shape} - rows
    assert told == {
        f"taken from {origin}": taken,
        f"taken from {origin} where pieces are the same": rows,
        "drawn anew": new.keys() - taken - rows,
        f"left in {origin}": old.keys() - taken - rows,
    }
    assert any(path.startswith("float_head/") for path in told[f"left in {origin}"])
    assert all(np.array_equal(new[path], old[path]) for path in taken) and len(taken) > 20
    ours, theirs = (Tokenizer.load(tmp_path / name).pieces for name in "ba")
    assert 0 < len({*ours} & {*theirs}) < len(ours)
    for number, piece in enumerate(ours):
        is_same = piece in theirs and np.array_equal(
            new["decoder/embedding"][number], old["decoder/embedding"][theirs.index(piece)]
        )
        assert is_same == (piece in theirs)


@pytest.mark.slow
def test_a_run_that_started_from_a_folder_is_resumed_without_it(begin, tmp_path):
    begin(tmp_path / "a")
    base_exporting.export_base(exporting.from_run(tmp_path / "a", "last"), tmp_path / "base")
    trains = {"train__num_steps": 4, "train__checkpoint_every": 2, "model__start_from": tmp_path / "base"}
    trains |= {"data__augment__flip": True, "data__augment__brightness": 0.3, "optim__lr": 1e-3}
    begin(tmp_path / "b", **trains)
    whole = runs.losses(tmp_path / "b")
    (tmp_path / "base").rename(tmp_path / "gone")
    checkpoint.go_back(tmp_path / "b", "2")
    begin(tmp_path / "b", **trains)
    assert runs.losses(tmp_path / "b") == whole and set(whole) == {1, 2, 3, 4}


def test_on_another_mesh_it_begins_with_the_same_values(begin, tmp_path):
    begin(tmp_path / "a")
    options = configs.read_run(tmp_path / "a")
    layout = MeshLayout.of("train", make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    run_model = RunModel.of(replace(options, seed=5), layout)
    found, account = starting_values(run_model, str(tmp_path / "a"), Tokenizer.load(tmp_path / "a"))
    assert not account.drawn and not account.left and any(not x.sharding.is_fully_replicated for x in found.values())
    for path, value in checkpoint.load_params(tmp_path / "a").items():
        assert found[path].sharding == run_model.trainable[path].sharding
        np.testing.assert_array_equal(found[path], value)


@pytest.mark.slow
def test_what_was_trained_on_another_base_is_refused(begin, tmp_path):
    begin(tmp_path / "a")
    for name in ("one", "two"):
        base_exporting.export_base(exporting.from_run(tmp_path / "a", "last"), tmp_path / name)
    lora = {"optim__trainable": "projector", "tokenizer__train_vocab_size": 0}
    begin(tmp_path / "b", model__base=tmp_path / "one", **lora)
    begin(tmp_path / "c", model__base=tmp_path / "one", model__start_from=tmp_path / "b", **lora)
    with pytest.raises(UserError, match=f"model.base='{tmp_path}/one', not on '{tmp_path}/two'; give --config.model"):
        begin(tmp_path / "d", model__base=tmp_path / "two", model__start_from=tmp_path / "b", **lora)


def test_starting_from_what_does_not_fit(begin, tmp_path):
    begin(tmp_path / "a")
    for wrong, message in (
        ("nowhere", "there is no run, it has no config.json; give RUN"),
        ("a:newest", "there is no run"),
        ("b", "there is no run"),  # itself
        ("a:77", "no checkpoint '77'; there are 1, last and best"),
    ):
        with pytest.raises(UserError, match=f"model.start_from={tmp_path}/{wrong}: .*{message}"):
            begin(tmp_path / "b", model__start_from=tmp_path / wrong)
        assert not list((tmp_path / "b").glob("*"))  # found before anything is written
    with pytest.raises(UserError, match="frozen weights were drawn from seed 0, not 3"):
        lora = {"optim__trainable": "projector", "seed": 3}
        begin(tmp_path / "c", optim__trainable="projector")
        begin(tmp_path / "d", model__start_from=tmp_path / "c", **lora)
    with pytest.raises(UserError, match=r"none of its \d+ arrays fits"):
        other = {"head": "none", "model__vision__width": 28, "model__decoder__width": 34}
        begin(tmp_path / "e", model__start_from=tmp_path / "c", optim__trainable="projector", **other)
