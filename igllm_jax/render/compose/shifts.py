"""Domain shifts: scenes that are said by the same words, but look unlike those of training.

What a shift draws comes from a generator of its own. So scenes without and with a shift are the same otherwise, object
by object, except that another camera may hide what a scene must show.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from igllm_jax.render.camera import Camera
from igllm_jax.render.spec import Color, Ground, Light, Material, SceneSpec, vector

CAMERA, MATERIALS = "camera", "materials"
AZIMUTH_DEG = (25.0, 65.0)  # of the camera, to either side of CLEVR's
ELEVATION_DEG = (16.0, 52.0)  # CLEVR's is 28
DISTANCE = (0.9, 1.25)  # times CLEVR's
LIGHT_AZIMUTH_DEG = (60.0, 300.0)  # by which the lamps go round together
LIGHT_STRENGTH = (0.4, 1.8)  # times CLEVR's, each lamp by itself
LIGHT_SIZE = (0.3, 3.0)  # scene units
WARM, COLD = (1.0, 0.72, 0.45), (0.55, 0.75, 1.0)
GROUNDS: tuple[Color, ...] = (  # linear light
    (0.22, 0.11, 0.05),  # wood
    (0.05, 0.16, 0.07),  # felt
    (0.07, 0.11, 0.25),  # carpet
    (0.04, 0.04, 0.045),  # slate
    (0.50, 0.38, 0.22),  # sand
    (0.75, 0.74, 0.72),  # paper
)
GLOSSY, BRUSHED = (0.08, 0.25), (0.4, 0.6)  # roughness of what is rubber, and of what is metal, in training
SHADE, REPEATS = 0.5, (2.0, 5.0)  # of the second colour of patterns, in the first; how many


def _between(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(rng.uniform(*limits))


def shift_camera(rng: np.random.Generator, camera: Camera) -> Camera:
    """A camera from another side and height, farther or nearer, that looks at the same point."""
    x, y, z = np.array(camera.position) - camera.look_at
    azimuth = math.atan2(y, x) + math.radians(_between(rng, AZIMUTH_DEG)) * float(rng.choice((-1.0, 1.0)))
    elevation = math.radians(_between(rng, ELEVATION_DEG))
    distance = math.hypot(x, y, z) * _between(rng, DISTANCE)
    level = math.cos(elevation)
    away = (level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation))
    return dataclasses.replace(camera, position=vector(np.array(camera.look_at) + distance * np.array(away)))


def _shift_lights(rng: np.random.Generator, spec: SceneSpec) -> SceneSpec:
    turn = math.radians(_between(rng, LIGHT_AZIMUTH_DEG))
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    lights = []
    for light in spec.lights:
        share = float(rng.uniform(0, 1))
        color = vector(share * np.array(WARM) + (1 - share) * np.array(COLD))
        strength = light.strength * _between(rng, LIGHT_STRENGTH)
        position = vector(rotation @ light.position)
        lights.append(Light(light.name, position, strength, _between(rng, LIGHT_SIZE), color))
    return dataclasses.replace(spec, lights=tuple(lights), ambient=spec.ambient * _between(rng, (0.5, 1.5)))


def _shift_ground(rng: np.random.Generator, spec: SceneSpec) -> SceneSpec:
    color = GROUNDS[int(rng.integers(len(GROUNDS)))]
    ground = Ground(vector(np.array(color) * _between(rng, (0.8, 1.2))), roughness=_between(rng, (0.3, 0.95)))
    return dataclasses.replace(spec, ground=ground)


def _shift_materials(rng: np.random.Generator, spec: SceneSpec) -> SceneSpec:
    """What was matt is glossy and what was polished is brushed; plain paint gets a pattern in a darker shade of it."""
    objects = []
    for thing in spec.objects:
        pattern, repeats = str(rng.choice(("stripes", "checks"))), _between(rng, REPEATS)
        glossy, brushed = _between(rng, GLOSSY), _between(rng, BRUSHED)
        parts = []
        for part in thing.parts:
            one: Material = dataclasses.replace(
                part.material, roughness=brushed if part.material.metallic > 0.5 else glossy
            )
            if one.pattern == "plain":
                second = vector(SHADE * np.array(one.color))
                one = dataclasses.replace(one, pattern=pattern, second=second, repeats=repeats)
            parts.append(dataclasses.replace(part, material=one))
        objects.append(dataclasses.replace(thing, parts=tuple(parts)))
    return dataclasses.replace(spec, objects=tuple(objects))


# Shifts of a scene that is complete; another camera changes what can be seen, so `compose` begins with it.
STAGE_SHIFTS: dict[str, Callable[[np.random.Generator, SceneSpec], SceneSpec]] = {
    "lights": _shift_lights,
    "ground": _shift_ground,
    MATERIALS: _shift_materials,
}
SHIFTS = (*STAGE_SHIFTS, CAMERA)


def own_camera(rng: np.random.Generator, camera: Camera, shift: str | None) -> Camera:
    """`camera`, or another under the shift `camera`. rng: the scene's; nothing is taken of it."""
    return shift_camera(rng.spawn(1)[0], camera) if shift == CAMERA else camera


def shift_stage(rng: np.random.Generator, spec: SceneSpec, shift: str | None) -> SceneSpec:
    """The scene under a shift; as it is where there is none. rng: the scene's; nothing is taken of it."""
    return STAGE_SHIFTS[shift](rng.spawn(1)[0], spec) if shift in STAGE_SHIFTS else spec
