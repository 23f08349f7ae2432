"""Every layout on eight fake devices trains and writes as one device does."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from igllm_jax.decoding.answers import decode_layout, decode_shardings
from igllm_jax.decoding.decode import make_decode, prepare
from igllm_jax.decoding.decode_options import DecodeOptions
from igllm_jax.errors import UserError
from igllm_jax.models.params import nest
from igllm_jax.models.vlm import skeleton
from igllm_jax.parallel.sharding import LAYOUTS, MeshLayout, _over_slices, make_mesh
from igllm_jax.training import optim
from igllm_jax.training.options import LossOptions
from igllm_jax.training.state import initial_state
from igllm_jax.training.step import jit_step, make_train_step
from igllm_jax.weights.run_model import shard_like
from tests import families, small

STEPS = 20
OPTIONS = optim.OptimOptions(
    trainable="lora", learning_rates=(("lora", 0.01), ("projector", 0.01), ("float_head", 0.02), ("base", 0.01)),
    warmup=0.1, num_steps=STEPS, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0, accumulate=1,
)  # fmt: skip
LOSS = LossOptions(float_weight=1.0, chunk=8, seed=0)
MESHES = [
    ("replicated", 8, 1, 1), ("replicated", 2, 2, 2),
    ("train", 1, 8, 1), ("train", 2, 4, 1), ("train", 2, 2, 2), ("train", 1, 2, 4),
    ("decode", 8, 1, 1), ("decode", 2, 1, 4),
]  # fmt: skip
TRAINS, DECODES = ("train", 2, 2, 2), ("decode", 2, 1, 4)  # every axis sharded
OFTEN = 28  # a token that the model with everything writes again and again
SLOW = pytest.mark.slow


def cases(quick):
    """Quickly all that families have of their own in one model, on one mesh; slowly on each, and each of the families
    where every axis is sharded."""
    every = [pytest.param("all", mesh, marks=() if mesh == quick else SLOW) for mesh in MESHES]
    names = [families.name_of(triple) for triple in families.TRIPLES]
    return every + [pytest.param(name, mesh, marks=SLOW) for name in names for mesh in (TRAINS, DECODES)]


@cache
def model(family="all"):
    """A small model in sizes that eight devices can share, a family's or with all that families have of their own."""
    triple = next((triple for triple in families.TRIPLES if families.name_of(triple) == family), None)
    flags = {**families.GEMMA3, "attention_softcap": 3.0, "qkv_bias": True, "nope_every": 2}
    flags["rope_scaling"] = (8.0, 1.0, 4.0, 17.0)
    flags = families.DECODERS[triple[0]] if triple else {**flags, "tie_embeddings": False}
    config = small.model(remat="full", layers=2, **flags)
    vision = replace(config.vision, width=32, mlp_width=24, num_layers=2, feature_layer=-2)
    second = replace(vision, **small.SECOND | {"width": 16}) if not triple or triple[2] else None
    vision = replace(vision, **families.TOWERS[triple[1] if triple else "dinov2_registers"])
    decoder = replace(config.decoder, vocab_size=56, width=48, num_kv_heads=4, head_dim=8, mlp_width=40)
    lora = replace(config.lora, rank=4)
    return replace(config, vision=vision, second_vision=second, decoder=decoder, lora=lora)


def layout_of(name, data, fsdp, tensor):
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    return MeshLayout.of(name, make_mesh(sizes, jax.devices()[: data * fsdp * tensor]))


def losses(layout, family):
    """Losses of STEPS steps; weights, state and batches live where the layout says."""
    model_skeleton, values = skeleton(model(family)), small.params(model(family))
    shardings = layout.params(model_skeleton.shapes, model_skeleton.axes)
    params = {path: jax.device_put(np.asarray(values[path]), shardings[path]) for path in values}
    trains = optim.trainable_paths(params, OPTIONS.trainable)
    trainable = nest({path: params[path] for path in sorted(trains)})
    state = initial_state(trainable, OPTIONS)
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, shard_like(state, trainable, layout)))
    frozen = {path: params[path] for path in params if path not in trains}
    step = jit_step(make_train_step(model_skeleton, small.LAYOUT, OPTIONS, LOSS, layout), state)
    found = []
    for number in range(STEPS):
        batch = jax.tree.map(np.asarray, small.batch(seed=number % 3))
        state, metrics = step(state, frozen, layout.shard(batch, 8))
        found.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    return found


@cache
def losses_alone(family):
    return losses(layout_of("train", 1, 1, 1), family)


def test_every_layout_is_tried():
    assert {name for name, *_ in MESHES} == set(LAYOUTS)


@pytest.mark.parametrize(("family", "mesh"), cases(TRAINS), ids=str)
def test_a_layout_trains_as_one_device_does(family, mesh):
    alone = losses_alone(family)
    assert alone[-1] < 0.98 * alone[0]
    np.testing.assert_allclose(losses(layout_of(*mesh), family), alone, rtol=1e-5)


def written(layout, family, num_drafts=0):
    options = DecodeOptions(
        before=(11, 12), after=(13, 14), max_new_tokens=9, end_id=small.END_ID, number_id=OFTEN,
        vocab_size=53, forbidden=((9, 10),), num_drafts=num_drafts,
    )  # fmt: skip
    config = model(family)
    values = {path: np.asarray(value) for path, value in small.params(config).items()}
    images = np.asarray(small.batch(seed=5).images)
    is_used = np.arange(8) < 7
    # a run that evaluates finds its own way to decode on its mesh; `igllm generate` decodes where it is told to
    own = layout if layout.rules is LAYOUTS["decode"] else decode_layout(config, layout)
    prepared = jax.jit(partial(prepare, config=config), out_shardings=decode_shardings(config, own))(values)
    decode = jax.jit(make_decode(config, options, own), out_shardings=own.replicated())
    found = decode(prepared, *own.shard((images, is_used), 8))
    if num_drafts:  # now guesses are right, more often than not
        found = decode(prepared, *own.shard((images, is_used), 8), found.table)
    return jax.tree.map(np.asarray, found)


