"""What stands on command lines: one parser, whose errors are one line, and one table of what flags may be."""

import argparse
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import NoReturn

from igllm_jax import paths
from igllm_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as all other mistakes are. Flags are never shortened: a typo is no other flag."""

    def __init__(self, *args: object, **kwargs: object):
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse's, which takes `--flag=--` for a list without anything in it."""
        for argument in args or ():
            if argument.startswith("--") and argument.endswith("=--"):
                self.error(f"argument {argument.removesuffix('=--')}: expected a value, got '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`, both included."""

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        value = int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return parse


def real(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number from `low` to `high`, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return value

    return parse


def path(text: str) -> paths.FilePath:
    """An argparse type: a path of this machine, or an address in a bucket."""
    with _told_as_mistake():
        return paths.to_path(text)


def source(text: str) -> str:
    """An argparse type: what is read, a path or address with what may stand around it (`tfds:`, `:SPLIT`)."""
    with _told_as_mistake():
        if not paths.is_remote(address := text.removeprefix("tfds:")):
            paths.check_slashes(address)
        elif not address.startswith("file://"):
            paths.check_address(address)
        return text


def local_program(text: str) -> str:
    """An argparse type: a program of this machine, by its name or path."""
    if paths.is_remote(text):
        raise argparse.ArgumentTypeError(f"must be on a disk of this machine, not in a bucket, got {text!r}")
    return text


@contextlib.contextmanager
def _told_as_mistake() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# what flags count -> their type; what is counted over devices or drawn has the limits of the config's keys
BATCH = whole(1, 1_048_576)
IMAGES = whole(1, 2**40)  # images, scenes, examples
LIMIT = whole(0, 2**40)  # of these; 0: all
TOKENS = whole(1, 1_048_576)
DRAFTS = whole(0, 64)  # more never pay: a pass over the weights checks them all
DEVICES = whole(1, 1_048_576)
CANDIDATES = whole(1, 1024)  # plans that are compiled
PROCESSES = whole(1, 1_048_576)
PROCESS = whole(0, 1_048_575)
WORKERS = whole(1, 1024)
STEPS = whole(1, 1_000_000_000)
PORT = whole(1, 65_535)
MEGABYTES = whole(1, 1_000_000)
SEED = whole(0, 2**32 - 1)
RESAMPLES = whole(0, 1_000_000)
OBJECTS = whole(1, 1000)
SAMPLES = whole(1, 65_536)  # rays of a pixel
SIZE = whole(-1, 1_048_576)  # of a mesh axis, -1: what is left
JITTER = real(0, 1e6)  # scene units
SHARE = real(0.01, 1)  # of a whole
ANSWERS = whole(1, 4096)  # of an image
ALTERNATIVES = whole(0, 4096)  # to it; 0: none
TEMPERATURE = real(0, 100)  # 0: the likeliest token
PROBABILITY = real(0, 1)
SECONDS = real(0.01, 1e9)
