"""Where Blender is: an environment with bpy of its own (`igllm render --setup` makes it), or an installed Blender.

bpy needs a NumPy that JAX cannot work with, and a Python of exactly one version, so it never shares our environment.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from igllm_jax import files, paths
from igllm_jax.errors import UserError

VARIABLE = "IGLLM_BLENDER_PYTHON"  # an interpreter that can import bpy
FOLDER = ".venv-blender"
WORKER = Path(__file__).with_name("worker.py")
# Python -> what pip installs for it. There are wheels for these two alone.
WHEELS = {(3, 11): "bpy>=4.2,<=5.0.1", (3, 13): "bpy>=5.1,<5.4"}
WANTED = " or ".join(f"{major}.{minor}" for major, minor in WHEELS)


def find_blender(blender: str | Path | None = None) -> tuple[str, ...]:
    """The command that starts a worker.

    blender: an installed Blender's program, or a Python that can import bpy. Default: the Python that the variable
    IGLLM_BLENDER_PYTHON names, then `.venv-blender` in this folder or beside the package.
    Raises: UserError that says how to get one.
    """
    if blender is not None:
        program = shutil.which(str(blender))
        if program is None:
            raise UserError(f"--blender {blender}: there is no such program; give the path of Blender's program")
        if Path(program).name.lower().startswith("python"):
            return (program, str(WORKER))
        return (program, "--background", "--factory-startup", "--python-exit-code", "1", "--python", str(WORKER))
    python = blender_python()
    if python is None:
        raise UserError(
            f"no Blender: there is no {FOLDER} here and {VARIABLE} is not set; run `igllm render --setup` once, "
            "or give --blender PATH of an installed Blender"
        )
    return (python, str(WORKER))


def blender_python() -> str | None:
    """The interpreter of the Blender environment, None where there is none. Raises: UserError if VARIABLE is wrong."""
    named = os.environ.get(VARIABLE)
    if named:
        if shutil.which(named) is None:
            raise UserError(f"{VARIABLE}={named}: there is no such program; unset it, or name a Python that has bpy")
        return named
    for folder in (Path.cwd(), WORKER.parents[3]):
        if (python := _python_of(folder / FOLDER)).exists():
            return str(python)
    return None


def setup(folder: Path | None = None) -> Path:
    """Makes the Blender environment (about 1 GB) and tries it; returns its folder.

    folder: default `.venv-blender` here. Raises: UserError where no fitting Python is found, or pip fails.
    """
    folder = paths.local(folder or Path.cwd() / FOLDER, "the environment of Blender")
    if (_python_of(folder)).exists() and _bpy_version(str(_python_of(folder))):
        return folder
    python, version = fitting_python()
    # An environment's scripts know the path where they were made, but we start its interpreter alone.
    with files.whole_folder(folder, is_synced=False, replaces=True) as partial:
        _run([python, "-m", "venv", str(partial)], "making an environment")
        _run([str(_python_of(partial)), "-m", "pip", "install", "--quiet", WHEELS[version]], "installing bpy")
        if not _bpy_version(str(_python_of(partial))):
            raise UserError(f"bpy was installed into {partial}, but cannot be imported; see `import bpy` there")
    return folder


def fitting_python() -> tuple[str, tuple[int, int]]:
    """A Python that bpy has wheels for, and its version. Raises: UserError that says what to install."""
    candidates = [sys.executable]
    for major, minor in WHEELS:
        candidates += [path for path in (shutil.which(f"python{major}.{minor}"),) if path]
        root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        candidates += [str(path / "bin" / "python") for path in sorted(root.glob(f"{major}.{minor}.*"), reverse=True)]
    for candidate in candidates:
        version = _version(candidate)
        if version in WHEELS:
            return candidate, version
    own = ".".join(map(str, sys.version_info[:2]))
    raise UserError(
        f"Blender's module bpy has wheels for Python {WANTED} only, and none of them is found (this is {own}); install "
        "one, as with `pyenv install 3.11` or `uv python install 3.11`, or give --blender PATH of an installed Blender"
    )


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _version(python: str) -> tuple[int, int] | None:
    """Major and minor; None for what does not run (pyenv's shims stand for versions that may be switched off)."""
    code = "import sys, ensurepip; print(*sys.version_info[:2])"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    numbers = run.stdout.split()
    return (int(numbers[0]), int(numbers[1])) if run.returncode == 0 and len(numbers) == 2 else None


def _bpy_version(python: str) -> str | None:
    code = "import bpy; print('bpy', bpy.app.version_string)"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    found = [line for line in run.stdout.splitlines() if line.startswith("bpy ")]
    return found[-1][4:] if run.returncode == 0 and found else None


def _run(command: list[str], what: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        lines = [line for line in (run.stderr or run.stdout).splitlines() if line.strip()]
        raise UserError(f"{what} failed: {lines[-1] if lines else f'exit code {run.returncode}'} ({' '.join(command)})")
