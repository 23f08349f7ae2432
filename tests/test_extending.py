"""What docs/architecture.md promises under "Where to add what": parts added from outside work in every command."""

import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from igllm_jax import config_ranges, evaluate, generate, make_data, train
from igllm_jax.errors import UserError
from igllm_jax.interop import command as convert
from igllm_jax.models import float_heads, projectors, vlm
from igllm_jax.models.layers import Linear
from igllm_jax.models.llama import DecoderConfig
from igllm_jax.parallel import sharding
from igllm_jax.training import metrics_log
from igllm_jax.weights import base_folder
from igllm_jax.weights.trained_model import load_run
from tests import runs

CONFIG = """
from configs import tiny

def get_config():
    config = tiny.get_config("task=twod")
    config.head = "twice"
    config.model.projector = "relu"
    config.mesh.layout = "vocabulary_whole"
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 2, 2, 2
    with config.unlocked():
        config.model.decoder.note = "from outside"
    return config
"""


class TwiceHead(float_heads.LinearHead):
    """Twice what the linear head reads."""

    def __call__(self, hidden):
        return 2 * super().__call__(hidden)

    @staticmethod
    def flops(width):
        return float_heads.LinearHead.flops(width) + 1


class ReluProjector(projectors.LinearProjector):
    """A ReLU behind the linear map, and a scale of its own."""

    def __init__(self, vision_width, width, rngs):
        super().__init__(vision_width, width, rngs)
        self.scale = Linear((width, 1), ("embed", None), rngs, bias=True)

    def __call__(self, x):
        x = jnp.maximum(super().__call__(x), 0)
        return x * self.scale(x)


@dataclass(frozen=True)
class NotedDecoderConfig(DecoderConfig):
    """One key more."""

    note: str


@pytest.fixture
def extended(monkeypatch):
    monkeypatch.setitem(float_heads.FLOAT_HEADS, "twice", TwiceHead)
    monkeypatch.setitem(projectors.PROJECTORS, "relu", ReluProjector)
    monkeypatch.setitem(sharding.LAYOUTS, "vocabulary_whole", {**sharding.LAYOUTS["train"], "vocab": None})
    monkeypatch.setitem(vlm.PARTS, "decoder", NotedDecoderConfig)
    monkeypatch.setitem(config_ranges.RANGES, "model.decoder.note", config_ranges.Text())


@pytest.mark.slow
def test_parts_from_outside_train_generate_evaluate_and_export(extended, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    assert make_data.main(["twod", "--out", str(data), "--num_train", "64", "--num_val", "24"]) == 0
    (tmp_path / "extended.py").write_text(CONFIG)
    words = runs.arguments(run, data, train__num_steps=3, eval__loss_every=3)
    words[0] = f"--config={tmp_path}/extended.py"
    assert train.main(words) == 0
    lines = metrics_log.read(run / metrics_log.METRICS_FILE)
    assert np.isfinite([line["loss"] for line in lines if "loss" in line]).all()
    assert any(line.get("useful_flops_per_second", 0) > 0 for line in lines)

    trained = load_run(run, "last")
    assert trained.model.decoder.note == "from outside"
    assert "projector/scale/kernel" in trained.params
    predictions = tmp_path / "predictions.json"
    images = ["--images", f"{data}/2d.npz:random", "--limit", "4", "--max_new_tokens", "40", "--num_drafts", "0"]
    assert generate.main(["--workdir", str(run), *images, "--out", str(predictions)]) == 0
    metrics = tmp_path / "metrics.json"
    where = ["--predictions", str(predictions), "--labels", f"{data}/2d.npz:random", "--out", str(metrics)]
    assert evaluate.main(where) == 0
    assert json.loads(metrics.read_text())

    out = ["export", "--workdir", str(run), "--format", "safetensors", "--out", str(tmp_path / "exported")]
    assert convert.main(out) == 0
    written = json.loads((tmp_path / "exported" / base_folder.MODEL_FILE).read_text())["config"]
    assert (written["head"], written["projector"], written["decoder"]["note"]) == ("twice", "relu", "from outside")


def test_what_other_formats_have_no_names_for_is_one_line(extended, tmp_path):
    from igllm_jax.interop import formats

    with pytest.raises(UserError, match=r"no names for the projector 'relu'.*safetensors"):
        formats.llava_hf("relu")
    with pytest.raises(UserError, match=r"no names for the float head 'twice'.*safetensors"):
        formats.non_lora("linear", "twice")
