"""What a compiled program sends: groups of devices in every spelling, loops, and programs compiled here."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from igllm_jax.parallel.sharding import make_mesh
from igllm_jax.planning import hlo

TEXT = """HloModule jit_step, is_scheduled=true

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %kernel = f32[8]{0} custom-call(%x), custom_call_target="k", backend_config="{
}"
  %ag.1 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
  %rs = f32[4]{0} reduce-scatter(%y), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
}

%cond.1 (p: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%cond.1, body=%body.1
  %ar = (f32[6]{0}, /*index=1*/f32[2]{0}) all-reduce(%a, %b), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add
  %st = (bf16[4]{0}, bf16[8]{0}) all-gather-start(%c), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}
  %cp = f32[10]{0} collective-permute(%d), source_target_pairs={{0,1},{1,0}}
  %one = f32[10]{0} all-reduce(%d), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
}
"""


def test_collectives_by_kind_axis_and_loop():
    found = {(one.kind, one.axes): (one.count, one.bytes) for one in hlo.collectives(TEXT, {"data": 2, "fsdp": 4})}
    assert found == {
        ("all-gather", ("fsdp",)): (5, 5 * 256 * 3 / 4),
        ("reduce-scatter", ("data",)): (5, 5 * 16),
        ("all-reduce", ("data", "fsdp")): (1, 2 * 32 * 7 / 8),
        ("all-gather", ("data",)): (1, 16 / 2),
        ("collective-permute", ("fsdp",)): (1, 40),
    }


def test_what_crosses_from_one_host_to_others():
    """The data axis lies between two hosts of four: a host's members share what the group sends to the other."""
    found = hlo.collectives(TEXT, {"data": 2, "fsdp": 4}, [0, 0, 0, 0, 1, 1, 1, 1])
    between = {(one.kind, one.axes): one.network_bytes for one in found}
    assert between == {
        ("all-gather", ("fsdp",)): 0,
        ("reduce-scatter", ("data",)): 5 * 16,
        ("all-reduce", ("data", "fsdp")): 2 * (32 / 4) / 2,
        ("all-gather", ("data",)): 8,
        ("collective-permute", ("fsdp",)): 0,
    }


def test_what_slices_exchange_through_their_hosts():
    send = (
        "  %send.7 = (f32[3,8]{1,0:T(8,128)}, u32[], token[]) send(%p, %t), channel_id=2, is_host_transfer=true, "
        'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="ALL_REDUCE"}\n'
    )
    text = TEXT.replace("  %kernel", send + "  %kernel")
    found = {(one.kind, one.axes): one for one in hlo.collectives(text, {"data": 2, "fsdp": 4}, [0] * 4 + [1] * 4)}
    one = found["all-reduce", ("slices",)]
    assert (one.count, one.bytes, one.network_bytes) == (5, 5 * 96, 5 * 96)


def test_a_loop_that_goes_on_where_another_ended_is_a_piece_of_it():
    """Two that end at 5 and at 7; a third that ends at 9 begins anew, a fourth at 2."""

    def loop(name, condition, first):
        state = f"  %copy.{name} = s32[] copy(%{first})\n  %t.{name} = (s32[], f32[8]) tuple(%copy.{name}, %a)\n"
        return f"{state}  %{name} = (s32[], f32[8]) while(%t.{name}), condition=%cond.{condition}, body=%body.1\n"

    constants = "".join(f"  %c.{n} = s32[]{{:T(128)}} constant({n})\n" for n in (0, 2))
    reached = "  %reached = s32[] get-tuple-element(%w), index=0\n"
    loops = [loop("w", 1, "c.0"), reached, loop("x", 2, "reached"), loop("y", 3, "c.0"), loop("z", 3, "c.2")]
    condition = TEXT[TEXT.index("%cond.1") : TEXT.index("ENTRY")]
    others = "".join(
        condition.replace("cond.1", f"cond.{n}").replace("(5)", f"({bound})") for n, bound in ((2, 7), (3, 9))
    )
    only = "  %w = (s32[], f32[8]) while(%t), condition=%cond.1, body=%body.1\n"
    text = TEXT.replace("ENTRY", f"{others}ENTRY").replace(only, constants + "".join(loops))
    counts = {(one.kind, one.axes): one.count for one in hlo.collectives(text, {"data": 2, "fsdp": 4})}
    assert counts["reduce-scatter", ("data",)] == 5 + 2 + 9 + 7


def test_a_part_of_a_named_axis():
    assert hlo._named_group("'a'=2,'b'=4", "'b':(1)2") == [0, 2]
    assert hlo._named_group("'a'=2,'b'=4", "'a', 'b':(2)2") == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("mesh['x'=2,'y'=4] {'x'}", ("data",)),
        ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", ("fsdp",)),
        ("mesh['x'=1,'y'=4,'z'=2], device_ids=([2,4]T(1,0)) {'z'}", ("data",)),
        ("mesh['x'=4,'y'=2], device_ids=(0,4,1,5,2,6,3,7) {'x'}", ("fsdp",)),
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("[4,2]<=[2,4]T(1,0)", ("data",)),
        ("{}", ("data", "fsdp")),
    ],
)
def test_groups_of_devices_in_every_spelling(groups, axes):
    line = f"  %ag = f32[8]{{0}} all-gather(%x), channel_id=9, replica_groups={groups}, dimensions={{0}}"
    mesh = {"data": 2, "fsdp": 4}
    assert hlo._axes(hlo._group(line, mesh), mesh) == axes


def test_a_spelling_that_is_not_known_is_not_taken_for_all_devices():
    with pytest.raises(ValueError, match=r"not known here: replica_groups=tiles"):
        hlo._group("%ag = f32[8] all-gather(%x), replica_groups=tiles(2), dimensions={0}", {"data": 2, "fsdp": 4})


def test_collectives_of_a_program_compiled_here():
    mesh = make_mesh({"data": 1, "fsdp": 8, "tensor": 1}, jax.devices())
    rows, whole = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())

    def step(w, x):
        def body(x, w):
            w = jax.lax.with_sharding_constraint(w, whole)
            return jnp.tanh(x @ w), None

        return jax.lax.scan(body, x, w)[0]

    w = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=rows)
    text = jax.jit(step, out_shardings=rows).lower(w, x).compile().as_text()
    (one,) = hlo.collectives(text, dict(mesh.shape))
    assert (one.kind, one.axes, one.bytes) == ("all-gather", ("fsdp",), 3 * 64 * 64 * 4 * 7 / 8)
