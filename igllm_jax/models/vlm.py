"""The whole model: image and text row in, hidden states of the answer out; token logits and numbers read from these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from igllm_jax.batch import PromptLayout
from igllm_jax.errors import UserError
from igllm_jax.models.float_heads import FLOAT_HEADS
from igllm_jax.models.llama import Decoder, DecoderConfig
from igllm_jax.models.lora import DropoutSeed, LoRAConfig
from igllm_jax.models.params import Params, Skeleton, flatten
from igllm_jax.models.projectors import PROJECTORS
from igllm_jax.models.vision import VisionConfig, VisionTower, resized

# field of VLMConfig that is a group of keys -> its dataclass; a new model key is a field of one of these
PARTS: dict[str, type] = {
    "vision": VisionConfig, "second_vision": VisionConfig, "decoder": DecoderConfig, "lora": LoRAConfig,
}  # fmt: skip
TOWERS = ("vision", "second_vision")


@dataclass(frozen=True)
class VLMConfig:
    """What the model is. second_vision: a tower whose features stand beside the first's, patch by patch, or none.
    projector: of PROJECTORS. head: of FLOAT_HEADS. dtype: in which it computes ("bfloat16" or "float32").

    Source of two towers: Karamcheti et al. 2024 (Prismatic).

    Raises: ValueError naming the key of a value that can't be, UserError for two that can't be together.
    """

    vision: VisionConfig
    second_vision: VisionConfig | None
    projector: str
    decoder: DecoderConfig
    lora: LoRAConfig
    head: str
    dtype: str

    def __post_init__(self) -> None:
        if self.projector not in PROJECTORS:
            raise ValueError(f"model.projector is {self.projector!r}; choose one of {tuple(PROJECTORS)}")
        if self.head not in FLOAT_HEADS:
            raise ValueError(f"head is {self.head!r}; choose one of {tuple(FLOAT_HEADS)}")
        if self.second_vision is not None and self.second_vision.grid != self.vision.grid:
            raise ValueError(
                f"model.second_vision has {self.second_vision.grid} patches on a side and model.vision "
                f"{self.vision.grid}; they stand beside each other, so set image_size and patch_size for as many"
            )
        if self.decoder.attention == "cudnn" and self.dtype == "float32":
            raise UserError("model.decoder.attention=cudnn takes no float32, which the dtype is; choose xla or chunked")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "VLMConfig":
        """From plain values, groups of keys as mappings; no second tower where none is named, as in older files.

        Raises: TypeError, KeyError for a key too many or too few.
        """
        values = {"second_vision": None, **values}
        parts = {name: None if values[name] is None else part(**_tuples(values[name])) for name, part in PARTS.items()}
        return cls(**{**values, **parts})

    @property
    def towers(self) -> dict[str, VisionConfig]:
        """Group of keys, and of parameters -> image tower."""
        return {name: tower for name in TOWERS if (tower := getattr(self, name)) is not None}

    @property
    def vision_width(self) -> int:
        """Of a patch's features, all towers together."""
        return sum(tower.width for tower in self.towers.values())

    @property
    def has_float_head(self) -> bool:
        """False where numbers are text."""
        return FLOAT_HEADS[self.head] is not None


class VLM(nnx.Module):
    """vision, second_vision (absent where one tower is all), projector, decoder, float_head (absent where numbers are
    text)."""

    def __init__(self, config: VLMConfig, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config.vision, rngs)
        self.second_vision = None if config.second_vision is None else VisionTower(config.second_vision, rngs)
        self.projector = PROJECTORS[config.projector](config.vision_width, config.decoder.width, rngs)
        self.decoder = Decoder(config.decoder, config.lora, rngs)
        head = FLOAT_HEADS[config.head]
        self.float_head = None if head is None else head(config.decoder.width, rngs)

    def features(self, images: UInt8[Array, "b s s 3"], dtype: jnp.dtype) -> Float[Array, "b n v"]:
        """Of the N patches, in `dtype`, one tower's beside the other's."""
        first = self.vision(images, dtype)
        if self.second_vision is None:
            return first
        images = resized(images, self.second_vision.config.image_size)
        return jnp.concatenate([first, self.second_vision(images, dtype)], axis=-1)

    def embed(
        self, images: UInt8[Array, "b s s 3"], tokens: Int[Array, "b t"], image_offset: int
    ) -> Float[Array, "b t_plus_i d"]:
        """Token embeddings with the I projected image features put in at `image_offset`."""
        dtype = jnp.dtype(self.config.dtype)
        image = self.projector(self.features(images, dtype))
        text = self.decoder.embed(tokens, dtype)
        return jnp.concatenate([text[:, :image_offset], image, text[:, image_offset:]], axis=1)

    def answer_states(
        self,
        images: UInt8[Array, "b s s 3"],
        tokens: Int[Array, "b t"],
        layout: PromptLayout,
        seed: DropoutSeed | None = None,
    ) -> Float[Array, "b a d"]:
        """Final-norm hidden states that predict tokens[:, layout.answer], A of them in this order.

        The long prefix before them needs neither the final norm nor logits.
        """
        x = self.decoder(self.embed(images, tokens, layout.image_offset), seed)
        return self.decoder.final_norm(x[:, layout.predicts_answer(self.config.vision.num_patches)])

    def numbers(self, states: Float[Array, "... d"]) -> Float[Array, "..."]:
        """The float head's reading of every state, float32; zeros where the model has none."""
        if self.float_head is None:
            return jnp.zeros(states.shape[:-1], jnp.float32)
        return self.float_head(states)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where dataclasses have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def skeleton(config: VLMConfig) -> Skeleton:
    """The model's parameters by name, shape and axes; `skeleton(config).build(params)` is the model."""
    return Skeleton.of(lambda rngs: VLM(config, rngs))


def initialise(config: VLMConfig, seed: int | jax.Array) -> dict[str, jax.Array]:
    """Random float32 parameters by path, a function of the seed (jit it with out_shardings for a large model)."""
    return flatten(VLM(config, nnx.Rngs(params=jax.random.key(seed))))


def draw(model: VLMConfig, wanted: Mapping[str, Any], seed: int) -> Params:
    """Random parameters of these paths, typed and sharded as `wanted` says; the same values on any mesh."""
    if not wanted:
        return {}

    def make(seed: jax.Array) -> Params:
        values = initialise(model, seed)
        return {path: values[path].astype(shape.dtype) for path, shape in wanted.items()}

    shardings = {path: shape.sharding for path, shape in wanted.items()}
    # Random numbers compile slowly on a CPU, and run once: 2 s instead of 10 for a small model.
    quick = {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    return jax.jit(make, out_shardings=shardings, compiler_options=quick)(jnp.uint32(seed))
