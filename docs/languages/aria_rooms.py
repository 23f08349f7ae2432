"""An importer as an example: the text lines of Aria Synthetic Environments to labels of room.toml.

    python docs/languages/aria_rooms.py SCENE_FOLDER... > labels.jsonl

Each folder holds `ase_scene_language.txt`, lines such as
`make_wall, id=0, a_x=-2.5, a_y=0.0, a_z=0.0, b_x=2.5, b_y=0.0, b_z=0.0, height=2.7` and
`make_door, id=1000, wall0_id=0, wall1_id=3, position_x=0.0, position_y=0.0, position_z=1.0, width=0.9, height=2.0`.
The image of a scene is named after its folder: `FOLDER.png`; labels come out one a line, which igllm reads.
"""

import json
import sys
from pathlib import Path
from typing import Any

FILE = "ase_scene_language.txt"


def call(line: str) -> dict[str, Any] | None:
    """One line as a label's call, None for a command that room.toml does not have."""
    command, *parts = (part.strip() for part in line.split(","))
    values = dict(part.split("=", 1) for part in parts)

    def numbers(*keys: str) -> list[float]:
        return [float(values[key]) for key in keys]

    if command == "make_wall":
        ends = {"start": numbers("a_x", "a_y"), "end": numbers("b_x", "b_y")}
        return {"function": "wall", "id": int(values["id"]), **ends, "height": float(values["height"])}
    if command in ("make_door", "make_window"):
        place = numbers("position_x", "position_y", "position_z")
        size = {key: float(values[key]) for key in ("width", "height")}
        return {"function": command.removeprefix("make_"), "wall": int(values["wall0_id"]), "position": place, **size}
    if command == "make_bbox":
        box = {
            "center": numbers("position_x", "position_y", "position_z"),
            "size": numbers("scale_x", "scale_y", "scale_z"),
        }
        return {"function": "box", "kind": values["class"], **box, "yaw": float(values["angle_z"])}
    return None


def label(folder: Path) -> dict[str, Any]:
    """The label of one scene's folder."""
    lines = (folder / FILE).read_text().splitlines()
    calls = [call(line) for line in lines if line.strip()]
    return {"image_filename": f"{folder.name}.png", "objects": [found for found in calls if found is not None]}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(label(Path(name))))
