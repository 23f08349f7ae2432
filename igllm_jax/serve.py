"""`igllm serve`: a page to try a model on, and its HTTP API. Without --host, this machine alone can reach it."""

import argparse
import signal
import threading

from igllm_jax import flags, paths, progress
from igllm_jax.api import BATCH_SIZE, DTYPES, GRAMMARS, MAX_NEW_TOKENS, Model, load
from igllm_jax.data.tars import IMAGES_HELP, open_images
from igllm_jax.decoding.sampling import SamplingOptions
from igllm_jax.serving.batching import Batcher
from igllm_jax.serving.page import build_page, import_gradio, launch

HOST = "127.0.0.1"
MAX_UPLOAD_MB = 20
LOOK_S = 0.5
NUM_SAMPLES = 4


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = flags.Parser(prog="igllm serve", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=flags.path, help="a run")
    model.add_argument("--model", type=flags.path, help="a folder of imported weights")
    parser.add_argument("--step", help="of a run: N, best or last (default); best_ema: the averages of it")
    parser.add_argument("--images", type=flags.source, nargs="+", help=f"a set to pick images from: {IMAGES_HELP}")
    parser.add_argument("--host", default=HOST, help=f"address to listen on (default: {HOST}; 0.0.0.0: all of them)")
    parser.add_argument("--port", type=flags.PORT, help="to listen on (default: the first free one from 7860)")
    parser.add_argument("--max_upload", type=flags.MEGABYTES, default=MAX_UPLOAD_MB, help="of an image, in MB")
    parser.add_argument("--batch_size", type=flags.BATCH, default=BATCH_SIZE, help="requests answered at once, at most")
    parser.add_argument("--max_new_tokens", type=flags.TOKENS, default=MAX_NEW_TOKENS)
    parser.add_argument("--grammar", choices=GRAMMARS, default="scene", help="as of igllm generate")
    samples = f"answers drawn beside the likeliest one (default: {NUM_SAMPLES}; 0: none)"
    parser.add_argument("--num_samples", type=flags.ALTERNATIVES, default=NUM_SAMPLES, metavar="K", help=samples)
    parser.add_argument("--temperature", type=flags.TEMPERATURE, default=1.0, help="of the draws (default: 1)")
    parser.add_argument("--seed", type=flags.SEED, default=0, help="of the draws")
    parser.add_argument("--dtype", choices=DTYPES, help="of the computation")
    parser.add_argument("--tensor", type=flags.DEVICES, default=1, help="shard the weights over so many devices")
    parser.add_argument("--task", type=flags.source, help="with --model: as of igllm generate")
    for name in ("rotation_rep", "prompt"):
        parser.add_argument(f"--{name}", help="with --model: as of igllm generate")
    options = parser.parse_args(arguments)
    SamplingOptions(options.temperature).check(options.num_samples)
    return options


def main(arguments: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM. Raises: UserError for anything the user can mend."""
    options = parse(arguments)
    import_gradio()  # before the work
    source = open_images(options.images) if options.images else None
    folder = options.workdir or options.model
    of_model = ("step", "tensor", "dtype", "grammar", "task", "rotation_rep", "prompt")
    model = load(folder, **{name: getattr(options, name) for name in of_model})
    batchers = _batchers(model, options)
    progress.note("compiling")
    for batcher in batchers:
        batcher.warm_up()
    title = f"{paths.name_of(folder)}: scene code of an image"
    page = build_page(batchers[0], title, source, batchers[1] if options.num_samples else None)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    url = launch(page, host=options.host, port=options.port, max_upload_mb=options.max_upload)
    progress.result(f"{url} (Ctrl-C ends it)")
    try:
        while not stopped.wait(LOOK_S):  # a signal that another thread got is seen by this one once it wakes
            pass
    finally:
        page.close(verbose=False)
        for batcher in batchers:
            batcher.close()
    return 0


def _batchers(model: Model, options: argparse.Namespace) -> list[Batcher]:
    """What writes answers, and where they are asked for, what draws several."""
    sizes = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    found = [Batcher(model, **sizes)]
    if options.num_samples:
        drawing = {name: getattr(options, name) for name in ("temperature", "num_samples", "seed")}
        found.append(Batcher(model, **sizes, **drawing))
    return found
