"""Objects to be drawn: CLEVR's solids and the toys, from what labels or predictions say of them."""

import re
from collections.abc import Container, Mapping

from igllm_jax.render.materials import COLORS, FINISHES, PLAIN_MATERIALS, PLANE_MATERIALS, solid_material
from igllm_jax.render.meshes import MeshModel, model_part
from igllm_jax.render.roles import Roles, Thing, words_of
from igllm_jax.render.spec import Material, ObjectSpec, Part, Vector, matrix, vector
from igllm_jax.render.toys import PLANE, UNKNOWN_PIECES, Piece, toy
from igllm_jax.scene.language import Language

SIZES = {"large": 0.7, "small": 0.35}  # radius or half-side in scene units, of every solid
SOLIDS = ("sphere", "cube", "cylinder")
BEVEL = 0.07  # of cubes and cylinders, where 1 is the half-side
ORIGIN: Vector = (0.0, 0.0, 0.0)
LONGEST_WORD = 40  # of a name


def object_name(word: str | None, index: int) -> str:
    """A name that no other object has, of letters, digits, `_` and `-` only: predicted words may be anything."""
    return f"{re.sub('[^A-Za-z0-9_-]', '_', word or 'object')[:LONGEST_WORD]}_{index}"


def solid(roles: Roles, index: int, paint: Material | None = None) -> ObjectSpec:
    """A sphere, cube or cylinder of CLEVR; at the origin where there is no location.

    Words that CLEVR does not have, as predictions may hold, make it a small light grey rubber sphere: the picture then
    shows where the object is and that its words are unknown. paint: where that is not what its words say.
    """
    kind = roles.shape if roles.shape in SOLIDS else "sphere"
    bevel = 0.0 if kind == "sphere" else BEVEL
    part = Part(kind, paint or solid_material(roles.color, roles.material), bevel=bevel)
    return _object(roles, index, (part,), SIZES.get(roles.size or "", SIZES["small"]))


def toy_object(roles: Roles, index: int, scale: float, materials: Mapping[str, Material] | None = None) -> ObjectSpec:
    """A toy, `scale` times as large as it is built, painted with `materials` (role -> paint; others are plain).

    A shape that no toy has is a grey ball.
    """
    pieces = toy(roles.shape or "")
    default = PLANE_MATERIALS if roles.shape == PLANE else PLAIN_MATERIALS
    paints = {**default, **(materials or {})}
    parts = tuple(_part(one, paints[one.role]) for one in pieces or UNKNOWN_PIECES)
    return _object(roles, index, parts, scale)


def mesh_object(model: MeshModel, roles: Roles, index: int, scale: float, paint: Material | None = None) -> ObjectSpec:
    """A mesh from a file, `scale` units from its middle to its longest sides, in its own look or painted."""
    return _object(roles, index, (model_part(model, paint),), scale)


def plain_words(thing: Thing, language: Language, models: Container[str] = ()) -> list[str]:
    """The words of an object that have no look of their own, such as "color 'mauve'". models: shapes of a folder."""
    known: dict[str, Container[str]] = {"shape": SOLIDS, "size": SIZES, "color": COLORS, "material": FINISHES}
    said = words_of(thing, language)
    if "shape" in said and (said["shape"] in models or toy(said["shape"]) is not None):
        return []
    return [f"{key} {word!r}" for key, word in said.items() if key in known and word not in known[key]]


def _part(piece: Piece, material: Material) -> Part:
    return Part(piece.kind, material, vector(piece.center), matrix(piece.axes), role=piece.role)


def _object(roles: Roles, index: int, parts: tuple[Part, ...], scale: float) -> ObjectSpec:
    return ObjectSpec(
        index=index,
        name=object_name(roles.shape, index),
        location=roles.location or ORIGIN,
        parts=parts,
        rotation=matrix(roles.rotation),
        scale=scale,
        words=roles.words,
    )
