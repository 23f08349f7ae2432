"""SO(3) at the reference's settings: one object, any orientation, 40 000 steps.

`--config=configs/so3.py:rotation_rep=6d,head=tanh_mlp_gelu` picks how rotations are written (euler | euler_int | aa |
6d | quat) and the float head. Data: the released folder at data/SO3.
"""

from configs import bases, common


def get_config(argument: str = ""):
    config = common.get_config()
    config.task = "so3"
    config.rotation_rep = "6d"
    for split, name in (("train", "train"), ("val", "val_ID")):
        config.data[split].images = f"data/SO3/images/{name}.tar"
        config.data[split].labels = f"data/SO3/labels/{name}.json"
    return bases.set_argument(config, argument, ("rotation_rep", "head"))
