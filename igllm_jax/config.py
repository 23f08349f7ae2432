"""Config files: loading with overrides, checking, and handing each part its own frozen dataclass."""

import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from igllm_jax.data.options import VALUES_BEFORE
from igllm_jax.data.pipeline import DataOptions, Source
from igllm_jax.errors import UserError
from igllm_jax.models.float_heads import FLOAT_HEADS
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.scene.language import LANGUAGE_FILE, find_language
from igllm_jax.training.optim import OptimOptions
from igllm_jax.training.options import HeldOutOptions, LossOptions, RunOptions

CONFIG_FILE = "config.json"
# A resumed run may change these: they don't change what is learned from a step on (save for the number of steps).
RESUME_MAY_CHANGE = (
    "train.num_steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.tensorboard",
    "train.wandb", "train.loss_chunk", "eval.", "mesh.", "data.num_workers", "data.prefetch", "data.cache",
    "data.on_bad_sample", "data.max_bad_share", "data.max_image_",
    "data.train.images", "data.train.labels", "data.val.", "model.decoder.attention", "model.decoder.remat",
    "tokenizer.path",
)  # fmt: skip

# the least value of a key: 0 where it means never
LEAST = {
    1: (
        "batch_size", "train.num_steps", "optim.accumulate", "train.log_every", "train.checkpoint_every",
        "train.keep_checkpoints", "eval.loss_samples", "eval.generate_samples", "eval.max_new_tokens",
    ),
    0: ("eval.loss_every", "eval.generate_every"),
}  # fmt: skip


