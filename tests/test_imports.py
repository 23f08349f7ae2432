"""Imports go one way, so that each part can be read, and used, alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "igllm_jax"
LEAVES = {"errors", "batch", "progress"}
# folder -> our modules that it may import besides its own and the leaves
MAY_IMPORT = {
    "scene": set(),
    "models": set(),
    "data": {"scene"},
    "painter": {"scene", "data"},
    "parallel": set(),
    "decoding": {"models", "scene", "data", "parallel"},
    "interop": {"models", "data", "scene", "weights", "config", "training"},
}
LIGHT = {"scene": {"numpy", "scipy"}, "painter": {"numpy", "scipy", "PIL"}}  # third-party packages of these folders


def imports(path):
    """(ours, others): names of the modules that a file imports."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "igllm_jax":
                ours.add(parts[1] if len(parts) > 1 else "")
            else:
                others.add(parts[0])
    return ours, others


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_what_lies_below_it_alone(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        wrong = imports(path)[0] - LEAVES - MAY_IMPORT[folder] - {folder}
        assert not wrong, f"{path.name} imports {wrong}"


@pytest.mark.parametrize("folder", LIGHT)
def test_light_folders_stay_light(folder):
    import sys

    for path in (PACKAGE / folder).rglob("*.py"):
        heavy = imports(path)[1] - LIGHT[folder] - set(sys.stdlib_module_names)
        assert not heavy, f"{path.name} imports {heavy}"


def test_grain_stays_in_the_pipeline():
    users = {p.name for p in PACKAGE.rglob("*.py") if "grain" in imports(p)[1]}
    assert users <= {"pipeline.py"}


def test_nothing_predicted_is_executed():
    for path in PACKAGE.rglob("*.py"):
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path
