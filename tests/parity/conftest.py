"""These tests hold the project against torch, transformers and peft; without them they are left out, and it is said."""

from tests.parity.needed import MISSING

collect_ignore_glob = ["test_*.py"] if MISSING else []
