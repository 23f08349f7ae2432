"""One side of a comparison in a process of its own, so that its memory is its own; the parent says when it runs.

Both ends of the pipe stand here: `serve` in the child, `Side` in the parent. One JSON object a line, each way.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def serve(handlers: dict[str, Callable[..., Any]]) -> None:
    """Answers requests {"do": NAME, ...} with what handlers[NAME](...) returns, until stdin ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"value": handlers[request.pop("do")](**request)}
        except Exception as error:  # the parent decides what a side that fails means
            reply = {"error": f"{type(error).__name__}: {error}"[:2000]}
        replies.write(json.dumps(reply) + "\n")


def memory() -> dict[str, float]:
    """MiB of this process: the most it ever held, and the most since `reset_memory`."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    since = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))
    return {"ever": max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, since), "since_reset": since}


def reset_memory() -> None:
    """Starts counting the peak anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


class SideError(RuntimeError):
    """What a side answered instead of a value."""


# Memory comes in huge pages (glibc 2.35 and newer), not in half a million small ones a step, unless the side's name
# ends in SMALL_PAGES: PyTorch is now and then quicker without.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SMALL_PAGES = "-4k"


class Side:
    """A worker process. `side("steps", count=2)` asks it and waits; other sides sit idle meanwhile."""

    def __init__(self, name: str, script: str, *arguments: str):
        self.name = name
        pages = {} if name.endswith(SMALL_PAGES) else HUGE_PAGES
        environment = {**pages, **os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1,
        )  # fmt: skip

    def __call__(self, request: str, **values: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": request, **values}) + "\n")
        reply = self.process.stdout.readline()
        if not reply:
            raise SideError(f"{self.name} ended with {self.process.wait()}")
        answer = json.loads(reply)
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """(what it returns, {"seconds": by the clock, "cpu": processor seconds of this process})."""
    clock, cpu = time.perf_counter(), time.process_time()
    value = function()
    return value, {"seconds": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
