import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igllm_jax.batch import PromptLayout
from igllm_jax.data.order import Order, Visits, choose_lengths, draw_rng
from igllm_jax.data.prompts import answer, find_prompt
from igllm_jax.data.rows import RowMaker, padding_share, prompt_layout, prompt_tokens, stack
from igllm_jax.errors import UserError
from igllm_jax.models.float_heads import FLOAT_HEADS
from igllm_jax.scene.code import fill, in_order, read
from igllm_jax.scene.language import SHIPPED, find_language
from igllm_jax.scene.scene import Object, Scene
from tests.data import samples
from tests.strategies import TASK_REPS, scenes

POINT = Scene((Object(location=(0.5, 0.25)),), "2d.npz:random/000000")


def test_llama_layout(llama):
    options = samples.options(prompt="vicuna_v1")
    before, after = prompt_tokens(options, llama)
    assert (len(before), len(after)) == (35, 20)
    assert before[0] == llama.bos_id and before[-1] == 29871
    assert "".join(map(llama.surface, after)) == " " + find_prompt("vicuna_v1", "clevr").after_image
    assert prompt_layout(options, llama) == PromptLayout(image_offset=35, answer_offset=55)
    row = RowMaker(samples.options(task="twod", prompt="vicuna_v1"), llama).row(POINT, None)
    assert llama.surface(int(row.tokens[55])) == " The"
    assert row.tokens[row.is_number].tolist() == [30354, 30354]
    # As one text, the answer would be tokenised as it is on its own.
    text = f"{find_prompt('vicuna_v1', 'clevr').after_image} {answer(chr(10), 'clevr')}"
    assert llama.encode(text) == after + llama.encode(answer("\n", "clevr"))


def test_row_example(tiny):
    row = RowMaker(samples.options(task="twod"), tiny).row(POINT, None)
    layout = prompt_layout(samples.options(task="twod"), tiny)
    assert layout.image_offset == 1
    assert row.is_answer.tolist() == [False] * layout.answer_offset + [True] * (len(row) - layout.answer_offset)
    assert row.tokens[-1] == tiny.eos_id
    assert row.numbers[row.is_number].tolist() == [0.5, 0.25]
    assert not row.numbers[~row.is_number].any()
    assert tiny.decode(row.tokens[layout.answer_offset :]) == answer("add(x=数, y=数)\n", "twod")
    assert [array.dtype for array in (row.tokens, row.is_answer, row.is_number, row.numbers)] == [
        np.int32,
        bool,
        bool,
        np.float32,
    ]


