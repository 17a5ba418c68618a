#!/usr/bin/env python
"""Draw pictures of simple shapes, annotated as COCO instances and ADE20K label maps.

The folder has the file layout of both data sets, so that a config written for COCO
or for ADE20K reads it with no change but its ``data_root`` (and its class names)::

    annotations/instances_{train,val}2017.json  boxes and masks, category ids from 1
    {train,val}2017/000000000001.jpg            pictures
    images/{training,validation}                links to the pictures
    annotations/{training,validation}/*.png     label maps

Masks are run-length encodings, and agree with the label maps to the pixel. A label map
holds 1 for the background and ``1 + category id`` for a shape. 0 means "unlabelled" in
ADE20K and does not occur; with ``reduce_zero_label`` the class list is
``('background', *names)``. MMSegmentation's ``ADE20KDataset`` knows its own 150 names
only, of which the maps then use the first; ``BaseSegDataset`` takes any.
"""

import argparse
import json
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mmrecnext_autoload.arguments import command_line
from mmrecnext_autoload.signals import termination

DESCRIPTION = 'Shapes in the layout of COCO and ADE20K (make_shapes_data.py)'
VERSION = '2.0'  # raise it when the same settings come to draw other pictures

MIN_SIDE, MAX_SIDE = 32, 4096
MAX_OBJECTS = 100
# A label map has 254 values to give: 0 is unlabelled, and 255 means "ignore" once
# reduce_zero_label has run. One of them is the background.
MAX_CLASSES = 253

SAMPLES = 4  # per pixel and axis, of which the coverage of a pixel is told
MIN_VISIBLE = 0.5  # of the area of an object
MIN_PART = 0.05  # of what is visible, for each of its parts: no crumbs
TRIES = 20  # to find a place for an object

# Colours at full resolution, or they would bleed over the edges of small objects.
JPEG_OPTIONS = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)

SPLITS = {'train': ('train2017', 'training'), 'val': ('val2017', 'validation')}


# --- Classes: one shape each, or a shape and a colour where shapes run out


def _arc(start: float, stop: float, steps: int) -> np.ndarray:
    """Points of the unit circle, as complex numbers, from one degree to another."""
    return np.exp(1j * np.radians(np.linspace(start, stop, steps)))


def _heart() -> np.ndarray:
    z = _arc(0, 360, 97)[:-1]
    height = 13 * z - 5 * z**2 - 2 * z**3 - z**4
    return 16 * z.imag**3 - 1j * height.real


def _crescent() -> np.ndarray:
    # The inner arc joins the tips of the outer one and passes through -0.3.
    outer = _arc(50, 310, 80)
    centre = (1 - 0.3**2) / (2 * (0.3 + outer[0].real))
    angle = np.angle(outer[0] - centre, deg=True)
    inner = centre + (centre + 0.3) * _arc(360 - angle, angle, 48)
    return np.concatenate([outer, inner[1:-1]])


def _unit(outline: np.ndarray) -> np.ndarray:
    """Points (N, 2) of an outline about the origin, the longer side of its box 1."""
    points = np.stack([outline.real, outline.imag], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) / (high - low).max()


_ARROW = np.array([-1 + 0.24j, 0.1 + 0.24j, 0.1 + 0.7j, 1])  # its lower half
_ARM = np.array([1 - 0.33j, 1 + 0.33j, 0.33 + 0.33j])  # of a cross
SHAPES: dict[str, np.ndarray] = {
    'circle': _unit(_arc(0, 360, 97)[:-1]),
    'square': _unit(_arc(45, 315, 4)),
    'triangle': _unit(_arc(-90, 150, 3)),
    'star': _unit(_arc(-90, 234, 10) * np.tile([1, 0.45], 5)),
    'cross': _unit(np.outer(1j ** np.arange(4), _ARM).ravel()),
    'heart': _unit(_heart()),
    'crescent': _unit(_crescent()),
    'arrow': _unit(np.concatenate([_ARROW, _ARROW[-2::-1].conj()])),
}

# Hue in degrees, saturation and value of HSV. Neighbours in the list differ most.
_HUES = dict(red=0, blue=222, yellow=52, green=130, violet=268, orange=27, sky=198)
_HUES |= dict(pink=330, lime=84, magenta=298, teal=172)
_TONES = {'': (0.74, 0.9), 'pale ': (0.36, 0.97), 'dark ': (0.78, 0.5)}
COLOURS: dict[str, tuple[float, float, float]] = {
    tone + hue: (_HUES[hue], *_TONES[tone]) for tone in _TONES for hue in _HUES
}


