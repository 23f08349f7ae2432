"""What the data needs to know, without a config."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Images and labels that belong together.

    images: TAR, FOLDER, `2d.npz:SPLIT`, a tar at `gs://…` or `s3://…`, `tfds:NAME/SPLIT`,
        `tfds:FOLDER/SPLIT`, `tfds:gs://BUCKET/FOLDER/SPLIT`.
    labels: JSON, `2d.npz:SPLIT`, or "" where the images bring them along (`tfds:` and `2d.npz:SPLIT`).
    num_samples: how many of the first scenes, 0 for all.
    """

    images: str
    labels: str = ""
    num_samples: int = 0


@dataclass(frozen=True)
class DataOptions:
    """How scenes become rows and images become arrays.

    task, rotation_rep, rotation_unit: see scene/tasks.py. head: the model's float head; "none" writes numbers as text.
    image_size: S, pixels. image_aspect_ratio: "pad" or "square". image_mean: the colour of the padding, in [0, 1].
    prompt: see prompts.py. max_length: the longest row allowed, T + `num_image_tokens`.
    shuffle_attributes, use_synonyms: drawn anew at every visit in training; evaluation writes plainly.
    buckets: how many lengths T batches are padded to. length_multiple: T + `num_image_tokens` (I) is a multiple of it.
    num_workers: processes that build batches, 0 for threads of this one. prefetch: batches kept ready (per worker).
    cache: a folder for decoded images, "" for none.
    """

    task: str
    head: str
    image_size: int
    image_mean: tuple[float, float, float]
    max_length: int
    rotation_rep: str = ""
    rotation_unit: str = "deg"
    image_aspect_ratio: str = "pad"
    prompt: str = "vicuna_v1"
    shuffle_attributes: bool = True
    use_synonyms: bool = True
    buckets: int = 4
    length_multiple: int = 8
    num_image_tokens: int = 0
    num_workers: int = 0
    prefetch: int = 4
    cache: str = ""

    @property
    def numbers_as_tokens(self) -> bool:
        """Whether numbers are float tokens, with their values beside the text."""
        return self.head != "none"
