"""Programs that stand in for others and record what they are asked."""


def fake(folder, name, body):
    """A program called `name`, found before the real one; its own arguments go to NAME.log, a call a line."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{folder}/{name}.log"\n{body}\n')
    program.chmod(0o755)


def calls(folder, name):
    log = folder / f"{name}.log"
    return log.read_text().splitlines() if log.exists() else []
