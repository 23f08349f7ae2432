"""Folders as people find them: each is imported right, or refused in one line that says what is wrong."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from igllm_jax.data.tokens import Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.interop.files import open_weights
from igllm_jax.interop.importing import run
from igllm_jax.interop.sources import ImportRequest
from igllm_jax.weights import base_folder
from tests.bases import read_arrays
from tests.data import byte_level
from tests.interop import made

QUERIES, HEAD = "self_attn.q_proj.weight", "lm_head.weight"
PAIRED = {"tie_word_embeddings": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    model = made.model(rank=0, head="none")
    arrays = made.base_arrays(made.params(model))
    return {"vision": made.vision(folder / "v", model, arrays), "decoder": made.decoder(folder / "d", model, arrays)}


def changed(folders, where, part="decoder", config=None, weights=None):
    """Copies of the folders, config.json of one with other values, its weights with what `weights` makes of them."""
    copies = {name: shutil.copytree(folder, where / name) for name, folder in folders.items()}
    file = copies[part] / "config.json"
    made.put_json(file, {**json.loads(file.read_text()), **(config or {})})
    if weights:
        found = open_weights(copies[part])
        named = {name: np.array(found.read(name)) for name in found.infos}
        made.save(weights(named), copies[part] / "model.safetensors")
    return copies


def imported(where, copies):
    account = run(ImportRequest(out=where / "base", **copies))
    return account, base_folder.read_config(where / "base").decoder


def packed(named):
    """As GPTQ packs them."""
    rest = {name: array for name, array in named.items() if QUERIES not in name}
    queries = {name.replace("weight", "qweight"): np.zeros((3, 5), np.int32) for name in named if QUERIES in name}
    return rest | queries


REFUSED = {
    "another model": ({"model_type": "phi3"}, None, "config.json: model_type is 'phi3'; supported: llama"),
    **{
        f"rotations by {kind}": (
            {"rope_scaling": {"rope_type": kind, "factor": 4.0}, "rope_parameters": None},
            None,
            f"rope_scaling .*'{kind}'.* is not supported; whole heads, of default, linear, llama3 are",
        )
        for kind in ("yarn", "dynamic", "longrope")
    },
    "biases of LLaMA": ({"attention_bias": True}, None, "attention_bias is True; supported: False"),
    "GPTQ": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        packed,
        "config.json: quantization_config says gptq, and quantised weights can't be imported; take the folder of",
    ),
    "torchao": ({"quantization_config": {"quant_type": "int4"}}, None, "quantization_config says int4, and"),
    "a damaged word of it": ({"quantization_config": [4]}, None, r"quantization_config says \[4\], and quantised"),
    "eight bits without a word": (
        {},
        lambda named: {name: a.astype(ml_dtypes.float8_e4m3fn) if QUERIES in name else a for name, a in named.items()},
        r"not floating point \(quantised weights can't be imported\): model.layers.\{0-2\}.self_attn.q_proj.weight \(f",
    ),
    "no head of its own": (
        {},
        lambda named: {name: array for name, array in named.items() if name != HEAD},
        "1 tensor is missing: lm_head.weight",
    ),
    "a head that is not the embedding": (
        PAIRED, None, "lm_head.weight differs from model.embed_tokens.weight, .* set its tie_word_embeddings to false"
    ),
    "a head as wide as no layer": ({"head_dim": 4}, None, r"q_proj.weight is \[24, 26\] instead of \[16, 26\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_says_what_is_wrong(folders, tmp_path, name):
    config, weights, told = REFUSED[name]
    copies = changed(folders, tmp_path, config=config, weights=weights)
    with pytest.raises(UserError, match=told) as error:
        run(ImportRequest(out=tmp_path / "base", **copies))
    assert "\n" not in str(error.value) and not list(tmp_path.glob("base*"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "siglip2_vision_model"}, "'siglip2_vision_model'; supported: clip_vision_model, siglip"),
        ({"model_type": "dinov2", "mlp_ratio": 4, "use_swiglu_ffn": True}, "use_swiglu_ffn is True; supported: False"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config says bitsandbytes, and"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_tower(folders, tmp_path, config, told):
    copies = changed(folders, tmp_path, "vision", config)
    with pytest.raises(UserError, match=f"vision/config.json: .*{told}"):
        run(ImportRequest(out=tmp_path / "base", **copies))


@pytest.mark.parametrize("has_head", [False, True])
def test_an_embedding_that_is_the_head_too(folders, tmp_path, has_head):
    """With or without a copy of it in the file, as .bin files and safetensors have it."""

    def weights(named):
        rest = {name: array for name, array in named.items() if name != HEAD}
        return rest | ({HEAD: named["model.embed_tokens.weight"]} if has_head else {})

    _, decoder = imported(tmp_path, changed(folders, tmp_path, config=PAIRED, weights=weights))
    assert decoder.tie_embeddings and "decoder/head/kernel" not in read_arrays(tmp_path / "base")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_what_it_is(folders, tmp_path, dtype):
    copies = changed(folders, tmp_path, weights=lambda named: {name: a.astype(dtype) for name, a in named.items()})
    imported(tmp_path, copies)
    found, wanted = read_arrays(tmp_path / "base"), made.params(made.model(rank=0, head="none"))
    for path in ("decoder/embedding", "decoder/layers/q/kernel", "decoder/final_norm/scale"):
        assert found[path].dtype == dtype
        np.testing.assert_array_equal(found[path], wanted[path].astype(dtype))


def test_a_window_of_null_and_many_ends(folders, tmp_path):
    """Mistral 0.2's null, and Llama 3's ends in config.json, which are read beside the tokenizer."""
    config = {"model_type": "mistral", "sliding_window": None, "eos_token_id": [2, 5, 7]}
    assert imported(tmp_path, changed(folders, tmp_path, config=config))[1].window == 0


def test_rows_beyond_the_tokens(folders, tmp_path):
    """Vocabularies are padded to a round number."""

    def weights(named):
        return {
            name: np.concatenate([array, np.zeros((21, array.shape[1]), array.dtype)])
            if name in (HEAD, "model.embed_tokens.weight")
            else array
            for name, array in named.items()
        }

    copies = changed(folders, tmp_path, config={"vocab_size": made.VOCAB + 21}, weights=weights)
    assert imported(tmp_path, copies)[1].vocab_size == made.VOCAB + 21
    assert Tokenizer.load(tmp_path / "base").vocab_size == made.VOCAB


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def bytewise(folder, is_control, **beside):
    """A byte-level tokenizer.json with a token beyond the rows, as Gemma 3's text models have one for images."""
    content = byte_level.train(made.TEXTS, size=made.VOCAB)
    about = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": is_control}
    content["added_tokens"].append({"id": made.VOCAB, "content": "<image_soft_token>", **about})
    content["model"]["vocab"]["<image_soft_token>"] = made.VOCAB
    (folder / "tokenizer.model").unlink(missing_ok=True)
    return byte_level.folder(folder, content, **beside)


