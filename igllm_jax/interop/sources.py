"""Which files bring which part of the model: every tensor of an import, found and checked before any is read."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.interop import formats, hf_config
from igllm_jax.interop.adapter_config import AdapterConfig, read_adapter_config, with_number_row
from igllm_jax.interop.files import Weights, open_weights, read_json
from igllm_jax.interop.hf_decoder import decoder_config
from igllm_jax.interop.hf_values import expect
from igllm_jax.interop.hf_vision import tower_type, vision_config
from igllm_jax.interop.rules import Shape, Tensor, WeightFormat, match_tensors
from igllm_jax.models import number_row
from igllm_jax.models.llama import DecoderConfig
from igllm_jax.models.lora import NO_LORA, LoRAConfig, is_lora
from igllm_jax.models.vision import VisionConfig
from igllm_jax.models.vlm import VLMConfig, skeleton

REFERENCE_FEATURE_LAYER = -2
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
BESIDE_FILES = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")
KEEP = "keep"
DTYPES = (KEEP, "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ImportRequest:
    """What the user asked for. vision, maybe second_vision, and decoder, or llava; the other files add to or replace
    parts of these."""

    out: Path
    vision: Path | None = None
    second_vision: Path | None = None
    decoder: Path | None = None
    llava: Path | None = None
    projector: Path | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    feature_layer: int | None = None
    merge_lora: bool = False
    lora_only: bool = False
    numbers_as_text: bool = False
    dtype: str = KEEP


@dataclass
class ImportPlan:
    """A checked import. config: of the folder that comes out. tensors: by (path, layer). lora: of the adapter, and
    module_lora that of each (path of a kernel, layer) where modules differ.

    aspect_ratio: how images are made square, "pad" or "square".
    """

    config: VLMConfig
    tensors: dict[tuple[str, int | None], Tensor]
    lora: LoRAConfig
    adapter: AdapterConfig | None = None
    module_lora: dict[tuple[str, int], LoRAConfig] = field(default_factory=dict)
    aspect_ratio: str = "pad"
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """One opened file or folder, and what it holds beside vision and decoder ("none": nothing)."""

    weights: Weights
    weight_format: Callable[[str, str], WeightFormat]  # of the kinds of projector and float head
    owns: tuple[str, ...]  # prefixes of our paths: "vision/", "decoder/", "lora"
    projector: str = "none"
    head: str = "none"

    def paths(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes that this part has to bring."""
        owns = self.owns + (("projector/",) if self.projector != "none" else ())
        owns += ("float_head/",) if self.head != "none" else ()

        def is_owned(path: str) -> bool:
            is_adapters = is_lora(path) or path.startswith(number_row.PREFIX)
            return "lora" in owns if is_adapters else path.startswith(owns)

        return {path: shape for path, shape in shapes.items() if is_owned(path)}


def make_plan(request: ImportRequest) -> ImportPlan:
    """Opens every file and finds every tensor; reads none.

    Raises: UserError where something is missing, unknown, misshaped, contradictory or not supported.
    """
    if request.llava and request.decoder:
        raise UserError("--llava brings its own decoder: leave out --decoder")
    if request.llava and request.second_vision:
        raise UserError("--llava brings its own projector, for one tower: leave out --second_vision")
    if not request.llava and not (request.vision and request.decoder):
        raise UserError("give --vision DIR and --decoder DIR, or --llava DIR")
    if request.merge_lora and not request.adapter:
        raise UserError("--merge_lora needs --adapter DIR")
    _check_folders(request)
    parts = _open_parts(request)
    projector, head = _agreed(parts, "projector"), _agreed(parts, "head")
    _check_kinds(request, projector, head)
    adapter = _adapter_config(request)
    found_lora = adapter.lora if adapter else NO_LORA
    config = VLMConfig(
        vision=_vision_config(request, _given(request.vision or request.llava)),
        second_vision=_vision_config(request, request.second_vision) if request.second_vision else None,
        projector="linear" if projector == "none" else projector,
        decoder=with_number_row(_decoder_config(request), adapter, request.adapter),
        lora=found_lora,
        head=head,
        dtype="float32",
    )
    plan = ImportPlan(config, {}, found_lora, adapter, aspect_ratio=_aspect_ratio(request))
    shapes = {path: tuple(shape.shape) for path, shape in skeleton(config).shapes.items()}
    _match_parts(plan, parts, shapes, request)
    plan.notes += _prompt_notes(request)
    if projector == "none":
        plan.notes.append("no projector came along: training starts it from the seed")
    rows = number_row.room(config.decoder.vocab_size, config.decoder.number_row + 1)  # those of an added token merged
    plan.config = replace(config, decoder=replace(config.decoder, vocab_size=rows, number_row=-1))
    if request.merge_lora:
        plan.config = replace(plan.config, lora=NO_LORA)
    dtype = str(plan.tensors["decoder/embedding", None].info.dtype) if request.dtype == KEEP else request.dtype
    plan.config = replace(plan.config, dtype="float32" if dtype == "float32" else "bfloat16")
    return plan