def class_names(count: int) -> tuple[str, ...]:
    """Names of ``count`` classes: of shapes, or of shapes in a colour.

    Raises:
        ValueError: If ``count`` is not between 1 and 253.
    """
    check_range('the number of classes', count, 1, MAX_CLASSES)
    if count <= len(SHAPES):
        return tuple(SHAPES)[:count]
    names = [f'{colour} {shape}' for colour in COLOURS for shape in SHAPES]
    return tuple(names[:count])


def check_range(what: str, value: int, low: int, high: int | None = None):
    """Refuse, by a ``ValueError``, a number that is not from ``low`` to ``high``."""
    if value < low or (high is not None and value > high):
        bounds = f'at least {low}' if high is None else f'{low} to {high}'
        raise ValueError(f'{what} must be {bounds}, not {value}')


@dataclass(frozen=True)
class Settings:
    """All that decides the bytes that are written.

    Attributes:
        train: Number of training pictures.
        val: Number of validation pictures.
        size: Width and height of a picture in pixels, each 32 to 4096.
        objects: Least and most objects that a picture is given, 0 to 100. It may hold
            fewer than the least where there was no room for them.
        sides: Length of the smallest and of the largest object, in percent of the
            shorter side of a picture, 5 to 90.
        names: Class names. They do not decide the looks: up to 8 classes differ in
            shape alone and have any colour, more differ in shape and colour.
        seed: Seed of the random numbers, from 0.

    Raises:
        ValueError: If a value is impossible.
    """

    train: int = 200
    val: int = 40
    size: tuple[int, int] = (160, 160)
    objects: tuple[int, int] = (1, 5)
    sides: tuple[int, int] = (14, 50)
    names: tuple[str, ...] = class_names(5)
    seed: int = 0

    def __post_init__(self):
        low, high = self.objects
        for what, *bounds in (
            ('the number of training pictures', self.train, 1),
            ('the number of validation pictures', self.val, 1),
            ('the width of a picture', self.size[0], MIN_SIDE, MAX_SIDE),
            ('the height of a picture', self.size[1], MIN_SIDE, MAX_SIDE),
            ('the most objects in a picture', high, 1, MAX_OBJECTS),
            ('the least objects in a picture', low, 0, high),
            ('the largest object in percent', self.sides[1], 5, 90),
            ('the smallest object in percent', self.sides[0], 5, self.sides[1]),
            ('the number of classes', len(self.names), 1, MAX_CLASSES),
            ('the seed', self.seed, 0),
        ):
            check_range(what, *bounds)
        if not all(name.strip() for name in self.names):
            raise ValueError('a class name must not be empty')
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f'class names must differ, but {twice} occur repeatedly')


# --- One picture


@dataclass
class PlacedObject:
    """An object of a scene.

    Attributes:
        category_id: Its class.
        window: Slices (y, x) of the pixels around it, its shadow included.
        area: Of the whole object in pixels, what is hidden or cropped included.
    """

    category_id: int
    window: tuple[slice, slice]
    area: float


