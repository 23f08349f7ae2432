"""2D at the reference's settings: trains on the sparse checkerboard, validates on the whole square."""

from configs import bases, common


def get_config(argument: str = ""):
    config = common.get_config()
    config.task = "twod"
    for split, name in (("train", "checkerboard_sparse"), ("val", "random")):
        config.data[split].images = config.data[split].labels = f"data/2D/2d.npz:{name}"
    return bases.set_argument(config, argument, ("head",))
