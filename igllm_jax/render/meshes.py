"""A user's own meshes as objects: files of a folder, each a model with a word for its shape.

`DIR/chair_3.glb` or `.obj` is the shape `chair_3`. ShapeNet's layout, `DIR/SYNSET/MODEL/models/model_normalized.obj`,
gives `chair_0`, `chair_1`, ... in the order of the models' names. As both formats are, files are taken to have y up;
in a scene a model's z is up, its middle is the middle of the box around it, and it reaches 1 to its longest sides.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igllm_jax import paths
from igllm_jax.errors import UserError
from igllm_jax.render.spec import FILE, Material, Part, matrix, vector

ENDINGS = (".glb", ".gltf", ".obj")
SHAPENET_MODEL = "models/model_normalized.obj"
# Source: ShapeNet's taxonomy (WordNet's synsets); others keep their number as their name.
SYNSETS = {
    "02691156": "airplane",
    "02747177": "bin",
    "02773838": "bag",
    "02801938": "basket",
    "02808440": "bathtub",
    "02818832": "bed",
    "02828884": "bench",
    "02843684": "birdhouse",
    "02871439": "bookshelf",
    "02876657": "bottle",
    "02880940": "bowl",
    "02924116": "bus",
    "02933112": "cabinet",
    "02942699": "camera",
    "02946921": "can",
    "02954340": "cap",
    "02958343": "car",
    "02992529": "cellphone",
    "03001627": "chair",
    "03046257": "clock",
    "03085013": "keyboard",
    "03207941": "dishwasher",
    "03211117": "display",
    "03261776": "earphone",
    "03325088": "faucet",
    "03337140": "file",
    "03467517": "guitar",
    "03513137": "helmet",
    "03593526": "jar",
    "03624134": "knife",
    "03636649": "lamp",
    "03642806": "laptop",
    "03691459": "loudspeaker",
    "03710193": "mailbox",
    "03759954": "microphone",
    "03761084": "microwave",
    "03790512": "motorbike",
    "03797390": "mug",
    "03928116": "piano",
    "03938244": "pillow",
    "03948459": "pistol",
    "03991062": "pot",
    "04004475": "printer",
    "04074963": "remote",
    "04090263": "rifle",
    "04099429": "rocket",
    "04225987": "skateboard",
    "04256520": "sofa",
    "04330267": "stove",
    "04379243": "table",
    "04401088": "telephone",
    "04460130": "tower",
    "04468005": "train",
    "04530566": "watercraft",
    "04554684": "washer",
}
Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # takes what has y up to what has z up
PAINTED = "painted"  # the role of a part that shows its material and not its file's
TEST_SHARE = 4  # one model in so many of a class is kept for tests


@dataclass(frozen=True)
class MeshModel:
    """A mesh file. word: for its shape. file: absolute path."""

    word: str
    file: str

    @property
    def name(self) -> str:
        """The word's class: what stands before a number."""
        return re.sub(r"_\d+$", "", self.word)


@functools.lru_cache(maxsize=8)
def find_models(folder: str) -> tuple[MeshModel, ...]:
    """The models of a folder, in the order of their words. Raises: UserError where there are none, or words repeat."""
    root = paths.fetch(folder).resolve()
    models = [MeshModel(_word(path.stem), str(path)) for path in root.glob("*") if path.suffix.lower() in ENDINGS]
    for synset in sorted(path for path in root.glob("*") if path.is_dir()):
        files = sorted(synset.glob(f"*/{SHAPENET_MODEL}"))
        name = _word(SYNSETS.get(synset.name, synset.name))
        models += [MeshModel(f"{name}_{number}", str(path)) for number, path in enumerate(files)]
    if not models:
        raise UserError(f"--meshes {folder}: expected files that end in {', '.join(ENDINGS)}, or ShapeNet's layout")
    models.sort(key=lambda model: model.word)
    for one, other in itertools.pairwise(models):
        if one.word == other.word:
            raise UserError(f"--meshes {folder}: {one.file} and {other.file} are both {one.word!r}; rename one")
    return tuple(models)


def _word(name: str) -> str:
    return re.sub("[^A-Za-z0-9_]", "_", name)


def is_test_model(model: MeshModel, models: Sequence[MeshModel]) -> bool:
    """Whether training never shows it: of the models of a class, the last quarter."""
    own = [one for one in models if one.name == model.name]
    return own.index(model) >= len(own) - len(own) // TEST_SHARE


@functools.lru_cache(maxsize=4096)
def box(file: str) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest corner [3] of the box around a file's mesh, z up, in the file's units.

    Raises: UserError where no mesh can be read from it, or trimesh is not there.
    """
    try:
        import trimesh
    except ImportError:
        raise UserError("reading meshes needs trimesh; pip install 'igllm_jax[render]'") from None
    try:
        mesh: Any = trimesh.load(file, force="mesh", skip_materials=True)
        corners = np.asarray(mesh.bounds, np.float64) @ Y_UP.T
    except Exception as error:  # trimesh raises many kinds on broken files
        raise UserError(f"{file}: no mesh can be read from it ({error})") from None
    if corners.shape != (2, 3) or not np.isfinite(corners).all() or not (np.ptp(corners, axis=0) > 0).any():
        raise UserError(f"{file}: its mesh has no extent")
    return corners.min(axis=0), corners.max(axis=0)


def model_part(model: MeshModel, paint: Material | None) -> Part:
    """The model as the one part of an object. paint: instead of its own look; None keeps that."""
    low, high = box(model.file)
    scale = 2 / float((high - low).max())
    center = vector(-scale * (low + high) / 2)
    material = paint or Material((0.6, 0.6, 0.6))  # for files that say no look
    role = "body" if paint is None else PAINTED
    return Part(FILE, material, center, matrix(scale * np.eye(3)), file=model.file, role=role)
