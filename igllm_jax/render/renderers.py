"""The renderers as one table: name -> what draws a scene."""

from collections.abc import Callable

from igllm_jax.render.flat.draw import draw
from igllm_jax.render.rendering import Rendering
from igllm_jax.render.spec import SceneSpec

RENDERERS: dict[str, Callable[[SceneSpec], Rendering]] = {"flat": draw}
