"""Many requests at once to a running `igllm serve`: are all answered, all right, and does its memory stay flat?

igllm serve --workdir RUN --port 7871 &
python benchmarks/serve.py --url http://127.0.0.1:7871 --images 'shots/*.png' --pid PID
"""

import argparse
import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gradio_client import Client, handle_file

from igllm_jax.data.tars import open_images


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--pid", type=int, help="of the server, to watch its memory")
    parser.add_argument("--requests", type=int, default=200, help="at once")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    source = open_images(options.images)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for index in range(min(len(source), 20)):
            content = io.BytesIO()
            source.read(index).save(content, "PNG")
            paths.append(Path(folder) / f"{index}.png")
            paths[-1].write_bytes(content.getvalue())
        client = Client(options.url, verbose=False)

        def ask(path: Path) -> str:
            return client.predict(handle_file(str(path)), api_name="/generate")["code"]

        alone = {path: ask(path) for path in paths}
        print(f"{len(alone)} images one by one: {len(set(alone.values()))} different answers", flush=True)
        for number in range(1, options.rounds + 1):
            asked = [paths[index % len(paths)] for index in range(options.requests)]
            start = time.monotonic()
            with ThreadPoolExecutor(options.requests) as pool:
                found = list(pool.map(ask, asked))
            seconds = time.monotonic() - start
            right = sum(code == alone[path] for path, code in zip(asked, found, strict=True))
            memory = f", {megabytes(options.pid):.0f} MiB" if options.pid else ""
            print(f"round {number}: {right} of {len(asked)} as one by one, {seconds:.1f} s{memory}", flush=True)


if __name__ == "__main__":
    main()
