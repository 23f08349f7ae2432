"""The shipped languages write, read and score as the code did that knew the tasks in Python."""

import json
import os
from pathlib import Path

import pytest

from igllm_jax.data.tokens import Tokenizer
from tests.scene.golden import record

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
COUNTS = record.COUNTS if os.environ.get("GOLDEN") == "all" else record.COUNTS[:1]  # GOLDEN=all: all 1000 scenes


@pytest.mark.parametrize("case", record.CASES, ids="/".join)
def test_everything_is_as_it_was(case: tuple[str, str, str]) -> None:
    tokenizer = Tokenizer.load(FOLDER)
    for count in COUNTS:
        for head in record.HEADS:
            expected = GOLDEN[record.name(case, head, count)]
            found = record.record(case, head, tokenizer, count)
            for index, example in enumerate(expected.pop("examples", [])):
                assert found["examples"][index] == example
            assert found.pop("metrics") == pytest.approx(expected.pop("metrics"), rel=1e-9, abs=1e-9)
            assert {name: found[name] for name in expected} == expected
