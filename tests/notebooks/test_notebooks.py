"""The notebooks run from top to bottom, without network, on data and a checkpoint that they make themselves."""

import ast
import os
from pathlib import Path

import pytest

ipykernel_spec = pytest.importorskip("ipykernel.kernelspec")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ("checkpoint", "data", "evaluate")
SECONDS_PER_CELL = 300


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """Where the notebooks write; `python3` is this interpreter there."""
    scratch = tmp_path_factory.mktemp("notebooks")
    ipykernel_spec.write_kernel_spec(scratch / "jupyter" / "kernels" / "python3")
    return scratch


@pytest.fixture
def execute(scratch: Path, monkeypatch: pytest.MonkeyPatch):
    """(name of a notebook, lines to run after it, settings) -> runs it as a fresh user would, settings as IGLLM_*."""

    def run(name: str, checks: list[str], **settings: object) -> None:
        for given in [given for given in os.environ if given.startswith("IGLLM_")]:
            monkeypatch.delenv(given)
        for setting, value in settings.items():
            monkeypatch.setenv(f"IGLLM_{setting}", str(value))
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell("\n".join(checks)))
        client = nbclient.NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3")
        client.execute(cwd=str(FOLDER))

    monkeypatch.setenv("JUPYTER_PATH", str(scratch / "jupyter"))
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(scratch / name.lower()))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    return run


@pytest.mark.slow
def test_checkpoint_of_8_devices_and_what_its_model_writes(execute, scratch: Path) -> None:
    checks = [
        "assert (config.mesh.data, config.mesh.fsdp) == (2, 4)",
        "assert len(steps) == 3 and set(group_of.values()) == {'lora', 'projector', 'float_head'}",
        "assert len(spectra) == 7 and all(np.isfinite(x).all() and x.any() for x in spectra.values())",
        "delta = scale * stacked['q/lora_a'] @ stacked['q/lora_b']",
        "direct = np.linalg.svd(delta, compute_uv=False)[:, : spectra['q'].shape[1]]",
        "np.testing.assert_allclose(spectra['q'], direct, atol=1e-5)",
    ]
    execute("checkpoint", checks, SCRATCH=scratch / "checkpoint")
    checks = ["assert report['task'] == 'twod' and report['num_scenes'] == 8 and len(chosen) == 3"]
    run = scratch / "checkpoint" / "run"
    execute("evaluate", checks, SCRATCH=scratch / "generated", WORKDIR=run, NUM_IMAGES=8)


@pytest.mark.slow
def test_evaluate_makes_its_own_predictions(execute, scratch: Path) -> None:
    checks = [
        "assert report['num_scenes'] == 24 and 0 < report['metrics']['l2'] < 1 and len(chosen) == 3",
        "assert 50 < report['metrics']['color'] < 100 and report['metrics']['parsed'] == 100",
    ]
    execute("evaluate", checks, SCRATCH=scratch / "evaluate")


@pytest.mark.slow
def test_data_makes_its_own(execute, scratch: Path) -> None:
    checks = [
        "assert len(examples) == 64 and shares[8] < shares[1]",
        "assert (kind == 2).sum() == batch.is_number.sum() > 0",
    ]
    execute("data", checks, SCRATCH=scratch / "data")


@pytest.mark.parametrize("name", NAMES)
def test_they_import_and_never_define(name: str) -> None:
    for cell in nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, "outputs are not kept: clear them"
            assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(ast.parse(cell.source)))


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
