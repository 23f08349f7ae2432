"""Each family by the commands: trained, resumed, asked and scored."""

import json

import jax
import pytest

from igllm_jax import evaluate, generate, make_data, train
from igllm_jax.parallel.sharding import MeshOptions
from tests import families, runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data.main(["clevr", "--out", str(folder), "--num_train", "16", "--num_val", "4", "--image_size", "48x48"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("triple", families.TRIPLES, ids=families.name_of)
def test_a_family_trains_resumes_writes_and_is_scored(triple, data, tmp_path, monkeypatch):
    one, on = jax.devices()[:1], MeshOptions.on
    monkeypatch.setattr(MeshOptions, "on", lambda options: on(options, one))
    decoder, tower, second = triple
    changes = {f"model.decoder.{key}": value for key, value in families.DECODERS[decoder].items()}
    changes |= {f"model.vision.{key}": value for key, value in families.TOWERS[tower].items()}
    if second:
        own = {"image_size": 48, "patch_size": 12, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 16}
        changes |= {f"model.second_vision.{key}": value for key, value in (own | families.TOWERS[second]).items()}
    changes |= {"data.image_size": 24, "model.vision.image_size": 24, "model.vision.patch_size": 6}
    for split, name in (("train", "train"), ("val", "val_ID")):
        changes |= {f"data.{split}.images": f"{data}/images/{name}.tar"}
        changes |= {f"data.{split}.labels": f"{data}/labels/{name}.json"}
    changes |= {"optim.trainable": "full", "eval.loss_every": 3, "eval.loss_samples": 4, "data.buckets": 1}
    words = runs.arguments(
        tmp_path / "run", data, task="clevr", **{k.replace(".", "__"): v for k, v in changes.items()}
    )
    for steps in (3, 6):
        assert train.main([*words, f"--config.train.num_steps={steps}"]) == 0
    losses = runs.losses(tmp_path / "run")
    assert sorted(losses) == [1, 2, 3, 4, 5, 6] and losses[6] < losses[1]
    out, scores = tmp_path / "predictions.json", tmp_path / "scores.json"
    images, labels = f"{data}/images/val_ID.tar", f"{data}/labels/val_ID.json"
    options = ["--limit", "4", "--max_new_tokens", "64", "--out", str(out)]
    assert generate.main(["--workdir", str(tmp_path / "run"), "--images", images, *options]) == 0
    assert evaluate.main(["--labels", labels, "--predictions", str(out), "--out", str(scores)]) == 0
    assert json.loads(scores.read_text())["num_scenes"] == 4


def test_every_family_is_named_once():
    decoders, towers, seconds = zip(*families.TRIPLES, strict=True)
    assert sorted(decoders) == sorted(families.DECODERS)
    assert {*towers, *filter(None, seconds)} == set(families.TOWERS)
