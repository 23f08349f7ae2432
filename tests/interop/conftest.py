"""Nothing here has to outlive a power failure: what is written is not waited for."""

import pytest

from igllm_jax import files


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_sync", lambda file: None)
        yield
