"""The train step beside PyTorch's: same sizes, weights, batch and loss, in turns, each side in its own process.

    python benchmarks/train_step.py --size small [--batch 8] [--dtype float32] [--rounds 7] [--sides ours,eager]
    python benchmarks/train_step.py --growth

The peer is transformers' CLIP and LLaMA, peft's LoRA, the float head and AdamW in three groups, eager and compiled; the
better one counts, also without huge pages (`--sides ours,eager,eager-4k,compiled,compiled-4k`). A turn is one step that
is not timed and --steps that are, in a row, as training has them: see report.in_turns. Dropout is on while steps are
timed and off where losses are compared. Other config values may be given as --config.KEY=VALUE. --growth: our side
alone, over batch, tokens and depth.
"""

import argparse
import math
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from benchmarks.work import OWN_WEIGHTS
from benchmarks.worker import SMALL_PAGES, Side, SideError

SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("ours.py", {}),
    "eager": ("peer.py", {}),
    "compiled": ("peer.py", {"is_compiled": True}),
}
SIDES |= {f"{name}{SMALL_PAGES}": side for name, side in SIDES.items() if name != "ours"}
CLOSE = 1e-4  # losses of both sides, relative
MATRIX = {"cpu": 2048, "gpu": 8192}
GROWTH = {
    "batch": ("--config.batch_size", (2, 4, 8, 16)),
    "tokens": ("--config.data.max_length", (192, 320, 576, 1088)),
    "layers": ("--config.model.decoder.num_layers", (2, 4, 8, 16)),
}


@dataclass(frozen=True)
class Counted:
    """FLOPs and rows of one step."""

    useful: float
    executed: float
    batch_size: int


def config_arguments(options: argparse.Namespace, others: list[str]) -> list[str]:
    wanted = [f"--config=configs/bench.py:size={options.size}", f"--config.batch_size={options.batch}"]
    if options.dtype:
        wanted += [f"--config.model.dtype={options.dtype}", f"--config.model.frozen_dtype={options.dtype}"]
    return [*wanted, *others, *([OWN_WEIGHTS] if options.own_weights else [])]


def count(folder: Path) -> Counted:
    """FLOPs of the batch in the folder."""
    from benchmarks.work import PROMPT
    from igllm_jax import config as configs
    from igllm_jax.models.vlm import skeleton
    from igllm_jax.planning.flops import train_flops
    from igllm_jax.training.optim import trainable_paths

    config = configs.read(folder)
    model = configs.model_config(config)
    length = config.data.max_length
    answer = length - model.vision.num_patches - sum(PROMPT)
    trainable = trainable_paths(skeleton(model).shapes, config.optim.trainable)
    one = train_flops(model, length=length, answer_length=answer, trainable=trainable)
    size = config.batch_size
    return Counted(one.useful * size, one.executed * size, size)


def compare(options: argparse.Namespace, others: list[str]) -> None:
    names = options.sides.split(",")
    report.heading(f"train step, {options.size}, batch {options.batch}, {options.dtype or 'the dtype of the size'}")
    with report.work_folder(config_arguments(options, others)) as folder:
        counted = count(folder)
        scripts = {name: (SIDES[name][0], side_arguments(name, folder, options.batch, options)) for name in names}
        with report.sides(scripts) as sides:
            losses, peer = {}, {"batch_size": options.peer_batch, "is_checkpointed": options.peer_checkpointing}
            for name in list(sides):
                try:
                    losses[name] = prepare(sides[name], {**SIDES[name][1], **(peer if name != "ours" else {})})
                except SideError as error:
                    print(f"left out: {error}")
                    sides.pop(name).close()
            if options.own_weights or options.peer_batch not in (0, options.batch):
                print("the sides have other weights or batches, so losses are not compared")
            else:
                check(losses)
            rates = {name: side("matrix_rate", **_matrix(sides, options)) for name, side in sides.items()}
            found = report.in_turns(list(sides), options.rounds, lambda name: turn(sides[name], options.steps))
            memory = {name: sides[name]("memory") for name in found}
    show(found, memory, rates, counted, options.peer_batch or options.batch)


def side_arguments(name: str, folder: Path, rows: int, options: argparse.Namespace) -> list[str]:
    """rows: of a batch, which our side shards over its CPU devices: one per core, or as many as divide it."""
    devices = options.devices or math.gcd(rows, os.cpu_count() or 1)
    return [str(folder), str(devices)] if name == "ours" else [str(folder)]


def prepare(side: Side, arguments: dict[str, Any]) -> float:
    """Sets up and warms up; the loss before the first step, without dropout."""
    side("set_up_training", **arguments)
    loss = side("loss")
    first = side("steps", count=1)
    side("steps", count=1)
    print(f"{side.name}: loss {loss:.6f}; first step {first['seconds']:.1f} s", flush=True)
    return loss


