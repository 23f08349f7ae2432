"""The only prompt strings: what is said before the image, after it, and around the code of an answer."""

from dataclasses import dataclass

from igllm_jax.errors import UserError

_QUESTION = "\nWhat Python Blender code could be used to produce the scene?"
_ANSWER_START = "The scene can be produced with:\n```python\n"
_ANSWER_END = "```"


@dataclass(frozen=True)
class Prompt:
    """Text around the image slots. The answer follows `after_image` and one space (the tokenizer's dummy space)."""

    before_image: str
    after_image: str


def _llava(person: str) -> Prompt:
    system = (
        f"A chat between a curious {person} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions."
    )
    return Prompt(before_image=f"{system} USER: ", after_image=f"{_QUESTION} ASSISTANT:")


PROMPTS: dict[str, Prompt] = {
    "vicuna_v1": _llava("user"),
    # Reference: trains with the one above and generates with this one; here one prompt serves both, and this one is for
    # imported checkpoints that are to be run as the reference runs them.
    "llava_v1": _llava("human"),
    # For tiny models, which know no English to begin with.
    "short": Prompt(before_image="", after_image="Code:"),
}


def find_prompt(name: str) -> Prompt:
    """The prompt of that name. Raises: UserError with the names that exist."""
    if name not in PROMPTS:
        raise UserError(f"there is no prompt {name!r}; choose data.prompt among {', '.join(PROMPTS)}")
    return PROMPTS[name]


def answer(code: str) -> str:
    """The answer that holds `code`, lines that each end in a line break."""
    return f"{_ANSWER_START}{code}{_ANSWER_END}"


def code_of(answer_text: str) -> str:
    """The code in an answer, `code_of(answer(code)) == code`.

    Of an answer that breaks off, what is there; of a text without a code block, all of it.
    """
    _, fence, rest = answer_text.partition(_ANSWER_START.splitlines()[-1] + "\n")
    return rest.partition(_ANSWER_END)[0] if fence else answer_text
