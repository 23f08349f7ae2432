"""Plans: FLOPs against numbers counted by hand, collectives out of compiled text, the search for the largest batch."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from benchmarks import plan_table
from igllm_jax import config as configs
from igllm_jax import plan
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import skeleton
from igllm_jax.planning import chips, compilers, flops, hlo, plans
from igllm_jax.planning.chips import GIB
from igllm_jax.training.optim import trainable_paths
from tests import runs, small

CLEVR = [f"--config={runs.ROOT}/configs/clevr.py"]


# FLOPs


def full_size(**decoder):
    model = configs.model_config(configs.load(CLEVR)[0])
    return replace(model, decoder=replace(model.decoder, **decoder))


def paths(model):
    return skeleton(model).shapes


@pytest.mark.parametrize(("remat", "executed"), [("full", 41.1), ("qkvctx", 37.7), ("qkvres", 36.6), ("none", 29.9)])
def test_flops_of_the_full_size(remat, executed):
    model = full_size(remat=remat)
    one = flops.train_flops(model, length=1024, answer_length=393, trainable=trainable_paths(paths(model), "lora"))
    assert round(one.useful / 1e12, 1) == 29.9
    assert round(one.executed / 1e12, 1) == executed
    parts = [one.forward, one.gradients, one.lora, one.attention, one.head, one.vision]
    assert [round(part / 1e12, 2) for part in parts] == [13.26, 13.26, 1.96, 0.82, 0.21, 0.37]
    assert one.weight_gradients == 0


def test_training_everything_costs_weight_gradients_too():
    model = full_size()
    one = flops.train_flops(model, length=1024, answer_length=393, trainable=trainable_paths(paths(model), "full"))
    assert one.weight_gradients == one.forward and one.vision > 1e12


def test_a_token_costs_two_flops_per_weight_and_its_cache():
    model = small.model(layers=1)
    decoder = model.decoder
    kernels = 26 * 24 + 2 * 26 * 12 + 24 * 26 + 3 * 26 * 31
    assert flops.token_flops(model, length=11) == 2 * (kernels + 26 * 53) + 4 * 11 * 4 * 6
    assert decoder.num_heads * decoder.head_dim == 24


# chips


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("v5e-16", "v5e:4x4"), ("v5litepod-256", "v5e:16x16"), ("v4-8", "v4:2x2x1"), ("v5p-8", "v5p:2x2x1"),
        ("v6e-8", "v6e:2x4"), ("v4:4x4x4", "v4:4x4x4"), ("H100:8", "h100:8"), ("a100-80gb:2x8", "a100-80gb:2x8"),
    ],
)  # fmt: skip
def test_topologies_by_the_names_people_use(name, found):
    assert chips.find_topology(name).name == found


@pytest.mark.parametrize("name", ["v5e-17", "v9-8", "v5e:3x3", "", "v5e"])
def test_a_topology_that_is_not_there_names_those_that_are(name):
    with pytest.raises(UserError, match=r"choose local, or one of v5e:1x1 \(v5e-1\)"):
        chips.find_topology(name)


@pytest.mark.parametrize("name", ["h100", "h100:9", "h100:0x8", "h100:129x8", "h200:8x16", "a100-80gb:x8"])
def test_gpus_come_as_one_host_or_several(name):
    with pytest.raises(UserError, match=r"expected \S+:N with N from 1 to 8 GPUs of one host, or \S+:HOSTSxN"):
        chips.find_topology(name)


def test_every_gpu_has_a_description_that_agrees_with_its_chip():
    for gpu, name in chips.GPUS.items():
        text = (compilers.GPU_TARGETS / f"{gpu}.txtpb").read_text()
        found = {key: int(value) for key, value in re.findall(r"^  (\w+): (\d+)$", text, re.MULTILINE)}
        chip, topology = chips.CHIPS[name], chips.find_topology(f"{gpu}:4x8")
        assert chips.chip_of(re.search('description_str: "(.*)"', text)[1]) is chip
        assert found["device_memory_size"] == chip.memory
        assert found["memory_bandwidth"] == pytest.approx(chip.memory_bandwidth, rel=0.01)
        assert (topology.num_chips, topology.num_hosts, topology.is_gpu) == (32, 4, True)


def test_a_run_sees_three_quarters_of_a_gpu():
    memory, note = chips.program_memory(chips.CHIPS["H100"], True, {})
    assert memory / GIB == pytest.approx(59.33, abs=0.005) and note.startswith("75% of the 79.11 GiB")
    more, note = chips.program_memory(chips.CHIPS["H100"], True, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"})
    assert more == 1.2 * memory and "default" not in note
    assert chips.program_memory(chips.CHIPS["v5e"], False, {}) == (15.75 * GIB, None)
    with pytest.raises(UserError, match=r"MEM_FRACTION: expected a number from 0\.01 to 1, got '2'"):
        chips.program_memory(chips.CHIPS["H100"], True, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "2"})


def test_devices_by_their_own_names():
    assert chips.chip_of("TPU v5 lite") is chips.CHIPS["v5e"] and chips.chip_of("TPU v5p") is chips.CHIPS["v5p"]
    assert chips.chip_of("NVIDIA H200") is chips.CHIPS["H200"] and chips.chip_of("cpu") is None


# bounds

PROGRAM = plans.Program("NVIDIA H100", 16, {"data": 2, "fsdp": 8, "tensor": 1}, None, {})


def test_the_network_limits_what_goes_over_it():
    found = plans.Bound.of(
        plans.BatchFlops(1.0, 1.0, 1.0),
        1.0,
        replace(PROGRAM, collectives=(hlo.Collective("all-reduce", ("data",), 1, 14e9, 5e9),)),
        chips.CHIPS["H100"],
    )
    assert found.seconds["links"] == 0.02 and found.seconds["network"] == found.step == 0.1
    assert found.limit == "network"


# the command


def request(batch=16):
    return plans.PlanRequest((), "v5e:2x2", "train", batch, 1024, (1, 4, 1))


def fake_measure(most):
    """Memory that grows evenly, 1 a row on top of 3, up to `most` rows per device."""

    def measure(request):
        rows = request.batch_size // 4
        told = {"peak": rows + 3.0} if rows <= most else {"refused": "too much"}
        program = plans.Program("TPU v5 lite", 4, {"data": 1, "fsdp": 4, "tensor": 1}, None, {}, **told)
        return plans.Plan(request, program, memory=most + 3.5)

    return measure


@pytest.mark.parametrize("most", [1, 2, 3, 28, 29, 511, plan.MOST_PER_CHIP])
@pytest.mark.parametrize("first", [4, 64])
def test_the_largest_batch_is_found(most, first, capsys):
    found = plan.largest(request(first), fake_measure(most))
    assert (found.request.batch_size, found.search.largest_batch_per_device) == (4 * most, most)
    assert len(found.search.tried) < 14


def test_where_not_even_one_fits():
    with pytest.raises(UserError, match="not even one example per device fits v5e:2x2: too much"):
        plan.largest(request(), fake_measure(0))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--topology", "v5e-17"], "there is no topology 'v5e-17'"),
        (["--topology", "local", "--mesh", "fspd=4"], "expected AXIS=SIZE"),
        (["--topology", "local", "--mesh", "data=3,fsdp=1,tensor=1"], r"mesh\.data=3.* need 3 devices"),
        (["--topology", "v5e:2x2", "--mesh", "slices=-1"], "slices is -1; it must be 1 or more"),
        (["--topology", "h100:2x8", "--config.mesh.slices=2"], r"mesh\.slices=2: h100:2x8 is no TPU slice"),
        (["--topology", "local", "--length", "631"], "--length 631 leaves no answer: image and prompt take 631 pos"),
    ],
)
def test_what_can_t_be_planned(words, match, monkeypatch):
    monkeypatch.setattr(compilers, "check", lambda topology: topology)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    with pytest.raises(UserError, match=match):
        plan.main([*CLEVR, *words])


def fake_compile(most):
    """A compiler for which an example takes 1 GiB and a chip's own 2, that refuses more than `most` on a chip, and that
    can't print splash."""

    def compile_apart(request):
        mesh = dict(zip(("data", "fsdp", "tensor"), request.mesh, strict=True))
        kinds = {"frozen": 1.5 * GIB, "trainables": 0.2 * GIB, "optimizer": 0.3 * GIB, "batch": 0.0}
        found = plans.Program("TPU v5 lite", 4, mesh, None, kinds)
        rows = request.batch_size // 4
        if rows > most:
            return replace(found, refused="RESOURCE_EXHAUSTED")
        found = replace(found, compile_seconds=3.0, temporaries=rows * GIB, peak=(2 + rows) * GIB)
        if request.config[-1].endswith("splash"):
            return found
        return replace(found, collectives=(hlo.Collective("all-gather", ("fsdp",), 3, 2e9),))

    return compile_apart


