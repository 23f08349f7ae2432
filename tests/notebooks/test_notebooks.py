"""The notebooks run from top to bottom, without network, on data and a checkpoint that they make themselves."""

import ast
import os
import sys
from pathlib import Path

import pytest

ipykernel_spec = pytest.importorskip("ipykernel.kernelspec")
nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS_PER_CELL = 300
CHECKS = {
    "checkpoint": [
        "assert (config.mesh.data, config.mesh.fsdp) == (2, 4)",
        "assert len(steps) == 3 and set(group_of.values()) == {'lora', 'projector', 'float_head'}",
        "assert len(spectra) == 7 and all(np.isfinite(x).all() and x.any() for x in spectra.values())",
        "delta = scale * stacked['q/lora_a'] @ stacked['q/lora_b']",
        "direct = np.linalg.svd(delta, compute_uv=False)[:, : spectra['q'].shape[1]]",
        "np.testing.assert_allclose(spectra['q'], direct, atol=1e-5)",
    ],
    "data": [
        "assert len(examples) == 64 and shares[8] < shares[1]",
        "assert (kind == 2).sum() == batch.is_number.sum()",
    ],
    "evaluate": [
        "assert report['num_scenes'] == 24 and 0 < report['metrics']['l2'] < 1 and len(chosen) == 3",
        "assert 50 < report['metrics']['color'] < 100 and report['metrics']['parsed'] == 100",
    ],
}


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3` is this interpreter, with this checkout on its path; everything is written below tmp_path."""
    ipykernel_spec.write_kernel_spec(tmp_path / "jupyter" / "kernels" / "python3")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "IGLLM_CACHE", "IGLLM_SCRATCH"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in [name for name in os.environ if name.startswith("IGLLM_")]:
        if name not in ("IGLLM_CACHE", "IGLLM_SCRATCH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers


def run(path: Path, checks: list[str]) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(checks)))
    client = nbclient.NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3")
    client.execute(cwd=str(path.parent))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, kernels: None) -> None:
    run(path, CHECKS[path.stem])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_imports_and_never_defines(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, "outputs are not kept: clear them"
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)


def test_every_notebook_is_checked() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(CHECKS) and sys.executable
