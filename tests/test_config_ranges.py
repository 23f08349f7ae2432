"""Every key has a range, and what lies outside gets its name and its range."""

import pytest

from igllm_jax import config as configs
from igllm_jax.config_ranges import RANGES, Choice, Real, Reals, Sources, Switch, Text, Whole
from igllm_jax.errors import UserError
from igllm_jax.versions import flatten

KINDS = {bool: Switch, int: Whole, float: Real, str: (Text, Choice), tuple: (Reals, Sources)}


def test_every_key_has_a_range_of_its_type_that_holds_what_is_shipped():
    flat = flatten(configs.shipped("common"))
    assert set(RANGES) == set(flat)
    for key, value in flat.items():
        assert isinstance(RANGES[key], KINDS[type(value)]), key
        assert RANGES[key].holds(value), key


@pytest.mark.parametrize(
    "override, message",
    [
        ("optim.warmup=100", r"optim.warmup is 100.0; it must be a number in \[0, 1\]; it is a share of the steps"),
        ("optim.warmup=inf", r"optim.warmup is inf"),
        ("optim.clip_norm=-1", r"optim.clip_norm is -1.0; it must be a number in \[0, "),
        ("optim.lr=-1e-3", r"optim.lr is -0.001; it must be"),
        ("optim.lr=nan", r"optim.lr is nan; it must be"),
        ("optim.beta2=1.0", r"optim.beta2 is 1.0; it must be a number in \[0, 1\)"),
        ("optim.epsilon=-1", r"optim.epsilon is -1.0; it must be a number in \(0, 1\]"),
        ("data.train.num_samples=-1", r"data.train.num_samples is -1; it must be a whole number from 0"),
        (
            "data.image_mean=(123,117,104)",
            r"data.image_mean is \(123, 117, 104\); it must be 3 numbers, each a number in",
        ),
        ("data.image_std=(0,0,0)", r"data.image_std is"),
        ("eval.best_metric=l2x", r"eval.best_metric is 'l2x'; choose one of loss, token_loss, number_loss, l2"),
        ("model.frozen_dtype=abc", r"model.frozen_dtype is 'abc'; choose one of float32, bfloat16"),
        ("model.projector=(nan,0,0)", r"model.projector"),
        ("seed=-1", r"seed is -1; it must be a whole number from 0 to 4294967295"),
        ("model.decoder.num_kv_heads=-1", r"model.decoder.num_kv_heads is -1"),
        ("model.decoder.num_kv_heads=3", r"not divisible by num_kv_heads 3"),
        ("model.vision.patch_size=97", r"patch_size 97 is larger than"),
        ("mesh.data=0", r"mesh.data is 0; it must be a whole number from -1 to 1048576 but 0"),
        ("data.num_workers=100000", r"data.num_workers is 100000; it must be a whole number from 0 to 1024"),
    ],
)
def test_what_lies_outside_is_one_line_with_key_value_and_range(override, message):
    with pytest.raises(UserError, match=message) as error:
        configs.load(["--config=tiny", f"--config.{override}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override", ["optim.clip_norm=0", "optim.warmup=1", "optim.lr=0", "optim.beta1=0", "mesh.fsdp=1"]
)
def test_the_ends_of_a_range_belong_to_it(override):
    configs.load(["--config=tiny", f"--config.{override}"])
