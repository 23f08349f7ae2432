"""A training run on a mixture of a packed set and a tar, killed and gone on with."""

import signal

import pytest

from igllm_jax import config as configs
from igllm_jax import make_data, pack, train
from igllm_jax.errors import UserError
from tests import runs
from tests.test_train import wait_for_step

SMALL = {
    "data.image_size": 24,
    "model.vision.image_size": 24,
    "data.prompt": "short",
    "data.buckets": 2,
    "train.num_steps": 24,
    "eval.loss_every": 12,
    "eval.loss_samples": 8,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a packed set, `packed`, and another as it is, `plain`."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("raw", 1), ("plain", 2)):
        counts = ["--num_train", "21", "--num_val", "8", "--seed", str(seed), "--workers", "1"]
        few = ["--image_size", "48x32", "--min_objects", "1", "--max_objects", "3"]
        make_data.main(["clevr", "--out", str(folder / name), *counts, *few])
    pack.pack(folder / "raw", folder / "packed", "own")
    return folder


def words(workdir, data, *, weight=2.0, **changed):
    plain = [f"{data}/plain/images/train.tar", f"{data}/plain/labels/train.json"]
    held_out = {
        f"data.val.{part}": f"{data}/plain/{part}/val_ID.{end}" for part, end in (("images", "tar"), ("labels", "json"))
    }
    mixture = ((f"tfds:{data}/packed/own/1.0.0/train", weight), (*plain, 1.0))
    values = {**SMALL, **held_out, "data.sources": mixture, **changed}
    return runs.arguments(
        workdir, data, task="clevr", **{key.replace(".", "__"): value for key, value in values.items()}
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("whole")
    runs.finish(runs.start("train", *words(workdir, data)))
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_on_a_mixture_goes_on_bit_for_bit(whole, data, tmp_path, workers):
    process = runs.start("train", *words(tmp_path, data))
    wait_for_step(process, tmp_path, 7, saved=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = runs.losses(tmp_path)
    assert max(before) < 24
    _, said = runs.finish(runs.start("train", *words(tmp_path, data, **{"data.num_workers": workers})))
    assert "resumed from step" in said
    wanted = runs.losses(whole)
    assert len(wanted) == 24 and runs.losses(tmp_path) == wanted
    assert all(wanted[step] == loss for step, loss in before.items())


@pytest.mark.slow
def test_other_weights_are_another_run(data, tmp_path):
    config = configs.load([word for word in words(tmp_path, data) if word.startswith("--config")])[0]
    train.Run(config, tmp_path).checkpoints.close()
    with pytest.raises(UserError, match=r"the run in the workdir has another config: data.sources from") as error:
        train.main(words(tmp_path, data, weight=3.0))
    assert "\n" not in str(error.value)
