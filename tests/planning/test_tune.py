"""Tuned plans: FLOPs of remat policies against those of traced programs, and the search with a fake compiler."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from igllm_jax import plan
from igllm_jax.errors import UserError
from igllm_jax.models import llama
from igllm_jax.models.remat import REMAT_POLICIES, find_policy
from igllm_jax.models.vlm import skeleton
from igllm_jax.planning import chips, compilers, plans, tune
from igllm_jax.planning.chips import GIB
from igllm_jax.training.optim import trainable_paths
from tests import runs, small

OFFLOADED = "qkv@host+residual"
CLEVR = [f"--config={runs.ROOT}/configs/clevr.py"]


def products(jaxpr):
    """FLOPs of all products, loops multiplied out."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            sizes = [equation.invars[0].aval.shape[axis] for axis in summed]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(sizes)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += times * products(inner) if hasattr(inner, "eqns") else 0
    return total


def traced(remat, length=8):
    """FLOPs of LoRA's gradients through two layers, and the formula's parts of a forward pass."""
    model = small.model(layers=2)
    config = replace(model.decoder, remat=remat, attention="xla")
    graphdef, state = nnx.split(nnx.eval_shape(lambda: llama.Decoder(config, model.lora, nnx.Rngs(0))))
    leaves = dict(nnx.to_flat_state(state))
    trained = {path: leaf for path, leaf in leaves.items() if "lora" in str(path)}
    frozen = {path: leaf for path, leaf in leaves.items() if path not in trained}

    def summed(trained, frozen, x):
        return nnx.merge(graphdef, nnx.from_flat_state({**trained, **frozen}))(x, None).sum()

    x = jax.ShapeDtypeStruct((1, length, config.width), jnp.float32)
    return products(jax.make_jaxpr(jax.grad(summed))(trained, frozen, x)), llama.layer_flops(config, model.lora, length)


@pytest.mark.parametrize("remat", [*REMAT_POLICIES, "qkv+residual+low", "gate_up", "residual+low+gate_up@host"])
def test_what_a_policy_recomputes_is_what_its_program_does(remat):
    """Blocks this short compute the masked half too: twice the attention; with its output kept, one product of two."""
    found, forward = traced(remat)
    more = 0 if remat in ("none", "elementwise", "qkvctx") else forward.attention
    assert found - traced("none")[0] == find_policy(remat).recomputed(forward) + more


def test_choices_cut_the_chips_every_way():
    found = tune.choices(4, 2, ["splash"], None)
    assert {one.mesh for one in found} == {(2, 4, 1), (4, 2, 1), (8, 1, 1)}
    assert len(found) == 3 * len(tune.policies())
    assert set(REMAT_POLICIES) | {OFFLOADED, "qkv+residual+gate_up@host+low"} <= {one.remat for one in found}
    assert {one.mesh for one in tune.choices(4, 1, ["splash"], (1, 2, 2))} == {(1, 2, 2)}


def test_a_policy_that_keeps_more_promises_more_of_fewer_rows():
    model = plan.configs.model_config(plan.configs.load(CLEVR)[0])
    trainable = trainable_paths(skeleton(model).shapes, "lora")
    sizes = tune.Sizes(model, trainable, "bfloat16", chips.CHIPS["v5e"], 15.75 * GIB, 1024, 393, 128)
    by = {one: tune.promise(tune.TuneChoice((1, 16, 1), one, "splash"), sizes) for one in ("full", "qkvres", OFFLOADED)}
    assert by["qkvres"].rows < by["full"].rows and by["qkvres"].rate > by["full"].rate
    assert by["qkvres"].rows < by[OFFLOADED].rows < by["full"].rows  # the host holds the rest
    alone = tune.promise(tune.TuneChoice((1, 1, 1), "full", "splash"), sizes)
    assert alone.rows == 0  # 13 GiB of weights, and as much of gradients and moments as there are trainables
    with pytest.raises(UserError, match="not even one example per chip fits by any mesh"):
        tune.best([alone])


