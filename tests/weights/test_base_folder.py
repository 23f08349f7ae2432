import gc
import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from igllm_jax.errors import UserError
from igllm_jax.models.params import unnest
from igllm_jax.weights import base_folder
from igllm_jax.weights.base_folder_writer import CHUNK_BYTES, BaseFolderWriter, chunk_shape
from tests.bases import read_arrays
from tests.interop import made

ARRAYS = {
    "decoder/layers/q/kernel": np.arange(3 * 8 * 5, dtype=np.float32).reshape(3, 8, 5).astype(jnp.bfloat16),
    "vision/class_embedding": np.linspace(-1, 1, 7, dtype=np.float32),
}


def write(folder, arrays=ARRAYS, config=None):
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in arrays.items()}
    writer = BaseFolderWriter(folder, shapes, {"plan": 1})
    for path, array in arrays.items():
        for layer in range(array.shape[0]) if array.ndim == 3 else (None,):
            writer.write(path, layer, array if layer is None else array[layer])
    writer.finish(config or made.model(), {"sources": {}})
    return folder


def test_what_was_written_comes_back(tmp_path):
    write(tmp_path / "base")
    assert base_folder.read_config(tmp_path / "base") == made.model()
    shapes = base_folder.paths(tmp_path / "base")
    assert shapes["decoder/layers/q/kernel"] == jax.ShapeDtypeStruct((3, 8, 5), jnp.bfloat16)
    found = base_folder.restore(tmp_path / "base", shapes)
    assert {path: array.dtype for path, array in found.items()} == {p: a.dtype for p, a in ARRAYS.items()}
    for path, array in read_arrays(tmp_path / "base").items():
        np.testing.assert_array_equal(array, ARRAYS[path])
        np.testing.assert_array_equal(found[path], ARRAYS[path])
    np.testing.assert_array_equal(
        base_folder.read_array(tmp_path / "base", "decoder/layers/q/kernel", 1), ARRAYS["decoder/layers/q/kernel"][1]
    )


def test_restores_some_paths_sharded_and_in_the_dtype_asked_for(tmp_path):
    write(tmp_path / "base")
    mesh = Mesh(np.array(jax.devices()[:4]), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    path = "decoder/layers/q/kernel"
    wanted = {path: jax.ShapeDtypeStruct((3, 8, 5), jnp.float32, sharding=sharding)}
    found = base_folder.restore(tmp_path / "base", wanted)
    assert list(found) == [path] and found[path].dtype == jnp.float32 and found[path].sharding == sharding
    np.testing.assert_array_equal(found[path], ARRAYS[path].astype(np.float32))


def test_orbax_opens_it_without_our_help(tmp_path):
    weights = write(tmp_path / "base") / "weights"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(weights).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = unnest(checkpointer.restore(weights, restore_args=arguments))
    for path, array in ARRAYS.items():
        np.testing.assert_array_equal(found[path], array)


def test_large_models_are_read_in_groups(tmp_path, monkeypatch):
    write(tmp_path / "base")
    monkeypatch.setattr(base_folder, "GROUP_BYTES", 1)
    shapes = base_folder.paths(tmp_path / "base")
    assert base_folder._groups(shapes) == [[path] for path in shapes]
    for path, array in base_folder.restore(tmp_path / "base", shapes).items():
        np.testing.assert_array_equal(array, ARRAYS[path])


def test_missing_and_misshaped_paths_are_told_together(tmp_path):
    write(tmp_path / "base")
    wanted = {
        "projector/linear1/bias": jax.ShapeDtypeStruct((3,), jnp.float32),
        "vision/class_embedding": jax.ShapeDtypeStruct((11,), jnp.float32),
    }
    with pytest.raises(
        UserError, match=r"not there: projector/linear1/bias; .*class_embedding \[11\] instead of \[7\]"
    ):
        base_folder.restore(tmp_path / "base", wanted)


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"convert_weights.py import makes one"):
        base_folder.read_config(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 99, "config": {}}))
    with pytest.raises(UserError, match=r"has format 99; this version reads formats 1 to .*: update igllm_jax"):
        base_folder.read_config(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "config": {"vision": {}}}))
    with pytest.raises(UserError, match="does not describe a model of this version"):
        base_folder.read_config(tmp_path)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-3])])