def set_argument(config: ConfigDict, argument: str | None, allowed: Iterable[str]) -> ConfigDict:
    """Applies what stands behind the colon of `--config=FILE:key=value,key=value`.

    Raises: UserError for anything that is not key=value with an allowed key.
    """
    allowed = tuple(allowed)
    for part in filter(None, (argument or "").split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in allowed:
            raise UserError(f"config argument {part!r}: expected key=value with key one of {', '.join(allowed)}")
        config[key] = value
    return config


def load(arguments: list[str]) -> tuple[ConfigDict, list[str]]:
    """Reads `--config FILE[:ARGUMENT]` and `--config.KEY=VALUE`s; returns the locked config and the other arguments.

    Raises: UserError where there is no such file, key or value; a misspelt key names the nearest one.
    """
    own, others = _split(arguments)
    if not any(argument.startswith("--config=") for argument in own):
        raise UserError("--config is missing: for example --config=configs/tiny.py:task=twod")
    spec = next(argument for argument in own if argument.startswith("--config=")).removeprefix("--config=")
    path = Path(spec.partition(":")[0])
    if not path.is_file():
        raise UserError(f"there is no config file {path}")
    sys.path.insert(0, str(path.resolve().parent.parent))  # so that a config can import its neighbours
    try:
        return check(_parse(own)), others
    finally:
        sys.path.pop(0)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The --config arguments, as `--config...=value`, and the others."""
    own: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith(("--config=", "--config.")) and argument != "--config":
            others.append(argument)
        elif "=" in argument:
            own.append(argument)
        else:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{argument} needs a value")
            own.append(f"{argument}={value}")
    return own, others


def _parse(own: list[str]) -> ConfigDict:
    plain = next(argument for argument in own if argument.startswith("--config="))
    try:
        unchanged = _define([plain])
        for argument in own:
            if argument != plain:
                _check_key(unchanged, argument.partition("=")[0].removeprefix("--config."))
        return _define(own)
    except UserError:
        raise
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"--config: {' '.join(str(error).split())}") from error


def _define(own: list[str]) -> ConfigDict:
    """The config file with its overrides, by ml_collections on flags of its own."""
    values = flags.FlagValues()
    argv = ["igllm", *own]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return values["config"].value


def _check_key(config: ConfigDict, key: str) -> None:
    keys = flatten(config)
    if key in keys:
        return
    if any(other.startswith(f"{key}.") for other in keys):
        raise UserError(
            f"--config.{key} is a group of keys; set one of them, such as --config.{key}.{next(iter(config[key]))}"
        )
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
    raise UserError(f"there is no config key {key!r}; the nearest is {near[0]!r}")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping | ConfigDict)
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return flat


def check(config: ConfigDict) -> ConfigDict:
    """The config itself, once the values that stand in tables exist there.

    Raises: UserError naming key, value and choices.
    """
    find_language(config.task).settings(config.rotation_rep)
    if config.head not in FLOAT_HEADS:
        raise UserError(f"head is {config.head!r}; choose one of {', '.join(FLOAT_HEADS)}")
    if config.data.image_size != config.model.vision.image_size:
        sizes = f"{config.data.image_size} and model.vision.image_size {config.model.vision.image_size}"
        raise UserError(f"data.image_size {sizes} differ; set both")
    values = flatten(config)
    for least, keys in LEAST.items():
        for key in keys:
            if values[key] < least:
                raise UserError(f"{key} is {values[key]}; it must be at least {least}")
    if config.batch_size % config.optim.accumulate:
        raise UserError(
            f"batch_size {config.batch_size} can't be sharded in optim.accumulate={config.optim.accumulate} parts"
        )
    return config


# a config on disk


def write(config: ConfigDict, workdir: Path) -> None:
    """Writes workdir/language.toml and workdir/config.json (temporary names, then renamed)."""
    find_language(config.task).save(workdir)
    temporary = workdir / f".{CONFIG_FILE}.{os.getpid()}"
    temporary.write_text(config.to_json(indent=2) + "\n")
    temporary.rename(workdir / CONFIG_FILE)


def read(workdir: Path) -> ConfigDict:
    """The config of a run; its `task` is the file of the language that the run brings along (old ones bring none).

    Raises: UserError where the folder holds no run.
    """
    path = Path(workdir) / CONFIG_FILE
    try:
        found = ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} is no run: it has no {CONFIG_FILE}; `igllm train --workdir {workdir}` makes one"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if (language := Path(workdir) / LANGUAGE_FILE).is_file():
        found.task = str(language)
    return found


def check_resume(config: ConfigDict, saved: ConfigDict) -> None:
    """Raises: UserError listing the keys that a resumed run may not change."""
    new, old = (flatten(json.loads(c.to_json())) for c in (config, saved))
    old = {**{f"data.{key}": list(value) if value == () else value for key, value in VALUES_BEFORE.items()}, **old}
    if find_language(new["task"]).text == find_language(old["task"]).text:
        old["task"] = new["task"]
    keys = sorted(key for key in {*new, *old} if new.get(key) != old.get(key) and not key.startswith(RESUME_MAY_CHANGE))
    if keys:
        changes = ", ".join(f"{key} from {old.get(key)!r} to {new.get(key)!r}" for key in keys)
        raise UserError(
            f"the run in the workdir has another config: {changes}; take another --workdir, or the old values"
        )


# each part's own options


def data_options(config: ConfigDict) -> DataOptions:
    """What the pipeline needs: the keys of the same names."""
    named = {field.name for field in dataclasses.fields(DataOptions)}
    values = {**VALUES_BEFORE, **{key: value for key, value in config.data.items() if key in named}}
    values["image_mean"] = tuple(config.data.image_mean)
    values["pixel_range"] = tuple(values["pixel_range"])
    patches = (config.model.vision.image_size // config.model.vision.patch_size) ** 2
    values |= {"task": find_language(config.task), "rotation_rep": config.rotation_rep, "head": config.head}
    if config.model.decoder.attention == "splash":
        values["length_multiple"] = 128  # the kernel takes no others
    return DataOptions(**values, num_image_tokens=patches)


def source(config: ConfigDict, split: str) -> Source:
    """`train` or `val`.

    Raises: UserError where the config names no files for it.
    """
    chosen = config.data[split]
    if not chosen.images:
        raise UserError(f"data.{split}.images is empty: set --config.data.{split}.images and .labels")
    return Source(chosen.images, chosen.labels, chosen.num_samples)


def train_sources(config: ConfigDict) -> list[tuple[Source, float]]:
    """The sources of the training mixture with their weights; one where data.sources is empty.

    Raises: UserError for an entry that is not (images, weight) or (images, labels, weight).
    """
    if not config.data.sources:
        return [(source(config, "train"), 1.0)]
    return [_weighted(entry) for entry in config.data.sources]


def _weighted(entry: Any) -> tuple[Source, float]:
    parts = list(entry) if isinstance(entry, list | tuple) else [entry]
    *names, weight = parts
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if len(names) not in (1, 2) or not all(isinstance(name, str) for name in names) or not is_number:
        raise UserError(
            f"data.sources: {entry!r} must be (images, weight), for images that bring their labels, or "
            "(images, labels, weight); for example data.sources=\"(('tfds:own/train', 2), ('a.tar', 'a.json', 1))\""
        )
    return Source(*names), float(weight)


def model_config(config: ConfigDict) -> VLMConfig:
    """What the model is."""
    model = config.model
    mean, std = tuple(config.data.image_mean), tuple(config.data.image_std)
    try:
        return VLMConfig.of(
            {
                "vision": {**model.vision, "image_mean": mean, "image_std": std},
                "projector": model.projector,
                "decoder": dict(model.decoder),
                "lora": dict(model.lora),
                "head": config.head,
                "dtype": model.dtype,
            }
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def optim_options(config: ConfigDict) -> OptimOptions:
    """Learning rates by group, and AdamW's settings."""
    optim = config.optim
    rates = (
        ("lora", optim.lr),
        ("base", optim.lr),
        ("projector", optim.projector_lr),
        ("float_head", optim.float_head_lr),
    )
    names = ("trainable", "warmup", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm", "accumulate")
    settings = {name: optim[name] for name in names}
    return OptimOptions(**settings, learning_rates=rates, num_steps=config.train.num_steps)


def loss_options(config: ConfigDict) -> LossOptions:
    return LossOptions(float_weight=config.train.float_weight, chunk=config.train.loss_chunk, seed=config.seed)


def mesh_options(config: ConfigDict) -> MeshOptions:
    return MeshOptions(**{key: config.mesh[key] for key in ("layout", "data", "fsdp", "tensor")})


def held_out_options(config: ConfigDict) -> HeldOutOptions:
    return HeldOutOptions(
        loss_samples=config.eval.loss_samples,
        generate_samples=config.eval.generate_samples if config.eval.generate_every else 0,
        max_new_tokens=config.eval.max_new_tokens,
        batch_size=config.batch_size,
        float_weight=config.train.float_weight,
    )


def run_options(config: ConfigDict) -> RunOptions:
    """Everything that those who open a run need."""
    language = find_language(config.task)
    return RunOptions(
        model=model_config(config),
        base=config.model.base,
        frozen_dtype=config.model.frozen_dtype,
        data=data_options(config),
        mesh=mesh_options(config),
        optim=optim_options(config),
        loss=loss_options(config),
        batch_size=config.batch_size,
        seed=config.seed,
        train_split=str(config.data.train.images).rpartition(":")[2] if language.label_file == "points" else None,
    )


def read_run(workdir: Path) -> RunOptions:
    """What the run in a folder is. Raises: UserError where the folder holds none."""
    return run_options(read(workdir))
