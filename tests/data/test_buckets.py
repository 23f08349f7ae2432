"""Data sets in buckets, read by byte ranges, as pods read them; the buckets are a server on this machine."""

import json
import re
import shutil

import pytest

from igllm_jax import pack
from igllm_jax.data.options import Source
from igllm_jax.data.stores import list_folder, read_whole
from igllm_jax.data.tars import open_images
from igllm_jax.errors import UserError
from tests.data import bucket, samples
from tests.data.test_pipeline import assert_same, pipeline


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """(folder, server): what lies in the folder is `gs://bucket/...` and `s3://bucket/...`."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    with bucket.served(folder) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield folder, server


def at(source: Source, folder, prefix: str) -> Source:
    return Source(*(str(part).replace(str(folder), prefix) for part in (source.images, source.labels)))


@pytest.mark.parametrize("prefix", ["gs://bucket", "s3://bucket"])
def test_a_tar_in_a_bucket_equals_a_local_one(stored, tiny, prefix):
    folder, server = stored
    local = samples.clevr_set(folder / "set", count=11)
    remote = at(local, folder, prefix)
    whole = pipeline(remote, tiny)
    assert_same(whole.batch(3), pipeline(local, tiny).batch(3))
    assert whole.fingerprint == pipeline(local, tiny).fingerprint
    server.asked.clear()
    image = open_images(remote.images).read_bytes(7)
    assert image == open_images(local.images).read_bytes(7)
    (last, wanted) = server.asked[-1]
    first_byte, last_byte = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
    assert "train.tar" in last and last_byte - first_byte + 1 == len(image)  # the image's bytes alone
    with pipeline(remote, tiny, num_workers=1).iterate(3) as batches:
        assert_same(next(batches), pipeline(local, tiny).batch(3))
    assert read_whole(remote.labels) == read_whole(local.labels)
    with pytest.raises(UserError, match=r"none.tar: does not exist, or may not be read"):
        open_images(f"{prefix}/set/none.tar")


@pytest.fixture
def packed(stored):
    """The local source, and the same packed, in the bucket, as `tfds:`."""
    folder, _ = stored
    local = samples.clevr_set(folder / "data", count=11)
    pack.pack(folder / "data", folder, "own")
    return local, "tfds:gs://bucket/own/1.0.0/train"


def test_a_packed_set_in_a_bucket_equals_the_tar(stored, packed, tiny):
    folder, server = stored
    local, spec = packed
    assert list_folder("gs://bucket/own/1.0.0") == sorted(file.name for file in (folder / "own" / "1.0.0").iterdir())
    mixture = [(Source(spec), 2.0), (local, 1.0)]
    expected = pipeline([(Source(f"tfds:{folder}/own/1.0.0/train"), 2.0), (local, 1.0)], tiny)
    assert_same(pipeline(mixture, tiny).batch(5), expected.batch(5))
    assert pipeline(mixture, tiny).fingerprint == expected.fingerprint
    with pipeline(mixture, tiny, num_workers=1).iterate(4) as batches:
        for step in (4, 5):
            assert_same(next(batches), expected.batch(step))
    server.asked.clear()
    open_images(spec)
    assert [path for path, _ in server.asked] == ["/storage/v1/b/bucket/o/own%2F1.0.0%2Fdataset_info.json"]


def test_a_set_that_was_packed_again_is_described_again(stored, packed):
    folder, _ = stored
    assert len(open_images(packed[1])) == 11
    shutil.rmtree(folder / "own")
    samples.clevr_set(folder / "data", count=5)
    pack.pack(folder / "data", folder, "own")
    assert len(open_images(packed[1])) == 5
    # without our own list of labels, as other prepared sets come, they are read off the records
    (folder / "own" / "1.0.0" / "labels-train.json").unlink()
    info = folder / "own" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text() + "\n")
    labels = json.loads((folder / "data" / "labels" / "train.json").read_text())["scenes"]
    assert open_images(packed[1]).labels == labels


def test_errors(stored, packed, tmp_path, monkeypatch):
    folder, _ = stored
    with pytest.raises(UserError, match=r"own/2.0.0/dataset_info.json: does not exist, or may not be read"):
        open_images("tfds:gs://bucket/own/2.0.0/train")
    with pytest.raises(UserError, match=r"s3://bucket/own/1.0.0: cannot be listed"):
        open_images("tfds:s3://bucket/own/1.0.0/train")
    with pytest.raises(UserError, match=r"there is no split val; choose one of train"):
        open_images("tfds:gs://bucket/own/1.0.0/val")
    images = open_images(packed[1])
    for file in (folder / "own" / "1.0.0").glob("*array_record*"):
        file.unlink()
    with pytest.raises(UserError, match=r"1.0.0/train: record 3 cannot be read \(.*\); are all files there"):
        images.read(3)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"IGLLM_CACHE .*file cannot be written \(.*\); give another IGLLM_CACHE"):
        open_images(packed[1])
