"""These tests hold the project against torch, transformers and peft; without them they are skipped."""

import pytest

for needed in ("torch", "transformers", "peft"):
    pytest.importorskip(needed)
