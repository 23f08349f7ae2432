"""ShapeNet at the reference's settings: several objects of many shapes, 500 000 steps.

`--config=configs/shapenet.py:rotation_rep=6d,head=tanh_mlp_gelu` picks how rotations are written (euler | euler_int |
aa | 6d | quat) and the float head. Data: the released folder at data/ShapeNet; the held-out split is val_ID.
"""

from configs import bases, common


def get_config(argument: str = ""):
    config = common.get_config()
    config.task = "shapenet"
    config.rotation_rep = "6d"
    config.train.num_steps = 500_000
    for split, name in (("train", "train"), ("val", "val_ID")):
        config.data[split].images = f"data/ShapeNet/images/{name}.tar"
        config.data[split].labels = f"data/ShapeNet/labels/{name}.json"
    return bases.set_argument(config, argument, ("rotation_rep", "head"))