def test_a_control_token_beyond_the_rows_is_left_out(folders, tmp_path):
    copies = changed(folders, tmp_path)
    bytewise(copies["decoder"], True, tokenizer_config={"eos_token": "<|im_end|>"})
    whole = Tokenizer.load(copies["decoder"])
    account, _ = imported(tmp_path, copies)
    found = Tokenizer.load(tmp_path / "base")
    assert any("left out control tokens for which there are no rows" in note for note in account.notes)
    assert whole.vocab_size == made.VOCAB + 1 > made.VOCAB >= found.vocab_size
    assert found.encode(made.TEXTS[0]) == whole.encode(made.TEXTS[0]) and found.end_ids == whole.end_ids


def test_a_text_token_beyond_the_rows_is_an_error(folders, tmp_path):
    copies = changed(folders, tmp_path)
    bytewise(copies["decoder"], False)
    with pytest.raises(UserError, match=f"has {made.VOCAB + 1} pieces and the embedding {made.VOCAB} rows: it belongs"):
        run(ImportRequest(out=tmp_path / "base", **copies))


def test_a_tokenizer_json_without_an_end(folders, tmp_path):
    copies = changed(folders, tmp_path)
    (copies["decoder"] / "tokenizer.model").unlink()
    byte_level.folder(copies["decoder"], byte_level.train(made.TEXTS, size=made.VOCAB, control=()))
    with pytest.raises(UserError, match=r"tokenizer.json: has no end token; keep its tokenizer_config.json beside it"):
        run(ImportRequest(out=tmp_path / "base", **copies))


def test_gemmas_folder_has_both_kinds_of_vocabulary(tmp_path):
    """Its tokenizer.json says that turns end, its tokenizer.model only where texts do."""
    made.tokenizer(tmp_path)
    about = {"tokenizer_config": {"eos_token": "<|endoftext|>"}, "generation_config": {"eos_token_id": [0, 2]}}
    byte_level.folder(tmp_path, byte_level.train(made.TEXTS, size=made.VOCAB), **about)
    assert find_tokenizer(tmp_path).name == "tokenizer.model"
    about["tokenizer_config"]["tokenizer_class"] = "GemmaTokenizer"
    byte_level.folder(tmp_path, byte_level.train(made.TEXTS, size=made.VOCAB), **about)
    assert find_tokenizer(tmp_path).name == "tokenizer.json"
    assert Tokenizer.load(tmp_path).end_pieces == ("<|endoftext|>", "<|im_end|>")
