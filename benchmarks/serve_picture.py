"""A picture of a running `igllm serve`, once a browser has uploaded an image and the answers are there.

igllm serve --workdir RUN --port 7871 &
python benchmarks/serve_picture.py --url http://127.0.0.1:7871 --image photo.png --out docs/serve.png
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.report.browser import Page, browser_page

WIDTH, HEIGHT = 1300, 1330  # of the window, in pixels
SETTLED_S = 10.0  # until the view in 3D stands still
COLORS = 256


def upload(page: Page, url: str, image: Path) -> None:
    """Opens the page, uploads an image as a person would, and waits for the answers."""
    page.call("Page.navigate", url=url)
    page.wait("document.querySelector('#given input[type=file]') !== null")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#given input[type=file]")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(image.resolve())])
    page.wait("document.querySelector('#given img') !== null")
    page.run("document.querySelector('#write').click()")
    page.wait("document.querySelector('#drawn img') !== null")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser_page(Path(folder)) as page:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        upload(page, options.url, options.image)
        page.wait("document.querySelectorAll('#alternatives input').length > 1")
        time.sleep(SETTLED_S)
        page.screenshot(options.out)
    content = io.BytesIO()
    with Image.open(options.out) as picture:
        picture.convert("RGB").quantize(COLORS).save(content, "PNG", optimize=True)
    options.out.write_bytes(content.getvalue())
    print(f"{options.out}: {len(content.getvalue()) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
