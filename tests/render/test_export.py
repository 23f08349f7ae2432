"""Scenes as files: every object at its place, and nothing that a model wrote becomes code."""

import ast
import json
import re

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.compose.composers import COMPOSERS
from igllm_jax.render.dataset import compose_example
from igllm_jax.render.export.blender_script import PLACEHOLDER, TEMPLATE, blender_script
from igllm_jax.render.export.exporters import EXPORTERS
from igllm_jax.render.export.glb import ROOT, Z_UP_TO_Y_UP, glb
from igllm_jax.render.export.transforms import camera_matrix, facing_matrix, object_matrix
from igllm_jax.render.export.usda import identifier, usda
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.scenes import scene_spec, standard_stage
from igllm_jax.render.spec import Material, ObjectSpec, Part, SceneSpec, from_json
from igllm_jax.scene.code import read


def composed(task: str) -> SceneSpec:
    return compose_example(Recipe(task, 5, 48, 32, *(COMPOSERS[task].num_objects or (1, 1))), "train", 0)


def hostile() -> SceneSpec:
    """A scene from code whose words are scripts, quotes, paths and other alphabets."""
    words = ['"""); import os', "<script>alert(1)</script>", "../../x", "\\u0027", "☃\u202e", "@SCENE@", "a" * 999]
    code = "".join(f"add(shape='{word}', color='{word}', loc=({i}, 0, 1))\n" for i, word in enumerate(words))
    objects = read(code, "clevr", rotation_rep="").objects
    assert len(objects) == len(words)
    return scene_spec(objects, "clevr", standard_stage("clevr", clevr_camera(48, 32)))


@pytest.mark.parametrize("task", COMPOSERS)
def test_glb_opens_with_every_object_at_its_place(task: str, tmp_path) -> None:
    trimesh = pytest.importorskip("trimesh")
    spec = composed(task)
    path = tmp_path / "scene.glb"
    path.write_bytes(glb(spec))
    scene = trimesh.load(path)
    assert ROOT in scene.graph.nodes
    for thing in spec.objects:
        matrix, _ = scene.graph.get(thing.name)
        assert matrix == pytest.approx(Z_UP_TO_Y_UP @ object_matrix(thing), abs=1e-6)
        for number, part in enumerate(thing.parts):
            matrix, geometry = scene.graph.get(f"{thing.name}.{part.role}_{number}")
            mesh = scene.geometry[geometry]
            center = np.array([*part.center, 1.0])
            middle = (np.linalg.inv(Z_UP_TO_Y_UP) @ matrix @ [*mesh.bounds.mean(axis=0), 1.0])[:3]
            assert middle == pytest.approx((object_matrix(thing) @ center)[:3], abs=2e-3)
            color = mesh.visual.material.baseColorFactor
            assert list(color[:3]) == pytest.approx([255 * c for c in part.material.color], abs=1)
    assert ("ground" in scene.graph.nodes) == (spec.ground is not None)


def test_glb_without_trimesh_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    with pytest.raises(UserError, match=r"pip install 'igllm_jax\[render\]'"):
        glb(composed("clevr"))


@pytest.mark.parametrize("task", COMPOSERS)
def test_usda_has_every_object_at_its_place(task: str, tmp_path) -> None:
    spec = composed(task)
    text = usda(spec).decode("ascii")
    for thing in spec.objects:
        found = re.search(rf'def Xform "{identifier(thing.name)}"\n *{{\n *matrix4d xformOp:transform = (.*)\n', text)
        assert found and pytest.approx(object_matrix(thing)) == np.array(ast.literal_eval(found.group(1))).T
    pxr = pytest.importorskip("pxr", reason="usd-core is not installed")
    from pxr import Usd, UsdGeom

    assert pxr
    path = tmp_path / "scene.usda"
    path.write_text(text)
    stage, cache = Usd.Stage.Open(str(path)), UsdGeom.XformCache()
    for thing in spec.objects:
        prim = stage.GetPrimAtPath(f"/Scene/{identifier(thing.name)}")
        assert pytest.approx(object_matrix(thing), abs=1e-6) == np.array(cache.GetLocalToWorldTransform(prim)).T


def test_the_script_is_the_template_but_for_one_text() -> None:
    template = ast.parse(TEMPLATE.read_text())
    for spec in (composed("clevr"), hostile()):
        tree = ast.parse(blender_script(spec))
        (literal,) = (
            node for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith('{"camera"')
        )  # fmt: skip
        assert from_json(literal.value) == spec
        literal.value = ast.literal_eval(PLACEHOLDER)
        literal.kind = None
        assert ast.dump(tree) == ast.dump(template)


def test_predicted_words_stay_data_in_every_format() -> None:
    spec = hostile()
    for kind, export in EXPORTERS.items():
        if kind == "glb":
            pytest.importorskip("trimesh")
        content = export(spec)
        assert b"<script>" not in content or kind in ("json", "py")  # there as a text of JSON
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", thing.name) for thing in spec.objects)
    assert len({thing.name for thing in spec.objects}) == len(spec.objects)
    assert json.loads(EXPORTERS["json"](spec))["objects"][0]["words"][0][1].startswith('"""')


def test_frames_look_where_they_should() -> None:
    camera = clevr_camera(48, 32, (0.3, -0.2, 0.1))
    for matrix, position in ((camera_matrix(camera), camera.position), (facing_matrix((1.0, -2.0, 3.0)), (1, -2, 3))):
        assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3)) and np.linalg.det(matrix) > 0
        back = np.array(position) / np.linalg.norm(position)
        assert matrix[:3, 2] == pytest.approx(back) and matrix[:3, 3] == pytest.approx(np.array(position))
    assert np.isfinite(facing_matrix((0.0, 0.0, 5.0))).all()


def test_meshes_from_files_that_cannot_be_written_are_user_errors() -> None:
    part = Part("file", Material((1.0, 1.0, 1.0)), file="/nowhere/chair.obj")
    spec = SceneSpec(clevr_camera(48, 32), (), None, (ObjectSpec(0, "chair_0", (0.0, 0.0, 0.0), (part,)),))
    with pytest.raises(UserError, match=r"chair.obj: --export usda"):
        usda(spec)
    pytest.importorskip("trimesh")
    with pytest.raises(UserError, match=r"chair.obj: no mesh can be read"):
        glb(spec)
