"""Scenes for the page's view: every part as a shape with a matrix, and meshes from files once for all."""

import base64
from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.render.camera import Camera
from igllm_jax.render.export.transforms import object_matrix, part_matrix
from igllm_jax.render.meshes import Y_UP
from igllm_jax.render.spec import FILE, ObjectSpec, SceneSpec

MOST_OBJECTS = 100  # of a side of a scene
MOST_FACES = 3000  # of a mesh; finer ones are made coarser
MATRIX_DIGITS = 4


def view_scene(spec: SceneSpec, meshes: "Meshes") -> list[dict[str, Any]]:
    """The objects: words, location, and parts as [kind, linear colour, metallic, the 12 numbers of a matrix]."""
    return [_object(thing, meshes) for thing in spec.objects[:MOST_OBJECTS]]


def _object(thing: ObjectSpec, meshes: "Meshes") -> dict[str, Any]:
    frame = object_matrix(thing)
    parts = []
    for part in thing.parts:
        numbers = (frame @ part_matrix(part))[:3].ravel()
        kind = meshes.name(part.file) if part.kind == FILE and part.file is not None else part.kind
        rounded = [round(float(number), MATRIX_DIGITS) for number in numbers]
        color = [round(channel, 3) for channel in part.material.color]
        parts.append([kind, color, round(part.material.metallic, 2), rounded])
    words = " ".join(word[:40] for _, word in thing.words)
    return {"index": thing.index, "words": words, "at": [round(x, 3) for x in thing.location], "parts": parts}


def view_camera(camera: Camera) -> dict[str, Any]:
    """The camera; fov_deg: of the image's height; aspect: its width over its height."""
    fov_deg = 2 * np.degrees(np.arctan(camera.height / 2 / camera.focal_pixels))
    return {
        "position": [round(x, 4) for x in camera.position],
        "target": [round(x, 4) for x in camera.look_at],
        "fov_deg": round(float(fov_deg), 3),
        "aspect": round(camera.width / camera.height, 4),
    }


class Meshes:
    """The meshes of files that scenes show, each once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def name(self, file: str) -> str:
        """What parts call the mesh of a file."""
        return f"mesh{self._numbers.setdefault(file, len(self._numbers))}"

    def content(self) -> dict[str, dict[str, str]]:
        """name -> points (float32, three each) and faces (uint32, three each) in base64, z up, the file's units."""
        return {self.name(file): _mesh(file) for file in self._numbers}


def _mesh(file: str) -> dict[str, str]:
    try:
        import trimesh
    except ImportError:
        raise UserError("showing meshes needs trimesh: pip install 'igllm_jax[report]'") from None
    try:
        mesh: Any = trimesh.load(file, force="mesh", skip_materials=True)
        points, faces = np.asarray(mesh.vertices, np.float64) @ Y_UP.T, np.asarray(mesh.faces, np.int64)
    except Exception as error:  # trimesh raises many kinds on broken files
        raise UserError(f"{file}: no mesh can be read from it ({error})") from None
    points, faces = coarser(points, faces, MOST_FACES)
    packed = (points.astype("<f4").tobytes(), faces.astype("<u4").tobytes())
    return {key: base64.b64encode(data).decode() for key, data in zip(("points", "faces"), packed, strict=True)}


def coarser(points: np.ndarray, faces: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with at most so many faces: points that share a cell of a grid become one, the middle of them.

    Source: Rossignac and Borrel, "Multi-resolution 3D approximations for rendering complex scenes" (1993).
    """
    cells = 64
    while len(faces) > most and cells > 1:
        low, size = points.min(axis=0), max(float(np.ptp(points, axis=0).max()), 1e-9)
        grid = np.floor((points - low) / size * cells).astype(np.int64)
        _, owner = np.unique(grid @ [1, cells + 1, (cells + 1) ** 2], return_inverse=True)
        counts = np.bincount(owner)
        points = np.stack([np.bincount(owner, column) / counts for column in points.T], axis=1)
        faces = owner[faces]
        is_flat = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
        faces = faces[~is_flat]
        cells = cells * 3 // 4
    return points, faces
