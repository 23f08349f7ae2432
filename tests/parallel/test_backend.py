"""A backend that is not there ends in one line, whoever asks for devices first."""

import jax
import pytest

from igllm_jax.errors import UserError
from igllm_jax.parallel.backend import devices
from igllm_jax.parallel.sharding import layout_for_decoding, one_device
from igllm_jax.planning.compilers import devices_of


def test_the_devices_are_jax_s_own():
    assert devices() == jax.devices() == devices_of("local")


@pytest.mark.parametrize("ask", [devices, one_device, layout_for_decoding, lambda: devices_of("local")])
def test_a_backend_that_is_not_there_is_one_line(monkeypatch, ask):
    def refused(*_):
        raise RuntimeError("Unable to initialize backend 'abc':\n it is not known")

    monkeypatch.setenv("JAX_PLATFORMS", "abc")
    monkeypatch.setattr(jax, "devices", refused)
    monkeypatch.setattr(jax, "local_devices", refused)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS='abc': .*backend 'abc': it is not known\); name one that is"):
        ask()