def fake_measure(request):
    """A GiB of a chip for every example that it sees at once, and 3 more where queries, keys and values are kept."""
    data, fsdp, _ = request.mesh
    accumulate = next(int(word.split("=")[1]) for word in request.config if "accumulate" in word)
    peak = (request.batch_size / (data * fsdp) / accumulate + 3 * ("qkvres" in " ".join(request.config))) * GIB
    arguments = {"frozen": GIB, "trainables": GIB, "optimizer": GIB}
    mesh = {"data": data, "fsdp": fsdp, "tensor": 1}
    program = plans.Program("TPU v5 lite", data * fsdp, mesh, None, arguments, peak=peak, collectives=())
    return plans.Plan(request, program, 15.75 * GIB)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(compilers, "check", lambda topology: topology)
    monkeypatch.setattr(plan, "measure", fake_measure)
    monkeypatch.setattr(plan, "largest", lambda request, slack: plan_largest(request, fake_measure))
    monkeypatch.setattr(tune, "policies", lambda: list(REMAT_POLICIES))  # few enough to try all


plan_largest = plan.largest


def test_the_best_plan_at_the_largest_batch_with_its_flags(fake, capsys):
    assert plan.main([*CLEVR, "--topology", "v5e:4x4", "--mesh", "data=1,fsdp=16", "--tune", "6"]) == 0
    said = capsys.readouterr().out.splitlines()
    table = [line.split() for line in said[1:7]]
    rates = [float(row[-2]) for row in table]
    assert {row[1] for row in table} == set(REMAT_POLICIES) and rates == sorted(rates, reverse=True)
    batches = {row[1]: int(row[4]) for row in table}
    assert batches["full"] == 16 * 15 and batches["qkvres"] == 16 * 12
    start = "best: --config.mesh.data=1 --config.mesh.fsdp=16 --config.mesh.tensor=1 --config.model.decoder.remat="
    assert said[7].startswith(start) and said[7].endswith(
        f"--config.batch_size={table[0][4]} --config.optim.accumulate=1"
    )


def test_a_plan_that_is_refused_leaves_the_others(fake, monkeypatch, capsys):
    def refuses(request, slack):
        if "--config.model.decoder.remat=qkvres" in request.config:
            raise UserError("axis 'embed' can't be sharded")
        return plan_largest(request, fake_measure)

    monkeypatch.setattr(plan, "largest", refuses)
    assert plan.main([*CLEVR, "--topology", "v5e:4x4", "--mesh", "data=1,fsdp=16", "--tune", "6"]) == 0
    found = capsys.readouterr()
    assert "axis 'embed'" in found.err and "qkvres" not in found.out


def test_a_given_batch_is_split_until_it_fits(fake, capsys):
    words = ["--topology", "v5e:4x4", "--mesh", "data=1,fsdp=16", "--batch", "512", "--tune", "6"]
    assert plan.main([*CLEVR, *words]) == 0
    table = {line.split()[1]: line.split()[3:5] for line in capsys.readouterr().out.splitlines()[1:7]}
    assert table["full"] == table["qkvres"] == ["4", "512"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--topology", "v5e:4x4", "--tune", "--what", "decode"], "--tune ranks training; for the largest batch"),
        (
            ["--topology", "v5e:4x4", "--tune", "--mesh", "data=1,fsdp=16", "--batch", "17"],
            "--tune: batch 17 fits by none",
        ),
        (["--topology", "v5e:1x1", "--tune"], "--tune: not even one example per chip fits by any mesh"),
    ],
)
def test_what_can_t_be_tuned(words, match, fake):
    with pytest.raises(UserError, match=match):
        plan.main([*CLEVR, *words])


@pytest.mark.slow
def test_on_this_machine_steps_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    config = [word for word in runs.arguments(tmp_path, tmp_path) if word.startswith("--config")]
    words = ["--topology", "local", "--mesh", "data=2,fsdp=1", "--batch", "8", "--length", "96", "--tune", "2"]
    assert plan.main([*config, *words]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[:5]]
    assert table[0][-2:] == ["measured,", "s"] and table[3][0] == "measured"
    assert all(float(row[-1]) > 0 and float(row[8]) > 0 for row in table[1:3]), table
