"""What a run is, as its config says it: what those who open a run need to know, without a config."""

from dataclasses import dataclass

from igllm_jax.data.options import DataOptions
from igllm_jax.models.vlm import VLMConfig
from igllm_jax.parallel.sharding import MeshOptions
from igllm_jax.training.optim import OptimOptions


@dataclass(frozen=True)
class LossOptions:
    """float_weight: of the squared error. chunk: answer positions per vocabulary product. seed: of dropout."""

    float_weight: float
    chunk: int
    seed: int


@dataclass(frozen=True)
class RunOptions:
    """model: what it is. base: the folder of its frozen weights ("": drawn from `seed`). frozen_dtype: of these. data,
    mesh, optim, loss: each part's own. batch_size: images per step, over all devices. train_split: of a 2D run, tells
    which cells were seen; None for any other."""

    model: VLMConfig
    base: str
    frozen_dtype: str
    data: DataOptions
    mesh: MeshOptions
    optim: OptimOptions
    loss: LossOptions
    batch_size: int
    seed: int
    train_split: str | None


@dataclass(frozen=True)
class HeldOutOptions:
    """What is measured on held-out examples. loss_samples: examples per loss. generate_samples: images per scene
    metric, 0 where nothing is generated. max_new_tokens: of an answer. batch_size: over all devices."""

    loss_samples: int
    generate_samples: int
    max_new_tokens: int
    batch_size: int
    float_weight: float