def _check_folders(request: ImportRequest) -> None:
    for flag in ("vision", "second_vision", "decoder", "llava", "adapter"):
        file = getattr(request, flag)
        if file and file.is_file():
            raise UserError(f"--{flag} {file} is a file: give the folder that it came in, with its config.json")


def _open_parts(request: ImportRequest) -> list[_Part]:
    """Base first, what was trained on it last: a later part's tensors stand for an earlier one's."""
    parts: list[_Part] = []
    if request.llava:
        parts += _llava_parts(request, request.llava)
    else:
        parts.append(_tower_part(_given(request.vision)))
        parts += [_tower_part(request.second_vision, "second_vision")] if request.second_vision else []
        weight_format = formats.decoder(_decoder_config(request).post_norms)
        parts.append(_Part(open_weights(_given(request.decoder)), lambda *_: weight_format, ("decoder/",)))
    if request.projector:
        part = _kinds(open_weights(request.projector, names=PROJECTOR_FILES), formats.non_lora, ())
        if part.projector == "none":
            raise UserError(f"{part.weights.origin} holds no mm_projector: --projector takes LLaVA's mm_projector.bin")
        parts.append(part)
    if request.adapter:
        parts += _adapter_parts(request, request.adapter)
    return parts


def _adapter_parts(request: ImportRequest, folder: Path) -> list[_Part]:
    """The adapter, and what the reference trains and saves beside it.

    Raises: UserError where that other half is missing: without it there would be an untrained projector and no head.
    """
    parts = [_adapter_part(open_weights(folder, names=ADAPTER_FILES))]
    if any((folder / name).is_file() for name in BESIDE_FILES):
        parts.append(_kinds(open_weights(folder, names=BESIDE_FILES), formats.non_lora, ()))
    is_hf = request.llava is not None and "vision_config" in read_json(request.llava / "config.json")
    if not request.lora_only and not is_hf and all(part.projector == "none" for part in parts):
        raise UserError(
            f"{folder} holds LoRA alone: the projector trained with it is missing, and the head, if any; "
            f"take the run's {BESIDE_FILES[1]} along, or add --lora_only if nothing else was trained"
        )
    return parts


def _adapter_part(weights: Weights) -> _Part:
    """PEFT's file; modules_to_save may have put a projector into it, by LLaVA's name or by Hugging Face's."""
    hf_projector = formats.kind_of(weights.infos, "multi_modal_projector", weights.origin)
    if hf_projector == "none":
        return _kinds(weights, formats.peft, ("lora",))
    head = formats.kind_of(weights.infos, "float_head", weights.origin)
    return _Part(weights, partial(formats.peft, in_llava=True), ("lora",), hf_projector, head)


def _llava_parts(request: ImportRequest, folder: Path) -> list[_Part]:
    config, weights = read_json(folder / "config.json"), open_weights(folder)
    if "vision_config" in config:
        if request.vision:
            raise UserError(f"{folder} brings its own vision tower: leave out --vision")
        expect(config, folder / "config.json", model_type=hf_config.LLAVA_TYPES)
        kind = formats.kind_of(weights.infos, "multi_modal_projector", folder)
        if kind != "none":
            kind = _hf_projector(config, weights, folder)
        tower = tower_type(config, folder / "config.json")
        weight_format = partial(formats.llava_hf, tower=tower, post_norms=_decoder_config(request).post_norms)
        parts = [_Part(weights, lambda kind, _: weight_format(kind), ("vision/", "decoder/"), kind)]
        if (folder / formats.FLOAT_HEAD_FILE).is_file():
            beside = open_weights(folder / formats.FLOAT_HEAD_FILE)
            kind = formats.kind_of(beside.infos, "float_head", beside.origin)
            parts.append(_Part(beside, lambda _, head: formats.float_head(head), (), head=kind))
        return parts
    if not request.vision:
        raise UserError(f"{folder} does not describe its vision tower: give the folder of the tower as --vision")
    has_tower = any(name.startswith("model.vision_tower.") for name in weights.infos)
    own = ("vision/", "decoder/") if has_tower else ("decoder/",)
    part = _kinds(weights, partial(formats.llava, post_norms=_decoder_config(request).post_norms), own)
    return [part] if has_tower else [_tower_part(request.vision), part]


