"""The size of files and functions, who prints, and who renames."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("igllm_jax", "configs", "benchmarks", "tests", "tools", "docs")
MOST_FILE_LINES, MOST_FUNCTION_LINES = 400, 50
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# print their own tables and fixed words alone; all others print names through `progress`, which escapes them
PRINTERS = {"__main__", "endings", "progress", "check_rotation", "demo", "evaluate", "plan"}
BLENDER_SIDE = ROOT / "igllm_jax/render/blender"  # its worker runs without our package


def too_long(text: str) -> list[str]:
    """What has more lines than the house allows."""
    found = [f"{count} lines"] if (count := text.count("\n")) > MOST_FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            found += [f"{node.name} has {lines} lines"] if lines > MOST_FUNCTION_LINES else []
    return found


def test_what_is_too_long():
    assert too_long("def f():\n" + "    x = 1\n" * 49) == []
    assert too_long("def f():\n" + "    x = 1\n" * 50) == ["f has 51 lines"]
    assert too_long("x = 1\n" * 401) == ["401 lines"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    assert not too_long(path.read_text())


def test_names_are_printed_escaped():
    printers = set()
    for path in (ROOT / "igllm_jax").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if BLENDER_SIDE not in path.parents and any(isinstance(c, ast.Name) and c.id == "print" for c in calls):
            printers.add(path.stem)
    assert printers == PRINTERS


def renames(text: str) -> list[int]:
    """Lines that rename a file: `path.rename(x)`, `path.replace(x)`, `os.replace(a, b)`, `shutil.move(a, b)`."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        if isinstance(call.func, ast.Attribute):
            name, owner = call.func.attr, call.func.value
            is_module = isinstance(owner, ast.Name) and owner.id in ("os", "shutil")
            is_path = name == "rename" or (name == "replace" and len(call.args) == 1 and not call.keywords)
            found += [call.lineno] if is_path or (is_module and name in ("replace", "move")) else []
    return found


def test_what_renames():
    assert renames("a.rename(b)\na.replace(b)\nos.replace(a, b)\nshutil.move(a, b)") == [1, 2, 3, 4]
    assert renames("text.replace('a', 'b')\nreplace(config, rank=2)\ndataclasses.replace(config, rank=2)") == []


def test_files_alone_renames():
    """So that what a killed process leaves never has the final name."""
    found = {path.name for path in (ROOT / "igllm_jax").rglob("*.py") if renames(path.read_text())}
    assert found == {"files.py", "params.py"}  # the latter's `replace` is of variables
