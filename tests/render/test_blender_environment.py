"""How Blender is found, with stand-ins for its programs."""

import sys
from pathlib import Path

import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.blender import environment


def program(path: Path, prints: str = "", code: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(environment, "WORKER", tmp_path / "clone/igllm_jax/render/blender/worker.py")
    monkeypatch.chdir(tmp_path)


def test_an_installed_blender_runs_the_worker_in_the_background(tmp_path):
    blender = program(tmp_path / "blender-5.0/blender")
    command = environment.find_blender(blender)
    assert command[0] == blender and command[-2:] == ("--python", str(environment.WORKER)) and "--background" in command
    assert environment.find_blender(sys.executable) == (sys.executable, str(environment.WORKER))


def test_the_variable_goes_before_the_folder_here_and_that_beside_the_package(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="igllm render --setup"):
        environment.find_blender()
    beside = program(tmp_path / "clone/.venv-blender/bin/python")
    assert environment.find_blender()[0] == beside
    here = program(tmp_path / ".venv-blender/bin/python")
    assert environment.find_blender()[0] == here
    monkeypatch.setenv(environment.VARIABLE, sys.executable)
    assert environment.find_blender()[0] == sys.executable
    monkeypatch.setenv(environment.VARIABLE, "/no/python")
    with pytest.raises(UserError, match="no such program"):
        environment.find_blender()
    with pytest.raises(UserError, match=r"--blender .*no such program"):
        environment.find_blender("/no/blender")


def test_the_interpreter_is_one_that_has_wheels(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.sys, "executable", program(tmp_path / "own/python", "3 12"))
    with pytest.raises(UserError, match=r"Python 3\.11 or 3\.13 only.*pyenv install 3\.11"):
        environment.fitting_python()
    program(tmp_path / "bin/python3.11", "version not installed", code=127)  # as pyenv's shims are
    with pytest.raises(UserError, match=r"3\.11 or 3\.13"):
        environment.fitting_python()
    newer = program(tmp_path / "pyenv/versions/3.13.0/bin/python", "3 13")
    assert environment.fitting_python() == (newer, (3, 13))
    older = program(tmp_path / "pyenv/versions/3.11.7/bin/python", "3 11")
    assert environment.fitting_python() == (older, (3, 11))


def test_a_setup_that_fails_says_why_and_leaves_nothing(monkeypatch, tmp_path):
    broken = tmp_path / "own/python"
    broken.parent.mkdir()
    broken.write_text('#!/bin/sh\ncase "$1" in -c) echo 3 11;; *) echo "no space left" >&2; exit 1;; esac\n')
    broken.chmod(0o755)
    monkeypatch.setattr(environment.sys, "executable", str(broken))
    with pytest.raises(UserError, match="making an environment failed: no space left"):
        environment.setup()
    assert not list(tmp_path.glob(".venv-blender*"))
