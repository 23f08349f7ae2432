"""`igllm generate --model` straight from an imported folder, without torch."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import sentencepiece
from PIL import Image

from igllm_jax import __main__ as cli
from igllm_jax import generate
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding import answers
from igllm_jax.errors import UserError
from igllm_jax.interop import exporting, hf_config, importing
from igllm_jax.weights import base_folder, trained_model
from tests.interop import made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sources, the base imported from them with its adapter, and three images."""
    folder, model = tmp_path_factory.mktemp("generate"), made.model()
    arrays = made.params(model)
    for kind in ("vision", "decoder", "adapter"):
        getattr(made, kind)(folder / kind, model, arrays)
    importing.run(importing.ImportRequest(out=folder / "base", **sources(folder, "vision", "decoder", "adapter")))
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (21, 21, 3)).astype(np.uint8)).save(folder / "images" / f"{number}.png")
    return folder


def sources(folder, *names):
    return {name: folder / name for name in names}


def words(model, folder, out, *more):
    """Of a vocabulary drawn at random, which can't say any language's answers."""
    return ["--model", str(model), "--images", str(folder / "images"), "--out", str(out), "--grammar", "none", *more]


def run(model, folder, out, *more):
    """What the command wrote."""
    assert generate.main(words(model, folder, out, "--max_new_tokens", "17", "--batch_size", "2", *more)) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_answers_for_every_image_in_the_dtype_of_the_computation(folder, tmp_path, monkeypatch, dtype):
    seen = []
    build, real = generate.AnswerGenerator, generate.predict
    monkeypatch.setattr(
        generate, "AnswerGenerator", lambda model, *rest, **more: seen.append(model) or build(model, *rest, **more)
    )
    monkeypatch.setattr(
        generate, "predict", lambda of, params, *a, **k: seen.append(params) or real(of, params, *a, **k)
    )
    found = run(folder / "base", folder, tmp_path / "out.json", *(["--dtype", dtype] if dtype else []))
    assert found["model_path"] == str(folder / "base") and found["model_name"] == "base"
    assert sorted(name[-5:] for name in found["answers"]) == ["0.png", "1.png", "2.png"]
    assert all(answer["outputs"] for answer in found["answers"].values())
    model, weights = seen
    assert model.dtype == (dtype or "float32")
    prepared = {str(array.dtype) for array in jax.tree.leaves(weights)}
    assert "bfloat16" in prepared if dtype else prepared == {"float32"}


def outputs(found):
    """Image -> text; log-probabilities beside it are rounded in other ways."""
    return {name: answer["outputs"] for name, answer in found["answers"].items()}


@pytest.mark.slow
def test_guesses_change_no_answer(tmp_path, folder):
    """From batch to batch: the second one guesses from the first."""
    guessed = run(folder / "base", folder, tmp_path / "one.json")
    assert outputs(guessed) == outputs(run(folder / "base", folder, tmp_path / "two.json", "--num_drafts", "0"))
    with pytest.raises(UserError, match="--num_drafts: expected a whole number from 0 to 64, got '-1'"):
        run(folder / "base", folder, tmp_path / "three.json", "--num_drafts", "-1")


@pytest.mark.slow
def test_merged_and_unmerged_write_the_same(tmp_path, folder):
    request = importing.ImportRequest(
        out=tmp_path / "merged", merge_lora=True, **sources(folder, "vision", "decoder", "adapter")
    )
    importing.run(request)
    first = run(folder / "base", folder, tmp_path / "one.json")
    second = run(tmp_path / "merged", folder, tmp_path / "two.json")
    assert outputs(first) == outputs(second)


