"""What a renderer gives back."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Rendering:
    """image: RGB. ids: int32 [H, W], `ObjectSpec.index + 1` of the object that a pixel shows, 0 where there is none."""

    image: Image.Image
    ids: np.ndarray

    def visible_pixels(self, num_objects: int) -> np.ndarray:
        """int [num_objects]: how many pixels show the object of each index."""
        return np.bincount(self.ids.ravel(), minlength=num_objects + 1)[1 : num_objects + 1]
