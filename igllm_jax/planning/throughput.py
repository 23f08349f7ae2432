"""How fast a run is against what its chips can do, and traces of chosen steps."""

import re
import resource
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import jax

from igllm_jax import files
from igllm_jax.batch import PromptLayout
from igllm_jax.errors import UserError
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.paths import FilePath
from igllm_jax.planning.chips import Chip, chip_of
from igllm_jax.planning.flops import train_flops


@dataclass
class Speed:
    """Counts the FLOPs of steps. Rows of each length are counted as they are computed, padding included.

    trainable: the parameters that train, by path. batch_size: global. num_devices: in the mesh. chip: None for one that
    chips.CHIPS does not have, such as a CPU.
    """

    model: VLMConfig
    trainable: Collection[str]
    prompt: PromptLayout
    batch_size: int
    num_devices: int
    chip: Chip | None
    useful: float = field(default=0.0, init=False)
    executed: float = field(default=0.0, init=False)

    @classmethod
    def of(
        cls, model: VLMConfig, trainable: Collection[str], prompt: PromptLayout, batch_size: int, num_devices: int
    ) -> "Speed":
        return cls(model, trainable, prompt, batch_size, num_devices, chip_of(jax.devices()[0].device_kind))

    def add(self, tokens: int) -> None:
        """One step with rows of T = `tokens` text tokens."""
        one = train_flops(
            self.model,
            length=tokens + self.model.vision.num_patches,
            answer_length=tokens - self.prompt.answer_offset,
            trainable=self.trainable,
        )
        self.useful += one.useful * self.batch_size
        self.executed += one.executed * self.batch_size

    def rates(self, seconds: float) -> dict[str, float]:
        """FLOP/s since the last call over all chips, MFU and HFU (useful and executed FLOP/s over the chips' bf16 peak;
        absent where the chip is unknown), and peak memory."""
        found = {"useful_flops_per_second": self.useful / seconds, **peak_memory()}
        if self.chip is not None:
            peak = self.chip.flops * self.num_devices
            found |= {"mfu": self.useful / seconds / peak, "hfu": self.executed / seconds / peak}
        self.useful = self.executed = 0.0
        return found


def peak_memory() -> dict[str, float]:
    """The most that this process held (resident), and the most that its fullest chip held, in GiB."""
    found = {"peak_host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if any("peak_bytes_in_use" in stat for stat in stats):
        found["peak_device_gib"] = max(stat.get("peak_bytes_in_use", 0) for stat in stats) / 2**30
    return found


class Profile:
    """Traces the steps START to STOP, both included, for XProf, TensorBoard or Perfetto."""

    def __init__(self, window: str, folder: FilePath):
        """window: "START:STOP", "" for never. Raises: UserError where it is neither."""
        if window and not re.fullmatch(r"[1-9][0-9]{0,8}:[1-9][0-9]{0,8}", window):
            raise UserError(f"--profile is {window!r}; expected START:STOP, two step numbers such as 20:22")
        self.first, self.last = (int(part) for part in window.split(":")) if window else (0, 0)
        if self.last < self.first:
            raise UserError(f"--profile {window} stops before it starts")
        self.folder = folder
        self.is_running = False

    def before(self, step: int, state: Any) -> None:
        """Starts at the first step, once what was sent before it is done."""
        if step == self.first:
            jax.block_until_ready(state)
            self._written = files.MirroredFolder(self.folder)
            jax.profiler.start_trace(str(self._written.here))
            self.is_running = True

    def after(self, step: int, state: Any) -> bool:
        """Ends after the last step is done; True where it did."""
        if step != self.last or not self.is_running:
            return False
        jax.block_until_ready(state)
        return self.close()

    def close(self) -> bool:
        """Writes what was traced, where tracing is under way."""
        was_running, self.is_running = self.is_running, False
        if was_running:
            jax.profiler.stop_trace()
            self._written.close()
        return was_running
