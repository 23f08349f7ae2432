"""PyTorch weights in and out: see `python tools/convert_weights.py import --help` and `export --help`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed here that an accelerator would be needed for
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from igllm_jax import endings

if __name__ == "__main__":
    sys.exit(endings.run("igllm_jax.interop.command", sys.argv[1:]))
