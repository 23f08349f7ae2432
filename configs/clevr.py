"""CLEVR at the reference's settings: the first 4 000 samples of CoGenT A, 40 000 steps.

`--config=configs/clevr.py:head=linear` picks the float head. Data: the released CLEVR folder at data/CLEVR.
"""

from configs import bases, common


def get_config(argument: str = ""):
    config = common.get_config()
    config.task = "clevr"
    root = "data/CLEVR"
    config.data.train.images, config.data.train.labels = f"{root}/images/train.tar", f"{root}/labels/train.json"
    config.data.train.num_samples = 4000
    config.data.val.images, config.data.val.labels = f"{root}/images/val_ID.tar", f"{root}/labels/val_ID.json"
    return bases.set_argument(config, argument, ("head",))
