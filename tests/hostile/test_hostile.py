"""A few mutated inputs of every kind, the same ones each time; `make fuzz` tries many."""

import pytest

from tests.hostile.kinds import all_kinds
from tests.hostile.report import BEGIN, END, counts_of, write_table
from tests.hostile.trial import OK, REFUSED, Kind, Outcome, Tally, Trials

COUNT = 12
SLOW = {"checkpoint files": 4, "base folders": 4, "Hugging Face configs": 4}  # a tenth of a second each, and more
KINDS = all_kinds()


@pytest.mark.parametrize("name", KINDS)
def test_every_fault_ends_well_or_in_one_line(name, tmp_path):
    if not KINDS[name].is_possible:
        pytest.skip(f"needs {KINDS[name].needs}")
    trials = Trials(KINDS[name], tmp_path)
    whole = trials.judge(trials.valid)
    assert whole.result == OK, whole.detail
    for seed in range(SLOW.get(name, COUNT)):
        outcome = trials.run(seed)
        assert outcome.result in (OK, REFUSED), f"{name}, seed {seed}: {outcome.detail}"
        assert trials.mutated(seed) == trials.mutated(seed)


def raised(error):
    def run(folder):
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "differs", "result", "signature"),
    [
        (raised(KeyError("x")), None, "traceback", "KeyError"),
        (raised(SystemExit(3)), None, "traceback", "SystemExit"),
        (raised(RecursionError()), None, "traceback", "RecursionError"),
        (lambda folder: print("\ud800", flush=True), None, "traceback", "UnicodeEncodeError"),
        (lambda folder: 3, lambda folder, found: "" if found == 4 else "another number", "different", "another number"),
    ],
)
def test_what_is_not_allowed_is_found(run, differs, result, signature, tmp_path):
    kind = Kind(lambda folder: {"x.json": b"[]"}, run, **({"differs": differs} if differs else {}))
    outcome = Trials(kind, tmp_path).run(0)
    assert outcome.result == result and signature in outcome.signature


def test_what_takes_for_ever_is_ended(tmp_path, monkeypatch):
    def run(folder):
        while True:
            pass

    monkeypatch.setattr("tests.hostile.trial.SECONDS", 0.2)
    assert Trials(Kind(lambda folder: {"x": b"1"}, run), tmp_path).run(0).result == "hang"


def test_sessions_add_up_to_one_table(tmp_path):
    page, counts = tmp_path / "page.md", tmp_path / "counts.json"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    for result in (OK, OK, "hang"):
        tally = Tally()
        tally.add(0, Outcome(result))
        tally.add(1, Outcome(REFUSED))
        write_table(page, counts_of({"tars": tally}, counts))
    assert "| tars | 6 | 2 | 3 | 0 | 1 | 0 |\n| all | 6 | 2 | 3 | 0 | 1 | 0 |\n" in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nafter\n")
