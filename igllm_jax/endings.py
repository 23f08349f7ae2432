"""How commands end: the last net under each, so that nobody sees a traceback who did not ask for one."""

import contextlib
import errno
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence

from igllm_jax.errors import UserError, shown

DEBUG = "--debug"
MISTAKE = 2  # exit code of what the user can mend
LONGEST_NAME = 200  # characters of a file's name in a message
UNEXPECTED = 70  # of a fault of ours, as sysexits.h has it
INTERRUPTED = 130  # of Ctrl-C, as shells have it
# what the system says of names, disks and rights that are the user's, not ours
REFUSALS = {
    errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG,
    errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
}  # fmt: skip


def run(module: str, arguments: Sequence[str]) -> int:
    """Calls `main(arguments)` of a command's module; returns the exit code.

    A user's mistake and Ctrl-C are told in one line; so is what nobody expected, whose traceback goes to a file. With
    --debug among the arguments it is raised instead.
    """
    for stream in (sys.stdout, sys.stderr):  # names that are not UTF-8 are printed escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax's remarks are not for our users; errors are raised too
    try:
        return importlib.import_module(module).main([argument for argument in arguments if argument != DEBUG])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f'; {shown(interrupt)}' if str(interrupt) else ''}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            print(_refused(error), file=sys.stderr)
            return MISTAKE
        if DEBUG in arguments:
            raise
        print(_unexpected(error), file=sys.stderr)
        return UNEXPECTED


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt meanwhile, so that a stopped command cleans up as an interrupted one
    does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refused(error: OSError) -> str:
    """One line about what the system refuses: a name, a disk or a right that no command looked at itself."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... ({len(name)} characters)"
    return f"error: {shown(short)}{': ' if short else ''}the system refuses it ({shown(error.strerror or error)})"


def _unexpected(error: Exception) -> str:
    """One line about what is no user's mistake; the traceback goes to a file of its own."""
    told = f"error: {type(error).__name__}: {shown(' '.join(str(error).split()))[:500]}"
    asked = f"please report it with what you ran; {DEBUG} shows the traceback"
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="igllm-traceback-", suffix=".txt", delete=False
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:  # a full disk, above all
        return f"{told} (unexpected: {asked})"
    return f"{told} (unexpected: {asked}, which is in {file.name})"
