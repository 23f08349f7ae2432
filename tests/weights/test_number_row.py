"""A float token added to a base that has none: its rows begin as the mean, train, and go out and come in again."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from igllm_jax import config as configs
from igllm_jax.config_vocabulary import fit_vocabulary, with_number_token
from igllm_jax.data.tokens import Tokenizer, find_tokenizer
from igllm_jax.errors import UserError
from igllm_jax.interop import base_exporting, exporting, importing
from igllm_jax.models.params import unnest
from igllm_jax.parallel.sharding import MeshLayout, make_mesh
from igllm_jax.weights import base_folder
from igllm_jax.weights.run_model import RunModel
from tests.bases import read_arrays
from tests.data import byte_level, samples
from tests.interop import made
from tests.interop.test_exporting import make_run, run_config

ROWS = {"decoder/number_row/embedding": ("decoder/embedding", 0), "decoder/number_row/head": ("decoder/head/kernel", 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An imported base whose vocabulary has no float token and whose tables have no row to spare."""
    pytest.importorskip("tokenizers")
    folder, model = tmp_path_factory.mktemp("bases"), made.model()
    for kind in ("vision", "decoder"):
        getattr(made, kind)(folder / kind, model, made.params(model))
    (folder / "decoder" / "tokenizer.model").unlink()
    texts = [text.replace("数", "") for text in samples.texts()]
    byte_level.folder(folder / "decoder", byte_level.train(texts, size=made.VOCAB))
    request = importing.ImportRequest(out=folder / "base", vision=folder / "vision", decoder=folder / "decoder")
    assert any("splits the float token" in note for note in importing.run(request).notes)
    return folder


def begun(folder, **changes):
    """A run's config, tokenizer and model on a base, as `igllm train` begins it."""
    config = run_config(replace(made.model(), head="tanh_mlp_gelu"), folder)
    config.model.decoder.vocab_size = base_folder.read_config(folder).decoder.vocab_size
    config.tokenizer.update(changes)
    tokenizer = with_number_token(config, Tokenizer.load(folder))
    fit_vocabulary(config, tokenizer)
    one = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    return config, tokenizer, RunModel.of(configs.run_options(config), MeshLayout.of("train", one))


def test_rows_are_added_and_come_back(folder, tmp_path):
    config, tokenizer, run_model = begun(folder / "base")
    assert (tokenizer.float_id, config.model.decoder.number_row) == (made.VOCAB, made.VOCAB)
    assert config.model.decoder.vocab_size == 384  # the next multiple of 64
    assert not run_model.check_base()
    before, frozen = read_arrays(folder / "base"), {p: np.asarray(x) for p, x in run_model.load_frozen().items()}
    trained = unnest(run_model.initial_state().params)
    for row, (table, axis) in ROWS.items():
        mean = before[table].mean(axis)
        np.testing.assert_allclose(trained[row], mean, atol=1e-6)
        np.testing.assert_array_equal(np.take(frozen[table], range(made.VOCAB), axis), before[table])
        np.testing.assert_allclose(np.take(frozen[table], 383, axis), mean, atol=1e-6)

    learned = {path: np.asarray(value) + (path in ROWS) for path, value in trained.items()}
    workdir = make_run(tmp_path / "run", config, {1: learned})
    (workdir / "tokenizer.model").unlink()
    tokenizer.save(workdir)
    model = exporting.from_run(workdir, "last")
    base_exporting.export_base(model, tmp_path / "base")
    exporting.export(model, "llava-hf", tmp_path / "hf")
    importing.run(importing.ImportRequest(out=tmp_path / "again", llava=tmp_path / "hf"))
    for out in ("base", "again"):
        found = read_arrays(tmp_path / out)
        assert not set(found) & set(ROWS) and Tokenizer.load(tmp_path / out).float_id == made.VOCAB
        for row, (table, axis) in ROWS.items():
            np.testing.assert_array_equal(np.take(found[table], made.VOCAB, axis), learned[row])
            np.testing.assert_array_equal(np.take(found[table], range(made.VOCAB), axis), before[table])

    check_the_adapter(folder, model, tmp_path)

    _, again, continued = begun(tmp_path / "base")  # a run on top goes on with what the rows learned
    assert again.fingerprint == tokenizer.fingerprint
    values = unnest(continued.initial_state().params)
    for row in ROWS:
        np.testing.assert_array_equal(values[row], learned[row])


def check_the_adapter(folder, model, tmp_path):
    """As PEFT has it: LoRA, and a token's rows beside it."""
    pytest.importorskip("torch")  # a PEFT folder holds a torch file
    notes = exporting.export(model, "peft", tmp_path / "peft")["notes"]
    assert [note for note in notes if "resize_token_embeddings(384)" in note]
    for merge_lora in (False, True):
        sources = {kind: folder / kind for kind in ("vision", "decoder")}
        out, adapter = tmp_path / f"adapted-{merge_lora}", tmp_path / "peft"
        importing.run(importing.ImportRequest(out=out, adapter=adapter, merge_lora=merge_lora, **sources))
        found, expected = read_arrays(out), read_arrays(tmp_path / "base")
        assert Tokenizer.load(out).float_id == made.VOCAB
        for table, _ in ROWS.values():
            np.testing.assert_array_equal(found[table], expected[table])


def test_a_piece_that_is_there_stays(folder, tmp_path):
    pieces = byte_level.train(samples.texts(), size=300)
    assert Tokenizer.load(byte_level.folder(tmp_path, pieces)).for_numbers("auto").vocab_size == 300
    added = Tokenizer.load(tmp_path).for_numbers("added")
    assert (added.vocab_size, added.float_id, added.has_added_number) == (301, 300, True)
    assert added.for_numbers("added") is added
    with pytest.raises(UserError, match=r"splits the float token 数; .* let tokenizer.number_token add it"):
        _ = Tokenizer.load(find_tokenizer(folder / "base")).for_numbers("piece").float_id


def test_sentencepiece_gets_one_too(tmp_path):
    tokenizer = made.tokenizer(tmp_path)
    assert not tokenizer.has_added_number and tokenizer.for_numbers("auto") is tokenizer
    model = tokenizer.model.replace("数".encode(), "象".encode())  # another piece, as long
    other = Tokenizer(model, "other").for_numbers("auto")
    assert other.has_added_number and other.float_id == other.vocab_size - 1 == tokenizer.vocab_size
    assert other.decode(other.encode("(数, x=数)")) == "(数, x=数)"