def turn(side: Side, steps: int) -> dict[str, float]:
    """Seconds of a step, the mean of `steps`."""
    side("steps", count=1)
    return side("steps", count=steps)


def check(losses: dict[str, float]) -> None:
    """Ends the run where the sides don't do the same work."""
    worst = max(losses.values()) - min(losses.values())
    if worst > CLOSE * abs(min(losses.values())):
        sys.exit(f"the losses differ by {worst:.2e}: {losses}")
    print(f"largest difference of losses {worst:.1e}")


def _matrix(sides: dict[str, Side], options: argparse.Namespace) -> dict[str, Any]:
    platform = next((side("about")["platform"] for side in sides.values()), "cpu")
    return {"size": MATRIX[platform], "dtype": options.dtype or ("bfloat16" if platform == "gpu" else "float32")}


def show(
    found: dict[str, list[dict[str, float]]],
    memory: dict[str, dict[str, float]],
    rates: dict[str, float],
    counted: Counted,
    peer_batch: int,
) -> None:
    seconds = {name: [turn["seconds"] for turn in turns] for name, turns in found.items()}
    rows = []
    for name, values in seconds.items():
        samples = (counted.batch_size if name == "ours" else peer_batch) / statistics.median(values)
        useful = samples * counted.useful / counted.batch_size
        row = {
            "side": name,
            "s/step": report.spread(values),
            "samples/s": f"{samples:.3g}",
            "useful GFLOP/s": f"{useful / 1e9:.0f}",
            "matrix GFLOP/s": f"{rates[name] / 1e9:.0f}",
            "useful / best matrix": f"{useful / max(rates.values()):.0%}",
            "peak RSS MiB": f"{memory[name]['ever']:.0f}",
        }
        if "device" in memory[name]:
            row["peak device MiB"] = f"{memory[name]['device']:.0f}"
        rows.append(row)
    report.table(rows)
    peers = [name for name in seconds if name != "ours"]
    if "ours" not in seconds or not peers:
        return
    share = counted.batch_size / peer_batch
    for peer in peers:
        pairs = [share * theirs / ours for ours, theirs in zip(seconds["ours"], seconds[peer], strict=True)]
        print(f"samples/s, ours / {peer}, pair by pair: {report.spread(pairs)}")
    best = min(peers, key=lambda name: statistics.median(seconds[name]))
    ratio = share * statistics.median(seconds[best]) / statistics.median(seconds["ours"])
    print(f"ours against the better peer ({best}): {ratio:.2f} times the samples/s by medians")
    print(f"counted per step: {counted.useful / 1e9:.0f} useful GFLOP, {counted.executed / 1e9:.0f} executed")


def grow(options: argparse.Namespace, others: list[str]) -> None:
    """Steps/s and memory against batch, tokens and depth; each cell in a process of its own."""
    report.heading("cost growth of our train step at small")
    rows = []
    for what, (key, values) in GROWTH.items():
        first = None
        for value in values:
            with report.work_folder([*config_arguments(options, others), f"{key}={value}"]) as folder:
                counted = count(folder)
                arguments = side_arguments("ours", folder, counted.batch_size, options)
                with report.sides({"ours": ("ours.py", arguments)}) as sides:
                    sides["ours"]("set_up_training")
                    sides["ours"]("steps", count=1)
                    turns = [sides["ours"]("steps", count=1)["seconds"] for _ in range(options.rounds)]
                    memory = sides["ours"]("memory")["ever"]
            median = statistics.median(turns)
            per_flop = median / counted.useful * 1e12
            first = first or per_flop
            row = {"grows": what, "value": value, "s/step": report.spread(turns), "steps/s": f"{1 / median:.3g}"}
            row |= {"peak RSS MiB": f"{memory:.0f}", "useful GFLOP": f"{counted.useful / 1e9:.0f}"}
            rows.append(row | {"s/TFLOP": f"{per_flop:.2f}", "of the first": f"{per_flop / first:.2f}"})
            print({**rows[-1]}, flush=True)
    report.table(rows)


def add_own_weights(parser: argparse.ArgumentParser) -> None:
    told = "each side draws its weights on its device: nothing is written and read, and nothing compared but time"
    parser.add_argument(OWN_WEIGHTS, action="store_true", help=told)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "medium", "7b"), default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the size's own")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="per turn")
    parser.add_argument("--sides", default="ours,eager,compiled")
    parser.add_argument("--devices", type=int, default=0, help="in how many our side splits a CPU; 0: one per core")
    add_own_weights(parser)
    parser.add_argument("--peer_batch", type=int, default=0, help="default: --batch")
    parser.add_argument("--peer_checkpointing", action="store_true", help="the peer computes its layers again")
    parser.add_argument("--growth", action="store_true")
    return parser.parse_known_args(arguments)


def main() -> None:
    options, others = parse(sys.argv[1:])
    (grow if options.growth else compare)(options, others)


if __name__ == "__main__":
    main()