def _tower_part(folder: Path, part: str = "vision") -> _Part:
    """An image tower of its own."""
    file = folder / "config.json"
    weight_format = formats.tower(tower_type(read_json(file), file), part)
    return _Part(open_weights(folder), lambda *_: weight_format, (f"{part}/",))


def _hf_projector(config: Mapping[str, Any], weights: Weights, folder: Path) -> str:
    """Hugging Face's projector always has two layers; a linear one has no activation and an identity as its second."""
    act = config.get("projector_hidden_act", hf_config.LLAVA_DEFAULTS["projector_hidden_act"])
    if act == "gelu":
        return "mlp2x_gelu"
    second = {name.rsplit(".", 1)[1]: name for name in weights.infos if ".linear_2." in f".{name}"}
    kernel, bias = (weights.read(second[name]) if name in second else np.ones(1) for name in ("weight", "bias"))
    is_identity = kernel.ndim == 2 and np.array_equal(kernel, np.eye(*kernel.shape)) and not bias.any()
    if act != "linear" or not is_identity:
        raise UserError(
            f"{folder}: the projector's activation is {act!r}; only linear and mlp2x_gelu projectors are known"
        )
    return "linear"


def _kinds(weights: Weights, weight_format: Callable[[str, str], WeightFormat], owns: tuple[str, ...]) -> _Part:
    """A part whose names say which projector and float head it holds."""
    projector, head = (formats.kind_of(weights.infos, part, weights.origin) for part in ("mm_projector", "float_head"))
    return _Part(weights, weight_format, owns, projector, head)


def _agreed(parts: list[_Part], what: str) -> str:
    """The one kind of projector or head that the parts hold, "none" where none does."""
    found = {getattr(part, what): part.weights.origin for part in parts if getattr(part, what) != "none"}
    if len(found) > 1:
        told = ", ".join(f"{kind} in {file}" for kind, file in found.items())
        raise UserError(f"the files hold different kinds of {what}: {told}; leave out the one that does not belong")
    return next(iter(found), "none")


def _check_kinds(request: ImportRequest, projector: str, head: str) -> None:
    """The configs' word on projector and head against what the files hold."""
    for folder in (request.adapter, request.llava):
        file = folder / "config.json" if folder else None
        config = read_json(file) if file and file.is_file() else {}
        for key, found, what in (
            ("mm_projector_type", projector, "projector"),
            ("float_head_type", head, "float head"),
        ):
            said = config.get(key) or "none"
            if key in config and found != said and not (what == "projector" and found == "none"):
                raise UserError(f"{file}: {key} is {said!r}, but the {what} in the files is {found!r}")


def _prompt_notes(request: ImportRequest) -> list[str]:
    """What a checkpoint was trained with and no prompt here writes."""
    files = [folder / "config.json" for folder in (request.adapter, request.llava) if folder]
    configs = {file: read_json(file) for file in files if file.is_file()}
    notes = [
        f"{file}: mm_use_im_start_end is set, so the image stood between two marks in training, which no prompt here "
        "writes: train on it before generating"
        for file, config in configs.items()
        if config.get("mm_use_im_start_end")
    ]
    return notes + [
        f"{file}: LLaVA-OneVision also saw an image's tiles, and a newline after it, which no model here does: train "
        "on it before generating"
        for file, config in configs.items()
        if config.get("model_type") == hf_config.ONEVISION
    ]


def _match_parts(plan: ImportPlan, parts: list[_Part], shapes: Mapping[str, Shape], request: ImportRequest) -> None:
    """Raises: UserError with the problems of all parts."""
    problems = []
    for part in parts:
        try:
            _match_part(plan, part, shapes, request)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; and ".join(problems))


