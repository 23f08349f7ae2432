"""Files and folders are there whole or not at all; what the system refuses is one line."""

import os
from pathlib import Path

import pytest

from igllm_jax import files
from igllm_jax.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_written_with_its_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    files.write_text(str(tmp_path / "deep" / "a.json"), "ä\n")
    files.write_bytes(tmp_path / "deep" / "a.json", "ö\udcff\n".encode("utf-8", "surrogatepass"))
    files.write_text(tmp_path / "deep" / "b.json", "ö\udcff\n")
    assert (tmp_path / "deep" / "b.json").read_bytes() == "ö\\udcff\n".encode()  # JSON reads it as it was
    assert names(tmp_path) == ["a.json", "b.json", "deep"]


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_and_nothing_new(tmp_path: Path, whole, error) -> None:
    target = tmp_path / "out"
    if whole is files.whole_file:
        target.write_text("old")
    before = names(tmp_path)
    with pytest.raises(error), whole(target) as temporary:
        (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
        assert temporary.parent == target.parent and temporary.name.startswith(".")
        raise error
    assert names(tmp_path) == before
    assert not before or target.read_text() == "old"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """/dev/full takes nothing."""
    with (
        pytest.raises(UserError, match=r"out: cannot be written \(No space left on device\)"),
        files.whole_file(tmp_path / "out") as temporary,
    ):
        temporary.symlink_to("/dev/full")
        temporary.write_text("content")
    assert names(tmp_path) == []
    with pytest.raises(UserError, match=r"a.json: cannot be written \(File exists\)|Not a directory"):
        (tmp_path / "file").touch()
        files.write_text(tmp_path / "file" / "a.json", "")


def test_a_folder_takes_over_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / f".out{files.PARTIAL}"
    left.mkdir()
    (left / "thesis.tex").touch()
    with (
        pytest.raises(UserError, match="is in the way, and nothing of ours left it"),
        files.whole_folder(left.parent / "out"),
    ):
        pass
    assert (left / "thesis.tex").exists()
    (left / files.UNFINISHED).touch()
    with files.whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
    assert names(tmp_path) == ["a", "out"]
    with pytest.raises(UserError, match="out exists"), files.whole_folder(tmp_path / "out"):
        pass


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    files.try_writing(tmp_path / "new" / "a.json")
    files.try_folder(str(tmp_path / "new" / "folder"))
    assert names(tmp_path) == ["folder", "new"]
    with pytest.raises(UserError, match=r"--json .*new is a folder"):
        files.try_writing(tmp_path / "new", "--json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .* cannot be written \(.*\); give another --out"):
        files.try_writing(tmp_path / "file" / "a.json")
    with pytest.raises(UserError, match="cannot be written"):
        files.try_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"az://bucket/a: az:// is no bucket's; give a path, or .* gs:// or s3://"):
        files.try_writing("az://bucket/a")
    with pytest.raises(UserError, match="gs:///a: names no bucket"):
        files.try_writing("gs:///a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        files.try_writing(tmp_path / "a.json")
