"""Images that take each other's slots in a running batch, so that a long answer holds no others back.

The host is asked whenever enough rows are done, not for every token. It fetches what they wrote, prefills images that
come next and puts them there. A window of images begins with an empty batch and ends with one, so that all that a
later window depends on is what it guesses from.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from igllm_jax.decoding.answer import Answer
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.decode_options import Decoded
from igllm_jax.decoding.decode_step import Loop
from igllm_jax.decoding.refill import WrittenRows
from igllm_jax.parallel.distributed import Stopped, never
from igllm_jax.parallel.sharding import put

WINDOW = 8  # batches: rows are idle while the last answers of a window end, and what a stopped window had is lost
GROUPS = 8  # a batch's images are prefilled in so many groups
DONE_SHARE = 16  # of a batch, one of so many images is done when others take the slots


def windows(indices: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The images of each window, in order, the last of them longer than a batch unless all of them fit in one."""
    left = list(indices)
    while len(left) > (WINDOW + 1) * batch_size:
        yield left[: WINDOW * batch_size]
        left = left[WINDOW * batch_size :]
    if left:
        yield left


def group_size(generator: AnswerGenerator, batch_size: int) -> int:
    """Images that are prefilled together, as many as the layout can shard evenly."""
    return generator.batch_size(max(1, batch_size // GROUPS))


class Stream:
    """A window of images through a batch of `batch_size`.

    prepared: what the generator's `prepare` made. names: of the window's images. groups: uint8 [R, S, S, 3] of each
    `group_size` of them, this process's rows alone. num_steps: passes over the weights after prefills, so far.
    """

    def __init__(
        self,
        generator: AnswerGenerator,
        prepared: dict[str, Any],
        names: Sequence[str],
        groups: Iterator[np.ndarray],
        batch_size: int,
    ):
        self.generator, self.programs, self.prepared = generator, generator.refill, prepared
        self.shared = self.programs.shared(prepared)
        self.names, self.groups, self.size = list(names), groups, batch_size
        self.each, self.group = generator.options.num_samples, group_size(generator, batch_size)
        self.first = self.next = 0  # of the names: the first of the last group, and the first of the next
        self.waiting: deque[int] = deque()  # of the last group, the rows that have no slot yet
        self.slots: list[str | None] = [None] * batch_size
        self.counts = np.zeros(batch_size * self.each, int)
        self.stop, self.num_steps = self.programs.stops[0], 0
        self.loop: Loop | None = None
        self.new: Loop | None = None

    def answers(self, stops: Callable[[], bool] = never) -> Iterator[dict[str, Answer]]:
        """Image name -> answer, of those that finished together, in that order. What later images guess from is the
        generator's table in the end.

        stops: asked whenever images finished. Raises: Stopped where it says so; UserError as the generator does.
        """
        while self._is_left():
            if stops():
                raise Stopped
            self._fill()
            written = self._run()
            is_done = written.is_done.reshape(self.size, self.each).all(axis=1)
            done = [slot for slot, name in enumerate(self.slots) if name is not None and is_done[slot]]
            if done:
                answers = self._leave(done, written.decoded)
                if not self._is_left():
                    self.generator.table = self.loop.table  # type: ignore[union-attr]
                yield answers

    def _is_left(self) -> bool:
        """Whether images wait or are being answered."""
        return self.next < len(self.names) or bool(self.waiting) or any(self.slots)

    def _fill(self) -> None:
        """Images into the slots that are free."""
        free = deque(slot for slot, name in enumerate(self.slots) if name is None)
        while free and (self.waiting or self.next < len(self.names)):
            if not self.waiting:
                self._begin()
            slots = np.full(self.group, self.size, np.int32)
            while free and self.waiting:
                row, slot = self.waiting.popleft(), free.popleft()
                slots[row] = slot
                self.slots[slot] = self.names[self.first + row]
                self.counts[slot * self.each : (slot + 1) * self.each] = 1
            self.loop = self.programs.insert(self.loop, self.new, put(slots, self.generator.layout.replicated()))

    def _begin(self) -> None:
        """Prefills the next group."""
        self.first = self.next
        here = self.names[self.first : self.first + self.group]
        self.next += len(here)
        images, is_used, ids = self.generator.on_devices(next(self.groups), self.group, here)
        self.new = self.programs.begin(self.prepared, self.shared, images, is_used, self.generator.grammar, ids)
        self.waiting.extend(range(len(here)))
        if self.loop is None:
            empty = self.programs.empty(self.new, self.generator.table, self.size)
            self.loop = self.programs.resized(empty, self.stop)

    def _run(self) -> WrittenRows:
        """Until others can come, or caches have to grow, which are as short as the longest unfinished answer allows."""
        is_used = np.repeat([name is not None for name in self.slots], self.each)
        farthest = int(self.counts[is_used].max())
        stop = min(stop for stop in self.programs.stops if farthest <= stop or stop == self.programs.stops[-1])
        if stop != self.stop:
            self.loop, self.stop = self.programs.resized(self.loop, stop), stop
        is_last = not self.waiting and self.next == len(self.names)
        wanted = np.int32(self.size if is_last else max(1, self.size // DONE_SHARE))
        grammar = self.generator.grammar
        self.loop, told = self.programs.run(self.prepared, self.shared, self.loop, grammar, wanted, stop)
        written = jax.device_get(told)
        self.num_steps = int(written.decoded.num_steps)
        self.counts = np.where(written.is_done, 0, written.counts)
        return written

    def _leave(self, slots: list[int], found: Decoded) -> dict[str, Answer]:
        """Frees slots whose images are done."""
        names = [str(self.slots[slot]) for slot in slots]
        rows = (np.array(slots)[:, None] * self.each + np.arange(self.each)).ravel()
        for slot in slots:
            self.slots[slot] = None
        own = jax.tree.map(lambda x: x[rows] if x.ndim else x, found)
        return dict(zip(names, self.generator.answers(own, names), strict=True))
