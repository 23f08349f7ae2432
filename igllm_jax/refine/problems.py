"""From scene code to what a search takes, and back from what it found to scene code."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from igllm_jax.refine.moves import ABOUT_Z, LOCATION, TURN
from igllm_jax.refine.vectors import (
    CAMERA_SPREAD,
    LAMP_SPREAD,
    LOCATION_SPREAD,
    TURN_SPREAD,
    Layout,
    SearchProblem,
)
from igllm_jax.render.camera import Camera, clevr_camera
from igllm_jax.render.flat.arrays import KINDS, pack
from igllm_jax.render.flat.draw import BACKDROP_COLOR
from igllm_jax.render.lights import CLEVR_LIGHTS
from igllm_jax.render.objects import SIZES, SOLIDS
from igllm_jax.render.scenes import FIXED_LOCATION, scene_spec, standard_stage
from igllm_jax.render.spec import SceneSpec
from igllm_jax.render.toys import MOST_PIECES
from igllm_jax.scene.code import write_call
from igllm_jax.scene.language import Language
from igllm_jax.scene.reading import Reading, read, scene_of
from igllm_jax.scene.rotations import geodesic_deg
from igllm_jax.scene.scene import Object
from igllm_jax.scene.symmetry import NO_SYMMETRY
from igllm_jax.scene.turn import Turn

COUNTS = (2, 4, 7, 10, 16, 24, 48)  # a program is compiled for so many objects, and serves scenes of fewer
STANDING = ("clevr",)  # tasks whose objects stand on the ground: their height follows from their words
FIXED_STAGE = ("so3", "sixdof", "shapenet")  # tasks whose camera and lamps are known


@dataclass(frozen=True)
class Terms:
    """How code is read and written: its language, and how it says rotations."""

    language: Language
    rotation_rep: str
    rotation_unit: str

    def read(self, text: str) -> Reading:
        return read(text, self.language, rotation_rep=self.rotation_rep)

    def write(self, things: Sequence[Object]) -> str:
        """The calls, in their order."""
        how = {"rotation_rep": self.rotation_rep, "rotation_unit": self.rotation_unit}
        plain = {"numbers_as_tokens": False, "rng": None, "shuffle_attributes": False, "use_synonyms": False}
        return "".join(write_call(thing, self.language, **how, **plain).text for thing in things)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Start:
    """A scene that is to be improved: its calls as a label would have them, and what of them is drawn."""

    things: tuple[Object, ...]
    spec: SceneSpec


def start_of(text: str, terms: Terms, width: int, height: int, camera: Camera | None = None) -> Start:
    """The scene of a text, as an image of that size would show it; the camera is the task's where none is given."""
    how = {"rotation_rep": terms.rotation_rep, "rotation_unit": terms.rotation_unit}
    scene = scene_of(terms.read(text), terms.language, **how, image="")
    return start_of_things(scene.objects, terms, camera or clevr_camera(width, height))


def start_of_things(things: Sequence[Object], terms: Terms, camera: Camera) -> Start:
    """The scene of calls as a label has them, seen by that camera."""
    things = tuple(_standing(thing, terms.language) for thing in things)
    stage, unit = standard_stage(terms.language, camera), terms.rotation_unit
    spec = scene_spec(things, terms.language, stage, rotation_rep=terms.rotation_rep, rotation_unit=unit)
    return Start(things, spec)


def _standing(thing: Object, language: Language) -> Object:
    """The call with its object on the ground, where that is where a task's objects are."""
    roles = language.by_name[thing.function].by_role
    location, size = (roles[role].name if role in roles else "" for role in ("location", "size"))
    if language.name not in STANDING or location not in thing or thing.get(size) not in SIZES:
        return thing
    x, y, _ = thing[location]  # type: ignore[misc]
    return thing.replace(**{location: (x, y, SIZES[thing[size]])})  # type: ignore[index]


