"""Questions that a process of its own answers: what asks a compiler or a device may end the process, or keep memory."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from igllm_jax.errors import UserError


def ask(
    module: str,
    *arguments: str,
    failed: Callable[[int, list[str]], str],
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What `python -m MODULE OUT.json ARGUMENTS...` writes to OUT.json.

    failed: the message where it writes nothing, of its exit code and the lines of its stderr. environment: instead of
    this process's. Raises: UserError then, and with what stands under "error" where it wrote that.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        line = [sys.executable, "-m", module, str(out), *arguments]
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        if not out.is_file():
            raise UserError(failed(done.returncode, done.stderr.strip().splitlines()))
        found = json.loads(out.read_text())
    if "error" in found:
        raise UserError(found["error"])
    return found
