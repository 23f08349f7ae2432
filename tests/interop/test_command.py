"""The command line, and exports of an imported folder without torch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from igllm_jax import endings, files
from igllm_jax.interop import exporting, importing
from igllm_jax.interop.files import open_weights
from igllm_jax.weights import base_folder
from tests.bases import read_arrays
from tests.interop import made

main = partial(endings.run, "igllm_jax.interop.command")
TOOL = Path(__file__).parents[2] / "tools" / "convert_weights.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Sources of one model with an mlp2x_gelu projector, and the folder imported from them."""
    folder, model = tmp_path_factory.mktemp("sources"), made.model(projector="mlp2x_gelu")
    arrays = made.params(model)
    made.vision(folder / "vision", model, arrays)
    made.decoder(folder / "decoder", model, arrays)
    made.adapter(folder / "adapter", model, arrays)
    importing.run(
        importing.ImportRequest(out=folder / "base", **{n: folder / n for n in ("vision", "decoder", "adapter")})
    )
    return folder


def flags(folder, *names):
    return [part for name in names for part in (f"--{name}", str(folder / name))]


def test_import_gives_an_account(tmp_path, folders, capsys):
    out = ["--out", str(tmp_path / "base")]
    assert main(["import", *flags(folders, "vision", "decoder", "adapter"), *out]) == 0
    told = capsys.readouterr()
    assert "left out: 1 x vision post-layernorm, which the features skip" in told.out
    assert f"{tmp_path / 'base'}: " in told.out and " tensors, " in told.out and " GB in " in told.out
    assert "import: " in told.err  # progress
    assert main(["import", *flags(folders, "vision", "decoder"), *out]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'base'} exists: give another --out, or remove it\n"


def test_an_interrupted_import_goes_on(tmp_path, folders, capsys, monkeypatch):
    arguments = ["import", *flags(folders, "vision", "decoder"), "--out", str(tmp_path / "base")]
    real, count = importing.read_merged, iter(range(10**6))

    def full_disk(plan, tensor):
        if next(count) == 20:
            raise OSError(28, "No space left on device", str(tmp_path / "base.partial"))
        return real(plan, tensor)

    monkeypatch.setattr(importing, "read_merged", full_disk)
    assert main(arguments) == 2
    told = "No space left on device; run the same command again to go on\n"
    assert capsys.readouterr().err.endswith(told)
    assert not (tmp_path / "base").exists()
    monkeypatch.setattr(importing, "read_merged", real)
    assert main(arguments) == 0
    assert "(20 were there already)" in capsys.readouterr().out
    expected = made.base_arrays(made.params(made.model(projector="mlp2x_gelu")))
    for path, array in read_arrays(tmp_path / "base").items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)


