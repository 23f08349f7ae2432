"""One Blender process that draws job after job: started when needed, recycled, and restarted when it dies or hangs."""

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from igllm_jax.errors import UserError

TRIES = 3  # of a job, each in a process of its own
START_SECONDS = 120.0  # Blender's import from a cold disk
END_SECONDS = 5.0
TAIL_BYTES = 2000  # of what Blender printed last, looked through for a message


@dataclass(frozen=True)
class WorkerOptions:
    """How the processes run.

    command: starts a worker (`environment.find_blender`). samples: of Cycles per pixel. device: CPU or GPU. threads: of
    one process, 0 for every core. clevr_assets: folder of CLEVR's official .blend files, None for ours. recycle: jobs
    that a process draws before another takes over, since Blender's memory grows. job_seconds: a job that takes longer
    counts as hung.
    """

    command: tuple[str, ...]
    samples: int = 4
    device: str = "CPU"
    threads: int = 0
    clevr_assets: str | None = None
    recycle: int = 500
    job_seconds: float = 300.0


class _Lost(Exception):
    """The process died, hung or answered what is no answer."""


class Worker:
    """A Blender process; used by one thread at a time."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[bytes] | None = None
        self._jobs_done = 0
        self.version = ""

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job; see worker.py for what jobs there are.

        A job whose process dies, hangs, prints garbage or reports an error is tried again in another process.
        Raises: UserError with Blender's message, after TRIES tries.
        """
        for left in reversed(range(TRIES)):
            try:
                if self._process is None or self._jobs_done >= self._options.recycle:
                    self._start()
                self._jobs_done += 1
                return self._exchange(job, self._options.job_seconds)
            except _Lost as error:
                reason = str(error)
                self.close()
                if left == 0:
                    raise UserError(f"Blender failed {TRIES} times at the same job: {reason}") from None
        raise AssertionError("TRIES is 1 or more")

    def _start(self) -> None:
        self.close()
        options = self._options
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        try:
            self._process = subprocess.Popen(
                options.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
            )
        except OSError as error:
            raise UserError(f"{options.command[0]}: can't be started ({error.strerror}); check --blender") from None
        self._lines, self._jobs_done = queue.Queue(), 0
        threading.Thread(target=_pass_lines, args=(self._process.stdout, self._lines), daemon=True).start()
        settings = {
            "device": options.device,
            "threads": options.threads,
            "samples": options.samples,
            "clevr_assets": options.clevr_assets,
        }
        self.version = str(self._exchange(settings, START_SECONDS).get("version", ""))

    def _exchange(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise _Lost(self._last_words("it ended")) from None
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise _Lost(f"no answer within {seconds:.0f} s") from None
        if line is None:
            raise _Lost(self._last_words("it ended"))
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise _Lost(f"it answered {line.strip()[:80]!r}, which is no answer")
        if not answer["ok"]:
            raise _Lost(" ".join(str(answer.get("error", "no reason given")).split()))
        return answer

    def _last_words(self, default: str) -> str:
        """The last line that Blender printed: of a traceback that is the exception."""
        assert self._process is not None and self._errors is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        size = self._errors.seek(0, 2)
        self._errors.seek(max(0, size - TAIL_BYTES))
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        code = self._process.poll()
        return f"{default} with exit code {code}{': ' + lines[-1] if lines else ''}"

    def close(self) -> None:
        """Ends the process; the next job starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # files are renamed when whole, so nothing half done is left under its name
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pass_lines(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    with contextlib.suppress(OSError, ValueError):  # closed by the other thread
        for line in stream:
            lines.put(line)
    lines.put(None)
