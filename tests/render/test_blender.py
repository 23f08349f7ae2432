"""Blender itself, where there is one: `igllm render --setup`, or IGLLM_BLENDER_PYTHON."""

import base64
import dataclasses
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igllm_jax import make_data
from igllm_jax.errors import UserError
from igllm_jax.render.blender.drawing import BlenderRenderer, scene_job
from igllm_jax.render.blender.environment import blender_python, find_blender
from igllm_jax.render.blender.process import Worker, WorkerOptions
from igllm_jax.render.camera import clevr_camera
from igllm_jax.render.dataset import compose_example
from igllm_jax.render.export.blender_script import blender_script
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.scenes import RECOVERED, label_stage, scene_spec, standard_stage
from igllm_jax.render.spec import Ground, Light, Material, ObjectSpec, Part, SceneSpec, matrix
from igllm_jax.scene.labels import read_labels
from igllm_jax.scene.language import find_language
from igllm_jax.scene.scene import Scene

pytestmark = pytest.mark.skipif(blender_python() is None, reason="no Blender environment")
RED, METAL = Material((0.7, 0.03, 0.03)), Material((0.2, 0.4, 0.8), metallic=1.0, roughness=0.2)
LIGHTS = (Light("key", (6.4, -2.9, 4.3), 0.7), Light("point", (-4.0, -4.0, 3.0), 0.3, size=0.0))


# y up: a square of side 2 at y = -1, the tip at y = 1.
PYRAMID = "v -1 -1 -1\nv 1 -1 -1\nv 1 -1 1\nv -1 -1 1\nv 0 1 0\nf 1 2 3 4\nf 2 1 5\nf 3 2 5\nf 4 3 5\nf 1 4 5\n"


@pytest.fixture(scope="module")
def worker():
    with Worker(WorkerOptions(find_blender(), samples=2)) as started:
        yield started


def scene(*objects: ObjectSpec, width: int = 96, height: int = 64, **changes) -> SceneSpec:
    spec = SceneSpec(clevr_camera(width, height, (0.3, -0.2, 0.1)), LIGHTS, Ground((0.4, 0.4, 0.4)), objects)
    return dataclasses.replace(spec, **changes)


def sphere(index: int, x: float, y: float, radius: float = 0.5) -> ObjectSpec:
    return ObjectSpec(index, f"ball_{index}", (x, y, radius), (Part("sphere", RED),), scale=radius)


