"""A script that builds the scene in Blender: `blender --python FILE.py`, or `python FILE.py` where bpy is installed.

The script is the same for every scene (`blender_template.py`), but for one text literal with the scene as JSON: nothing
that a model wrote becomes code.
"""

from pathlib import Path

from igllm_jax.render.spec import SceneSpec, to_json

PLACEHOLDER = '"@SCENE@"'
TEMPLATE = Path(__file__).with_name("blender_template.py")


def blender_script(spec: SceneSpec) -> bytes:
    """The script's text. JSON is ASCII, and Python's own `repr` makes it a literal."""
    before, after = TEMPLATE.read_text(encoding="ascii").split(PLACEHOLDER)
    return f"{before}{to_json(spec)!r}{after}".encode("ascii")
