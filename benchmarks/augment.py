"""Rows of training batches a processor second, with images varied and without, in turns.

    python benchmarks/augment.py IMAGES.tar LABELS.json [--steps N] [--rounds N]

Images are of CLEVR, padded and resized to 336 pixels, everything of data.augment on that CLEVR may have.
Processor time of one process, so that a busy machine does not matter much; a step that nobody times comes first.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from igllm_jax.data.augment import AS_IS, AugmentOptions
from igllm_jax.data.options import DataOptions, Source
from igllm_jax.data.pipeline import TrainPipeline
from igllm_jax.data.rows import sample_texts
from igllm_jax.data.tokens import train_small
from igllm_jax.scene.labels import read_labels

KINDS = {
    "as they are": AS_IS,
    "brightness, contrast, colour": AugmentOptions(brightness=0.2, contrast=0.2, color=0.1),
    "all": AugmentOptions(brightness=0.2, contrast=0.2, color=0.1, noise=0.02, blur=1.0, jpeg=50),
}
BATCH = 4


def main() -> None:
    """Prints the median and the spread over rounds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images")
    parser.add_argument("labels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    source = Source(arguments.images, arguments.labels)
    plain = DataOptions("clevr", "tanh_mlp_gelu", 336, (0.48, 0.46, 0.41), 2048)
    with tempfile.TemporaryDirectory() as folder:
        scenes = read_labels(arguments.labels, "clevr")
        tokenizer = train_small(sample_texts(scenes, plain, seed=0, count=200), Path(folder), 400)
        data = {}
        for name, varied in KINDS.items():
            options = DataOptions("clevr", "tanh_mlp_gelu", 336, (0.48, 0.46, 0.41), 2048, augment=varied)
            data[name] = TrainPipeline([source], options, tokenizer, seed=0, batch_size=BATCH)
            data[name].batch(0)
        rates: dict[str, list[float]] = {name: [] for name in data}
        for turn in range(arguments.rounds):
            for name, pipeline in data.items():
                start = time.process_time()
                for step in range(1 + turn * arguments.steps, 1 + (turn + 1) * arguments.steps):
                    pipeline.batch(step)
                rates[name].append(arguments.steps * BATCH / (time.process_time() - start))
    for name, found in rates.items():
        share = statistics.median(np.array(found) / rates["as they are"])
        print(f"{name}: {statistics.median(found):.0f} ({min(found):.0f}-{max(found):.0f}) rows/s, {share:.0%}")


if __name__ == "__main__":
    main()
