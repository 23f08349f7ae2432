"""`igllm language`: what a file means, and what labels it cannot say."""

import json
from pathlib import Path

import pytest

from igllm_jax.errors import UserError
from igllm_jax.language import main

ROOM = Path(__file__).parents[1] / "docs" / "languages" / "room.toml"


def test_a_file_is_shown(capsys) -> None:
    assert main([str(ROOM)]) == 0
    out = capsys.readouterr().out
    for line in (
        "  wall=an earlier wall, counted from 0, required",
        "  kind='table' | 'desk' | 'chair' | 'lamp', required",
        "  yaw=0.000, absent for kind lamp",
        "wall(start=(数, 数), end=(数, 数), height=数)",
        'rotation_rep: "", yaw',
    ):
        assert line in out.splitlines()
    label = json.loads(out.partition("its label:\n")[2])
    assert {call["function"] for call in label["objects"]} == {"wall", "door", "window", "box"}


def test_labels_that_cannot_be_said_are_counted_by_reason(tmp_path: Path, capsys) -> None:
    cube = {"shape": "cube", "3d_coords": [1, 2, 3], "pixel_coords": [1, 2, 3]}
    scenes = [[cube], [cube | {"3d_coords": 3}], [cube | {"3d_coords": 3}], [cube, {"shape": "cube"}]]
    labels = [{"image_filename": f"{number}.png", "objects": objects} for number, objects in enumerate(scenes)]
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(map(json.dumps, labels)))
    assert main(["clevr", "--labels", str(file)]) == 1
    found = capsys.readouterr()
    assert "labels.jsonl: 1 of 4 scenes can be said" in found.out
    assert "2 can't, scene 1 first: 3d_coords must be 3 finite numbers, not 3" in found.err
    assert "1 can't, scene 3 first: image 3.png: an object has no pixel_coords" in found.err


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rotation_rep='6d' does not exist for task room"):
        main([str(ROOM), "--rotation_rep", "6d"])
    with pytest.raises(UserError, match=r"nowhere.json: cannot be read \(No such file"):
        main([str(ROOM), "--labels", str(tmp_path / "nowhere.json")])
