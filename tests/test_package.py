"""What `import igllm_jax` brings, and what it leaves until it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import igllm_jax
from igllm_jax.weights import checkpoint


def test_importing_the_package_is_light() -> None:
    program = "import sys, igllm_jax; sys.exit(bool({'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_load_params_is_there_when_asked_for() -> None:
    assert igllm_jax.load_params is checkpoint.load_params
    with pytest.raises(AttributeError, match="no attribute 'load_parameters'"):
        _ = igllm_jax.load_parameters
