"""The sizes that benchmarks/ measures: `configs/bench.py:size=small`, `medium` or `7b`, all from random weights.

`7b` is the full size of common.py in rows of 1024 tokens. The others are what a CPU does in seconds.
"""

from configs import common
from igllm_jax.config import parse_argument
from igllm_jax.errors import UserError

# size -> (vision and decoder, LoRA's rank, tokens of a row with the image)
SIZES = {
    "small": (
        {"image_size": 112, "width": 256, "num_layers": 6, "num_heads": 4, "mlp_width": 1024},
        {"width": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 8, "head_dim": 64, "mlp_width": 1376},
        16,
        320,
    ),
    "medium": (
        {"image_size": 224, "width": 768, "num_layers": 12, "num_heads": 12, "mlp_width": 3072},
        {"width": 768, "num_layers": 12, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64, "mlp_width": 2048},
        64,
        576,
    ),
    "7b": ({}, {}, 128, 1024),
}


def get_config(argument: str = ""):
    values = {"size": "small", **parse_argument(argument, ("size", "head"))}
    config = common.get_config()
    size = values.pop("size")
    if size not in SIZES:
        raise UserError(f"size is {size!r}; choose one of {', '.join(SIZES)}")
    config.update(values)
    vision, decoder, rank, tokens = SIZES[size]
    config.model.vision.update(vision)
    config.model.decoder.update(decoder)
    config.data.image_size = config.model.vision.image_size
    config.data.max_length = tokens
    config.data.buckets = 1
    config.model.lora.rank, config.model.lora.alpha = rank, 2.0 * rank
    config.batch_size = 8
    if vision:  # on a CPU
        config.model.decoder.remat = "elementwise"
        config.model.dtype = config.model.frozen_dtype = "float32"
        config.mesh.data, config.mesh.fsdp = -1, 1
    config.optim.lr = config.optim.projector_lr = 1e-4
    config.optim.warmup = 0.0
    return config
