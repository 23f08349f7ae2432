"""Draws scenes in Blender: run by Blender's own Python, with bpy and the standard library alone.

`python worker.py` where bpy is installed, or `blender --background --python worker.py`. It reads one JSON object a line
on standard input and answers each with one line on what was standard output when it started; all else that Blender
prints goes to standard error. The first line has the settings of the process, each later one a job (see `SETTINGS` and
`JOBS`). An answer has `ok`, and `error` where that is false. Whoever asks gives names in a temporary folder, and reads
a file once the answer says that it is there.
"""

import json
import os
import sys
import traceback

import bpy
from mathutils import Matrix, Vector

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import worker_meshes  # beside this file, not in a package: nothing of ours is imported here
import worker_shading

SETTINGS = {"device": "CPU", "threads": 0, "samples": 4, "clevr_assets": None}  # threads: 0 is every core
EMPTY = "igllm_scene"  # marks the scene that jobs fill and clear
GPU_KINDS = ("OPTIX", "CUDA", "HIP", "METAL", "ONEAPI")
GROUND_HALF = 400.0  # scene units: beyond what a camera above the ground sees of it
EXPOSURE = -1.1  # stops, by eye: pictures become as bright as CLEVR's
LAMP_OBJECTS = {"key": "Lamp_Key", "fill": "Lamp_Fill", "back": "Lamp_Back"}  # in CLEVR's base_scene.blend


_open_file: dict = {}  # key: path and date of the user's file that is open; names: of its objects


def draw_scene(job, settings):
    """`scene`: a scene as JSON; what `outputs` names is written: image, mask, blend."""
    _clear(settings)
    spec = job["scene"]
    if not settings["clevr_assets"]:
        _add_world(spec["ambient"], spec["ground"] is None)
        if spec["ground"] is not None:
            _add_ground(spec["ground"])
    _add_lights(spec["lights"], settings)
    for one in spec["objects"]:
        _add_object(one, settings)
    _set_camera(spec["camera"])
    _write(job, settings)
    return {}


def draw_file(job, settings):
    """`file`: a .blend or .glb drawn as it stands there, from `camera`; `ids`: object names to numbers in the mask."""
    _open(job["file"])
    has_light = any(one.type == "LIGHT" for one in bpy.context.scene.objects)
    if not has_light:
        _add_lights(job["lights"], {**settings, "clevr_assets": None})
    if bpy.context.scene.world is None or not has_light:
        _add_world(job["ambient"], False)
    if has_light:
        job.setdefault("exposure", 0.0)  # ours goes with our lights
    for one in bpy.context.scene.objects:
        _set_id(one, job["ids"].get(one.name, 0))
    _set_camera(job["camera"])
    _write(job, settings)
    return {}


def read_file(job, settings):
    """`file`: a .blend or .glb. Answers with `objects`: what each mesh is called, how it is tagged, where it stands."""
    _open(job["file"])
    found = []
    for one in bpy.context.scene.objects:
        if one.type in ("MESH", "EMPTY", "CURVE", "SURFACE", "FONT", "META"):
            corners = [list(one.matrix_world @ Vector(corner)) for corner in one.bound_box]
            tags = {key: one[key] for key in list(one.keys()) if isinstance(one[key], (str, int, float))}
            found.append(
                {
                    "name": one.name,
                    "tags": tags,
                    "is_mesh": one.type != "EMPTY",
                    "parent": one.parent.name if one.parent else None,
                    "matrix": [list(row) for row in one.matrix_world],
                    "corners": corners,
                }
            )
    camera = bpy.context.scene.camera
    eye = None
    if camera is not None and camera.data.type == "PERSP":
        matrix = [list(row) for row in camera.matrix_world]
        eye = {"matrix": matrix, "lens_mm": camera.data.lens, "sensor_mm": camera.data.sensor_width}
    return {"objects": found, "camera": eye}


JOBS = {"scene": draw_scene, "file": draw_file, "read": read_file}


