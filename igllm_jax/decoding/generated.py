"""What was generated for an image, as people and programs take it: the code, and the scene that it says."""

from dataclasses import dataclass
from typing import Any

from igllm_jax.data.options import DataOptions
from igllm_jax.decoding.answer import Answer, json_call
from igllm_jax.scene.agreement import agreement
from igllm_jax.scene.code import read, scene_of
from igllm_jax.scene.language import find_language
from igllm_jax.scene.predictions import LOG_LIKELIHOOD, LOG_PROBABILITIES, SAMPLES
from igllm_jax.scene.scene import Predicted, Scene


@dataclass(frozen=True)
class Generated:
    """One image's answer.

    image: its name. code: the text, numbers filled in. calls: what the text says, call by call, as it was written.
    scene: the same as a label would have it, to draw, score or write again. problems: what of the text can't be read,
    in words; none where the grammar kept it to the language. is_finished: whether the answer ended by itself.
    log_probabilities: of each call, summed over its tokens. log_likelihood: of the whole answer. samples: of several
    answers all, this one the first; agreement: of each call how far they agree, see scene/agreement.py; () where there
    is one answer.
    """

    image: str
    code: str
    calls: tuple[Predicted, ...]
    scene: Scene
    problems: tuple[str, ...]
    is_finished: bool
    log_probabilities: tuple[float, ...] = ()
    log_likelihood: float = 0.0
    samples: tuple["Generated", ...] = ()
    agreement: tuple[dict[str, Any], ...] = ()

    @property
    def numbers(self) -> tuple[float, ...]:
        """Every number of the calls, in order."""
        values = (value for call in self.calls for value in call.values())
        parts = (part for value in values for part in (value if isinstance(value, tuple) else (value,)))
        return tuple(float(part) for part in parts if isinstance(part, int | float))

    def to_json(self) -> dict[str, Any]:
        """All but the scene, as JSON values: `calls` are objects of their function and what it was given."""
        told: dict[str, Any] = {
            "image": self.image,
            "code": self.code,
            "calls": [json_call(call) for call in self.calls],
            "problems": list(self.problems),
            "is_finished": self.is_finished,
            LOG_PROBABILITIES: list(self.log_probabilities),
            LOG_LIKELIHOOD: self.log_likelihood,
        }
        if self.samples:
            told |= {"agreement": list(self.agreement), SAMPLES: [sample.to_json() for sample in self.samples]}
        return told


def generated(image: str, answer: Answer, data: DataOptions) -> Generated:
    """An answer, read in the language of `data`."""
    language = find_language(data.task)
    reading = read(answer.text, language, rotation_rep=data.rotation_rep)
    units = {"rotation_rep": data.rotation_rep, "rotation_unit": data.rotation_unit}
    scene = scene_of(reading, language, **units, image=image)
    problems = tuple(f"line {problem.line}: {problem.reason}" for problem in reading.problems)
    return Generated(
        image,
        answer.text,
        reading.objects,
        scene,
        problems,
        answer.is_finished,
        answer.log_probabilities,
        answer.log_likelihood,
        samples=tuple(generated(image, sample, data) for sample in answer.samples),
        agreement=_agreement(answer, data),
    )


def details(answer: Answer, data: DataOptions) -> dict[str, Any]:
    """What an answer's entry of the predictions file says beside its text: numbers in full, parsed calls,
    log-probabilities; of several answers each, and how far they agree."""
    told: dict[str, Any] = _details(answer)
    if answer.samples:
        told["agreement"] = list(_agreement(answer, data))
        told[SAMPLES] = [
            {"outputs": sample.text, LOG_LIKELIHOOD: sample.log_likelihood, **_details(sample)}
            for sample in answer.samples
        ]
    return told


def _agreement(answer: Answer, data: DataOptions) -> tuple[dict[str, Any], ...]:
    language = find_language(data.task)
    readings = [read(sample.text, language, rotation_rep=data.rotation_rep) for sample in answer.samples]
    return tuple(agreement(readings, language)) if readings else ()


def _details(answer: Answer) -> dict[str, Any]:
    return {
        "numbers": list(answer.numbers),
        "calls": list(answer.calls),
        LOG_PROBABILITIES: list(answer.log_probabilities),
        "token_log_probabilities": list(answer.token_log_probabilities),
    }
