"""Converts a synthetic LLaMA-7B with a ViT-L/14-336 at full size: seconds, peak memory, and restoring what came out.

    python benchmarks/convert.py --folder /tmp/convert --kind safetensors [--tokenizer tokenizer.model] [--restore]

`--kind bin` writes torch's files instead (needs torch). Weights are random bfloat16 in shards of about 5 GB, by the
names of the tables. It takes 28 GB of disk under --folder and removes them in the end. Making, converting and restoring
are processes of their own; peak memory is the converter's, pages of mapped files included. `--restore` reads all that
came out into the shapes of configs/clevr.py, and compares the first and the last layer of every array with the sources.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import ml_dtypes
import numpy as np

from igllm_jax import config as configs
from igllm_jax.data.tokens import Tokenizer, train_small
from igllm_jax.interop import formats as tables
from igllm_jax.interop import hf_decoder, hf_vision
from igllm_jax.interop.files import numpy_to_torch, open_weights
from igllm_jax.interop.rules import WeightFormat, match_tensors
from igllm_jax.interop.safetensors_writer import Outgoing, write_sharded
from igllm_jax.models.vlm import VLMConfig, skeleton
from igllm_jax.weights import base_folder

SHARD_BYTES = 5 * 10**9
TOOL = Path(__file__).resolve().parent.parent / "tools" / "convert_weights.py"


def full_size() -> VLMConfig:
    """ViT-L/14-336 and Vicuna-7B, without LoRA."""
    from configs import clevr

    config = configs.model_config(clevr.get_config())
    return replace(config, lora=replace(config.lora, rank=0), head="none")


def outgoing(source: WeightFormat, model: VLMConfig, prefix: str) -> dict[str, Outgoing]:
    """Random bfloat16 tensors by the table's names."""
    shapes = {path: tuple(s.shape) for path, s in skeleton(model).shapes.items() if path.startswith(prefix)}
    rng = np.random.default_rng(0)
    found = {}
    for name, (rule, layer) in source.names(shapes).items():
        shape = rule.layout.their_shape(shapes[rule.ours] if layer is None else shapes[rule.ours][1:])

        def read(shape: tuple[int, ...] = shape) -> np.ndarray:
            bits = rng.integers(0, 2**16, shape, np.uint16) & 0xBFFF  # no exponent that is infinite
            return bits.view(ml_dtypes.bfloat16)

        found[name] = Outgoing(shape, np.dtype(ml_dtypes.bfloat16), read)
    return found


def write_bins(tensors: dict[str, Outgoing], folder: Path) -> None:
    """pytorch_model-*.bin and their index."""
    import torch

    shards: list[list[str]] = [[]]
    for name, tensor in tensors.items():
        if shards[-1] and sum(tensors[n].size for n in shards[-1]) + tensor.size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"pytorch_model-{number:05}-of-{len(shards):05}.bin"
        torch.save({name: numpy_to_torch(tensors[name].read()) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def make_sources(folder: Path, kind: str, tokenizer: str) -> None:
    """folder/vision and folder/decoder, as Hugging Face has them."""
    model = full_size()
    described = {
        "vision": hf_vision.vision_to_json(model.vision) | {"num_hidden_layers": model.vision.num_layers},
        "decoder": hf_decoder.decoder_to_json(model.decoder, vocab_size=32000, dtype="bfloat16"),
    }
    for part, source in (("vision", tables.CLIP), ("decoder", tables.LLAMA)):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(described[part]))
        write = write_sharded if kind == "safetensors" else write_bins
        write(outgoing(source, model, f"{part}/"), folder / part)
    if tokenizer:
        Tokenizer.load(tokenizer).save(folder / "decoder")
    else:
        train_small(["add(size='large', loc=(数, 数, 数))\n"], folder / "decoder")


def restore(folder: Path) -> None:
    """Reads FOLDER/base into arrays of the shapes that the 7B config has, one at a time (a run holds them all)."""
    start = time.monotonic()
    base, model = folder / "base", full_size()
    found = base_folder.read_config(base)
    own_choice = {"attention": model.decoder.attention, "remat": model.decoder.remat}
    assert found.vision == model.vision and replace(found.decoder, **own_choice) == model.decoder, found
    wanted = {path: s for path, s in skeleton(model).shapes.items() if not path.startswith("projector/")}
    bfloat16 = {path: jax.ShapeDtypeStruct(s.shape, jax.numpy.bfloat16) for path, s in wanted.items()}
    stored = base_folder.paths(base)
    assert stored == bfloat16, {path for path in {*stored, *bfloat16} if stored.get(path) != bfloat16.get(path)}
    size = 0
    for path, shape in bfloat16.items():
        array = base_folder.restore(base, {path: shape})[path]
        assert array.shape == shape.shape and array.dtype == shape.dtype, path
        size += array.nbytes
        del array
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.monotonic() - start
    print(f"restored {len(wanted)} arrays, {size / 1e9:.2f} GB in {seconds:.1f} s, peak {peak:.2f} GiB", flush=True)
    print(f"equal to the sources: {compare(folder, wanted)} tensors")


def compare(folder: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> int:
    """How many tensors of first and last layers were compared, bit by bit."""
    count = 0
    for part, source in (("vision", tables.CLIP), ("decoder", tables.LLAMA)):
        weights = open_weights(folder / part)
        shapes = {path: shape.shape for path, shape in wanted.items() if path.startswith(f"{part}/")}
        for tensor in match_tensors(source, weights, shapes)[0]:
            if tensor.layer in (None, 0, shapes[tensor.path][0] - 1):
                ours = base_folder.read_array(folder / "base", tensor.path, tensor.layer)
                assert np.array_equal(ours.view(np.uint16), tensor.read().view(np.uint16)), tensor.name
                count += 1
    return count


def run_apart(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak GiB resident) of one child process, which has to succeed."""
    start = time.monotonic()
    child = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"failed: {' '.join(arguments)}")
    return time.monotonic() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist yet")
    parser.add_argument("--kind", choices=("safetensors", "bin"), default="safetensors")
    parser.add_argument("--tokenizer", default="", help="LLaMA's tokenizer.model (default: a small one, trained here)")
    parser.add_argument("--restore", action="store_true", help="also read everything that came out")
    parser.add_argument("--keep", action="store_true", help="leave what came out, under FOLDER/base")
    parser.add_argument("--stage", choices=("make", "restore"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage == "make":
        return make_sources(options.folder, options.kind, options.tokenizer)
    if options.stage == "restore":
        return restore(options.folder)
    options.folder.mkdir(parents=True)
    again = [__file__, *sys.argv[1:], "--stage"]
    try:
        seconds, _ = run_apart([*again, "make"])
        os.sync()
        print(f"sources made in {seconds:.1f} s", flush=True)
        sources = [f"--{part}={options.folder / part}" for part in ("vision", "decoder")]
        seconds, peak = run_apart([str(TOOL), "import", *sources, f"--out={options.folder / 'base'}"])
        print(f"{options.kind}: {seconds:.1f} s with start-up, peak {peak:.2f} GiB resident", flush=True)
        if options.restore:
            run_apart([*again, "restore"])
    finally:
        for part in ("vision", "decoder", *(() if options.keep else ("base", "base.partial"))):
            shutil.rmtree(options.folder / part, ignore_errors=True)
        if not any(options.folder.iterdir()):
            options.folder.rmdir()


if __name__ == "__main__":
    main()