def _clear(settings):
    """An empty scene, or CLEVR's base scene."""
    _open_file.clear()
    assets = settings["clevr_assets"]
    if assets:
        bpy.ops.wm.open_mainfile(filepath=os.path.join(assets, "base_scene.blend"), load_ui=False, use_scripts=False)
        worker_meshes.forget()
        for one in bpy.data.objects:
            _set_id(one, 0)
    elif bpy.context.scene.get(EMPTY):
        for one in list(bpy.data.objects):
            bpy.data.objects.remove(one)
        for kind in (bpy.data.meshes, bpy.data.materials, bpy.data.lights, bpy.data.cameras, bpy.data.images):
            for one in [block for block in kind if not block.users and not block.use_fake_user]:
                kind.remove(one)
    else:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        worker_meshes.forget()
        bpy.context.scene[EMPTY] = True


def _open(path):
    """Opens a file, unless it is the one that is open: views of one scene follow each other."""
    key = (path, os.path.getmtime(path))
    if _open_file.get("key") == key:
        for one in [one for one in bpy.data.objects if one.name not in _open_file["names"]]:
            bpy.data.objects.remove(one)  # our camera and lights of the view before
        return
    if path.lower().endswith(".blend"):
        bpy.ops.wm.open_mainfile(filepath=path, load_ui=False, use_scripts=False)
    else:
        bpy.ops.wm.read_factory_settings(use_empty=True)
        worker_meshes.import_file(path)
    worker_meshes.forget()
    if EMPTY in bpy.context.scene:
        del bpy.context.scene[EMPTY]  # a file that we wrote ourselves: no scene to be filled and cleared
    _open_file.update(key=key, names={one.name for one in bpy.data.objects})


def _link(name, data):
    one = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(one)
    return one


