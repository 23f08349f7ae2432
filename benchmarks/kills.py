"""Kills training and generating at random moments (SIGKILL), again and again; what comes out must not differ.

    python benchmarks/kills.py train --kills 50
    python benchmarks/kills.py generate --kills 20

train: one run is left alone, another of the same config is killed while it starts, between steps and while it saves,
and started again each time. In the end all arrays of their last checkpoints and all losses must be the same bits.
generate: the predictions file must be absent or whole after each kill, and in the end the same bytes; where each start
after a kill has another batch size, tokens must be the same, and numbers within 1e-5. Where the command goes on from
what a killed one left, the last file is put together from all of them.
"""

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import smallest

POLL_SECONDS = 0.001
SAVE_SECONDS = 0.15  # after a save began, within which the kill comes
NUM_IMAGES = 400
BATCH_SIZE, OTHER_SIZES = 2, (1, 3, 8, 17)  # of generating
TOLERANCE = 1e-5
MOMENTS = ("starting", "steps", "saving", "saving")


class Training:
    """One run's folder, and the processes that train it."""

    def __init__(self, home: Path, name: str, steps: int, every: int):
        self.workdir, self.log, self._compiled = home / name, home / f"{name}.log", home / "compiled"
        points = home / "points.npz"
        settings = {"train__num_steps": steps, "train__checkpoint_every": every, "train__keep_checkpoints": 2}
        self._words = smallest.train_words(self.workdir, points, **settings)

    def start(self) -> subprocess.Popen:
        return smallest.start("train", *self._words, compiled=self._compiled, log=self.log)

    def num_lines(self) -> int:
        file = self.workdir / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    def saving(self) -> set[str]:
        """The checkpoints that are being written, or were when their process was killed."""
        folder = self.workdir / "checkpoints"
        return {path.name for path in folder.glob("*tmp*")} if folder.is_dir() else set()

    def kill(self, moment: str, rng: random.Random, start_seconds: float) -> bool:
        """Starts, and kills at a moment of this kind. True where that left an unfinished checkpoint."""
        before, lines = self.saving(), self.num_lines()
        process = self.start()
        if moment == "starting":
            time.sleep(rng.uniform(0, start_seconds))
        else:
            wanted = rng.randint(1, 20)
            first = True
            while process.poll() is None:
                now = self.num_lines()
                if first and now != lines:  # it dropped the lines after its checkpoint, and has begun
                    lines, first = min(lines, now), False
                if moment == "steps" and now - lines >= wanted:
                    break
                if moment == "saving" and not first and self.saving() - before:
                    break
                time.sleep(POLL_SECONDS)
            time.sleep(rng.uniform(0, SAVE_SECONDS if moment == "saving" else 0.05))
        if process.poll() is not None:
            smallest.finish(process, self.log)
            raise SystemExit("the run ended before all kills: give more --steps")
        process.send_signal(signal.SIGKILL)
        process.wait()
        return bool(self.saving() - before)


