"""The stage that scenes stand on: CLEVR's three lamps and a grey ground."""

import numpy as np

from igllm_jax.render.spec import Color, Ground, Light, vector

# Source: positions of the lamps in the CLEVR generator's base scene. The strengths are ours, by eye.
CLEVR_LIGHTS = (
    Light("key", (6.447, -2.905, 4.258), 0.66),
    Light("fill", (-4.671, -4.014, 3.011), 0.28),
    Light("back", (-1.168, 2.646, 5.816), 0.38),
)
GROUND_COLOR: Color = (0.40, 0.40, 0.41)
GROUND = Ground(GROUND_COLOR)


def clevr_lights(jitter: np.ndarray) -> tuple[Light, ...]:
    """CLEVR's lamps, moved by `jitter` [3, 3] (scene units; CLEVR draws each from -1 to 1)."""
    return tuple(
        Light(light.name, vector(np.array(light.position) + moved), light.strength, light.size, light.color)
        for light, moved in zip(CLEVR_LIGHTS, jitter, strict=True)
    )
