"""The weight tables: one per kind of file, our path for every name, read when importing and when exporting.

Names as in the released files of Hugging Face (CLIP, LLaMA, Mistral, Qwen, LLaVA), LLaVA, PEFT and the reference; all
our kernels are [in, out], theirs [out, in].
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from igllm_jax.errors import UserError
from igllm_jax.interop import hf_vision
from igllm_jax.interop.rules import PATCHES, SAME, TRANSPOSED, UNDER_ONE, UNDER_ONE_ROW, Rule, RuleGroup, WeightFormat

FLOAT_HEAD_FILE = "float_head.safetensors"  # beside an exported LlavaForConditionalGeneration

# ---- parts -----------------------------------------------------------------------------------------------------------

LATER_BLOCK = "vision block after the one that gives the features"


def _linear(theirs: str, ours: str, surplus: str = "") -> tuple[Rule, Rule]:
    return (
        Rule(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED, surplus),
        Rule(f"{theirs}.bias", f"{ours}/bias", SAME, surplus),
    )


def _norm(theirs: str, ours: str, surplus: str = "") -> tuple[Rule, Rule]:
    return (
        Rule(f"{theirs}.weight", f"{ours}/scale", SAME, surplus),
        Rule(f"{theirs}.bias", f"{ours}/bias", SAME, surplus),
    )


CLIP_VISION = (
    Rule("embeddings.class_embedding", "vision/class_embedding", SAME),
    Rule("embeddings.patch_embedding.weight", "vision/patch_embedding/kernel", PATCHES),
    Rule("embeddings.position_embedding.weight", "vision/position_embedding", SAME),
    Rule("embeddings.patch_embedding.bias", "vision/patch_embedding/bias", SAME),  # SigLIP's
    *_norm("pre_layrnorm", "vision/pre_norm"),  # spelt so in the released files
    *_norm("encoder.layers.{layer}.layer_norm1", "vision/blocks/norm1", LATER_BLOCK),
    *_linear("encoder.layers.{layer}.self_attn.q_proj", "vision/blocks/q", LATER_BLOCK),
    *_linear("encoder.layers.{layer}.self_attn.k_proj", "vision/blocks/k", LATER_BLOCK),
    *_linear("encoder.layers.{layer}.self_attn.v_proj", "vision/blocks/v", LATER_BLOCK),
    *_linear("encoder.layers.{layer}.self_attn.out_proj", "vision/blocks/out", LATER_BLOCK),
    *_norm("encoder.layers.{layer}.layer_norm2", "vision/blocks/norm2", LATER_BLOCK),
    *_linear("encoder.layers.{layer}.mlp.fc1", "vision/blocks/fc1", LATER_BLOCK),
    *_linear("encoder.layers.{layer}.mlp.fc2", "vision/blocks/fc2", LATER_BLOCK),
)

DINOV2_VISION: tuple[Rule, ...] = (
    Rule("embeddings.cls_token", "vision/class_embedding", UNDER_ONE_ROW),
    Rule("embeddings.register_tokens", "vision/register_embedding", UNDER_ONE),
    Rule("embeddings.patch_embeddings.projection.weight", "vision/patch_embedding/kernel", PATCHES),
    Rule("embeddings.patch_embeddings.projection.bias", "vision/patch_embedding/bias", SAME),
    Rule("embeddings.position_embeddings", "vision/position_embedding", UNDER_ONE),
    *_norm("encoder.layer.{layer}.norm1", "vision/blocks/norm1", LATER_BLOCK),
    *_linear("encoder.layer.{layer}.attention.attention.query", "vision/blocks/q", LATER_BLOCK),
    *_linear("encoder.layer.{layer}.attention.attention.key", "vision/blocks/k", LATER_BLOCK),
    *_linear("encoder.layer.{layer}.attention.attention.value", "vision/blocks/v", LATER_BLOCK),
    *_linear("encoder.layer.{layer}.attention.output.dense", "vision/blocks/out", LATER_BLOCK),
    Rule("encoder.layer.{layer}.layer_scale1.lambda1", "vision/blocks/scale1", SAME, LATER_BLOCK),
    *_norm("encoder.layer.{layer}.norm2", "vision/blocks/norm2", LATER_BLOCK),
    *_linear("encoder.layer.{layer}.mlp.fc1", "vision/blocks/fc1", LATER_BLOCK),
    *_linear("encoder.layer.{layer}.mlp.fc2", "vision/blocks/fc2", LATER_BLOCK),
    Rule("encoder.layer.{layer}.layer_scale2.lambda1", "vision/blocks/scale2", SAME, LATER_BLOCK),
)

# As transformers 5 names the attention in memory.
DINOV2_VISION += tuple(
    replace(rule, is_written=False)
    for theirs, ours in {"q": "q", "k": "k", "v": "v", "o": "out"}.items()
    for rule in _linear(f"encoder.layer.{{layer}}.attention.{theirs}_proj", f"vision/blocks/{ours}", LATER_BLOCK)
)

# Their name of each projection of a decoder layer -> ours; LoRA sits on all of them.
DECODER_PROJECTIONS = {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down",
}  # fmt: skip

DECODER = (
    Rule("embed_tokens.weight", "decoder/embedding", SAME),
    *(
        Rule(f"layers.{{layer}}.{theirs}.weight", f"decoder/layers/{ours}/kernel", TRANSPOSED)
        for theirs, ours in DECODER_PROJECTIONS.items()
    ),
    *(Rule(f"layers.{{layer}}.self_attn.{name}_proj.bias", f"decoder/layers/{name}/bias", SAME) for name in "qkv"),
    *(
        Rule(f"layers.{{layer}}.self_attn.{name}_norm.weight", f"decoder/layers/{name}_norm/scale", SAME)
        for name in "qk"
    ),
    Rule("layers.{layer}.input_layernorm.weight", "decoder/layers/attention_norm/scale", SAME),
    Rule("norm.weight", "decoder/final_norm/scale", SAME),
)
# Gemma's name of the norm after attention is LLaMA's of the one before the MLP.
LLAMA_NORMS = (Rule("layers.{layer}.post_attention_layernorm.weight", "decoder/layers/mlp_norm/scale", SAME),)
GEMMA_NORMS = (
    Rule("layers.{layer}.post_attention_layernorm.weight", "decoder/layers/attention_post_norm/scale", SAME),
    Rule("layers.{layer}.pre_feedforward_layernorm.weight", "decoder/layers/mlp_norm/scale", SAME),
    Rule("layers.{layer}.post_feedforward_layernorm.weight", "decoder/layers/mlp_post_norm/scale", SAME),
)
TIED_HEAD = "head that is tied to the embedding"
HEAD = (Rule("lm_head.weight", "decoder/head/kernel", TRANSPOSED, TIED_HEAD),)
LORA = tuple(
    Rule(
        f"layers.{{layer}}.{theirs}.lora_{side}{{adapter}}.weight",
        f"decoder/layers/{ours}/lora_{side.lower()}",
        TRANSPOSED,
    )
    for theirs, ours in DECODER_PROJECTIONS.items()
    for side in "AB"
)

# Rows of an added token, by PEFT's trainable_token_indices.
ROW_OF_EMBEDDING = Rule("embed_tokens.token_adapter.trainable_tokens_delta", "decoder/number_row/embedding", UNDER_ONE)
ROW_OF_HEAD = Rule("lm_head.token_adapter.trainable_tokens_delta", "decoder/number_row/head", UNDER_ONE)

PROJECTORS: Mapping[str, tuple[Rule, ...]] = {
    "none": (),
    "linear": _linear("mm_projector{wrap}{zero}", "projector/linear1"),
    "mlp2x_gelu": (
        *_linear("mm_projector{wrap}.0", "projector/linear1"),
        *_linear("mm_projector{wrap}.2", "projector/linear2"),
    ),
}
FLOAT_HEADS: Mapping[str, tuple[Rule, ...]] = {
    "none": (),
    "linear": _linear("float_head{wrap}{zero}", "float_head/out"),
    "tanh_mlp_gelu": (
        *_linear("float_head{wrap}.1", "float_head/hidden"),
        *_linear("float_head{wrap}.3", "float_head/out"),
    ),
}
HF_PROJECTORS: Mapping[str, tuple[Rule, ...]] = {
    "none": (),
    "linear": _linear("multi_modal_projector{wrap}.linear_1", "projector/linear1"),
    "mlp2x_gelu": (
        *_linear("multi_modal_projector{wrap}.linear_1", "projector/linear1"),
        *_linear("multi_modal_projector{wrap}.linear_2", "projector/linear2"),
    ),
}

ROTARY = {r".*\.rotary_emb\.inv_freq": "rotary frequencies, which follow from the config"}
VISION_UNUSED = {
    r".*post_layernorm\.(weight|bias)": "vision post-layernorm, which the features skip",
    r".*embeddings\.position_ids": "position numbers",
}
TEXT_TOWER = {
    r"(text_model|text_projection|visual_projection)\..*|logit_(scale|bias)": "text tower and its projections"
}
POOLING = {r"(.*\.)?(vision_model\.|vision_tower\.|^)head\..*": "head that pools the features"}
DINOV2_UNUSED = {
    r"(.*\.)?layernorm\.(weight|bias)": "vision layer norm, which the features skip",
    r".*embeddings\.mask_token": "token of masked patches",
}
ITS_OWN_TOWER = {
    r"(model\.)?(vision_tower|multi_modal_projector)\..*": "image tower and projector that the decoder has"
}
NEWLINE = {r"(model\.)?image_newline": "LLaVA-OneVision's newline, which ends rows of tiles"}
LLAVA_UNUSED = VISION_UNUSED | POOLING | NEWLINE
ORIGINAL_MODULE = {r".*\.original_module\..*": "PEFT's copy of a module before training"}

# ---- one table per kind of file --------------------------------------------------------------------------------------

_dinov2 = WeightFormat("DINOv2 tower", (RuleGroup(DINOV2_VISION, r"(?:dinov2(?:_with_registers)?\.)?"),), DINOV2_UNUSED)
_clip_vision = (RuleGroup(CLIP_VISION, r"(?:vision_model\.)?", "vision_model."),)
CLIP = WeightFormat("CLIP vision tower", _clip_vision, VISION_UNUSED | TEXT_TOWER)
TOWERS: dict[str, WeightFormat] = {
    hf_vision.CLIP: CLIP,
    hf_vision.SIGLIP: WeightFormat("SigLIP vision tower", _clip_vision, VISION_UNUSED | TEXT_TOWER | POOLING),
    hf_vision.DINOV2: _dinov2,
    hf_vision.DINOV2_REGISTERS: _dinov2,
}


def _decoder(post_norms: bool) -> tuple[Rule, ...]:
    return DECODER + (GEMMA_NORMS if post_norms else LLAMA_NORMS)


def decoder(post_norms: bool) -> WeightFormat:
    """A decoder of its own, or with the image tower that Gemma 3 has. post_norms: see DecoderConfig."""
    inside = r"(?:model\.(?:language_model\.)?|language_model\.model\.)"
    groups = (RuleGroup(_decoder(post_norms), inside, "model."), RuleGroup(HEAD, r"(?:language_model\.)?"))
    return WeightFormat("decoder", groups, ROTARY | ITS_OWN_TOWER)


LLAMA = decoder(post_norms=False)


def tower(kind: str, part: str = "vision") -> WeightFormat:
    """An image tower of its own. kind: a key of TOWERS. part: where it goes, "vision" or "second_vision"."""
    found = TOWERS[kind]
    groups = tuple(
        replace(group, rules=tuple(replace(r, ours=r.ours.replace("vision/", f"{part}/", 1)) for r in group.rules))
        for group in found.groups
    )
    return replace(found, groups=groups)


def peft(projector: str, head: str, *, in_llava: bool = False) -> WeightFormat:
    """PEFT's adapter file; projector and float head stand in it where `modules_to_save` named them ("none": not).

    in_llava: of a LlavaForConditionalGeneration, where the decoder is its language_model.
    """
    written = "base_model.model.model." + ("language_model." if in_llava else "")
    under = r"(?:base_model\.)?(?:model\.)*(?:language_model\.)?(?:model\.)?"
    lora = RuleGroup((*LORA, ROW_OF_EMBEDDING), under, written)
    row_of_head = RuleGroup((ROW_OF_HEAD,), under, "base_model.model.")
    hf_projector = RuleGroup(HF_PROJECTORS[projector], r"(?:base_model\.)?(?:model\.)*", "base_model.model.model.")
    beside, float_head = _beside_lora(projector, head)
    groups = (lora, row_of_head, hf_projector if in_llava else beside, float_head)
    return WeightFormat("PEFT adapter", groups, ORIGINAL_MODULE)


def llava(projector: str, head: str, *, post_norms: bool = False) -> WeightFormat:
    """A merged checkpoint of the LLaVA repository (`llava_llama`), a float head in it where the reference left one."""
    tower = r"model\.vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?"
    groups = (
        RuleGroup(_decoder(post_norms), r"model\.", "model."),
        RuleGroup(HEAD),
        RuleGroup(_projector(PROJECTORS, projector), r"model\.", "model."),
        RuleGroup(_float_head(head), r"(?:model\.)?"),
        RuleGroup(CLIP_VISION, tower, "model.vision_tower.vision_tower.vision_model."),
    )
    return WeightFormat("LLaVA checkpoint", groups, ROTARY | VISION_UNUSED)


def llava_hf(projector: str, tower: str = hf_vision.CLIP, *, post_norms: bool = False) -> WeightFormat:
    """Hugging Face's LlavaForConditionalGeneration and LLaVA-OneVision, names as of 2023 and as of 2025. tower: a key
    of TOWERS."""
    is_dinov2 = TOWERS[tower] is _dinov2
    vision = RuleGroup(CLIP_VISION, r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision_tower.vision_model.")
    if is_dinov2:
        vision = RuleGroup(DINOV2_VISION, r"(?:model\.)?vision_tower\.", "vision_tower.")
    groups = (
        vision,
        RuleGroup(_decoder(post_norms), r"(?:language_model\.model|model\.language_model)\.", "language_model.model."),
        RuleGroup(HEAD, r"(?:language_model\.)?", "language_model."),
        RuleGroup(_projector(HF_PROJECTORS, projector), r"(?:model\.)?", ""),
    )
    identity = {r"(model\.)?multi_modal_projector\.linear_2\..*": "identity after a linear projector"}
    is_linear = projector == "linear"
    return WeightFormat(
        "Hugging Face LLaVA checkpoint",
        groups,
        ROTARY | LLAVA_UNUSED | (DINOV2_UNUSED if is_dinov2 else {}) | (identity if is_linear else {}),
    )


def non_lora(projector: str, head: str) -> WeightFormat:
    """What the reference trains beside LoRA (`non_lora_trainables.bin`), and LLaVA's `mm_projector.bin`."""
    return WeightFormat("file of projector and float head", _beside_lora(projector, head), ORIGINAL_MODULE)