class Scene:
    """What lies where in a picture.

    Attributes:
        owner: Which object is visible at each pixel, uint8 of shape (height, width):
            0 is the background, ``k`` the ``k``-th object placed.
        objects: The objects, the first one at the bottom.
    """

    def __init__(self, size: tuple[int, int]):
        self.owner = np.zeros(size[::-1], np.uint8)
        self.objects: list[PlacedObject] = []

    def add(self, category_id: int, outline: np.ndarray) -> np.ndarray | None:
        """Lay an object on top, unless that spoils it or one below.

        Of each object at least half must stay visible, in parts none of which is a
        crumb.

        Args:
            category_id: Class of the object.
            outline: Corners (N, 2) of the object, x and y in pixels.

        Returns:
            How much of each pixel in its window the object covers, float32 in 0..1, or
            None if it was not placed; the scene is then as it was.
        """
        # The margin leaves room for the shadow, which falls to the lower right.
        low, high = outline.min(axis=0), outline.max(axis=0)
        scale, size = (high - low).max(), self.owner.shape[::-1]
        starts = np.clip(np.floor(low - 2 - 0.07 * scale), 0, size).astype(int)
        stops = np.clip(np.ceil(high + 2 + 0.17 * scale), 0, size).astype(int)
        window = tuple(map(slice, starts[::-1], stops[::-1]))
        cover = _coverage(outline - starts, stops - starts)

        view = self.owner[window]
        before = view.copy()
        mask = cover > 0.5
        area = cv2.contourArea(outline.astype(np.float32))
        self.objects.append(PlacedObject(category_id, window, area))
        view[mask] = len(self.objects)
        changed = {len(self.objects), *np.unique(before[mask]).tolist()} - {0}
        if all(map(self._acceptable, changed)):
            return cover
        view[:] = before
        self.objects.pop()
        return None

    def _acceptable(self, k: int) -> bool:
        visible = self.owner[self.objects[k - 1].window] == k
        stats = cv2.connectedComponentsWithStats(visible.view(np.uint8))[2]
        parts = stats[1:, cv2.CC_STAT_AREA]  # without the background
        least = max(MIN_VISIBLE * self.objects[k - 1].area, 1)
        return parts.sum() >= least and parts.min() >= MIN_PART * parts.sum()

    def labels(self) -> np.ndarray:
        """Label map, uint8 of shape (height, width)."""
        values = [1, *(1 + placed.category_id for placed in self.objects)]
        return np.array(values, np.uint8)[self.owner]

    def annotations(self) -> Iterator[dict]:
        """Yield what COCO says of each object, but for the ids of it and its image."""
        for k, placed in enumerate(self.objects, start=1):
            mask = np.asfortranarray(self.owner == k, np.uint8)
            code = coco_mask.encode(mask)
            yield dict(
                category_id=placed.category_id,
                bbox=coco_mask.toBbox(code).tolist(),
                area=int(coco_mask.area(code)),
                segmentation=dict(code, counts=code['counts'].decode('ascii')),
                iscrowd=0,
            )


def _coverage(outline: np.ndarray, size: np.ndarray) -> np.ndarray:
    """How much of each pixel an outline (N, 2) covers, float32 (height, width)."""
    width, height = size.tolist()
    fine = np.zeros((height * SAMPLES, width * SAMPLES), np.uint8)
    bits = 4  # of fraction in the fixed-point coordinates
    points = np.round((outline * SAMPLES - 0.5) * 2**bits).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=bits)
    cover = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return cover.astype(np.float32) / 255


