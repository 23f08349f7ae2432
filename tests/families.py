"""What each family of decoders and image towers has of its own, for small models that aren't anyone's."""

# What a Gemma has; windows are shorter than any row of the tests.
GEMMA = {
    "activation": "gelu_pytorch_tanh", "window": 5, "global_every": 2, "query_scalar": 11.0, "logit_softcap": 2.0,
    "unit_offset": True, "post_norms": True, "scaled_embedding": True, "tie_embeddings": True,
}  # fmt: skip
GEMMA3 = {**GEMMA, "qk_norm": True, "local_rope_theta": 700.0, "rope_scaling": (3.0,)}
# name -> fields of DecoderConfig that are not LLaMA's
DECODERS = {
    "llama3": {"rope_scaling": (8.0, 1.0, 4.0, 17.0)},
    "smollm2": {"tie_embeddings": True},
    "smollm3": {"nope_every": 2, "tie_embeddings": True},
    "mistral": {"window": 5},
    "qwen2": {"qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"qk_norm": True},
    "gemma2": {**GEMMA, "attention_softcap": 3.0},
    "gemma3": GEMMA3,
}
SIGLIP = {
    "class_token": False, "pre_norm": False, "patch_bias": True, "activation": "gelu_pytorch_tanh",
}  # fmt: skip
DINOV2 = {"pre_norm": False, "patch_bias": True, "layer_scale": True, "activation": "gelu"}
# name -> fields of VisionConfig that are not CLIP's
TOWERS = {
    "clip": {}, "siglip": SIGLIP, "dinov2": DINOV2,
    "dinov2_registers": {**DINOV2, "registers": 3, "position_resize": "bicubic_antialias"},
}  # fmt: skip
# every decoder and every tower once: (decoder, tower, second tower or "")
TRIPLES = [
    ("llama3", "clip", ""), ("smollm2", "dinov2", ""), ("smollm3", "clip", ""), ("mistral", "clip", ""),
    ("qwen2", "siglip", ""), ("qwen3", "dinov2_registers", "siglip"), ("gemma2", "siglip", ""),
    ("gemma3", "siglip", ""),
]  # fmt: skip


def name_of(triple):
    return "-".join(filter(None, triple))
