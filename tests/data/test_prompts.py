import pytest

from igllm_jax.data.prompts import answer, find_prompt
from igllm_jax.errors import UserError
from igllm_jax.scene.code import read


def test_answer_example():
    assert answer("add(x=数, y=数)\n", "twod") == "The scene can be produced with:\n```python\nadd(x=数, y=数)\n```"


@pytest.mark.parametrize("code", ["", "add(x=0.250, y=0.750)\n", "add(x=0.1, y=0.2)\nadd(x=0.3, y=0.4)\n"])
def test_an_answer_reads_as_its_code(code):
    assert read(answer(code, "twod"), "twod", rotation_rep="").objects == read(code, "twod", rotation_rep="").objects


def test_prompt_text():
    prompt = find_prompt("vicuna_v1", "clevr")
    assert prompt.before_image == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: "
    )
    assert prompt.after_image == "\nWhat Python Blender code could be used to produce the scene? ASSISTANT:"
    assert find_prompt("llava_v1", "clevr").before_image == prompt.before_image.replace("user", "human")


def test_unknown_prompt():
    with pytest.raises(UserError, match=r"no prompt .vicuna.; choose data.prompt among vicuna_v1, .*short"):
        find_prompt("vicuna", "clevr")
