import gzip
import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from igllm_jax.data import stores, tars
from igllm_jax.data.stores import LocalFile, RemoteFile
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
        "text": (b"no tar at all" * 100, r"broken: is not a tar \(.*\); give a TAR, a folder, image files or 2d"),
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


def sparse_tar(path, kind, holes, content, after):
    """A tar with x.png as `kind` of sparse member, of which `holes` [(start, count)] are stored, and after.png."""
    stored = b"".join(content[start : start + count] for start, count in holes)
    real = len(content)

    def padded(data):
        return data + bytes(-len(data) % 512)

    def member(name, data, type=tarfile.REGTYPE, size=None):
        entry = tarfile.TarInfo(name)
        entry.size, entry.type = len(data) if size is None else size, type
        return entry.tobuf(tarfile.USTAR_FORMAT), padded(data)

    def pax(records):
        lines = b""
        for key, value in records:
            line = f" {key}={value}\n".encode()
            length = next(n for n in range(len(line), len(line) + 6) if n == len(str(n)) + len(line))
            lines += str(length).encode() + line
        return b"".join(member("x", lines, tarfile.XHDTYPE))

    flat = [number for hole in holes for number in hole]
    if kind == "gnu":
        header = bytearray(member("x.png", stored, tarfile.GNUTYPE_SPARSE)[0])
        header[257:265] = b"ustar  \0"
        for at, number in enumerate(flat):
            header[386 + 12 * at : 398 + 12 * at] = b"%011o\0" % number
        header[482], header[483:495] = 0, b"%011o\0" % real
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        packed = bytes(header) + padded(stored)
    elif kind == "pax 0.0":
        numbers = [
            (f"GNU.sparse.{key}", n) for hole in holes for key, n in zip(("offset", "numbytes"), hole, strict=True)
        ]
        packed = pax([("GNU.sparse.size", real), ("GNU.sparse.numblocks", len(holes)), *numbers])
        packed += b"".join(member("x.png", stored))
    elif kind == "pax 0.1":
        numbers = ",".join(map(str, flat))
        records = [("size", real), ("numblocks", len(holes)), ("map", numbers), ("name", "x.png")]
        packed = pax([(f"GNU.sparse.{key}", value) for key, value in records]) + b"".join(member("x.png", stored))
    else:
        table = padded("".join(f"{n}\n" for n in [len(holes), *flat]).encode())
        records = [("major", 1), ("minor", 0), ("name", "x.png"), ("realsize", real)]
        packed = pax([(f"GNU.sparse.{key}", value) for key, value in records])
        packed += b"".join(member("GNUSparseFile.0/x.png", table + stored))
    path.write_bytes(packed + b"".join(member("after.png", after)) + bytes(1024))
    return path


@pytest.mark.parametrize("kind", ["gnu", "pax 0.0", "pax 0.1", "pax 1.0"])
@pytest.mark.parametrize("prefix", ["", "file://"])
def test_files_with_holes(tmp_path, kind, prefix):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)).save(buffer, "bmp")
    content = bytearray(buffer.getvalue())
    content[1024:4096] = bytes(3072)
    holes = [(0, 1024), (4096, len(content) - 4096)]
    after = samples.png(np.random.default_rng(1))
    path = sparse_tar(tmp_path / "x.tar", kind, holes, bytes(content), after)
    with tarfile.open(path) as tar:  # an independent reader
        assert tar.extractfile("x.png").read() == content
    images = open_images(f"{prefix}{path}")
    assert sorted(images.names) == ["after.png", "x.png"]
    assert images.read_bytes(images.find("x.png")) == content
    assert images.read_bytes(images.find("after.png")) == after
    assert same(images.read(images.find("x.png")), content)


def test_a_damaged_map_of_holes(tmp_path):
    for holes in ([(0, 512), (100, 512)], [(0, 512), (9999, 512)]):
        path = sparse_tar(tmp_path / "x.tar", "pax 0.1", holes, bytes(1024), b"")
        with pytest.raises(UserError, match=r"x.tar: the map of holes of x.png is damaged"):
            open_images(path)


def test_a_size_below_zero(tmp_path):
    entry = tarfile.TarInfo("x.png")
    entry.pax_headers = {"size": "-1"}
    (tmp_path / "x.tar").write_bytes(entry.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"x.tar: is (damaged, x.png has -1 bytes|cut off \(a size below zero\))"):
        open_images(tmp_path / "x.tar")


