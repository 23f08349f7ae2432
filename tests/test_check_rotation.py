"""Which unit CLEVR's labels are in, told from pictures that are turned as one of them says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from igllm_jax import check_rotation, make_data
from igllm_jax.check_rotation import Difference, confidence, image_differences, verdict
from igllm_jax.errors import UserError
from igllm_jax.render import clevr_camera, draw_objects
from igllm_jax.render.dataset import make_example
from igllm_jax.render.recipe import Recipe
from igllm_jax.render.yaw import seen_yaw_deg, smooth
from igllm_jax.scene.scene import Object, Scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of CLEVR's size whose labels are in degrees, as the pictures are."""
    folder = tmp_path_factory.mktemp("clevr")
    counts = ["--num_train", "20", "--num_val", "1", "--workers", "1", "--min_objects", "4", "--max_objects", "8"]
    make_data.main(["clevr", "--out", str(folder), *counts])
    return folder


def run(folder: Path, change, capsys: pytest.CaptureFixture, *more: str) -> str:
    """What the command prints when every object's label went through `change`."""
    content = json.loads((folder / "labels" / "train.json").read_text())
    for scene in content["scenes"]:
        for item in scene["objects"]:
            change(item)
    labels = folder / "labels" / "changed.json"
    labels.write_text(json.dumps(content))
    images = str(folder / "images" / "train.tar")
    assert check_rotation.main(["--images", images, "--labels", str(labels), *more]) == 0
    return capsys.readouterr().out


def nothing(item: dict) -> None:
    pass


def to_radians(item: dict) -> None:
    """Numbers up to 360 that are radians of the turn in the picture, as CLEVR's own generator leaves them."""
    turns = (round(item["rotation"]) % 58) * 2 * np.pi
    item["rotation"] = np.radians(item["rotation"]) + turns


def any_turn(item: dict) -> None:
    item["rotation"] = 7919 * item["rotation"] % 360


def test_labels_in_degrees(folder: Path, capsys: pytest.CaptureFixture) -> None:
    said = run(folder, nothing, capsys)
    assert "the images follow deg: set --config.data.rotation_unit=deg" in said
    assert re.search(r"\d\d of \d\d cubes that tell are nearer to deg, confidence 1 - \d", said)
    medians = {unit: float(re.search(rf"^{unit} +([\d.]+)", said, re.M).group(1)) for unit in ("deg", "rad")}
    assert medians["deg"] < 3 and 12 < medians["rad"] < 33
    assert re.match(r"\d\d cubes in 20 images", said)
    assert "cubes in 5 images" in run(folder, nothing, capsys, "--limit", "5")


def test_labels_in_radians(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert "the images follow rad: set --config.data.rotation_unit=rad" in run(folder, to_radians, capsys)


@pytest.mark.parametrize(("change", "unit"), [(nothing, "deg"), (to_radians, "rad"), (any_turn, None)])
def test_both_readings_drawn_again(folder: Path, capsys: pytest.CaptureFixture, change, unit: str | None) -> None:
    said = run(folder, change, capsys, "--renderer", "flat", "--workers", "1")
    if unit is None:
        assert "the images do not tell" in said
    else:
        nearer, of = map(int, re.search(rf"(\d+) of (\d+) cubes that tell are nearer to {unit}", said).groups())
        assert nearer > 0.9 * of and of > 20 and f"set --config.data.rotation_unit={unit}" in said


def test_the_confidence_is_that_of_a_sign_test() -> None:
    cubes = [Difference({"deg": 1.0, "rad": 30.0})] * 9 + [Difference({"deg": 30.0, "rad": 1.0})]
    assert confidence(cubes) == "9 of 10 cubes that tell are nearer to deg, confidence 1 - 0.021"  # 22 of 1024
    assert confidence([Difference({"deg": 3.0, "rad": 4.0})]) == "no cube tells the units apart"


def test_labels_that_say_nothing_about_the_images(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert "the images do not tell" in run(folder, any_turn, capsys)


def test_a_verdict_needs_a_clear_lead_and_a_good_fit() -> None:
    def cubes(deg: float, rad: float, count: int) -> list[Difference]:
        return [Difference({"deg": deg, "rad": rad})] * count

    assert verdict(cubes(1.0, 20.0, 50)) == "deg" and verdict(cubes(20.0, 1.0, 50)) == "rad"
    assert verdict(cubes(1.0, 20.0, 9)) is None  # nine in a row happen
    assert verdict(cubes(12.0, 20.0, 50)) is None  # nearer, but not near
    assert verdict(cubes(1.0, 20.0, 28) + cubes(20.0, 1.0, 22)) is None
    assert verdict([]) is None


@pytest.mark.parametrize("yaw_deg", [0.0, 14.0, 45.0, 89.0, 200.0])
@pytest.mark.parametrize("material", ["rubber", "metal"])
def test_a_cubes_yaw_is_read_off_its_picture(yaw_deg: float, material: str) -> None:
    camera = clevr_camera(480, 320)
    cube = Object(
        size="large", color="blue", material=material, shape="cube", location=(0.5, -0.5, 0.7), rotation=(yaw_deg,)
    )
    picture = smooth(np.asarray(draw_objects(Scene((cube,), "i"), "clevr")))
    seen = seen_yaw_deg(picture, camera, cube.replace(rotation=None), [cube])
    assert seen is not None and abs((seen - yaw_deg + 45) % 90 - 45) <= 3
    in_front = Object(size="large", color="red", material="rubber", shape="sphere", location=(2.25, -2.0, 1.86))
    assert seen_yaw_deg(picture, camera, cube, [cube, in_front]) is None  # hidden: nothing is guessed
    assert seen_yaw_deg(picture, camera, cube.replace(location=(9.0, -9.0, 0.7)), []) is None
    assert seen_yaw_deg(picture, camera, cube.replace(size=None), []) is None


def test_scenes_whose_camera_is_not_known_are_left_out() -> None:
    image, label = make_example(Recipe("clevr", 0, 240, 160, 4, 6), "train", 0)
    scene, picture = Scene.from_label(label, "clevr"), np.asarray(image)
    assert image_differences(picture, scene) is not None
    assert image_differences(picture, Scene(scene.objects[:2], "i")) is None
    assert image_differences(np.asarray(image.resize((336, 336))), scene) is None  # pixel_coords of another size


def test_errors(folder: Path, tmp_path: Path) -> None:
    images, labels = str(folder / "images" / "train.tar"), tmp_path / "labels.json"
    with pytest.raises(UserError, match=r"--limit: expected a whole number from 1 to .*, got '0'"):
        check_rotation.main(["--images", images, "--labels", str(labels), "--limit", "0"])
    content = json.loads((folder / "labels" / "train.json").read_text())["scenes"]
    labels.write_text(json.dumps([{**scene, "objects": scene["objects"][:2]} for scene in content]))
    with pytest.raises(UserError, match=r"labels.json: no image has 3 objects whose 3d_coords and pixel_coords fit"):
        check_rotation.main(["--images", images, "--labels", str(labels)])
    for scene in content:
        for item in scene["objects"]:
            item["shape"] = "sphere"
    labels.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"labels.json: no cube with a rotation can be seen in 20 images"):
        check_rotation.main(["--images", images, "--labels", str(labels)])
