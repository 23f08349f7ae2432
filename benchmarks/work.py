"""What both sides of a comparison work on: sizes, weights and batches, written once into a folder that both read.

    python benchmarks/work.py FOLDER --config configs/bench.py:size=small [--config.batch_size 8] [--own_weights]
    python benchmarks/work.py FOLDER --run WORKDIR --pictures IMAGES

weights/N.npy and index.json (path -> N): float32, by our paths; none with --own_weights, where each side draws its own.
batch.npz: one batch. spec.json: sizes, for a side without JAX. With --run: the weights of a run with LLaMA's tokenizer,
its prompt in batch.npz, and images.npy, the pictures to decode from.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

PROMPT = (35, 20)  # tokens before and after the image, as LLaMA's vocabulary has them
END_ID, NUMBER_ID = 2, 30354
OWN_WEIGHTS = "--own_weights"
FORBIDDEN = ((313, 13), (313, 29871), (1723,))  # as LLaMA's vocabulary has them; for smaller ones, what they hold
LEARNED_FROM = 0.9  # rows hold between this share of the batch's length and all of it


def batch(rows: int, tokens: int, image_size: int, vocab_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A Batch's fields: random images and ids, answers of CLEVR's density of numbers, a little padding."""
    rng = np.random.default_rng(seed)
    first = sum(PROMPT)
    number_id = min(NUMBER_ID, vocab_size - 1)
    ids = rng.integers(3, number_id, (rows, tokens)).astype(np.int32)
    ids[:, :first] = np.random.default_rng(1).integers(3, number_id, first)
    shortest = first + int(LEARNED_FROM * (tokens - first))
    lengths = np.linspace(shortest, tokens, rows).astype(int)
    position = np.arange(tokens)[None]
    is_answer = (position >= first) & (position < lengths[:, None])
    is_number = is_answer & (rng.random(ids.shape) < 4 / 35)
    ids = np.where(is_number, number_id, ids)
    return {
        "images": rng.integers(0, 256, (rows, image_size, image_size, 3)).astype(np.uint8),
        "tokens": np.where(position < lengths[:, None], ids, END_ID).astype(np.int32),
        "is_answer": is_answer,
        "is_number": is_number,
        "numbers": np.where(is_number, rng.normal(size=ids.shape), 0).astype(np.float32),
        "weight": np.ones(rows, np.float32),
    }


def forbidden(vocab_size: int) -> list[tuple[int, ...]]:
    return [sequence for sequence in FORBIDDEN if max(sequence) < vocab_size]


def images(folder: Path, count: int, batch: int) -> np.ndarray:
    """uint8 [count, S, S, 3], the batch of that number to decode from: the folder's own pictures, or random ones."""
    if (folder / "images.npy").exists():
        found = np.load(folder / "images.npy", mmap_mode="r")[batch * count : (batch + 1) * count]
        if len(found) < count:
            raise SystemExit(f"--pictures: batch {batch} of {count} goes beyond the last one")
        return np.array(found)
    size = json.loads((folder / "spec.json").read_text())["vision"]["image_size"]
    return np.random.default_rng(2 + batch).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Path -> float32, mapped from the files; nothing where each side draws its own."""
    if not (folder / "index.json").exists():
        return {}
    index = json.loads((folder / "index.json").read_text())
    return {path: np.load(folder / "weights" / f"{name}.npy", mmap_mode="r") for path, name in index.items()}


def write(folder: Path, config: Any, *, has_weights: bool = True) -> None:
    """The whole folder."""
    from igllm_jax import config as configs

    model = configs.model_config(config)
    folder.mkdir(parents=True)
    if has_weights:
        write_weights(folder, drawn(model))
    write_spec(folder, config)
    tokens = config.data.max_length - model.vision.num_patches
    size = (config.batch_size, tokens, model.vision.image_size, model.decoder.vocab_size)
    np.savez(folder / "batch.npz", **batch(*size))


def write_run(folder: Path, workdir: Path, pictures: str) -> None:
    """The folder of a run and the pictures it is to write about.

    Raises: SystemExit where its prompt is not the one that the sides know.
    """
    from igllm_jax import config as configs
    from igllm_jax.data import pipeline, tars
    from igllm_jax.data.eval_images import image_batches, reader
    from igllm_jax.weights import trained_model

    trained = trained_model.load_run(workdir, "last")
    before, after = pipeline.prompt_tokens(trained.data, trained.tokenizer)
    if (len(before), len(after)) != PROMPT or trained.tokenizer.float_id != NUMBER_ID:
        raise SystemExit(f"--run {workdir}: needs data.prompt=vicuna_v1 and LLaMA's tokenizer")
    folder.mkdir(parents=True)
    write_weights(folder, {path: np.asarray(value, np.float32) for path, value in trained.params.items()})
    write_spec(folder, configs.read(workdir))
    source = tars.open_images(pictures)
    [found] = image_batches(reader(source, trained.data), len(source), len(source), trained.data.image_size)
    np.save(folder / "images.npy", found)
    np.savez(folder / "batch.npz", tokens=np.array([[*before, *after]], np.int32))


def write_spec(folder: Path, config: Any) -> None:
    """spec.json and config.json."""
    from igllm_jax import config as configs

    model = configs.model_config(config)
    spec = {**asdict(model), "batch_size": config.batch_size, "frozen_dtype": config.model.frozen_dtype}
    spec |= {"optim": config.optim.to_dict(), "tokens": config.data.max_length - model.vision.num_patches}
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "config.json").write_text(config.to_json())


def write_weights(folder: Path, values: dict[str, np.ndarray]) -> None:
    (folder / "weights").mkdir()
    index = {}
    for number, (path, array) in enumerate(sorted(values.items())):
        np.save(folder / "weights" / f"{number}.npy", array)
        index[path] = number
    (folder / "index.json").write_text(json.dumps(index))


def drawn(model: Any) -> dict[str, np.ndarray]:
    """Weights as the model draws them; LoRA's B, which starts at 0, is drawn too, so that LoRA does something."""
    import jax

    from igllm_jax.models.vlm import initialise

    rng = np.random.default_rng(0)
    draw = jax.jit(lambda: initialise(model, 0), compiler_options={"xla_backend_optimization_level": "0"})
    values = {path: np.asarray(value) for path, value in sorted(draw().items())}
    for path in [path for path in values if path.endswith("lora_b")]:
        values[path] = (0.01 * rng.standard_normal(values[path].shape)).astype(np.float32)
    return values


def main() -> None:
    from igllm_jax import config as configs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(OWN_WEIGHTS, action="store_true")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--pictures")
    options, others = parser.parse_known_args()
    if options.run:
        write_run(options.folder, options.run, options.pictures)
    else:
        write(options.folder, configs.load(others)[0], has_weights=not options.own_weights)


if __name__ == "__main__":
    main()
