"""Passes over the weights for real scene code: with guesses, with a grammar, in fixed batches and in a stream.

    python benchmarks/passes.py --tokenizer LLAMA [--scenes 256] [--batch 16] [--drafts 3,7] [--size tiny] [--shuffled]

The answers are dictated: whatever the model thinks, the text of CLEVR scenes of 1 to 10 objects is written, as the
writer tokenises it, by the programs of `igllm generate`. So passes are those of a model that has learned its task, and
a pass takes as long as one of random weights of that size. Passes after the prefills are counted. Seconds are those of
a second turn, from empty tables on, and hold prefills. --size: of configs/bench.py, or tiny, which is enough to count.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.rows import thing
from configs import bench
from igllm_jax import config as configs
from igllm_jax.data.options import DataOptions
from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding import decode, decode_step, stream
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.ngram_drafts import empty
from igllm_jax.decoding.sampling import SamplingOptions
from igllm_jax.models.vlm import VLMConfig, initialise
from igllm_jax.parallel.sharding import one_device
from igllm_jax.scene.code import write
from igllm_jax.scene.language import find_language
from igllm_jax.scene.scene import Scene

TINY = {"width": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "mlp_width": 16}
DRAWN = SamplingOptions(1.0)  # so that rows carry keys, which here say whose answer they write


def texts(count: int, tokenizer: Tokenizer, *, shuffled: bool) -> np.ndarray:
    """int32 [count, N]: the tokens of scenes of 1 to 10 objects, filled with the end."""
    rng, language, rows = np.random.default_rng(0), find_language("clevr"), []
    for number in range(count):
        label = {"image_filename": f"{number}.png", "objects": [thing(rng) for _ in range(rng.integers(1, 11))]}
        mixed = {"rng": rng, "shuffle_attributes": shuffled, "use_synonyms": shuffled}
        scene = Scene.from_label(label, "clevr")
        code = write(scene, language, rotation_rep="", numbers_as_tokens=True, **mixed)
        rows.append([*tokenizer.encode(answer(code.text, language)), tokenizer.eos_id])
    return filled(rows, tokenizer)


def long_texts(count: int, length: int, tokenizer: str | Path) -> np.ndarray:
    """int32 [count, length]: how the first of the same scenes that have as many tokens begin."""
    vocabulary = Tokenizer.load(tokenizer)
    found = texts(8 * count, vocabulary, shuffled=False)
    found = found[np.all(found[:, :length] != vocabulary.eos_id, axis=1)][:count, :length]
    if found.shape != (count, length):
        raise SystemExit(f"{length} new tokens are more than {count} of the scenes have")
    return found


def filled(rows: list[list[int]], tokenizer: Tokenizer) -> np.ndarray:
    """int32 [rows, N]: filled with the end."""
    found = np.full((len(rows), max(map(len, rows))), tokenizer.eos_id, np.int32)
    for row, tokens in zip(found, rows, strict=True):
        row[: len(tokens)] = tokens
    return found


def model_of(size: str, tokenizer: Tokenizer) -> VLMConfig:
    found = configs.model_config(configs.check(bench.get_config(f"size={'small' if size == 'tiny' else size}")))
    decoder = replace(found.decoder, vocab_size=tokenizer.vocab_size, **(TINY if size == "tiny" else {}))
    vision = replace(found.vision, num_layers=2, width=16, mlp_width=16) if size == "tiny" else found.vision
    return replace(found, decoder=decoder, vision=vision, lora=replace(found.lora, rank=0))


@contextmanager
def dictated(answers: np.ndarray) -> Iterator[None]:
    """Programs that are compiled here write `answers`, each image, called by its number, its own."""

    def choose(step: Any, logits: jax.Array, loop: Any, width: int) -> tuple[jax.Array, None]:
        positions = jnp.minimum(loop.counts[:, None] + jnp.arange(width), answers.shape[1] - 1)
        said = jnp.asarray(answers)[loop.keys[:, :1].astype(jnp.int32), positions].reshape(-1)
        own = decode_step._likeliest(logits)
        return jnp.where(own < 0, own, said), None  # it never is, which no compiler knows, so that logits are computed

    def keys(ids: jax.Array, num_samples: int, seed: int) -> jax.Array:
        return jnp.stack([ids, jnp.zeros_like(ids)], axis=1)

    def numbers(names: Any) -> np.ndarray:
        return np.array([int(name) for name in names], np.uint32)

    with (
        mock.patch.object(decode_step.Step, "_choose", choose),
        mock.patch.object(decode.sampling, "row_keys", keys),
        mock.patch("igllm_jax.decoding.answers.image_ids", numbers),
    ):
        yield


class Run:
    """One way to answer all images."""

    def __init__(
        self,
        model: VLMConfig,
        tokenizer: Tokenizer,
        weights: Any,
        most: int,
        drafts: int,
        has_grammar: bool,
        task: str = "clevr",
    ):
        rep = find_language(task).rotation_reps[0]
        data = DataOptions(task, "tanh_mlp_gelu", model.vision.image_size, (0.5, 0.5, 0.5), 4096, rotation_rep=rep)
        self.own = AnswerGenerator(
            model, tokenizer, data, most, one_device(), drafts, has_grammar=has_grammar, sampling=DRAWN
        )
        self.prepared, self.size = self.own.prepare(weights), model.vision.image_size

    def images(self, count: int) -> np.ndarray:
        return np.zeros((count, self.size, self.size, 3), np.uint8)

    def fixed(self, names: list[str], batch: int) -> int:
        """Passes of fixed batches, each guessing from what was written before."""
        steps = 0
        for start in range(0, len(names), batch):
            arguments = self.own.on_devices(self.images(batch), batch, names[start : start + batch])
            images, is_used, ids = arguments
            found = self.own.decode(self.prepared, images, is_used, self.own.table, self.own.grammar, ids)
            self.own.table, steps = found.table, steps + int(found.num_steps)
        return steps

    def streamed(self, names: list[str], batch: int) -> int:
        """Passes of a stream, window after window."""
        steps, group = 0, stream.group_size(self.own, batch)
        for window in stream.windows(range(len(names)), batch):
            groups = iter([self.images(group)] * -(-len(window) // group))
            found = stream.Stream(self.own, self.prepared, [names[i] for i in window], groups, batch)
            assert sum(len(new) for new in found.answers()) == len(window)
            steps += found.num_steps
        return steps

    def timed(self, way: Any, *arguments: Any) -> tuple[int, float]:
        """Passes and seconds of the second turn."""
        for _ in range(2):
            self.own.guess_from(empty())
            start = time.perf_counter()
            steps = way(*arguments)
        return steps, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="LLaMA's, a file or its folder")
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--drafts", default="0,3,7", help="tokens guessed a step, one or several")
    parser.add_argument("--size", choices=("tiny", *bench.SIZES), default="tiny")
    parser.add_argument("--shuffled", action="store_true", help="attributes in any order, with synonyms")
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    answers = texts(options.scenes, tokenizer, shuffled=options.shuffled)
    tokens = int((answers != tokenizer.eos_id).sum()) + len(answers)
    report.heading(f"passes, {options.size}, {len(answers)} scenes, {tokens} tokens, batches of {options.batch}")
    model, names, rows = model_of(options.size, tokenizer), [str(number) for number in range(len(answers))], []
    weights = initialise(model, 0)
    with dictated(answers):
        for has_grammar in (False, True):
            for drafts in map(int, options.drafts.split(",")):
                run = Run(model, tokenizer, weights, answers.shape[1], drafts, has_grammar)
                rows.append(row_of(run, names, options.batch, tokens, is_counted_alone=options.size == "tiny"))
                print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    report.table(rows)


def row_of(run: Run, names: list[str], batch: int, tokens: int, *, is_counted_alone: bool) -> dict[str, str]:
    """A row of the table; passes of images alone are the same in every size."""
    row = {"grammar": "none" if run.own.grammar is None else "scene", "guesses": str(run.own.num_drafts)}
    if is_counted_alone:
        alone = run.fixed(names, 1) + len(names)  # with the prefills, which write a token each
        row |= {"tokens a pass": f"{tokens / alone:.2f}"}
    fixed, fixed_seconds = run.timed(run.fixed, names, batch)
    streamed, seconds = run.timed(run.streamed, names, batch)
    row |= {"row-passes, fixed": str(fixed * batch), "stream": str(streamed * batch)}
    row |= {"fewer": f"{fixed / streamed:.2f}", "s, fixed": f"{fixed_seconds:.3g}", "stream s": f"{seconds:.3g}"}
    return row | {"ms a pass": f"{1000 * fixed_seconds / fixed:.3g}"}


if __name__ == "__main__":
    main()