@pytest.mark.parametrize(("task", "rotation_rep"), TASK_REPS)
@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("name", ["tiny", "llama"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_scenes_come_back(name, has_head, task, rotation_rep, data, request):
    """write -> tokens -> text -> parse gives the scene, for all tasks, representations and heads."""
    tokenizer = request.getfixturevalue(name)
    head = data.draw(st.sampled_from([head for head in FLOAT_HEADS if head != "none"])) if has_head else "none"
    options = samples.options(task=task, head=head, rotation_rep=rotation_rep)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scene = data.draw(scenes(task))
    maker = RowMaker(options, tokenizer)
    row = maker.row(scene, rng)
    assert len(row) <= maker.bound(scene) + 9  # what is drawn hardly ever gets longer than was counted, or by much
    text = tokenizer.decode(row.tokens[row.is_answer])  # fences and all: code alone may be empty, an answer may not
    if options.numbers_as_tokens:
        text = fill(text, row.numbers[row.is_number])
    reading = read(text, task, rotation_rep=rotation_rep)
    assert not reading.problems
    assert len(reading.objects) == len(scene.objects)
    for said, true in zip(reading.objects, in_order(scene), strict=True):
        assert (said.size, said.color, said.material, said.shape) == (true.size, true.color, true.material, true.shape)
        same_numbers(said.location, true.location)
        same_numbers(said.rotation, said_rotation(true, task, rotation_rep))


def said_rotation(item, task, rotation_rep):
    language = find_language(task)
    attribute = language.functions[0].by_name.get("rotation")
    if attribute is None or not attribute.is_present(item):
        return None
    return attribute.kind.write(item["rotation"], item, language.settings(rotation_rep))


def same_numbers(said, true):
    """To the three digits of the text."""
    assert (said is None) == (true is None)
    if true is not None:
        np.testing.assert_allclose(said, true, atol=6e-4)


@pytest.mark.parametrize("head", ["none", "linear"])
@pytest.mark.parametrize("task", SHIPPED)
def test_bound_is_the_length_of_plain_rows(task, head, tokenizer):
    rng = np.random.default_rng(1)
    options = samples.options(
        task=task,
        head=head,
        rotation_rep=find_language(task).rotation_reps[0],
        shuffle_attributes=False,
        use_synonyms=False,
    )
    maker = RowMaker(options, tokenizer)
    for count in range(6):
        scene = samples.scene(task, rng, count)
        assert maker.bound(scene) == len(maker.row(scene, None))


def test_rows_within_a_length(tokenizer):
    """The bound holds always; and hardly any draw has to be drawn again."""
    maker = RowMaker(samples.options(), tokenizer)
    longer = 0
    for seed in range(200):
        scene = samples.scene("clevr", np.random.default_rng(seed), 1 + seed % 10)
        bound = maker.bound(scene)
        longer += len(maker.row(scene, np.random.default_rng(seed))) > bound
        assert len(maker.row_within(scene, np.random.default_rng(seed), bound)) <= bound
        assert len(maker.row_within(scene, np.random.default_rng(seed), 0)) == len(maker.row(scene, None))
    assert longer <= 2


def test_padding_of_clevr_rows(llama):
    """At most 5 % of the positions hold nothing on 10 000 scenes of 3 to 10 objects, with four lengths."""
    maker = RowMaker(samples.options(prompt="vicuna_v1"), llama)
    rng = np.random.default_rng(0)
    scenes = [samples.scene("clevr", rng, int(rng.integers(3, 11))) for _ in range(10_000)]
    bounds = np.array([maker.bound(scene) for scene in scenes])
    lengths = choose_lengths(bounds, count=4, multiple=8, extra=576)
    order = Order(Visits([len(scenes)], [1.0], seed=0), bounds, lengths, batch_size=32, seed=0)
    used = total = 0
    for step in range(0, 312, 20):
        visits, examples, length = order.step(step)
        rows = [maker.row_within(scenes[e], draw_rng(0, v), length) for v, e in zip(visits, examples, strict=True)]
        used += sum(len(row) + 576 for row in rows)
        total += len(rows) * (length + 576)
    assert 1 - used / total < 0.05


def test_float_token_in_a_label(tiny):
    scene = Scene((Object(color="数", location=(0.0, 0.0, 0.0)),), "x.png")
    with pytest.raises(UserError, match=r"image x.png: a word of the label holds 数"):
        RowMaker(samples.options(), tiny).row(scene, None)


def test_stack_and_padding_share(tiny):
    maker = RowMaker(samples.options(task="twod"), tiny)
    row = maker.row(POINT, None)
    images = np.ones((2, 7, 7, 3), np.uint8)
    batch = stack([row, row], images, length=2 * len(row), batch_size=4, pad_id=tiny.eos_id)
    assert batch.images.shape == (4, 7, 7, 3)
    assert batch.tokens.shape == (4, 2 * len(row))
    assert batch.weight.tolist() == [1, 1, 0, 0]
    assert (batch.tokens[:, len(row) :] == tiny.eos_id).all() and not batch.is_answer[:, len(row) :].any()
    assert padding_share(batch) == pytest.approx(0.75)
    image_tokens = 10 * len(row)
    assert padding_share(batch, image_tokens) == pytest.approx(1 - 22 / 48)
