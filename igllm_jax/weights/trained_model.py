"""A model ready to write: from a run's workdir, or from a folder of imported weights."""

import hashlib
import json
from dataclasses import dataclass, replace

import jax

from igllm_jax import config as configs
from igllm_jax import paths
from igllm_jax.data import pipeline
from igllm_jax.data.tokens import JSON_FILE, MODEL_FILE, Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.models.params import Params
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.parallel.sharding import MeshLayout, one_device, put
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import find_language, language_in
from igllm_jax.weights import base_folder, checkpoint
from igllm_jax.weights.run_model import RunModel

MAX_LENGTH = 2048  # positions of a row, the image's included: what LLaVA and the reference train with
TOKENIZER_FINGERPRINT = "tokenizer fingerprint"  # in the meta of a checkpoint
IMPORTED_TASK = "clevr"  # whose code imported weights write where nothing says it
PROMPT = "vicuna_v1"  # that imported weights are asked with where nothing says it


@dataclass(frozen=True)
class Trained:
    """A model ready to write: from a run's workdir or from a folder of imported weights."""

    model: VLMConfig
    params: Params
    tokenizer: Tokenizer
    data: pipeline.DataOptions
    train_split: str | None  # of a 2D run: tells which cells were seen
    about: dict[str, str | None]  # model_path, model_base, model_name of the predictions file
    checkpoint: str = ""  # of a run: stands for the step and what was saved with it

    def in_dtype(self, dtype: str | None) -> "Trained":
        """The same, computing in `dtype`; None: in the model's own."""
        return self if dtype is None else replace(self, model=replace(self.model, dtype=dtype))


def load_trained(
    folder: FilePath,
    layout: MeshLayout,
    *,
    is_import: bool | None = None,
    step: int | str | None = None,
    dtype: str | None = None,
    task: str | None = None,
    rotation_rep: str | None = None,
    prompt: str | None = None,
) -> Trained:
    """The model of a run's workdir, or of a folder of imported weights. is_import: which it is; None: look.

    step: of a run (default: last). task, rotation_rep, prompt: of imported weights. dtype: of the computation, None for
    the model's own. Raises: UserError where one is given that goes with the other.
    """
    if is_import is None:
        is_import = base_folder.is_base(folder)
    if is_import:
        if step is not None:
            raise UserError(f"{folder} is a folder of imported weights, which has no steps: leave out step={step!r}")
        own = load_imported(folder, task=task, rotation_rep=rotation_rep or "", prompt=prompt or PROMPT, layout=layout)
        return own.in_dtype(dtype)
    for key, value in {"task": task, "rotation_rep": rotation_rep, "prompt": prompt}.items():
        if value is not None:
            raise UserError(f"{key}={value!r} goes with imported weights; the run in {folder} brings its own")
    return load_run(folder, str(step or "last"), layout).in_dtype(dtype)


def load_run(workdir: str | FilePath, step: str, layout: MeshLayout | None = None) -> Trained:
    """The model of a run at `step` ("last", "best" or a number, with "_ema" the averages of it).

    layout: where (default: the first device).
    """
    options = configs.read_run(workdir)
    found, source = checkpoint.find_source(workdir, step)
    layout = one_device() if layout is None else layout
    run_model = RunModel.of(options, layout)
    values = checkpoint.load_params(workdir, source)
    tokenizer = Tokenizer.load(workdir)
    check_tokenizer(workdir, found, tokenizer)
    trained = {path: put(values[path], shape.sharding) for path, shape in run_model.trainable.items()}
    about = {"model_path": str(workdir), "model_base": options.base or None}
    return Trained(
        run_model.model,
        {**run_model.load_frozen(), **trained},
        tokenizer,
        options.data,
        options.train_split,
        {**about, "model_name": paths.name_of(workdir)},
        _digest([source, checkpoint.read_meta(workdir, found)]),
    )


def _digest(value: object) -> str:
    """16 hex digits that stand for JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_tokenizer(workdir: str | FilePath, step: int, tokenizer: Tokenizer) -> None:
    """Raises: UserError where the checkpoint was trained with another tokenizer than the one that lies there."""
    saved = checkpoint.read_meta(workdir, step).get(TOKENIZER_FINGERPRINT)
    if saved not in (None, tokenizer.fingerprint):
        file = find_tokenizer(workdir) or paths.to_path(workdir) / MODEL_FILE
        raise UserError(
            f"{file} is not the tokenizer that step {step} was trained with "
            f"({tokenizer.fingerprint}, not {saved}): bring back the one that the run began with"
        )


def load_imported(
    folder: str | FilePath, *, task: str | None, rotation_rep: str, prompt: str, layout: MeshLayout | None = None
) -> Trained:
    """The model of a folder that tools/convert_weights.py made; weights in the dtype they were stored in.

    task: a language's name or file; None for the one that lies in the folder, or CLEVR's where none does.
    """
    language = (language_in(folder) if task is None else None) or find_language(task or IMPORTED_TASK)
    language.settings(rotation_rep)
    model = base_folder.read_config(folder)
    vision = model.vision
    options = pipeline.DataOptions(
        task=language,
        rotation_rep=rotation_rep,
        head=model.head,
        prompt=prompt,
        image_size=vision.image_size,
        image_mean=vision.image_mean,
        image_aspect_ratio=base_folder.aspect_ratio(folder),
        max_length=MAX_LENGTH,
        num_image_tokens=vision.num_patches,
    )
    about = {"model_path": str(folder), "model_base": None, "model_name": paths.name_of(folder)}
    stored, model_skeleton = base_folder.paths(folder), skeleton(model)
    absent = sorted({path.split("/")[0] for path in model_skeleton.shapes if path not in stored})
    if absent:
        raise UserError(
            f"--model {folder} holds no {', '.join(absent)}, so it can't write code yet: train it with model.base, or "
            "import it with --projector or --adapter"
        )
    if find_tokenizer(folder) is None:
        raise UserError(f"--model {folder} holds no {MODEL_FILE} or {JSON_FILE}: import it again with --tokenizer FILE")
    shardings = (one_device() if layout is None else layout).params(stored, model_skeleton.axes)
    wanted = {path: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=shardings[path]) for path, s in stored.items()}
    return Trained(model, base_folder.restore(folder, wanted), Tokenizer.load(folder), options, None, about)
