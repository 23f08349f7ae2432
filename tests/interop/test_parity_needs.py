import pytest

from tests.parity.needed import MISSING


@pytest.mark.skipif(bool(MISSING), reason=f"tests/parity is left out: {', '.join(MISSING)} not installed")
def test_the_tests_against_torch_are_run():
    """Shows up as skipped where tests/parity can't run."""
