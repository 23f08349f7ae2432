"""Scores of pictures and masks: by hand, against a slow reading of the formula, and at their ends."""

import numpy as np
import pytest

from igllm_jax.render.image_metrics import MOST_PSNR, Overlaps, compare_masks, psnr, ssim


def noise(seed: int, height: int = 23, width: int = 29) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_psnr_by_hand() -> None:
    black, grey = np.zeros((5, 7, 3), np.uint8), np.full((5, 7, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))  # 255 / 51 = 5
    assert psnr(grey, grey) == MOST_PSNR
    one = black.copy()
    one[0, 0, 0] = 255
    assert psnr(black, one) == pytest.approx(10 * np.log10(5 * 7 * 3))


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    a, b = (np.full((11, 13, 3), level, np.uint8) for level in (60, 90))
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 60 * 90 + c1) / (60**2 + 90**2 + c1), abs=1e-9)


def test_ssim_against_the_formula_window_by_window() -> None:
    one, other = noise(0), noise(1) // 2 + noise(0) // 2
    a, b = (picture.astype(float) @ (0.299, 0.587, 0.114) for picture in (one, other))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for y in range(5, 18):
        for x in range(5, 24):
            p, q = (c[y - 5 : y + 6, x - 5 : x + 6] for c in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            both = (window * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(one, other) == pytest.approx(np.mean(values), abs=1e-9)
    assert ssim(one, one) == pytest.approx(1) and abs(ssim(one, noise(2))) < 0.1


def test_masks_by_hand() -> None:
    true = np.array([[1, 1, 0, 0], [1, 1, 0, 2]], np.int32)
    predicted = np.array([[0, 3, 3, 0], [0, 3, 3, 0]], np.int32)
    overlaps = Overlaps(true, predicted)
    assert overlaps.sizes(0, 2) == (4, 4, 2) and overlaps.iou(0, 2) == pytest.approx(2 / 6)
    assert overlaps.iou(1, 7) == 0 and overlaps.iou(5, 7) is None
    assert overlaps.scene_iou() == pytest.approx(2 / 7)
    assert [overlaps.is_seen(index) for index in range(4)] == [False, False, True, False]
    values = compare_masks(overlaps, [(0, 2), (1, 0), (5, 1)], num_predicted=3)
    assert values == pytest.approx({"iou_object": 100 / 6, "iou_scene": 200 / 7, "unseen": 200 / 3})
    nothing = np.zeros((2, 2), np.int32)
    assert compare_masks(Overlaps(nothing, nothing), [], 0) == {}
