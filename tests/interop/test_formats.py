"""The tables against complete lists of names and shapes at full size; nothing is allocated."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax.errors import UserError
from igllm_jax.interop import formats as tables
from igllm_jax.interop.files import TensorInfo, Weights
from igllm_jax.interop.formats import kind_of
from igllm_jax.interop.rules import match_tensors
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
        prefix = f"model.layers.{layer}"
        found |= {f"{prefix}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        found |= {f"{prefix}.mlp.{part}_proj.weight": (mlp, width) for part in ("gate", "up")}
        found |= {f"{prefix}.mlp.down_proj.weight": (width, mlp)}
        found |= {f"{prefix}.{norm}.weight": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
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
            prefix = f"vision_model.encoder.layers.{block}.{part}"
            found |= {f"{prefix}.weight": size, f"{prefix}.bias": size[:1]}
    return found


def lora_names(rank=128):
    found = {}
    for name, (outputs, inputs) in llama_names_of_maps().items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        found |= {f"{prefix}.lora_A.weight": (rank, inputs), f"{prefix}.lora_B.weight": (outputs, rank)}
    return found


def llama_names_of_maps():
    return {name: shape for name, shape in llama_names().items() if "_proj" in name}


@pytest.mark.parametrize("name", ["clevr", "twod", "so3", "sixdof", "shapenet"])
def test_every_tasks_config_is_the_same_full_size_model(name):
    module = importlib.import_module(f"configs.{name}")
    assert configs.model_config(configs.check(module.get_config())) == full_size()


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
    assert set(shapes) <= source.paths()


def test_peft_names_every_tensor_at_full_size():
    shapes = {path: shape for path, shape in shapes_of(full_size(), "decoder/").items() if "lora_" in path}
    assert names(tables.peft("none", "none"), shapes) == lora_names()


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("head", ["none", "linear", "tanh_mlp_gelu"])
def test_what_trains_beside_lora_at_full_size(projector, head):
    shapes = shapes_of(full_size(projector=projector, head=head), "projector/", "float_head/")
    prefix, d = "base_model.model", 4096
    expected = {}
    first, second = ("mm_projector", None) if projector == "linear" else ("mm_projector.0", "mm_projector.2")
    for name, size in ((first, (d, 1024)), (second, (d, d))):
        if name:
            expected |= {f"{prefix}.model.{name}.weight": size, f"{prefix}.model.{name}.bias": size[:1]}
    maps = {"none": {}, "linear": {"": (1, d)}, "tanh_mlp_gelu": {".1": (d, d), ".3": (1, d)}}[head]
    for part, size in maps.items():
        expected |= {f"{prefix}.float_head{part}.weight": size, f"{prefix}.float_head{part}.bias": size[:1]}
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


# files as they are, with everything that the model does not need


def clip_file(prefix="vision_model."):
    """All 24 blocks and what stands around them in a CLIPVisionModel of ViT-L/14-336."""
    found = {name.replace("vision_model.", prefix, 1): shape for name, shape in clip_names().items()}
    last = {name: shape for name, shape in found.items() if ".layers.22." in name}
    found |= {name.replace(".layers.22.", ".layers.23."): shape for name, shape in last.items()}
    found |= {f"{prefix}post_layernorm.{part}": (1024,) for part in ("weight", "bias")}
    return found | {f"{prefix}embeddings.position_ids": (1, 577)}


def text_tower():
    """The other half of a CLIPModel."""
    width, mlp, found = 768, 3072, {"logit_scale": (), "text_projection.weight": (768, 768)}
    sizes = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    sizes |= {"mlp.fc1": (mlp, width), "mlp.fc2": (width, mlp), "layer_norm1": (width,), "layer_norm2": (width,)}
    for layer in range(12):
        for part, size in sizes.items():
            prefix = f"text_model.encoder.layers.{layer}.{part}"
            found |= {f"{prefix}.weight": size, f"{prefix}.bias": size[:1]}
    found |= {f"text_model.final_layer_norm.{part}": (width,) for part in ("weight", "bias")}
    found |= {"text_model.embeddings.token_embedding.weight": (49408, width), "visual_projection.weight": (768, 1024)}
    found |= {"text_model.embeddings.position_embedding.weight": (77, width)}
    return found | {"text_model.embeddings.position_ids": (1, 77)}


def llava_hf_file(prefixes, vocab=32064):
    """LLaVA 1.5 7B; prefixes: of the tower, the decoder, its head and the projector."""
    tower, decoder, head, projector = prefixes
    found = clip_file(f"{tower}vision_model.")
    for name, shape in llama_names().items():
        size = (vocab, 4096) if shape[0] == 32000 else shape
        found[f"{head}{name}" if name.startswith("lm_head") else name.replace("model.", decoder, 1)] = size
    for part, size in {"linear_1": (4096, 1024), "linear_2": (4096, 4096)}.items():
        found |= {f"{projector}{part}.weight": size, f"{projector}{part}.bias": size[:1]}
    return found


ROTARY = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": (64,) for layer in LAYERS}
IN_2023 = ("vision_tower.", "language_model.model.", "language_model.", "multi_modal_projector.")
IN_2025 = ("model.vision_tower.", "model.language_model.", "", "model.multi_modal_projector.")
BLOCK, POST, NUMBERS = tables.LATER_BLOCK, "vision post-layernorm, which the features skip", "position numbers"
TOWER_LEFT_OUT = {BLOCK: 16, POST: 2, NUMBERS: 1}


def as_in_a_file(named):
    """Weights without a file: all that matching reads."""
    dtypes = {name: np.dtype(np.int64 if "position_ids" in name else np.float16) for name in named}
    return Weights(Path("x"), {name: TensorInfo(shape, dtypes[name], Path("x")) for name, shape in named.items()}, {})


@pytest.mark.parametrize(
    ("source", "prefixes", "named", "left_out"),
    [
        (tables.CLIP, ("vision/",), clip_file(), TOWER_LEFT_OUT),
        (tables.CLIP, ("vision/",), clip_file(""), TOWER_LEFT_OUT),
        (tables.CLIP, ("vision/",), clip_file() | text_tower(),
         {BLOCK: 16, POST: 2, NUMBERS: 2, "text tower and its projections": 199}),
        (tables.LLAMA, ("decoder/",), llama_names() | ROTARY, {"rotary frequencies, which follow from the config": 32}),
        (tables.llava("mlp2x_gelu", "none"), ("vision/", "decoder/", "projector/"),
         llama_names() | clip_file("model.vision_tower.vision_tower.vision_model.")
         | {f"model.mm_projector.{name}": size for name, size in
            {"0.weight": (4096, 1024), "0.bias": (4096,), "2.weight": (4096, 4096), "2.bias": (4096,)}.items()},
         TOWER_LEFT_OUT),
        (tables.llava_hf("mlp2x_gelu"), ("vision/", "decoder/", "projector/"), llava_hf_file(IN_2023), TOWER_LEFT_OUT),
        (tables.llava_hf("mlp2x_gelu"), ("vision/", "decoder/", "projector/"), llava_hf_file(IN_2025), TOWER_LEFT_OUT),
    ],
    ids=["clip vision", "clip vision of 2025", "clip", "llama", "llava", "llava-hf of 2023", "llava-hf of 2025"],
)  # fmt: skip
def test_whole_files_at_full_size_find_their_place(source, prefixes, named, left_out):
    config = full_size(projector="mlp2x_gelu", head="none", lora=replace(full_size().lora, rank=0))
    vocab = next(shape[0] for name, shape in named.items() if "embed_tokens" in name) if "decoder/" in prefixes else 1
    config = replace(config, decoder=replace(config.decoder, vocab_size=vocab))
    shapes = shapes_of(config, *prefixes)
    tensors, found = match_tensors(source, as_in_a_file(named), shapes)
    wanted_tensors = {(path, layer) for path, shape in shapes.items() for layer in layers_of(path, shape)}
    assert {(tensor.path, tensor.layer) for tensor in tensors} == wanted_tensors and len(tensors) == len(wanted_tensors)
    assert found == left_out and len(tensors) + sum(found.values()) == len(named)


def layers_of(path, shape):
    return range(shape[0]) if "/blocks/" in path or "/layers/" in path else (None,)


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
        UserError, match=r"here: mm_projector has the projections \['0', '2', '4'\]; only linear and mlp2x_gelu"
    ):
        kind_of(["mm_projector.0.weight", "mm_projector.2.weight", "mm_projector.4.weight"], "mm_projector", "here")
