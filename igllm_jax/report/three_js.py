"""three.js for the page's 3D view: the copy that trimesh carries for its own viewer. Nothing is fetched."""

import importlib.resources
import io
import zipfile

from igllm_jax.errors import UserError

_ARCHIVE, _FILE = "resources/templates/viewer.zip", "viewer.html.template"
_START, _END, _PARTS = "<script>", "</script>", "GLTFLoader"
_VIEWER = "var camera,controls,scene,renderer"
LICENSE = """three.js (https://threejs.org), its GLTFLoader and its TrackballControls, as trimesh carries them.
Copyright the three.js authors. MIT License: Permission is hereby granted, free of charge, to any person
obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software
without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do
so, subject to the following conditions: The above copyright notice and this permission notice shall be
included in all copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT
WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING
FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def three_js() -> str | None:
    """A script that defines `THREE`, with its licence; None where trimesh is not installed.

    Raises: UserError where trimesh is there, and three.js is not where it should be.
    """
    try:
        packed = importlib.resources.files("trimesh").joinpath(_ARCHIVE).read_bytes()
        page = zipfile.ZipFile(io.BytesIO(packed)).read(_FILE).decode("utf-8")
    except ModuleNotFoundError:
        return None
    except (OSError, KeyError, zipfile.BadZipFile):
        page = ""
    script = page.partition(_START)[2].partition(_END)[0]
    if _PARTS not in script:
        raise UserError("trimesh is installed, but no three.js was found in it: pip install 'igllm_jax[report]'")
    return f"/* {LICENSE} */\n{_without_viewer(script)}"


def _without_viewer(script: str) -> str:
    """The libraries alone: trimesh's own viewer comes last, and starts by itself."""
    libraries, start, _ = script.rpartition(_VIEWER)
    if not start:
        raise UserError("trimesh's viewer is not as it was: pip install 'igllm_jax[report]'")
    return libraries
