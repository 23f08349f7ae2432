"""One ahead-of-time compile for `igllm plan`, in a process of its own: a TPU's compiler may take the process with it.

`python -m igllm_jax.plan_compile OUT.json REQUEST` writes what it found, or the compiler's refusal, to OUT.json.
REQUEST: a PlanRequest as JSON.
"""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from igllm_jax import config as configs
from igllm_jax.batch import Batch, PromptLayout
from igllm_jax.decoding import ngram_drafts
from igllm_jax.decoding.answers import decode_shardings, programs
from igllm_jax.decoding.decode import prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.errors import UserError
from igllm_jax.models.llama import DecoderConfig
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.parallel.sharding import MESH_AXES, MeshLayout, make_mesh
from igllm_jax.planning import compilers
from igllm_jax.planning.chips import find_topology
from igllm_jax.planning.hlo import collectives
from igllm_jax.planning.local import step_seconds
from igllm_jax.planning.memory import local_memory, own_bytes
from igllm_jax.planning.plans import PlanRequest, Program
from igllm_jax.planning.stand_in import grammar_like
from igllm_jax.training.options import RunOptions
from igllm_jax.training.step import jit_step, make_train_step
from igllm_jax.weights.run_model import RunModel

PROMPT = PromptLayout(image_offset=35, answer_offset=55)  # vicuna_v1 in LLaMA's vocabulary
FLOAT_TOKEN, FORBIDDEN = 30_354, ((313, 13), (313, 29_871), (1723,))  # in the same; any others compile alike


def train_program(run: RunOptions, layout: MeshLayout, request: PlanRequest) -> tuple[Any, tuple, dict[str, float]]:
    """The real train step, jitted; shapes of its arguments; and what they take on one device, in bytes by kind."""
    batch_size, length = request.batch_size, request.length
    run_model = RunModel.of(run, layout)
    model = run_model.model
    tokens = length - model.vision.num_patches
    size = model.vision.image_size

    def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        names = ("batch", *[None] * (len(shape) - 1))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding(shape, names, "batch_size"))

    row = (batch_size, tokens)
    batch = Batch(
        images=array((batch_size, size, size, 3), jnp.uint8),
        tokens=array(row, jnp.int32),
        is_answer=array(row, jnp.bool),
        is_number=array(row, jnp.bool),
        numbers=array(row, jnp.float32),
        weight=array((batch_size,), jnp.float32),
    )
    step = make_train_step(run_model.skeleton, PROMPT, run_model.optim, run.loss, layout)
    state = run_model.abstract_state()
    kinds = {
        "frozen": own_bytes(run_model.frozen),
        "trainables": own_bytes(state.params),
        "optimizer": own_bytes(state.optimizer),
        "batch": own_bytes(batch),
    }
    return jit_step(step, state), (state, run_model.frozen, batch), kinds


def decode_program(run: RunOptions, layout: MeshLayout, request: PlanRequest) -> tuple[Any, tuple, dict[str, float]]:
    """The same of the real decoder, LoRA merged, with the request's guesses and grammar."""
    model, batch_size = run.model, request.batch_size
    answer = request.length - model.vision.num_patches - PROMPT.answer_offset
    before, after = PROMPT.image_offset, PROMPT.answer_offset - PROMPT.image_offset
    options = DecodeOptions(
        before=(1,) * before,
        after=(1,) * after,
        max_new_tokens=answer,
        end_id=2,
        number_id=min(FLOAT_TOKEN, model.decoder.vocab_size - 1),
        vocab_size=model.decoder.vocab_size,
        forbidden=FORBIDDEN,
        num_drafts=request.num_drafts,
    )
    size = model.vision.image_size
    images = (batch_size, size, size, 3)
    sharding = partial(layout.sharding, what="batch_size")
    arguments = (
        decode_weights(model, layout),
        jax.ShapeDtypeStruct(images, jnp.uint8, sharding=sharding(images, ("batch", None, None, None))),
        jax.ShapeDtypeStruct((batch_size,), jnp.bool, sharding=sharding((batch_size,), ("batch",))),
    )
    tables = (
        ngram_drafts.empty() if request.num_drafts else None,
        grammar_like(run.data, model) if request.has_grammar else None,
    )
    arguments += jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.replicated()), tables)
    kinds = {"frozen": own_bytes(arguments[0]), "batch": own_bytes(arguments[1:3]), "tables": own_bytes(arguments[3:])}
    return programs(model, options, layout)[1], arguments, kinds


