import io

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from igllm_jax.data import images
from igllm_jax.data.images import decode_image, draw_disc, preprocess
from igllm_jax.data.options import PixelOptions
from igllm_jax.errors import UserError
from tests.data import samples

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


def file_of(image, kind="png", **about):
    buffer = io.BytesIO()
    image.save(buffer, kind, **about)
    return buffer.getvalue()


def decoded(content, **options):
    return np.asarray(decode_image(content, "x.tar: image a", PixelOptions(**options)))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_their_range(kind):
    values = np.array([[0, 128, 129, 257], [32767, 32896, 65407, 65535]], np.uint16)
    content = file_of(Image.fromarray(values), kind)
    assert decoded(content)[..., 0].tolist() == [[0, 0, 1, 1], [127, 128, 255, 255]]
    assert (decoded(content) == decoded(content)[..., :1]).all()
    assert decoded(content, pixels="legacy")[..., 0].tolist() == [[0, 128, 129, 255], [255] * 4]


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_numbers_without_a_range_need_one(dtype, mode):
    content = file_of(Image.fromarray(np.array([[-5, 0, 50], [100, 101, 33]], dtype)), "tiff")
    with pytest.raises(
        UserError, match=rf"x.tar: image a: its mode is {mode}, .*set data.pixel_range=\(BLACK, WHITE\)"
    ):
        decoded(content)
    assert decoded(content, pixel_range=(0, 100))[..., 0].tolist() == [[0, 0, 128], [255, 255, 84]]
    with pytest.raises(UserError, match=r"set data.pixel_range"):
        decoded(content, pixel_range=(100, 0))
    nothing = file_of(Image.fromarray(np.array([[np.nan]], np.float32)), "tiff")
    with pytest.raises(UserError, match=r"not finite"):
        decoded(nothing, pixel_range=(0, 100))


def test_an_image_is_turned_as_its_exif_says():
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right when shown
    content = file_of(image, exif=exif)
    assert decoded(content)[..., 0].tolist() == [[120, 0], [160, 40], [200, 80]]
    assert decoded(content, exif="ignore")[..., 0].tolist() == [[0, 40, 80], [120, 160, 200]]
    assert decoded(content, pixels="legacy", exif="ignore").shape == (2, 3, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "L", "RGB"])
def test_transparency_is_shown_on_white(mode):
    """The first pixel is hidden, the second half seen where the mode has halves, the third plain."""
    grey, kind, about = np.array([10, 10, 20], np.uint8), "png", {}
    if mode in ("RGBA", "LA"):
        alpha = np.array([0, 128, 255], np.uint8)
        image = Image.fromarray(np.stack([grey] * (3 if mode == "RGBA" else 1) + [alpha], -1)[None])
        expected = [255, 132, 20]
    elif mode == "PA":
        image, expected = Image.new("PA", (3, 1)), [255, 132, 20]
        image.putpalette([10, 10, 10, 20, 20, 20])
        for x, value in enumerate([(0, 0), (0, 128), (1, 255)]):
            image.putpixel((x, 0), value)
        options = PixelOptions()
        assert np.asarray(images._on_white(image, options))[0, :, 0].tolist() == expected
        return
    else:
        image, expected = Image.fromarray(grey[None]), [255, 255, 20]
        about = {"transparency": 10 if mode != "RGB" else (10, 10, 10)}
        if mode == "P":
            image = Image.fromarray(np.array([[0, 0, 1]], np.uint8))
            image.putpalette([10, 10, 10, 20, 20, 20])
            about = {"transparency": 0}
        image = image.convert(mode)
    content = file_of(image, kind, **about)
    assert decoded(content)[0].tolist() == [[value] * 3 for value in expected]
    assert decoded(content, pixels="legacy")[0, 2].tolist() == [20] * 3


@pytest.mark.parametrize(
    ("mode", "kind"), [("1", "png"), ("L", "jpeg"), ("P", "png"), ("CMYK", "jpeg"), ("RGB", "webp")]
)
def test_other_modes_are_as_pillow_converts_them(mode, kind):
    image = noise(9, 7).convert(mode)
    content = file_of(image, kind)
    assert Image.open(io.BytesIO(content)).mode == mode
    assert (decoded(content) == np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).all()
    assert (decoded(content) == decoded(content, pixels="legacy", exif="ignore")).all()


def test_a_mode_that_means_no_colours_is_refused_by_name():
    with pytest.raises(UserError, match=r"x.tar: image a: its mode is LAB, whose numbers mean no colours"):
        decoded(file_of(Image.new("LAB", (2, 2)), "tiff"))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((60_000, 2), r"is 60000 x 2 pixels, above data.max_image_side=8192; scale it down"),
        ((1, 1_000_000), r"is 1 x 1000000 pixels, above data.max_image_side=8192"),
        ((330, 10), r"is 330 x 10 pixels, above data.max_image_aspect=32"),
    ],
)
def test_images_beyond_the_limits(size, message):
    content = file_of(Image.new("1", size))
    with pytest.raises(UserError, match=message):
        decoded(content)
    with pytest.raises(UserError, match=r"above data.max_image_pixels=5;"):
        decoded(file_of(Image.new("1", (2, 3))), max_image_pixels=5)
    unlimited = {"max_image_side": 0, "max_image_aspect": 0, "max_image_pixels": 0}
    assert decoded(content, **unlimited).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("size", [(40, 27), (27, 40), (13, 13), (200, 3), (3, 199), (7, 14), (14, 6), (1, 90)])
@pytest.mark.parametrize("strip", [1, 500, 1 << 22])
def test_padding_in_strips_equals_padding_at_once(size, strip, monkeypatch):
    monkeypatch.setattr(images, "_STRIP", strip)
    image = noise(*size)
    whole = llava_square(image)
    for side in (7, 14, 60):
        expected = whole if whole.width == side else whole.resize((side, side), Image.Resampling.BICUBIC)
        assert (preprocess(image, side, "pad", MEAN) == np.asarray(expected)).all()


def test_a_long_image_takes_little_memory():
    pixels = preprocess(Image.new("RGB", (60_000, 2), (9, 9, 9)), 7, "pad", (1.0, 1.0, 1.0))
    assert pixels.shape == (7, 7, 3) and pixels[0].min() == 255


def test_unknown_choices():
    content = file_of(Image.new("L", (2, 2)))
    with pytest.raises(UserError, match=r"data.pixels='v3' is unknown; choose one of exact, legacy"):
        decoded(content, pixels="v3")
    with pytest.raises(UserError, match=r"data.exif='turn' is unknown; choose one of apply, ignore"):
        decoded(content, exif="turn")
    with pytest.raises(UserError, match=r"data.on_bad_sample='drop' is unknown; choose one of error, skip"):
        samples.options(on_bad_sample="drop")
    with pytest.raises(UserError, match=r"data.max_bad_share=1.5 must be a share of the scenes"):
        samples.options(max_bad_share=1.5)
    with pytest.raises(UserError, match=r"its EXIF data are damaged .*; data.exif=ignore"):
        decoded(file_of(noise(3, 3), exif=b"neither big nor little"))
