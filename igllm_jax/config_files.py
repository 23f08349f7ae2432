"""Config files: finding one, and running it so that it can start from the shipped ones wherever it lies."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from ml_collections import ConfigDict

from igllm_jax import paths
from igllm_jax.config_ranges import RANGES, no_such_key
from igllm_jax.errors import UserError

PACKAGE = "configs"
SHIPPED = Path(__file__).resolve().parent.parent / PACKAGE  # in a clone and in an installed wheel


def split(spec: str) -> tuple[str, str | None]:
    """FILE and ARGUMENT of `FILE[:ARGUMENT]`; FILE may be an address, which has a colon of its own."""
    scheme, mark, rest = spec.rpartition("://")
    file, colon, argument = rest.partition(":")
    return f"{scheme}{mark}{file}", argument if colon else None


def find(spec: str) -> Path:
    """The config file of a path, or of the name of a shipped one ("tiny", "tiny.py", "configs/tiny.py").

    Raises: UserError naming the shipped ones.
    """
    if paths.is_remote(spec):
        return paths.fetch(spec)
    path = Path(spec)
    if path.is_file():
        return path
    name = spec.removeprefix(f"{PACKAGE}/").removesuffix(".py")
    if name in shipped_names():
        return SHIPPED / f"{name}.py"
    raise UserError(f"there is no config file {spec}; the shipped ones are {', '.join(shipped_names())}")


def shipped_names() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("[!_]*.py"))


def run(path: Path, argument: str | None = None) -> ConfigDict:
    """What the file's `get_config(argument)` returns; `get_config()` where argument is None.

    `from configs import tiny` gives the shipped one, unless the file lies in a folder `configs` that has its own.
    Raises: UserError, one line with file and line, for whatever goes wrong in there.
    """
    with _importable(path.resolve()):
        try:
            module = ModuleType("__config__")
            module.__file__ = str(path)
            SourceFileLoader(module.__name__, str(path)).exec_module(module)
            if not callable(getattr(module, "get_config", None)):
                raise UserError(f"{path} has no function get_config()")
            config = module.get_config() if argument is None else module.get_config(argument)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(_one_line(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns {type(config).__name__}, not a ConfigDict")
    return config


@contextlib.contextmanager
def _importable(path: Path) -> Iterator[None]:
    """While it runs, `configs` is the shipped folder behind the file's own, and the file's grandparent can be imported
    from. Afterwards all is as before, so that neither another project's `configs` nor an older file gets in the way."""
    before = {name: module for name, module in sys.modules.items() if _is_config(name)}
    for name in before:
        del sys.modules[name]
    own = [path.parent] if path.parent.name == PACKAGE else []
    spec = ModuleSpec(PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(folder) for folder in [*own, SHIPPED]]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.parent))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a file changed within a second would be stale
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(path.parent.parent))
        for name in [name for name in sys.modules if _is_config(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_config(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


def _one_line(path: Path, error: BaseException) -> str:
    """FILE:LINE: what went wrong there. A key that the locked config does not have is told as on the command line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno}: {error.msg}"
    own_folders = {path.resolve().parent, SHIPPED}
    where, told = str(path), f"{type(error).__name__}: {' '.join(str(error).split())}"
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _folder(frame.f_code) in own_folders:
            where = f"{frame.f_code.co_filename}:{line}"
        group, key = frame.f_locals.get("self"), frame.f_locals.get("key", frame.f_locals.get("attribute"))
        is_key = isinstance(error, KeyError | AttributeError) and isinstance(key, str)
        if is_key and isinstance(group, ConfigDict) and key not in group:
            told = no_such_key(f"{_prefix_of(group)}{key}", RANGES)
    return f"{where}: {told}"


def _folder(code: CodeType) -> Path | None:
    return None if code.co_filename.startswith("<") else Path(code.co_filename).resolve().parent


def _prefix_of(group: ConfigDict) -> str:
    """ "optim." for a group with the keys of config.optim: a ConfigDict knows no parent."""
    whole = run(SHIPPED / "common.py")
    groups, found = [("", whole)], ""
    while groups:
        prefix, one = groups.pop()
        if set(one.keys()) == set(group.keys()):
            found = prefix
        groups += [(f"{prefix}{name}.", child) for name, child in one.items() if isinstance(child, ConfigDict)]
    return found
