import pytest

from igllm_jax.data.prompts import PROMPTS, answer, code_of, find_prompt
from igllm_jax.errors import UserError


def test_answer_example():
    assert answer("add(x=数, y=数)\n") == "The scene can be produced with:\n```python\nadd(x=数, y=数)\n```"


@pytest.mark.parametrize("code", ["", "add(x=0.250, y=0.750)\n", "add()\nadd()\n"])
def test_code_comes_back(code):
    assert code_of(answer(code)) == code


def test_code_of_other_texts():
    assert code_of(answer("add(x=1)\nadd(x=2")[:-3]) == "add(x=1)\nadd(x=2"
    assert code_of("add(x=1)\n") == "add(x=1)\n"


def test_prompt_text():
    prompt = PROMPTS["vicuna_v1"]
    assert prompt.before_image == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: "
    )
    assert prompt.after_image == "\nWhat Python Blender code could be used to produce the scene? ASSISTANT:"
    assert PROMPTS["llava_v1"].before_image == prompt.before_image.replace("user", "human")


def test_unknown_prompt():
    with pytest.raises(UserError, match=r"no prompt 'vicuna'; choose data.prompt among vicuna_v1, llava_v1, short"):
        find_prompt("vicuna")
