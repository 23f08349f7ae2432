"""What `benchmarks/claims.py` trains at a size that anyone can rerun: `configs/claims.py:task=so3,rotation_rep=6d`.

`configs/tiny.py` with the resolution, batch, learning rate and length of each task, so that one run takes at most 25
minutes on one core. What was tried stands in `docs/results.md`.
"""

from configs import tiny

# task -> what it has of its own
SETTINGS = {
    "twod": {"train.num_steps": 700},
    # as many steps as numbers as text can do in time; what stands in tiny.py read colours soonest
    "clevr": {"train.num_steps": 7500},
    # one toy, so little to bind: larger batches; its turn is in the paint of a few pixels, so small patches
    "so3": {
        "batch_size": 16,
        "data.image_size": 64,
        "model.vision.image_size": 64,
        "model.vision.patch_size": 8,
        "data.image_mean": (0.61, 0.61, 0.61),
        "train.num_steps": 1600,
        "train.float_weight": 1.0,
        "optim.lr": 1e-3,
        "optim.projector_lr": 1e-3,
        "optim.float_head_lr": 1e-3,
    },
    # places are learned in some hundred steps, turns from 2 000 on: small patches, no border, half the decoder for time
    "sixdof": {
        "batch_size": 16,
        "data.image_aspect_ratio": "square",
        "data.image_size": 80,
        "model.vision.image_size": 80,
        "model.vision.patch_size": 8,
        "model.decoder.num_layers": 2,
        "data.image_mean": (0.68, 0.68, 0.68),
        "train.num_steps": 4000,
        "train.float_weight": 0.5,  # places are numbers up to 2.6
        "optim.lr": 1e-3,
        "optim.projector_lr": 1e-3,
        "optim.float_head_lr": 1e-3,
    },
    "shapenet": {"batch_size": 8, "train.num_steps": 4000},
}
# task -> what it has besides where scenes have one object
SINGLE = {
    # large images: a toy is a tenth of their width
    "shapenet": {
        "batch_size": 16,
        "data.image_aspect_ratio": "square",
        "data.image_size": 144,
        "model.vision.image_size": 144,
        "model.decoder.num_layers": 2,
        "train.num_steps": 2500,
        "train.float_weight": 0.5,
        "optim.lr": 1e-3,
        "optim.projector_lr": 1e-3,
        "optim.float_head_lr": 1e-3,
    },
}


def get_config(argument: str = ""):
    config = tiny.get_config(argument)
    config.update_from_flattened_dict(SETTINGS.get(config.task, {}))
    config.train.log_every = 50
    config.eval.loss_every = config.eval.generate_every = 0  # claims.py scores what was saved
    return config
