"""Exports of a run's workdir."""

import json
from dataclasses import asdict, replace

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.interop import base_exporting, exporting, importing
from igllm_jax.interop.files import open_weights
from igllm_jax.models.lora import NO_LORA, is_lora
from igllm_jax.models.params import nest
from igllm_jax.scene.language import LANGUAGE_FILE, find_language
from igllm_jax.training.state import TrainState
from igllm_jax.weights import base_folder, checkpoint, trained_model
from tests.bases import read_arrays
from tests.interop import made


def run_config(model, base_folder="") -> ConfigDict:
    """What a run of this model keeps of its config and the export reads."""
    from configs import common

    config = common.get_config()
    config.head = model.head
    config.model.base = str(base_folder)
    config.model.dtype = config.model.frozen_dtype = model.dtype
    config.model.projector = model.projector
    in_data = ("image_mean", "image_std")
    for part in ("vision", "decoder", "lora"):
        config.model[part] = {k: v for k, v in asdict(getattr(model, part)).items() if k not in in_data}
    config.data.image_size = model.vision.image_size
    config.data.image_mean, config.data.image_std = model.vision.image_mean, model.vision.image_std
    return config


def make_run(workdir, config, steps):
    """A workdir with these checkpoints: step -> trained arrays by path."""
    workdir.mkdir()
    configs.write(config, workdir)
    made.tokenizer(workdir)
    checkpoints = checkpoint.Checkpoints(workdir, keep=len(steps))
    for score, (step, arrays) in enumerate(steps.items()):
        params = nest({path: jnp.asarray(array) for path, array in arrays.items()})
        checkpoints.save(TrainState(jnp.int32(step), params, {"count": jnp.int32(step)}), {}, float(score))
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on an imported base, with two checkpoints; (workdir, trained arrays of step 7, base folder)."""
    folder, model = tmp_path_factory.mktemp("run"), made.model()
    arrays = made.params(model)
    sources = {kind: getattr(made, kind)(folder / kind, model, arrays) for kind in ("vision", "decoder")}
    importing.run(importing.ImportRequest(out=folder / "base", **sources))
    first = {path: array for path, array in arrays.items() if path not in base_folder.paths(folder / "base")}
    second = {path: array + 1 for path, array in first.items()}
    make_run(folder / "run", run_config(model, folder / "base"), {3: first, 7: second})
    return folder / "run", second, folder / "base"


def test_a_new_base_holds_the_sum(tmp_path, run):
    workdir, _, old = run
    model = exporting.from_run(workdir, "last")
    base_exporting.export_base(model, tmp_path / "new")
    found = read_arrays(tmp_path / "new")
    assert set(found) == {path for path in model.shapes if not is_lora(path)}
    for path, array in found.items():
        stacked = f"{path.removesuffix('/kernel')}/lora_a" in model.shapes
        layers = [model.read_merged(path, layer) for layer in range(len(array))] if stacked else model.read(path)
        np.testing.assert_array_equal(array, layers)
    kernel = "decoder/layers/q/kernel"
    assert (found[kernel] != base_folder.read_array(old, kernel)).any()
    assert base_folder.read_config(tmp_path / "new") == replace(model.config, lora=NO_LORA)
    assert {"model.json", "weights", "tokenizer.model", LANGUAGE_FILE} <= {p.name for p in (tmp_path / "new").iterdir()}
    loaded = trained_model.load_imported(tmp_path / "new", task=None, rotation_rep="", prompt="short")
    assert set(loaded.params) == set(found)
    with pytest.raises(UserError, match="exists: give another --out"):
        base_exporting.export_base(model, tmp_path / "new")


def test_safetensors_of_a_run_hold_what_trained(tmp_path, run):
    workdir, trained, _ = run
    exporting.export(exporting.from_run(workdir, "last"), "safetensors", tmp_path / "out")
    weights = open_weights(tmp_path / "out" / "trained.safetensors")
    assert set(weights.infos) == set(trained)
    for path, array in trained.items():
        np.testing.assert_array_equal(weights.read(path), array, err_msg=path)


def test_the_step_asked_for_is_exported(run):
    workdir, trained, _ = run
    path = "projector/linear1/bias"
    np.testing.assert_array_equal(exporting.from_run(workdir, "7").read(path), trained[path])
    np.testing.assert_allclose(exporting.from_run(workdir, "best").read(path), trained[path] - 1, atol=1e-6)
    with pytest.raises(UserError, match="no checkpoint '5'"):
        exporting.from_run(workdir, "5")


def test_a_run_comes_back_from_hugging_faces_layout(tmp_path, run):
    workdir, trained, folder = run
    model = exporting.from_run(workdir, "last")
    exporting.export(model, "llava-hf", tmp_path / "hf")
    importing.run(importing.ImportRequest(out=tmp_path / "again", llava=tmp_path / "hf"))
    found = read_arrays(tmp_path / "again")
    np.testing.assert_array_equal(found["projector/linear1/kernel"], trained["projector/linear1/kernel"])
    path = "decoder/layers/up/kernel"
    for layer in range(3):
        np.testing.assert_array_equal(found[path][layer], model.read_merged(path, layer))
    assert np.abs(found[path] - read_arrays(folder, [path])[path]).max() > 0.1  # LoRA is in it


def test_a_runs_way_to_make_images_square_goes_along(tmp_path):
    model = replace(made.model(rank=0), head="none")
    arrays = {p: a for p, a in made.params(model).items() if p.startswith("projector/")}
    config = run_config(model)
    config.data.image_aspect_ratio = "square"
    workdir = make_run(tmp_path / "run", config, {1: arrays})
    exporting.export(exporting.from_run(workdir, "last"), "llava-hf", tmp_path / "hf")
    importing.run(importing.ImportRequest(out=tmp_path / "base", llava=tmp_path / "hf"))
    assert base_folder.aspect_ratio(tmp_path / "base") == "square"


def test_an_adapter_alone_is_refused_where_the_base_trained_too(tmp_path):
    pytest.importorskip("torch")
    model = made.model()
    workdir = make_run(tmp_path / "run", run_config(model), {1: made.params(model)})
    with pytest.raises(UserError, match=r"more has trained than an adapter holds .* such as decoder/embedding"):
        exporting.export(exporting.from_run(workdir, "last"), "peft", tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_an_adapter_on_a_merged_base_says_what_it_belongs_on(tmp_path, run):
    pytest.importorskip("torch")
    workdir, trained, folder = run
    sources = {kind: folder.parent / kind for kind in ("vision", "decoder")}
    made.adapter(tmp_path / "adapter", made.model(), made.params(made.model()))
    importing.run(
        importing.ImportRequest(out=tmp_path / "merged", adapter=tmp_path / "adapter", merge_lora=True, **sources)
    )
    second = make_run(tmp_path / "run", run_config(made.model(), tmp_path / "merged"), {1: trained})
    for run_folder, base_model, note in (
        (workdir, str(sources["decoder"]), None),
        (second, "", "has another adapter merged in: this one belongs on that sum"),
    ):
        account = exporting.export(exporting.from_run(run_folder, "last"), "peft", tmp_path / f"peft{bool(note)}")
        described = json.loads((tmp_path / f"peft{bool(note)}" / "adapter_config.json").read_text())
        assert described["base_model_name_or_path"] == base_model
        assert [note in told for told in account["notes"]] == ([True] if note else [])


def test_a_run_from_random_initialisation_exports_what_it_drew(tmp_path):
    model = replace(made.model(rank=0), head="linear")
    arrays = {p: a for p, a in made.params(model).items() if p.startswith(("projector/", "float_head/"))}
    config = run_config(model)
    found = exporting.from_run(make_run(tmp_path / "run", config, {1: arrays}), "last")
    from igllm_jax.models.vlm import initialise

    expected = initialise(model, config.seed)
    for path in ("decoder/layers/q/kernel", "vision/position_embedding"):
        np.testing.assert_allclose(found.read(path), expected[path], atol=1e-6)


def test_the_language_travels_with_the_weights(tmp_path, run):
    """Out of the run, into an export, into what is imported from it, and to who writes with that."""
    pytest.importorskip("torch")  # a PEFT folder holds a torch file
    workdir, _, base = run
    exporting.export(exporting.from_run(workdir, "last"), "peft", tmp_path / "out")
    assert (tmp_path / "out" / LANGUAGE_FILE).read_text() == find_language("clevr").text
    file = tmp_path / "out" / LANGUAGE_FILE
    file.write_text(file.read_text().replace('name = "clevr"', 'name = "mine"'))
    sources = {"vision": base.parent / "vision", "decoder": base.parent / "decoder", "adapter": tmp_path / "out"}
    importing.run(importing.ImportRequest(out=tmp_path / "imported", **sources))
    loaded = trained_model.load_imported(tmp_path / "imported", task=None, rotation_rep="", prompt="short")
    assert loaded.data.task.name == "mine"
    asked = trained_model.load_imported(tmp_path / "imported", task="twod", rotation_rep="", prompt="short")
    assert asked.data.task.name == "twod"
    again = exporting.from_folder(tmp_path / "imported")
    assert again.language is loaded.data.task
