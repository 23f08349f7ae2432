"""Kills a process while it saves checkpoints, again and again; each time the next one must find a good checkpoint.

    python benchmarks/interrupted_saves.py --kills 20

A worker restores the last checkpoint, checks every number of it against what that step must hold, and saves one step
after the other until it is killed (SIGKILL) at a random moment after a save has begun. Exit code 0 where every restart
found a good checkpoint, and none older than the last one known to be finished.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = (64, 1024, 64)  # float32: 16 MiB, and twice that in the optimizer
MOMENTS = 0.4  # seconds after a save began within which the kill comes


def worker(workdir: Path) -> None:
    """Restores, checks, saves until killed."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from igllm_jax.training.state import TrainState
    from igllm_jax.weights.checkpoint import Checkpoints

    def state(step: int) -> TrainState:
        values = jnp.full(SIZE, step, jnp.float32) + jnp.arange(SIZE[1], dtype=jnp.float32)[:, None] / 1024
        return TrainState(jnp.int32(step), {"w": values}, {"mu": {"w": values + 1}, "nu": {"w": values + 2}})

    checkpoints = Checkpoints(workdir, keep=1)
    step = checkpoints.latest() or 0
    if step:
        found, meta = checkpoints.restore(step, state(0))
        jax.tree.map(np.testing.assert_array_equal, found, state(step))
        assert meta["step"] == step
    print(f"good {step}", flush=True)
    while True:
        step += 1
        print(f"saving {step}", flush=True)
        checkpoints.save(state(step), {}, None)
        checkpoints.wait()
        print(f"saved {step}", flush=True)


def kill_once(workdir: Path, rng: random.Random) -> tuple[int, int, bool]:
    """One worker's life: the step it restored, the last it said was saved, and whether it died within a save."""
    command = [sys.executable, __file__, "--worker", str(workdir)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = [process.stdout.readline().split()]
    if lines[0][:1] != ["good"]:
        raise SystemExit(f"the checkpoint was not good: {lines[0]}, exit code {process.wait()}")
    for _ in range(2 * rng.randint(1, 3) - 1):  # up to the beginning of its first, second or third save
        lines.append(process.stdout.readline().split())
    time.sleep(rng.uniform(0, MOMENTS))
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    lines += [line.split() for line in rest.splitlines()]
    restored = int(lines[0][1])
    saved = max((int(line[1]) for line in lines if len(line) == 2 and line[0] == "saved"), default=restored)
    return restored, saved, lines[-1][0] == "saving"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
    rng = random.Random(options.seed)
    within, last = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for kill in range(1, options.kills + 1):
            restored, saved, was_saving = kill_once(Path(folder), rng)
            if restored < last:
                raise SystemExit(f"restart {kill} found step {restored}, but {last} had been saved")
            last, within = saved, within + was_saving
            where = "within a save" if was_saving else "between saves"
            print(f"kill {kill:3}: restored step {restored}, good; killed {where} after step {saved}", flush=True)
        restored, _, _ = kill_once(Path(folder), rng)
        if restored < last:
            raise SystemExit(f"the last restart found step {restored}, but {last} had been saved")
    print(f"{options.kills} kills, {within} of them within a save: every restart found a good checkpoint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
