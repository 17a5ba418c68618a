"""Toy pictures of 20 classes: ``python -m tests.classification.toy FOLDER [NUMBER]``.

A class is a shape and how it is filled; place, size, turn and colours are drawn.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = {'triangle': 3, 'square': 4, 'hexagon': 6, 'disc': 40, 'star': 0}
FILLS = ('full', 'hollow', 'striped', 'dotted')
CLASSES = [f'{shape}_{fill}' for shape in SHAPES for fill in FILLS]


def outline(shape: str, radius: float, random: np.random.Generator) -> np.ndarray:
    """Corners of a shape around the origin, turned by chance, [N, 2]."""
    corners = SHAPES[shape] or 10
    radii = radius * np.where(SHAPES[shape] or np.arange(corners) % 2, 1.0, 0.4)
    angles = 2 * np.pi * (np.arange(corners) / corners + random.random())
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def draw(name: str, random: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw a picture of a class."""
    shape, fill = name.split('_')
    ground, colour = (tuple(random.integers(a, a + 100, 3)) for a in (0, 155))
    radius = size * random.uniform(0.3, 0.45)
    centre = random.uniform(radius, size - radius, 2)
    mask = Image.new('L', (size, size))
    pen = ImageDraw.Draw(mask)
    points = outline(shape, radius, random)
    corners = [tuple(point) for point in points + centre]
    pen.polygon(corners, fill=255)
    if fill == 'hollow':
        pen.polygon([tuple(point) for point in 0.6 * points + centre], fill=0)
    rows, columns = np.mgrid[:size, :size]
    holes = {
        'striped': rows % 10 < 5,
        'dotted': (rows % 10 < 5) & (columns % 10 < 5),
    }.get(fill)
    pixels = np.asarray(mask) > 0
    if holes is not None:
        pixels = pixels & ~holes
    picture = np.where(pixels[..., None], colour, ground)
    noise = random.normal(0, 8, picture.shape)
    return Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8))


def make_toy(folder, per_class: int = 2, splits=('train', 'val'), size: int = 64):
    """Write pictures of each class into folders of classes, below those of splits."""
    random = np.random.default_rng(0)
    for split in splits:
        for name in CLASSES:
            place = Path(folder) / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(per_class if split == 'train' else max(per_class // 5, 1)):
                draw(name, random, size).save(place / f'{i}.png')


if __name__ == '__main__':
    make_toy(sys.argv[1], *map(int, sys.argv[2:]))
