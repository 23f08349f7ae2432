"""What each claim needs: its data sets and its cells, one run each, as tables.

A cell is trained on one data set with one seed and scored on several splits. At `tiny` size the data are made by
`igllm make-data` and the settings are those of `configs/claims.py`; at `paper` size they are the released data and the
reference's settings.
"""

from collections.abc import Callable
from dataclasses import dataclass

SIZES = ("tiny", "paper")
HEADS = ("none", "linear", "tanh_mlp_gelu")
FLOAT_HEAD, TEXT = "tanh_mlp_gelu", "none"
REPRESENTATIONS = ("6d", "quat", "aa", "euler", "euler_int")  # the most promising first
CURVE_POINTS = 7  # checkpoints that are scored where a cell shows its progress

SINGLES = {"clevr": "clevr_single", "shapenet": "shapenet_single"}  # data sets of one object a scene
ONE_OBJECT = ("--min_objects", "1", "--max_objects", "1")
# data set -> `igllm make-data` of it; 8 000 images of clevr, so that 500 and 2 000 are the first of them
MAKE_DATA = {
    "twod": ("twod", "--num_train", "10000", "--num_val", "1000"),
    "clevr": ("clevr", "--num_train", "8000", "--num_val", "200", "--image_size", "240x160"),
    "so3": ("so3", "--num_train", "20000", "--num_val", "500", "--image_size", "96x96"),
    "sixdof": ("sixdof", "--num_train", "20000", "--num_val", "500", "--image_size", "192x128"),
    "shapenet": ("shapenet", "--num_train", "8000", "--num_val", "200", "--image_size", "240x160"),
    "clevr_single": (
        "clevr", "--num_train", "1000", "--num_val", "200", "--image_size", "224x224", *ONE_OBJECT,
    ),
    "shapenet_single": (
        "shapenet", "--num_train", "8000", "--num_val", "200", "--image_size", "240x160", *ONE_OBJECT,
    ),
}  # fmt: skip
RELEASED = {"twod": "2D", "clevr": "CLEVR", "so3": "SO3", "sixdof": "6DoF", "shapenet": "ShapeNet"}
NUM_IMAGES = {"tiny": (8000, 2000, 500), "paper": (4000, 2000, 500)}  # of clevr, the most telling first
SPLITS = {
    "twod": ("random",),
    "clevr": ("val_ID", "val_OOD"),
    "so3": ("val_ID", "val_OOD"),
    "sixdof": ("val_ID", "val_OOD"),
    "shapenet": ("val_ID", "val_OOD_texture", "val_OOD_shape"),
    "clevr_single": ("val_ID",),
    "shapenet_single": ("val_ID", "val_OOD_texture", "val_OOD_shape"),
}
# head is text or not -> tokens of the longest answer of each data set, with some to spare; at paper size the
# reference's
MAX_NEW_TOKENS = {
    False: {"twod": 64, "clevr": 400, "so3": 64, "sixdof": 64, "shapenet": 160, **dict.fromkeys(SINGLES.values(), 64)},
    True: {"twod": 64, "clevr": 720, "so3": 96, "sixdof": 128, "shapenet": 320, **dict.fromkeys(SINGLES.values(), 96)},
}
PAPER_MAX_NEW_TOKENS = 1024


@dataclass(frozen=True)
class Cell:
    """One training run and what it is scored on.

    num_images: the first so many of the training split; 0: as the config has it. is_shuffled: whether every image gets
    another one's label, so that there is nothing to see: the control. has_curve: whether checkpoints on the way are
    scored, too. weights: "real" or "random", where that is the question, of what stays frozen. is_single: whether
    scenes have one object, as they do with weights.
    """

    claim: str
    task: str
    head: str
    seed: int
    train_split: str = "train"
    rotation_rep: str = ""
    num_images: int = 0
    is_shuffled: bool = False
    has_curve: bool = False
    weights: str = ""
    is_single: bool = False

    @property
    def name(self) -> str:
        """Of its files: what differs between the cells of a claim."""
        parts = [self.claim, self.task]
        parts += [self.train_split.removeprefix("checkerboard_")] if self.train_split != "train" else []
        parts += ["single"] if self.is_single else []
        parts += [self.rotation_rep] if self.rotation_rep else []
        parts += [f"{self.num_images}"] if self.num_images else []
        parts += [self.weights] if self.weights else []
        parts += ["control" if self.is_shuffled else self.head, f"seed{self.seed}"]
        return "-".join(parts)

    @property
    def data(self) -> str:
        """Its data set, of MAKE_DATA."""
        return SINGLES[self.task] if self.is_single or self.weights else self.task

    @property
    def splits(self) -> tuple[str, ...]:
        """Those it is scored on."""
        return SPLITS[self.data]


def float_head(size: str, seed: int) -> list[Cell]:
    """1: the float head against numbers as text."""
    return [
        Cell("float_head", "twod", head, seed, train_split=f"checkerboard_{density}", has_curve=True)
        for density in ("sparse", "dense")
        for head in HEADS
    ]


def cogent(size: str, seed: int) -> list[Cell]:
    """2: compositional generalisation, with a control that sees nothing of the image."""
    cells = []
    for num_images in NUM_IMAGES[size]:
        cells += [Cell("cogent", "clevr", head, seed, num_images=num_images) for head in (FLOAT_HEAD, TEXT)]
    most = NUM_IMAGES[size][0]
    return [*cells, Cell("cogent", "clevr", FLOAT_HEAD, seed, num_images=most, is_shuffled=True)]


def rotations(size: str, seed: int) -> list[Cell]:
    """3: rotation representations."""
    return [
        Cell("rotations", task, FLOAT_HEAD, seed, rotation_rep=representation)
        for task in ("so3", "sixdof")
        for representation in REPRESENTATIONS
    ]


def shifts(size: str, seed: int) -> list[Cell]:
    """4: other paint and other shapes than in training; at size tiny in scenes of one toy as well."""
    cells = [Cell("shifts", "shapenet", head, seed, rotation_rep="6d") for head in (FLOAT_HEAD, TEXT)]
    single = Cell("shifts", "shapenet", FLOAT_HEAD, seed, rotation_rep="6d", is_single=True)
    return [*cells, single] if size == "tiny" else cells


def real_weights(size: str, seed: int) -> list[Cell]:
    """6: a language model and an image tower that were trained on other things, at size tiny alone."""
    kinds = (("real", FLOAT_HEAD), ("random", FLOAT_HEAD), ("real", TEXT))
    cells = [Cell("real_weights", "clevr", head, seed, weights=weights) for weights, head in kinds]
    return cells if size == "tiny" else []


CLAIMS: dict[str, Callable[[str, int], list[Cell]]] = {
    "float_head": float_head,
    "cogent": cogent,
    "rotations": rotations,
    "shifts": shifts,
    "real_weights": real_weights,
}


def cells_of(claims: list[str], size: str, seeds: int) -> list[Cell]:
    """All cells of the claims, in the order given; the first seed of a claim before its second."""
    return [cell for claim in claims for seed in range(1, seeds + 1) for cell in CLAIMS[claim](size, seed)]
