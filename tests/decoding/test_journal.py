"""The journal of a predictions file: what a killed command leaves, and how the same command goes on."""

import json
import shutil
import signal

import numpy as np
import pytest

from benchmarks.kills import largest_difference
from igllm_jax import make_data
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.journal import Journal
from igllm_jax.errors import UserError
from tests import runs

ABOUT = {"images": "i", "limit": 0}
FIRST = {"a.png": Answer("add(x=0.100)\n", True), "b\udcff.png": Answer("é数\u2028", False)}
SECOND = {"c.png": Answer("", True)}


def table(value):
    entries = np.full_like(ngram_drafts.empty().entries, value)
    return ngram_drafts.Table(entries, np.float32(0.1 * value))


def begun(folder):
    journal = Journal(folder / "out.json", ABOUT)
    assert journal.open() == ({}, None)
    journal.add(FIRST, table(1))
    journal.add(SECOND, table(2))
    return journal


def test_what_was_answered_is_there_again_with_the_table(tmp_path):
    begun(tmp_path)
    again = Journal(tmp_path / "out.json", ABOUT)
    answers, found = again.open()
    assert answers == FIRST | SECOND
    np.testing.assert_array_equal(found.entries, table(2).entries)
    assert found.acceptance_rate == np.float32(0.2)
    again.add({"d.png": Answer("x", True)}, None)
    assert list(Journal(tmp_path / "out.json", ABOUT).open()[0])[-1] == "d.png"
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_cut_at_any_byte_whole_batches_are_kept(tmp_path):
    """And a batch whose table did not reach the disk is done again."""
    journal = begun(tmp_path)
    content = journal.path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 3
    for cut in (*range(0, len(content), 7), *ends, *(end - 1 for end in ends)):
        journal.path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        assert Journal(tmp_path / "out.json", ABOUT).open()[0] == [{}, {}, FIRST, FIRST | SECOND][whole]
    journal.path.write_bytes(content)
    Journal(tmp_path / "new.json", ABOUT).open()
    journal.table_path.write_bytes(b"PK nonsense")
    assert Journal(tmp_path / "out.json", ABOUT).open() == (FIRST | SECOND, None)
    journal._count = 0
    journal.add({}, table(1))  # the table is that of the first batch now
    journal.path.write_bytes(content)
    answers, found = Journal(tmp_path / "out.json", ABOUT).open()
    assert answers == FIRST and found.entries[0, 0] == 1


def test_another_command_is_told_what_differs(tmp_path):
    begun(tmp_path)
    with pytest.raises(
        UserError, match=r"out.json.partial.jsonl holds answers of another command, with another limit: "
    ):
        Journal(tmp_path / "out.json", {**ABOUT, "limit": 5}).open()
    (tmp_path / "out.json.partial.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"cannot be read .*; remove it to start anew"):
        Journal(tmp_path / "out.json", ABOUT).open()
    (tmp_path / "out.json.partial.jsonl").write_text(json.dumps(ABOUT) + '\n{"answers": [{"image": "a"}]}\n')
    with pytest.raises(UserError, match=r"no journal of answers \(.*\); remove it to start anew"):
        Journal(tmp_path / "out.json", ABOUT).open()


@pytest.mark.slow
def test_killed_at_random_moments_the_file_is_the_same(tmp_path):
    """SIGKILL after batches chosen at random, each time the same command again: byte for byte, guesses and all. Going
    on with other batches, tokens are the same."""
    make_data.main(["twod", "--out", str(tmp_path), "--num_train", "64", "--num_val", "24"])
    runs.finish(runs.start("train", *runs.arguments(tmp_path / "run", tmp_path)))
    images = ["--workdir", str(tmp_path / "run"), "--images", f"{tmp_path}/2d.npz:random", "--limit", "20"]

    def words(out, size="2"):
        return [*images, "--max_new_tokens", "60", "--batch_size", size, "--out", str(tmp_path / out)]

    runs.finish(runs.start("generate", *words("whole.json")))
    rng, journal = np.random.default_rng(0), tmp_path / "out.json.partial.jsonl"
    for _ in range(4):
        wanted = (journal.read_text().count("\n") if journal.exists() else 1) + int(rng.integers(1, 3))
        process = runs.start("generate", *words("out.json"))
        while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= wanted):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "out.json").exists() and journal.read_text().count("\n") > 2
    for ending in ("jsonl", "table"):
        if (left := tmp_path / f"out.json.partial.{ending}").exists():
            shutil.copyfile(left, tmp_path / f"other.json.partial.{ending}")
    runs.finish(runs.start("generate", *words("other.json", "3")))
    error = runs.finish(runs.start("generate", *words("out.json"), "--limit", "3"), code=2)[1]
    assert "with another limit: run that one again" in error and error.count("\n") == 1
    runs.finish(runs.start("generate", *words("out.json")))
    whole = (tmp_path / "whole.json").read_bytes()
    assert (tmp_path / "out.json").read_bytes() == whole and not journal.exists()
    assert largest_difference(tmp_path / "other.json", tmp_path / "whole.json") < 1e-5
    process, journal = runs.start("generate", *words("stopped.json", "3")), tmp_path / "stopped.json.partial.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") > 1):
        pass
    process.send_signal(signal.SIGTERM)
    assert runs.finish(process, code=130)[1].endswith("interrupted; the same command goes on\n")
