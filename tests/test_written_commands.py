"""Every command that README, docs and BENCHMARKS show has flags, config files and keys that exist."""

import argparse
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from igllm_jax import __main__ as cli
from igllm_jax import config as configs
from igllm_jax.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"(?:\w+=\S+ )*(igllm [a-z-]+ .*|python benchmarks/\w+\.py.*)")
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# what a sentence leaves out of a command that it names, and what an extra brings
ALLOWED = re.compile(
    r"arguments are required|one of the arguments|expected (one|at least one) argument|give --|"
    r"invalid choice: '[A-Z]+'|which is not installed"
)
OURS = ("igllm_jax", "benchmarks", "configs", "tests")
NUMBERS = {"BATCH": "8", "PID": "1", "PORT": "8000", "MINUTES": "3"}  # what stands for a number


class ParsedError(Exception):
    """Raised instead of doing what was asked."""


def commands(page: str) -> list[str]:
    """The commands in the code blocks and code spans of a page; what has an ellipsis is none."""
    blocks, others = FENCED.findall(page), FENCED.sub("", page)
    indented = re.findall(r"(?:^    .*\n)+", others, re.MULTILINE)
    lines = "\n".join([*blocks, *indented]).replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", others)]
    found = [match[1] for line in lines if (match := COMMAND.fullmatch(line.strip()))]
    return [command for command in found if "…" not in command and "..." not in command]


def words(command: str) -> list[str]:
    """As a shell would split it: without a comment or what it is piped into, braces expanded."""
    found: list[str] = []
    for word in shlex.split(re.sub(r"\[(--[^]]*)\]", r"\1", command), comments=True):
        if word in ("|", "&&", ";", ">"):
            break
        found += expanded(word)
    return [NUMBERS.get(word, word) for word in found]


def expanded(word: str) -> list[str]:
    match = re.fullmatch(r"([^{]*)\{([^{}]*,[^{}]*)\}(.*)", word)
    return [one for part in match[2].split(",") for one in expanded(match[1] + part + match[3])] if match else [word]


def test_what_is_a_command():
    page = (
        "Do\n\n    A=1 igllm train --config \\\n      tiny  # x\n\nor `igllm plan …`, `python benchmarks/a.py\n--b`.\n"
    )
    assert [words(command) for command in commands(page)] == [
        ["igllm", "train", "--config", "tiny"],
        ["python", "benchmarks/a.py", "--b"],
    ]
    assert words("igllm train --config.{a.b=1,c=2} | tail") == ["igllm", "train", "--config.a.b=1", "--config.c=2"]


@pytest.fixture
def parse(monkeypatch):
    """Runs a command up to where its flags are parsed, and its config."""
    depth = [0]  # parse_args calls parse_known_args, and that calls a subcommand's

    def up_to(real):
        def parsed(*arguments, **more):
            depth[0] += 1
            try:
                found = real(*arguments, **more)
            finally:
                depth[0] -= 1
            if depth[0]:
                return found
            raise ParsedError

        return parsed

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, up_to(getattr(argparse.ArgumentParser, name)))
    monkeypatch.chdir(ROOT)

    def run(command):
        program, name, *arguments = words(command)
        with pytest.raises(ParsedError):
            if program == "igllm":
                importlib.import_module(cli.COMMANDS[name][0]).main(arguments)
            else:
                monkeypatch.setattr(sys, "argv", [name, *arguments])
                runpy.run_path(str(ROOT / name), run_name="__main__")
        if program == "igllm" and (own := configs.split(arguments)[0]):
            configs.load(own)

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page, parse):
    faults = []
    for command in dict.fromkeys(commands(page.read_text())):
        try:
            parse(command)
        except UserError as error:
            faults += [] if ALLOWED.search(str(error)) else [f"{command}: {error}"]
        except ModuleNotFoundError as error:
            faults += [f"{command}: {error}"] if str(error.name).startswith(OURS) else []
        except (SystemExit, ImportError) as error:
            faults.append(f"{command}: {error!r}")
    assert not faults, "\n".join(faults)
