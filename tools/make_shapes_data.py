"""Draw pictures of simple shapes, annotated as COCO instances and ADE20K label maps.

The folder has the file layout of both data sets, so that a config written for COCO
or for ADE20K reads it with no change but its ``data_root`` (and its class names)::

    annotations/instances_{train,val}2017.json  boxes and polygons, category ids from 1
    {train,val}2017/000000000001.jpg            pictures
    images/{training,validation}                links to the pictures
    annotations/{training,validation}/*.png     label maps

A label map holds 1 for the background and ``1 + category id`` for a shape. 0 means
"unlabelled" in ADE20K and does not occur; with ``reduce_zero_label`` the class list is
``('background', *names)``. MMSegmentation's ``ADE20KDataset`` knows its own 150 names
only, of which the maps then use the first; ``BaseSegDataset`` takes any.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

DESCRIPTION = 'Shapes in the layout of COCO and ADE20K (make_shapes_data.py)'
VERSION = '1.0'  # raise it when the same settings come to draw other pictures

MIN_SIDE, MAX_SIDE = 32, 4096
MAX_OBJECTS = 100
# A label map has 254 values to give: 0 is unlabelled, and 255 means "ignore" once
# reduce_zero_label has run. One of them is the background.
MAX_CLASSES = 253

MIN_SCALE, MAX_SCALE = 1 / 7, 1 / 2  # of an object, in short sides of the picture
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


def _arc(start: float, stop: float, steps: int = 48) -> np.ndarray:
    """Points (steps, 2) of the unit circle between two angles in degrees."""
    angles = np.radians(np.linspace(start, stop, steps))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _circle() -> np.ndarray:
    return _arc(0, 360, 97)[:-1]


def _square() -> np.ndarray:
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]])


def _triangle() -> np.ndarray:
    return _arc(-90, 270, 4)[:-1]


def _star() -> np.ndarray:
    radii = np.tile([1, 0.45], 5)
    return _arc(-90, 270, 11)[:-1] * radii[:, None]


def _cross() -> np.ndarray:
    a, b = 0.33, 1
    quarter = np.array([[b, -a], [b, a], [a, a]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1)


def _crescent() -> np.ndarray:
    # The inner arc joins the tips of the outer one and passes through (-0.3, 0).
    tip = _arc(50, 50, 1)[0]
    centre = (1 - 0.3**2) / (2 * (0.3 + tip[0]))
    angle = np.degrees(np.arctan2(tip[1], tip[0] - centre))
    inner = _arc(360 - angle, angle) * (centre + 0.3) + [centre, 0]
    return np.concatenate([_arc(50, 310, 80), inner[1:-1]])


def _arrow() -> np.ndarray:
    upper = np.array([[-1, 0.24], [0.1, 0.24], [0.1, 0.7], [1, 0]])
    return np.concatenate([upper, upper[-2::-1] * [1, -1]])


def _unit(outline: np.ndarray) -> np.ndarray:
    """The outline about the origin, the longer side of its box being 1."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    return (outline - (low + high) / 2) / (high - low).max()


# None has a hole, which a COCO polygon cannot express.
SHAPES: dict[str, np.ndarray] = {
    'circle': _unit(_circle()),
    'square': _unit(_square()),
    'triangle': _unit(_triangle()),
    'star': _unit(_star()),
    'cross': _unit(_cross()),
    'heart': _unit(_heart()),
    'crescent': _unit(_crescent()),
    'arrow': _unit(_arrow()),
}

# Hue in degrees, saturation and value of HSV. Neighbours in the list differ most.
_HUES = {
    'red': 0,
    'blue': 222,
    'yellow': 52,
    'green': 130,
    'violet': 268,
    'orange': 27,
    'sky': 198,
    'pink': 330,
    'lime': 84,
    'magenta': 298,
    'teal': 172,
}
_TONES = {'': (0.74, 0.9), 'pale ': (0.36, 0.97), 'dark ': (0.78, 0.5)}
COLOURS: dict[str, tuple[float, float, float]] = {
    tone + hue: (_HUES[hue], *_TONES[tone]) for tone in _TONES for hue in _HUES
}


