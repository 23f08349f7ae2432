"""Command lines: what flags may be, help without a config, and the last net under every command."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from igllm_jax import __main__ as cli
from igllm_jax import endings, evaluate, flags, generate, language, make_data, plan, train
from igllm_jax.errors import UserError
from igllm_jax.interop import command
from igllm_jax.training import metrics_log
from igllm_jax.training.monitor import log_line
from igllm_jax.weights.base_folder_writer import partial_of

GENERATE = ["--images", "x.tar", "--out", "y.json"]


@pytest.mark.parametrize("text, value", [("0", 0), ("-3", -3), ("7", 7)])
def test_a_whole_number_in_its_range(text, value):
    assert flags.whole(-3, 7)(text) == value


@pytest.mark.parametrize("text", ["8", "-4", "1.0", "", "many", "--3", "1_0", "٣", "9" * 5000])
def test_anything_else_names_the_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from -3 to 7, got"):
        flags.whole(-3, 7)(text)


@pytest.mark.parametrize(
    "main, words, message",
    [
        (generate.main, ["--model", "m", *GENERATE, "--limit", "-1"], "--limit: expected a whole number from 0"),
        (generate.main, ["--model", "m", *GENERATE, "--num_drafts", "100000"], "--num_drafts: .* from 0 to 64"),
        (generate.main, ["--model", "m", *GENERATE, "--batch_size", "0"], "--batch_size: .* from 1"),
        (generate.main, ["--workdir", "w", *GENERATE, "--task", "twod"], "--task goes with --model"),
        (generate.main, ["--workdir", "w", *GENERATE, "--rotation_rep", ""], "--rotation_rep goes with --model"),
        (generate.main, ["--workdir", "w", *GENERATE, "--prompt", "short"], "--prompt goes with --model"),
        (generate.main, ["--model", "m", *GENERATE, "--step", "3"], "--step goes with --workdir"),
        (generate.main, ["--model", "m", *GENERATE, "--batch", "3"], "unrecognized arguments: --batch"),
        (evaluate.main, ["--labels", "l", "--predictions", "p", "--bootstrap", "-1"], "--bootstrap: expected a whole"),
        (train.main, ["--workdir", "w", "--process_id", "-1"], "--process_id: expected a whole number from 0"),
        (plan.main, ["--topology", "local", "--batch", "-1"], "--batch: expected a whole number from 1"),
        (language.main, ["clevr", "--rotation_unit", "grad"], "--rotation_unit: invalid choice"),
        (language.main, [], "the following arguments are required: FILE"),
        (make_data.main, ["--from", "d", "--out", "o", "--camera_jitter", "nan"], "--camera_jitter: expected a number"),
        (make_data.main, ["clevr", "--out", "o", "--shard", "1/" + "9" * 5000], "--shard: expected K/N"),
        (make_data.main, ["clevr", "--out", "o", "--image_size", "٣٢x32"], "--image_size: expected WIDTHxHEIGHT"),
        (make_data.main, ["clevr", "--out", "o", "--num_train", "0"], "--num_train: expected a whole number from 1"),
    ],
)
def test_a_flag_out_of_range_or_out_of_place_is_one_line(main, words, message):
    with pytest.raises(UserError, match=message) as error:
        main(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["--1", "9" * 5000, "٣", "0x1", ""])
def test_sizes_of_a_mesh_are_whole_numbers(text):
    run = SimpleNamespace(mesh=SimpleNamespace(slices=1, sizes={"data": 1, "fsdp": 1, "tensor": 1}))
    assert plan._mesh("fsdp=-1,tensor=2", run, "local", "train") == ((1, -1, 2), 1)
    with pytest.raises(UserError, match=r"--mesh .*: fsdp: expected a whole number from -1 to 1048576"):
        plan._mesh(f"fsdp={text}", run, "local", "train")


@pytest.mark.parametrize("text, value", [("0", 0), ("1e6", 1e6), ("2.5", 2.5)])
def test_a_number_in_its_range(text, value):
    assert flags.real(0, 1e6)(text) == value


@pytest.mark.parametrize("text", ["-0.1", "nan", "inf", "1_0", "٣", ""])
def test_any_other_number_names_the_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a number from 0 to 1e\+06, got"):
        flags.real(0, 1e6)(text)


@pytest.mark.parametrize("main", [train.main, plan.main])
def test_help_asks_for_no_config(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--config FILE[:ARGUMENT]" in capsys.readouterr().out


def test_what_nobody_expected_is_one_line_with_its_traceback_in_a_file(tmp_path, monkeypatch, capsys):
    def fails(arguments):
        assert arguments == ["--format", "json"]
        raise ZeroDivisionError("of\nours\x1b[2J")

    monkeypatch.setattr(evaluate, "main", fails)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["igllm", "evaluate", "--format", "json"])
    assert cli.main() == 70
    (line,) = capsys.readouterr().err.splitlines()
    (file,) = tmp_path.iterdir()
    assert line.startswith(r"error: ZeroDivisionError: of ours\x1b[2J (unexpected: please report it")
    assert str(file) in line and "Traceback" in file.read_text() and "test_flags.py" in file.read_text()
    monkeypatch.setattr(sys, "argv", ["igllm", "evaluate", "--debug", "--format", "json"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stops(*arguments):
        raise KeyboardInterrupt

    words = ["import", "--vision", "v", "--decoder", "d", "--out", str(tmp_path / "base")]
    monkeypatch.setattr(command, "run_import", stops)
    assert endings.run("igllm_jax.interop.command", words) == 130
    partial_of(tmp_path / "base").mkdir()
    assert endings.run("igllm_jax.interop.command", words) == 130
    monkeypatch.setattr(evaluate, "main", stops)
    monkeypatch.setattr(sys, "argv", ["igllm", "evaluate"])
    assert cli.main() == 130
    again = "interrupted; run the same command again to go on"
    assert capsys.readouterr().err.splitlines() == ["interrupted", again, "interrupted"]


def test_the_converter_has_the_same_net():
    tool = Path(__file__).parents[1] / "tools" / "convert_weights.py"
    done = subprocess.run([sys.executable, str(tool), "--debug", "export"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: the following arguments are required: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\n", b"[1]\n", b'{"loss": 1}\n', b'{"step": "1"}\n', b'{"step": 2, \n', b"{" * 9 + b"\n"]
)
def test_damaged_metrics_are_set_aside_and_the_others_go_on(tmp_path, bad):
    path = tmp_path / metrics_log.METRICS_FILE
    path.write_bytes(b'{"step": 1}\n' + bad + b'{"step": 3}\n{"step": 4}\n{"st')
    before = path.read_bytes()
    assert [line["step"] for line in metrics_log.read(path)] == [1, 3, 4]
    metrics_log.MetricsWriter(tmp_path, first_step=3, tensorboard=False, wandb=False, config={}).close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert (tmp_path / "metrics.jsonl.damaged-1").read_bytes() == before


def test_names_are_logged_with_control_characters_escaped(capsys):
    log_line("a\x1b[2J\udcff.png:\nits answer")
    assert capsys.readouterr().err == "a\\x1b[2J\\udcff.png:\nits answer\n"


def test_a_line_that_was_cut_off_is_no_damage(tmp_path):
    path = tmp_path / metrics_log.METRICS_FILE
    path.write_bytes(b'{"step": 1}\n{"st')
    metrics_log.MetricsWriter(tmp_path, first_step=3, tensorboard=False, wandb=False, config={}).close()
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text() == '{"step": 1}\n'
