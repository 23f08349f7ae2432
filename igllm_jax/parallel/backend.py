"""The devices that JAX finds, or one line on why there are none."""

import os
from typing import Any

import jax

from igllm_jax.errors import UserError


def devices() -> list[Any]:
    """Those of all processes. Raises: UserError where $JAX_PLATFORMS names a backend that is not there."""
    try:
        return jax.devices()
    except RuntimeError as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).split())
        raise UserError(
            f"JAX finds no device (JAX_PLATFORMS={wanted!r}: {reason[:300]}); name one that is there, such as cpu, or "
            "install JAX for the one that you want"
        ) from None
