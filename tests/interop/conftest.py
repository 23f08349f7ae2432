"""Nothing here has to outlive a power cut: what is written is not waited for."""

import pytest

from igllm_jax.weights import base_folder_writer as base_writer


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_writer, "_wait_for_disk", lambda file: None)
        yield
