"""The input pipeline: images a second beside bare decoding and beside PyTorch's DataLoader, and the share of padding.

    python benchmarks/data.py [--images 128] [--workers 2] [--rounds 5] [--tokenizer LLAMA/tokenizer.model]

480x320 PNGs (made by `igllm make-data clevr`) become 336x336 uint8 images with their rows of tokens, in batches of 32.
Sides, in turns, each in its own process with --workers worker processes: `bare` decodes and resizes, nothing else;
`processes` and `threads` are our pipeline; `cached` reads data.cache; `torch` is DataLoader with what LLaVA does to an
image (expand2square, transformers' CLIPImageProcessor); `torch uint8` is DataLoader with our own image code and rows.
Every turn first takes what was prepared ahead, and only then looks at the clock.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from benchmarks import report
from benchmarks.worker import ROOT, serve
from igllm_jax.data.images import preprocess
from igllm_jax.data.options import DataOptions, Source
from igllm_jax.data.tars import open_images

BATCH, SIZE, PATCHES, PREFETCH = 32, 336, 576, 2
MEAN = (0.48145466, 0.4578275, 0.40821073)
SIDES = ("bare", "processes", "threads", "cached", "torch", "torch uint8")
SCENES = 10_000


def options(workers: int, **changed: Any) -> DataOptions:
    given = {"task": "clevr", "head": "tanh_mlp_gelu", "image_size": SIZE, "image_mean": MEAN, "max_length": 2048}
    given |= {"num_image_tokens": PATCHES, "num_workers": workers, "prefetch": PREFETCH}
    return DataOptions(**{**given, **changed})


def source(folder: Path) -> Source:
    return Source(str(folder / "images" / "train.tar"), str(folder / "labels" / "train.json"))


# ---- sides: an endless iterator of image counts, and how many batches it may have prepared ahead ---------------------


def ours(folder: Path, workers: int, **changed: Any) -> tuple[Iterator[int], int]:
    from igllm_jax.data.pipeline import TrainPipeline
    from igllm_jax.data.tokens import Tokenizer

    tokenizer = Tokenizer.load(folder / "tokenizer")
    data = TrainPipeline([source(folder)], options(workers, **changed), tokenizer, seed=0, batch_size=BATCH)
    stream = data.iterate(0)
    return (len(batch.images) for batch in stream), max(workers, 1) * (PREFETCH + 1) + 2


def bare(folder: Path, workers: int) -> tuple[Iterator[int], int]:
    """Processes that decode and resize batch after batch and send back how many; a few are always on order."""
    pool = multiprocessing.get_context("fork").Pool(workers, _open_bare, (folder,))

    def counts() -> Iterator[int]:
        ordered = deque(pool.apply_async(_decode_batch, (number,)) for number in range(2 * workers))
        for number in count(2 * workers):
            yield ordered.popleft().get()
            ordered.append(pool.apply_async(_decode_batch, (number,)))

    return counts(), 2 * workers


def _open_bare(folder: Path) -> None:
    global _images
    _images = open_images(str(folder / "images" / "train.tar"))


def _decode_batch(number: int) -> int:
    for index in range(number * BATCH, (number + 1) * BATCH):
        preprocess(_images.read(index % len(_images)), SIZE, "pad", MEAN)
    return BATCH


def torch_loader(folder: Path, workers: int, is_llava: bool) -> tuple[Iterator[int], int]:
    import torch

    data = (_Llava if is_llava else _Lean)(folder)
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**9)
    loader = torch.utils.data.DataLoader(
        data, BATCH, sampler=sampler, num_workers=workers, prefetch_factor=PREFETCH, collate_fn=_collate
    )
    return (len(batch[0]) for batch in loader), workers * (PREFETCH + 1)


def _collate(examples: list[tuple[Any, list[int]]]) -> tuple[Any, Any]:
    import torch

    rows = [torch.tensor(ids) for _, ids in examples]
    images = torch.stack([torch.as_tensor(image) for image, _ in examples])
    return images, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


class _Lean:
    """Our image code and our rows, one by one."""

    def __init__(self, folder: Path):
        from igllm_jax.data.rows import RowMaker
        from igllm_jax.data.tokens import Tokenizer
        from igllm_jax.scene.labels import read_labels

        self.images = open_images(source(folder).images)
        self.scenes = read_labels(source(folder).labels, "clevr")
        self.maker = RowMaker(options(0), Tokenizer.load(folder / "tokenizer"))

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Any, list[int]]:
        return self.image(index), self.maker.row(self.scenes[index], np.random.default_rng()).tokens.tolist()

    def image(self, index: int) -> Any:
        return preprocess(self.images.read(index), SIZE, "pad", MEAN).copy()


class _Llava(_Lean):
    """LLaVA's way with images: expand2square, then the processor's float32 pixels."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        from transformers import CLIPImageProcessor

        self.processor = CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=MEAN
        )

    def image(self, index: int) -> Any:
        from PIL import Image

        image = self.images.read(index)
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in MEAN))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return self.processor(square, return_tensors="np")["pixel_values"][0]


