"""Config files and overrides: what works, and what a typo gets."""

import json

import pytest

from igllm_jax import config as configs
from igllm_jax.config_files import shipped_names
from igllm_jax.data.options import PixelOptions, Source
from igllm_jax.errors import UserError


@pytest.mark.parametrize("name", shipped_names())
def test_every_preset_gives_every_part_its_options(name):
    config, others = configs.load([f"--config={name}", "--workdir", "x"])
    assert others == ["--workdir", "x"]
    options = configs.run_options(config)
    assert options.model.head == config.head and options.data.task.name == config.task
    assert configs.held_out_options(config).batch_size == options.batch_size
    if config.data.train.images:  # bases, bench and common leave that to their user
        assert configs.source(config, "train").images == config.data.train.images
    json.loads(config.to_json())


def test_arguments_and_overrides_apply():
    config, _ = configs.load(
        ["--config=configs/clevr.py:head=linear", "--config.optim.lr=0.5", "--config.mesh.data", "2"]
    )
    assert (config.head, config.optim.lr, config.mesh.data) == ("linear", 0.5, 2)


def test_the_full_size_is_vicuna_7b_and_vit_l():
    from igllm_jax.models.vlm import skeleton

    config, _ = configs.load(["--config=configs/clevr.py"])
    shapes = skeleton(configs.model_config(config)).shapes
    assert shapes["decoder/layers/gate/kernel"].shape == (32, 4096, 11008)
    assert shapes["decoder/embedding"].shape == (32000, 4096)
    assert shapes["vision/blocks/q/kernel"].shape == (23, 1024, 1024)  # the last block feeds nothing
    assert shapes["vision/position_embedding"].shape == (577, 1024)
    assert config.train.num_steps == 40_000 and config.data.train.num_samples == 4000


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config=configs/tiny.py", "--config.optim.lrr=1"], r"no config key 'optim.lrr'; the nearest is 'optim.lr'"),
        (
            ["--config=configs/tiny.py", "--config.optim=1"],
            "optim is a group of keys; set one of them, such",
        ),
        (["--config=configs/tiny.py", "--config.optim.lr=fast"], "optim.lr"),
        (["--config=configs/tiny.py:hed=linear"], "expected key=value with key one of task, head, rotation_rep"),
        (["--config=configs/tiny.py:head=liner"], "head is 'liner'; choose one of none, linear"),
        (["--config=configs/tiny.py:task=3d"], "there is no task '3d'"),
        (["--config=configs/none.py"], "there is no config file configs/none.py"),
        (["--workdir", "x"], "--config is missing"),
        (["--config=configs/tiny.py", "--config.batch_size=0"], "batch_size is 0; it must be a whole number from 1 to"),
        (
            ["--config=configs/tiny.py", "--config.eval.loss_every=-1"],
            "eval.loss_every is -1; it must be a whole",
        ),
        (["--config=tiny", "--config=twod"], "--config is given 2 times"),
        (["--config=configs/tiny.py", "--config.optim.accumulate=3"], "can't be sharded in optim.accumulate=3"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        configs.load(arguments)
    assert "\n" not in str(error.value)


def test_a_resumed_run_may_not_change_what_is_learned(tmp_path):
    config, _ = configs.load(["--config=configs/tiny.py"])
    configs.write(config, tmp_path)
    saved = configs.read(tmp_path)
    config.train.log_every = 3
    configs.check_resume(config, saved)
    config.optim.lr = 0.7
    assert configs.read(tmp_path) == saved
    with pytest.raises(UserError, match=r"optim.lr from 0.0005 to 0.7"):
        configs.check_resume(config, saved)
    with pytest.raises(UserError, match="is no run"):
        configs.read(tmp_path / "nothing")


def test_a_mixture_of_sources_from_the_command_line(tmp_path):
    spec = "(('tfds:own/train', 2), ('a.tar', 'a.json', 0.5))"
    config, _ = configs.load(["--config=configs/clevr.py", f"--config.data.sources={spec}"])
    assert configs.train_sources(config) == [(Source("tfds:own/train"), 2.0), (Source("a.tar", "a.json"), 0.5)]
    configs.write(config, tmp_path)
    assert configs.train_sources(configs.read(tmp_path)) == configs.train_sources(config)
    alone, _ = configs.load(["--config=configs/clevr.py"])
    assert configs.train_sources(alone) == [
        (Source("data/CLEVR/images/train.tar", "data/CLEVR/labels/train.json", 4000), 1.0)
    ]


@pytest.mark.parametrize(
    "spec", ["a.tar", "(('a.tar',),)", "(('a.tar', 'a.json'),)", "((1, 2),)", "(('a', 'b', 'c', 1),)"]
)
def test_a_mixture_that_is_none(spec):
    with pytest.raises(UserError, match=r"data\.sources"):
        configs.load(["--config=configs/clevr.py", f"--config.data.sources={spec}"])


def test_runs_from_before_keep_their_pixels(tmp_path):
    config, _ = configs.load(["--config=configs/clevr.py"])
    assert configs.data_options(config).pixel_options == PixelOptions()
    values = json.loads(config.to_json())
    for key in ("pixels", "pixel_range", "exif", "max_image_side", "max_image_aspect", "max_image_pixels"):
        del values["data"][key]
    (tmp_path / "config.json").write_text(json.dumps(values))
    before = configs.read(tmp_path)
    options = configs.data_options(before)
    assert (options.pixels, options.exif, options.max_image_side) == ("legacy", "ignore", 0)
    with pytest.raises(UserError, match=r"data.exif from 'ignore' to 'apply', data.pixels from 'legacy' to 'exact'"):
        configs.check_resume(config, before)
    assert configs.keep_meaning(config, tmp_path) == ["data.pixels='legacy'", "data.exif='ignore'"]
    configs.check_resume(config, before)


def test_a_source_of_nothing_is_refused():
    config, _ = configs.load(["--config=configs/clevr.py"])
    config.data.sources = ((),)
    with pytest.raises(UserError, match=r"data.sources: \(\) must be \(images, weight\)"):
        configs.train_sources(config)
