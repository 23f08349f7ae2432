"""Config files: loading with overrides, checking, and handing each part its own frozen dataclass."""

import argparse
import dataclasses
import functools
import json
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from igllm_jax import config_files, config_sources, files, paths, versions
from igllm_jax.config_ranges import RANGES, check_keys, check_values, no_such_key
from igllm_jax.data.augment import AugmentOptions
from igllm_jax.data.pipeline import DataOptions, Source
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import PARTS, VLMConfig
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import LANGUAGE_FILE, find_language
from igllm_jax.training.optim import AVERAGED, OptimOptions
from igllm_jax.training.options import HeldOutOptions, LossOptions, RunOptions
from igllm_jax.versions import flatten

CONFIG_FILE = "config.json"
LOSSES = ("loss", "token_loss", "number_loss")  # what a held-out loss consists of
# A resumed run may change these: they don't change what is learned from a step on (save for the number of steps).
RESUME_MAY_CHANGE = (
    "train.num_steps", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.tensorboard",
    "train.wandb", "train.loss_chunk", "eval.", "mesh.", "data.num_workers", "data.prefetch", "data.cache",
    "data.on_bad_sample", "data.max_bad_share", "data.max_image_",
    "data.train.images", "data.train.labels", "data.val.", "data.val_sets", "tokenizer.path",
    "model.decoder.attention", "model.decoder.remat",
)  # fmt: skip


def set_argument(config: ConfigDict, argument: str | None, allowed: Iterable[str]) -> ConfigDict:
    """Applies what stands behind the colon of `--config=FILE:key=value,key=value`.

    Raises: UserError for anything that is not key=value with an allowed key.
    """
    for key, value in parse_argument(argument, allowed).items():
        config[key] = value
    return config


