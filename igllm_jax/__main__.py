"""`igllm COMMAND ...` = `python -m igllm_jax COMMAND ...`."""

import sys

from igllm_jax import endings

# command -> module with main(arguments) -> exit code, and what it does
COMMANDS = {
    "demo": ("igllm_jax.demo", "the whole loop, small, on data that it makes itself"),
    "language": ("igllm_jax.language", "check a language file, and show what it says"),
    "make-data": ("igllm_jax.make_data", "make an own data set in the released layout"),
    "pack": ("igllm_jax.pack", "pack a data set as ArrayRecord"),
    "check-rotation": ("igllm_jax.check_rotation", "say in which unit CLEVR's rotation labels are, by their images"),
    "check": ("igllm_jax.check", "say what would stop a run, before it starts"),
    "train": ("igllm_jax.train", "train, or resume a run"),
    "sweep": ("igllm_jax.sweep", "train a run for every combination of settings"),
    "compare": ("igllm_jax.compare", "show what runs measured side by side"),
    "generate": ("igllm_jax.generate", "write scene code for images"),
    "serve": ("igllm_jax.serve", "a page to try a model on, and its HTTP API"),
    "refine": ("igllm_jax.refine.command", "move predicted scenes until they explain their images"),
    "evaluate": ("igllm_jax.evaluate", "score predictions against labels"),
    "render": ("igllm_jax.render.command", "draw labels and predicted code again, and export them"),
    "report": ("igllm_jax.make_report", "show predictions beside what is true, in one HTML file"),
    "plan": ("igllm_jax.plan", "say whether a run fits a machine, without the machine"),
}


def main() -> int:
    """Runs one command; returns the exit code."""
    usage = "usage: igllm COMMAND ...\n" + "\n".join(f"  {name:14} {text}" for name, (_, text) in COMMANDS.items())
    usage += f"\n{endings.DEBUG}, with any of them, shows the traceback of what went wrong unexpectedly"
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print(usage)
        return 0 if len(sys.argv) > 1 else 2
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}\n{usage}", file=sys.stderr)
        return 2
    return endings.run(COMMANDS[name][0], arguments)


if __name__ == "__main__":
    sys.exit(main())
