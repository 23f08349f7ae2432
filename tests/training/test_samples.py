"""The picture of a run's first rows."""

import numpy as np
from PIL import Image

from igllm_jax.data.pipeline import TrainPipeline
from igllm_jax.training.samples import SAMPLES_FILE, write_samples
from tests.data import samples
from tests.data.conftest import tiny  # noqa: F401  a fixture


def test_images_stand_beside_their_code(tmp_path, tiny):  # noqa: F811
    data = TrainPipeline([samples.clevr_set(tmp_path, count=5)], samples.options(), tiny, seed=0, batch_size=2)
    batch = data.batch(0)
    write_samples(tmp_path, batch, tiny)
    sheet = np.asarray(Image.open(tmp_path / SAMPLES_FILE))
    side = 7 * 48  # each pixel of the image is a square of 48
    np.testing.assert_array_equal(sheet[12 : 12 + side : 48, 12 : 12 + side : 48], batch.images[0])
    text = sheet[:, 12 + side + 1 :]
    assert (text[: len(text) // 2] < 128).any() and (text[len(text) // 2 :] < 128).any()  # beside both
