import gzip
import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from igllm_jax.data import tars
from igllm_jax.data.stores import RemoteFile
from igllm_jax.data.tars import Folder, TarReader, open_images
from igllm_jax.errors import UserError
from tests.data import samples

LONG = "images/" + "n" * 130 + ".png"  # longer than a plain header holds


@pytest.fixture
def files():
    rng = np.random.default_rng(0)
    names = ["./images/b/x.png", "images/a/x.png", "images/a/y.JPG", "images/labels.json", "images/a/._y.png", LONG]
    return {name: samples.png(rng) for name in names}


def same(image, content):
    return np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_reads_by_number_and_by_name(tmp_path, files, prefix):
    path = samples.write_tar(tmp_path / "x.tar", files)
    images = open_images(f"{prefix}{path}")
    assert images.names == ["images/b/x.png", "images/a/x.png", "images/a/y.JPG", LONG]
    assert len(images) == 4
    assert same(images.read(0), files["./images/b/x.png"])
    assert same(images.read(3), files[LONG])
    assert images.find("y.JPG") == images.find("a/y.JPG") == images.find("./images/a/y.JPG") == 2
    assert images.find("elsewhere/y.JPG") == 2
    assert images.find("b/x.png") == 0


def test_any_header_format_and_later_members_win(tmp_path, files):
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        names = [name for name in files if form != tarfile.USTAR_FORMAT or len(name) < 100]
        with tarfile.open(path, "w", format=form) as tar:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(files[name])
                tar.addfile(entry, io.BytesIO(files[name]))
            entry = tarfile.TarInfo("images/a/x.png")
            entry.size = len(files["images/a/y.JPG"])
            tar.addfile(entry, io.BytesIO(files["images/a/y.JPG"]))
            link = tarfile.TarInfo("linked.png")
            link.type, link.linkname = tarfile.LNKTYPE, "images/a/y.JPG"
            tar.addfile(link)
        images = TarReader(path)
        assert same(images.read(images.find("a/x.png")), files["images/a/y.JPG"])
        assert same(images.read(images.find("linked.png")), files["images/a/y.JPG"])


def test_threads_and_processes(tmp_path, files):
    images = pickle.loads(pickle.dumps(open_images(samples.write_tar(tmp_path / "x.tar", files))))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(images.read, [0, 3] * 40))
    assert all(same(image, files["./images/b/x.png"]) for image in read[::2])
    assert all(same(image, files[LONG]) for image in read[1::2])


def test_kept_index(tmp_path, files, monkeypatch):
    monkeypatch.setattr(tars, "KEPT_FROM", 1)
    path = samples.write_tar(tmp_path / "x.tar", files)
    first = TarReader(path)
    monkeypatch.setattr(tars, "read_index", lambda *_: pytest.fail("the index was read again"))
    second = TarReader(path)
    assert second.names == first.names and second.fingerprint == first.fingerprint
    assert same(second.read(3), files[LONG])
    monkeypatch.undo()
    del files["images/a/x.png"]
    samples.write_tar(path, files)
    assert len(TarReader(path)) == 3


def test_folder_equals_tar(tmp_path, files):
    path = samples.write_tar(tmp_path / "x.tar", files)
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    tar, folder = open_images(path), open_images(tmp_path / "folder")
    assert isinstance(folder, Folder)
    assert sorted(tar.names) == folder.names
    assert folder.fingerprint == tar.fingerprint
    assert same(folder.read(folder.find("y.JPG")), files["images/a/y.JPG"])


