"""Decoding beside PyTorch's: same images, weights and answers, in turns, each way in its own process.

    python benchmarks/decode.py --size small [--images 16] [--new_tokens 96] [--dtype float32] [--rounds 5]
    python benchmarks/decode.py --run WORKDIR --pictures IMAGES
    python benchmarks/decode.py --dictated LLAMA

Ways of ours: as `igllm generate` does it ("ours": with guesses of the next tokens, of a run with its grammar too),
without the grammar ("free") and without both ("unguessed"). Ways of PyTorch: `generate` with a dynamic and with a
static cache, a compiled loop over a static cache, each in one batch; and the reference's procedure, one image at a time
with a second pass for the numbers. The end token is forbidden, so that every answer has as many tokens. Figures hold
preprocessing of uint8 images, vision tower and prefill. A turn is two batches in a row of other images, the second
timed (see report.in_turns): that is all that guesses are made from.

--run: real scene code, by a run with LLaMA's tokenizer, of IMAGES (a tar or a folder of two batches). --dictated: no
run is needed; whatever the random weights think, ours write CLEVR's code of up to ten objects with LLaMA's tokenizer
(see passes.py), as many tokens as PyTorch writes at random, which costs it the same. Without both, weights, images and
so answers are random, and there is nothing to guess.
"""

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks import report
from benchmarks.train_step import add_own_weights, config_arguments, side_arguments
from benchmarks.work import NUMBER_ID
from benchmarks.worker import Side, SideError

OURS = {"ours": None, "free": None, "unguessed": 0}  # tokens guessed a step, None: as many as suit the device
WAYS = (*OURS, "reference", "dynamic", "static", "compiled")
NUMBERS_CLOSE = 1e-3
MOST = 0.75  # of the answers: with random weights two tokens are now and then equally likely to the last digit


def run(options: argparse.Namespace, others: list[str]) -> None:
    is_code = options.run or options.dictated
    names = [name for name in options.sides.split(",") if is_code or name != "free"]  # random weights are free
    what = f"the run {options.run}" if options.run else f"{options.size}{', dictated' * bool(options.dictated)}"
    report.heading(f"decoding, {what}, {options.images} images x {options.new_tokens} tokens")
    from_run = ["--run", options.run, "--pictures", options.pictures]
    with report.work_folder(from_run if options.run else config_arguments(options, others)) as folder:
        number_id = NUMBER_ID if is_code else -1 if options.own_weights else likely_token(folder, options)
        scripts = {}
        for name in names:
            words = side_arguments("ours" if name in OURS else name, folder, options.images, options)
            scripts[name] = "ours.py" if name in OURS else "peer_decode.py", words
        with report.sides(scripts) as sides:
            answers = {}
            for name in list(sides):
                try:
                    answers[name] = prepare(sides[name], options, number_id)
                except SideError as error:
                    print(f"left out: {error}")
                    sides.pop(name).close()
            if not options.own_weights and not options.dictated:
                compare(answers, exact=options.dtype != "bfloat16")
            if is_code:
                print(f"an answer begins with {answers[names[0]]['tokens'][0][:24]}")
            found = report.in_turns(list(sides), options.rounds, lambda name: turn(sides[name]))
            memory = {name: sides[name]("memory") for name in found}
            for name in [name for name in OURS if name in found]:
                steps = statistics.median(turn["steps"] for turn in found[name])
                print(f"{name}: {steps:.0f} steps for {options.new_tokens} tokens")
            if "unguessed" in found:
                seconds = statistics.median(turn["seconds"] for turn in found["unguessed"])
                floor(folder, sides["unguessed"], seconds, options)
    show({name: [turn["seconds"] for turn in turns] for name, turns in found.items()}, memory, options)


def likely_token(folder: Path, options: argparse.Namespace) -> int:
    """A token that random weights do write, to stand for the float token, so that numbers are read and compared."""
    with report.sides({"ours": ("ours.py", [str(folder)])}) as sides:
        sides["ours"]("set_up_decoding", images=2, new_tokens=min(8, options.new_tokens), number_id=-1)
        tokens = sides["ours"]("decode", batch=0)["tokens"]
    return Counter(token for row in tokens for token in row).most_common(1)[0][0]


def prepare(side: Side, options: argparse.Namespace, number_id: int) -> dict[str, Any]:
    way: dict[str, Any] = {"num_drafts": OURS[side.name]} if side.name in OURS else {"way": side.name}
    if side.name in OURS and OURS[side.name] is None:
        way["num_drafts"] = options.drafts
    if side.name == "ours" and (options.run or options.dictated):
        way["grammar_of"] = options.run or options.dictated
    if side.name in OURS and options.dictated:
        way["dictated"] = options.dictated
    side("set_up_decoding", images=options.images, new_tokens=options.new_tokens, number_id=number_id, **way)
    found = side("decode", batch=0)
    print(f"{side.name}: first time {found['seconds']:.1f} s", flush=True)
    return found