def middle(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def test_masks_have_the_object_numbers_where_the_camera_says(worker):
    numbers = (0, 7, 255, 70_000)  # one, two and three bytes
    spots = [(-2.0, -2.0), (2.0, -1.5), (-1.5, 2.0), (1.8, 2.2)]
    spec = scene(*(sphere(n, x, y) for n, (x, y) in zip(numbers, spots, strict=True)), width=240, height=160)
    ids = BlenderRenderer(worker).ids(spec)
    assert ids.dtype == np.int32 and ids.shape == (160, 240)
    assert set(np.unique(ids)) == {0, *(n + 1 for n in numbers)}
    for thing in spec.objects:
        expected = spec.camera.project(np.array(thing.location))[0, :2]
        assert np.abs(middle(ids == thing.index + 1) - expected).max() < 0.7


def test_sheared_parts_keep_their_shear(worker):
    sheared = Part("cube", METAL, axes=((0.3, 0.0, 0.9), (0.0, 0.3, 0.0), (0.0, 0.0, 1.0)))
    upright = dataclasses.replace(sheared, axes=((0.3, 0.0, 0.0), (0.0, 0.3, 0.0), (0.0, 0.0, 1.0)))
    boxes = []
    for part in (sheared, upright):
        ids = BlenderRenderer(worker).ids(scene(ObjectSpec(0, "box", (0.0, 0.0, 1.0), (part,)), width=240, height=160))
        columns = np.flatnonzero((ids == 1).any(axis=0))
        boxes.append(columns.max() - columns.min())
    points = [[0.3 * x + 0.9 * z, 0.3 * y, z + 1] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    across = clevr_camera(240, 160, (0.3, -0.2, 0.1)).project(np.array(points))[:, 0]
    assert abs(boxes[0] - (across.max() - across.min())) < 3 and boxes[0] > boxes[1] + 20


def test_a_picture_shows_colours_light_and_the_same_whenever_it_is_drawn(worker):
    striped = Material((0.8, 0.8, 0.1), pattern="stripes", second=(0.0, 0.0, 0.8), repeats=1.0)
    turn = matrix([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    toy = ObjectSpec(
        1, "toy", (-1.0, -1.0, 0.6), (Part("cube", striped), Part("cone", METAL, (0.0, 0.0, 2.0))), turn, 0.6
    )
    spec = scene(sphere(0, 1.0, -1.0, 0.7), toy, width=120, height=80)
    one, two = BlenderRenderer(worker).draw(spec, seed=3), BlenderRenderer(worker).draw(spec, seed=3)
    assert np.array_equal(one.ids, two.ids)
    pixels = np.asarray(one.image, np.float64)
    assert np.abs(pixels - np.asarray(two.image)).mean() < 1
    red, ground = pixels[one.ids == 1].mean(axis=0), pixels[one.ids == 0].mean(axis=0)
    assert red[0] > 2 * max(red[1:]) and ground.std() < 12 and 60 < ground.mean() < 190
    striped_pixels = pixels[one.ids == 2]
    assert (striped_pixels[:, 0] > striped_pixels[:, 2] + 40).any()
    assert (striped_pixels[:, 2] > striped_pixels[:, 0] + 40).any()
    assert list(BlenderRenderer(worker).visible_pixels(spec)) == [(one.ids == 1).sum(), (one.ids == 2).sum()]


def test_a_backdrop_without_ground_is_even(worker):
    found = BlenderRenderer(worker).draw(scene(sphere(0, 0.0, 0.0, 0.5), ground=None))
    wall = np.asarray(found.image, np.float64)[found.ids == 0]
    assert wall.std(axis=0).max() < 6


@pytest.mark.parametrize("ending", ["obj", "blend"])
def test_meshes_from_files(worker, ending, tmp_path):
    file = tmp_path / f"pyramid.{ending}"
    if ending == "obj":
        file.write_text(PYRAMID)
    else:
        worker.ask(scene_job(scene(ObjectSpec(0, "cube", (0, 0, 0), (Part("cube", RED),)), ground=None), blend=file))
    part = Part("file", METAL, file=str(file))
    ids = BlenderRenderer(worker).ids(scene(ObjectSpec(0, "mesh", (0.0, 0.0, 1.0), (part,)), width=240, height=160))
    rows, columns = np.nonzero(ids)
    corners = np.array([[x, y, 0.0] for x in (-1, 1) for y in (-1, 1)])
    expected = clevr_camera(240, 160, (0.3, -0.2, 0.1)).project(corners)
    assert abs(columns.min() - expected[:, 0].min()) < 2.5 and abs(rows.max() - expected[:, 1].max()) < 2.5


def test_a_file_without_a_mesh_is_named(worker, tmp_path):
    missing = Part("file", RED, file=str(tmp_path / "nothing.obj"))
    with pytest.raises(UserError, match=r"nothing\.obj"):
        BlenderRenderer(worker).ids(scene(ObjectSpec(0, "mesh", (0.0, 0.0, 1.0), (missing,))))


def test_image_files_are_whole_or_not_there(worker, tmp_path):
    image = tmp_path / "image.png"
    worker.ask(scene_job(scene(sphere(0, 0.0, 0.0)), image=image))
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
    with Image.open(image) as opened:
        assert (opened.size, opened.mode, opened.format) == ((96, 64), "RGB", "PNG")


def tagged_cube() -> dict:
    """glTF, y up: a cube of side 1 around (0.5, 0.25, 0.5) in our axes, turned by 30 degrees, on a floor of its own."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], "<f4")
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    indices = np.array([[a, b, c, a, c, d] for a, b, c, d in sides], "<u2")
    content, size = corners.tobytes() + indices.tobytes(), corners.nbytes
    half = np.radians(15)
    turned = {"translation": [0.5, 0.5, -0.25], "rotation": [0.0, float(np.sin(half)), 0.0, float(np.cos(half))]}
    uri = "data:application/octet-stream;base64," + base64.b64encode(content).decode()
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [
            {"name": "thing", "mesh": 0, "extras": {"shape": "cube", "color": "green"}, **turned},
            {"name": "floor", "mesh": 0, "translation": [0.0, -0.05, 0.0], "scale": [20.0, 0.1, 20.0]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3", "min": [-0.5] * 3, "max": [0.5] * 3},
            {"bufferView": 1, "componentType": 5123, "count": indices.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": size},
            {"buffer": 0, "byteOffset": size, "byteLength": indices.nbytes},
        ],
        "buffers": [{"byteLength": len(content), "uri": uri}],
    }


def own_scenes(worker: Worker, folder: Path) -> dict[str, tuple[float, ...]]:
    """Two scenes of a user's: one by names, one by custom properties, as .blend and .gltf; where their objects are."""
    folder.mkdir()
    turn = matrix([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    cube = ObjectSpec(0, "large_red_metal_cube", (1.0, -1.0, 0.7), (Part("cube", METAL),), turn, 0.7)
    ball = ObjectSpec(1, "small_blue_rubber_sphere", (-1.0, 1.0, 0.35), (Part("sphere", RED),), scale=0.35)
    worker.ask(scene_job(scene(cube, ball), blend=folder / "b_names.blend"))
    (folder / "a_tags.gltf").write_text(json.dumps(tagged_cube()))
    return {"cube": (1.0, -1.0, 0.7), "sphere": (-1.0, 1.0, 0.35)}


def test_scenes_of_a_users_own_become_data(worker, tmp_path):
    expected = own_scenes(worker, tmp_path / "scenes")
    arguments = ["--from", str(tmp_path / "scenes"), "--renderer", "blender", "--views", "2", "--samples", "1"]
    arguments += ["--image_size", "120x80", "--workers", "1", "--num_val_scenes", "1"]
    assert make_data.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    named = read_labels(tmp_path / "out/labels/val_ID.json", "clevr")
    assert [len(one.objects) for one in named] == [2, 2] and named[0].objects[0].pixel != named[1].objects[0].pixel
    for thing in named[0].objects:
        assert np.allclose(thing.location, expected[thing.shape], atol=2e-3)
    cube = next(thing for thing in named[0].objects if thing.shape == "cube")
    assert (cube.size, cube.color, cube.material) == ("large", "red", "metal")
    assert cube.rotation == pytest.approx((np.degrees(np.arctan2(0.6, 0.8)),), abs=0.1)
    tagged = read_labels(tmp_path / "out/labels/train.json", "clevr")
    assert [(thing.shape, thing.color) for one in tagged for thing in one.objects] == [("cube", "green")] * 2
    assert np.allclose(tagged[0].objects[0].location, (0.5, 0.25, 0.5), atol=2e-3)
    assert tagged[0].objects[0].rotation == pytest.approx((30.0,), abs=0.1)
    with tarfile.open(tmp_path / "out/images/val_ID.tar") as tar:
        picture = np.asarray(Image.open(tar.extractfile(named[0].image)).convert("RGB"), np.float64)
    x, y, _ = (round(number) for number in named[0].objects[1].pixel)
    assert picture.shape == (80, 120, 3) and np.abs(picture[y, x] - picture[5, 5]).max() > 25


def test_a_scene_without_named_objects_is_an_error_that_says_so(worker, tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    worker.ask(scene_job(scene(ObjectSpec(0, "thing", (0, 0, 0.5), (Part("cube", RED),))), blend=folder / "x.blend"))
    with pytest.raises(UserError, match=r"x\.blend: no object is named or tagged with a shape"):
        make_data.main(["--from", str(folder), "--renderer", "blender", "--out", str(tmp_path / "out")])


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Over the scene: pixels that show the same object in both, among those that show one in either."""
    return float(((one == other) & (one > 0)).sum() / ((one > 0) | (other > 0)).sum())


def test_the_exported_script_builds_the_same_scene(worker, tmp_path):
    spec = compose_example(Recipe("shapenet", 4, 240, 160, 3, 3), "train", 0)
    (tmp_path / "scene.py").write_bytes(blender_script(spec))
    saved = tmp_path / "scene.blend"
    subprocess.run(
        [blender_python(), "scene.py", str(saved)], cwd=tmp_path, check=True, capture_output=True, timeout=120
    )
    renderer = BlenderRenderer(worker)
    names = [one["name"] for one in renderer.read_file(saved)["objects"]]
    ids = {name: thing.index + 1 for name in names for thing in spec.objects if name.startswith(thing.name + ".")}
    built = renderer.draw_file(saved, standard_stage("shapenet", spec.camera), ids)
    assert iou(built.ids, renderer.ids(spec)) > 0.99


def test_recovered_cameras_show_the_same_scene(worker):
    """Labels as the released ones are: without camera, but with pixel_coords."""
    renderer, found = BlenderRenderer(worker), []
    for index in range(5):
        spec = compose_example(Recipe("clevr", 5, 480, 320, 3, 10), "train", index)
        scene_of_label = Scene.from_label(spec.label, "clevr")
        stage, source = label_stage(spec.label, scene_of_label, find_language("clevr"), 480, 320)
        assert source == RECOVERED
        found.append(iou(renderer.ids(spec), renderer.ids(scene_spec(scene_of_label.objects, "clevr", stage))))
    assert np.mean(found) > 0.97


def test_a_data_set_that_was_killed_goes_on_with_the_same_labels(tmp_path):
    options = ["clevr", "--renderer", "blender", "--samples", "1", "--num_train", "4", "--num_val", "1"]
    options += ["--image_size", "96x64", "--max_objects", "4", "--workers", "1"]
    program = "import sys; from igllm_jax.make_data import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", program, *options, "--out", str(tmp_path / "x")])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("x/.examples/*/*/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [path.name for path in (tmp_path / "x").iterdir()] == [".examples"]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("x/.examples/*/*/*.json")}
    assert make_data.main([*options, "--out", str(tmp_path / "x"), "--shard", "2/2"]) == 0
    assert kept and all(path.stat().st_mtime_ns == date for path, date in kept.items())
    for name in ("x", "y"):
        assert make_data.main([*options, "--out", str(tmp_path / name)]) == 0
    for split in ("train", "val_ID", "val_OOD"):
        one, other = ((tmp_path / name / f"labels/{split}.json").read_bytes() for name in ("x", "y"))
        assert one == other
        label = json.loads(one)
        assert label["info"]["version"] == "blender" and label["info"]["samples"] == 1
        for entry in label["scenes"]:
            assert entry["rendering"]["camera"]["position"] and len(entry["rendering"]["lights"]) == 3


def test_models_of_a_folder_stand_in_the_pictures(worker, tmp_path):
    pytest.importorskip("trimesh")
    for synset, number in (("03001627", 4), ("03636649", 1)):
        for index in range(number):
            file = tmp_path / "shapes" / synset / f"m{index}" / "models/model_normalized.obj"
            file.parent.mkdir(parents=True)
            file.write_text(PYRAMID)
    meshes = str(tmp_path / "shapes")
    renderer = BlenderRenderer(worker)
    for task, split, words in (
        ("shapenet", "train", {"chair_0", "chair_1", "chair_2", "lamp_0"}),
        ("shapenet", "val_OOD_shape", {"chair_3"}),
        ("so3", "train", {"chair_0"}),
        ("sixdof", "val_OOD", {"chair_0"}),
    ):
        recipe = Recipe(task, 1, 160, 120, 2, 2, meshes=meshes)
        spec = compose_example(recipe, split, 0, renderer.visible_pixels)
        assert {one["shape"] for one in spec.label["objects"]} <= words
        ids = renderer.ids(spec)
        for thing, entry in zip(spec.objects, spec.label["objects"], strict=True):
            rows, columns = np.nonzero(ids == thing.index + 1)
            assert len(rows) > 50
            inside = spec.camera.project(np.array(thing.location))[0, :2]
            assert np.abs(inside - entry["pixel_coords"][:2]).max() <= 0.5 and columns.min() < inside[0] < columns.max()
            if task == "shapenet":  # upright: z of the file is y, so its tip is above its middle
                tip = spec.camera.project(np.array(thing.location) + np.array([0.0, 0.0, 0.8]))[0, :2]
                assert abs(rows.min() - tip[1]) < 2.5


# Stand-ins for CLEVR's official files: the same names of files, objects, lamps, node groups and sockets.
MAKE_CLEVR_FILES = """
import sys, bpy
root = sys.argv[1]
def save(path, blocks):
    bpy.data.libraries.write(f"{root}/{path}", set(blocks), fake_user=True)
for name, add in (
    ("SmoothCube_v2", lambda: bpy.ops.mesh.primitive_cube_add(size=2)),
    ("Sphere", lambda: bpy.ops.mesh.primitive_uv_sphere_add(radius=1)),
    ("SmoothCylinder", lambda: bpy.ops.mesh.primitive_cylinder_add(radius=1, depth=2)),
):
    add()
    bpy.context.object.name = name
    save(f"shapes/{name}.blend", [bpy.context.object])
for name, file, shader in (("Rubber", "Rubber", "BsdfDiffuse"), ("MyMetal", "MyMetal", "BsdfAnisotropic")):
    group = bpy.data.node_groups.new(name, "ShaderNodeTree")
    group.interface.new_socket("Color", in_out="INPUT", socket_type="NodeSocketColor")
    group.interface.new_socket("Shader", in_out="OUTPUT", socket_type="NodeSocketShader")
    start, node, end = (group.nodes.new(kind) for kind in ("NodeGroupInput", f"ShaderNode{shader}", "NodeGroupOutput"))
    group.links.new(start.outputs[0], node.inputs["Color"])
    group.links.new(node.outputs[0], end.inputs[0])
    save(f"materials/{file}.blend", [group])
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.mesh.primitive_plane_add(size=100)
for name, position in (("Key", (6, -3, 4)), ("Fill", (-5, -4, 3)), ("Back", (-1, 3, 6))):
    bpy.ops.object.light_add(type="AREA", location=position)
    bpy.context.object.name, bpy.context.object.data.energy = "Lamp_" + name, 300
bpy.ops.object.light_add(type="SUN")
bpy.ops.wm.save_as_mainfile(filepath=f"{root}/base_scene.blend")
"""


def test_clevrs_own_files(worker, tmp_path):
    for folder in ("shapes", "materials"):
        (tmp_path / folder).mkdir()
    subprocess.run([blender_python(), "-c", MAKE_CLEVR_FILES, str(tmp_path)], check=True, capture_output=True)
    arguments = ["clevr", "--renderer", "blender", "--clevr_assets", str(tmp_path), "--samples", "2", "--workers", "1"]
    arguments += ["--num_train", "1", "--num_val", "1", "--max_objects", "3", "--image_size", "120x80"]
    assert make_data.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    spec = compose_example(Recipe("clevr", 0, 120, 80, 3, 3), "train", 0)
    with Worker(WorkerOptions(find_blender(), samples=2, clevr_assets=str(tmp_path))) as official:
        drawn = BlenderRenderer(official).draw(spec)
        again = BlenderRenderer(official).draw(spec)
    assert np.array_equal(drawn.ids, again.ids)
    assert iou(drawn.ids, BlenderRenderer(worker).ids(spec)) > 0.93  # their edges are not bevelled
    pixels = np.asarray(drawn.image, np.float64)
    for thing in spec.objects:
        color = np.array(thing.parts[0].material.color)
        seen = pixels[drawn.ids == thing.index + 1].mean(axis=0)
        assert np.corrcoef(color, seen)[0, 1] > 0.9 or np.ptp(color) < 0.01
