"""pyproject.toml names what the code imports, with bounds, and constraints.txt has one tested release of each."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"igllm_jax", "tests", "configs", "benchmarks"}
OPTIONAL = {
    "torch",
    "trimesh",
    "pxr",
    "gradio",
    "gradio_client",
    "starlette",
}  # imported where they are needed, and their absence is told or skips a test
# of the environment that Blender runs in, and the files that run there beside each other
OF_BLENDER = {"bpy", "bmesh", "mathutils", "worker_meshes", "worker_shading"}
CONSTRAINTS = [
    Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
]


def requirements(*extras: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def names(found: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in found}


def imported(*folders: str) -> set[str]:
    """The top-level modules of others that the Python files of these folders import."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - OURS - OF_BLENDER - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("igllm_jax", "tools", "configs"), ()),
        (("tests", "benchmarks"), ("test", "test-buckets", "real-weights", "refine-methods")),
    ],
    ids=["the package", "tests and benchmarks"],
)
def test_what_is_imported_is_named(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    declared = names(requirements(*extras)) | OPTIONAL
    providers = packages_distributions()
    unnamed = {
        module
        for module in imported(*folders)
        if not {module, canonicalize_name(module)} & declared  # its own name, or that of who brings it
        and not {canonicalize_name(provider) for provider in providers.get(module, ())} & declared
    }
    assert not unnamed, f"{unnamed} are imported, and not named in pyproject.toml"


def test_the_package_names_nothing_that_it_does_not_import() -> None:
    providers = packages_distributions()
    used = {
        canonicalize_name(provider)
        for module in imported("igllm_jax", "tools", "configs")
        for provider in providers.get(module, ())
    }
    assert names(requirements()) <= used


def test_every_requirement_has_an_upper_bound() -> None:
    open_ended = [
        str(requirement)
        for requirement in requirements(*PROJECT["optional-dependencies"])
        if not {"<", "<=", "=="} & {part.operator for part in requirement.specifier}
    ]
    assert not open_ended


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_each_python_has_one_tested_release_of_each(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    held: dict[str, str] = {}
    for line in CONSTRAINTS:
        if line.marker is None or line.marker.evaluate(environment):
            (part,) = line.specifier
            assert part.operator == "=="
            assert held.setdefault(line.name, part.version) == part.version, f"{line.name} is held twice"
    for requirement in requirements("test"):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            release = held[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(release), f"{requirement} leaves out {release}"


def test_constraints_are_releases_alone() -> None:
    assert not [line for line in CONSTRAINTS if line.url or line.extras or "+" in str(line.specifier)]