SLICE = ["--config.model.decoder.attention=splash", "--topology", "v5e:2x2", "--mesh", "data=1,fsdp=4,tensor=1"]


def test_what_is_printed_and_written(tmp_path, monkeypatch, capsys):
    """The largest batch: 13 examples of 1 GiB fit into 15.75 beside 2, however many compile."""
    monkeypatch.setattr(compilers, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(plan, "compile_apart", fake_compile(40))
    file = tmp_path / "plan.json"
    assert plan.main([*CLEVR, *SLICE, "--batch", "8", "--largest_batch", "--json", str(file)]) == 0
    said, found = capsys.readouterr().out, json.loads(file.read_text())
    lines = [
        r"train on v5e:2x2 \(4 x TPU v5 lite\), mesh data=1,fsdp=4,tensor=1: batch 52 \(13 per chip\) of 1024",
        r"frozen +1\.500 GiB", r"trainables +0\.200 GiB", r"optimizer +0\.300 GiB", r"temporaries +13\.000 GiB",
        r"peak +15\.000 GiB", r"memory +15\.750 GiB", "read off the same program with attention=chunked and batch 4",
        r"all-gather +fsdp +3 times +2\.000 GB", r"model FLOPs per step: 1\.55\d+e\+15 useful, 2\.14\d*e\+15 exec",
        r"bound: step >= 2\.72 s, MFU <= 72\.8% \(compute 2\.72 s, memory \S+ s, links 0\.01 s\)",
        "limited by compute", "compiled in 3 s", r"largest batch that fits: 52 \(13 per device\)",
        r"fits: 15\.00 of 15\.75 GiB",
    ]  # fmt: skip
    for line in lines:
        assert re.search(line, said), (line, said)
    assert found["batch"] == 52 and found["fits"] and found["bound"]["limit"] == "compute"
    assert plan_table.row(found).startswith(
        "| v5e:2x2 | fsdp 4 | 52 (13) | 1.50 | 0.20 | 0.30 | 13.00 | 15.00 of 15.75 |"
    )


@pytest.mark.parametrize(("batch", "said"), [(60, "does not fit: 17.00 of"), (164, "does not fit: RESOURCE_EXHAUSTED")])
def test_what_does_not_fit_ends_with_1(batch, said, monkeypatch, capsys):
    monkeypatch.setattr(compilers, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(plan, "compile_apart", fake_compile(40))
    assert plan.main([*CLEVR, *SLICE, "--batch", str(batch)]) == 1
    assert said in capsys.readouterr().out


def plan_small(folder, *words):
    """What `igllm plan` writes of a very small model, 8 rows of 96 tokens."""
    config = [word for word in runs.arguments(folder, folder) if word.startswith("--config")]
    file = folder / "plan.json"
    assert plan.main([*config, *words, "--batch", "8", "--length", "96", "--json", str(file)]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize("what", ["train", pytest.param("decode", marks=pytest.mark.slow)])
def test_a_small_run_on_this_machine(what, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
    mesh = {"train": "data=2,fsdp=2,tensor=1", "decode": "data=2,fsdp=1,tensor=2"}[what]
    found = plan_small(tmp_path, "--topology", "local", "--what", what, "--mesh", mesh)
    assert found["num_devices"] == 4 and found["bound"] is None and found["fits"]
    assert found["peak"] > sum(found["arguments"].values()) > 0 and found["flops"]["useful"] > 0
    wanted = {"train": ("all-gather", ["fsdp"]), "decode": ("all-reduce", ["tensor"])}[what]
    assert wanted in [(one["kind"], one["axes"]) for one in found["collectives"]]
    assert f"{what} on local (4 x cpu)" in capsys.readouterr().out


def test_a_tpu_s_compiler_gets_no_flags_of_cpus_and_gpus():
    own = {"XLA_FLAGS": "--xla_cpu_a=1 --xla_dump_to=x --xla_gpu_b=2", "HOME": "h"}
    assert compilers.environment_for("local", own) == own
    found = compilers.environment_for("v5e:2x2", own)
    assert found == {**own, **compilers.TPU_ENVIRONMENT, "XLA_FLAGS": "--xla_dump_to=x"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu's compiler")
def test_a_small_decoder_on_a_tpu_slice(tmp_path, capsys):
    found = plan_small(tmp_path, "--topology", "v5e:2x2", "--what", "decode")
    assert found["mesh"] == {"data": 2, "fsdp": 1, "tensor": 2}  # as many as there are heads
    assert {("all-reduce", ("tensor",))} <= {(one["kind"], tuple(one["axes"])) for one in found["collectives"]}
    assert "trainables" not in found["arguments"] and found["bound"]["step"] > 0
    assert "answer of all tokens >=" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu's compiler")
def test_a_small_run_on_a_tpu_slice(tmp_path, capsys):
    found = plan_small(tmp_path, "--topology", "v5e-4", "--mesh", "data=2,fsdp=2")
    assert found["fits"] and found["topology"] == "v5e:2x2" and found["batch_per_chip"] == 2
    assert found["memory"] == 15.75 * 2**30 and found["peak"] < 2**30
    assert found["arguments"]["optimizer"] > 1.9 * found["arguments"]["trainables"] > 0
    assert {"all-gather"} <= {one["kind"] for one in found["collectives"] if one["axes"] == ["fsdp"]}
    assert found["bound"]["limit"] in ("compute", "memory", "links") and 0 < found["bound"]["mfu"] <= 1
    said = capsys.readouterr().out
    assert "fits: " in said and "bytes per chip" in said and "MFU <=" in said


def test_without_the_compiler_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(compilers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs libtpu's compiler: pip install libtpu"):
        plan.main([*CLEVR, "--topology", "v5e-16"])