def losses(workdir: Path) -> dict[int, dict[str, Any]]:
    """Step -> what was learned at it, without rates, which no two runs share."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: {key: value for key, value in line.items() if "loss" in key} for line in lines}


def arrays(workdir: Path) -> dict[str, Any]:
    """Path -> array of the last checkpoint: parameters and optimizer."""
    from igllm_jax.weights import checkpoint

    step = checkpoint.find_step(workdir, "last")
    meta = json.loads((workdir / checkpoint.FOLDER / str(step) / "meta" / "metadata").read_bytes())
    return {"step": step, **checkpoint.load_params(workdir), **meta[checkpoint.CHECKSUMS]}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    import numpy as np

    return one.keys() == other.keys() and all(np.array_equal(value, other[key]) for key, value in one.items())


def kill_training(home: Path, kills: int, steps: int, seed: int) -> str:
    """Raises: SystemExit where anything differs."""
    rng = random.Random(seed)
    smallest.make_points(home / "points.npz", 1000)
    alone, killed = Training(home, "alone", steps, steps), Training(home, "killed", steps, 3)
    smallest.finish(alone.start(), alone.log)  # compiles
    begin = time.monotonic()
    smallest.finish(alone.start(), alone.log)  # finds itself finished: what a start takes
    start_seconds = time.monotonic() - begin
    counts: Counter[str] = Counter()
    num_within = 0
    for number in range(1, kills + 1):
        moment = MOMENTS[number % len(MOMENTS)]
        is_within = killed.kill(moment, rng, start_seconds)
        counts[moment] += 1
        num_within += is_within
        where = ", an unfinished checkpoint left" if is_within else ""
        print(f"kill {number:3} ({moment}): {killed.num_lines()} steps logged{where}", flush=True)
    smallest.finish(killed.start(), killed.log)
    if losses(alone.workdir) != losses(killed.workdir) or len(losses(killed.workdir)) != steps:
        raise SystemExit("the losses differ")
    if not same(arrays(alone.workdir), arrays(killed.workdir)):
        raise SystemExit("the last checkpoints differ")
    told = ", ".join(f"{count} {moment}" for moment, count in counts.items())
    return (
        f"{kills} kills of training ({told}; {num_within} left an unfinished checkpoint): {steps} losses, parameters "
        "and optimizer are the same bits as without"
    )


class Generating:
    """A run, and the processes that write answers for its images."""

    def __init__(self, home: Path, steps: int):
        self.home, self.log, self._compiled = home, home / "generate.log", home / "compiled"
        self._points = smallest.make_points(home / "points.npz", NUM_IMAGES)
        run = Training(home, "run", steps, steps)
        smallest.finish(run.start(), run.log)
        self._workdir = run.workdir

    def start(self, out: Path, batch_size: int) -> subprocess.Popen:
        words = ["--workdir", str(self._workdir), "--images", f"{self._points}:val", "--out", str(out)]
        words += ["--batch_size", str(batch_size), "--max_new_tokens", "40"]
        return smallest.start("generate", *words, compiled=self._compiled, log=self.log)

    def alone(self, batch_size: int) -> tuple[Path, float]:
        """The file of a command that nobody kills, once its program is compiled, and the seconds that it takes."""
        out = self.home / f"alone_{batch_size}.json"
        smallest.finish(self.start(out, batch_size), self.log)
        begin = time.monotonic()
        smallest.finish(self.start(out, batch_size), self.log)
        return out, time.monotonic() - begin

    def killed(self, kills: int, rng: random.Random, sizes: Sequence[int], seconds: float) -> Iterator[Path]:
        """Files of commands that were killed and started again, each time with one of the batch sizes."""
        done, number, was_killed = 0, 0, True
        while done < kills or was_killed:  # what the last kill left is finished too
            out = self.home / f"killed_{len(sizes)}_{number}.json"
            size = rng.choice(sizes)
            process = self.start(out, size)
            if done < kills:
                time.sleep(rng.uniform(0.2, 1.0) * seconds)
            was_killed = done < kills and process.poll() is None
            if was_killed:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                print(f"kill {done:3} (batches of {size}): {'a whole file' if out.exists() else 'no file'}", flush=True)
            else:
                smallest.finish(process, self.log)
            if out.exists():
                yield out
                number += 1


def largest_difference(found: Path, wanted: Path) -> float:
    """Between numbers of two predictions files. Raises: SystemExit where anything but numbers differs."""
    ours, theirs = (json.loads(file.read_bytes())["answers"] for file in (found, wanted))
    if list(ours) != list(theirs):
        raise SystemExit(f"{found.name} has other images")
    differences = [0.0]
    for image, answer in ours.items():
        other = theirs[image]
        if _words(answer) != _words(other):
            raise SystemExit(f"{found.name} has another answer for {image}")
        pairs = zip(answer["numbers"], other["numbers"], strict=True)
        differences += [abs(one - another) for one, another in pairs]
    return max(differences)


def _words(answer: dict[str, Any]) -> tuple[str, int]:
    """The tokens of an answer: its text, what a float head read left out, and how many they are."""
    text = re.sub(r"-?\d+\.\d+", "N", answer["outputs"]) if answer["numbers"] else answer["outputs"]
    return text, len(answer["token_log_probabilities"])


def kill_generating(home: Path, kills: int, steps: int, seed: int) -> str:
    """Raises: SystemExit where anything differs."""
    rng = random.Random(seed)
    run = Generating(home, steps)
    alone, seconds = run.alone(BATCH_SIZE)
    num_same = 0
    for file in run.killed(kills, rng, (BATCH_SIZE,), seconds):
        if file.read_bytes() != alone.read_bytes():
            raise SystemExit(f"{file.name} is not the file of a command left alone")
        num_same += 1
    largest, num_near = 0.0, 0
    for size in OTHER_SIZES:
        other, seconds = run.alone(size)
        largest = max(largest, largest_difference(other, alone))
    for file in run.killed(kills, rng, OTHER_SIZES, seconds):
        largest, num_near = max(largest, largest_difference(file, alone)), num_near + 1
    if largest > TOLERANCE:
        raise SystemExit(f"on other batch sizes numbers differ by {largest:g}")
    return (
        f"{kills} kills of generating at batches of {BATCH_SIZE}: {num_same} files of {NUM_IMAGES} answers, byte for "
        f"byte those of a command left alone; {kills} kills with batches of {', '.join(map(str, OTHER_SIZES))} in "
        f"turn: {num_near} files, the same tokens, numbers within {largest:.1e}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("train", "generate"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=600, help="of the run that is killed, or that generates")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kill = kill_training if options.what == "train" else kill_generating
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        told = kill(Path(home), options.kills, options.steps, options.seed)
    print(f"{told} ({time.monotonic() - begin:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
