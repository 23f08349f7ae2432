"""The share of a run's time in which it waits for data and for saves: from a disk, and from a bucket on this machine.

    python benchmarks/bucket_run.py --steps 60

The bucket is an emulator on loopback (the extra `test-buckets`), which answers one request at a time and takes its
processor time from the run. Both runs train `configs/bench.py` at size small on the same data; the first reports, which
compile, are left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
VOCABULARY = 512


def train(data: str, workdir: str, steps: int) -> list[dict[str, float]]:
    """The reports of a run after its first one."""
    from igllm_jax import load_metrics

    sets = {f"{name}.{kind}": f"{data}/{kind}/{file}.{ending}" for name, file in (("train", "train"), ("val", "val_ID"))
            for kind, ending in (("images", "tar"), ("labels", "json"))}  # fmt: skip
    values = {
        **{f"data.{key}": value for key, value in sets.items()},
        "tokenizer.train_vocab_size": VOCABULARY, "model.decoder.vocab_size": VOCABULARY, "train.num_steps": steps,
        "train.log_every": steps // 6, "train.checkpoint_every": steps // 3, "eval.loss_every": 0,
        "eval.generate_every": 0, "data.num_workers": 1, "data.max_length": 336,
    }  # fmt: skip
    words = ["--config=bench:size=small", *(f"--config.{key}={value}" for key, value in values.items())]
    command = [sys.executable, "-m", "igllm_jax", "train", *words, "--workdir", workdir]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=True)
    return [line for line in load_metrics(workdir) if "data_wait_share" in line][2:]


def main() -> None:
    from igllm_jax import files, make_data, paths
    from tests.buckets import servers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="of each run, six reports and three saves")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder, servers.started(servers.GCS) as address:
        make_data.main(
            ["clevr", "--out", f"{folder}/clevr", "--num_train", "300", "--num_val", "20", "--max_objects", "3"]
        )
        with servers.environment(servers.gcs_variables(address)):
            files.upload_folder(Path(folder) / "clevr", paths.to_path("gs://bucket/clevr"))
            places = {"disk": folder, "bucket": "gs://bucket"}
            found = {name: train(f"{root}/clevr", f"{root}/run", steps) for name, root in places.items()}
    print("| from | samples/s | waits for data | waits for saves |\n| --- | --- | --- | --- |")
    for name, lines in found.items():
        rate, data, saves = (
            sum(line[key] for line in lines) / len(lines)
            for key in ("samples_per_second", "data_wait_share", "save_wait_share")
        )
        print(f"| {name} | {rate:.2f} | {data:.2%} | {saves:.2%} |")


if __name__ == "__main__":
    main()
