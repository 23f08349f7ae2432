"""A trained model in Python: `igllm_jax.load(folder)`, and `generate` for whatever images there are."""

import threading
from pathlib import Path
from typing import Any

from igllm_jax import progress
from igllm_jax.data.eval_images import image_batches, reader
from igllm_jax.data.given_images import image_source
from igllm_jax.data.options import DataOptions
from igllm_jax.data.tars import ImageSource
from igllm_jax.decoding.answers import AnswerGenerator
from igllm_jax.decoding.generated import Generated, generated
from igllm_jax.errors import UserError
from igllm_jax.parallel.sharding import MeshLayout, layout_for_decoding
from igllm_jax.scene.language import Language, find_language
from igllm_jax.weights.base_folder import MODEL_FILE
from igllm_jax.weights.trained_model import Trained, load_imported, load_run

BATCH_SIZE = 16
MAX_NEW_TOKENS = 1024
GRAMMARS = ("scene", "none")
DTYPES = ("float32", "bfloat16")
PROMPT = "vicuna_v1"  # that imported weights are asked with where nothing says it


def load(
    folder: str | Path,
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

    step: of a run, "last" (default), "best" or a number. tensor: shard the weights over so many devices; the others
    hold replicas and take other images. dtype: of the computation, "float32" or "bfloat16" (default: the model's own).
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
    of_import = {"task": task, "rotation_rep": rotation_rep, "prompt": prompt}
    if (Path(folder) / MODEL_FILE).exists():
        if step is not None:
            raise UserError(f"{folder} is a folder of imported weights, which has no steps: leave out step={step!r}")
        written = rotation_rep or ""
        trained = load_imported(Path(folder), task=task, rotation_rep=written, prompt=prompt or PROMPT, layout=layout)
    else:
        for key, value in of_import.items():
            if value is not None:
                raise UserError(f"{key}={value!r} goes with imported weights; the run in {folder} brings its own")
        trained = load_run(Path(folder), str(step or "last"), layout)
    return Model(trained.in_dtype(dtype), layout, has_grammar=grammar == "scene")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value!r}: choose one of {', '.join(choices)}")


class Model:
    """A model that writes code for images; `load` makes it. Several threads may use it, one after the other."""

    def __init__(self, trained: Trained, layout: MeshLayout, *, has_grammar: bool):
        self.trained, self.layout, self.has_grammar = trained, layout, has_grammar
        self._generators: dict[int, AnswerGenerator] = {}
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
        shows_progress: bool = False,
        fills_batch: bool = False,
    ) -> list[Generated]:
        """What the model writes for each image, in order.

        images: one of, or several of, Pillow images, arrays (uint8 [H, W], [H, W, 3] or [H, W, 4]; [N, H, W, 3] is N
        images) and paths of image files; or what `--images` of `igllm generate` takes: a TAR, a folder, a pattern,
        `2d.npz:SPLIT`. max_new_tokens: where an answer is broken off. batch_size: at most so many images at once.
        shows_progress: on stderr. fills_batch: fewer images run the program of `batch_size` too; otherwise
        that of the next power of two, each of which compiles once.

        Raises: UserError naming the image that can't be read.
        """
        if max_new_tokens < 1 or batch_size < 1:
            raise UserError(f"max_new_tokens={max_new_tokens} and batch_size={batch_size} must be at least 1")
        source = image_source(images)
        if not len(source):
            return []
        with self._lock:
            generator = self._generator(max_new_tokens)
            wanted = batch_size if fills_batch else min(batch_size, power_of_two(len(source)))
            size = generator.batch_size(wanted)
            return self._generate(generator, source, size, shows_progress)

    def _generate(
        self, generator: AnswerGenerator, source: ImageSource, size: int, shows_progress: bool
    ) -> list[Generated]:
        read, rows = reader(source, self.data), list(self.layout.rows(size))
        batches = image_batches(read, len(source), size, self.data.image_size, rows)
        if shows_progress:
            batches = progress.track(batches, total=-(-len(source) // size), label="generate", unit="batch")
        found: list[Generated] = []
        for pixels in batches:
            names = source.names[len(found) : len(found) + size]
            answers = generator(self._prepared or {}, pixels, size, names)
            found += [generated(name, answer, self.data) for name, answer in zip(names, answers, strict=True)]
        return found

    def _generator(self, max_new_tokens: int) -> AnswerGenerator:
        """The compiled one; it merges and lays out the weights once."""
        if max_new_tokens not in self._generators:
            shared = (self.trained.model, self.trained.tokenizer, self.data)
            made = AnswerGenerator(*shared, max_new_tokens, self.layout, has_grammar=self.has_grammar)
            self._prepared = self._prepared or made.prepare(self.trained.params)
            self._generators[max_new_tokens] = made
        return self._generators[max_new_tokens]


def power_of_two(count: int) -> int:
    """The smallest that is not below `count`: a program is compiled for every size of a batch, so there are few.

    Example: 5 gives 8.
    """
    return 1 << (count - 1).bit_length()
