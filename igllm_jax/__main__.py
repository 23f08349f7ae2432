"""`igllm COMMAND ...` = `python -m igllm_jax COMMAND ...`."""

import importlib
import io
import logging
import sys
import tempfile
import traceback

from igllm_jax.errors import UserError, shown

# command -> module with main(arguments) -> exit code, and what it does
COMMANDS = {
    "demo": ("igllm_jax.demo", "the whole loop, small, on data that it makes itself"),
    "language": ("igllm_jax.language", "check a language file, and show what it says"),
    "make-data": ("igllm_jax.make_data", "make an own data set in the released layout"),
    "pack": ("igllm_jax.pack", "pack a data set as ArrayRecord"),
    "check-rotation": ("igllm_jax.check_rotation", "say in which unit CLEVR's rotation labels are, by their images"),
    "check": ("igllm_jax.check", "say what would stop a run, before it starts"),
    "train": ("igllm_jax.train", "train, or resume a run"),
    "generate": ("igllm_jax.generate", "write scene code for images"),
    "evaluate": ("igllm_jax.evaluate", "score predictions against labels"),
    "render": ("igllm_jax.render.command", "draw labels and predicted code again, and export them"),
    "report": ("igllm_jax.make_report", "show predictions beside what is true, in one HTML file"),
    "plan": ("igllm_jax.plan", "say whether a run fits a machine, without the machine"),
}


DEBUG = "--debug"
UNEXPECTED = 70  # exit code of a fault of ours, as sysexits.h has it


def main() -> int:
    """Runs one command; a user's mistake ends in one line and exit code 2."""
    usage = "usage: igllm COMMAND ...\n" + "\n".join(f"  {name:14} {text}" for name, (_, text) in COMMANDS.items())
    usage += f"\n{DEBUG}, with any of them, shows the traceback of what went wrong unexpectedly"
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print(usage)
        return 0 if len(sys.argv) > 1 else 2
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}\n{usage}", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):  # names that are not UTF-8 are printed escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax's remarks are not for our users; errors are raised too
    is_debug = DEBUG in arguments
    arguments = [argument for argument in arguments if argument != DEBUG]
    try:
        return importlib.import_module(COMMANDS[name][0]).main(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    except Exception as error:
        if is_debug:
            raise
        print(_unexpected(error), file=sys.stderr)
        return UNEXPECTED


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


if __name__ == "__main__":
    sys.exit(main())
