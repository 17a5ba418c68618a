"""Toy pictures of 20 classes, or 8.

``python -m tests.classification.toy FOLDER`` draws pictures to train on, and a fifth of
them to hold out: of a colour and a pattern, whose width, place and tones are drawn, or
with ``--shapes`` of one of the shapes of ``tools/make_shapes_data.py`` in a colour, or
with ``--shapes any`` of its 8 shapes, in any colour.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tools.make_shapes_data import SHAPES, Settings, class_names, draw_picture

COLOURS = {
    'red': (200, 60, 60),
    'green': (60, 180, 80),
    'blue': (60, 90, 200),
    'yellow': (210, 190, 60),
}
PATTERNS = ('plain', 'stripes', 'bars', 'checks', 'rings')
CLASSES = [f'{colour}_{pattern}' for colour in COLOURS for pattern in PATTERNS]

Draw = Callable[[str, np.random.Generator, int], Image.Image]


def draw(name: str, random: np.random.Generator, size: int = 64) -> Image.Image:
    """Draw a pattern of a class."""
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


def draw_shape(
    name: str, random: np.random.Generator, size: int, names: tuple[str, ...]
) -> Image.Image:
    """Draw a picture with a few shapes of a class, so that any crop shows some."""
    settings = Settings(size=(size, size), sides=(30, 50), names=names)
    bgr, *_ = draw_picture(random, settings, [1 + names.index(name)] * 3)
    return Image.fromarray(bgr[..., ::-1])


def make_toy(
    folder,
    per_class: int = 2,
    seed: int = 0,
    splits=('train', 'val'),
    size: int = 64,
    names=CLASSES,
    draw: Draw = draw,
):
    """Write pictures of each class into folders of classes, below those of splits."""
    random = np.random.default_rng(seed)
    for split in splits:
        for name in names:
            place = Path(folder) / split / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(per_class if split == 'train' else max(per_class // 5, 1)):
                draw(name, random, size).save(place / f'{i}.png')


def main():
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', help='to draw into')
    parser.add_argument('--per-class', type=int, default=100, help='[%(default)s]')
    parser.add_argument('--seed', type=int, default=0, help='[%(default)s]')
    parser.add_argument('--size', type=int, default=64, help='[%(default)s]')
    parser.add_argument(
        '--shapes',
        choices=('coloured', 'any'),
        nargs='?',
        const='coloured',
        help='shapes, not patterns: of a colour, or of any',
    )
    args = parser.parse_args()
    names, how = CLASSES, draw
    if args.shapes:
        names = class_names(len(CLASSES if args.shapes == 'coloured' else SHAPES))
        how = partial(draw_shape, names=names)
    make_toy(
        args.folder, args.per_class, args.seed, size=args.size, names=names, draw=how
    )


if __name__ == '__main__':
    main()
