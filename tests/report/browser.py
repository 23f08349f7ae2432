"""A page in headless Chromium, driven by the DevTools protocol through a pipe: no driver, no socket, no package."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions",
    "--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1400,1000",
)  # fmt: skip
PATIENCE_S = 60.0


class Page:
    """One page. errors: what the console said as an error or warning, and exceptions. requests: addresses asked for."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._number, self._session = to, back, b"", 0, ""
        self.errors: list[str] = []
        self.requests: list[str] = []

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A command's result; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next())["id"] != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next answer."""
        end = time.monotonic() + PATIENCE_S
        while True:
            if b"\0" in self._rest:
                text, _, self._rest = self._rest.partition(b"\0")
                message = json.loads(text)
                if "id" in message:
                    return message
                self._event(message["method"], message.get("params", {}))
                continue
            ready, _, _ = select.select([self._back], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            self._rest += os.read(self._back, 1 << 20)

    def _event(self, name: str, said: dict[str, Any]) -> None:
        if name == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"])[:500])
        elif name == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert", "warning"):
            self.errors.append(json.dumps(said["args"])[:500])
        elif name == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.errors.append(json.dumps(said["entry"])[:500])

    def open(self, path: Path) -> None:
        """Opens a file, and waits until its scripts have run."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, script: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def choose(self, identifier: str, value: str) -> None:
        """Chooses an option, as a person would."""
        self.run(f"(() => {{ const one = document.getElementById({json.dumps(identifier)});"
                 f"one.value = {json.dumps(value)}; one.dispatchEvent(new Event('change')); }})()")  # fmt: skip

    def drag(self, x: float, y: float, dx: float, dy: float) -> None:
        """Presses the mouse at a point, moves it and lets go."""
        for kind, at in (
            ("mousePressed", (x, y)),
            ("mouseMoved", (x + dx, y + dy)),
            ("mouseReleased", (x + dx, y + dy)),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", buttons=1, clickCount=1)

    def screenshot(self, path: Path) -> None:
        """What is seen, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser_page(folder: Path) -> Iterator[Page]:
    """A new page. folder: for the browser's own files. Skips the test where there is no Chromium."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs Chromium")
    (read_there, to), (back, write_there) = os.pipe(), os.pipe()
    # the browser reads commands from descriptor 3, and answers to 4
    started = f'exec "$0" "$@" 3<&{read_there} 4>&{write_there}'
    line = ["bash", "-c", started, program, *FLAGS, f"--user-data-dir={folder / 'chromium'}"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(line, pass_fds=(read_there, write_there), stdin=quiet, stdout=quiet, stderr=quiet)
    os.close(read_there)
    os.close(write_there)
    try:
        page = Page(to, back)
        page.attach()
        yield page
        page._session = ""
        page.call("Browser.close")
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()
        os.close(to)
        os.close(back)
