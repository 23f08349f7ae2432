"""Eight fake CPU devices for every test, and shape types checked while tests run."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile much and compute little: a third of the time without LLVM's optimizations.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # several steps in flight dead-lock fake devices

install_import_hook("igllm_jax.models", "beartype.beartype")
install_import_hook("igllm_jax.loss", "beartype.beartype")

LONGEST_FILES = ("test_processes.py", "test_train.py", "test_mixture.py")  # up to a minute a test


def pytest_collection_modifyitems(items):
    """The longest first, so that no worker is left alone with them in the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)
