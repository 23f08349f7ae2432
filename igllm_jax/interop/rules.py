"""What a weight table is: rules between a source's names and ours, in both directions, and matching against files."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from igllm_jax.errors import UserError
from igllm_jax.interop.files import TensorInfo, Weights

Shape = tuple[int, ...]

# Parts of a name that some files have and some don't; they are read and never written.
OPTIONAL_PARTS = {
    "{adapter}": r"(?:\.[^.]+)?",  # PEFT's adapter name: lora_A.default.weight
    "{wrap}": r"(?:\.modules_to_save(?:\.[^.]+)?)?",  # PEFT's wrapper around modules that train whole
    "{zero}": r"(?:\.0)?",  # one linear projection, bare or alone in a Sequential
}


class TensorLayout:
    """How an array of theirs lies in memory compared with ours."""

    def their_shape(self, ours: Shape) -> Shape:
        raise NotImplementedError

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class _Same(TensorLayout):
    def their_shape(self, ours: Shape) -> Shape:
        return ours

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        return array

    to_theirs = to_ours


class _Transposed(TensorLayout):
    """torch's [out, in] against our [in, out]."""

    def their_shape(self, ours: Shape) -> Shape:
        return ours[::-1]

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        return array.T

    to_theirs = to_ours


class _Patches(TensorLayout):
    """A convolution [D, RGB, rows, columns] of stride P against our kernel [rows * columns * RGB, D]."""

    def their_shape(self, ours: Shape) -> Shape:
        size = math.isqrt(ours[0] // 3)
        return (ours[1], 3, size, size)

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        size = math.isqrt(array.shape[0] // 3)
        return array.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)


@dataclass(frozen=True)
class _Under(TensorLayout):
    """Leading dimensions of size 1 that ours does not have."""

    count: int

    def their_shape(self, ours: Shape) -> Shape:
        return (1,) * self.count + ours

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(array.shape[self.count :])

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.their_shape(array.shape))


SAME, TRANSPOSED, PATCHES = _Same(), _Transposed(), _Patches()
UNDER_ONE, UNDER_ONE_ROW = _Under(1), _Under(2)


@dataclass(frozen=True)
class Rule:
    """One kind of tensor: their name, our path, the layout.

    theirs: `{layer}` stands for the layer's number, and our array of that path is stacked over the layers.
    surplus: why a tensor that fits this rule, but that the model doesn't have, is left out ("": it is an error).
    is_written: False for another spelling, which is only read.
    """

    theirs: str
    ours: str
    layout: TensorLayout
    surplus: str = ""
    is_written: bool = True

    @property
    def is_stacked(self) -> bool:
        return "{layer}" in self.theirs

    @property
    def pattern(self) -> str:
        pattern = re.escape(self.theirs).replace(re.escape("{layer}"), r"(\d+)")
        for part, regex in OPTIONAL_PARTS.items():
            pattern = pattern.replace(re.escape(part), regex)
        return pattern

    def name(self, layer: int | None) -> str:
        """Their name as it is written."""
        name = self.theirs if layer is None else self.theirs.replace("{layer}", str(layer))
        for part in OPTIONAL_PARTS:
            name = name.replace(part, "")
        return name


@dataclass(frozen=True)
class RuleGroup:
    """Rules under a common prefix. read: regular expression of what occurs; write: the one that we write."""

    rules: tuple[Rule, ...]
    read: str = ""
    write: str = ""


@dataclass(frozen=True)
class WeightFormat:
    """The table of one kind of file. ignored: regular expression of a name -> why it is left out."""

    name: str
    groups: tuple[RuleGroup, ...]
    ignored: Mapping[str, str]

    def names(self, shapes: Mapping[str, Shape]) -> dict[str, tuple[Rule, int | None]]:
        """Every name that a file of this kind has for our paths (our shapes, stacked), as it is written."""
        names: dict[str, tuple[Rule, int | None]] = {}
        for group in self.groups:
            for rule in group.rules:
                if rule.is_written and rule.ours in shapes:
                    layers: Iterable[int | None] = range(shapes[rule.ours][0]) if rule.is_stacked else (None,)
                    names.update({group.write + rule.name(layer): (rule, layer) for layer in layers})
        return names

    def paths(self) -> set[str]:
        """Every path of ours that the table knows."""
        return {rule.ours for group in self.groups for rule in group.rules}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file and where it goes in the model (layer: its slice of our stacked array; None: all of it)."""

    path: str
    layer: int | None
    rule: Rule
    name: str
    weights: Weights

    @property
    def info(self) -> TensorInfo:
        return self.weights.infos[self.name]

    def read(self) -> np.ndarray:
        """The values in our layout, the file's dtype."""
        return self.rule.layout.to_ours(self.weights.read(self.name))


