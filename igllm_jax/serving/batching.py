"""Requests that come together are answered together: one batch of images at a time, whoever asked for them."""

import hashlib
import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from igllm_jax.api import Model
from igllm_jax.data.given_images import GivenImages
from igllm_jax.data.images import decode_image, preprocess
from igllm_jax.decoding.generated import Generated
from igllm_jax.errors import UserError

GATHER_S = 0.02  # how long the first request of a batch waits for others
_Request = tuple[np.ndarray, "Future[Generated]"]


class Batcher:
    """Answers images on a thread of its own, up to `batch_size` answers at once; `ask` may be called on many threads.

    temperature, num_samples, seed: as of `Model.generate`. Draws depend on the pixels alone, whatever comes with them.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch_size: int,
        max_new_tokens: int,
        temperature: float = 0.0,
        num_samples: int = 1,
        seed: int = 0,
    ):
        self.model, self.batch_size, self.max_new_tokens = model, batch_size, max_new_tokens
        self.num_samples = num_samples
        self._drawing = {"temperature": temperature, "num_samples": num_samples, "seed": seed}
        self._most = max(1, batch_size // num_samples)  # images at once
        self.num_images = self.num_batches = 0  # answered so far
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def ask(self, path: str | Path, name: str = "") -> Generated:
        """The answer for an image file; waits for it. name: what messages call the image.

        Raises: UserError where the file is no image, or one that is refused; it concerns no other request.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"{name or 'the image'}: cannot be read ({error.strerror})") from None
        data = self.model.data
        image = decode_image(content, name or "the image", data.pixel_options)
        pixels = preprocess(image, data.image_size, data.image_aspect_ratio, data.image_mean)
        future: Future[Generated] = Future()
        self._requests.put((pixels, future))
        return future.result()

    def warm_up(self) -> None:
        """Compiles both programs, of one image and of a whole batch, so that nobody waits for that."""
        side = self.model.data.image_size
        for count in dict.fromkeys((1, self._most)):
            self._answer([np.full((side, side, 3), grey, np.uint8) for grey in range(min(count, 2))])

    def close(self) -> None:
        """Ends the thread, once what was asked for is answered."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._requests.get()) is not None:
            requests, is_last = self._gather(first)
            try:
                found = self._answer([pixels for pixels, _ in requests])
                for (_, future), one in zip(requests, found, strict=True):
                    future.set_result(one)
                self.num_images, self.num_batches = self.num_images + len(requests), self.num_batches + 1
            except Exception as error:  # whoever asked is told, and the thread goes on
                for _, future in requests:
                    if not future.done():
                        future.set_exception(error)
            if is_last:
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], bool]:
        """The first request and those that come with it, and whether there will be no more."""
        requests, end = [first], time.monotonic() + GATHER_S
        while len(requests) < self._most:
            try:
                one = self._requests.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if one is None:
                return requests, True
            requests.append(one)
        return requests, False

    def _answer(self, pixels: list[np.ndarray]) -> list[Generated]:
        names = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels]
        named = dict(zip(names, pixels, strict=True))  # an image that several ask for is answered once
        size = self.num_samples if len(named) == 1 else self.batch_size  # two programs, whatever comes
        images = GivenImages(named.values(), list(named))
        sizes = {"max_new_tokens": self.max_new_tokens, "batch_size": size}
        found = self.model.generate(images, **sizes, **self._drawing, fills_batch=True)  # type: ignore[arg-type]
        by_name = {answer.image: answer for answer in found}
        return [by_name[name] for name in names]
