"""What a run does with errors in the middle: it saves first; and a score belongs to the step it was measured at."""

import subprocess
import sys
from pathlib import Path

import pytest

from igllm_jax import __main__, train
from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.training import metrics_log
from igllm_jax.weights import checkpoint
from igllm_jax.weights.trained_model import check_tokenizer
from tests import runs


class Broken:
    """Batches that end in an error, as a data worker's do."""

    def __init__(self, batches, count: int, error: Exception):
        self.batches, self.left, self.error = batches, count, error

    def __next__(self):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return next(self.batches)

    def close(self) -> None:
        self.batches.close()


def run(workdir: Path, data: Path, break_after: int | None = None, error: Exception | None = None) -> None:
    words = runs.arguments(
        workdir, data, train__num_steps=9, train__checkpoint_every=3, train__keep_checkpoints=9, eval__loss_every=4,
        eval__best_metric="loss",
    )  # fmt: skip
    config, _ = configs.load([word for word in words if word.startswith("--config")])
    made = train.Run(config, workdir)
    if break_after is not None:
        iterate = made.data.iterate
        made.data.iterate = lambda start: Broken(iterate(start), break_after, error)
    made.train()


@pytest.mark.slow
def test_an_error_ends_a_run_saved_and_it_goes_on_from_there(data, tmp_path, capsys):
    with pytest.raises(UserError, match=r"^7.png: cannot be decoded; step 5 is saved, the same command goes on there$"):
        run(tmp_path, data, 5, UserError("7.png: cannot be decoded"))
    assert checkpoint.find_step(tmp_path, "last") == 5
    with pytest.raises(KeyError, match="a bug"):
        run(tmp_path, data, 2, KeyError("a bug"))
    assert "stopped by an error; step 7 is saved" in capsys.readouterr().err
    run(tmp_path, data)
    assert list(runs.losses(tmp_path)) == list(range(1, 10))

    # evaluated at 4, 8 and 9 (the last), saved at 3, 5, 6, 7 and 9
    scored = {step: checkpoint.read_meta(tmp_path, step)["scores"] for step in (3, 5, 6, 7, 9)}
    assert [step for step, scores in scored.items() if scores] == [9]
    assert checkpoint.find_step(tmp_path, "best") == 9
    with pytest.raises(UserError, match=r"is not the tokenizer that step 9 was trained with"):
        check_tokenizer(tmp_path, 9, type("Other", (), {"fingerprint": "other"})())


def test_wandb_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    def without(name: str):
        raise ImportError(name)

    monkeypatch.setattr(metrics_log.importlib, "import_module", without)
    with pytest.raises(UserError, match=r"train.wandb is on, but wandb is not installed"):
        metrics_log.MetricsWriter(tmp_path, first_step=0, tensorboard=False, wandb=True, config={})


def test_a_workdir_that_cannot_be_is_one_line(data, capsys, monkeypatch):
    words = runs.arguments(Path("/proc/nothing/run"), data)
    monkeypatch.setattr("sys.argv", ["igllm", "train", *words])
    assert __main__.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --workdir /proc/nothing/run cannot be written") and said.count("\n") == 1


def test_a_refused_value_leaves_no_folder(data, tmp_path):
    with pytest.raises(UserError, match=r"optim\.clip_norm is -1"):
        train.main(runs.arguments(tmp_path / "run", data, optim__clip_norm=-1.0))
    assert not (tmp_path / "run").exists()


def test_names_that_are_not_utf8_are_printed_escaped():
    say = (
        "from igllm_jax import __main__; import sys, types; m = types.ModuleType('say'); "
        "m.main = lambda words: print('a\\udcff.png') or 0; sys.modules['say'] = m; "
        "__main__.COMMANDS['say'] = ('say', ''); sys.argv = ['igllm', 'say']; sys.exit(__main__.main())"
    )
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, cwd=runs.ROOT)
    assert (done.returncode, done.stdout) == (0, "a\\udcff.png\n"), done.stderr