def test_a_vocabulary_without_the_float_token_writes_numbers_as_text(tmp_path, folder):
    model = made.model(head="none")
    made.adapter(tmp_path / "adapter", model, made.params(model))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["add(x=0.123, y=4.567) The scene can be 89"] * 7), model_prefix=str(tmp_path / "plain"),
        model_type="bpe", vocab_size=300, byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="splits the float token"):
        _ = Tokenizer.load(tmp_path / "plain.model").float_id
    request = importing.ImportRequest(
        out=tmp_path / "base", adapter=tmp_path / "adapter", tokenizer=tmp_path / "plain.model", numbers_as_text=True,
        **sources(folder, "vision", "decoder"),
    )  # fmt: skip
    importing.run(request)
    assert len(run(tmp_path / "base", folder, tmp_path / "out.json")["answers"]) == 3


def test_a_base_without_a_projector_says_what_to_do(tmp_path, folder, capsys, monkeypatch):
    importing.run(importing.ImportRequest(out=tmp_path / "plain", **sources(folder, "vision", "decoder")))
    told = fails(words(tmp_path / "plain", folder, tmp_path / "out.json"), capsys, monkeypatch)
    assert "plain holds no projector, so it can't write code yet: train it with model.base, or import it with" in told
    assert not (tmp_path / "out.json").exists()


def test_a_base_without_a_tokenizer_says_what_to_do(tmp_path, folder, capsys, monkeypatch):
    decoder = made.decoder(tmp_path / "decoder", made.model(), made.params(made.model()))
    (decoder / "tokenizer.model").unlink()
    request = importing.ImportRequest(out=tmp_path / "base", decoder=decoder, **sources(folder, "vision", "adapter"))
    importing.run(request)
    told = fails(words(tmp_path / "base", folder, tmp_path / "out.json"), capsys, monkeypatch)
    assert "base holds no tokenizer.model or tokenizer.json: import it again with --tokenizer FILE" in told


def test_a_folder_that_is_not_imported_says_how_to_make_one(tmp_path, folder, capsys, monkeypatch):
    told = fails(words(folder / "decoder", folder, tmp_path / "out.json"), capsys, monkeypatch)
    assert "is no folder of base weights" in told and "convert_weights.py import makes one" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--task", "so3"], "rotation_rep"),
        (["--task", "so4"], "so4"),
        (["--prompt", "nix"], "there is no prompt 'nix'; choose"),
        (["--images", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_decoded(tmp_path, folder, capsys, monkeypatch, more, told):
    arguments = [*words(folder / "base", folder, tmp_path / "out.json"), *more]
    monkeypatch.setattr(answers, "make_decode", None)
    assert told in fails(arguments, capsys, monkeypatch)


def fails(arguments, capsys, monkeypatch):
    """The one line that a failing `igllm generate` prints."""
    monkeypatch.setattr("sys.argv", ["igllm", "generate", *arguments])
    capsys.readouterr()
    assert cli.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_images_are_made_square_as_the_checkpoint_says(tmp_path, folder):
    model = made.model()
    adapter = made.adapter(tmp_path / "adapter", model, made.params(model))
    described = hf_config.reference_to_json(model, vision_tower="clip", dtype="float32", aspect_ratio="square")
    made.put_json(adapter / "config.json", described)
    importing.run(
        importing.ImportRequest(out=tmp_path / "base", adapter=adapter, **sources(folder, "vision", "decoder"))
    )
    for base, expected in ((folder / "base", "pad"), (tmp_path / "base", "square")):
        trained = trained_model.load_imported(base, task="clevr", rotation_rep="", prompt="vicuna_v1")
        assert trained.data.image_aspect_ratio == expected
        exporting.export(exporting.from_folder(base), "llava-hf", tmp_path / expected)
        image = json.loads((tmp_path / expected / "preprocessor_config.json").read_text())
        assert image["do_pad"] == (expected == "pad")


def test_the_folders_own_image_mean_and_size_are_used(folder):
    trained = trained_model.load_imported(folder / "base", task="clevr", rotation_rep="", prompt="vicuna_v1")
    config = base_folder.read_config(folder / "base")
    assert replace(config, dtype="float32") == trained.model
    assert (trained.data.image_size, trained.data.image_mean) == (21, config.vision.image_mean)
