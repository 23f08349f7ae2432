"""6-DoF at the reference's settings: one object, any place and orientation, 200 000 steps.

`--config=configs/sixdof.py:rotation_rep=6d,head=tanh_mlp_gelu` picks how rotations are written (euler | euler_int |
aa | 6d | quat) and the float head. Data: the released folder at data/6DoF.
"""

from configs import bases, common


def get_config(argument: str = ""):
    config = common.get_config()
    config.task = "sixdof"
    config.rotation_rep = "6d"
    config.train.num_steps = 200_000
    for split, name in (("train", "train"), ("val", "val_ID")):
        config.data[split].images = f"data/6DoF/images/{name}.tar"
        config.data[split].labels = f"data/6DoF/labels/{name}.json"
    return bases.set_argument(config, argument, ("rotation_rep", "head"))
