"""The benchmarks' sizes, batches and figures; torch is not needed."""

from dataclasses import replace

import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks import report, work
from benchmarks.ours import LAYOUT, Ours
from configs import bench
from igllm_jax import config as configs
from igllm_jax import make_data
from igllm_jax.data import pipeline
from igllm_jax.errors import UserError
from igllm_jax.weights import trained_model
from tests import runs

SMALLER = {
    "model.decoder.width": 22, "model.decoder.num_layers": 2, "model.decoder.num_heads": 2,
    "model.decoder.num_kv_heads": 2, "model.decoder.head_dim": 6, "model.decoder.mlp_width": 29,
    "model.decoder.vocab_size": 53, "model.vision.width": 14, "model.vision.num_layers": 2,
    "model.vision.num_heads": 2, "model.vision.mlp_width": 17, "model.vision.image_size": 28, "data.image_size": 28,
    "data.max_length": 71, "batch_size": 8,
}  # fmt: skip


def smaller() -> ConfigDict:
    config = bench.get_config("size=small")
    config.update_from_flattened_dict(SMALLER)
    return configs.check(config)


@pytest.mark.parametrize("size", bench.SIZES)
def test_sizes_are_complete_configs(size):
    config = configs.check(bench.get_config(f"size={size}"))
    assert configs.model_config(config).lora.dropout == 0.05
    assert config.data.max_length > config.data.image_size**2 // 14**2 + LAYOUT.answer_offset


def test_an_unknown_size():
    with pytest.raises(UserError, match="small, medium, 7b"):
        bench.get_config("size=large")


def test_a_batch_has_whole_answers_that_end_in_order():
    batch = work.batch(rows=3, tokens=71, image_size=14, vocab_size=53)
    lengths = batch["is_answer"].sum(axis=1)
    assert not batch["is_answer"][:, : sum(work.PROMPT)].any()
    assert lengths[-1] == 71 - sum(work.PROMPT) and (np.diff(lengths) >= 0).all()
    assert (batch["numbers"][~batch["is_number"]] == 0).all()
    assert (batch["tokens"] < 53).all()


@pytest.mark.slow
def test_our_side_trains_and_decodes(tmp_path):
    work.write(tmp_path / "work", smaller())
    side = Ours(tmp_path / "work")
    side.set_up_training()
    before = side.loss()
    found = side.steps(2)
    assert found["seconds"] > 0 and side.loss() < before
    side.set_up_decoding(images=8, new_tokens=5, number_id=-1)
    answers = np.array(side.decode(batch=0)["tokens"])
    assert answers.shape == (8, 5) and not (answers == work.END_ID).any()


def test_our_side_draws_its_own_weights_where_the_folder_has_none(tmp_path):
    work.write(tmp_path / "work", smaller(), has_weights=False)
    side = Ours(tmp_path / "work")
    assert not work.read_weights(side.folder)
    run_model = side.assemble()
    drawn = side.read({**run_model.frozen, **run_model.trainable})
    assert all(np.isfinite(value).all() for value in drawn.values())
    assert np.std(drawn["decoder/layers/q/kernel"]) > 0.1


@pytest.mark.slow
def test_our_side_decodes_what_a_run_has_learned(tmp_path, monkeypatch):
    """With guesses as without, from its own prompt and pictures; a run with another tokenizer says what is needed."""
    data, workdir = tmp_path / "data", tmp_path / "run"
    make_data.main(["twod", "--out", str(data), "--num_train", "16", "--num_val", "16"])
    words = runs.arguments(workdir, data, train__num_steps=3, eval__loss_every=0)
    runs.finish(runs.start("train", *words))
    pictures = f"{data}/2d.npz:random"
    with pytest.raises(SystemExit, match="LLaMA's tokenizer"):
        work.write_run(tmp_path / "work", workdir, pictures)
    trained = trained_model.load_run(workdir, "last")
    before, after = pipeline.prompt_tokens(trained.data, trained.tokenizer)
    monkeypatch.setattr(work, "PROMPT", (len(before), len(after)))
    monkeypatch.setattr(work, "NUMBER_ID", trained.tokenizer.float_id)
    work.write_run(tmp_path / "work", workdir, pictures)
    side, found = Ours(tmp_path / "work"), {}
    for num_drafts in (0, 3):
        side.set_up_decoding(images=8, new_tokens=24, number_id=work.NUMBER_ID, num_drafts=num_drafts)
        found[num_drafts] = [side.decode(batch) for batch in (0, 1)]
    assert [turn["tokens"] for turn in found[0]] == [turn["tokens"] for turn in found[3]]
    side.table = replace(side.table, acceptance_rate=np.ones((), np.float32))
    assert side.decode(1)["steps"] < found[0][1]["steps"] == 23  # what it has written once it guesses
    assert not np.array_equal(work.images(side.folder, 8, 0), work.images(side.folder, 8, 1))
    with pytest.raises(SystemExit, match="batch 2 of 8 goes beyond"):
        side.decode(2)


def test_turns_alternate_and_a_side_that_fails_is_left_out(capsys):
    from benchmarks.worker import SideError

    seen = []

    def once(name: str) -> int:
        seen.append(name)
        if name == "b" and seen.count("b") == 2:
            raise SideError("b: broken")
        return len(seen)

    assert report.in_turns(["a", "b"], 3, once) == {"a": [1, 3, 5]}
    assert seen == ["a", "b", "a", "b", "a"]
    assert "b: broken" in capsys.readouterr().out


def test_a_spread_is_median_with_extremes():
    assert report.spread([3.0, 1.0, 2.0]) == "2 (1-3)"
