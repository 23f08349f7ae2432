"""Long runs whose memory and open files must stay flat; and what a full disk leaves.

    python benchmarks/soak.py train --steps 20000
    python benchmarks/soak.py generate --batches 2000
    python benchmarks/soak.py full_disk

train, generate: the command runs as a process of its own, whose resident memory and open files are read twice a
second (generate: once its journal has answers, so that what was compiled before does not count as growth). In the last
tenth of the time neither may be more than GROWTH above what they were in the third.
full_disk: the run's folder lies on a small tmpfs (mounting one takes root's rights, or a user namespace), which fills
up. Training must end in exit code 2 and one line, and go on from the step that the line names once there is room.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import smallest
from igllm_jax.decoding.journal import Journal

GROWTH = 1.03  # of memory
EVERY_SECONDS = 0.5
BATCH_SIZE = 2
WARM_UP_BATCHES = 10  # of generating: each of the decode loop's pieces is compiled by then
SMALL_DISK, LARGE_DISK = "size=3m", "size=200m"


@dataclass(frozen=True)
class Sample:
    """A process at one moment. bytes: resident, those of children too."""

    bytes: int
    files: int


def sample(pid: int) -> Sample:
    """Raises: OSError where the process has ended."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Sample(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")))


def watch(process: subprocess.Popen, log: Path, begun: Callable[[], bool] = lambda: True) -> list[Sample]:
    """What the process held from when it had begun until it ended well. Raises: SystemExit where it did not."""
    found: list[Sample] = []
    while process.poll() is None:
        try:
            if found or begun():
                found.append(sample(process.pid))
        except OSError:
            break
        time.sleep(EVERY_SECONDS)
    smallest.finish(process, log)
    return found


def judged(what: str, samples: list[Sample]) -> str:
    """Raises: SystemExit where memory or open files grew."""
    tenth = len(samples) // 10
    third, last = samples[2 * tenth : 3 * tenth], samples[-tenth - 2 : -2]  # the very last ones are of its end
    (memory, later), (files, then) = (
        [statistics.median(getattr(one, key) for one in part) for part in (third, last)] for key in ("bytes", "files")
    )
    told = f"{memory / 2**20:.0f} to {later / 2**20:.0f} MiB, {files:.0f} to {then:.0f} open files"
    if later > GROWTH * memory or then > files:
        tenths = [statistics.median(one.bytes for one in samples[i * tenth : (i + 1) * tenth]) for i in range(10)]
        curve = ", ".join(f"{median / 2**20:.0f}" for median in tenths)
        raise SystemExit(f"{what}: {told}: it grows (MiB in each tenth of the time: {curve})")
    return f"{what}: {told} ({len(samples)} samples, from the third tenth to the last)"


def soak_training(home: Path, steps: int) -> str:
    points, log = smallest.make_points(home / "points.npz", 1000), home / "log.txt"
    settings = {"train__num_steps": steps, "train__checkpoint_every": max(steps // 20, 1), "train__log_every": 20}
    words = smallest.train_words(home / "run", points, **settings)
    samples = watch(smallest.start("train", *words, compiled=home / "compiled", log=log), log)
    return judged(f"{steps} steps of training, {min(steps, 20)} checkpoints", samples)


def soak_generating(home: Path, batches: int) -> str:
    points, log = smallest.make_points(home / "points.npz", batches * BATCH_SIZE), home / "log.txt"
    words = smallest.train_words(home / "run", points, train__num_steps=100, train__checkpoint_every=100)
    smallest.finish(smallest.start("train", *words, compiled=home / "compiled", log=log), log)
    out = home / "predictions.json"
    words = ["--workdir", str(home / "run"), "--images", f"{points}:val", "--out", str(out)]
    words += ["--batch_size", str(BATCH_SIZE), "--max_new_tokens", "40"]
    kept = Journal(out, {}).path
    samples = watch(
        smallest.start("generate", *words, compiled=home / "compiled", log=log),
        log,
        lambda: kept.exists() and kept.read_bytes().count(b"\n") > WARM_UP_BATCHES,
    )
    count = len(json.loads(out.read_bytes())["answers"])
    if count != batches * BATCH_SIZE:
        raise SystemExit(f"{count} answers instead of {batches * BATCH_SIZE}")
    return judged(f"{batches} batches of decoding", samples)


def fill_disk(home: Path) -> str:
    """Trains on a disk that fills up, and again when it is larger."""
    points, log, disk = smallest.make_points(home / "points.npz", 1000), home / "log.txt", home / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", SMALL_DISK, "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return "full disk: left out, no tmpfs can be mounted here"
    try:
        steps = {"train__num_steps": 200, "train__checkpoint_every": 10, "train__keep_checkpoints": 30}
        words = smallest.train_words(disk / "run", points, **steps)
        ended = smallest.start("train", *words, compiled=home / "compiled", log=log).wait()
        said = log.read_text(errors="replace")
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        if ended != 2 or len(errors) != 1 or "Traceback" in said or "the last good one is step" not in errors[0]:
            raise SystemExit(f"{said}\nexit code {ended}")
        subprocess.run(["mount", "-o", f"remount,{LARGE_DISK}", str(disk)], check=True)
        smallest.finish(smallest.start("train", *words, compiled=home / "compiled", log=log), log)
        step = int(errors[0].rpartition("is step ")[2].split()[0].rstrip(";,."))
        if f"resumed from step {step}\n" not in log.read_text(errors="replace"):
            raise SystemExit(f"it did not go on from step {step}:\n{log.read_text(errors='replace')}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return f"full disk ({SMALL_DISK}): {errors[0].partition('(')[2].partition(')')[0]}; it went on from step {step}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("train", "generate", "full_disk"))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batches", type=int, default=2_000)
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if options.what == "train":
            told = soak_training(home, options.steps)
        else:
            told = soak_generating(home, options.batches) if options.what == "generate" else fill_disk(home)
    print(f"{told} ({time.monotonic() - begin:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
