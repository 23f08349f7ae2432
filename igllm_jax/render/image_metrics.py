"""How alike two pictures are, and how far their objects cover each other: scores of `igllm evaluate --renders`."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from igllm_jax.scene.measures import Measure

MOST_PSNR = 100.0  # of equal pictures, whose noise has no logarithm
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # pixels: an 11 x 11 window
SSIM_K1, SSIM_K2 = 0.01, 0.03
LUMA = (0.299, 0.587, 0.114)  # Source: ITU-R BT.601

IMAGE_METRICS: dict[str, Measure] = {
    "psnr": Measure("prediction drawn against truth drawn: peak signal to noise (dB)", 2),
    "ssim": Measure("prediction drawn against truth drawn: structural similarity", 4),
    "psnr_input": Measure("prediction drawn against the image itself: peak signal to noise (dB)", 2),
    "ssim_input": Measure("prediction drawn against the image itself: structural similarity", 4),
    "iou_object": Measure("masks of matched objects: intersection over union (%)", 1),
    "iou_scene": Measure("masks of all objects together: intersection over union (%)", 1),
    "unseen": Measure("predicted objects that can't be seen in the drawing (%)", 1, is_better_low=True),
}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 pictures of one shape, in dB; at most MOST_PSNR.

    Source: 10 log10(255^2 / mean squared difference), over all pixels and channels.
    """
    squared = float(np.mean((one.astype(np.float64) - other) ** 2))
    return MOST_PSNR if squared == 0 else min(MOST_PSNR, 10 * float(np.log10(255.0**2 / squared)))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of the luma of two uint8 pictures [H, W, 3]: 1 for equal ones, about 0 for unlike ones.

    The mean over all windows that lie in the picture wholly; each side has at least 11 pixels.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
    similarity" (2004), equation 13, with its Gaussian window and constants.
    """
    a, b = (picture.astype(np.float64) @ LUMA for picture in (one, other))
    mean_a, mean_b = _windows(a), _windows(b)
    square_a, square_b = _windows(a * a) - mean_a**2, _windows(b * b) - mean_b**2
    product = _windows(a * b) - mean_a * mean_b
    c1, c2 = (SSIM_K1 * 255) ** 2, (SSIM_K2 * 255) ** 2
    values = (2 * mean_a * mean_b + c1) * (2 * product + c2)
    values /= (mean_a**2 + mean_b**2 + c1) * (square_a + square_b + c2)
    return float(values[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS].mean())


def _windows(values: np.ndarray) -> np.ndarray:
    return gaussian_filter(values, SSIM_SIGMA, radius=SSIM_RADIUS)


class Overlaps:
    """How many pixels show object i in one id mask and j in another (0 is no object), counted in one go.

    true, predicted: int32 [H, W], index + 1.
    """

    def __init__(self, true: np.ndarray, predicted: np.ndarray):
        width = int(predicted.max()) + 1
        counts = np.bincount(
            (true.astype(np.int64) * width + predicted).ravel(), minlength=(int(true.max()) + 1) * width
        )
        self._counts = counts.reshape(-1, width)
        self._true, self._predicted = self._counts.sum(axis=1), self._counts.sum(axis=0)

    def sizes(self, true: int, predicted: int) -> tuple[int, int, int]:
        """Pixels of the true object of that index, of the predicted one, and of both."""
        i, j = true + 1, predicted + 1
        has_true, has_predicted = i < len(self._true), j < len(self._predicted)
        both = int(self._counts[i, j]) if has_true and has_predicted else 0
        return int(self._true[i]) if has_true else 0, int(self._predicted[j]) if has_predicted else 0, both

    def iou(self, true: int, predicted: int) -> float | None:
        """Intersection over union of two objects, 0 to 1; None where neither can be seen."""
        a, b, both = self.sizes(true, predicted)
        return both / (a + b - both) if a + b else None

    def scene_iou(self) -> float | None:
        """Of everything that is an object against everything that is one; None where there is none on either side."""
        none = int(self._counts[0, 0])
        total = int(self._counts.sum())
        return float(self._counts[1:, 1:].sum() / (total - none)) if total > none else None

    def is_seen(self, predicted: int) -> bool:
        """Whether a predicted object shows anywhere."""
        return predicted + 1 < len(self._predicted) and bool(self._predicted[predicted + 1])


def compare_pictures(predicted: np.ndarray, true: np.ndarray, image: np.ndarray | None) -> dict[str, float]:
    """The scores of a scene's pictures, uint8 [H, W, 3]: metric -> value. image: the input, where it is at hand."""
    values = {"psnr": psnr(predicted, true), "ssim": ssim(predicted, true)}
    if image is not None:
        values |= {"psnr_input": psnr(predicted, image), "ssim_input": ssim(predicted, image)}
    return values


def compare_masks(overlaps: Overlaps, pairs: Sequence[tuple[int, int]], num_predicted: int) -> dict[str, float]:
    """The scores of a scene's masks: metric -> value. pairs: (index of true object, of predicted one), matched."""
    values: dict[str, float] = {}
    ious = [iou for true, predicted in pairs if (iou := overlaps.iou(true, predicted)) is not None]
    if ious:
        values["iou_object"] = 100 * sum(ious) / len(ious)
    scene = overlaps.scene_iou()
    if scene is not None:
        values["iou_scene"] = 100 * scene
    if num_predicted:
        unseen = sum(not overlaps.is_seen(index) for index in range(num_predicted))
        values["unseen"] = 100 * unseen / num_predicted
    return values
