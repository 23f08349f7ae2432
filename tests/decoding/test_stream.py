"""Images that take each other's slots: answers of fixed batches, in any batch, with guesses, draws, a grammar."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from igllm_jax.data.eval_images import reader
from igllm_jax.data.given_images import image_source
from igllm_jax.data.options import DataOptions
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding import stream
from igllm_jax.decoding.answers import AnswerGenerator, programs
from igllm_jax.decoding.journal import Journal
from igllm_jax.decoding.predict import finished, predict
from igllm_jax.decoding.sampling import GREEDY, SamplingOptions
from igllm_jax.errors import UserError
from igllm_jax.parallel.distributed import Stopped
from igllm_jax.parallel.sharding import layout_for_decoding, one_device
from tests import small

COUNT, MOST = 19, 22
DATA = DataOptions("clevr", "tanh_mlp_gelu", 21, (0.5, 0.4, 0.3), 4096)
ROOT = Path(__file__).parents[2]


@cache
def tokenizer():
    return Tokenizer.load(ROOT / "tests" / "scene" / "golden")


@cache
def config():
    found = small.model()
    size = tokenizer().vocab_size
    decoder = replace(found.decoder, vocab_size=size + size % 2, mlp_width=32)  # two devices can share it
    return replace(found, decoder=decoder, vision=replace(found.vision, mlp_width=30))


@cache
def params():
    found = {path: np.asarray(value) for path, value in small.params(config(), 7).items()}
    return found | {"decoder/head/kernel": 30 * found["decoder/head/kernel"]}


@cache
def source():
    rng = np.random.default_rng(0)
    return image_source(list(rng.integers(0, 256, (COUNT, 21, 21, 3)).astype(np.uint8)))


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """So that caches grow and shrink."""
    monkeypatch.setattr("igllm_jax.decoding.decode.LEAST_PIECE", 7)


@cache
def end():
    """A token that these weights write sooner or later or never stands for the end."""
    own = generator(has_end=False)
    images, is_used, _ = own.on_devices(pictures(), COUNT, source().names)
    tokens = np.asarray(own.decode(own.prepare(params()), images, is_used, own.table).tokens)
    firsts = {
        token: {(row == token).argmax() if token in row else MOST for row in tokens} for token in np.unique(tokens)
    }
    return int(max(firsts, key=lambda token: (MOST in firsts[token], len(firsts[token]))))


def pictures():
    return np.stack([reader(source(), DATA)(index) for index in range(COUNT)])


def generator(num_drafts=0, *, layout=None, has_end=True, has_grammar=False, sampling=GREEDY, num_samples=1, most=MOST):
    found = AnswerGenerator(
        config(), tokenizer(), DATA, most, layout or one_device(), num_drafts, has_grammar=has_grammar,
        has_details=True, sampling=sampling, num_samples=num_samples,
    )  # fmt: skip
    if has_end:
        found.options = replace(found.options, end_id=end())
        found.prepare, found.decode = programs(config(), found.options, found.layout)
    return found


def streamed(own, size):
    """All answers, in the order in which they finished."""
    prepared, answers = own.prepare(params()), {}
    for new, _ in finished(own, prepared, source(), range(COUNT), size):
        answers |= new
    return answers


def together(own):
    """All answers, of one batch."""
    size = own.batch_size(COUNT)
    images = np.zeros((size, 21, 21, 3), np.uint8)
    images[:COUNT] = pictures()
    names = list(source().names)
    return dict(zip(names, own(own.prepare(params()), images, size, names), strict=True))


@cache
def expected():
    return together(generator())


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, answer in found.items():
        assert (answer.text, answer.is_finished) == (wanted[name].text, wanted[name].is_finished)
        for what in ("numbers", "token_log_probabilities"):
            np.testing.assert_allclose(getattr(answer, what), getattr(wanted[name], what), rtol=1e-4, atol=1e-4)
        assert [sample.text for sample in answer.samples] == [sample.text for sample in wanted[name].samples]


def lengths():
    return {name: len(answer.token_log_probabilities) for name, answer in expected().items()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("size", "num_drafts"),
    [pytest.param(1, 0, marks=SLOW), pytest.param(3, 3, marks=SLOW), (8, 0), pytest.param(17, 3, marks=SLOW)],
)
def test_a_stream_answers_as_one_batch_does(size, num_drafts):
    assert min(lengths().values()) < 6 and max(lengths().values()) == MOST and len(set(lengths().values())) > 6
    own = generator(num_drafts)
    found = streamed(own, size)
    same(found, expected())
    assert size == 1 or list(found) != list(source().names)  # they finish in another order
    names = ("begin", "insert", "run")
    compiled = [getattr(own.refill, name)._cache_size() for name in names]
    assert compiled[0] == 1 and compiled[1] <= len(own.refill.stops) and compiled[2] <= len(own.refill.stops)


@pytest.mark.slow
def test_a_stream_on_eight_devices_answers_the_same():
    found = streamed(generator(2, layout=layout_for_decoding(2)), 8)  # two share the weights, four the rows
    same(found, expected())


@pytest.mark.slow
def test_drawn_answers_depend_on_no_slot():
    asked = {"sampling": SamplingOptions(1.0, seed=5), "num_samples": 2}
    same(streamed(generator(2, **asked), 3), together(generator(**asked)))


def test_answers_keep_to_the_grammar():
    """What must follow is a guess that is right, here as in a batch."""
    asked = {"has_grammar": True, "has_end": False, "most": 60}
    found = streamed(generator(3, **asked), 4)
    same(found, together(generator(**asked)))
    assert all(answer.calls or answer.text for answer in found.values())


def test_windows_are_batches_and_the_last_one_is_longer_than_a_batch():
    assert list(stream.windows(range(5), 8)) == [list(range(5))]
    assert [len(window) for window in stream.windows(range(20), 1)] == [8, 8, 4]
    assert [len(window) for window in stream.windows(range(17), 1)] == [8, 9]
    assert [index for window in stream.windows(range(99), 3) for index in window] == list(range(99))


@pytest.mark.slow
def test_what_a_stopped_stream_had_of_a_window_is_answered_again(tmp_path):
    """The file holds answers as they finish; where a window had ended, answers and guesses go on, to the last bit."""
    prepared = generator().prepare(params())
    whole = predict(generator(2), prepared, source(), batch_size=1)
    journal = Journal(tmp_path / "out.json", {"images": "i"})

    def stops():
        return journal.path.read_text().count('"image": ') == 10

    with pytest.raises(Stopped):
        predict(generator(2), prepared, source(), batch_size=1, stops=stops, journal=journal)
    again = Journal(tmp_path / "out.json", {"images": "i"})
    assert len(again.open()[0]) == 8
    found = predict(generator(2), prepared, source(), batch_size=1, journal=again)
    assert list(found) == list(source().names) and found == whole
    assert len(Journal(tmp_path / "out.json", {"images": "i"}).open()[0]) == COUNT


def test_an_image_whose_logits_are_not_finite_is_named():
    own = generator()
    broken = {**params(), "decoder/head/kernel": np.full_like(params()["decoder/head/kernel"], np.inf)}
    with pytest.raises(UserError, match="image image 0: logits are not finite"):
        list(finished(own, own.prepare(broken), source(), range(COUNT), 3))


def test_row_passes_are_fewer_than_those_of_fixed_batches():
    own = generator()
    prepared = own.prepare(params())
    groups = (pictures()[start : start + 1] for start in range(COUNT))
    run = stream.Stream(own, prepared, source().names, groups, 4)
    assert len([name for new in run.answers() for name in new]) == COUNT
    passes = [lengths()[name] - 1 for name in source().names]
    fixed = sum(max(passes[start : start + 4]) for start in range(0, COUNT, 4))
    assert sum(passes) / 4 <= run.num_steps < fixed
    assert jax.tree.leaves(own.table) == []