def test_half_a_copy_is_told_and_never_read_as_zeros(tmp_path, damage):
    path = "decoder/layers/q/kernel"
    folder = write(tmp_path / "base")
    damage(folder / "weights" / path.replace("/", ".") / "1.0.0")
    shapes = {path: base_folder.paths(folder)[path]}
    for read in (
        lambda: base_folder.restore(folder, shapes), lambda: read_arrays(folder, [path]),
        lambda: base_folder.read_array(folder, path, 1),
    ):  # fmt: skip
        with pytest.raises(
            UserError, match=r"base weights .*base are not whole \(.*: copy or import them again"
        ) as error:
            read()
        assert "\n" not in str(error.value)
    np.testing.assert_array_equal(base_folder.read_array(folder, path, 0), ARRAYS[path][0])


def test_damage_is_told_once_and_not_by_every_array(tmp_path, capfd):
    folder = write(tmp_path / "base")
    for file in (folder / "weights").glob("*/*.0"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="are not whole"):
        base_folder.restore(folder, base_folder.paths(folder))
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def test_metadata_that_lacks_a_key_is_one_line(tmp_path):
    folder = write(tmp_path / "base")
    file = folder / "weights" / "_METADATA"
    file.write_text(file.read_text().replace('"value_type"', '"value_typo"'))
    with pytest.raises(
        UserError, match=r"base holds no readable weights \(KeyError: 'value_type'\): import them again"
    ):
        base_folder.paths(folder)


def test_an_existing_folder_is_never_written_over(tmp_path):
    write(tmp_path / "base")
    with pytest.raises(UserError, match="exists: give another --out"):
        write(tmp_path / "base")


def test_two_writers_of_one_folder_are_an_error(tmp_path):
    shapes = {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}
    writing = pytest.raises(UserError, match="another import is writing")
    with writing, BaseFolderWriter(tmp_path / "base", shapes, {}):
        BaseFolderWriter(tmp_path / "base", shapes, {})
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_folder_and_a_second_run_goes_on(tmp_path):
    program = textwrap.dedent(f"""
        import os, signal, jax
        from pathlib import Path
        from igllm_jax.weights.base_folder_writer import BaseFolderWriter
        from tests.weights.test_base_folder import ARRAYS
        shapes = {{path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in ARRAYS.items()}}
        writer = BaseFolderWriter(Path({str(tmp_path / "base")!r}), shapes, {{"plan": 1}})
        path = "decoder/layers/q/kernel"
        writer.write(path, 0, ARRAYS[path][0])
        writer.write(path, 2, ARRAYS[path][2])
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["base.partial"]
    shapes = {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in ARRAYS.items()}
    writer = BaseFolderWriter(tmp_path / "base", shapes, {"plan": 1})
    path = "decoder/layers/q/kernel"
    assert writer.done == {(path, 0), (path, 2)}
    writer.write(path, 1, ARRAYS[path][1])
    writer.write("vision/class_embedding", None, ARRAYS["vision/class_embedding"])
    writer.finish(made.model(), {"sources": {}})
    np.testing.assert_array_equal(read_arrays(tmp_path / "base")[path], ARRAYS[path])
    assert sorted(file.name for file in (tmp_path / "base").iterdir()) == ["model.json", "weights"]


def test_what_another_import_left_is_thrown_away(tmp_path):
    shapes = {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}
    first = BaseFolderWriter(tmp_path / "base", shapes, {"plan": 1})
    first.write("x", None, np.ones(2, np.float32))
    first._lock.close()
    assert BaseFolderWriter(tmp_path / "base", shapes, {"plan": 2}).done == set()


def test_a_folder_that_no_import_left_is_not_touched(tmp_path):
    (tmp_path / "base.partial").mkdir()
    (tmp_path / "base.partial" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"base.partial is in the way, and no import left it: move it"):
        BaseFolderWriter(tmp_path / "base", {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}, {})
    assert [path.name for path in (tmp_path / "base.partial").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("shape", [(32, 4096, 11008), (32000, 4096), (32003, 4096), (32, 4096), (4096,), (2, 3, 5)])
def test_chunks_are_one_layer_and_small_enough_for_hosts(shape):
    chunk = chunk_shape(jax.ShapeDtypeStruct(shape, jnp.bfloat16))
    assert len(chunk) == len(shape) and (len(shape) < 3 or chunk[0] == 1)
    assert np.prod(chunk) * 2 <= CHUNK_BYTES
    assert np.prod([-(-s // c) for s, c in zip(shape, chunk, strict=True)]) <= 256