def turn(side: Side) -> dict[str, Any]:
    """The second of two batches in a row."""
    side("decode", batch=0)
    return side("decode", batch=1)


def compare(answers: dict[str, dict[str, Any]], *, exact: bool) -> None:
    """Says how many answers equal the first side's. Where most must (exact) and do not, the run ends."""
    first = next(iter(answers))
    ours = np.array(answers[first]["tokens"]), np.array(answers[first]["numbers"])
    for name, found in answers.items():
        tokens, numbers = np.array(found["tokens"]), np.array(found["numbers"])
        is_same = np.all(tokens == ours[0], axis=1)
        difference = float(np.abs(numbers - ours[1])[is_same].max(initial=0.0))
        count = int((ours[1] != 0).sum())
        print(
            f"{name}: {is_same.sum()} of {len(is_same)} answers as {first}'s, {count} numbers within {difference:.1e}"
        )
        if exact and (is_same.mean() < MOST or difference > NUMBERS_CLOSE):
            sys.exit(f"{name} writes other answers: not the same work")


def floor(folder: Path, ours: Side, seconds: float, options: argparse.Namespace) -> None:
    """Prints the least that prefill (measured products) and reading weights and cache (measured copy) would take."""
    import jax.numpy as jnp

    from benchmarks.work import PROMPT
    from igllm_jax import config as configs
    from igllm_jax.models.vlm import skeleton
    from igllm_jax.planning.flops import prefill_flops

    model = configs.model_config(configs.read(folder))
    decoder, width = model.decoder, jnp.dtype(model.dtype).itemsize
    prompt = sum(PROMPT) + model.vision.num_patches
    rates = ours("matrix_rate", size=2048, dtype=model.dtype), ours("copy_rate")
    prefill = options.images * prefill_flops(model, length=prompt, shared=PROMPT[0]) / rates[0]
    sizes = {path: shape.size for path, shape in skeleton(model).shapes.items() if "lora_" not in path}
    weights = width * sum(n for p, n in sizes.items() if p.startswith(("decoder/layers", "decoder/head")))
    length = prompt + options.new_tokens / 2
    positions = PROMPT[0] + (length - PROMPT[0]) * options.images
    cache = 2 * width * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * positions
    reading = options.new_tokens * (weights + cache) / rates[1]
    print(
        f"floor: prefill {prefill:.3g} s at {rates[0] / 1e9:.0f} GFLOP/s, reading {reading:.3g} s at "
        f"{rates[1] / 1e9:.1f} GB/s (weights {weights / 1e6:.0f} MB, cache {cache / 1e6:.0f} MB a token); "
        f"ours takes {seconds:.3g} s, so the floor is {(prefill + reading) / seconds:.0%} of it"
    )


def show(seconds: dict[str, list[float]], memory: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    rows = []
    for name, values in seconds.items():
        median = statistics.median(values)
        row = {"way": name, "s": report.spread(values), "images/s": f"{options.images / median:.3g}"}
        row["tokens/s"] = f"{options.images * options.new_tokens / median:.4g}"
        rows.append(row | {"peak RSS MiB": f"{memory[name]['ever']:.0f}"})
    report.table(rows)
    for way in [name for name in OURS if name in seconds]:
        for name in [name for name in seconds if name not in OURS]:
            pairs = [theirs / ours for ours, theirs in zip(seconds[way], seconds[name], strict=True)]
            print(f"{name} / {way}, pair by pair: {report.spread(pairs)}")
        batched = [name for name in seconds if name not in (*OURS, "reference")]
        for what, chosen in (("the reference's procedure", ["reference"]), ("the best batched PyTorch", batched)):
            known = [statistics.median(seconds[name]) for name in chosen if name in seconds]
            if known:
                print(f"{way} against {what}: {min(known) / statistics.median(seconds[way]):.2f} times the images/s")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "medium", "7b"), default="small")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--new_tokens", type=int, default=96)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", default=",".join(WAYS))
    parser.add_argument("--drafts", type=int, help="tokens that ours guess a step (default: as suits the device)")
    parser.add_argument("--run", help="the folder of a run that wrote checkpoints")
    parser.add_argument("--pictures", help="with --run: images, at least two batches of them")
    parser.add_argument("--dictated", metavar="LLAMA", help="LLaMA's tokenizer, to write scene code without a run")
    parser.add_argument("--devices", type=int, default=0, help="in how many our side splits a CPU; 0: one per core")
    add_own_weights(parser)
    parser.set_defaults(batch=1)
    options, others = parser.parse_known_args(arguments)
    if bool(options.run) != bool(options.pictures):
        parser.error("--run and --pictures go together")
    if options.run and options.dictated:
        parser.error("--run writes code of its own; leave out --dictated")
    return options, others


def main() -> None:
    run(*parse(sys.argv[1:]))


if __name__ == "__main__":
    main()