def decode_weights(model: VLMConfig, layout: MeshLayout) -> dict[str, Any]:
    """Shapes and shardings of what `decode.prepare` makes."""
    shapes = jax.eval_shape(partial(prepare, config=model), skeleton(model).shapes)

    def sharded(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(sharded, shapes, decode_shardings(model, layout))


def cudnn_workspace(decoder: DecoderConfig, layout: MeshLayout, batch_size: int, length: int) -> float:
    """Bytes of the float32 sums of query gradients that cuDNN's backward pass asks for, of which the compiler knows
    nothing; one layer's at a time."""
    if decoder.attention != "cudnn":
        return 0.0
    rows, _, heads, _ = layout.sharding(
        (batch_size, length, decoder.num_heads, decoder.head_dim), ("batch", None, "heads", None), "queries"
    ).shard_shape((batch_size, length, decoder.num_heads, decoder.head_dim))
    return 4.0 * rows * heads * length * decoder.head_dim


def islands(devices: Iterable[Any]) -> list[int]:
    """Of each device, the number of the GPU host or TPU slice that its fast links end at."""
    found = [
        device.process_index if device.platform in ("gpu", "cuda") else getattr(device, "slice_index", 0)
        for device in devices
    ]
    return found if len(set(found)) > 1 else []


def compile_one(run: RunOptions, request: PlanRequest) -> Program:
    """Bytes, collectives and seconds of one program on one topology."""
    devices = compilers.devices_of(request.topology, request.slices)
    sizes = dict(zip(MESH_AXES, request.mesh, strict=True))
    layout_name = "decode" if request.what == "decode" else run.mesh.layout
    layout = MeshLayout.of(layout_name, make_mesh(sizes, devices, request.slices))
    program = {"train": train_program, "decode": decode_program}[request.what]
    started = time.monotonic()
    function, arguments, arguments_bytes = program(run, layout, request)
    lowered = function.lower(*arguments)
    found = Program(
        device_kind=devices[0].device_kind,
        num_devices=len(devices),
        mesh={axis: int(size) for axis, size in layout.mesh.shape.items()},
        memory=local_memory(devices[0]) if request.topology == "local" else None,
        arguments=arguments_bytes,
    )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return replace(found, refused=" ".join(str(error).split())[:600])
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    peak -= memory.alias_size_in_bytes
    rows = (request.batch_size, request.length)
    workspace = cudnn_workspace(run.model.decoder, layout, *rows) if request.what == "train" else 0.0
    found = replace(
        found,
        compile_seconds=time.monotonic() - started,
        temporaries=float(memory.temp_size_in_bytes),
        workspace=workspace,
        peak=workspace + float(max(peak, getattr(memory, "peak_memory_in_bytes", 0))),
        step_seconds=step_seconds(compiled, arguments, request.runs) if request.runs else None,
    )
    if request.num_drafts:  # loops within loops, whose turns nobody knows
        return found
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # some TPU kernels can't be printed
        return found
    return replace(found, collectives=tuple(collectives(text, found.mesh, islands(layout.mesh.devices.flat))))


def main(arguments: list[str]) -> int:
    out, text = arguments
    request = PlanRequest.of(json.loads(text))
    if request.topology != "local" and not find_topology(request.topology).is_gpu:
        jax.config.update("jax_optimization_level", "O1")  # a third of a TPU's compile time
    try:
        run = configs.run_options(configs.load(list(request.config))[0])
        found = asdict(compile_one(run, request))
    except UserError as error:
        found = {"error": str(error)}
    Path(out).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
