"""A small model that trains from random initialisation on a CPU: `configs/tiny.py:task=clevr,head=none`, any task.

Everything trains; its tokenizer is trained at set-up on the task's own text. Data: what `igllm make-data TASK --out
data/tiny/TASK` leaves.
"""

from configs import common
from igllm_jax.config import set_argument


def get_config(argument: str = ""):
    config = set_argument(common.get_config(), argument, ("task", "head", "rotation_rep"))
    root = f"data/tiny/{config.task}"
    for split, name in (("train", "train"), ("val", "val_ID")):
        config.data[split].images, config.data[split].labels = f"{root}/images/{name}.tar", f"{root}/labels/{name}.json"
    if config.task == "twod":
        for split, name in (("train", "checkerboard_sparse"), ("val", "random")):
            config.data[split].images = config.data[split].labels = f"{root}/2d.npz:{name}"
    if config.task in ("so3", "sixdof", "shapenet") and not config.rotation_rep:
        config.rotation_rep = "6d"
    is_scene = config.task != "twod"
    # A scene has much to bind: many small steps read its colours sooner than few large ones.
    config.batch_size = 4 if is_scene else 32
    config.tokenizer.train_vocab_size = 512
    config.data.prompt = "short"
    # What little time there is goes into the image, not into wordings: one order, one name for each attribute.
    config.data.shuffle_attributes = config.data.use_synonyms = not is_scene
    config.data.num_workers = 0
    # With CLIP's mean the objects drown in the background; with its own colour as the mean it is near 0.
    mean, std = (0.66, 0.15) if is_scene else (1.0, 0.5)
    config.data.image_mean, config.data.image_std = (mean,) * 3, (std,) * 3
    config.data.image_size = config.model.vision.image_size = 96 if is_scene else 56

    vision, decoder = config.model.vision, config.model.decoder
    vision.patch_size = 12 if is_scene else 14
    vision.width, vision.num_layers, vision.num_heads, vision.mlp_width = 128, 4, 4, 512
    vision.feature_layer = -1
    decoder.width, decoder.num_layers, decoder.mlp_width = 128, 4, 384
    decoder.num_heads = decoder.num_kv_heads = 4
    decoder.head_width = 32
    decoder.vocab_size = 512
    decoder.remat = "elementwise"
    config.model.lora.rank = 0
    config.model.dtype = config.model.frozen_dtype = "float32"

    config.optim.trainable = "full"
    config.optim.lr = config.optim.projector_lr = config.optim.float_head_lr = 5e-4 if is_scene else 1e-3
    config.train.num_steps = 8000 if is_scene else 1000
    config.train.float_weight = 0.1 if is_scene else 1.0  # places in a scene are numbers up to 3, on the square up to 1
    config.train.checkpoint_every = 1000 if is_scene else 250
    config.eval.loss_every = 500 if is_scene else 100
    config.eval.generate_every = 4000 if is_scene else 500
    config.eval.max_new_tokens = 512 if is_scene else 64
    return config
