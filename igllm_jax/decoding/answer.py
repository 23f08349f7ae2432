"""What a model answered for one image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from igllm_jax.scene.scene import Call


@dataclass(frozen=True)
class Answer:
    """text: what the model wrote, numbers filled in. is_finished: whether it ended by itself.

    Where the generator is asked for details:
    numbers: what the float head read, in the text's order, in the language's scale, float32 in full.
    calls: of each call that can be read its `function` and what it says, as JSON values, its numbers in full.
    log_probabilities: of each of those calls, summed over its tokens. token_log_probabilities: of each token, that of
    the end included, among those that were allowed there, at temperature 1.
    samples: of several answers all, this one the first; () where there is one.
    """

    text: str
    is_finished: bool
    numbers: tuple[float, ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()
    log_probabilities: tuple[float, ...] = ()
    token_log_probabilities: tuple[float, ...] = ()
    samples: tuple["Answer", ...] = ()

    @property
    def log_likelihood(self) -> float:
        """Of the whole answer."""
        return float(sum(self.token_log_probabilities))

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Answer":
        """The answer again. Raises: KeyError, TypeError or ValueError for another content."""
        found: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        found["samples"] = tuple(cls.from_json(sample) for sample in found.get("samples", ()))
        return cls(**found)


def json_call(call: Call) -> dict[str, Any]:
    """A call as JSON values."""
    said = {name: list(value) if isinstance(value, tuple) else value for name, value in call.items()}
    return {"function": call.function, **said}


def shortest(values: np.ndarray) -> tuple[float, ...]:
    """float32 numbers as the doubles with the fewest digits that are these float32 again."""
    return tuple(float(str(value)) for value in np.asarray(values, np.float32))
