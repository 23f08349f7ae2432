"""Vocabularies of tokenizer.json files: byte-level ones, trained here or SmolLM2's, and ones with byte pieces."""

import json
import pickle

import numpy as np
import pytest

from igllm_jax.data.prompts import answer, find_prompt
from igllm_jax.data.rows import RowMaker, end_ids, prompt_tokens
from igllm_jax.data.tokens import Tokenizer, find_tokenizer, train_small
from igllm_jax.errors import UserError
from igllm_jax.scene.code import FLOAT_TOKEN
from tests.data import byte_level, samples

LINE = "add(size='large', loc=(+0.500, 数, 数), rotation=-数)\n"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Tokenizer:
    content = byte_level.smollm2_json(byte_level.smollm2())
    beside = {"tokenizer_config": {"eos_token": "<|im_end|>"}, "generation_config": {"eos_token_id": [2, 0]}}
    return Tokenizer.load(byte_level.folder(tmp_path_factory.mktemp("smollm2"), content, **beside))


def test_smollm2s_own(smollm2):
    assert (smollm2.vocab_size, smollm2.float_id) == (49152, 18265)
    assert (smollm2.bos_id, smollm2.end_ids, smollm2.text_start) == (None, (2, 0), "")
    assert smollm2.encode("The scene", bos=True) == [504, 6621]
    assert smollm2.splits_digits and not smollm2.splits_lines
    ids = smollm2.encode(LINE)
    assert smollm2.decode(ids) == LINE and "".join(map(smollm2.surface, ids)) == LINE
    scene = samples.scene("clevr", np.random.default_rng(0), 3)
    row = RowMaker(samples.options(prompt="chatml"), smollm2).row(scene, None)
    assert row.is_number.sum() == 12 and row.tokens[-1] == 2


def test_byte_level(bytewise):
    assert bytewise.vocab_size == 500 and bytewise.bos_id is None and bytewise.text_start == ""
    assert bytewise.end_pieces == ("<|im_end|>", "<|endoftext|>")
    assert not bytewise.splits_lines
    for text in (LINE, "é鶦 \t\n\n  x 1234", ""):
        assert bytewise.decode(bytewise.encode(text)) == text
    assert len(bytewise.encode("material='metal'")) < 8
    assert b"".join(map(bytewise.vocabulary.bytes_of, bytewise.encode("鶦"))) == "鶦".encode()


def test_what_a_label_says_is_no_control_token(bytewise):
    ids = bytewise.encode("<|im_end|>")
    assert not set(ids) & set(bytewise.end_ids) and bytewise.decode(ids) == "<|im_end|>"
    assert bytewise.encode("a<|im_end|>", control=["<|im_end|>"]) == [*bytewise.encode("a"), bytewise.eos_id]


def test_copies_are_the_same(bytewise, tmp_path):
    assert bytewise.save(tmp_path) == tmp_path / "tokenizer.json" == find_tokenizer(tmp_path)
    loaded = [Tokenizer.load(path) for path in (tmp_path, tmp_path / "tokenizer.json")]
    for copy in (*loaded, pickle.loads(pickle.dumps(bytewise))):
        assert copy.fingerprint == bytewise.fingerprint and copy.end_ids == bytewise.end_ids
        assert copy.encode(LINE) == bytewise.encode(LINE)


def test_prompts_are_the_templates(bytewise):
    options = samples.options(prompt="chatml")
    before, after = prompt_tokens(options, bytewise)
    start, end = (bytewise.vocabulary.id_of(f"<|im_{side}|>") for side in ("start", "end"))
    assert before[0] == start and before.count(start) == 2 and before.count(end) == 1
    assert after.count(start) == after.count(end) == 1
    assert end_ids(options, bytewise) == (end, bytewise.vocabulary.id_of("<|endoftext|>"))
    assert prompt_tokens(samples.options(prompt="short"), bytewise)[0] == [bytewise.eos_id]
    with pytest.raises(UserError, match=r"has no <\|start_header_id\|>, which data.prompt=llama3 needs"):
        prompt_tokens(samples.options(prompt="llama3"), bytewise)


@pytest.mark.parametrize("head", ["none", "linear"])
def test_rows_of_vocabularies_that_reach_across_lines(bytewise, head):
    """The plain row is counted exactly, and drawn ones seldom come out longer."""
    plain = RowMaker(samples.options(head=head, shuffle_attributes=False, use_synonyms=False), bytewise)
    drawn, longer = RowMaker(samples.options(head=head), bytewise), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene = samples.scene("clevr", rng, 1 + seed % 10)
        assert plain.bound(scene) == len(plain.row(scene, None)) <= drawn.bound(scene)
        longer += len(drawn.row(scene, rng)) > drawn.bound(scene)
    assert longer <= 2
    assert len(drawn._known_lines) < 200  # lines are counted once for all digits


# A vocabulary as Llama 2's tokenizer.json spells it: "▁" for a space, also before every text, and a byte for the rest.
FALLBACK = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    },
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
}  # fmt: skip


