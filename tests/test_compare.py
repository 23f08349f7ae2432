"""`igllm compare`: runs grouped by what they are, with intervals, on a page and as numbers."""

import csv
import xml.etree.ElementTree as ElementTree

import pytest

from igllm_jax import compare
from igllm_jax.errors import UserError
from igllm_jax.report.curves import MOST_POINTS, Interval, curve_content, read_run
from tests.runs import measured


@pytest.fixture
def runs(tmp_path):
    """Two seeds of each of two rates; the higher rate ends lower."""
    folders = []
    for rate, offset in (("1e-4", 1.0), ("2e-4", 0.5)):
        for seed in (0, 1):
            lines = [{"step": step, "loss": 1.0, "lr/lora": 0.1, "val/loss": offset + seed / 10 + 1 / step}
                     for step in (1, 2, 4)]  # fmt: skip
            folder = tmp_path / f"{rate}-{seed}"
            measured(folder, lines, f"--config.optim.lr={rate}", f"--config.seed={seed}")
            folders.append(str(folder))
    return folders


def test_an_interval_is_students():
    found = Interval.of([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4) and found.high == pytest.approx(4 - found.low)
    assert str(Interval.of([0.5])) == "0.5"


def test_seeds_are_one_group(runs, tmp_path, capsys):
    page, numbers = tmp_path / "compared.html", tmp_path / "compared.csv"
    assert compare.main([*runs, "--out", str(page), "--csv", str(numbers), "--title", "<Rates>"]) == 0
    assert "optim.lr=0.0001 (2 runs)" in capsys.readouterr().out
    rows = list(csv.DictReader(numbers.open()))
    assert [(row["what"], row["metric"]) for row in rows] == [
        (f"optim.lr={rate}", metric) for rate in ("0.0001", "0.0002") for metric in ("loss", "val/loss")
    ]
    last = rows[1]
    assert float(last["last"]) == pytest.approx(1.3) and float(last["low"]) < 1.25 < 1.35 < float(last["high"])
    text = page.read_text()
    assert "<title>&lt;Rates&gt;</title>" in text and "<script" not in text
    svg = ElementTree.fromstring(text[text.rindex("<svg") : text.rindex("</svg>") + 6])
    assert len(svg.findall("polygon")) == 2 and len(svg.findall("polyline")) == 6  # 2 means with bands, 4 runs
    pairs = [pair.split(",") for line in svg.iter("polyline") for pair in line.get("points").split()]
    corners = [float(number) for pair in pairs for number in pair]
    assert min(corners) >= 0 and max(corners) <= 520


def test_one_run_alone_has_no_interval(runs, tmp_path):
    assert compare.main([runs[0], "--metric", "val/loss", "--csv", str(tmp_path / "one.csv")]) == 0
    (row,) = csv.DictReader((tmp_path / "one.csv").open())
    assert (row["what"], row["runs"], row["low"]) == ("1e-4-0", "1", "")


def test_what_cannot_be_compared(runs, tmp_path):
    with pytest.raises(UserError, match="is no run"):
        compare.main([str(tmp_path)])
    with pytest.raises(UserError, match="--metric val/l3: no run has it; choose from loss"):
        compare.main([runs[0], "--metric", "val/l3"])
    (tmp_path / "1e-4-0" / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="holds no measurement yet"):
        compare.main([runs[0], str(tmp_path)])


def test_runs_of_a_sweep_that_failed_or_wait_are_left_out(runs, tmp_path, capsys):
    (tmp_path / "1e-4-0" / "metrics.jsonl").unlink()
    (tmp_path / "failed").mkdir()
    assert compare.main([*runs, str(tmp_path / "failed")]) == 1
    told = capsys.readouterr()
    assert "optim.lr=0.0001 (1 run)" in told.out and "optim.lr=0.0002 (2 runs)" in told.out
    assert "left out: " in told.err and "1e-4-0: its metrics.jsonl holds no measurement yet" in told.err
    assert f"left out: {tmp_path}/failed is no run" in told.err


def test_the_report_gets_the_curves_of_every_set(tmp_path):
    """The training loss beside each set's, and no rates or speeds; long curves are thinned, ends kept."""
    lines = [{"step": step, "loss": 3.0, "rows_per_second": 9.0, "lr/lora": 0.1} for step in range(1, 1000)]
    lines += [{"step": 500, "val_ID/loss": 1.0, "val_OOD/loss": 2.0}, {"step": 999, "val_OOD/loss": 1.5}]
    measured(tmp_path / "run", lines)
    (entry,) = curve_content([read_run(tmp_path / "run")], ["R"])
    assert entry["name"] == "R" and set(entry["curves"]) == {"loss", "val_ID/loss", "val_OOD/loss"}
    assert entry["curves"]["val_OOD/loss"] == [[500, 2.0], [999, 1.5]]
    thinned = entry["curves"]["loss"]
    assert len(thinned) == MOST_POINTS and thinned[0] == [1, 3.0] and thinned[-1] == [999, 3.0]
