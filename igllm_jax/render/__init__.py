"""Scenes as data (`spec.SceneSpec`), made up at random, or from labels or code, and what draws them (`renderers`)."""

from igllm_jax.render.camera import Camera, clevr_camera, fit_camera
from igllm_jax.render.scenes import draw_objects

__all__ = ["Camera", "clevr_camera", "draw_objects", "fit_camera"]