def test_discs(tmp_path):
    np.savez(tmp_path / "2d.npz", random=np.array([[0.5, 0.25], [0.0, 1.0]]), empty=np.zeros((0, 2)))
    images = open_images(f"{tmp_path / '2d.npz'}:random")
    assert images.names == ["2d.npz:random/000000", "2d.npz:random/000001"]
    assert images.find("2d.npz:random/000001") == 1
    assert images.read(0).getpixel((168, 84)) == (255, 0, 0)
    with pytest.raises(UserError, match=r"2d.npz has no split 'sparse'; it has empty, random"):
        open_images(f"{tmp_path / '2d.npz'}:sparse")
    with pytest.raises(UserError, match=r"2d.npz:empty: the split is empty"):
        open_images(f"{tmp_path / '2d.npz'}:empty")
    with pytest.raises(UserError, match="say which split"):
        open_images(tmp_path / "2d.npz")


def test_names_that_do_not_fit(tmp_path, files):
    images = open_images(samples.write_tar(tmp_path / "x.tar", files))
    with pytest.raises(UserError, match=r"x.tar: image x.png may be images/b/x.png and images/a/x.png; put folders"):
        images.find("x.png")
    with pytest.raises(
        UserError, match=r"x.tar: holds no image z.png, .*it has 4.*do images and labels belong together"
    ):
        images.find("z.png")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_broken_tars(tmp_path, files, prefix):
    path = samples.write_tar(tmp_path / "x.tar", files)
    content = path.read_bytes()
    cases = {
        "gz": (gzip.compress(content), r"broken: is compressed \(gzip\).*; unpack it to a plain .tar"),
        "text": (b"no tar at all" * 100, r"broken: is not a tar \(.*\); give a TAR, a folder or 2d.npz:SPLIT"),
        "short": (b"no", r"broken: is not a tar"),
        "empty": (b"", r"broken: is not a tar"),
        "inside": (content[:2000], r"broken: is cut off .*; copy or download it again"),
        "between": (content[:3072], r"broken: is cut off .*; copy or download it again"),
        "no images": (content[-2048:], r"broken: holds no images \(.png"),
    }
    for name, (broken, message) in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken").write_bytes(broken)
        with pytest.raises(UserError, match=message):
            open_images(f"{prefix}{tmp_path / name / 'broken'}")


def test_cut_off_after_the_index(tmp_path, files, monkeypatch):
    path = samples.write_tar(tmp_path / "x.tar", files)
    images = TarReader(path)
    with open(path, "r+b") as file:
        file.truncate(600)
    with pytest.raises(UserError, match=r"x.tar: is cut off within images/b/x.png; copy or download it again"):
        images.read(0)


def test_missing(tmp_path):
    with pytest.raises(UserError, match=r"images .*none.tar: does not exist; give a TAR"):
        open_images(tmp_path / "none.tar")
    with pytest.raises(UserError, match=r"file://.*none.tar: does not exist, or may not be read; check the address"):
        open_images(f"file://{tmp_path}/none.tar")
    with pytest.raises(UserError, match="the folder holds no images"):
        open_images(tmp_path)


def test_corrupt_image(tmp_path):
    images = open_images(samples.write_tar(tmp_path / "x.tar", {"a.png": b"\x89PNG\r\n\x1a\nbroken"}))
    with pytest.raises(UserError, match=r"x.tar: image a.png: cannot be decoded .*; replace the file"):
        images.read(0)


def test_remote_errors(tmp_path, monkeypatch):
    store = RemoteFile(f"file://{tmp_path}/x")

    def fail(error):
        def read(_):
            raise error

        return read

    monkeypatch.setattr(store, "_read", fail(TimeoutError()))
    with pytest.raises(UserError, match=r"x: no answer within 120 s; check the address, the network"):
        store.read(0, 1)
    monkeypatch.setattr(store, "_read", fail(PermissionError("PERMISSION_DENIED: no")))
    with pytest.raises(UserError, match=r"x: cannot be read \(PERMISSION_DENIED: no\); check the address"):
        _ = store.identity


def test_remote_reads_at_the_end(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    store = RemoteFile(f"file://{tmp_path}/x")
    assert store.read(2, 3) == b"234"
    assert store.read(8, 5) == b"89"
    assert store.read(10, 5) == b"" and store.read(99, 5) == b""