def _set_id(one, number):
    """The object's flat colour says its number, byte by byte."""
    one.color = (number % 256 / 255, number // 256 % 256 / 255, number // 65536 / 255, 1.0)


def _add_world(ambient, is_backdrop):
    world = bpy.data.worlds.get("igllm") or bpy.data.worlds.new("igllm")
    bpy.context.scene.world = world
    worker_shading.light_world(world, ambient, is_backdrop)


def _add_ground(ground):
    half = GROUND_HALF
    mesh = bpy.data.meshes.new("ground")
    mesh.from_pydata([(-half, -half, 0), (half, -half, 0), (half, half, 0), (-half, half, 0)], [], [(0, 1, 2, 3)])
    material = {"color": ground["color"], "roughness": ground["roughness"]}
    mesh.materials.append(worker_shading.make_material("ground", material))
    _set_id(_link("ground", mesh), 0)


def _add_lights(lights, settings):
    for one in lights:
        lamp = bpy.data.objects.get(LAMP_OBJECTS.get(one["name"], "")) if settings["clevr_assets"] else None
        if lamp is None:
            lamp = _link("light_" + one["name"], worker_shading.make_light(one))
        lamp.location = one["position"]
        if lamp.name.startswith("light_"):
            lamp.rotation_euler = Vector(one["position"]).to_track_quat("Z", "Y").to_euler()


def _add_object(spec, settings):
    words = dict(spec["words"])
    frame = Matrix.Translation(spec["location"]) @ Matrix(spec["rotation"]).to_4x4() @ Matrix.Scale(spec["scale"], 4)
    official = worker_meshes.load_clevr(words, settings["clevr_assets"]) if settings["clevr_assets"] else None
    if official is not None:
        one, is_metal = official
        one.name = spec["name"]
        one.matrix_world = frame
        worker_shading.set_clevr_material(one, spec["parts"][0]["material"], is_metal, settings["clevr_assets"])
        _set_id(one, spec["index"] + 1)
        return
    parts, whole = spec["parts"], None
    if len(parts) > 1:  # what holds the parts together, for whoever edits the scene
        whole = _link(spec["name"], None)
        whole.matrix_world = frame
        _tag(whole, words)
    for number, part in enumerate(parts):
        name = f"{spec['name']}.{part['role']}.{number}" if whole else spec["name"]
        for mesh in worker_meshes.part_meshes(part, name):
            if part["role"] == "painted":  # another look than the file's
                mesh.materials.clear()
            if not mesh.materials:
                mesh.materials.append(worker_shading.make_material(name, part["material"]))
            one = _link(name, mesh)
            _set_id(one, spec["index"] + 1)
            if whole:
                one.parent = whole
            else:
                one.matrix_world = frame
                _tag(one, words)


def _tag(one, words):
    for key, word in words.items():
        one[key] = word


def _set_camera(spec):
    camera = bpy.data.cameras.new("igllm_camera")
    camera.sensor_fit, camera.sensor_width, camera.lens = "AUTO", spec["sensor_mm"], spec["lens_mm"]
    camera.clip_start, camera.clip_end = 0.01, 4 * GROUND_HALF
    one = _link("igllm_camera", camera)
    one.location = spec["position"]
    towards = Vector(spec["look_at"]) - Vector(spec["position"])
    one.rotation_euler = towards.to_track_quat("-Z", "Y").to_euler()
    scene = bpy.context.scene
    scene.camera = one
    scene.render.resolution_x, scene.render.resolution_y = spec["width"], spec["height"]
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x = scene.render.pixel_aspect_y = 1.0
    scene.render.use_border = False


def _write(job, settings):
    outputs = job["outputs"]
    if outputs.get("blend"):
        bpy.ops.wm.save_as_mainfile(filepath=outputs["blend"], copy=True, compress=True)
    if outputs.get("mask"):
        _prepare_mask()
        _render(outputs["mask"])
    if outputs.get("image"):
        _prepare_image(job, settings)
        _render(outputs["image"])


def _render(path):
    render = bpy.context.scene.render
    render.image_settings.media_type = "IMAGE" if hasattr(render.image_settings, "media_type") else None
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode, render.image_settings.color_depth = "RGB", "8"
    render.image_settings.compression = 15
    render.use_file_extension = False
    render.use_compositing = render.use_sequencer = False
    render.filepath = path
    bpy.ops.render.render(write_still=True)


def _prepare_mask():
    """Flat colours without light, tone curve, smoothing or dither: a pixel's bytes are the number of its object."""
    scene = bpy.context.scene
    scene.render.engine = "BLENDER_WORKBENCH"
    scene.render.film_transparent = True
    scene.render.dither_intensity = 0.0
    scene.display.render_aa = "OFF"
    shading = scene.display.shading
    shading.light, shading.color_type = "FLAT", "OBJECT"
    shading.show_shadows = shading.show_cavity = shading.show_object_outline = shading.show_xray = False
    scene.view_settings.view_transform = "Raw"
    scene.view_settings.look = "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0.0, 1.0


def _prepare_image(job, settings):
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.film_transparent = False
    scene.render.dither_intensity = 1.0
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    exposure = 0.0 if settings["clevr_assets"] else EXPOSURE  # CLEVR's own lamps are as bright as they should be
    scene.view_settings.exposure, scene.view_settings.gamma = job.get("exposure", exposure), 1.0
    cycles = scene.cycles
    cycles.device = settings["device"]
    cycles.samples, cycles.seed = settings["samples"], job.get("seed", 0)
    cycles.use_adaptive_sampling = False
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_quality = "FAST"  # half the time of HIGH, and the same picture by eye
    cycles.denoising_prefilter = "ACCURATE"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 6, 3, 4
    cycles.blur_glossy = 2.0
    cycles.caustics_reflective = cycles.caustics_refractive = False
    scene.render.threads_mode = "FIXED" if settings["threads"] else "AUTO"
    if settings["threads"]:
        scene.render.threads = settings["threads"]


def _choose_gpu():
    preferences = bpy.context.preferences.addons["cycles"].preferences
    for kind in GPU_KINDS:
        try:
            preferences.compute_device_type = kind
        except TypeError:  # this build of Blender does not have it
            continue
        preferences.get_devices()
        devices = [one for one in preferences.devices if one.type == kind]
        if devices:
            for one in preferences.devices:
                one.use = one.type == kind
            return
    raise RuntimeError("Blender finds no GPU that Cycles can use")


def _answer(out, content):
    out.write(json.dumps(content) + "\n")
    out.flush()


def main():
    """Answers line by line until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Blender prints what it does
    settings = None
    for line in sys.stdin:
        try:
            job = json.loads(line)
            if settings is None:
                settings = {**SETTINGS, **job}
                if settings["device"] == "GPU":
                    _choose_gpu()
                answer = {"version": bpy.app.version_string}
            else:
                answer = JOBS[job["job"]](job, settings)
            _answer(out, {"ok": True, **answer})
        except Exception as error:
            traceback.print_exc()
            _answer(out, {"ok": False, "error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # Blender's own end would wait for what is not needed any more
