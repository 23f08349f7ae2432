"""FLOPs counted over steps, and windows of steps that are traced."""

import pytest

from igllm_jax.errors import UserError
from igllm_jax.planning.chips import CHIPS
from igllm_jax.planning.flops import train_flops
from igllm_jax.planning.throughput import Profile, Speed
from tests import small

LORA = ("decoder/layers/q/lora_a", "decoder/layers/q/lora_b")


def test_rates_are_the_counted_flops_over_time_and_start_anew():
    model = small.model(remat="full")
    speed = Speed(model, LORA, small.LAYOUT, batch_size=3, num_devices=2, chip=CHIPS["v5e"])
    speed.add(19)
    speed.add(11)
    patches, prompt = model.vision.num_patches, small.LAYOUT.answer_offset
    counted = [train_flops(model, length=t + patches, answer_length=t - prompt, trainable=LORA) for t in (19, 11)]
    found = speed.rates(seconds=0.5)
    useful = 3 * sum(one.useful for one in counted) / 0.5
    assert found["useful_flops_per_second"] == pytest.approx(useful)
    assert found["mfu"] == pytest.approx(useful / (2 * CHIPS["v5e"].flops))
    assert found["hfu"] > found["mfu"]
    assert found["peak_host_gib"] > 0
    assert speed.rates(1.0)["useful_flops_per_second"] == 0


def test_an_unknown_chip_has_no_share_of_a_peak():
    speed = Speed.of(small.model(), LORA, small.LAYOUT, batch_size=3, num_devices=1)
    speed.add(19)
    assert "mfu" not in speed.rates(1.0)


def test_a_window_of_steps_is_traced(tmp_path):
    profile = Profile("2:3", tmp_path)
    ended = []
    for step in range(1, 6):
        profile.before(step, 0)
        ended.append(profile.after(step, 0))
    assert ended == [False, False, True, False, False]
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert not profile.close()


@pytest.mark.parametrize("window", ["3", "a:b", "0:2", "5:4"])
def test_a_window_that_is_none(window, tmp_path):
    with pytest.raises(UserError, match="profile"):
        Profile(window, tmp_path)