def _beside_lora(projector: str, head: str) -> tuple[RuleGroup, RuleGroup]:
    return (
        RuleGroup(_projector(PROJECTORS, projector), r"(?:base_model\.)?(?:model\.)*", "base_model.model.model."),
        RuleGroup(_float_head(head), r"(?:base_model\.)?(?:model\.)*", "base_model.model."),
    )


def _projector(known: Mapping[str, tuple[Rule, ...]], kind: str) -> tuple[Rule, ...]:
    if kind not in known:
        raise UserError(
            f"these files have no names for the projector {kind!r}: export as safetensors, or add it to "
            "interop/formats.py"
        )
    return known[kind]


def _float_head(kind: str) -> tuple[Rule, ...]:
    if kind not in FLOAT_HEADS:
        raise UserError(
            f"these files have no names for the float head {kind!r}: export as safetensors, or add it to "
            "FLOAT_HEADS in interop/formats.py"
        )
    return FLOAT_HEADS[kind]


def float_head(head: str) -> WeightFormat:
    """The float head alone, beside an exported LlavaForConditionalGeneration."""
    return WeightFormat("float head", (RuleGroup(_float_head(head), r"(?:base_model\.)?(?:model\.)*"),), {})


# ---- which kind a file holds -----------------------------------------------------------------------------------------