def test_an_archive_ends_with_zeros_alone(tmp_path):
    files = {f"{index}.png": samples.png(np.random.default_rng(index)) for index in range(4)}
    path = samples.write_tar(tmp_path / "x.tar", files)
    content = path.read_bytes()
    second = content.index(b"1.png")
    for prefix in ("", "file://"):
        path.write_bytes(content[:second] + bytes(512) + content[second + 512 :])
        with pytest.raises(UserError, match=rf"x.tar: is damaged, a block of zeros ends it at byte {second} but data"):
            open_images(f"{prefix}{path}")
        path.write_bytes(content + b"1")
        with pytest.raises(UserError, match=rf"data follow at byte {len(content)}; copy or download it again"):
            open_images(f"{prefix}{path}")
        path.write_bytes(content[:second] + b"\1" * 512 + content[second + 512 :])
        with pytest.raises(UserError, match=rf"x.tar: is damaged, byte {second} begins no header"):
            open_images(f"{prefix}{path}")
        end = len(content.rstrip(b"\0")) // 512 * 512 + 512
        path.write_bytes(content[: end + 512])
        with pytest.raises(UserError, match=r"x.tar: is cut off \(unexpected end of data: no end mark\)"):
            open_images(f"{prefix}{path}")
        path.write_bytes(content[: end + 1024])
        assert len(open_images(f"{prefix}{path}")) == 4


def test_links_are_what_they_lead_to_and_the_rest_is_said(tmp_path, files, capsys):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:

        def link(name, target, type=tarfile.SYMTYPE):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = type, target
            tar.addfile(entry)

        link("views/first.png", "../images/b/x.png")
        link("views/second.png", "first.png")
        link("moved", "images/a")
        link("views/third.png", "../moved/y.JPG")
        link("views/round.png", "about.png")
        link("views/about.png", "round.png")
        link("views/gone.png", "/elsewhere/x.png")
        link("hard.png", "images/a/y.JPG", tarfile.LNKTYPE)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        pipe = tarfile.TarInfo("pipe.png")
        pipe.type = tarfile.FIFOTYPE
        tar.addfile(pipe)
    images = TarReader(path)
    for name, target in (
        ("views/first.png", "./images/b/x.png"),
        ("views/second.png", "./images/b/x.png"),
        ("views/third.png", "images/a/y.JPG"),
        ("hard.png", "images/a/y.JPG"),
    ):
        assert same(images.read(images.find(name)), files[target])
    assert images.passed_over == {
        "pipes and devices": 1,
        "files that are no images": 2,
        "links to what is not in it": 3,
    }
    assert "x.tar: passed over 1 pipes and devices, 2 files that are no images, 3 links" in capsys.readouterr().err


def test_linked_folders(tmp_path, files, capsys):
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "deep" / "x.png").write_bytes(files["images/a/x.png"])
    (tmp_path / "there" / "back").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "gone.png").symlink_to(tmp_path / "nothing")
    images = open_images(tmp_path / "here")
    assert images.names == ["linked/deep/x.png"]
    assert same(images.read(0), files["images/a/x.png"])
    assert images.passed_over == {"links to what is not there": 1, "links to a folder around them": 1}
    assert "here: passed over 1 links to what is not there" in capsys.readouterr().err


def test_a_damaged_kept_index_is_made_anew(tmp_path, files, monkeypatch):
    monkeypatch.setattr(tars, "KEPT_FROM", 1)
    path = samples.write_tar(tmp_path / "x.tar", files)
    names = TarReader(path).names
    (kept,) = (tmp_path / "user-cache").glob("tar-*.json")
    good = kept.read_bytes()
    for damaged in (b"", b"[]", good[:-1], good.replace(b"x.png", b"z.png"), b"\xff" + good):
        kept.write_bytes(damaged)
        assert TarReader(path).names == names
        assert kept.read_bytes() == good


def test_content_is_the_same_elsewhere_and_differs_where_a_picture_does(tmp_path, files):
    def contents(folder, files):
        path = samples.write_tar(tmp_path / f"{folder}.tar", files)
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / folder, filter="data")
        sources = [open_images(spec) for spec in (path, f"file://{path}", tmp_path / folder)]
        assert len({source.fingerprint for source in sources}) == 1
        (content,) = {source.content for source in sources}
        return content, sources[0].fingerprint

    first, names_and_sizes = contents("first", files)
    changed = bytearray(files["images/a/x.png"])
    changed[-5] ^= 1
    assert contents("second", files) == (first, names_and_sizes)
    second, same_names = contents("third", {**files, "images/a/x.png": bytes(changed)})
    assert second != first and same_names == names_and_sizes


def test_reads_beyond_the_end_are_short(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"0123456789")
    for store in (LocalFile(tmp_path / "x"), RemoteFile(f"file://{tmp_path}/x")):
        assert store.read(8, 1 << 62) == b"89" and store.read(1 << 63, 5) == b"" and store.read(-1, 5) == b""
        assert store.read(0, -1) == b""
    monkeypatch.setattr(stores.os, "pread", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(UserError, match=r"x: cannot be read \(Input/output error\); check the disk"):
        LocalFile(tmp_path / "x").read(0, 5)


def test_finding_is_linear_where_folders_share_file_names(tmp_path):
    class Named(tars.Names):
        origin = "x"
        names = [f"a/{one}/{other}/x.png" for one in range(80) for other in range(100)]  # noqa: RUF012

    images = Named()
    assert [images.find(name.removeprefix("a/")) for name in images.names] == list(range(8000))
    with pytest.raises(UserError, match=r"x: image x.png may be a/0/0/x.png and a/0/1/x.png"):
        images.find("x.png")
