"""Commands whose paths are addresses in buckets, against servers of both kinds on this machine."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from igllm_jax import buckets, evaluate, files, flags, line_log, make_data, make_report, pack, paths
from igllm_jax.data.tars import open_images
from igllm_jax.errors import UserError
from igllm_jax.render import command as render
from igllm_jax.scene.labels import read_labels
from igllm_jax.weights.checkpoint import check_workdir

SMALL = ["--num_train", "5", "--num_val", "3", "--image_size", "64x48", "--max_objects", "3", "--workers", "1"]


@pytest.fixture(params=["gcs", "s3"])
def root(request, tmp_path, monkeypatch):
    """An address of a test's own, in each kind of bucket."""
    monkeypatch.setenv("IGLLM_CACHE", str(tmp_path / "cache"))
    return f"{request.getfixturevalue(request.param)}/{tmp_path.name}"


def below(address):
    return sorted(buckets.find(paths.to_path(address)))


def test_files_and_folders_are_there_whole_or_not_at_all(root):
    file = paths.to_path(root) / "a" / "b.txt"
    files.write_text(file, "old")
    files.write_text(file, "new")
    with pytest.raises(KeyError), files.whole_file(file) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert (file.read_text(), paths.size(file), file.parent.is_dir()) == ("new", 3, True)
    with files.whole_folder(f"{root}/out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "c.bin").write_bytes(b"c" * 6_000_000)  # uploaded in several pieces
    assert below(root) == ["a/b.txt", "out/deep/c.bin"]
    with pytest.raises(UserError, match="out exists"), files.whole_folder(f"{root}/out"):
        pass
    (paths.to_path(root) / "out" / files.UNFINISHED).touch()  # as a killed upload leaves it
    with pytest.raises(UserError, match="is not complete: its upload was stopped"):
        files.check_finished(paths.to_path(f"{root}/out"))
    with files.whole_folder(f"{root}/out") as folder:
        (folder / "d").write_text("d")
    assert below(f"{root}/out") == ["d"]
    with paths.local_copy(f"{root}/out") as copy:
        assert (copy / "d").read_text() == "d"


def test_a_bucket_that_is_not_there_is_one_line(root):
    missing = root.replace("//bucket", "//nowhere")
    scheme = root.partition(":")[0]
    with pytest.raises(UserError, match=f"--out .* cannot be written .there is no bucket {scheme}://nowhere"):
        files.try_writing(f"{missing}/a.json")
    with pytest.raises(UserError, match=f"labels {scheme}://nowhere/.*: cannot be read"):
        read_labels(f"{missing}/a.json", "clevr")


def test_a_log_is_numbered_objects_read_as_one(root):
    path = paths.to_path(root) / "metrics.jsonl"
    log = line_log.open_log(path)
    log.write("1\n")
    log.sync()
    log.write("2\n")
    log.close()
    assert below(root) == ["metrics/000001.jsonl", "metrics/000002.jsonl"]
    again = line_log.open_log(path)
    again.write("3\n")
    again.close()
    assert line_log.read(path) == b"1\n2\n3\n"
    line_log.open_log(path, "1\n").close()  # taken back
    assert line_log.read(path) == b"1\n"
    (paths.to_path(root) / "metrics" / "000002.jsonl").write_bytes(b"2\n")  # as a kill before its end leaves it
    assert line_log.read(path) == b"1\n"
    line_log.remove(path)
    assert line_log.read(path) is None


def test_data_sets_are_made_read_packed_and_drawn_in_buckets(root, capsys):
    assert make_data.main(["clevr", "--out", f"{root}/clevr", *SMALL]) == 0
    assert make_data.main(["twod", "--out", f"{root}/2d", "--num_train", "5", "--num_val", "3"]) == 0
    assert not [name for name in below(root) if ".examples" in name]
    with pytest.raises(UserError, match="exists already"):
        make_data.main(["clevr", "--out", f"{root}/clevr", *SMALL])
    labels, images = f"{root}/clevr/labels/val_ID.json", f"{root}/clevr/images/val_ID.tar"
    scenes, tar = read_labels(labels, "clevr"), open_images(images)
    assert len(read_labels(f"{root}/2d/2d.npz:random", "twod")) == len(open_images(f"{root}/2d/2d.npz:random")) == 3
    for name in tar.names:
        (paths.to_path(root) / "folder" / name).write_bytes(tar.read_bytes(tar.find(name)))
    folder, single = open_images(f"{root}/folder"), open_images(f"{root}/folder/{tar.names[0]}")
    assert (folder.names, folder.fingerprint) == (sorted(tar.names), tar.fingerprint)
    assert pack.main(["--data", f"{root}/clevr", "--out", f"{root}/packed"]) == 0
    packed = open_images(f"tfds:{root}/packed/clevr/1.0.0/val_ID")
    for source in (folder, packed, single):
        np.testing.assert_array_equal(source.read(source.find(scenes[0].image)), tar.read(tar.find(scenes[0].image)))
    answers = {scene.image: {"outputs": ""} for scene in scenes}
    files.write_text(f"{root}/predictions.json", json.dumps({"task": "clevr", "answers": answers}))
    asked = ["--labels", labels, "--predictions", f"{root}/predictions.json"]
    assert render.main([*asked, "--images", images, "--out", f"{root}/drawn", "--workers", "1"]) == 0
    with (paths.to_path(root) / "drawn" / "true" / f"{below(f'{root}/drawn/true')[0]}").open("rb") as file:
        assert Image.open(file).size == (64, 48)
    assert evaluate.main([*asked, "--renders", f"{root}/drawn", "--out", f"{root}/scores.json"]) == 0
    assert json.loads((paths.to_path(root) / "scores.json").read_text())["num_scenes"] == len(scenes)
    assert make_report.main([*asked, "--images", images, "--out", f"{root}/report.html", "--workers", "1"]) == 0
    assert "report.html" in below(root)


def picture(number):
    """The content of a small image file, another for each number."""
    content = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(content, "png")
    return content.getvalue()


def test_image_files_and_patterns_in_a_bucket(root):
    folder = paths.to_path(root) / "odd name" / "ü#?q&%20+x[1]"
    for number, name in enumerate(("b 1#.png", "a 2?.png", "deep/c.png", "notes.txt")):
        (folder / name).write_bytes(picture(number))
    first, second = (f"{folder}/{name}" for name in ("b 1#.png", "a 2?.png"))
    for spec, names in (
        (str(folder), ["a 2?.png", "b 1#.png", "deep/c.png"]),
        (f"{folder}/", ["a 2?.png", "b 1#.png", "deep/c.png"]),
        (first, ["b 1#.png"]),
        ([first, second], ["b 1#.png", "a 2?.png"]),
        (f"{root}/odd*/*/*.png", ["a 2?.png", "b 1#.png"]),
        ([f"{root}/odd*/**/*.png", second], ["a 2?.png", "b 1#.png", "deep/c.png"]),
    ):
        source = open_images(spec)
        assert source.names == names
        assert [source.read(index).getpixel((0, 0))[0] for index in range(len(source))] == [
            ["b 1#.png", "a 2?.png", "deep/c.png"].index(name) for name in names
        ]
    for spec, told in (
        (f"{root}/odd*/*.png", "matches no file"),
        (f"{root}/odd*/*/*.txt", "matches 1 files, none of which is an image"),
        ([first, f"{folder}/notes.txt"], "notes.txt: is no image file"),
        ([first, f"{root}/none.png"], "none.png: cannot be read .no such object"),
        ([first, "here.png"], "some are on this machine, some in a bucket"),
        (root.replace("//bucket", "//nowhere").partition("/test")[0], "nowhere"),
    ):
        with pytest.raises(UserError, match=told):
            open_images(spec)


def test_a_bucket_itself_is_no_file(root):
    bucket = root.partition("/test")[0]
    with pytest.raises(UserError, match=f"--out {bucket} is a folder: give the name of a file in it"):
        files.try_writing(bucket)
    with pytest.raises(UserError, match=f"labels {bucket}: cannot be read .is a bucket, not an object in it"):
        read_labels(bucket, "clevr")


def test_what_no_bucket_holds_is_refused_in_one_line():
    parser = flags.Parser()
    parser.add_argument("--out", type=flags.path)
    parser.add_argument("--blender", type=flags.local_program)
    for arguments, told in (
        (["--out", "gs://"], "names no bucket"),
        (["--out", "az://a/b"], "az:// is no bucket's"),
        (["--out", "gs:/a/b"], "gs:/a/b: an address has two slashes; write gs://a/b"),
        (["--blender", "gs://bucket/blender"], "must be on a disk of this machine"),
    ):
        with pytest.raises(UserError, match=told):
            parser.parse_args(arguments)
    with pytest.raises(UserError, match=r"data\.cache s3://b/c: must be on a disk of this machine"):
        paths.local("s3://b/c", "data.cache")
    with pytest.raises(UserError, match="checkpoints are saved by renaming, which s3:// cannot"):
        check_workdir("s3://bucket/run")
