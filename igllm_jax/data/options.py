"""What the data needs to know, without a config."""

from dataclasses import dataclass, fields

from igllm_jax.data.augment import AS_IS, AugmentOptions, check_language
from igllm_jax.errors import UserError
from igllm_jax.scene.language import Language, find_language


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


# The values that a key may have
CHOICES = {"pixels": ("exact", "legacy"), "exif": ("apply", "ignore"), "on_bad_sample": ("error", "skip")}


@dataclass(frozen=True)
class PixelOptions:
    """How an image file becomes red, green and blue, and which are refused.

    pixels: "exact" scales 16-bit greys by their range, shows what is transparent on white, and refuses modes whose
        numbers mean no colour; "legacy" is Pillow's `convert("RGB")`: 16 bits are clipped at 255, hidden colours show.
    pixel_range: (black, white) of images of 32-bit or float numbers, which are refused where it is empty.
    exif: "apply" turns an image as its EXIF data say, "ignore" takes it as it is stored.
    max_image_side, max_image_pixels: in pixels; max_image_aspect: the long side over the short one; 0 for no limit of
        ours (Pillow itself refuses images above 178 956 970 pixels).
    """

    pixels: str = "exact"
    pixel_range: tuple[float, ...] = ()
    exif: str = "apply"
    max_image_side: int = 8192
    max_image_aspect: float = 32.0
    max_image_pixels: int = 67_108_864

    def __post_init__(self) -> None:
        for key in ("pixels", "exif"):
            _check_choice(key, getattr(self, key))


def _check_choice(key: str, value: str) -> None:
    if value not in CHOICES[key]:
        raise UserError(f"data.{key}={value!r} is unknown; choose one of {', '.join(CHOICES[key])}")


EXACT = PixelOptions()


@dataclass(frozen=True)
class DataOptions:
    """How scenes become rows and images become arrays.

    task: a language, by its name or file (scene/language.py). rotation_rep, rotation_unit: what it leaves open.
    head: the model's float head; "none" writes numbers as text.
    image_size: S, pixels. image_aspect_ratio: "pad" or "square". image_mean: the colour of the padding, in [0, 1].
    prompt: see prompts.py. max_length: the longest row allowed, T + `num_image_tokens`.
    shuffle_attributes, use_synonyms: drawn anew at every visit in training; evaluation writes plainly.
    buckets: how many lengths T batches are padded to. length_multiple: T + `num_image_tokens` (I) is a multiple of it.
    num_workers: processes that build batches, 0 for threads of this one. prefetch: batches kept ready (per worker).
    cache: a folder for decoded images, "" for none.
    pixels, pixel_range, exif, max_image_side, max_image_aspect, max_image_pixels: see PixelOptions.
    on_bad_sample: "error" ends at an image that cannot be read, "skip" leaves its scene out, until more than
        `max_bad_share` of the scenes are left out.
    augment: how images are varied in training.
    """

    task: Language | str
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
    pixels: str = "exact"
    pixel_range: tuple[float, ...] = ()
    exif: str = "apply"
    max_image_side: int = 8192
    max_image_aspect: float = 32.0
    max_image_pixels: int = 67_108_864
    on_bad_sample: str = "error"
    max_bad_share: float = 0.01
    augment: AugmentOptions = AS_IS

    def __post_init__(self) -> None:
        _check_choice("on_bad_sample", self.on_bad_sample)
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"data.max_bad_share={self.max_bad_share} must be a share of the scenes, from 0 to 1")
        _ = self.pixel_options  # checks its own
        if self.augment.moves:
            check_language(self.augment, find_language(self.task))

    @property
    def pixel_options(self) -> PixelOptions:
        """What decoding an image needs of these."""
        return PixelOptions(**{field.name: getattr(self, field.name) for field in fields(PixelOptions)})

    @property
    def numbers_as_tokens(self) -> bool:
        """Whether numbers are float tokens, with their values beside the text."""
        return self.head != "none"
