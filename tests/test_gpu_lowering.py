"""What a GPU would compile: training and decoding lowered for CUDA anywhere, so that no path of theirs is untested."""

from dataclasses import replace

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.export import DisabledSafetyCheck

from igllm_jax import config as configs
from igllm_jax import plan_compile
from igllm_jax.parallel.sharding import MeshLayout, one_device
from igllm_jax.planning import compilers
from igllm_jax.planning.plans import PlanRequest
from tests import runs

CUDNN = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
# attention of training -> kernels of cuDNN in its text
KERNELS = {"xla": (), "chunked": (), "cudnn": CUDNN}


@pytest.fixture
def run(tmp_path):
    """Options of a very small run, in the types of a large one."""
    words = [word for word in runs.arguments(tmp_path, tmp_path) if word.startswith("--config")]
    return configs.run_options(configs.load([*words, "--config.model.dtype=bfloat16"])[0])


def lowered_for_cuda(program, run, attention, monkeypatch, **more):
    """The text of the program that `igllm plan` compiles: its own jitted function, exported for CUDA."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: compilers.CUDNN)
    decoder = replace(run.model.decoder, attention=attention)
    run = replace(run, model=replace(run.model, decoder=decoder))
    layout = MeshLayout.of("train" if program is plan_compile.train_program else "decode", one_device().mesh)
    request = PlanRequest((), "local", "train", 2, 128, (1, 1, 1), **more)
    function, arguments, _ = program(run, layout, request)
    checks = [DisabledSafetyCheck.custom_call(name) for name in CUDNN]
    return jax.export.export(function, platforms=["cuda"], disabled_checks=checks)(*arguments).mlir_module()


@pytest.mark.parametrize("attention", KERNELS)
def test_training_is_lowered_for_cuda(run, attention, monkeypatch):
    text = lowered_for_cuda(plan_compile.train_program, run, attention, monkeypatch)
    for name in CUDNN:
        assert (f"@{name}(" in text) == (name in KERNELS[attention])


@pytest.mark.parametrize("attention", ["xla", "cudnn"])
def test_decoding_is_lowered_for_cuda(run, attention, monkeypatch):
    loop = {"num_drafts": 2, "has_grammar": True} if attention == "xla" else {}
    text = lowered_for_cuda(plan_compile.decode_program, run, attention, monkeypatch, **loop)
    assert "stablehlo.while" in text
