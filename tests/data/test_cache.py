import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igllm_jax.data import cache
from igllm_jax.data.examples import Examples, load_examples
from igllm_jax.data.pipeline import EvalData, TrainPipeline
from igllm_jax.errors import UserError
from tests.data import samples
from tests.data.test_pipeline import assert_same


@pytest.fixture
def source(tmp_path):
    return samples.clevr_set(tmp_path, count=11)


def test_cached_equals_uncached(source, tiny, tmp_path):
    plain = samples.options()
    cached = dataclasses.replace(plain, cache=str(tmp_path / "cache"))
    for options in (cached, cached):  # written, then only opened
        fresh, kept = (TrainPipeline([source], o, tiny, seed=0, batch_size=3) for o in (plain, options))
        for step in range(4):
            assert_same(fresh.batch(step), kept.batch(step))
    for one, other in zip(*(EvalData(source, o, tiny).batches(4) for o in (plain, cached)), strict=True):
        assert_same(one, other)
    with TrainPipeline(
        [source], dataclasses.replace(cached, num_workers=1), tiny, seed=0, batch_size=3
    ).iterate() as batches:
        assert_same(next(batches), fresh.batch(0))


def test_written_once_for_each_way_of_preparing(source, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    options = samples.options(cache=str(folder))
    load_examples(source, options)
    assert len(list(folder.glob("*.u8"))) == 1 and not list(folder.glob("*.partial"))
    monkeypatch.setattr(Examples, "fresh_image", lambda *_: pytest.fail("decoded again"))
    load_examples(source, options)
    monkeypatch.undo()
    for changed in ({"image_size": 5}, {"image_aspect_ratio": "square"}, {"image_mean": (0.1, 0.1, 0.1)}):
        load_examples(source, dataclasses.replace(options, **changed))
    load_examples(dataclasses.replace(source, num_samples=3), options)
    assert len(list(folder.glob("*.u8"))) == 5


def test_goes_on_where_a_killed_one_stopped(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_CHUNK", 2)
    options = samples.options(cache=str(tmp_path / "cache"))
    decoded = []
    decode = Examples.fresh_image

    def stop_at_seven(self, index):
        if index == 7 and index not in decoded:
            decoded.append(index)
            raise KeyboardInterrupt
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(Examples, "fresh_image", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        load_examples(source, options)
    decoded[:] = [7]
    kept = load_examples(source, options)
    assert min(decoded) == 6
    monkeypatch.undo()
    fresh = load_examples(source, samples.options())
    assert all(np.array_equal(kept.image(index), fresh.image(index)) for index in range(11))


WRITER = """
import sys, time
from igllm_jax.data.examples import Examples, load_examples
from igllm_jax.data.options import Source
from tests.data import samples
decode = Examples.fresh_image
def slowly(self, index):
    time.sleep(float(sys.argv[4]))
    return decode(self, index)
Examples.fresh_image = slowly
print("start", flush=True)
load_examples(Source(sys.argv[1], sys.argv[2]), samples.options(cache=sys.argv[3]))
"""


def test_a_killed_writer_leaves_the_way_free(source, tmp_path):
    folder = str(tmp_path / "cache")
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", WRITER, source.images, source.labels, folder, "9"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(arguments, cwd=root, env=environment, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"start\n"
        deadline = time.monotonic() + 60
        while not list(Path(folder).glob("*.lock")) and time.monotonic() < deadline:
            time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
    kept, fresh = load_examples(source, samples.options(cache=folder)), load_examples(source, samples.options())
    assert all(np.array_equal(kept.image(index), fresh.image(index)) for index in range(11))


def test_errors(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache=.*file: cannot be written \(.*\); choose another"):
        load_examples(source, samples.options(cache=str(tmp_path / "file")))
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"data.cache=.*: needs 0.00 GB, 0.00 GB are free; choose a larger disk"):
        load_examples(source, samples.options(cache=str(tmp_path / "cache")))


def test_images_made_anew_under_their_names_and_sizes_are_noticed(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{index}.bmp" for index in range(3)]

    def render():
        for name in names:
            Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).save(folder / name)
            os.utime(folder / name, ns=(clock[0], clock[0]))
        clock[0] += 1

    clock = [10**18]
    (tmp_path / "labels.json").write_text(json.dumps([samples.label(name, rng, 1) for name in names]))
    source = samples.Source(str(folder), str(tmp_path / "labels.json"))
    options = samples.options(cache=str(tmp_path / "cache"))
    render()
    first = load_examples(source, options)
    before, content = [first.image(index).copy() for index in range(3)], first.content
    render()
    second = load_examples(source, options)
    assert second.fingerprint == first.fingerprint  # names and sizes, which older runs know alone
    assert second.content != content
    fresh = load_examples(source, samples.options())
    for index in range(3):
        assert (second.image(index) == fresh.image(index)).all() and (second.image(index) != before[index]).any()


@pytest.mark.parametrize("damage", ["short", "list", "gone"])
def test_a_damaged_cache_is_made_anew(source, tmp_path, damage):
    options = samples.options(cache=str(tmp_path / "cache"))
    load_examples(source, options)
    (file,) = (tmp_path / "cache").glob("*.u8")
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "list":
        file.with_suffix(".bad").write_bytes(b"{")
    else:
        file.with_suffix(".bad").unlink()
    kept, fresh = load_examples(source, options), load_examples(source, samples.options())
    assert all(np.array_equal(kept.image(index), fresh.image(index)) for index in range(11))


@pytest.mark.parametrize("mark", [b"7", b"", b"\xff", b"[999, {}]"])
def test_a_damaged_mark_starts_anew(source, tmp_path, mark, monkeypatch):
    options = samples.options(cache=str(tmp_path / "cache"))
    monkeypatch.setattr(Examples, "fresh_image", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_examples(source, options)
    monkeypatch.undo()
    (partial,) = (tmp_path / "cache").glob("*.partial")
    partial.with_suffix(".done").write_bytes(mark)
    kept, fresh = load_examples(source, options), load_examples(source, samples.options())
    assert all(np.array_equal(kept.image(index), fresh.image(index)) for index in range(11))
