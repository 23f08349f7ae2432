"""Plans for GPUs that are not there."""

from dataclasses import replace

import jax
import pytest

from igllm_jax import plan, plan_compile
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshLayout, make_mesh
from igllm_jax.planning import chips, compilers
from tests.test_plan import CLEVR, full_size, plan_small


def test_a_gpu_s_compiler_gets_flags_of_gpus_and_no_tiles_to_look_for(monkeypatch):
    monkeypatch.setattr(compilers, "_cuda", lambda: "cuda12")
    found = compilers.environment_for("h100:8", {"XLA_FLAGS": "--xla_gpu_b=2", "JAX_PLATFORMS": "cuda"})
    assert found["JAX_PLATFORMS"] == "cpu" and found["XLA_FLAGS"] == f"--xla_gpu_b=2 {compilers.NO_TRITON}"
    own = {"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=true"}
    assert compilers.environment_for("h100:8", own)["XLA_FLAGS"] == own["XLA_FLAGS"]
    monkeypatch.setattr(compilers, "_cuda", lambda: "cuda13")
    assert compilers.environment_for("h100:8", {})["XLA_FLAGS"] == ""


@pytest.mark.parametrize("found", [None, "0.9.2"])
def test_without_the_plugin_of_jax_s_release_the_command_says_what_to_install(found, monkeypatch):
    monkeypatch.setattr(compilers, "_version", lambda package: found)
    told = rf"needs the compiler of JAX's CUDA plugin.*: pip install --no-deps jax-cuda1\d-plugin=={jax.__version__} "
    with pytest.raises(UserError, match=told) as error:
        plan.main([*CLEVR, "--topology", "h100:8"])
    assert ("not 0.9.2" in str(error.value)) == (found is not None)


def test_cudnn_s_workspace_is_counted_for_the_rows_and_heads_of_a_device():
    decoder = replace(full_size().decoder, attention="cudnn")
    layout = MeshLayout.of("train", make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()))
    assert plan_compile.cudnn_workspace(decoder, layout, 64, 1024) == 4 * 16 * 16 * 1024 * 128
    assert plan_compile.cudnn_workspace(replace(decoder, attention="xla"), layout, 64, 1024) == 0


HAS_PLUGIN = compilers._version(f"jax-{compilers._cuda()}-plugin") == jax.__version__


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PLUGIN, reason="needs the compiler of JAX's CUDA plugin (the extra plan-gpu)")
@pytest.mark.parametrize(("topology", "attention"), [("h100:8", "xla"), ("h100:2x4", "cudnn")])
def test_a_small_run_on_gpus(topology, attention, tmp_path, capsys):
    words = ["--topology", topology, "--mesh", "data=2,fsdp=4", f"--config.model.decoder.attention={attention}"]
    found = plan_small(tmp_path, *words, "--config.model.dtype=bfloat16")
    assert found["fits"] and found["num_devices"] == 8 and found["memory"] == 0.75 * chips.CHIPS["H100"].memory
    axes = {tuple(one["axes"]) for one in found["collectives"]}
    between = {tuple(one["axes"]) for one in found["collectives"] if one["network_bytes"]}
    assert axes and between == {one for one in axes if "data" in one and topology == "h100:2x4"}
    assert found["workspace"] == (4 * 1 * 2 * 96 * 16 if attention == "cudnn" else 0)
    assert "75% of the 79.11 GiB of a GPU" in capsys.readouterr().out
