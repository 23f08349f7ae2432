"""What a grammar costs a step of decoding, and what it saves: with and without it, in turns, in one run.

    python benchmarks/grammar_cost.py --tokenizer LLAMA [--size small] [--rounds 5] [--drafts 0] [--language FILE]

The same answers are dictated to both, scenes of six calls (see passes.py), so that both take the same passes where
nothing is guessed (--drafts 0) and the grammar can save none. Seconds are of a batch's loop and its prefill.
--language: one that comes along, or a .toml file; open words let nearly all tokens follow, which costs most.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks import report
from benchmarks.passes import Run, dictated, filled, model_of
from configs import bench
from igllm_jax.data.prompts import answer
from igllm_jax.data.tokens import Tokenizer
from igllm_jax.decoding.ngram_drafts import empty
from igllm_jax.models.vlm import initialise
from igllm_jax.scene.code import write
from igllm_jax.scene.examples import example_scene
from igllm_jax.scene.language import Language, find_language

CALLS = 6
WAYS = {"none": False, "scene": True}


def texts(language: Language, count: int, tokenizer: Tokenizer) -> np.ndarray:
    """int32 [count, N]: tokens of made-up scenes of CALLS calls."""
    rng, rows, rep = np.random.default_rng(0), [], language.rotation_reps[0]
    mixed = {"rng": rng, "shuffle_attributes": False, "use_synonyms": False}
    for _ in range(count):
        scene = example_scene(language, rng, calls=CALLS)
        code = write(scene, language, rotation_rep=rep, numbers_as_tokens=True, **mixed)
        rows.append([*tokenizer.encode(answer(code.text, language)), tokenizer.eos_id])
    return filled(rows, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="LLaMA's, a file or its folder")
    parser.add_argument("--language", default="clevr")
    parser.add_argument("--size", choices=("tiny", *bench.SIZES), default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--drafts", default="0", help="tokens guessed a step, one or several")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tokenizer, language = Tokenizer.load(options.tokenizer), find_language(options.language)
    answers = texts(language, options.batch, tokenizer)
    report.heading(f"cost of the grammar of {language.name}, {options.size}, {answers.shape} tokens")
    model, names, rows = model_of(options.size, tokenizer), [str(number) for number in range(len(answers))], []
    weights = initialise(model, 0)
    with dictated(answers):
        for drafts in map(int, options.drafts.split(",")):
            runs = {
                name: Run(model, tokenizer, weights, answers.shape[1], drafts, has_grammar, options.language)
                for name, has_grammar in WAYS.items()
            }
            rows.append({"guesses": str(drafts), **compared(runs, names, options.rounds)})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    report.table(rows)


def compared(runs: dict[str, Run], names: list[str], rounds: int) -> dict[str, str]:
    """Passes and milliseconds a pass of each way, and how the grammar's compare with none, pair by pair."""

    def once(name: str) -> tuple[int, float]:
        runs[name].own.guess_from(empty())
        start = time.perf_counter()
        steps = runs[name].fixed(names, len(names))
        return steps, time.perf_counter() - start

    for name in runs:
        once(name)  # compiles
    found = report.in_turns(list(runs), rounds, once)
    row = {}
    for name, turns in found.items():
        row[f"{name}: passes"] = str(turns[0][0])
        row[f"{name}: ms a pass"] = report.spread([1000 * seconds / steps for steps, seconds in turns])
    pairs = list(zip(found["scene"], found["none"], strict=True))
    row["a pass, times"] = report.spread([own[1] / own[0] / (other[1] / other[0]) for own, other in pairs])
    row["a batch, times"] = f"{statistics.median(own[1] / other[1] for own, other in pairs):.3g}"
    return row


if __name__ == "__main__":
    main()
