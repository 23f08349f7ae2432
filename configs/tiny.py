"""A small model that trains from random initialisation on a CPU: `configs/tiny.py:task=clevr,head=none`, any task,
also by the path of its language's file.

Everything trains; its tokenizer is trained at set-up on the task's own text. Data: what `igllm make-data TASK --out
data/tiny/TASK` leaves.
"""

from configs import common
from igllm_jax.config import set_argument
from igllm_jax.scene.language import find_language


def get_config(argument: str = ""):
    config = set_argument(common.get_config(), argument, ("task", "head", "rotation_rep"))
    language = find_language(config.task)
    root = f"data/tiny/{language.name}"
    for split, name in (("train", "train"), ("val", "val_ID")):
        config.data[split].images, config.data[split].labels = f"{root}/images/{name}.tar", f"{root}/labels/{name}.json"
    if language.label_file == "points":
        for split, name in (("train", "checkerboard_sparse"), ("val", "random")):
            config.data[split].images = config.data[split].labels = f"{root}/2d.npz:{name}"
    if not config.rotation_rep and "6d" in language.rotation_reps:
        config.rotation_rep = "6d"
    config.tokenizer.train_vocab_size = 512
    config.data.prompt = "short"
    config.data.num_workers = 0

    vision, decoder = config.model.vision, config.model.decoder
    vision.width, vision.num_layers, vision.num_heads, vision.mlp_width = 128, 4, 4, 512
    vision.feature_layer = -1
    decoder.width, decoder.num_layers, decoder.mlp_width = 128, 4, 384
    decoder.num_heads = decoder.num_kv_heads = 4
    decoder.head_dim = 32
    decoder.vocab_size = 512
    decoder.remat = "elementwise"
    config.model.lora.rank = 0
    config.model.dtype = config.model.frozen_dtype = "float32"

    config.optim.trainable = "full"
    if language.label_file == "points":
        _square(config)
    else:
        _scene(config)
    return config


def _square(config):
    """One disc on a square whose sides are 1."""
    config.batch_size = 32
    _images(config, size=56, patch_size=14, mean=1.0, std=0.5)
    config.optim.lr = config.optim.projector_lr = config.optim.float_head_lr = 1e-3
    config.train.num_steps = 1000
    config.train.checkpoint_every = 250
    config.eval.loss_every = 100
    config.eval.generate_every = 500
    config.eval.max_new_tokens = 64


def _scene(config):
    """Objects on a ground."""
    # There is much to bind: many small steps read the colours sooner than few large ones.
    config.batch_size = 4
    # What little time there is goes into the image, not into wordings: one order, one name for each attribute.
    config.data.shuffle_attributes = config.data.use_synonyms = False
    # With CLIP's mean the objects drown in the background; with its own colour as the mean it is near 0.
    _images(config, size=96, patch_size=12, mean=0.66, std=0.15)
    config.optim.lr = config.optim.projector_lr = config.optim.float_head_lr = 5e-4
    config.train.num_steps = 8000
    config.train.float_weight = 0.1  # places are numbers up to 3, not up to 1
    config.train.checkpoint_every = 1000
    config.eval.loss_every = 500
    config.eval.generate_every = 4000
    config.eval.max_new_tokens = 512


def _images(config, *, size, patch_size, mean, std):
    config.data.image_size = config.model.vision.image_size = size
    config.model.vision.patch_size = patch_size
    config.data.image_mean, config.data.image_std = (mean,) * 3, (std,) * 3
