"""Folders of meshes as models with words, and the boxes around them."""

import numpy as np
import pytest

from igllm_jax.errors import UserError
from igllm_jax.render.dataset import compose_example, label_entry
from igllm_jax.render.meshes import box, find_models, is_test_model, model_part
from igllm_jax.render.objects import mesh_object, plain_words
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.roles import Roles
from igllm_jax.render.scenes import label_stage, scene_spec
from igllm_jax.render.spec import FILE
from igllm_jax.render.world import lowest, world_parts
from igllm_jax.scene.language import find_language
from igllm_jax.scene.scene import Scene

TETRAHEDRON = "v 0 0 0\nv 4 0 0\nv 0 3 0\nv 0 0 2\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"  # y up


def test_files_and_shapenets_layout_give_words(tmp_path):
    (tmp_path / "mug.glb").write_bytes(b"")
    (tmp_path / "my toy.obj").write_text(TETRAHEDRON)
    (tmp_path / "notes.txt").write_text("")
    for model in ("b", "a", "d", "c"):
        folder = tmp_path / "02958343" / model / "models"
        folder.mkdir(parents=True)
        (folder / "model_normalized.obj").write_text(TETRAHEDRON)
    models = find_models(str(tmp_path))
    assert [model.word for model in models] == ["car_0", "car_1", "car_2", "car_3", "mug", "my_toy"]
    assert "/02958343/a/" in models[0].file and models[0].name == "car" and models[4].name == "mug"
    assert [is_test_model(model, models) for model in models] == [False, False, False, True, False, False]


def test_the_box_has_z_up_and_the_part_reaches_one(tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / "x.obj").write_text(TETRAHEDRON)
    (model,) = find_models(str(tmp_path))
    low, high = box(model.file)
    assert np.allclose(low, (0, -2, 0)) and np.allclose(high, (4, 0, 3))
    part = model_part(model, None)
    corners = np.array(part.center) + np.array([low, high]) @ np.array(part.axes).T
    assert np.allclose(corners, [(-1, -0.5, -0.75), (1, 0.5, 0.75)])
    (part,) = world_parts(mesh_object(model, Roles(shape="x", location=(1.0, 0.0, 2.0)), 0, 2.0))
    assert np.allclose(part.center, (1, 0, 2)) and lowest([part]) == pytest.approx(0.5)


def test_what_is_no_mesh_is_named(tmp_path):
    with pytest.raises(UserError, match=r"expected files that end in \.glb"):
        find_models(str(tmp_path))
    pytest.importorskip("trimesh")
    (tmp_path / "x.obj").write_text("nothing")
    with pytest.raises(UserError, match=r"x\.obj"):
        box(str(tmp_path / "x.obj"))
    for name in ("a b.obj", "a_b.obj"):
        (tmp_path / name).write_text(TETRAHEDRON)
    find_models.cache_clear()
    with pytest.raises(UserError, match="are both 'a_b'; rename one"):
        find_models(str(tmp_path))


def test_labels_show_the_models_that_they_were_made_with(tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / "mug.obj").write_text(TETRAHEDRON)
    find_models.cache_clear()
    recipe = Recipe("sixdof", 3, 48, 32, 1, 1, meshes=str(tmp_path))
    for split in ("train", "val_OOD"):
        made = compose_example(recipe, split, 0)
        label = label_entry(made, recipe)
        scene = Scene.from_label(label, "sixdof")
        stage, _ = label_stage(label, scene, find_language("sixdof"), 48, 32)
        (thing,) = scene_spec(scene.objects, "sixdof", stage, meshes=str(tmp_path)).objects
        (own,) = made.objects
        assert thing.parts == own.parts and thing.parts[0].kind == FILE and thing.scale == own.scale
        assert thing.location == own.location and np.allclose(thing.rotation, own.rotation)
        assert not plain_words(scene.objects[0], find_language("sixdof"), {"mug"})
        (ball,) = scene_spec(scene.objects, "sixdof", stage).objects  # without the folder: what an unknown word is
        assert ball.parts[0].kind == "sphere"
