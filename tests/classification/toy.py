"""Toy pictures of 20 classes.

``python -m tests.classification.toy FOLDER [NUMBER [SEED]]`` draws so many of each to
train on, and a fifth of them to hold out. A class is a colour and a pattern; its width,
its place, and tones are drawn.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    'red': (200, 60, 60),
    'green': (60, 180, 80),
    'blue': (60, 90, 200),
    'yellow': (210, 190, 60),
}
PATTERNS = ('plain', 'stripes', 'bars', 'checks', 'rings')
CLASSES = [f'{colour}_{pattern}' for colour in COLOURS for pattern in PATTERNS]


def draw(name: str, random: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw a picture of a class."""
    colour, pattern = name.split('_')
    width = random.uniform(3, 6)
    y, x = np.mgrid[:size, :size] + random.uniform(0, size, (2, 1, 1))
    rows, columns = y // width % 2, x // width % 2
    shown = {
        'plain': np.ones_like(x),
        'stripes': rows,
        'bars': columns,
        'checks': rows == columns,
        'rings': np.hypot(y - size, x - size) // width % 2,
    }[pattern]
    tone = np.array(COLOURS[colour]) + random.uniform(-30, 30, 3)
    ground = random.uniform(20, 90)
    picture = np.where(shown[..., None], tone, ground)
    picture += random.normal(0, 8, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def make_toy(
    folder, per_class: int = 2, seed: int = 0, splits=('train', 'val'), size: int = 64
):
    """Write pictures of each class into folders of classes, below those of splits."""
    random = np.random.default_rng(seed)
    for split in splits:
        for name in CLASSES:
            place = Path(folder) / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(per_class if split == 'train' else max(per_class // 5, 1)):
                draw(name, random, size).save(place / f'{i}.png')


if __name__ == '__main__':
    make_toy(sys.argv[1], *map(int, sys.argv[2:]))
