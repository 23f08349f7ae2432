"""Eight fake CPU devices for every test, and shape types checked while tests run."""

import gc
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests import runs  # noqa: F401  makes the folder that all workers share, before they start

# Tests compile much and compute little: a third of the time without LLVM's optimizations, a twentieth less without its
# expensive passes and with one module a program. Where fusions can still be emitted without MLIR (a flag that XLA no
# longer knows is fatal), a step compiles in a third of that again.
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

gc.set_threshold(10_000, 10, 10)  # tracing makes much that stays: looking through it was a twentieth of the time

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)  # several steps in flight dead-lock fake devices

install_import_hook(["igllm_jax.models", "igllm_jax.training", "igllm_jax.decoding"], "beartype.beartype")

settings.register_profile("any machine", deadline=None)  # a busy one is no failure
settings.load_profile("any machine")

LONGEST_FILES = ("test_processes.py", "test_train.py", "test_mixture.py")  # up to a minute a test


def pytest_collection_modifyitems(items):
    """The longest first, so that no worker is left alone with them in the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a small 2D data set."""
    from igllm_jax import make_data  # once the hook above is there

    folder = tmp_path_factory.mktemp("data")
    make_data.main(["twod", "--out", str(folder), "--num_train", "64", "--num_val", "24"])
    return folder