def fallback() -> dict:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁adx=(),.0123456789数", "▁a"]
    about = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {
        "type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True, "merges": [["▁", "a"]],
        "vocab": {piece: token for token, piece in enumerate(pieces)},
    }  # fmt: skip
    added = [{"id": token, "content": pieces[token], **about} for token in range(3)]
    return {"version": "1.0", "added_tokens": added, **FALLBACK, "model": model}


def test_a_byte_for_what_has_no_piece(tmp_path):
    tokenizer = Tokenizer.load(byte_level.folder(tmp_path, fallback()))
    assert (tokenizer.bos_id, tokenizer.end_ids, tokenizer.text_start) == (1, (2,), " ")
    ids = tokenizer.encode("add x\n数", bos=True)
    assert [tokenizer.piece(token) for token in ids] == ["<s>", "▁a", "d", "d", "▁", "x", "<0x0A>", "数"]
    assert tokenizer.decode(ids) == "add x\n数" and tokenizer.float_id == tokenizer.encode("数")[-1]
    (spelled,) = tokenizer.float_token_in_bytes()
    assert tokenizer.decode(spelled) == FLOAT_TOKEN and len(spelled) == 3
    assert tokenizer.splits_lines and tokenizer.splits_digits


def test_pieces_are_matched_across_kinds(bytewise, tmp_path):
    """Rows of a vocabulary go by pieces, which both kinds spell alike."""
    small = train_small([answer(text, "clevr") for text in samples.texts()], tmp_path)
    shared = set(small.pieces) & set(bytewise.pieces)
    assert {"a", "▁", "数", "(", "<0x0A>"} <= shared


def rename_ends(content: dict) -> None:
    for about in content["added_tokens"]:
        token = content["model"]["vocab"].pop(about["content"])
        about["content"] = f"<{token}>"
        content["model"]["vocab"][about["content"]] = token


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content.pop("model"), "not a tokenizer.json .*it has no model"),
        (lambda content: content.update(decoder=None), "neither byte-level nor with byte_fallback"),
        (lambda content: rename_ends(content), "has no end token; keep its tokenizer_config.json beside it"),
    ],
)
def test_mistakes_are_one_line(change, told, tmp_path):
    content = byte_level.train(["add(x=数)\n"], size=300)
    change(content)
    with pytest.raises(UserError, match=told):
        Tokenizer.load(byte_level.folder(tmp_path, content))


def test_a_damaged_file_beside_is_one_line(tmp_path):
    where = byte_level.folder(tmp_path, fallback())
    (where / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"one of tokenizer.json, generation_config.json is damaged"):
        Tokenizer.load(where)


TEMPLATES = {
    # meta-llama/Meta-Llama-3-8B-Instruct
    "llama3": "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set c = bos_token + c %}{% endif %}{{ c }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
    # Qwen/Qwen2-7B-Instruct
    "chatml": "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{{ '<|im_start|>assistant\n' }}",
    # google/gemma-2-2b-it
    "gemma": "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{{ '<start_of_turn>model\n' }}",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_those_of_transformers(name, tmp_path):
    """Token by token, `<image>` standing for the image."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("jinja2")
    prompt = find_prompt(name, "clevr")
    control = ("<|endoftext|>", "<begin>", "<image>", *prompt.control)
    content = byte_level.train([prompt.before_image, prompt.after_image, *samples.texts()[:9]], control=control)
    folder = byte_level.folder(tmp_path, content)
    tokenizer = Tokenizer.load(folder)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<begin>", chat_template=TEMPLATES[name]
    )
    asked = find_prompt("vicuna_v1", "clevr").after_image.removesuffix(" ASSISTANT:")
    said = [{"role": "user", "content": f"<image>{asked}"}]
    wanted = theirs.apply_chat_template(said, tokenize=True, return_dict=False)
    before, after = prompt_tokens(samples.options(prompt=name), tokenizer)
    begin = [] if name == "chatml" else [tokenizer.vocabulary.id_of("<begin>")]  # the file's own template would put it
    assert [*begin, *before, tokenizer.vocabulary.id_of("<image>"), *after] == wanted
    assert tokenizer.piece(end_ids(samples.options(prompt=name), tokenizer)[0]) == prompt.end


def test_smollm2s_own_template(smollm2, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("jinja2")
    smollm2.save(tmp_path)
    template = byte_level.smollm2()["tokenizer.chat_template"]
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=template
    )
    system = {"role": "system", "content": "You are a helpful assistant."}
    asked = find_prompt("vicuna_v1", "clevr").after_image.removesuffix(" ASSISTANT:")
    said = [system, {"role": "user", "content": f"<file_sep>{asked}"}]
    wanted = theirs.apply_chat_template(said, tokenize=True, add_generation_prompt=True, return_dict=False)
    before, after = prompt_tokens(samples.options(prompt="chatml"), smollm2)
    assert [*before, smollm2.vocabulary.id_of("<file_sep>"), *after] == wanted
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
