"""The chat templates, and what is said around the image and the code: question and answer are the language's."""

from dataclasses import dataclass, replace

from igllm_jax.errors import UserError
from igllm_jax.scene.language import Language, find_language

_QUESTION = "{question}"


@dataclass(frozen=True)
class Prompt:
    """Text around the image slots; in templates, `{question}` stands for the language's question.

    The answer follows `after_image` and one space (the tokenizer's dummy space).
    """

    before_image: str
    after_image: str


def _llava(person: str) -> Prompt:
    system = (
        f"A chat between a curious {person} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
    )
    return Prompt(before_image=f"{system} USER: ", after_image=f"\n{_QUESTION} ASSISTANT:")


PROMPTS: dict[str, Prompt] = {
    "vicuna_v1": _llava("user"),
    # Reference: trains with the one above and generates with this one; here one prompt serves both, and this one is for
    # imported checkpoints that are to be run as the reference runs them.
    "llava_v1": _llava("human"),
    # For tiny models, which know no English to begin with.
    "short": Prompt(before_image="", after_image="Code:"),
}


def find_prompt(name: str, task: Language | str) -> Prompt:
    """The prompt of that name, with the language's question. Raises: UserError with the names that exist."""
    if name not in PROMPTS:
        raise UserError(f"there is no prompt {name!r}; choose data.prompt among {', '.join(PROMPTS)}")
    template = PROMPTS[name]
    return replace(template, after_image=template.after_image.replace(_QUESTION, find_language(task).question))


def answer(code: str, task: Language | str) -> str:
    """The answer that holds `code`, lines that each end in a line break."""
    language = find_language(task)
    return f"{language.answer_start}{code}{language.answer_end}"
