"""`igllm make-data`: files, layouts, errors, interruptions."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igllm_jax import make_data
from igllm_jax.errors import UserError
from igllm_jax.render.compose.composers import COMPOSERS
from igllm_jax.render.compose.shifts import SHIFTS
from igllm_jax.render.output import finished_outputs
from igllm_jax.render.unfinished import Unfinished
from igllm_jax.scene.checkerboard import is_seen
from igllm_jax.scene.labels import read_labels


def run(*arguments: object) -> int:
    return make_data.main([str(argument) for argument in arguments])


def test_twod_writes_points_in_the_cells_of_each_split(tmp_path: Path) -> None:
    assert run("twod", "--out", tmp_path / "2D", "--num_train", 211, "--num_val", 103, "--seed", 5) == 0
    with np.load(tmp_path / "2D" / "2d.npz") as points:
        assert {split: points[split].shape for split in points.files} == {
            "checkerboard_sparse": (211, 2),
            "checkerboard_dense": (211, 2),
            "random": (103, 2),
        }
        for split in points.files:
            assert is_seen(points[split], split).all()
            assert points[split].min() >= 0 and points[split].max() <= 1
        assert not is_seen(points["random"], "checkerboard_sparse").all()
    assert [path.name for path in (tmp_path / "2D").iterdir()] == ["2d.npz"]


def test_twod_depends_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("twod", "--out", tmp_path / name, "--num_train", 7, "--num_val", 7, "--seed", seed)
    a, b, c = ((tmp_path / name / "2d.npz").read_bytes() for name in "abc")
    assert a == b != c


def test_existing_outputs_need_overwrite(tmp_path: Path) -> None:
    run("twod", "--out", tmp_path, "--num_train", 3, "--num_val", 2)
    with pytest.raises(UserError, match=r"2d\.npz exists already.*--overwrite"):
        run("twod", "--out", tmp_path, "--num_train", 5, "--num_val", 2)
    assert run("twod", "--out", tmp_path, "--num_train", 5, "--num_val", 2, "--overwrite") == 0
    with np.load(tmp_path / "2d.npz") as points:
        assert len(points["checkerboard_dense"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["twod"], "--out"),
        (["twod", "--out", "x", "--num_train", "0"], "from 1 to 1099511627776, got '0'"),
        (["twod", "--out", "x", "--num_val", "many"], "got 'many'"),
        (["threed", "--out", "x"], "invalid choice: 'threed'"),
        ([], "task"),
    ],
)
def test_bad_arguments_are_user_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_data.main(arguments)


def test_a_file_in_the_way_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"--out .* cannot be written"):
        run("twod", "--out", tmp_path / "out")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), finished_outputs(tmp_path, ["a/1", "2"], overwrite=False) as partial:
        (partial / "a/1").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("old")
    with pytest.raises(RuntimeError), finished_outputs(tmp_path, ["1"], overwrite=True) as partial:
        (partial / "1").write_text("new")
        raise RuntimeError
    assert (tmp_path / "1").read_text() == "old"


def test_make_data_does_not_import_jax() -> None:
    """Workers start in a fraction of a second, and no accelerator is taken, only while this holds."""
    program = "import sys, igllm_jax.make_data, igllm_jax.render.twod; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


SMALL = ("--num_train", 5, "--num_val", 2, "--image_size", "60x40", "--seed", 3)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_clevr_leaves_the_released_layout(tmp_path: Path) -> None:
    assert run("clevr", "--renderer", "flat", "--out", tmp_path, *SMALL, "--workers", 1) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels"}
    for split, count in (("train", 5), ("val_ID", 2), ("val_OOD", 2)):
        content = json.loads((tmp_path / f"labels/{split}.json").read_text())
        assert content["info"]["split"] == split
        scenes = read_labels(tmp_path / f"labels/{split}.json", "clevr")
        assert len(scenes) == count and all(3 <= len(scene.objects) <= 10 for scene in scenes)
        assert set(content["scenes"][0]) == {
            *("image_index", "image_filename", "split", "objects", "relationships", "directions", "rendering")
        }
        with tarfile.open(tmp_path / f"images/{split}.tar") as tar:
            assert tar.getnames() == [scene.image for scene in scenes]
            for member in tar.getmembers():
                image = Image.open(tar.extractfile(member))  # type: ignore[arg-type]
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (60, 40))


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (1, 2):
        run("clevr", "--out", tmp_path / str(workers), *SMALL, "--workers", workers)
    assert all_bytes(tmp_path / "1") == all_bytes(tmp_path / "2")


def test_an_image_depends_on_seed_and_index_not_on_how_many(tmp_path: Path) -> None:
    run("clevr", "--out", tmp_path / "a", *SMALL, "--workers", 1)
    run("clevr", "--out", tmp_path / "b", *SMALL, "--num_train", 3, "--workers", 1)
    run("clevr", "--out", tmp_path / "c", *SMALL, "--seed", 4, "--workers", 1)
    a, b, c = (json.loads((tmp_path / name / "labels/train.json").read_text())["scenes"] for name in "abc")
    assert a[:3] == b and a[0] != c[0] and a[0]["objects"] != a[1]["objects"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image_size", "480"], "expected WIDTHxHEIGHT.*'480'"),
        (["--image_size", "4x4"], "sides of 16 to 4096"),
        (["--min_objects", "5", "--max_objects", "4"], "--min_objects 5 is more than --max_objects 4"),
        (["--renderer", "oil"], "invalid choice: 'oil'"),
        (["--samples", "8"], "--samples is of the renderer blender; add --renderer blender"),
        (["--renderer", "blender", "--blender", "/no/blender"], "--blender /no/blender: there is no such program"),
        (
            ["--renderer", "blender", "--blender", sys.executable, "--clevr_assets", "/no"],
            "--clevr_assets /no: base_scene.blend is not there",
        ),
        (["--shard", "3/2"], "expected K/N with K from 1 to N and N to 1024, such as 1/4, got '3/2'"),
    ],
)
def test_bad_image_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run("clevr", "--out", tmp_path / "x", *arguments)
    assert not (tmp_path / "x").exists()


def test_a_run_that_was_stopped_goes_on_and_leaves_the_same_bytes(tmp_path: Path) -> None:
    program = "import sys; from igllm_jax.make_data import main; sys.exit(main(sys.argv[1:]))"
    options = ["clevr", "--num_train", "40", "--num_val", "1", "--image_size", "60x40", "--workers", "1"]
    arguments = [sys.executable, "-c", program, *options, "--out", str(tmp_path / "x")]
    for end in (signal.SIGTERM, signal.SIGKILL):
        before = len(list(tmp_path.glob("x/.examples/*/*/*.json")))
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("x/.examples/*/*/*.json"))) < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(end)
        assert process.wait(timeout=30) == (make_data.INTERRUPTED if end == signal.SIGTERM else -signal.SIGKILL)
        assert [path.name for path in (tmp_path / "x").iterdir()] == [".examples"]
    assert before >= 3  # the second run began with what the first one left
    run(*options, "--out", tmp_path / "x")
    run(*options, "--out", tmp_path / "y")
    assert all_bytes(tmp_path / "x") == all_bytes(tmp_path / "y")


def test_what_another_run_left_is_not_mixed_in(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path, {"seed": 3}, restart=False)
    unfinished.put("train", 0, b"png", {"image_index": 0})
    assert list(Unfinished(tmp_path, {"seed": 3}, restart=True).missing({"train": 2})) == [("train", 1)]
    with pytest.raises(UserError, match="part of a data set with seed 3, not 4; finish it with the same options"):
        Unfinished(tmp_path, {"seed": 4}, restart=False)
    assert list(Unfinished(tmp_path, {"seed": 4}, restart=True).missing({"train": 1})) == [("train", 0)]


def test_shards_make_up_the_whole(tmp_path: Path) -> None:
    for shard in ("2/2", "1/2"):
        assert not (tmp_path / "parts/labels").exists()
        run("clevr", "--out", tmp_path / "parts", *SMALL, "--workers", 1, "--shard", shard)
    run("clevr", "--out", tmp_path / "whole", *SMALL, "--workers", 1)
    assert all_bytes(tmp_path / "parts") == all_bytes(tmp_path / "whole")


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_domain_shift_changes_the_looks_and_not_the_words(shift: str, tmp_path: Path) -> None:
    run("clevr", "--out", tmp_path / "plain", *SMALL, "--workers", 1)
    run("clevr", "--out", tmp_path / "shifted", *SMALL, "--workers", 1, "--domain_shift", shift)
    plain, shifted = (json.loads((tmp_path / name / "labels/train.json").read_text()) for name in ("plain", "shifted"))
    assert shifted["info"]["domain_shift"] == shift and plain["info"]["domain_shift"] is None
    for one, other in zip(plain["scenes"], shifted["scenes"], strict=True):
        changed = {key for key in other["rendering"] if other["rendering"][key] != one["rendering"][key]}
        assert changed == ({"lights", "ambient"} if shift == "lights" else {shift})
        if shift != "camera":
            assert other["objects"] == one["objects"]
    with (
        tarfile.open(tmp_path / "plain/images/train.tar") as one_tar,
        tarfile.open(tmp_path / "shifted/images/train.tar") as other_tar,
    ):
        for name in one_tar.getnames():
            assert one_tar.extractfile(name).read() != other_tar.extractfile(name).read()  # type: ignore[union-attr]


@pytest.mark.parametrize("task", ["so3", "sixdof", "shapenet"])
def test_other_tasks_leave_the_same_layout(tmp_path: Path, task: str) -> None:
    assert run(task, "--renderer", "flat", "--out", tmp_path, *SMALL, "--workers", 1) == 0
    splits = COMPOSERS[task].splits
    assert sorted(all_bytes(tmp_path)) == sorted(
        [f"images/{split}.tar" for split in splits] + [f"labels/{split}.json" for split in splits]
    )
    for split in splits:
        scenes = read_labels(tmp_path / f"labels/{split}.json", task)
        assert len(scenes) == (5 if split == "train" else 2)
        assert all(len(thing.rotation or ()) == 3 for scene in scenes for thing in scene.objects)
        with tarfile.open(tmp_path / f"images/{split}.tar") as tar:
            assert tar.getnames() == [scene.image for scene in scenes]


def test_every_composer_has_its_words_on_the_command_line() -> None:
    assert set(make_data.IMAGE_TASKS) == set(COMPOSERS)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    refused = pytest.raises(UserError, match=r"can't write into .*: No space left on device; make room")
    with refused, finished_outputs(tmp_path / "out", ["2d.npz"], overwrite=False) as partial:
        (partial / "2d.npz").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(FileNotFoundError), finished_outputs(tmp_path / "out", ["2d.npz"], overwrite=False):
        (tmp_path / "nothing").read_bytes()  # of something else than our output
