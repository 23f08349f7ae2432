"""Imports go one way, so that each part can be read, and used, alone."""

import ast
import sys
from pathlib import Path

import pytest

from igllm_jax import __main__

PACKAGE = Path(__file__).parent.parent / "igllm_jax"
# Rooms (folders) and the modules beside them, each of which imports itself and what stands before it alone. Everything
# else at the package's root is a command, which may import all of these, and other commands.
ORDER = (
    "errors", "buckets", "paths", "endings", "batch", "progress", "files", "line_log", "versions", "flags", "scene",
    "models", "data", "render", "parallel", "decoding", "refine", "planning", "training", "config_ranges",
    "config_files", "config_sources", "config_vocabulary", "config", "weights", "interop", "report", "api", "serving",
)  # fmt: skip
COMMANDS = {module.removeprefix("igllm_jax.").partition(".")[0] for module, _ in __main__.COMMANDS.values()}
COMMANDS |= {"__init__", "__main__", "plan_compile"}  # plan_compile: plan's second process
# third-party packages of rooms that are read by people and programs without the others
LIGHT = {
    "scene": {"numpy", "scipy"},
    # trimesh is imported where a .glb is asked for; the others are of a script for Blender that is only read
    "render": {"numpy", "scipy", "PIL", "trimesh", "bpy", "bmesh", "mathutils"},
}
BLENDER_SIDE = sorted((PACKAGE / "render/blender").glob("worker*.py"))  # run by Blender's Python, without us


def modules():
    """Name -> path of every module: {"igllm_jax.scene.code": ...}; a package stands under its own name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path):
    """(our modules, other packages) that a file imports anywhere in it, for types alone too."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] != "igllm_jax":
                others.add(name.partition(".")[0])
            else:
                ours.add(name if name in MODULES else name.rpartition(".")[0])
    return ours, others


def room(module):
    return [*module.split("."), "__init__"][1]


GRAPH = {module: imported(path)[0] - {module, "igllm_jax"} for module, path in MODULES.items()}


def circle(graph):
    """The nodes of a circle, in order; [] where there is none."""
    done = set()

    def visit(node, way):
        if node in way:
            return way[way.index(node) :]
        if node in done:
            return []
        done.add(node)
        return next((found for other in sorted(graph.get(node, ())) if (found := visit(other, [*way, node]))), [])

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_every_module_is_in_a_room_or_a_command():
    assert {room(module) for module in MODULES} <= {*ORDER, *COMMANDS}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_what_stands_before_its_room_alone(module):
    own = room(module)
    if own in COMMANDS:
        return
    before = {own, *ORDER[: ORDER.index(own)]}
    wrong = {other for other in GRAPH[module] if room(other) not in before}
    assert not wrong, f"{module} imports {wrong}; the order of rooms is {ORDER}"


def test_no_circles():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert not circle(GRAPH)


@pytest.mark.parametrize("part", LIGHT)
def test_light_rooms_stay_light(part):
    for path in set((PACKAGE / part).rglob("*.py")) - set(BLENDER_SIDE):
        heavy = imported(path)[1] - LIGHT[part] - set(sys.stdlib_module_names)
        assert not heavy, f"{path.name} imports {heavy}"


@pytest.mark.parametrize("path", BLENDER_SIDE, ids=lambda path: path.name)
def test_what_runs_in_blender_needs_blender_alone(path):
    ours, others = imported(path)
    blender = {"bpy", "bmesh", "mathutils", *(beside.stem for beside in BLENDER_SIDE)}
    assert not ours and others <= blender | set(sys.stdlib_module_names)


def test_grain_stays_in_the_pipeline():
    users = {path.name for path in MODULES.values() if "grain" in imported(path)[1]}
    assert users <= {"pipeline.py"}


def test_configs_are_opened_in_one_place():
    users = {path.name for path in MODULES.values() if "ml_collections" in imported(path)[1]}
    allowed = {"config.py", "config_files.py", "config_vocabulary.py", "versions.py", "train.py"}
    assert users <= allowed  # train.py is the run itself


def test_nothing_predicted_is_executed():
    for path in MODULES.values():
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path
