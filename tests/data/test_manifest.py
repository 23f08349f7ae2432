"""A resumed run knows its data, and lists what changed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from igllm_jax.data.manifest import DATA_FILE, changes, check_resumed, data_meta, read_manifest, write_manifest
from igllm_jax.data.options import Source
from igllm_jax.data.pipeline import TrainPipeline
from igllm_jax.errors import UserError
from tests.data import samples


@pytest.fixture
def source(tmp_path):
    return samples.clevr_set(tmp_path, count=5)


def data(source, tiny):
    return TrainPipeline([source], samples.options(), tiny, seed=0, batch_size=3)


def edit(source, change):
    file = Path(source.labels)
    labels = json.loads(file.read_text())
    change(labels["scenes"])
    file.write_text(json.dumps(labels))


def test_what_changed_is_listed(source, tiny, tmp_path, capsys):
    before = data(source, tiny)
    write_manifest(tmp_path / DATA_FILE, before.manifest())
    meta = data_meta(before)
    assert check_resumed(data(source, tiny), meta, tmp_path, accepts=False)
    assert changes(read_manifest(tmp_path / DATA_FILE), before.manifest()) == []

    def change(scenes):
        del scenes[4]
        scenes[1]["objects"][0]["color"] = "black"

    edit(source, change)
    lines = ["1 scenes are gone (CLEVR_train_000004.png)", "1 scenes are labelled otherwise (CLEVR_train_000001.png)"]
    with pytest.raises(UserError, match=r"was trained with another data fingerprint .*--accept_changed_data") as raised:
        check_resumed(data(source, tiny), meta, tmp_path, accepts=False)
    assert all(line in str(raised.value) for line in lines)
    assert not check_resumed(data(source, tiny), meta, tmp_path, accepts=True)
    said = capsys.readouterr().err
    assert all(f"the data changed: {source.images}: {line}" in said for line in lines)


def test_pictures_made_anew_are_noticed(source, tiny, tmp_path):
    before = data(source, tiny)
    write_manifest(tmp_path / DATA_FILE, before.manifest())
    content = bytearray(Path(source.images).read_bytes())
    content[content.index(b"IEND") - 9] ^= 1  # of the checksum of the first picture's pixels
    Path(source.images).write_bytes(content)
    with pytest.raises(UserError, match=r"another data content .*same names and sizes hold something else"):
        check_resumed(data(source, tiny), data_meta(before), tmp_path, accepts=False)


def test_runs_from_before_know_names_and_sizes_alone(source, tiny, tmp_path):
    now = data(source, tiny)
    assert check_resumed(now, {"seed": 0, "data fingerprint": now.fingerprint}, tmp_path, accepts=False)
    with pytest.raises(UserError, match=r"another data fingerprint \(old, now .*what changed is not known"):
        check_resumed(now, {"data fingerprint": "old"}, tmp_path, accepts=False)
    (tmp_path / DATA_FILE).write_bytes(b"[")
    assert read_manifest(tmp_path / DATA_FILE) is None


def test_other_weights_or_numbers_of_scenes(source, tiny, tmp_path):
    before = TrainPipeline([(source, 1.0)], samples.options(), tiny, seed=0, batch_size=3)
    write_manifest(tmp_path / DATA_FILE, before.manifest())
    after = TrainPipeline([(source, 1.0), (source, 2.0)], samples.options(), tiny, seed=0, batch_size=3)
    with pytest.raises(UserError, match=r"there were 1 sources, now 2"):
        check_resumed(after, data_meta(before), tmp_path, accepts=False)
    after = TrainPipeline([(source, 3.0)], samples.options(), tiny, seed=0, batch_size=3)
    with pytest.raises(UserError, match=r"the weights of the sources"):
        check_resumed(after, data_meta(before), tmp_path, accepts=False)


def test_more_data_later_has_the_order_of_a_run_that_always_had_it(tiny, tmp_path, capsys):
    whole = samples.clevr_set(tmp_path, count=9)
    scenes = json.loads(Path(whole.labels).read_text())["scenes"]
    first = tmp_path / "first.json"
    first.write_text(json.dumps({"scenes": scenes[:5]}))

    def pipeline(labels):
        source = Source(whole.images, str(labels))
        return TrainPipeline([source], samples.options(), tiny, seed=2, batch_size=3)

    before, after = pipeline(first), pipeline(whole.labels)
    write_manifest(tmp_path / DATA_FILE, before.manifest())
    assert not check_resumed(after, data_meta(before), tmp_path, accepts=True)
    assert "4 scenes are new (CLEVR_train_000005.png, " in capsys.readouterr().err
    with after.iterate(start_step=4) as batches:
        tokens = [next(batches).tokens for _ in range(3)]
    always = pipeline(whole.labels)
    for step, found in enumerate(tokens, start=4):
        assert found.tolist() == always.batch(step).tokens.tolist()
    seen = Counter(int(number) for step in range(32) for number in always.examples(step))  # a window of the order
    assert len(seen) == 9 and set(seen.values()) == {10, 11}