def test_a_killed_import_leaves_no_folder_and_goes_on(tmp_path, folders, capsys):
    arguments = ["import", *flags(folders, "vision", "decoder", "adapter"), "--out", str(tmp_path / "base")]
    program = textwrap.dedent(f"""
        import os, signal
        from igllm_jax.interop import command, importing
        real, count = importing.read_merged, iter(range(10**6))
        def read(plan, tensor):
            if next(count) == 31:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(plan, tensor)
        importing.read_merged = read
        command.main({arguments!r})
    """)
    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["base.partial"]
    assert main(arguments) == 0
    assert "(31 were there already)" in capsys.readouterr().out
    for path, array in read_arrays(tmp_path / "base").items():
        np.testing.assert_array_equal(array, made.params(made.model(projector="mlp2x_gelu"))[path], err_msg=path)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_one_line(tmp_path, folders):
    """The limit on file sizes stands in for a full disk: the system refuses to write on in the same way."""
    limited = f"ulimit -f 8; exec {sys.executable} {TOOL} "
    imports = " ".join(flags(folders, "vision", "decoder"))
    exports = f"--model {folders / 'base'} --format llava-hf"
    for command, told in (
        (f"import {imports}", ": File too large; run the same command again to go on"),
        (f"export {exports}", ": cannot be written (File too large)"),
    ):
        out = tmp_path / command.split()[0]
        ended = subprocess.run(["bash", "-c", f"{limited}{command} --out {out}"], capture_output=True, text=True)
        lines = [line for line in ended.stderr.splitlines() if "tensor/s" not in line]
        assert ended.returncode == 2 and len(lines) == 1, ended.stderr
        assert lines[0].startswith(f"error: {out}") and lines[0].endswith(told)
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["import.partial"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def without_shard(path):
    path.rename(path.with_name("model-1.safetensors"))
    weights = open_weights(path.with_name("model-1.safetensors"))
    weight_map = dict.fromkeys(weights.infos, "model-1.safetensors") | {"x": "model-2.safetensors"}
    made.put_json(path.with_name("model.safetensors.index.json"), {"weight_map": weight_map})


def misshaped(path):
    weights = open_weights(path)
    named = {name: weights.read(name) for name in weights.infos}
    made.save({**named, "model.norm.weight": np.ones(5, np.float32)}, path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "is cut short: "),
        (without_shard, "names files that are not there: model-2.safetensors; download them again"),
        (misshaped, "model.norm.weight is [5] instead of [26]"),
        (lambda path: path.write_bytes(b""), "is no complete safetensors file"),
        (lambda path: path.unlink(), "holds no weights: expected one of model.safetensors"),
        (lambda path: path.with_name("config.json").write_text("{"), "can't be read as JSON"),
        (lambda path: path.with_name("config.json").write_text("{}"), "does not say vocab_size, hidden_size, "),
        (lambda path: path.with_name("tokenizer.model").write_bytes(b"x"), "not a sentencepiece model"),
    ],
)
def test_damaged_sources_end_in_one_line_and_leave_nothing(tmp_path, folders, capsys, damage, told):
    model = made.model(projector="mlp2x_gelu")
    decoder = made.decoder(tmp_path / "decoder", model, made.params(model))
    damage(decoder / "model.safetensors")
    out = ["--out", str(tmp_path / "base")]
    capsys.readouterr()
    assert main(["import", *flags(folders, "vision"), "--decoder", str(decoder), *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error
    assert [path.name for path in tmp_path.iterdir()] == ["decoder"]


@pytest.mark.parametrize(("command", "again"), [("import", "; run the same command again to go on"), ("export", "")])
def test_an_interrupt_is_one_line(tmp_path, folders, capsys, monkeypatch, command, again):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "read_merged", interrupted)
    monkeypatch.setitem(exporting.FORMATS, "safetensors", interrupted)
    imports = flags(folders, "vision", "decoder")
    exports = ["--model", str(folders / "base"), "--format", "safetensors"]
    capsys.readouterr()
    arguments = imports if command == "import" else exports
    assert main([command, *arguments, "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == f"interrupted{again}\n"
    assert [path.name for path in tmp_path.iterdir()] == (["out.partial"] if command == "import" else [])


def test_the_tool_runs_as_a_program_and_fails_in_one_line(tmp_path):
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "config.json").write_text("{}")
    arguments = ["import", *flags(tmp_path, "decoder", "vision"), "--out", str(tmp_path / "base")]
    ended = subprocess.run([sys.executable, str(TOOL), *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, f"error: {tmp_path / 'vision' / 'config.json'} does not exist\n")
    assert [path.name for path in tmp_path.iterdir()] == ["decoder"]


def test_safetensors_holds_what_was_trained(tmp_path, folders):
    assert (
        main(["export", "--model", str(folders / "base"), "--format", "safetensors", "--out", str(tmp_path / "e")]) == 0
    )
    weights = open_weights(tmp_path / "e" / "trained.safetensors")
    expected = made.params(made.model(projector="mlp2x_gelu"))
    trained = {path for path in expected if "/lora_" in path or path.startswith(("projector/", "float_head/"))}
    assert set(weights.infos) == trained
    for path in trained:
        np.testing.assert_array_equal(weights.read(path), expected[path])
    assert json.loads((tmp_path / "e" / "model.json").read_text())["config"]["head"] == "tanh_mlp_gelu"


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_exported_to_hugging_face_comes_back(tmp_path, projector, tied):
    model = made.model(projector=projector, tied=tied)
    arrays = made.params(model)
    made.vision(tmp_path / "vision", model, arrays)
    made.decoder(tmp_path / "decoder", model, arrays)
    made.adapter(tmp_path / "adapter", model, arrays)
    sources = flags(tmp_path, "vision", "decoder", "adapter")
    assert main(["import", *sources, "--merge_lora", "--out", str(tmp_path / "base")]) == 0
    assert (
        main(["export", "--model", str(tmp_path / "base"), "--format", "llava-hf", "--out", str(tmp_path / "hf")]) == 0
    )
    assert (tmp_path / "hf" / "LICENSE.txt").exists()
    assert main(["import", "--llava", str(tmp_path / "hf"), "--out", str(tmp_path / "again")]) == 0
    before, after = read_arrays(tmp_path / "base"), read_arrays(tmp_path / "again")
    assert set(before) == set(after)
    for path, array in before.items():
        rows = {"decoder/embedding": np.s_[: made.VOCAB], "decoder/head/kernel": np.s_[:, : made.VOCAB]}
        np.testing.assert_array_equal(after[path][rows.get(path, ...)], array, err_msg=path)
    first, second = base_folder.read_config(tmp_path / "base"), base_folder.read_config(tmp_path / "again")
    assert (first.projector, first.head) == (second.projector, second.head)
    assert second.decoder == replace(first.decoder, vocab_size=made.VOCAB + 1)  # one for the image's placeholder
    assert second.vision.num_blocks == first.vision.num_blocks and second.vision.image_mean == first.vision.image_mean


def test_a_vocabulary_without_room_gets_a_row_for_the_image(tmp_path, folders):
    model = exporting.from_folder(folders / "base")
    assert model.tokenizer.vocab_size == made.VOCAB
    exporting.export(model, "llava-hf", tmp_path / "hf")
    weights = open_weights(tmp_path / "hf")
    described = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert described["image_token_index"] == made.VOCAB and described["text_config"]["vocab_size"] == made.VOCAB + 1
    assert (described["text_config"]["bos_token_id"], described["text_config"]["eos_token_id"]) == (1, 2)
    head = weights.read("language_model.lm_head.weight")
    assert head.shape[0] == made.VOCAB + 1
    np.testing.assert_allclose(head[-1], head[:-1].mean(axis=0), atol=1e-6)


def test_an_export_takes_only_a_folder_that_an_export_left(tmp_path, folders):
    export = ["export", "--model", str(folders / "base"), "--format", "safetensors", "--out", str(tmp_path / "e")]
    (tmp_path / ".e.partial").mkdir()
    (tmp_path / ".e.partial" / "thesis.tex").write_text("x")
    assert main(export) == 2
    assert (tmp_path / ".e.partial" / "thesis.tex").exists() and not (tmp_path / "e").exists()
    (tmp_path / ".e.partial" / files.UNFINISHED).touch()  # as a killed export leaves it
    assert main(export) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e"]
    names = {path.name for path in (tmp_path / "e").iterdir()}
    assert names == {"trained.safetensors", "model.json", "tokenizer.model"}


def test_licences_of_all_that_is_in_the_weights_go_out_too(tmp_path, folders):
    sources = {name: folders / name for name in ("decoder", "adapter")}
    shutil.copytree(folders / "vision", tmp_path / "vision")
    (tmp_path / "vision" / "LICENSE.txt").write_text("the tower's\n")
    importing.run(importing.ImportRequest(out=tmp_path / "base", vision=tmp_path / "vision", **sources))
    exporting.export(exporting.from_folder(tmp_path / "base"), "llava-hf", tmp_path / "hf")
    assert (tmp_path / "hf" / "LICENSE.txt").read_text() == "may be used\n"
    assert (tmp_path / "hf" / "vision-LICENSE.txt").read_text() == "the tower's\n"


def test_exports_that_make_no_sense_leave_nothing(tmp_path, folders, capsys):
    sources = flags(folders, "vision", "decoder")
    assert main(["import", *sources, "--out", str(tmp_path / "plain")]) == 0
    for kind in ("peft", "llava-hf"):
        export = ["export", "--model", str(tmp_path / "plain"), "--format", kind, "--out", str(tmp_path / "e")]
        capsys.readouterr()
        assert main(export) == 2
        assert "holds no projector (train it first)" in capsys.readouterr().err
    merged = [
        "import",
        *flags(folders, "vision", "decoder", "adapter"),
        "--merge_lora",
        "--out",
        str(tmp_path / "merged"),
    ]
    assert main(merged) == 0
    export = ["export", "--model", str(tmp_path / "merged"), "--format", "peft", "--out", str(tmp_path / "e")]
    assert main(export) == 2
    assert "has no LoRA apart from its base: export it as llava-hf" in capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("e")]