def kind_of(names: Iterable[str], part: str, where: object) -> str:
    """The kind of projector or float head that a file's names show, "none" without one.

    part: `mm_projector`, `multi_modal_projector` or `float_head`.
    Raises: UserError where the names fit no kind.
    """
    tails = [name.split(part, 1)[1] for name in names if part in name and ".original_module." not in name]
    weights = {tail.split(".")[-2] if tail.count(".") > 1 else "" for tail in tails if tail.endswith(".weight")}
    linears = {digit if digit.isdigit() or digit.startswith("linear_") else "" for digit in weights}
    kinds: dict[tuple[str, frozenset[str]], str] = {
        ("mm_projector", frozenset({""})): "linear",
        ("mm_projector", frozenset({"0"})): "linear",
        ("mm_projector", frozenset({"0", "2"})): "mlp2x_gelu",
        ("multi_modal_projector", frozenset({"linear_1", "linear_2"})): "mlp2x_gelu",
        ("float_head", frozenset({""})): "linear",
        ("float_head", frozenset({"0"})): "linear",
        ("float_head", frozenset({"1", "3"})): "tanh_mlp_gelu",
    }
    if not tails:
        return "none"
    kind = kinds.get((part, frozenset(linears)))
    if kind is None:
        known = "linear and mlp2x_gelu projectors" if "projector" in part else "linear and tanh_mlp_gelu float heads"
        raise UserError(f"{where}: {part} has the projections {sorted(linears)}; only {known} are known")
    return kind
