"""Values of others' config files: found, in range, or told in one line with file and key."""

from collections.abc import Mapping
from typing import Any

from igllm_jax.errors import UserError

Json = Mapping[str, Any]

LEAST, MOST = 1e-30, 1e30  # of a number that isn't counted: float32 holds it and what is near it
MAX_SIZE, MAX_LAYERS = 2**24, 10_000  # far above every model: a damaged number is told instead of counted up to


def part_of(config: Json, inner: str, where: object) -> Json:
    """The config of a part: what stands at `inner`, or the whole file where it is the part's own."""
    own = config.get(inner, config)
    if not isinstance(own, Mapping):
        raise UserError(f"{where}: {inner} is {own!r}; an object is expected")
    return own


def expect_whole_weights(config: Json, own: Json, where: object) -> None:
    """own: the part's config in it. Raises: UserError where one says that its weights are quantised: their names and
    shapes are others."""
    said = config.get("quantization_config") or own.get("quantization_config")
    if said:
        kinds = [said.get(key) for key in ("quant_method", "quant_type")] if isinstance(said, Mapping) else []
        kind = next((str(kind)[:60] for kind in kinds if kind), str(said)[:60])
        raise UserError(
            f"{where}: quantization_config says {kind}, and quantised weights can't be imported; take the folder of "
            "the same model in bfloat16, float16 or float32"
        )


def expect_keys(found: Json, where: object, keys: tuple[str, ...]) -> None:
    absent = [key for key in keys if found.get(key) is None]
    if absent:
        raise UserError(f"{where} does not say {', '.join(absent)}: take the config.json that came with the weights")


def size_of(found: Json, where: object, key: str, *, least: int = 1, most: int = MAX_SIZE) -> int:
    value = number_of(found, where, key)
    if value != int(value) or not least <= value <= most:
        raise UserError(f"{where}: {key} is {found[key]!r}; a whole number from {least} to {most} is expected")
    return int(value)


def number_of(found: Json, where: object, key: str) -> float:
    value = found[key]
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and LEAST <= float(value) <= MOST:
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise UserError(f"{where}: {key} is {str(value)[:60]}; a number above 0 is expected, from {LEAST:g} to {MOST:g}")


def told(error: Exception, where: object) -> UserError:
    return error if isinstance(error, UserError) else UserError(f"{where}: {error}")


def expect(found: Json, where: object, **allowed: tuple[Any, ...]) -> None:
    for key, values in allowed.items():
        if found.get(key) not in values:
            known = ", ".join(str(value) for value in values if value is not None)
            raise UserError(f"{where}: {key} is {found.get(key)!r}; supported: {known}")
