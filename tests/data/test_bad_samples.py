"""Images that cannot be read: the run ends so that it can be saved, or goes on without them, always in the same way."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from igllm_jax.data.examples import load_examples
from igllm_jax.data.pipeline import EvalData, TrainPipeline
from igllm_jax.errors import BadSampleError, DataError, UserError
from tests.data import samples
from tests.data.test_pipeline import assert_same

COUNT, BAD = 11, (2, 7)


@pytest.fixture
def source(tmp_path):
    """A set of 11 scenes, two of whose images are broken."""
    source = samples.clevr_set(tmp_path, count=COUNT)
    rng = np.random.default_rng(3)
    files = {f"images/train/CLEVR_train_{index:06d}.png": samples.png(rng) for index in range(COUNT)}
    for index in BAD:
        files[f"images/train/CLEVR_train_{index:06d}.png"] = b"\x89PNG\r\n\x1a\nbroken"
    samples.write_tar(Path(source.images), files)
    return source


def pipeline(source, tiny, **changed):
    changed = {"on_bad_sample": "skip", "max_bad_share": 0.2, **changed}
    return TrainPipeline([source], samples.options(**changed), tiny, seed=0, batch_size=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_ends_the_batches(source, tiny, workers):
    batches = pipeline(source, tiny, on_bad_sample="error", num_workers=workers).iterate()
    with batches, pytest.raises(DataError, match=r"train.tar: image .*CLEVR_train_00000[27].png: cannot be decoded"):
        for _ in range(COUNT):
            next(batches)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_skipped_ones_have_no_weight_and_are_named_once(source, tiny, tmp_path, capsys, workers):
    data = pipeline(source, tiny, num_workers=workers)
    with data.iterate() as batches:
        found = [next(batches) for _ in range(8)]
    said = capsys.readouterr().err
    for index in BAD:
        assert said.count(f"CLEVR_train_{index:06d}.png: cannot be decoded") == 1
    assert "left out (1 of 11 so far): " in said and "left out (2 of 11 so far): " in said
    for step, batch in enumerate(found):
        assert (batch.weight == [example not in BAD for example in data.examples(step)]).all()
        assert not batch.images[batch.weight == 0].any()
    cached = pipeline(source, tiny, cache=str(tmp_path / "cache"))
    with cached.iterate(5) as resumed:
        for batch in found[5:]:
            assert_same(next(resumed), batch)


def test_too_many_bad_ones_end_the_run(source, tiny):
    batches = pipeline(source, tiny, max_bad_share=0.1).iterate()
    with (
        batches,
        pytest.raises(DataError, match=r"2 of 11 images cannot be read, above data.max_bad_share=0.1"),
    ):
        for _ in range(8):
            next(batches)


def test_evaluation_leaves_bad_ones_out(source, tiny, capsys):
    options = samples.options(on_bad_sample="skip", max_bad_share=0.2)
    data = EvalData(source, options, tiny)
    assert len(data.scenes) == COUNT - 2
    assert capsys.readouterr().err.count("left out of") == 2
    plain = load_examples(source, samples.options())
    images = np.concatenate([batch.images[batch.weight > 0] for batch in data.batches(4)])
    assert (images == np.stack([plain.image(index) for index in range(COUNT) if index not in BAD])).all()
    with pytest.raises(DataError, match="2 of 11 images cannot be read"):
        EvalData(source, samples.options(on_bad_sample="skip", max_bad_share=0.1), tiny)
    with pytest.raises(BadSampleError):
        list(EvalData(source, samples.options(), tiny).batches(4))


def test_a_worker_that_dies_is_said(tmp_path, tiny):
    source = samples.clevr_set(tmp_path, count=COUNT)
    with pipeline(source, tiny, num_workers=1, prefetch=1).iterate() as batches:
        next(batches)
        others = [child for child in multiprocessing.active_children() if "grain" in child.name]
        for child in others:
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"process that prepares batches failed .*/dev/shm.*data.num_workers=0"):
            for _ in range(20):
                next(batches)


def test_two_scenes_of_one_image_are_refused(tmp_path):
    source = samples.clevr_set(tmp_path, count=4)
    labels = json.loads(Path(source.labels).read_text())
    labels["scenes"][3]["image_filename"] = "images/train/CLEVR_train_000001.png"
    Path(source.labels).write_text(json.dumps(labels))
    with pytest.raises(
        UserError,
        match=r"labels .*train.json: scenes 1 and 3 both describe image CLEVR_train_000001.png "
        r"\(the second calls it images/train/CLEVR_train_000001.png\); keep one",
    ):
        load_examples(source, samples.options())
