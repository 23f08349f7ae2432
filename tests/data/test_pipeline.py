import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from igllm_jax.data.options import Source
from igllm_jax.data.pipeline import EvalData, TrainPipeline, padding_share
from igllm_jax.errors import UserError
from igllm_jax.scene.code import read
from igllm_jax.scene.labels import read_labels
from tests.data import samples

STEPS = 5


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    return samples.clevr_set(tmp_path_factory.mktemp("clevr"), count=23, objects=(1, 6))


def pipeline(source, tokenizer, *, seed=3, batch_size=4, rows=None, **changed) -> TrainPipeline:
    sources = source if isinstance(source, list) else [source]
    return TrainPipeline(sources, samples.options(**changed), tokenizer, seed=seed, batch_size=batch_size, rows=rows)


def assert_same(first, second):
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, err_msg=field.name)


def drop(batch, keep):
    return jax.tree.map(lambda array: array[keep], batch)


def test_batch_example(source, tiny):
    whole = pipeline(source, tiny)
    batch = whole.batch(0)
    length = batch.tokens.shape[1]
    assert length in whole.lengths
    assert batch.images.shape == (4, 7, 7, 3) and batch.images.dtype == np.uint8
    assert {name: getattr(batch, name).dtype.name for name in ("tokens", "is_answer", "is_number", "numbers")} == {
        "tokens": "int32",
        "is_answer": "bool",
        "is_number": "bool",
        "numbers": "float32",
    }
    assert (batch.weight == 1).all()
    scenes = read_labels(source.labels, "clevr")
    for row, example in enumerate(whole.examples(0)):
        is_answer = batch.is_answer[row]
        assert not is_answer[: whole.prompt.answer_offset].any()
        objects = read(tiny.decode(batch.tokens[row][is_answer]), "clevr", rotation_rep="").objects
        assert sorted(item.color for item in objects) == sorted(item.color for item in scenes[example].objects)
        fresh = whole._parts[0].images.read(example)
        assert fresh.size == (19, 13)


def test_writes_anew_at_every_visit(source, tiny):
    one = dataclasses.replace(source, num_samples=1)
    texts = {tiny.decode(pipeline(one, tiny, batch_size=1).batch(step).tokens[0]) for step in range(STEPS)}
    assert len(texts) > 1
    plain = pipeline(one, tiny, batch_size=1, shuffle_attributes=False, use_synonyms=False)
    assert len({tiny.decode(plain.batch(step).tokens[0]) for step in range(STEPS)}) == 1


@pytest.mark.parametrize("buckets", [1, 3])
def test_rows_of_hosts_make_the_whole(source, tiny, buckets):
    whole = pipeline(source, tiny, buckets=buckets)
    hosts = [pipeline(source, tiny, rows=rows, buckets=buckets) for rows in ([2], [0, 3], [1])]
    for step in (0, 1, 40):
        batch = whole.batch(step)
        for host, rows in zip(hosts, ([2], [0, 3], [1]), strict=True):
            assert_same(host.batch(step), drop(batch, np.array(rows)))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stream_is_the_same_whatever_workers_and_start(source, tiny, num_workers):
    whole = pipeline(source, tiny)
    resumed = pipeline(source, tiny, num_workers=num_workers)
    with resumed.iterate(start_step=2) as batches:
        for step in range(2, 2 + STEPS):
            assert_same(next(batches), whole.batch(step))


def test_a_seed_is_an_order(source, tiny):
    first, same, other = pipeline(source, tiny), pipeline(source, tiny), pipeline(source, tiny, seed=4)
    assert_same(first.batch(9), same.batch(9))
    assert any((first.examples(step) != other.examples(step)).any() for step in range(STEPS))
    assert first.fingerprint == other.fingerprint


def test_fingerprint_follows_the_content(source, tiny, tmp_path):
    first = pipeline(source, tiny).fingerprint
    same = samples.clevr_set(tmp_path / "same", count=23, objects=(1, 6))
    assert pipeline(same, tiny).fingerprint == first
    labels = Path(same.labels)
    labels.write_text(labels.read_text().replace("red", "tan", 1))
    assert pipeline(same, tiny).fingerprint != first
    assert pipeline(dataclasses.replace(source, num_samples=22), tiny).fingerprint != first
    assert pipeline(samples.clevr_set(tmp_path / "other", 23, seed=1), tiny).fingerprint != first


