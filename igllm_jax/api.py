"""A trained model in Python: `igllm_jax.load(folder)`, and `generate` for whatever images there are."""

import argparse
import threading
from collections.abc import Callable
from typing import Any

from igllm_jax import flags, paths
from igllm_jax.data.given_images import image_source
from igllm_jax.data.options import DataOptions
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.generated import Generated, generated
from igllm_jax.decoding.predict import predict
from igllm_jax.decoding.sampling import SamplingOptions
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshLayout, layout_for_decoding
from igllm_jax.paths import FilePath
from igllm_jax.scene.language import Language, find_language
from igllm_jax.weights.trained_model import Trained, load_trained

BATCH_SIZE = 16
MAX_NEW_TOKENS = 1024
GRAMMARS = ("scene", "none")
DTYPES = ("float32", "bfloat16")


def load(
    folder: str | FilePath,
    *,
    step: int | str | None = None,
    tensor: int = 1,
    dtype: str | None = None,
    grammar: str = "scene",
    task: str | None = None,
    rotation_rep: str | None = None,
    prompt: str | None = None,
) -> "Model":
    """The model of a run's workdir, or of a folder of imported weights, on all of JAX's devices.

    step: of a run, "last" (default), "best" or a number, with "_ema" the averages of it. tensor: shard the weights over
    so many devices; the others hold replicas and take other images. dtype: of the computation, "float32" or "bfloat16"
    (default: the model's own).
    grammar: "scene" keeps answers to the language, so that every one can be read; "none" lets the model write anything.
    task, rotation_rep, prompt: of imported weights, as `igllm generate --model` takes them.

    Raises: UserError, in one line, where the folder is neither, and as `igllm generate` does.

    Example:

    >>> import igllm_jax
    >>> model = igllm_jax.load("runs/clevr")
    >>> answers = model.generate(["photo.png", numpy.zeros((240, 320, 3), "uint8")])
    >>> [answer.image for answer in answers]
    ['photo.png', 'image 1']
    >>> answers[0].problems  # none: the grammar kept the code to the language
    ()
    >>> len(answers[0].scene.objects) == len(answers[0].calls)
    True
    """
    _check_choice("grammar", grammar, GRAMMARS)
    if dtype is not None:
        _check_choice("dtype", dtype, DTYPES)
    layout = layout_for_decoding(tensor)
    trained = load_trained(
        paths.to_path(folder), layout, step=step, dtype=dtype, task=task, rotation_rep=rotation_rep, prompt=prompt
    )
    return Model(trained, layout, has_grammar=grammar == "scene")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value!r}: choose one of {', '.join(choices)}")


class Model:
    """A model that writes code for images; `load` makes it. Several threads may use it, one after the other."""

    def __init__(self, trained: Trained, layout: MeshLayout, *, has_grammar: bool):
        self.trained, self.layout, self.has_grammar = trained, layout, has_grammar
        self._generators: dict[Any, AnswerGenerator] = {}  # by what is compiled into them
        self._prepared: dict[str, Any] | None = None
        self._lock = threading.RLock()

    @property
    def language(self) -> Language:
        """Of the code that it writes."""
        return find_language(self.trained.data.task)

    @property
    def data(self) -> DataOptions:
        """How images are made ready, and how numbers and rotations are written."""
        return self.trained.data

    def generate(
        self,
        images: Any,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        batch_size: int = BATCH_SIZE,
        temperature: float = 0.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        num_samples: int = 1,
        shows_progress: bool = False,
        fills_batch: bool = False,
    ) -> list[Generated]:
        """What the model writes for each image, in order.

        images: one of, or several of, Pillow images, arrays (uint8 [H, W], [H, W, 3] or [H, W, 4]; [N, H, W, 3] is N
        images) and paths of image files; or what `--images` of `igllm generate` takes: a TAR, a folder, a pattern,
        `2d.npz:SPLIT`. max_new_tokens: where an answer is broken off. batch_size: at most so many answers at once.
        temperature, top_p, min_p, seed, num_samples: draw tokens, and several answers an image, as the flags of
        `igllm generate` do; draws depend on the seed and the image's name. shows_progress: on stderr. fills_batch:
        fewer images run the program of `batch_size` too; otherwise that of the next power of two, each of which
        compiles once.

        Raises: UserError naming the image that can't be read.
        """
        _check("max_new_tokens", max_new_tokens, flags.TOKENS)
        _check("batch_size", batch_size, flags.BATCH)
        sampling = _sampling(temperature, top_p, min_p, seed, num_samples)
        source = image_source(images)
        if not len(source):
            return []
        if not fills_batch:
            batch_size = min(batch_size, power_of_two(len(source) * num_samples))
        with self._lock:
            generator = self._generator(max_new_tokens, sampling, num_samples)
            answers = predict(
                generator, self._prepared or {}, source, batch_size=batch_size, shows_progress=shows_progress
            )
        return [generated(name, answer, self.data) for name, answer in answers.items()]

    def _generator(self, max_new_tokens: int, sampling: SamplingOptions, num_samples: int) -> AnswerGenerator:
        """The compiled one; it merges and lays out the weights once."""
        compiled_in = (max_new_tokens, sampling, num_samples)
        if compiled_in not in self._generators:
            made = AnswerGenerator(
                self.trained.model,
                self.trained.tokenizer,
                self.data,
                max_new_tokens,
                self.layout,
                has_grammar=self.has_grammar,
                has_details=True,
                sampling=sampling,
                num_samples=num_samples,
            )
            self._prepared = self._prepared or made.prepare(self.trained.params)
            self._generators[compiled_in] = made
        return self._generators[compiled_in]


def _sampling(temperature: float, top_p: float, min_p: float, seed: int, num_samples: int) -> SamplingOptions:
    """Raises: UserError for what `igllm generate` does not take."""
    _check("temperature", temperature, flags.TEMPERATURE)
    for key, value in {"top_p": top_p, "min_p": min_p}.items():
        _check(key, value, flags.PROBABILITY)
    _check("seed", seed, flags.SEED)
    _check("num_samples", num_samples, flags.ANSWERS)
    options = SamplingOptions(float(temperature), float(top_p), float(min_p), int(seed))
    options.check(num_samples)
    return options


def _check(key: str, value: float, of_flag: Callable[[str], float]) -> None:
    try:
        of_flag(str(value))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{key}: {error}") from None


def power_of_two(count: int) -> int:
    """The smallest that is not below `count`: a program is compiled for every size of a batch, so there are few.

    Example: 5 gives 8.
    """
    return 1 << (count - 1).bit_length()