def parse_argument(argument: str | None, allowed: Iterable[str]) -> dict[str, str]:
    """ "size=small,head=none" as a dictionary. Raises: UserError as above."""
    allowed, values = tuple(allowed), {}
    for part in filter(None, (argument or "").split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in allowed:
            raise UserError(f"config argument {part!r}: expected key=value with key one of {', '.join(allowed)}")
        values[key] = value
    return values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """For `--help` alone: `split` takes these away before a parser sees them."""
    group = parser.add_argument_group("config")
    about = "a config file, or the name of a shipped one: " + ", ".join(config_files.shipped_names())
    group.add_argument("--config", metavar="FILE[:ARGUMENT]", help=about)
    group.add_argument("--config.KEY", metavar="VALUE", help="any key of configs/common.py, such as optim.lr")


def shipped(name: str) -> ConfigDict:
    """The shipped config of this name, as its file makes it."""
    return config_files.run(config_files.SHIPPED / f"{name}.py")


def load(arguments: list[str]) -> tuple[ConfigDict, list[str]]:
    """Reads `--config FILE[:ARGUMENT]` and `--config.KEY=VALUE`s; returns the locked config and the other arguments.

    Raises: UserError where there is no such file, key or value; a misspelt key names the nearest one.
    """
    own, others = split(arguments)
    specs = [argument.removeprefix("--config=") for argument in own if argument.startswith("--config=")]
    if len(specs) != 1:
        told = f"is given {len(specs)} times" if specs else "is missing"
        raise UserError(f"--config {told}: for example --config=configs/tiny.py:task=twod")
    file, argument = config_files.split(specs[0])
    config = config_files.run(config_files.find(file), argument)
    try:
        check_keys(flatten(config), RANGES)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    overrides = [argument for argument in own if not argument.startswith("--config=")]
    for argument in overrides:
        key = argument.partition("=")[0].removeprefix("--config.")
        if key not in RANGES:
            raise UserError(no_such_key(key, RANGES))
    return check(_override(config, overrides)), others


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
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


def _override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """The config with --config.KEY=VALUEs, read by ml_collections on flags of its own; locked."""
    values, argv = flags.FlagValues(), ["igllm", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
        return values["config"].value
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"--config: {' '.join(str(error).split())}") from error


def check(config: ConfigDict) -> ConfigDict:
    """The config itself, once every value is in its range and those that depend on each other agree.

    Raises: UserError naming key, value, and range or choices.
    """
    check_values(flatten(config))
    language = find_language(config.task)
    language.settings(config.rotation_rep)
    measured = (*LOSSES, *(name for name, metric in language.metrics.items() if metric.is_better_low))
    named = list(config_sources.val_sets(config.data.val_sets, config.data.val.num_samples)) or ["val"]
    if config.optim.ema_decay:
        named += [f"{name}{AVERAGED}" for name in named]
    choices = (*measured, *(f"{name}/{metric}" for name in named for metric in measured))
    if config.eval.best_metric not in choices:
        raise UserError(f"eval.best_metric is {config.eval.best_metric!r}; choose one of {', '.join(choices)}")
    key = "loss_every" if config.eval.best_metric.rpartition("/")[2] in LOSSES else "generate_every"
    if config.eval.patience and not config.eval[key]:
        raise UserError(
            f"eval.patience is {config.eval.patience}, but eval.{key}=0 never measures eval.best_metric="
            f"{config.eval.best_metric}; set eval.{key}, or eval.patience=0"
        )
    if config.data.image_size != config.model.vision.image_size:
        sizes = f"{config.data.image_size} and model.vision.image_size {config.model.vision.image_size}"
        raise UserError(f"data.image_size {sizes} differ; set both")
    if config.batch_size % config.optim.accumulate:
        raise UserError(
            f"batch_size {config.batch_size} can't be sharded in optim.accumulate={config.optim.accumulate} parts"
        )
    model_config(config)
    train_sources(config) if config.data.sources else None
    return config


# a config on disk


def write(config: ConfigDict, workdir: FilePath) -> None:
    """Writes workdir/language.toml and workdir/config.json, the latter of the format in which the run was begun."""
    find_language(config.task).save(workdir)
    path = workdir / CONFIG_FILE
    written = _read_json(workdir)[1] if path.exists() else versions.FORMAT
    values = {versions.FORMAT_KEY: written, **json.loads(config.to_json())}
    files.write_text(path, json.dumps(values, indent=2) + "\n")


def _read_json(workdir: str | FilePath) -> tuple[dict[str, Any], int]:
    """The values of config.json as they stand there, and their format."""
    path = paths.to_path(workdir) / CONFIG_FILE
    try:
        values = json.loads(path.read_bytes().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{workdir} is no run: it has no {CONFIG_FILE}; `igllm train --workdir {workdir}` makes one"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check who may read it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, it is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no config")
    return values, versions.check_format(values, path, default=1)


def read(workdir: str | FilePath) -> ConfigDict:
    """The config of a run under today's keys, whatever version wrote it; locked. Its `task` is the file of the language
    that the run brings along (old ones bring none).

    Raises: UserError where the folder holds no run, or its config.json is damaged.
    """
    values, written = _read_json(workdir)
    values.pop(versions.FORMAT_KEY, None)
    flat = versions.upgrade(flatten(values), written, RANGES)
    try:
        check_keys(flat, RANGES)
        check_values(flat)
        typed = {key: RANGES[key].typed(value) for key, value in flat.items()}
        if (language := paths.to_path(workdir) / LANGUAGE_FILE).is_file():
            typed["task"] = str(language)
        return check(ConfigDict(versions.unflatten(typed.items())).lock())
    except UserError as error:
        raise UserError(
            f"{paths.to_path(workdir) / CONFIG_FILE} does not describe a run of this version: {error}"
        ) from None


def keep_meaning(config: ConfigDict, workdir: FilePath) -> list[str]:
    """Gives `config` what the run in `workdir` meant by keys that came after it was begun; returns those that differed.

    So the command that began a run goes on with it, though defaults of later keys are not what the code did then. Keys
    that a resumed run may change are the command's all the same.
    """
    saved, written = flatten(read(workdir)), _read_json(workdir)[1]
    later = [key for key, (since, _) in versions.ADDED.items() if since > written]
    changed = []
    for key in later:
        *groups, name = key.split(".")
        holder = functools.reduce(operator.getitem, groups, config)
        if not key.startswith(RESUME_MAY_CHANGE) and holder[name] != saved[key]:
            holder[name] = saved[key]
            changed.append(f"{key}={saved[key]!r}")
    return changed


def check_resume(config: ConfigDict, saved: ConfigDict) -> None:
    """Raises: UserError listing the keys that a resumed run may not change."""
    new, old = (flatten(json.loads(c.to_json())) for c in (config, saved))
    if find_language(new["task"]).says_as(find_language(old["task"])):  # by its name, or by the run's own copy
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
    values = {key: value for key, value in config.data.items() if key in named}
    values["image_mean"] = tuple(config.data.image_mean)
    values["pixel_range"] = tuple(values["pixel_range"])
    values["augment"] = _named(AugmentOptions, config.data.augment, {})
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


def val_sources(config: ConfigDict) -> dict[str, Source]:
    """What is measured, by the name that its metrics have: data.val_sets, or `val` alone."""
    sets = config_sources.val_sets(config.data.val_sets, config.data.val.num_samples)
    return sets or {"val": source(config, "val")}


def best_metric(config: ConfigDict) -> str:
    """NAME/METRIC that eval.best_metric means; one without a name is the first set's."""
    metric = str(config.eval.best_metric)
    return metric if "/" in metric else f"{next(iter(val_sources(config)))}/{metric}"


def train_sources(config: ConfigDict) -> list[tuple[Source, float]]:
    """The sources of the training mixture with their weights; one where data.sources is empty.

    Raises: UserError for an entry that is not (images, weight) or (images, labels, weight).
    """
    if not config.data.sources:
        return [(source(config, "train"), 1.0)]
    return [config_sources.weighted(entry) for entry in config.data.sources]


def model_config(config: ConfigDict) -> VLMConfig:
    """What the model is."""
    model, data = config.model, config.data
    of_data = {"vision": {"image_mean": tuple(data.image_mean), "image_std": tuple(data.image_std)}}
    try:
        parts = {name: _named(kind, model[name], of_data.get(name, {})) for name, kind in PARTS.items()}
        parts["second_vision"] = parts["second_vision"] if parts["second_vision"].width else None
        found = VLMConfig(projector=model.projector, head=config.head, dtype=model.dtype, **parts)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not found.vision.num_patches:
        sizes = f"{found.vision.patch_size} is larger than model.vision.image_size {found.vision.image_size}"
        raise UserError(f"model.vision.patch_size {sizes}")
    return found


def _named(kind: type, group: Mapping[str, Any], others: Mapping[str, Any]) -> Any:
    """A dataclass whose fields are the keys of their names, each read by itself: what no field reads is an error.

    Raises: UserError for such a key. ValueError for values that the dataclass refuses.
    """
    names = [field.name for field in dataclasses.fields(kind) if field.name not in others]
    check_keys(group, names)
    return kind(**{name: group[name] for name in names}, **others)


def optim_options(config: ConfigDict) -> OptimOptions:
    """Learning rates by group, and AdamW's settings."""
    optim = config.optim
    rates = (
        ("lora", optim.lr),
        ("base", optim.lr),
        ("projector", optim.projector_lr),
        ("float_head", optim.float_head_lr),
    )
    names = ("trainable", "warmup", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm", "accumulate", "ema_decay")
    settings = {name: optim[name] for name in names}
    return OptimOptions(**settings, learning_rates=rates, num_steps=config.train.num_steps)


def loss_options(config: ConfigDict) -> LossOptions:
    return LossOptions(float_weight=config.train.float_weight, chunk=config.train.loss_chunk, seed=config.seed)


def mesh_options(config: ConfigDict) -> MeshOptions:
    return MeshOptions(**{key: config.mesh[key] for key in ("layout", "slices", "data", "fsdp", "tensor")})


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


def read_run(workdir: str | FilePath) -> RunOptions:
    """What the run in a folder is. Raises: UserError where the folder holds none."""
    return run_options(read(workdir))