@cache
def written_alone(family):
    return written(layout_of("train", 1, 1, 1), family)


@pytest.mark.parametrize(("family", "mesh"), cases(DECODES), ids=str)
def test_a_layout_writes_what_one_device_writes(family, mesh):
    """With guesses, and as without them."""
    alone, found = written_alone(family), written(layout_of(*mesh), family, num_drafts=2)
    assert len({tuple(row) for row in alone.tokens[:7].tolist()}) > 1
    assert family != "all" or np.count_nonzero(alone.numbers) > 1
    np.testing.assert_array_equal(found.tokens, alone.tokens)
    np.testing.assert_array_equal(found.lengths, alone.lengths)
    assert found.num_steps < alone.num_steps
    np.testing.assert_allclose(found.numbers, alone.numbers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_moments_live_where_their_parameters_do(trainable):
    layout = layout_of("train", 1, 4, 2)
    model_skeleton = skeleton(model())
    shardings = layout.params(model_skeleton.shapes, model_skeleton.axes)
    trains = optim.trainable_paths(model_skeleton.shapes, trainable)
    params = {
        p: jax.ShapeDtypeStruct(model_skeleton.shapes[p].shape, np.float32, sharding=shardings[p]) for p in trains
    }
    options = replace(OPTIONS, trainable=trainable)
    shapes = jax.eval_shape(lambda values: initial_state(values, options), nest(params))
    found = jax.tree_util.tree_leaves_with_path(shard_like(shapes, nest(params), layout).optimizer)
    moments = {"mu": {}, "nu": {}}
    for path, leaf in found:
        names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
        for kind in moments:
            if kind in names:
                moments[kind]["/".join(names[names.index(kind) + 1 :])] = leaf.sharding
    wanted = {path: shardings[path] for path in trains}
    assert moments == {"mu": wanted, "nu": wanted}
    assert any(not sharding.is_fully_replicated for sharding in wanted.values())


def test_decoding_cuts_weights_over_as_many_devices_as_divide_them():
    wide = replace(model(), vision=replace(model().vision, num_heads=4), second_vision=None)
    shapes = {mesh: decode_layout(wide, layout_of("train", *mesh)).mesh.shape for mesh in [(1, 8, 1), (4, 2, 1)]}
    assert dict(shapes[1, 8, 1]) == {"data": 2, "fsdp": 1, "tensor": 4}  # 4 heads
    assert dict(shapes[4, 2, 1]) == {"data": 4, "fsdp": 1, "tensor": 2}


def test_what_can_t_be_cut_names_parameter_axis_and_sizes():
    model_skeleton = skeleton(small.model())
    with pytest.raises(
        UserError, match=r"lora_a: axis 'lora_embed' of size 26 can't be sharded in 8 .*change mesh\.fsdp"
    ):
        shapes = {path: shape for path, shape in model_skeleton.shapes.items() if path.endswith("layers/q/lora_a")}
        layout_of("train", 1, 8, 1).params(shapes, model_skeleton.axes)
    with pytest.raises(UserError, match="batch_size: axis 'batch' of size 12 can't be sharded in 8"):
        layout_of("train", 2, 4, 1).rows(12)
    with pytest.raises(UserError, match=r"mesh\.data=3.* need 3 devices in a whole split, but there are 8"):
        make_mesh({"data": 3, "fsdp": 1, "tensor": 1}, jax.devices())
    with pytest.raises(UserError, match=r"mesh\.fsdp=-1, mesh\.tensor=3: -1 stands for 8 devices over 3, which is no"):
        make_mesh({"data": 1, "fsdp": -1, "tensor": 3}, jax.devices())
    assert make_mesh({"data": 2, "fsdp": -1, "tensor": 2}, jax.devices()).shape["fsdp"] == 2
    with pytest.raises(UserError, match="at most one is -1"):
        make_mesh({"data": -1, "fsdp": -1, "tensor": 1}, jax.devices())
    with pytest.raises(UserError, match="choose one of"):
        layout_of("zigzag", 1, 1, 1)


def sliced(slices):
    """Eight devices as a program of several slices sees them, two of each slice after another."""
    return [
        SimpleNamespace(id=i, platform="cpu", device_kind="cpu", process_index=0, slice_index=i // 2 % slices)
        for i in range(8)
    ]


def test_only_data_lies_between_slices():
    found = _over_slices((4, 2, 1), sliced(2), 2)
    assert [[device.slice_index for device in row.flat] for row in found] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert sorted(device.id for device in found.flat) == list(range(8))


@pytest.mark.parametrize(
    ("sizes", "slices", "match"),
    [
        ((1, 8, 1), 2, r"mesh\.data=1 must be a multiple of mesh\.slices=2"),
        ((4, 2, 1), 4, r"mesh\.slices=4: expected 4 parts of equal size, but there are 2 slices with \[4, 4\] devices"),
    ],
)
def test_slices_that_are_not_there(sizes, slices, match):
    with pytest.raises(UserError, match=match):
        _over_slices(sizes, sliced(2), slices)
    with pytest.raises(UserError, match=r"expected 2 parts of equal size, but there are 1 processes"):
        make_mesh({"data": 8, "fsdp": 1, "tensor": 1}, jax.devices()[:8], slices=2)
