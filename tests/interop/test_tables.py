"""The tables against complete lists of names and shapes at full size; nothing is allocated."""

from dataclasses import replace

import pytest

from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.interop import tables
from igllm_jax.interop.tables import kind_of
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import VLMConfig, skeleton

LAYERS, BLOCKS = range(32), range(23)


def full_size(**changes) -> VLMConfig:
    from configs import clevr

    config = configs.model_config(clevr.get_config())
    return replace(config, **changes)


def shapes_of(config: VLMConfig, *prefixes: str) -> dict[str, tuple[int, ...]]:
    shapes: Params = skeleton(config).shapes
    return {path: tuple(shape.shape) for path, shape in shapes.items() if path.startswith(prefixes)}


def names(source, shapes):
    """Name -> shape of everything that a file of this kind holds."""
    found = {}
    for name, (rule, layer) in source.names(shapes).items():
        ours = shapes[rule.ours] if layer is None else shapes[rule.ours][1:]
        found[name] = rule.layout.their_shape(ours)
    return found


def llama_names():
    """LLaMA-7B's 291 tensors (the rotary frequencies apart)."""
    width, mlp, vocab = 4096, 11008, 32000
    found = {
        "model.embed_tokens.weight": (vocab, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }
    for layer in LAYERS:
        place = f"model.layers.{layer}"
        found |= {f"{place}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        found |= {f"{place}.mlp.{part}_proj.weight": (mlp, width) for part in ("gate", "up")}
        found |= {f"{place}.mlp.down_proj.weight": (width, mlp)}
        found |= {f"{place}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return found


def clip_names():
    """The tensors of ViT-L/14-336 that the last block but one needs."""
    width, mlp = 1024, 4096
    found = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (577, width),
        "vision_model.pre_layrnorm.weight": (width,),
        "vision_model.pre_layrnorm.bias": (width,),
    }
    sizes = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    sizes |= {"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp), "layer_norm1": (width,), "layer_norm2": (width,)}
    for block in BLOCKS:
        for part, size in sizes.items():
            place = f"vision_model.encoder.layers.{block}.{part}"
            found |= {f"{place}.weight": size, f"{place}.bias": size[:1]}
    return found


def lora_names(rank=128):
    found = {}
    for name, (outputs, inputs) in llama_names_of_maps().items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        found |= {f"{place}.lora_A.weight": (rank, inputs), f"{place}.lora_B.weight": (outputs, rank)}
    return found


def llama_names_of_maps():
    return {name: shape for name, shape in llama_names().items() if "_proj" in name}


def test_the_config_is_vit_l_and_vicuna_7b():
    assert len(llama_names()) == 291
    shapes = skeleton(full_size()).shapes
    count = {path: shape.size for path, shape in shapes.items()}
    assert (
        sum(size for path, size in count.items() if path.startswith("decoder/") and "lora" not in path) == 6_738_415_616
    )
    assert sum(size for path, size in count.items() if "lora_" in path) == 319_815_680


@pytest.mark.parametrize(
    ("source", "prefixes", "expected"),
    [(tables.LLAMA, ("decoder/",), llama_names()), (tables.CLIP, ("vision/",), clip_names())],
)
def test_tables_name_every_tensor_at_full_size(source, prefixes, expected):
    shapes = {path: shape for path, shape in shapes_of(full_size(), *prefixes).items() if "lora_" not in path}
    assert names(source, shapes) == expected
    assert set(shapes) == source.paths()


def test_peft_names_every_tensor_at_full_size():
    shapes = {path: shape for path, shape in shapes_of(full_size(), "decoder/").items() if "lora_" in path}
    assert names(tables.peft("none", "none"), shapes) == lora_names()


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("head", ["none", "linear", "tanh_mlp_gelu"])
def test_what_trains_beside_lora_at_full_size(projector, head):
    shapes = shapes_of(full_size(projector=projector, head=head), "projector/", "float_head/")
    place, d = "base_model.model", 4096
    expected = {}
    first, second = ("mm_projector", None) if projector == "linear" else ("mm_projector.0", "mm_projector.2")
    for name, size in ((first, (d, 1024)), (second, (d, d))):
        if name:
            expected |= {f"{place}.model.{name}.weight": size, f"{place}.model.{name}.bias": size[:1]}
    maps = {"none": {}, "linear": {"": (1, d)}, "tanh_mlp_gelu": {".1": (d, d), ".3": (1, d)}}[head]
    for part, size in maps.items():
        expected |= {f"{place}.float_head{part}.weight": size, f"{place}.float_head{part}.bias": size[:1]}
    assert names(tables.non_lora(projector, head), shapes) == expected


def test_merged_llava_at_full_size():
    config = full_size(projector="mlp2x_gelu", head="none", lora=replace(full_size().lora, rank=0))
    shapes = shapes_of(config, "")
    projector = {"0": (4096, 1024), "2": (4096, 4096)}
    original = llama_names() | {f"model.vision_tower.vision_tower.{name}": size for name, size in clip_names().items()}
    hugging_face = {f"vision_tower.{name}": size for name, size in clip_names().items()}
    hugging_face |= {f"language_model.{name}": size for name, size in llama_names().items()}
    for part, size in projector.items():
        original |= {f"model.mm_projector.{part}.weight": size, f"model.mm_projector.{part}.bias": size[:1]}
        linear = f"multi_modal_projector.linear_{int(part) // 2 + 1}"
        hugging_face |= {f"{linear}.weight": size, f"{linear}.bias": size[:1]}
    assert names(tables.llava("mlp2x_gelu", "none"), shapes) == original
    assert names(tables.llava_hf("mlp2x_gelu"), shapes) == hugging_face


@pytest.mark.parametrize(
    ("part", "found", "kind"),
    [
        ("mm_projector", ["model.mm_projector.weight", "model.mm_projector.bias"], "linear"),
        ("mm_projector", ["mm_projector.0.weight", "mm_projector.2.weight"], "mlp2x_gelu"),
        ("mm_projector", ["x.mm_projector.modules_to_save.default.weight"], "linear"),
        ("mm_projector",
         ["mm_projector.modules_to_save.0.weight", "mm_projector.modules_to_save.2.weight"], "mlp2x_gelu"),
        ("float_head", ["base_model.model.float_head.1.weight", "float_head.3.weight"], "tanh_mlp_gelu"),
        ("float_head", ["float_head.weight"], "linear"),
        ("float_head", ["float_head.0.weight"], "linear"),
        ("float_head", ["float_head.modules_to_save.default.1.weight", "float_head.original_module.3.weight",
                        "float_head.modules_to_save.default.3.weight"], "tanh_mlp_gelu"),
        ("float_head", ["model.mm_projector.weight"], "none"),
    ],
)  # fmt: skip
def test_kinds_are_read_from_names(part, found, kind):
    assert kind_of(found, part, "x") == kind


def test_a_kind_that_is_not_known_is_an_error():
    with pytest.raises(
        UserError, match=r"here: mm_projector has the maps \['0', '2', '4'\]; only linear and mlp2x_gelu"
    ):
        kind_of(["mm_projector.0.weight", "mm_projector.2.weight", "mm_projector.4.weight"], "mm_projector", "here")
