"""Paints scenes as quick flat images, and makes data sets of them in the layout of the released ones."""

from igllm_jax.painter.camera import Camera, clevr_camera, fit_camera
from igllm_jax.painter.paint import paint

__all__ = ["Camera", "clevr_camera", "fit_camera", "paint"]
