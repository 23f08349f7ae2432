"""What the entries of `data.sources` and `data.val_sets` say, one by one."""

import re
from collections.abc import Iterable
from typing import Any

from igllm_jax.data.options import Source
from igllm_jax.errors import UserError
from igllm_jax.training.optim import AVERAGED

TAKEN = ("train", "lr")  # names that other metrics begin with


def weighted(entry: Any) -> tuple[Source, float]:
    """An entry of `data.sources`.

    Raises: UserError for one that is neither (images, weight) nor (images, labels, weight).
    """
    parts = list(entry) if isinstance(entry, list | tuple) else [entry]
    *names, weight = parts or [None]
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if len(names) not in (1, 2) or not all(isinstance(name, str) for name in names) or not is_number:
        raise UserError(
            f"data.sources: {entry!r} must be (images, weight), for images that bring their labels, or "
            "(images, labels, weight); for example data.sources=\"(('tfds:own/train', 2), ('a.tar', 'a.json', 1))\""
        )
    return Source(*names), float(weight)


def val_sets(entries: Iterable[Any], num_samples: int) -> dict[str, Source]:
    """`data.val_sets` by name. num_samples: of each. Raises: UserError for an entry that is no set of its own name."""
    found: dict[str, Source] = {}
    for entry in entries:
        parts = tuple(entry) if isinstance(entry, list | tuple) else ()
        if len(parts) not in (2, 3) or not all(isinstance(part, str) for part in parts):
            raise UserError(f"data.val_sets: {entry!r} must be (name, images, labels), or (name, images)")
        name, images, labels = (*parts, "")[:3]
        if not re.fullmatch(r"\w+", name) or name in TAKEN or name.endswith(AVERAGED) or name in found:
            raise UserError(
                f"data.val_sets: the name {name!r} must be one word of letters, digits and _, of one set alone, and "
                f"neither {' nor '.join(TAKEN)}, nor end with {AVERAGED}"
            )
        found[name] = Source(images, labels, num_samples)
    return found
