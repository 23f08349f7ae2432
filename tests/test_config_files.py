"""Config files of one's own: what they start from, and what a mistake in one gets."""

import sys

import pytest

from igllm_jax import config as configs
from igllm_jax.errors import UserError

TINY = "from configs import tiny\n\n\ndef get_config(argument=''):\n    config = tiny.get_config(argument)\n"


def write(path, *lines, start=TINY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(start + "".join(f"    {line}\n" for line in [*lines, "return config"]))
    return path


@pytest.mark.parametrize("where", ["mine.py", "configs/mine.py", "deep/er/mine.txt"])
def test_a_config_anywhere_starts_from_the_shipped_ones(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / where, "config.optim.lr = 0.25")
    modules = {name for name in sys.modules if name.startswith("configs")}
    config, _ = configs.load([f"--config={where}:task=clevr", "--config.batch_size=3"])
    assert (config.optim.lr, config.task, config.batch_size) == (0.25, "clevr", 3)
    assert config.data.train.images == "data/tiny/clevr/images/train.tar"
    assert {name for name in sys.modules if name.startswith("configs")} == modules


def test_a_folder_called_configs_has_the_first_word(tmp_path):
    write(tmp_path / "configs" / "tiny.py", "config.seed = 7", start=TINY.replace("tiny", "twod"))
    config, _ = configs.load([f"--config={write(tmp_path / 'configs' / 'mine.py')}"])
    assert (config.seed, config.task) == (7, "twod")
    assert configs.load(["--config=tiny"])[0].seed == 0


@pytest.mark.parametrize("spec", ["tiny", "tiny.py", "configs/tiny.py"])
def test_the_shipped_ones_are_found_by_name(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    assert configs.load([f"--config={spec}:task=twod"])[0].batch_size == 32


def test_a_change_within_a_second_is_seen(tmp_path):
    for seed in (1, 2):
        path = write(tmp_path / "mine.py", f"config.seed = {seed}")
        assert configs.load([f"--config={path}"])[0].seed == seed
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "config.optim.weight_decy = 1.0",
            r"mine.py:6: there is no config key 'optim.weight_decy'; the nearest is",
        ),
        ("config.data.shuffle_atributes = 1", r"'data.shuffle_atributes'; the nearest is 'data.shuffle_attributes'"),
        (
            "config['train']['num_step'] = 5",
            r"mine.py:6: there is no config key 'train.num_step'; .*num_steps'",
        ),
        ("print(config.model.lora.rnk)", r"mine.py:6: there is no config key 'model.lora.rnk'; .*'model.lora.rank'"),
        ("config.foo = 1", r"mine.py:6: there is no config key 'foo'; the nearest is"),
        ("config.train.num_steps = 'many'", r"mine.py:6: TypeError: .*num_steps"),
        ("config.train.num_steps = 1 // 0", r"mine.py:6: ZeroDivisionError"),
        ("config.data.x = = 3", r"mine.py:6: invalid syntax"),
        ("config.unlock(); config.optim.mine = 1", r"mine.py: there is no config key 'optim.mine'; the nearest is"),
        ("config.unlock(); del config.optim.lr", r"mine.py: the config key 'optim.lr' is absent"),
        ("config = {}", r"mine.py: get_config\(\) returns dict, not a ConfigDict"),
        ("raise SystemExit(3)", r"mine.py:6: SystemExit: 3"),
        ("import nowhere_to_be_found", r"mine.py:6: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_says_where(tmp_path, line, message):
    path = write(tmp_path / "mine.py", line)
    with pytest.raises(UserError, match=message) as error:
        configs.load([f"--config={path}"])
    assert "\n" not in str(error.value)


def test_what_is_no_config_file(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"has no function get_config"):
        configs.load([f"--config={tmp_path / 'empty.py'}"])
    with pytest.raises(
        UserError, match=r"no config file none; the shipped ones are bases, bench, claims, clevr, common"
    ):
        configs.load(["--config=none"])


def test_the_sizes_of_bench_are_no_keys():
    config, _ = configs.load(["--config=configs/bench.py:size=medium,head=none"])
    assert "size" not in config and config.head == "none" and config.is_locked
    with pytest.raises(UserError, match="size is 'huge'; choose one of small, medium, 7b"):
        configs.load(["--config=configs/bench.py:size=huge"])