class Serving:
    """The worker of one side."""

    def __init__(self, name: str, folder: Path, workers: int):
        make: dict[str, Callable[[], tuple[Iterator[int], int]]] = {
            "bare": lambda: bare(folder, workers),
            "processes": lambda: ours(folder, workers),
            "threads": lambda: ours(folder, 0),
            "cached": lambda: ours(folder, workers, cache=str(folder / "cache")),
            "torch": lambda: torch_loader(folder, workers, True),
            "torch uint8": lambda: torch_loader(folder, workers, False),
        }
        self.batches, self.ahead = make[name]()

    def rate(self, seconds: float) -> float:
        """Images a second over at least so many seconds, after what was prepared ahead is taken."""
        for _ in range(self.ahead):
            next(self.batches)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            images += next(self.batches)
        return images / (time.perf_counter() - start)


# ---- the comparison --------------------------------------------------------------------------------------------------


def make(folder: Path, wanted: argparse.Namespace) -> None:
    """Images, labels and a tokenizer."""
    from igllm_jax.data.tokens import Tokenizer, train_small
    from igllm_jax.scene.code import write
    from igllm_jax.scene.labels import read_labels

    command = [sys.executable, "-m", "igllm_jax", "make-data", "clevr", "--out", str(folder), "--num_val", "2"]
    subprocess.run([*command, "--num_train", str(wanted.images)], check=True, cwd=ROOT)
    if wanted.tokenizer:
        Tokenizer.load(wanted.tokenizer).save(folder / "tokenizer")
        return
    scenes = read_labels(source(folder).labels, "clevr")
    texts = [write(scene, "clevr", rotation_rep="", numbers_as_tokens=True, rng=None).text for scene in scenes]
    train_small(texts, folder / "tokenizer", 400)


def compare(folder: Path, wanted: argparse.Namespace) -> None:
    names = wanted.sides.split(",")
    scripts = {name: ("data.py", ["--serve", name, str(folder), str(wanted.workers)]) for name in names}
    with report.sides(scripts) as sides:
        found = report.in_turns(names, wanted.rounds, lambda name: sides[name]("rate", seconds=wanted.seconds))
    medians = {name: statistics.median(values) for name, values in found.items()}
    rows = []
    for name, values in found.items():
        row = {"side": name, "images/s": report.spread(values), "per core": f"{medians[name] / wanted.workers:.3g}"}
        for other in ("bare", "torch", "torch uint8"):
            if other in found:
                row[f"over {other}"] = report.spread([a / b for a, b in zip(values, found[other], strict=True)], ".2f")
        rows.append(row)
    report.table(rows)


def padding(folder: Path, wanted: argparse.Namespace) -> None:
    """The share of positions that hold nothing, over an epoch of scenes with 3 to 10 objects."""
    from igllm_jax.data.pipeline import TrainPipeline, padding_share
    from igllm_jax.data.tokens import Tokenizer

    labels, images = folder / "labels" / "many.json", folder / "images" / "many.tar"
    many = _many_scenes(json.loads((folder / "labels" / "train.json").read_text())["scenes"])
    labels.write_text(json.dumps(many))
    _write_dots(images, [scene["image_filename"] for scene in many])
    tokenizer = Tokenizer.load(folder / "tokenizer")
    rows = []
    for buckets in (1, 2, 4, 8):
        few = options(0, buckets=buckets, image_size=14, cache=str(folder / "thumbnails"))
        data = TrainPipeline([Source(str(images), str(labels))], few, tokenizer, seed=0, batch_size=BATCH)
        shares = [padding_share(data.batch(step), PATCHES) for step in range(SCENES // BATCH)]
        text = [padding_share(data.batch(step)) for step in range(0, SCENES // BATCH, 10)]
        lengths = ", ".join(str(length + PATCHES) for length in data.lengths)
        rows.append({"buckets": buckets, "lengths with the image": lengths, "padding": f"{np.mean(shares):.2%}"})
        rows[-1]["of the text alone"] = f"{np.mean(text):.1%}"
    print(f"padding over {SCENES} scenes of 3 to 10 objects, batch {BATCH}, vocabulary of {tokenizer.vocab_size}")
    report.table(rows)


def _many_scenes(scenes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many scenes as wanted, with 3 to 10 objects each, dealt from the objects of the made ones."""
    rng = np.random.default_rng(0)
    pool = [thing for scene in scenes for thing in scene["objects"]]
    return [
        {"image_filename": f"{number}.png", "objects": [pool[int(i)] for i in rng.integers(len(pool), size=many)]}
        for number, many in enumerate(rng.integers(3, 11, SCENES))
    ]


def _write_dots(path: Path, names: list[str]) -> None:
    """A tar with one small picture under each name: padding depends on text alone."""
    content = io.BytesIO()
    Image.new("RGB", (14, 14)).save(content, "PNG")
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            tar.addfile(member, io.BytesIO(content.getvalue()))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="to make")
    parser.add_argument("--workers", type=int, default=2, help="processes of each side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--tokenizer", default="", help="LLaMA's tokenizer.model (default: a small one, trained here)")
    parser.add_argument("--folder", type=Path, help="keep what is made here, and take it from here if it is there")
    return parser.parse_args(arguments)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        name, folder, workers = sys.argv[2:]
        return serve({"rate": Serving(name, Path(folder), int(workers)).rate})
    wanted = parse(sys.argv[1:])
    report.heading("input pipeline")
    with tempfile.TemporaryDirectory(prefix="igllm-bench-") as temporary:
        folder = wanted.folder or Path(temporary) / "clevr"
        if not folder.exists():
            make(folder, wanted)
        size = (folder / "images" / "train.tar").stat().st_size
        print(f"{size / wanted.images / 1000:.0f} kB an image")
        compare(folder, wanted)
        padding(folder, wanted)


if __name__ == "__main__":
    main()
