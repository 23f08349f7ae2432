import pytest

from igllm_jax.data.prompts import answer, code_of, find_prompt
from igllm_jax.errors import UserError


def test_answer_example():
    assert answer("add(x=数, y=数)\n", "twod") == "The scene can be produced with:\n```python\nadd(x=数, y=数)\n```"


@pytest.mark.parametrize("code", ["", "add(x=0.250, y=0.750)\n", "add()\nadd()\n"])
def test_code_comes_back(code):
    assert code_of(answer(code, "twod"), "twod") == code


def test_code_of_other_texts():
    assert code_of(answer("add(x=1)\nadd(x=2", "twod")[:-3], "twod") == "add(x=1)\nadd(x=2"
    assert code_of("add(x=1)\n", "twod") == "add(x=1)\n"


def test_prompt_text():
    prompt = find_prompt("vicuna_v1", "clevr")
    assert prompt.before_image == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: "
    )
    assert prompt.after_image == "\nWhat Python Blender code could be used to produce the scene? ASSISTANT:"
    assert find_prompt("llava_v1", "clevr").before_image == prompt.before_image.replace("user", "human")


def test_unknown_prompt():
    with pytest.raises(UserError, match=r"no prompt 'vicuna'; choose data.prompt among vicuna_v1, llava_v1, short"):
        find_prompt("vicuna", "clevr")
