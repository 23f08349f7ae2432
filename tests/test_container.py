"""The Dockerfile: what it holds, what it installs, and what a linter says of it."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import runs
from tests.stand_ins import calls, fake


def docker_file():
    """(instruction, its text) of each, continued lines joined."""
    text = (runs.ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_container_holds_what_the_project_is():
    steps = docker_file()
    assert [name for name, _ in steps][:3] == ["ARG", "FROM", "ARG"] and ("USER", "1000") in steps
    copied = [source for name, text in steps if name == "COPY" for source in text.split()[:-1]]
    let_in = {line[1:] for line in (runs.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((runs.ROOT / source).exists() for source in copied) and set(copied) == let_in
    assert {"pyproject.toml", "constraints.txt", "igllm_jax", "configs"} <= set(copied)


def test_the_container_is_linted():
    lint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if lint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([lint, "--no-color", "Dockerfile"], cwd=runs.ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("backend", "extras"), [("cpu", "buckets"), ("cuda", "cuda,buckets"), ("tpu", "tpu,buckets"), ("xpu", None)]
)
def test_each_container_installs_its_extras_at_tested_releases(backend, extras, tmp_path):
    fake(tmp_path / "bin", "python", "")
    (script,) = [text for name, text in docker_file() if name == "RUN" and "pip install" in text]
    place = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "BACKEND": backend}
    (tmp_path / "constraints.txt").write_text("jax==1\nlibtpu==1\n")
    done = subprocess.run(["sh", "-c", script], env=place, cwd=tmp_path, text=True, capture_output=True)
    known = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if extras is None:
        assert (done.returncode, calls(tmp_path / "bin", "python")) == (2, []) and "not xpu" in done.stderr
        return
    assert done.returncode == 0 and set(extras.split(",")) <= set(known)
    assert (tmp_path / "constraints.txt").read_text() == "jax==1\n"  # JAX names its own libtpu
    (line,) = calls(tmp_path / "bin", "python")
    assert line.startswith("-m pip install ") and line.endswith(f"--constraint constraints.txt .[{extras}]")


@pytest.mark.slow
def test_the_steps_run_in_a_plain_environment(tmp_path):
    """All but `useradd`, in a fresh virtual environment that stands for the image of Python."""
    python = tmp_path / "image" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "image"], check=True)
    asked = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path / "one", "absl-py<3"]
    if subprocess.run(asked, capture_output=True).returncode:
        pytest.skip("no package index can be reached")
    place = tmp_path / "igllm"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "BACKEND": "cpu", "JAX_PLATFORMS": "cpu"}
    for name, text in docker_file():
        if name == "COPY":
            *sources, target = text.split()
            for source in sources:
                copy = shutil.copytree if (runs.ROOT / source).is_dir() else shutil.copy
                copy(runs.ROOT / source, place / target / (Path(source).name if target == "./" else ""))
        elif name == "RUN" and not text.startswith("useradd"):
            subprocess.run(["sh", "-c", text], cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
    entry = json.loads(dict(docker_file())["ENTRYPOINT"])
    for words in (json.loads(dict(docker_file())["CMD"]), ["check-rotation", "--help"], ["language", "clevr"]):
        done = subprocess.run([*entry, *words], cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert done.returncode == 0 and done.stdout, done.stderr
    done = subprocess.run([python, "-c", "import gcsfs, s3fs"], env=environment)
    assert done.returncode == 0