def _match_part(plan: ImportPlan, part: _Part, shapes: Mapping[str, Shape], request: ImportRequest) -> None:
    wanted = part.paths(shapes)
    if "lora" in part.owns:
        if plan.adapter and not plan.adapter.is_uniform and not request.merge_lora:
            raise UserError(
                f"{part.weights.origin} has LoRA of different ranks or scales, or on some layers only, and here all "
                "are alike: add --merge_lora"
            )
        names = " ".join(part.weights.infos)
        projections = {ours for theirs, ours in formats.DECODER_PROJECTIONS.items() if f"{theirs}.lora_" in names}
        absent = [ours for ours in formats.DECODER_PROJECTIONS.values() if ours not in projections]
        if projections and absent and not request.merge_lora:
            raise UserError(
                f"{part.weights.origin} has no LoRA on {', '.join(absent)}, and here every projection of a layer has "
                "one: add --merge_lora"
            )
        if projections:
            wanted = {p: s for p, s in wanted.items() if not is_lora(p) or _projection_of(p) in projections}
    weight_format = part.weight_format(part.projector, part.head)
    found, left_out = match_tensors(weight_format, part.weights, wanted, _slice_shape(plan, weight_format, wanted))
    replaced = {tensor.path.split("/")[0] for tensor in found if (tensor.path, tensor.layer) in plan.tensors}
    plan.notes += [f"the {name} is the one in {part.weights.origin}" for name in sorted(replaced)]
    plan.tensors.update({(tensor.path, tensor.layer): tensor for tensor in found})
    plan.left_out.update(left_out)


def _slice_shape(
    plan: ImportPlan, weight_format: WeightFormat, wanted: Mapping[str, Shape]
) -> Callable[[str, int], Shape | None]:
    """(path, layer) -> the shape of one layer's slice, None where the adapter's config says that there is none."""
    names = {(rule.ours, layer): name for name, (rule, layer) in weight_format.names(wanted).items()}

    def shape_of(path: str, layer: int) -> Shape | None:
        shape = wanted[path][1:]
        if not is_lora(path) or plan.adapter is None or plan.adapter.is_uniform:
            return shape
        module = names[path, layer].removeprefix("base_model.model.").partition(".lora_")[0]
        own = plan.adapter.of(module, layer)
        plan.module_lora[path.rpartition("/")[0], layer] = own
        if not own.rank:
            return None
        return (shape[0], own.rank) if path.endswith("/lora_a") else (own.rank, shape[1])

    return shape_of


def _projection_of(path: str) -> str:
    return path.split("/")[-2]


def _given(path: Path | None) -> Path:
    assert path is not None
    return path


# ---- configs ---------------------------------------------------------------------------------------------------------


def _vision_config(request: ImportRequest, folder: Path) -> VisionConfig:
    file = folder / "config.json"
    layer = request.feature_layer if request.feature_layer is not None else _feature_layer(request)
    return vision_config(read_json(file), _preprocessor(folder), feature_layer=layer, where=file)


def _feature_layer(request: ImportRequest) -> int:
    """The trained checkpoint's choice, then the base's, then the reference's."""
    for folder in (request.adapter, request.llava):
        file = folder / "config.json" if folder else None
        if file and file.is_file():
            config = read_json(file)
            if any(key in config for key in ("mm_vision_select_layer", "vision_config")):
                return hf_config.feature_layer_of(config, file)
    return REFERENCE_FEATURE_LAYER


def _aspect_ratio(request: ImportRequest) -> str:
    """The trained checkpoint's word, then the base's, then the reference's."""
    for folder in (request.adapter, request.llava):
        file = folder / "config.json" if folder else None
        if folder and file and file.is_file():
            config = read_json(file)
            if any(key in config for key in ("image_aspect_ratio", "vision_config")):
                return hf_config.aspect_ratio_of(config, _preprocessor(folder), file)
    return "pad"


def _preprocessor(folder: Path) -> dict[str, Any] | None:
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        image = read_json(folder / "processor_config.json").get("image_processor")
        return image if isinstance(image, dict) else None
    return None


def _decoder_config(request: ImportRequest) -> DecoderConfig:
    file = _given(request.llava or request.decoder) / "config.json"
    return decoder_config(read_json(file), file)


def _adapter_config(request: ImportRequest) -> AdapterConfig | None:
    if not request.adapter:
        return None
    file = request.adapter / "adapter_config.json"
    return read_adapter_config(read_json(file), file)