def class_names(count: int) -> tuple[str, ...]:
    """Names of ``count`` classes: of shapes, or of shapes in a colour.

    Raises:
        ValueError: If ``count`` is not between 1 and 253.
    """
    _check_range('the number of classes', count, 1, MAX_CLASSES)
    if count <= len(SHAPES):
        return tuple(SHAPES)[:count]
    names = [f'{colour} {shape}' for colour in COLOURS for shape in SHAPES]
    return tuple(names[:count])


def _check_range(what: str, value: int, low: int, high: int | None = None) -> None:
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
    names: tuple[str, ...] = class_names(5)
    seed: int = 0

    def __post_init__(self):
        _check_range('the number of training pictures', self.train, 1)
        _check_range('the number of validation pictures', self.val, 1)
        for name, side in zip(('width', 'height'), self.size, strict=True):
            _check_range(f'the {name} of a picture', side, MIN_SIDE, MAX_SIDE)
        low, high = self.objects
        _check_range('the most objects in a picture', high, 1, MAX_OBJECTS)
        _check_range('the least objects in a picture', low, 0, high)
        _check_range('the number of classes', len(self.names), 1, MAX_CLASSES)
        if not all(name.strip() for name in self.names):
            raise ValueError('a class name must not be empty')
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f'class names must differ, but {twice} occur repeatedly')
        _check_range('the seed', self.seed, 0)


# --- One picture


@dataclass
class PlacedObject:
    """An object of a scene: its class, its window and its area.

    ``window`` holds the slices (y, x) of the samples around the object, ``area`` the
    samples that the whole object covers, hidden and cropped ones included.
    """

    category_id: int
    window: tuple[slice, slice]
    area: float


