"""Pictures that Pillow reads, as classifiers are given them."""

from __future__ import annotations

import numpy as np
from PIL import Image

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
"""Of pictures that are read and written."""

DEEPEST = 2**16 - 1


def in_colours(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB.

    Of grey ones of 16 bits the upper 8 are taken, as OpenCV does for detectors; Pillow
    would make white of all above 255.
    """
    if picture.mode.startswith('I'):
        upper = np.asarray(picture).clip(0, DEEPEST) >> 8
        picture = Image.fromarray(upper.astype(np.uint8))
    return picture.convert('RGB')
