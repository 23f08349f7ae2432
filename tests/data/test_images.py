import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from igllm_jax.data.images import decode_image, draw_disc, preprocess
from igllm_jax.errors import UserError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def noise(width, height, mode="RGB"):
    channels = {"RGB": 3, "RGBA": 4}[mode]
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8), mode=mode)


def llava_square(image):
    """An image padded to a square with the mean colour, as LLaVA does before CLIP's preprocessing."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(channel * 255) for channel in MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@pytest.mark.parametrize("size", [(48, 32), (31, 47), (29, 29), (480, 320), (101, 336)])
@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_equals_clip(size, aspect_ratio):
    side = 336 if max(size) > 100 else 28
    image = noise(*size)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=MEAN, image_std=STD
    )
    given = llava_square(image) if aspect_ratio == "pad" else image
    expected = processor(given, return_tensors="np")["pixel_values"][0]
    ours = preprocess(image, side, aspect_ratio, MEAN)
    assert ours.dtype == np.uint8 and ours.shape == (side, side, 3)
    normalised = (ours / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(normalised.transpose(2, 0, 1), expected, atol=1e-6)


def test_alpha_is_dropped():
    image = noise(9, 9, "RGBA")
    assert (preprocess(image, 9, "pad", MEAN) == np.asarray(image)[..., :3]).all()


def test_padding_example():
    ours = preprocess(Image.new("RGB", (2, 4)), 4, "pad", (0.5, 0.25, 0.999))
    assert ours[0].tolist() == [[127, 63, 254], [0, 0, 0], [0, 0, 0], [127, 63, 254]]


def test_disc():
    pixels = np.asarray(draw_disc(0.25, 0.75))
    is_red = (pixels == (255, 0, 0)).all(-1)
    assert (pixels[~is_red] == 255).all()
    rows, columns = np.nonzero(is_red)
    assert abs(columns.mean() - 84) < 0.6 and abs(rows.mean() - 252) < 0.6
    assert is_red.sum() == pytest.approx(np.pi * 5.5**2, rel=0.1)  # drawn edges included
    assert (np.asarray(draw_disc(0.0, 1.0))[-1, 0] == (255, 0, 0)).all()


def test_errors():
    with pytest.raises(UserError, match="'crop' is unknown; choose one of pad, square"):
        preprocess(noise(3, 3), 3, "crop", MEAN)
    with pytest.raises(UserError, match=r"x.tar: image a.png: cannot be decoded .*; replace the file"):
        decode_image(b"\x89PNG\r\n\x1a\nbroken", "x.tar: image a.png")
