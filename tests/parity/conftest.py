"""These tests hold the project against torch, transformers and peft; without them they are left out, and it is said."""

from tests.interop.conftest import no_waiting_for_the_disk  # noqa: F401
from tests.parity.needed import MISSING

collect_ignore_glob = ["test_*.py"] if MISSING else []
