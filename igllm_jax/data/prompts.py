"""The chat templates, and what is said around the image and the code: question and answer are the language's."""

from dataclasses import dataclass, replace

from igllm_jax.errors import UserError
from igllm_jax.scene.language import Language, find_language

_QUESTION = "{question}"


@dataclass(frozen=True)
class Prompt:
    """Text around the image slots; in templates, `{question}` stands for the language's question.

    The answer follows `after_image` and, where the tokenizer has one, its dummy space.
    control: names in these texts that are tokens of their own. end: the token that ends an answer, "" for the
    tokenizer's.
    """

    before_image: str
    after_image: str
    control: tuple[str, ...] = ()
    end: str = ""


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
    # Llama 3 to 3.3; source: the template of meta-llama/Meta-Llama-3-8B-Instruct, without a system's turn.
    "llama3": Prompt(
        before_image="<|start_header_id|>user<|end_header_id|>\n\n",
        after_image=f"\n{_QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        control=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        end="<|eot_id|>",
    ),
    # Qwen 2 to 3, SmolLM2; source: the template of Qwen/Qwen2-7B-Instruct, whose system's turn this is.
    "chatml": Prompt(
        before_image="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        after_image=f"\n{_QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        control=("<|im_start|>", "<|im_end|>"),
        end="<|im_end|>",
    ),
    # Gemma 1 to 3, which have no system's turn; source: the template of google/gemma-2-2b-it.
    "gemma": Prompt(
        before_image="<start_of_turn>user\n",
        after_image=f"\n{_QUESTION}<end_of_turn>\n<start_of_turn>model\n",
        control=("<start_of_turn>", "<end_of_turn>"),
        end="<end_of_turn>",
    ),
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