def _random_direction(rng: np.random.Generator) -> np.ndarray:
    """Cosine and sine of an angle."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _random_outline(
    rng: np.random.Generator, shape: np.ndarray, settings: Settings
) -> np.ndarray:
    """A unit shape (N, 2) turned, scaled and placed somewhere in a picture."""
    size = settings.size
    scale = min(size) / 100 * np.exp(rng.uniform(*np.log(settings.sides)))
    cos, sin = _random_direction(rng)
    margin = 0.3 * scale
    centre = rng.uniform([margin, margin], np.array(size) - margin)
    return scale * shape @ np.array([[cos, sin], [-sin, cos]]) + centre


def bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """Colour (3,) in 0..1 from a hue in degrees, a saturation and a value in 0..1."""
    hsv = np.array([[[hue % 360, saturation, value]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


def _appearance(category_id: int, classes: int) -> tuple[np.ndarray, tuple | None]:
    """Unit shape (N, 2) of a class, and its hue, saturation and value if fixed."""
    family, kind = divmod(category_id - 1, len(SHAPES))
    colour = list(COLOURS.values())[family] if classes > len(SHAPES) else None
    return list(SHAPES.values())[kind], colour


def background(
    rng: np.random.Generator, hue: float, size: tuple[int, int]
) -> np.ndarray:
    """A quiet gradient between two near hues, with soft blotches; (3, H, W) in 0..1."""
    width, height = size
    if rng.random() < 0.6:
        saturation, value = rng.uniform(0.06, 0.2), rng.uniform(0.86, 0.97)
    else:
        hue = 180 + hue / 3  # a warm hue turns to mud when dark
        saturation, value = rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.32)
    start = bgr(hue, saturation, value)
    stop = bgr(hue + rng.uniform(-40, 40), saturation * 1.2, value * 0.85)
    cos, sin = _random_direction(rng) / 3
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    ramp = 0.5 + np.add.outer(sin * y, cos * x).astype(np.float32)
    light = np.ones((height, width), np.float32)
    for cells, strength in ((3, 0.035), (7, 0.02), (16, 0.01)):
        blotches = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        light += cv2.resize(blotches, size, interpolation=cv2.INTER_CUBIC)
    colours = zip(start, stop, strict=True)
    return np.stack(
        [(first + (last - first) * ramp) * light for first, last in colours]
    )


def _paint(
    image: np.ndarray,
    window: tuple[slice, slice],
    cover: np.ndarray,
    outline: np.ndarray,
    colour: np.ndarray,
):
    """Paint an object and its shadow in place, lit from the upper left.

    Args:
        image: Picture (3, H, W) in 0..1.
        window: The part of it around the object.
        cover: How much of each pixel there the object covers.
        outline: Corners (N, 2) of the object, in pixels of the picture.
        colour: BGR in 0..1.
    """
    scale = np.ptp(outline, axis=0).max()
    aside = np.array([[1, 0, 0.04 * scale], [0, 1, 0.06 * scale]])
    shadow = cv2.warpAffine(cover, aside, cover.shape[::-1])
    width = 2 * round(0.05 * scale) + 1
    for _ in range(2):  # two boxes make a tent, and cost the same at any width
        shadow = cv2.blur(shadow, (width, width))

    depth = cv2.distanceTransform((cover > 0.5).view(np.uint8), cv2.DIST_L2, 5)
    inside = np.clip(depth - 0.025 * scale, 0, 1)  # of a darker rim
    right, down = outline.mean(axis=0)
    y, x = (np.arange(s.start, s.stop) for s in window)
    towards_light = np.add.outer(down - y, right - x).astype(np.float32)
    shade = (1 + 0.2 / scale * towards_light) * (0.68 + 0.32 * inside)
    darker = 1 - 0.35 * shadow
    for plane, value in zip(image, colour, strict=True):
        view = plane[window]
        view *= darker
        view += cover * (value * shade - view)


def draw_picture(
    rng: np.random.Generator, settings: Settings, category_ids: list[int]
) -> tuple[np.ndarray, Scene, list[int]]:
    """Draw one picture.

    Args:
        rng: Random numbers.
        settings: Those of the data set.
        category_ids: Class, from 1, of each object wanted, the first at the bottom.

    Returns:
        The picture, uint8 BGR of shape (height, width, 3); its scene; and the classes
        of the objects for which there was no room.
    """
    theme = rng.uniform(0, 360)
    image = background(rng, theme, settings.size)
    scene = Scene(settings.size)
    left_out = []
    for index, category_id in enumerate(category_ids):
        shape, colour = _appearance(category_id, len(settings.names))
        if colour is None:
            # Steps of the golden angle keep the hues of a picture apart.
            hue = theme + 60 + 137.5 * index + rng.uniform(-20, 20)
            colour = hue, rng.uniform(0.5, 0.75), rng.uniform(0.72, 0.95)
        for _ in range(TRIES):
            outline = _random_outline(rng, shape, settings)
            if (cover := scene.add(category_id, outline)) is not None:
                _paint(image, scene.objects[-1].window, cover, outline, bgr(*colour))
                break
        else:
            left_out.append(category_id)
    image = 255 * image + 3 * rng.standard_normal(image.shape[1:], np.float32)
    return cv2.merge([*np.clip(image, 0, 255).astype(np.uint8)]), scene, left_out


# --- The data set


def draw_split(
    settings: Settings, split: str
) -> Iterator[tuple[int, np.ndarray, Scene]]:
    """Yield the id, the picture (uint8 BGR) and the scene of each of a split."""
    key = (settings.seed, list(SPLITS).index(split))
    # The classes come from shuffled decks dealt out one after another, so that each
    # occurs as soon as there are as many objects as classes.
    deck_rng = np.random.default_rng((*key, 0))
    deck: list[int] = []
    low, high = settings.objects
    for image_id in range(1, getattr(settings, split) + 1):
        rng = np.random.default_rng((*key, image_id))
        wanted = int(rng.integers(low, high + 1))
        while len(deck) < wanted:
            deck += (1 + deck_rng.permutation(len(settings.names))).tolist()
        image, scene, left = draw_picture(rng, settings, deck[:wanted])
        deck = left + deck[wanted:]
        yield image_id, image, scene


def write_picture(path: Path, image: np.ndarray, options: tuple[int, ...] = ()):
    """Write a picture of 8 bits in the format that its name ends in."""
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data)


def _link(link: Path, target: Path):
    """Make a relative link, or a copy where the file system has no links."""
    link.parent.mkdir(exist_ok=True)
    try:
        link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except (OSError, NotImplementedError):
        shutil.copytree(target, link)


def _json_file(root: Path, split: str) -> Path:
    return root / f'annotations/instances_{SPLITS[split][0]}.json'


def _write_split(root: Path, split: str, settings: Settings, progress: tqdm):
    """Write the pictures, the label maps and the annotations of a split."""
    coco, ade = SPLITS[split]
    pictures, labels = root / coco, root / 'annotations' / ade
    pictures.mkdir()
    labels.mkdir(parents=True)
    width, height = settings.size
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, image, scene in draw_split(settings, split):
        name = f'{image_id:012}'
        write_picture(pictures / f'{name}.jpg', image, JPEG_OPTIONS)
        write_picture(labels / f'{name}.png', scene.labels())
        images.append(
            dict(id=image_id, file_name=f'{name}.jpg', width=width, height=height)
        )
        for annotation in scene.annotations():
            ids = dict(id=len(annotations) + 1, image_id=image_id)
            annotations.append(ids | annotation)
        progress.update()
    names = enumerate(settings.names, start=1)
    data = dict(
        info=_info(settings),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[dict(id=k, name=name, supercategory='shape') for k, name in names],
    )
    _json_file(root, split).write_text(json.dumps(data), encoding='utf-8')
    _link(root / 'images' / ade, pictures)


def _info(settings: Settings) -> dict:
    info = dict(description=DESCRIPTION, version=VERSION, settings=asdict(settings))
    return json.loads(json.dumps(info))  # tuples become lists, as when read back


def read_info(file: Path, description: str) -> dict | None:
    """The ``info`` of annotations of that description, None of anything else."""
    try:
        info = json.loads(file.read_text(encoding='utf-8'))['info']
        return info if info['description'] == description else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(root: Path, info: dict | None) -> set[Path]:
    """All files of a data set of ours, links followed."""
    files = set()
    for split, (coco, ade) in SPLITS.items() if info else ():
        files.add(_json_file(root, split))
        for image_id in range(1, info['settings'][split] + 1):
            name = f'{image_id:012}'
            files |= {
                root / coco / f'{name}.jpg',
                root / 'images' / ade / f'{name}.jpg',
            }
            files.add(root / 'annotations' / ade / f'{name}.png')
    return files


def make_shapes(out: str | Path, settings: Settings | None = None) -> bool:
    """Fill a folder with a data set, all of it or nothing.

    Args:
        out: Folder to make. It may exist if it is empty or was filled by this function.
        settings: What to draw, by default ``Settings()``.

    Returns:
        Whether anything was written; False if the folder was up to date.

    Raises:
        FileExistsError: If ``out`` is a file or holds files of other origin.
    """
    settings = settings or Settings()
    out = Path(out).resolve()
    info = read_info(_json_file(out, 'val'), DESCRIPTION)
    ours = _files(out, info)
    if info == _info(settings) and all(file.is_file() for file in ours):
        return False

    def write(root: Path):
        with tqdm(total=settings.train + settings.val, unit='img', disable=None) as bar:
            for split in SPLITS:
                _write_split(root, split, settings, bar)

    fill_folder(out, ours, write)
    return True


def fill_folder(out: Path, ours: set[Path], write: Callable[[Path], None]):
    """Put a new folder in the place of one, or of nothing, when it is complete.

    Args:
        out: the folder, an absolute path.
        ours: files in it that may go.
        write: fills the empty folder that it is given.

    Raises:
        FileExistsError: If ``out`` is a file or holds other files.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is a file; name a folder')
    foreign = sorted(
        file for file in out.rglob('*') if file.is_file() and file not in ours
    )
    if foreign:
        raise FileExistsError(
            f'{out} holds files that are not of this tool, such as '
            f'{foreign[0].relative_to(out).as_posix()}; name a new folder, an empty '
            'one, or one that this tool has filled'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Work beside the folder and swap at the end: an interrupted run leaves no folder
    # that could be mistaken for a complete one.
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as work:
        new, old = Path(work, 'new'), Path(work, 'old')
        new.mkdir()
        write(new)
        if out.exists():
            out.rename(old)
        new.rename(out)


# --- Command line


def pair(text: str, separator: str, example: str) -> tuple[int, int]:
    """Two whole numbers about a separator; a single number stands for both."""
    numbers = text.lower().split(separator)
    if len(numbers) > 2 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise argparse.ArgumentTypeError(f'{text!r} is not like {example}')
    return int(numbers[0]), int(numbers[-1])


def build_parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of ``Settings``."""
    parser = command_line(
        'Draw pictures of shapes, annotated in the layout of COCO\n'
        '(instances) and of ADE20K (label maps) at once.',
        'python tools/make_shapes_data.py data/shapes --size 320 --train 1000 --val 60',
    )
    default = Settings()
    size = partial(pair, separator='x', example='160 or 192x128')
    span = partial(pair, separator='-', example='3 or 1-5')
    classes = parser.add_mutually_exclusive_group()

    def add(name, kind, initial, metavar, text, to=parser):
        text += ' (default: %(default)s)'
        to.add_argument(name, type=kind, default=initial, metavar=metavar, help=text)

    parser.add_argument(
        'out', metavar='OUT', help='folder to make; must be new, empty or made by this'
    )
    add('--train', int, default.train, 'N', 'number of training pictures')
    add('--val', int, default.val, 'N', 'number of validation pictures, at least 1')
    add(
        '--size',
        size,
        'x'.join(map(str, default.size)),
        'N or WxH',
        f'side, or width and height, in pixels, {MIN_SIDE} to {MAX_SIDE} each',
    )
    add(
        '--objects',
        span,
        '-'.join(map(str, default.objects)),
        'MIN-MAX',
        f'objects per picture, at most {MAX_OBJECTS}; fewer where there is no room for '
        'more',
    )
    add(
        '--sides',
        span,
        '-'.join(map(str, default.sides)),
        'MIN-MAX',
        'length of the objects, in percent of the shorter side of a picture, 5 to 90',
    )
    add(
        '--classes',
        int,
        len(default.names),
        'N',
        f'number of classes, at most {MAX_CLASSES}: up to {len(SHAPES)} differ in '
        'shape, more in shape and colour',
        classes,
    )
    classes.add_argument(
        '--class-names',
        nargs='+',
        metavar='NAME',
        help=f'names for the classes (default: {" ".join(default.names)})',
    )
    add('--seed', int, default.seed, 'N', 'the same seed gives the same files')
    return parser


def _report(out: Path, settings: Settings) -> str:
    counts = []
    for split in SPLITS:
        data = json.loads(_json_file(out, split).read_text(encoding='utf-8'))
        pictures, objects = len(data['images']), len(data['annotations'])
        counts.append(f'{split}: {pictures} pictures, {objects} objects')
    width, height = settings.size
    names = ', '.join(settings.names[:8]) + ', ...' * (len(settings.names) > 8)
    return (
        f'  {"; ".join(counts)}; {width}x{height}\n'
        f'  classes ({len(settings.names)}): {names}'
    )


def main(argv: list[str] | None = None):
    """Run the command line; exit with 2 and a message if it asks the impossible."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    out, debug = Path(options.pop('out')), options.pop('debug', False)
    names, count = options.pop('class_names'), options.pop('classes')
    try:
        settings = Settings(**options, names=tuple(names or class_names(count)))
    except ValueError as error:
        parser.error(str(error))
    run(parser, out, partial(make_shapes, out, settings), debug)
    print(_report(out, settings))


def run(
    parser: argparse.ArgumentParser, out: Path, make: Callable[[], bool], debug: bool
):
    """Make a data set, and say whether it was made or is up to date."""
    try:
        with termination.answered():
            written = make()
    except OSError as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, FileExistsError | NotADirectoryError):
            parser.error(str(error))  # another folder is to be named
        reason = error.strerror or error
        parser.exit(1, f'{parser.prog}: error: {out} cannot be made: {reason}\n')
    except KeyboardInterrupt:
        status = 128 + (termination.arrived or signal.SIGINT)
        parser.exit(status, f'{parser.prog}: stopped: {out} is as it was\n')
    print(f'{out} written' if written else f'{out} is up to date')


if __name__ == '__main__':
    main()