def test_padding_is_told(source, tiny):
    whole, one = pipeline(source, tiny, buckets=4), pipeline(source, tiny, buckets=1)
    assert len(one.lengths) == 1 and 1 < len(whole.lengths) <= 4
    shares = [np.mean([padding_share(each.batch(step)) for step in range(32)]) for each in (whole, one)]
    assert shares[0] < 0.6 * shares[1]
    wide = pipeline(source, tiny, num_image_tokens=13, length_multiple=16)
    assert all((length + 13) % 16 == 0 for length in wide.lengths)


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_errors_reach_the_reader(source, tiny, tmp_path, num_workers):
    broken = samples.clevr_set(tmp_path, count=2)
    files = {f"CLEVR_train_{index:06d}.png": b"\x89PNG\r\n\x1a\nbroken" for index in range(2)}
    samples.write_tar(Path(broken.images), files)
    with (
        pytest.raises(UserError, match=r"train.tar: image CLEVR_train_00000\d.png: cannot be decoded"),
        pipeline(broken, tiny, num_workers=num_workers).iterate() as batches,
    ):
        next(batches)


def test_errors(source, tiny, tmp_path):
    with pytest.raises(
        UserError, match=r"its row may take \d+ text tokens and 13 of the image, above data.max_length=99"
    ):
        pipeline(source, tiny, max_length=99, num_image_tokens=13)
    with pytest.raises(UserError, match=r"hold 23 scenes, fewer than num_samples=24; set num_samples=0"):
        pipeline(dataclasses.replace(source, num_samples=24), tiny)
    other = samples.clevr_set(tmp_path, count=3, name="other")
    with pytest.raises(UserError, match=r"other.tar: holds no image CLEVR_train_000000.png.*\(labels .*train.json\)"):
        pipeline(Source(other.images, source.labels), tiny)
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"scenes": []}))
    with pytest.raises(UserError, match=r"empty.json: hold no scenes; choose another split"):
        pipeline(Source(source.images, str(empty)), tiny)
    with pytest.raises(UserError, match=r"none.json: cannot be opened .*; check the path"):
        pipeline(Source(source.images, str(tmp_path / "none.json")), tiny)
    with pytest.raises(UserError, match=r"data.sources: is empty"):
        pipeline([], tiny)


@pytest.mark.slow
def test_buckets_by_byte_ranges(source, tiny):
    """The way of gs:// and s3://, here with tensorstore's own file driver."""
    remote = Source(f"file://{source.images}", f"file://{source.labels}")
    for num_workers in (0, 1):
        with pipeline(remote, tiny, num_workers=num_workers).iterate(3) as batches:
            assert_same(next(batches), pipeline(source, tiny).batch(3))
    assert pipeline(remote, tiny).fingerprint == pipeline(source, tiny).fingerprint


def test_points(tiny, tmp_path):
    points = np.random.default_rng(0).random((11, 2))
    np.savez(tmp_path / "2d.npz", random=points)
    spec = f"{tmp_path}/2d.npz:random"
    whole = pipeline(Source(spec, spec), tiny, task="twod", shuffle_attributes=False, image_size=28)
    batch = whole.batch(3)
    np.testing.assert_allclose(batch.numbers[batch.is_number].reshape(4, 2), points[whole.examples(3)], rtol=1e-6)
    assert_same(pipeline(Source(spec), tiny, task="twod", shuffle_attributes=False, image_size=28).batch(3), batch)


def test_mixture_resumes(source, tiny, tmp_path):
    other = samples.clevr_set(tmp_path, count=7, seed=1, name="other")
    mixture = [(source, 3.0), (other, 1.0)]
    whole = pipeline(mixture, tiny)
    assert whole.num_examples == 30
    seen = np.concatenate([whole.examples(step) for step in range(32)])
    assert (seen >= 23).sum() == 32
    with pipeline(mixture, tiny).iterate(7) as batches:
        for step in range(7, 12):
            assert_same(next(batches), whole.batch(step))
    assert pipeline([(source, 1.0), (other, 1.0)], tiny).fingerprint != whole.fingerprint


def test_eval_goes_through_the_labels_once(source, tiny):
    options = samples.options()
    batches = list(EvalData(source, options, tiny).batches(5))
    assert [int(batch.weight.sum()) for batch in batches] == [5, 5, 5, 5, 3]
    assert len({batch.tokens.shape for batch in batches}) == 1
    assert batches[-1].images.shape == (5, 7, 7, 3) and not batches[-1].is_answer[3:].any()
    scenes = read_labels(source.labels, "clevr")
    rows = [batch.tokens[row][batch.is_answer[row]] for batch in batches for row in range(5) if batch.weight[row]]
    for scene, row in zip(scenes, rows, strict=True):
        objects = read(tiny.decode(row), "clevr", rotation_rep="").objects
        ordered = sorted(scene.objects, key=lambda item: item.pixel[0])
        assert [item.material for item in objects] == [item.material for item in ordered]
        assert [item.shape for item in objects] == [item.shape for item in ordered]
    assert sum(batch.weight.sum() for batch in EvalData(source, options, tiny, limit=7).batches(5)) == 7
    held_out = EvalData(source, options, tiny)
    assert held_out.scenes == scenes and held_out.length == batches[0].tokens.shape[1]
    for _ in range(2):  # again and again
        for batch, part in zip(batches, held_out.batches(5, rows=[1, 4]), strict=True):
            assert_same(part, drop(batch, np.array([1, 4])))
