import builtins
import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igllm_jax.errors import UserError
from igllm_jax.interop.files import open_weights, write_torch
from tests.interop import made

NAMED = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2.0], ml_dtypes.bfloat16),
    "c": np.array(7, np.int64),
}


def test_reads_what_safetensors_itself_wrote(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": NAMED["a"], "half": NAMED["a"].astype(np.float16)}, tmp_path / "w.safetensors")
    weights = open_weights(tmp_path / "w.safetensors")
    assert weights.infos["x"].shape == (2, 3) and weights.infos["half"].dtype == np.float16
    np.testing.assert_array_equal(weights.read("x"), NAMED["a"])


def test_safetensors_itself_reads_what_is_written(tmp_path):
    from safetensors import safe_open

    made.save(NAMED, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "np") as file:
        assert set(file.keys()) == set(NAMED)
        np.testing.assert_array_equal(file.get_tensor("a"), NAMED["a"])


def test_bfloat16_stays_bfloat16(tmp_path):
    read = open_weights(made.save(NAMED, tmp_path / "w.safetensors")).read("b")
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read, NAMED["b"])


@given(st.lists(st.integers(0, 5), max_size=3), st.sampled_from(["float32", "float16", "bfloat16"]))
def test_every_shape_comes_back(tmp_path_factory, shape, dtype):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    weights = open_weights(made.save({"x": array}, tmp_path_factory.mktemp("w") / "w.safetensors"))
    np.testing.assert_array_equal(weights.read("x"), array)


def shards(folder, **changes):
    """Two shards and an index."""
    made.save({"a": NAMED["a"]}, folder / "model-1.safetensors")
    made.save({"b": NAMED["b"]}, folder / "model-2.safetensors")
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors", **changes}
    made.put_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


def test_a_sharded_folder_is_read_as_one(tmp_path):
    assert set(open_weights(shards(tmp_path)).infos) == {"a", "b"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": "model-3.safetensors"}, r"names files that are not there: model-3.safetensors"),
        ({"c": "n" * 5000}, r"names files that are not there: n{200}\.\.\.; download them again"),
        ({"c": "model-1\0"}, r"names files that are not there: model-1\\x00; download them again"),
        ({"c": "model-1.safetensors"}, r"names tensors that its files do not hold: c \(1 in all\)"),
        ({"c": "../model-1.safetensors"}, r"names files outside its folder: '../model-1.safetensors'"),
    ],
)
def test_an_index_that_lies_is_an_error(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        open_weights(shards(tmp_path, **changes))


def test_a_missing_shard_is_an_error(tmp_path):
    (shards(tmp_path) / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"not there: model-2.safetensors; download them again"):
        open_weights(tmp_path)


def test_tensors_that_two_shards_hold_are_listed_together(tmp_path):
    shards(tmp_path)
    made.save(NAMED, tmp_path / "model-1.safetensors")
    made.save({"a": NAMED["a"], "b": NAMED["b"]}, tmp_path / "model-2.safetensors")
    both = r"\(model-1.safetensors and model-2.safetensors\)"
    with pytest.raises(UserError, match=rf"holds 2 tensors twice: a {both}, b {both}"):
        open_weights(tmp_path)


def test_a_name_twice_in_one_header_is_an_error(tmp_path):
    entry = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f'{{"a":{entry},"b":{entry},"a":{entry}}}'.encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(UserError, match=r"w.safetensors holds a twice"):
        open_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 20, 100, -1, -9])
def test_a_truncated_file_is_one_clear_line(tmp_path, kept):
    path = made.save(NAMED, tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"w.safetensors is (cut short|no complete|no safetensors)") as error:
        open_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        [1],
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "X9", "shape": [], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_that_lies_is_one_clear_line(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(UserError, match=r"w.safetensors"):
        open_weights(tmp_path / "w.safetensors")


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"holds no weights: expected one of model.safetensors, pytorch_model.bin"):
        open_weights(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        open_weights(tmp_path / "absent")


# torch's files


def test_torch_files_are_read_and_written(tmp_path):
    pytest.importorskip("torch")
    write_torch(NAMED, tmp_path / "w.bin")
    weights = open_weights(tmp_path / "w.bin")
    for name, array in NAMED.items():
        assert weights.infos[name].dtype == array.dtype
        np.testing.assert_array_equal(weights.read(name), array)
    weights.release(tmp_path / "w.bin")
    np.testing.assert_array_equal(weights.read("a"), NAMED["a"])


def test_torchs_old_format_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.ones(2, 3).T}, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(open_weights(tmp_path / "w.bin").read("x"), np.ones((3, 2)))