@dataclass
class Scene:
    """What lies where in a picture, known at several samples per pixel.

    Attributes:
        size: Width and height in pixels.
        samples: Samples per pixel along each axis. Odd, so that one of them is the
            centre of the pixel.
        owner: Which object is visible at each sample, uint8 of shape
            (samples * height, samples * width): 0 is the background, ``k`` the
            ``k``-th object placed.
        objects: The objects, the first one at the bottom.
    """

    size: tuple[int, int]
    objects: list[PlacedObject] = field(default_factory=list)

    def __post_init__(self):
        width, height = self.size
        self.samples = 5 if max(self.size) <= 1024 else 3
        self.owner = np.zeros((height * self.samples, width * self.samples), np.uint8)

    def visible(self, k: int) -> np.ndarray:
        """Which samples in its window show the ``k``-th object, counted from 1."""
        return self.owner[self.objects[k - 1].window] == k

    def add(self, category_id: int, outline: np.ndarray) -> bool:
        """Lay an object on top, unless that spoils it or one below.

        Of each object at least half must stay visible, without a hole, and in parts
        none of which is a crumb.

        Args:
            category_id: Class of the object.
            outline: Corners (N, 2) of the object, x and y in pixels.

        Returns:
            Whether the object was placed; if not, the scene is as it was.
        """
        y, x = window = self._window(outline)
        view = self.owner[window]
        mask = _fill(outline * self.samples - [x.start, y.start], view.shape)
        before = view.copy()
        area = _polygon_area(outline) * self.samples**2
        self.objects.append(PlacedObject(category_id, window, area))
        view[mask] = len(self.objects)
        changed = {len(self.objects), *np.unique(before[mask]).tolist()} - {0}
        if all(map(self._acceptable, changed)):
            return True
        view[:] = before
        self.objects.pop()
        return False

    def labels(self) -> np.ndarray:
        """Label map, uint8 of shape (height, width), by what each centre shows."""
        values = [1, *(1 + placed.category_id for placed in self.objects)]
        centre = slice(self.samples // 2, None, self.samples)
        return np.array(values, np.uint8)[self.owner[centre, centre]]

    def polygons(self, k: int) -> list[np.ndarray]:
        """Outlines (N, 2), in pixels, of the visible parts of the ``k``-th object."""
        y, x = self.objects[k - 1].window
        start = np.array([x.start, y.start])
        contours, _ = _contours(self.visible(k))
        return [
            np.round((_simplify(contour) + start) / self.samples, 2)
            for contour in contours
        ]

    def _window(self, outline: np.ndarray) -> tuple[slice, slice]:
        # The margin leaves room for the shadow.
        low, high = outline.min(axis=0), outline.max(axis=0)
        margin = 2 + 0.2 * (high - low).max()
        starts = np.clip(np.floor(low - margin), 0, self.size).astype(int)
        stops = np.clip(np.ceil(high + margin), 0, self.size).astype(int)
        x, y = (
            slice(start * self.samples, stop * self.samples)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        )
        return y, x

    def _acceptable(self, k: int) -> bool:
        mask = self.visible(k)
        contours, has_hole = _contours(mask)
        areas = [cv2.contourArea(contour) for contour in contours]
        return (
            mask.sum() >= MIN_VISIBLE * self.objects[k - 1].area
            and min(areas) >= MIN_PART * sum(areas)
            and not has_hole
        )


def _fill(outline: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Mask of a shape (height, width) of the samples inside an outline (N, 2)."""
    mask = np.zeros(shape, np.uint8)
    bits = 4  # of fraction in the fixed-point coordinates
    points = np.round((outline - 0.5) * 2**bits).astype(np.int32)
    return cv2.fillPoly(mask, [points], 1, shift=bits).astype(bool)


def _contours(mask: np.ndarray) -> tuple[tuple[np.ndarray, ...], bool]:
    """Contours of a mask, along the edges of its samples, and whether it has a hole."""
    # OpenCV joins the centres of samples, half a sample inside the edge. Going over to
    # the corners of the samples makes the contour follow the edge itself.
    corners = np.pad(mask.view(np.uint8), ((0, 1), (0, 1)))
    corners = cv2.dilate(corners, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, hierarchy = cv2.findContours(
        corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    has_hole = hierarchy is not None and bool((hierarchy[0, :, 3] >= 0).any())
    return contours, has_hole


def _simplify(contour: np.ndarray) -> np.ndarray:
    """Fewer points (N, 2), within a sample or 0.1 % of the length of a contour."""
    tolerance = max(1.0, 0.001 * cv2.arcLength(contour, True))
    simple = cv2.approxPolyDP(contour, tolerance, True)
    return (simple if len(simple) >= 3 else contour).reshape(-1, 2)


def _polygon_area(points: np.ndarray) -> float:
    """Area by the shoelace formula of a polygon (N, 2)."""
    x, y = points.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _random_direction(rng: np.random.Generator) -> np.ndarray:
    """Cosine and sine of an angle."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _random_outline(
    rng: np.random.Generator, shape: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """A unit shape (N, 2) turned, scaled and placed somewhere in a picture."""
    scale = min(size) * np.exp(rng.uniform(np.log(MIN_SCALE), np.log(MAX_SCALE)))
    cos, sin = _random_direction(rng)
    margin = 0.3 * scale
    centre = rng.uniform([margin, margin], np.array(size) - margin)
    return scale * shape @ np.array([[cos, sin], [-sin, cos]]) + centre


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """Colour (3,) in 0..1 from a hue in degrees, a saturation and a value in 0..1."""
    hsv = np.array([[[hue % 360, saturation, value]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


def _appearance(category_id: int, classes: int) -> tuple[np.ndarray, tuple | None]:
    """Unit shape (N, 2) of a class, and its hue, saturation and value if fixed."""
    family, kind = divmod(category_id - 1, len(SHAPES))
    colour = list(COLOURS.values())[family] if classes > len(SHAPES) else None
    return list(SHAPES.values())[kind], colour


def _background(
    rng: np.random.Generator, hue: float, size: tuple[int, int]
) -> np.ndarray:
    """A quiet gradient between two near hues, with soft blotches; (H, W, 3) in 0..1."""
    width, height = size
    if rng.random() < 0.6:
        saturation, value = rng.uniform(0.06, 0.2), rng.uniform(0.86, 0.97)
    else:
        hue = 180 + hue / 3  # a warm hue turns to mud when dark
        saturation, value = rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.32)
    start = _bgr(hue, saturation, value)
    stop = _bgr(hue + rng.uniform(-40, 40), saturation * 1.2, value * 0.85)
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    cos, sin = _random_direction(rng)
    ramp = ((cos * x + sin * y) / 3 + 0.5).astype(np.float32)[..., None]
    blotches = np.zeros((height, width), np.float32)
    for cells, strength in ((3, 0.035), (7, 0.02), (16, 0.01)):
        grid = rng.normal(0, strength, (cells, cells)).astype(np.float32)
        blotches += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return (start + (stop - start) * ramp) * (1 + blotches[..., None])


def _cast_shadow(view: np.ndarray, whole: np.ndarray, scale: float) -> None:
    """Darken a view (H, W, 3) to the lower right of an object of coverage (H, W)."""
    size = whole.shape[::-1]
    shift = np.array([[1, 0, 0.04 * scale], [0, 1, 0.06 * scale]])
    shadow = cv2.warpAffine(whole, shift, size)
    width = 2 * round(0.05 * scale) + 1
    for _ in range(2):  # two boxes make a tent, and cost the same at any width
        shadow = cv2.blur(shadow, (width, width))
    view *= 1 - 0.35 * shadow[..., None]


def _paint(
    image: np.ndarray, scene: Scene, outline: np.ndarray, colour: np.ndarray
) -> None:
    """Paint the top object of a scene, whose outline is given, in place."""
    n = scene.samples
    y, x = (slice(s.start // n, s.stop // n) for s in scene.objects[-1].window)
    view = image[y, x]

    def coverage(mask: np.ndarray) -> np.ndarray:
        samples = mask.astype(np.float32)
        return cv2.resize(samples, view.shape[1::-1], interpolation=cv2.INTER_AREA)

    scale = np.ptp(outline, axis=0).max()
    mask = scene.visible(len(scene.objects))
    depth = cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 5)
    whole, inside = coverage(mask), coverage(depth > max(0.025 * scale * n, 1))
    _cast_shadow(view, whole, scale)
    right, down = outline.mean(axis=0)
    towards_light = np.add.outer(
        down - np.arange(y.start, y.stop), right - np.arange(x.start, x.stop)
    )
    shade = (1 + 0.2 * towards_light / scale) * (0.68 + 0.32 * inside)
    view += whole[..., None] * (colour * shade[..., None].astype(np.float32) - view)


def draw_picture(
    rng: np.random.Generator,
    size: tuple[int, int],
    classes: int,
    category_ids: list[int],
) -> tuple[np.ndarray, Scene, list[int]]:
    """Draw one picture.

    Args:
        rng: Random numbers.
        size: Width and height in pixels.
        classes: Number of classes in the data set.
        category_ids: Class, from 1, of each object wanted, the first at the bottom.

    Returns:
        The picture, uint8 BGR of shape (height, width, 3); its scene; and the classes
        of the objects for which there was no room.
    """
    theme = rng.uniform(0, 360)
    image = _background(rng, theme, size)
    scene = Scene(size)
    left_out = []
    for index, category_id in enumerate(category_ids):
        shape, colour = _appearance(category_id, classes)
        if colour is None:
            # Steps of the golden angle keep the hues of a picture apart.
            hue = theme + 60 + 137.5 * index + rng.uniform(-20, 20)
            colour = hue, rng.uniform(0.5, 0.75), rng.uniform(0.72, 0.95)
        for _ in range(TRIES):
            outline = _random_outline(rng, shape, size)
            if scene.add(category_id, outline):
                _paint(image, scene, outline, _bgr(*colour))
                break
        else:
            left_out.append(category_id)
    grain = rng.standard_normal(image.shape, np.float32)
    image = np.clip(255 * image + 3 * grain, 0, 255).astype(np.uint8)
    return image, scene, left_out


# --- The data set


def draw_split(
    settings: Settings, split: str
) -> Iterator[tuple[int, np.ndarray, Scene]]:
    """Yield the id, the picture (uint8 BGR) and the scene of each of a split."""
    key = (settings.seed, list(SPLITS).index(split))
    classes = len(settings.names)
    # The classes come from shuffled decks dealt out one after another, so that each
    # occurs as soon as there are as many objects as classes.
    deck_rng = np.random.default_rng((*key, 0))
    deck: list[int] = []
    low, high = settings.objects
    for image_id in range(1, getattr(settings, split) + 1):
        rng = np.random.default_rng((*key, image_id))
        wanted = int(rng.integers(low, high + 1))
        while len(deck) < wanted:
            deck += (1 + deck_rng.permutation(classes)).tolist()
        image, scene, left_out = draw_picture(
            rng, settings.size, classes, deck[:wanted]
        )
        deck = left_out + deck[wanted:]
        yield image_id, image, scene


def _annotations(scene: Scene, image_id: int) -> Iterator[dict]:
    """Yield the COCO annotations of a scene, without their ids."""
    for k, placed in enumerate(scene.objects, start=1):
        polygons = scene.polygons(k)
        corners = np.concatenate(polygons)
        low, high = corners.min(axis=0), corners.max(axis=0)
        yield dict(
            image_id=image_id,
            category_id=placed.category_id,
            bbox=np.round([*low, *(high - low)], 2).tolist(),
            area=round(sum(map(_polygon_area, polygons)), 4),
            segmentation=[polygon.ravel().tolist() for polygon in polygons],
            iscrowd=0,
        )


def _write(path: Path, image: np.ndarray, options: tuple[int, ...] = ()) -> None:
    _, data = cv2.imencode(path.suffix, image, options)
    path.write_bytes(data)


def _link(link: Path, target: Path) -> None:
    """Make a relative link, or a copy where the file system has no links."""
    link.parent.mkdir(exist_ok=True)
    try:
        link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    except (OSError, NotImplementedError):
        shutil.copytree(target, link)


def _write_split(
    root: Path, split: str, settings: Settings, info: dict, progress: tqdm
) -> None:
    """Write the pictures, the label maps and the annotations of a split."""
    coco, ade = SPLITS[split]
    pictures, labels = root / coco, root / 'annotations' / ade
    pictures.mkdir()
    labels.mkdir(parents=True)
    width, height = settings.size
    images, annotations = [], []
    for image_id, image, scene in draw_split(settings, split):
        picture = pictures / f'{image_id:012}.jpg'
        _write(picture, image, JPEG_OPTIONS)
        _write(labels / f'{image_id:012}.png', scene.labels())
        images.append(
            dict(id=image_id, file_name=picture.name, width=width, height=height)
        )
        for annotation in _annotations(scene, image_id):
            annotations.append(dict(id=len(annotations) + 1, **annotation))
        progress.update()
    categories = [
        dict(id=category_id, name=name, supercategory='shape')
        for category_id, name in enumerate(settings.names, start=1)
    ]
    data = dict(
        info=info,
        licenses=[],
        images=images,
        annotations=annotations,
        categories=categories,
    )
    (root / _json_name(split)).write_text(json.dumps(data), encoding='utf-8')
    _link(root / 'images' / ade, pictures)


def _json_name(split: str) -> str:
    return f'annotations/instances_{SPLITS[split][0]}.json'


def _info(settings: Settings) -> dict:
    info = dict(description=DESCRIPTION, version=VERSION, settings=asdict(settings))
    return json.loads(json.dumps(info))  # tuples become lists, as when read back


def _read_info(root: Path) -> dict | None:
    """The ``info`` of a data set of ours, None of anything else."""
    try:
        text = (root / _json_name('val')).read_text(encoding='utf-8')
        info = json.loads(text)['info']
        return info if info['description'] == DESCRIPTION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file_names(settings: dict) -> set[str]:
    """Relative names of all files of a data set, links followed."""
    names = set()
    for split, (coco, ade) in SPLITS.items():
        names.add(_json_name(split))
        for image_id in range(1, settings[split] + 1):
            stem = f'{image_id:012}'
            names |= {f'{coco}/{stem}.jpg', f'images/{ade}/{stem}.jpg'}
            names.add(f'annotations/{ade}/{stem}.png')
    return names


def _refuse_foreign(root: Path) -> None:
    """Raise FileExistsError if a folder holds a file that this module did not write."""
    if not root.exists():
        return
    if not root.is_dir():
        raise FileExistsError(f'{root} is a file; name a folder')
    info = _read_info(root)
    ours = _file_names(info['settings']) if info else set()
    files = (p.relative_to(root).as_posix() for p in root.rglob('*') if p.is_file())
    foreign = sorted(set(files) - ours)
    if foreign:
        raise FileExistsError(
            f'{root} holds files that are not of this tool, such as {foreign[0]}; '
            'name a new folder, an empty one, or one that this tool has filled'
        )


def is_up_to_date(out: str | Path, settings: Settings) -> bool:
    """Whether a folder holds all files of exactly these settings."""
    names = _file_names(asdict(settings))
    return _read_info(Path(out)) == _info(settings) and all(
        (Path(out) / name).is_file() for name in names
    )


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
    if is_up_to_date(out, settings):
        return False
    _refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Work beside the folder and swap at the end: an interrupted run leaves no folder
    # that could be mistaken for a complete one.
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as work:
        new, old = Path(work, 'new'), Path(work, 'old')
        new.mkdir()
        with tqdm(total=settings.train + settings.val, unit='img', disable=None) as bar:
            for split in SPLITS:
                _write_split(new, split, settings, _info(settings), bar)
        if out.exists():
            out.rename(old)
        new.rename(out)
    return True


# --- Command line


def _pair(text: str, separator: str, example: str) -> tuple[int, int]:
    """Two whole numbers about a separator; a single number stands for both."""
    numbers = text.split(separator)
    if len(numbers) > 2 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise argparse.ArgumentTypeError(f'{text!r} is not like {example}')
    return int(numbers[0]), int(numbers[-1])


def _size(text: str) -> tuple[int, int]:
    return _pair(text.lower(), 'x', '160 or 192x128')


def _range(text: str) -> tuple[int, int]:
    return _pair(text, '-', '3 or 1-5')


def build_parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of ``Settings``."""
    default = Settings()
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description='Draw pictures of shapes, annotated in the layout of COCO '
        '(instances) and of ADE20K (label maps) at once.',
    )
    add = parser.add_argument
    add('out', metavar='OUT', help='folder to make; must be new, empty or made by this')
    add(
        '--train',
        type=int,
        default=default.train,
        metavar='N',
        help='number of training pictures (default: %(default)s)',
    )
    add(
        '--val',
        type=int,
        default=default.val,
        metavar='N',
        help='number of validation pictures, at least 1 (default: %(default)s)',
    )
    add(
        '--size',
        type=_size,
        default=default.size,
        metavar='N or WxH',
        help=f'side, or width and height, in pixels, {MIN_SIDE} to {MAX_SIDE} each '
        f'(default: {"x".join(map(str, default.size))})',
    )
    add(
        '--objects',
        type=_range,
        default=default.objects,
        metavar='MIN-MAX',
        help=f'objects per picture, at most {MAX_OBJECTS}; fewer where there is no '
        f'room for more (default: {"-".join(map(str, default.objects))})',
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        '--classes',
        type=int,
        default=len(default.names),
        metavar='N',
        help=f'number of classes, at most {MAX_CLASSES}: up to {len(SHAPES)} differ '
        'in shape, more in shape and colour (default: %(default)s)',
    )
    classes.add_argument(
        '--class-names',
        nargs='+',
        metavar='NAME',
        help=f'names for the classes (default: {" ".join(default.names)})',
    )
    add(
        '--seed',
        type=int,
        default=default.seed,
        metavar='N',
        help='the same seed gives the same files (default: %(default)s)',
    )
    return parser


def _report(out: Path, settings: Settings) -> str:
    objects = {}
    for split in SPLITS:
        data = json.loads((out / _json_name(split)).read_text(encoding='utf-8'))
        objects[split] = len(data['annotations'])
    width, height = settings.size
    names = ', '.join(settings.names[:8])
    if len(settings.names) > 8:
        names += ', ...'
    return (
        f'  train: {settings.train} pictures, {objects["train"]} objects; '
        f'val: {settings.val} pictures, {objects["val"]} objects; {width}x{height}\n'
        f'  classes ({len(settings.names)}): {names}'
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exit with 2 and a message if it asks the impossible."""
    parser = build_parser()
    args = parser.parse_args(argv)
    out = Path(args.out)
    try:
        settings = Settings(
            train=args.train,
            val=args.val,
            size=args.size,
            objects=args.objects,
            names=tuple(args.class_names or class_names(args.classes)),
            seed=args.seed,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        written = make_shapes(out, settings)
    except OSError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, f'{parser.prog}: stopped: {out} is as it was\n')
    print(f'{out} written' if written else f'{out} is up to date')
    print(_report(out, settings))


if __name__ == '__main__':
    main()
