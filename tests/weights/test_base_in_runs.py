"""An imported folder as a run's model.base."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.interop import importing
from igllm_jax.models.params import unnest
from igllm_jax.parallel.sharding import MeshLayout, make_mesh
from igllm_jax.weights import base_folder
from igllm_jax.weights.run_model import RunModel
from tests.interop import made
from tests.interop.test_exporting import run_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("bases"), made.model()
    for kind in ("vision", "decoder", "adapter"):
        getattr(made, kind)(folder / kind, model, made.params(model))
    sources = {kind: folder / kind for kind in ("vision", "decoder")}
    importing.run(importing.ImportRequest(out=folder / "plain", **sources))
    importing.run(importing.ImportRequest(out=folder / "adapted", adapter=folder / "adapter", **sources))
    return folder


def run_model(model, base_folder):
    """On the first of the fake devices."""
    one = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    return RunModel.of(configs.run_options(run_config(model, base_folder)), MeshLayout.of("train", one))


def test_frozen_and_trained_weights_come_from_the_base(folder):
    found = run_model(made.model(), folder / "adapted")
    arrays = made.params(made.model())
    values = {**found.load_frozen(), **unnest(found.initial_state().params)}
    assert set(values) == set(arrays)
    for path, array in arrays.items():
        np.testing.assert_array_equal(values[path], array, err_msg=path)


def test_what_a_plain_base_lacks_is_drawn(folder):
    found = run_model(made.model(projector="mlp2x_gelu"), folder / "plain")
    values = unnest(found.initial_state().params)
    assert not values["decoder/layers/q/lora_b"].any() and values["projector/linear2/kernel"].any()
    expected = made.params(made.model())["decoder/layers/q/kernel"]
    np.testing.assert_array_equal(found.load_frozen()["decoder/layers/q/kernel"], expected)


def test_a_config_of_other_sizes_says_which(folder):
    model = made.model()
    other = replace(model, decoder=replace(model.decoder, rope_theta=7.0), lora=replace(model.lora, alpha=1.0))
    with pytest.raises(UserError, match=r"--config.model.lora.alpha=5.0 --config.model.decoder.rope_theta=5000.0"):
        run_model(other, folder / "adapted")
    with pytest.raises(UserError, match=r"--config.model.projector=linear"):
        run_model(made.model(projector="mlp2x_gelu"), folder / "adapted")


def test_shapes_of_a_base_are_compared_before_anything_is_read(folder, monkeypatch):
    found = run_model(made.model(), folder / "plain")
    assert not found.check_base()
    stored = base_folder.paths(folder / "plain")
    first, second, *_ = sorted(path for path in stored if path in found.frozen)
    del stored[first]
    monkeypatch.setattr(base_folder, "paths", lambda folder: stored)
    assert found.check_base() == [first]
    stored[second] = jax.ShapeDtypeStruct((2, 3), stored[second].dtype)
    with pytest.raises(UserError, match=rf"{second} .* instead of \[2, 3\]"):
        found.check_base()