class Hostile:
    """What a pickle that runs code looks like."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    hostile = {"x": torch.ones(3), "y": Hostile(str(tmp_path / "ran"))}
    torch.save(hostile, tmp_path / "w.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=r"w.bin is refused: it wants to run code") as error:
        open_weights(tmp_path / "w.bin")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"not weights"])
def test_a_damaged_torch_file_is_one_clear_line(tmp_path, content):
    pytest.importorskip("torch")
    (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"w.bin can't be read, it is damaged or no weight file") as error:
        open_weights(tmp_path / "w.bin")
    assert "\n" not in str(error.value)


def test_a_truncated_torch_file_is_one_clear_line(tmp_path):
    pytest.importorskip("torch")
    write_torch({"x": np.ones((64, 64), np.float32)}, tmp_path / "w.bin")
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:-300])
    with pytest.raises(UserError, match=r"w.bin can't be read"):
        open_weights(tmp_path / "w.bin")


@pytest.mark.parametrize("is_zip", [True, False])
def test_damage_anywhere_in_a_torch_file_is_one_line_or_another_value(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    whole, path = tmp_path / "whole.bin", tmp_path / "w.bin"
    torch.save({f"x{n}": torch.arange(7.0) for n in range(3)}, whole, _use_new_zipfile_serialization=is_zip)
    damaged, rng, refused = whole.read_bytes(), np.random.default_rng(3), 0
    ends = damaged.rfind(b"PK\x06\x07") + 16 if is_zip else len(damaged) - 1  # a field that Python's own zipfile checks
    for position in [*rng.integers(0, len(damaged), 60), ends]:
        path.write_bytes(damaged[:position] + bytes([damaged[position] ^ 0x85]) + damaged[position + 1 :])
        try:
            weights = open_weights(path)
            [weights.read(name) for name in weights.infos]
        except UserError as error:
            refused += 1
            assert "w.bin" in str(error) and "\n" not in str(error)
    assert refused > 5


def test_a_flipped_bit_in_a_torch_file_is_noticed(tmp_path):
    """Torch writes a checksum of every record, and never looks at it."""
    torch, path = pytest.importorskip("torch"), tmp_path / "w.bin"
    write_torch({"a": NAMED["a"]}, path)
    content = bytearray(path.read_bytes())
    content[content.find(NAMED["a"].tobytes()) + 5] ^= 16
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["a"], torch.from_numpy(NAMED["a"]))
    with pytest.raises(UserError, match=r"w\.bin can't be read, it is damaged .*Bad CRC-32.*download it again"):
        open_weights(path).read("a")


def test_records_of_another_size_and_packed_ones_are_not_taken_for_tensors(tmp_path):
    pytest.importorskip("torch")
    write_torch({"a": NAMED["a"]}, tmp_path / "w.bin")
    with zipfile.ZipFile(tmp_path / "w.bin") as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    for name, cut, packing in (("short", 8, zipfile.ZIP_STORED), ("packed", 0, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / f"{name}.bin", "w", packing) as other:
            for record, content in records.items():
                other.writestr(record, content[: len(content) - cut] if record.endswith("/data/0") else content)
    np.testing.assert_array_equal(open_weights(tmp_path / "packed.bin").read("a"), NAMED["a"])
    with pytest.raises(UserError, match=r"short\.bin .*its tensors have other sizes than their records"):
        open_weights(tmp_path / "short.bin")


def test_other_things_than_tensors_are_an_error(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"x": torch.ones(3)}}, tmp_path / "w.bin")
    with pytest.raises(UserError, match="holds more than tensors: model"):
        open_weights(tmp_path / "w.bin")


def test_a_tensor_without_values_is_an_error(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.ones(3), "y": torch.empty(3, device="meta")}, tmp_path / "w.bin")
    with pytest.raises(UserError, match="holds more than tensors: y"):
        open_weights(tmp_path / "w.bin")


def test_without_torch_a_bin_file_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "w.bin").write_bytes(b"x")
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(UserError, match=r"torch is not installed: pip install 'igllm_jax\[torch\]'"):
        open_weights(tmp_path / "w.bin")