def count_for(number: int) -> int:
    """The least of COUNTS that holds so many, or of the multiples of the last."""
    return next((count for count in COUNTS if count >= number), -(-number // COUNTS[-1]) * COUNTS[-1])


def kinds_shown(language: Language) -> tuple[str, ...]:
    """The kinds of parts that a language's scenes may have, in the order of KINDS."""
    return KINDS if language.name in FIXED_STAGE else tuple(kind for kind in KINDS if kind in SOLIDS)


def most_parts(language: Language, num_objects: int) -> int:
    """Of so many objects, whatever a language's words make of them: so one program serves them all."""
    return num_objects * (MOST_PIECES if language.name in FIXED_STAGE else 1)


def layout_of(language: Language, most_objects: int) -> Layout:
    return Layout(most_objects, free_numbers(language), len(CLEVR_LIGHTS))


def problem_of(start: Start, terms: Terms, layout: Layout) -> SearchProblem:
    """NumPy arrays, filled up. Raises: UserError where there are more objects, or meshes from files."""
    most = most_parts(terms.language, layout.objects)
    scene = pack(start.spec, most_parts=most, most_objects=layout.objects, backdrop=BACKDROP_COLOR)
    pivots = np.zeros((layout.objects, 3), np.float32)
    own = np.zeros((layout.objects, len(layout.free)), np.float32)
    for position, thing in enumerate(start.spec.objects):
        pivots[position] = thing.location
        own[position] = _may_move(start.things[thing.index], terms.language, layout.free)
    stage = np.full(3 + 3 * layout.lamps, float(terms.language.name not in FIXED_STAGE))
    is_free = np.concatenate([own.ravel(), stage]).astype(np.float32)
    spreads = layout.fill(LOCATION_SPREAD, TURN_SPREAD, CAMERA_SPREAD, LAMP_SPREAD)
    return SearchProblem(scene, pivots, is_free, spreads, np.array(False))


def _may_move(thing: Object, language: Language, free: Sequence[int]) -> list[bool]:
    """Which numbers an object's code says."""
    roles = language.by_name[thing.function].by_role
    is_said = {role: role in roles and roles[role].name in thing for role in ("location", "rotation")}
    return [is_said["rotation" if number >= TURN.start else "location"] for number in free]


def free_numbers(language: Language) -> tuple[int, ...]:
    """Which numbers of an object move: those that its language says, and that do not follow from its words."""
    roles = {role for function in language.functions for role in function.by_role}
    has_location = "location" in roles and language.name not in FIXED_LOCATION
    location = tuple(range(LOCATION.start, LOCATION.stop)) if has_location else ()
    if language.name in STANDING:
        location = location[:2]
    if "rotation" not in roles:
        return location
    kinds = [f.by_role["rotation"].kind for f in language.functions if "rotation" in f.by_role]
    is_yaw = all(getattr(kind, "is_yaw", False) for kind in kinds)
    return location + ((ABOUT_Z,) if is_yaw else tuple(range(TURN.start, TURN.stop)))


def turns_seen(start: Start, moves: np.ndarray, terms: Terms) -> np.ndarray:
    """Radians [N] by which the objects that are drawn look turned after the moves [M, 6]: a cube at most by 45 degrees
    about z."""
    found = []
    for drawn, move in zip(start.spec.objects, np.asarray(moves, np.float64), strict=False):
        thing, own = start.things[drawn.index], np.asarray(drawn.rotation)
        attribute = terms.language.by_name[thing.function].by_role.get("rotation")
        kind = attribute.kind if attribute else None
        symmetry = kind.symmetry_of(thing) if isinstance(kind, Turn) else NO_SYMMETRY
        turn = Rotation.from_rotvec(move[TURN]).as_matrix()
        found.append(np.radians(geodesic_deg(symmetry.canonical(own.T @ turn @ own), np.eye(3))))
    return np.array(found)


def moved_things(start: Start, moves: np.ndarray, terms: Terms) -> tuple[Object, ...]:
    """The calls of a start after the moves [M, 6] of the objects that are drawn; words stay as they are."""
    things = list(start.things)
    settings = terms.language.settings(terms.rotation_rep, terms.rotation_unit)
    for drawn, move in zip(start.spec.objects, np.asarray(moves, np.float64), strict=False):
        thing = things[drawn.index]
        roles = terms.language.by_name[thing.function].by_role
        location, rotation = roles.get("location"), roles.get("rotation")
        if location is not None and location.name in thing and move[LOCATION].any():
            moved = np.asarray(drawn.location) + move[LOCATION]
            thing = thing.replace(**{location.name: tuple(moved.tolist())})
        if rotation is not None and rotation.name in thing and move[TURN].any():
            value = rotation.kind.turned(thing[rotation.name], move[TURN], settings)  # type: ignore[attr-defined]
            thing = thing.replace(**{rotation.name: value})
        things[drawn.index] = thing
    return tuple(things)
