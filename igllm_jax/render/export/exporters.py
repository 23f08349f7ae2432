"""The formats as one table: the file's suffix -> what makes its bytes of a scene."""

from collections.abc import Callable

from igllm_jax.render.export.blender_script import blender_script
from igllm_jax.render.export.glb import glb
from igllm_jax.render.export.usda import usda
from igllm_jax.render.spec import SceneSpec, to_json


def scene_json(spec: SceneSpec) -> bytes:
    """The scene itself as one line; `spec.from_json` reads it."""
    return (to_json(spec) + "\n").encode("ascii")


EXPORTERS: dict[str, Callable[[SceneSpec], bytes]] = {
    "glb": glb,
    "usda": usda,
    "json": scene_json,
    "py": blender_script,
}