def match_tensors(
    source: WeightFormat,
    weights: Weights,
    shapes: Mapping[str, Shape],
    slice_shape: Callable[[str, int], Shape | None] | None = None,
) -> tuple[list[Tensor], dict[str, int]]:
    """Finds every wanted array in the file: (tensors, {why left out: how many}).

    shapes: our path -> our shape (stacked), everything that this file has to bring. slice_shape: (path, layer) -> the
    shape of that layer's slice, None where the file brings none (default: the same for every layer).
    Raises: UserError listing all that is unknown, missing, there twice, of the wrong shape, or not floating point.
    """

    def shape_of(path: str, layer: int | None) -> Shape | None:
        if layer is None:
            return shapes[path]
        return shapes[path][1:] if slice_shape is None else slice_shape(path, layer)

    compiled = [(re.compile(group.read + rule.pattern), rule) for group in source.groups for rule in group.rules]
    ignored = [(re.compile(pattern), reason) for pattern, reason in source.ignored.items()]
    found: dict[tuple[str, int | None], Tensor] = {}
    left_out: dict[str, int] = {}
    unknown, twice = [], []
    for name in weights.infos:
        reason = next((reason for pattern, reason in ignored if pattern.fullmatch(name)), "")
        hit = next(((m, rule) for pattern, rule in compiled if (m := pattern.fullmatch(name))), None)
        if hit and not reason:
            layer = int(hit[0][1]) if hit[1].is_stacked else None
            is_wanted = hit[1].ours in shapes and (layer is None or layer < shapes[hit[1].ours][0])
            is_wanted = is_wanted and shape_of(hit[1].ours, layer) is not None
            if is_wanted and (hit[1].ours, layer) in found:
                twice.append(f"{name} (as {found[hit[1].ours, layer].name})")
                continue
            if is_wanted:
                found[hit[1].ours, layer] = Tensor(hit[1].ours, layer, hit[1], name, weights)
                continue
            reason = hit[1].surplus
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            unknown.append(name)
    names = {name: (rule.ours, layer) for name, (rule, layer) in source.names(shapes).items()}
    missing = [name for name, at in names.items() if at not in found and shape_of(*at) is not None]
    problems = {"missing": missing, "unknown": unknown, "there twice": twice}
    _raise_problems(source, weights, problems | _wrong_kinds(found.values(), shape_of))
    return list(found.values()), left_out


def _wrong_kinds(found: Iterable[Tensor], shape_of: Callable[[str, int | None], Shape | None]) -> dict[str, list[str]]:
    """Problem -> tensors whose shape or dtype is not what it has to be."""
    misshaped, whole_numbers = [], []
    for tensor in found:
        ours = shape_of(tensor.path, tensor.layer)
        assert ours is not None
        expected = tensor.rule.layout.their_shape(ours)
        if tensor.info.shape != expected:
            misshaped.append(f"{tensor.name} is {list(tensor.info.shape)} instead of {list(expected)}")
        if not tensor.info.is_float:
            whole_numbers.append(f"{tensor.name} ({tensor.info.dtype})")
    return {
        "of another shape than the config says": misshaped,
        "not floating point (quantised weights can't be imported)": whole_numbers,
    }


def _raise_problems(source: WeightFormat, weights: Weights, problems: Mapping[str, list[str]]) -> None:
    """Raises: UserError where there is any problem, listing the tensors of each."""
    listed = "; ".join(
        f"{len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {problem}: {', '.join(by_layers(names))}"
        for problem, names in problems.items()
        if names
    )
    if listed:
        raise UserError(f"{weights.origin} is not the {source.name} that its config describes: {listed}")


def by_layers(names: Iterable[str]) -> list[str]:
    """Names that differ only in the number after `layers.` as one: layers.{0-31}.mlp.up_proj.weight."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        head, found, tail = (
            re.split(r"(?<=layers\.)(\d+)(?=\.)", name, maxsplit=1) if _LAYER.search(name) else (name, "", "")
        )
        numbers.setdefault((head, tail), []).extend([int(found)] if found else [])
    return [f"{head}{_ranges(found)}{tail}" for (head, tail), found in numbers.items()]


_LAYER = re.compile(r"(?<=layers\.)(\d+)(?=\.)")


def _ranges(numbers: list[int]) -> str:
    if not numbers:
        return ""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"
