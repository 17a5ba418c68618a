#!/usr/bin/env python
"""Draw pictures of stick figures, annotated as COCO annotates the joints of people.

The folder has the file layout of COCO, so that a config written for COCO's keypoints
reads it with no change but its ``data_root``::

    annotations/person_keypoints_{train,val}2017.json  17 joints, a box and a mask each
    {train,val}2017/000000000001.jpg                   pictures

A figure has a skeleton in space: it turns, bends, lifts arms and legs and looks aside,
and may show its back. Its near limbs hide its far ones, and other figures and objects
in front hide more. A joint that something hides has the visibility 1, any other in the
picture 2, one outside 0. Left and right are the figure's own.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from make_shapes_data import (
    JPEG_OPTIONS,
    MIN_SIDE,
    SHAPES,
    background,
    bgr,
    check_range,
    fill_folder,
    pair,
    read_info,
    run,
    write_picture,
)
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mmrecnext_autoload.arguments import command_line

DESCRIPTION = 'Stick figures in the layout of COCO (make_stick_figures_data.py)'
VERSION = '1.0'  # raise it when the same settings come to draw other pictures

SPLITS = ('train', 'val')
SIDES = {'left': 1, 'right': -1}
"""Which way a figure that faces the viewer has them: x grows to its left."""

JOINTS = (
    'nose',
    *(f'{side}_{part}' for part in ('eye', 'ear', 'shoulder') for side in SIDES),
    *(f'{side}_{part}' for part in ('elbow', 'wrist', 'hip') for side in SIDES),
    *(f'{side}_{part}' for part in ('knee', 'ankle') for side in SIDES),
)
BONES = (
    *(('ankle', 'knee'), ('knee', 'hip'), ('hip', 'shoulder')),
    *(('shoulder', 'elbow'), ('elbow', 'wrist'), ('shoulder', 'ear'), ('ear', 'eye')),
)
SKELETON = (
    *((f'{side}_{first}', f'{side}_{last}') for first, last in BONES for side in SIDES),
    *((f'left_{part}', f'right_{part}') for part in ('hip', 'shoulder', 'eye')),
    *(('nose', f'{side}_eye') for side in SIDES),
)

HEAD = 0.08  # radius, in units of about the height of a figure
RIM = 0.7  # pixels at the edge of a part that are darker

MAX_SIDE = 1024
MAX_FIGURES = 8
PARTS = 31  # the most of a figure
MIN_SEEN = 8  # joints of a figure
TRIES = 20  # to find a place for a figure
SAMPLES = 4  # per pixel and axis
BITS = 4  # of fraction in coordinates that OpenCV draws at
OBJECT = 255  # in a map of owners


@dataclass(frozen=True)
class Settings:
    """All that decides the bytes that are written.

    Attributes:
        train: Number of training pictures.
        val: Number of validation pictures.
        size: Width and height of a picture in pixels, each 32 to 1024.
        figures: Least and most figures that a picture is given, 1 to 8. It may hold
            fewer where there was no room for them.
        sides: Length of the smallest and of the largest figure, in percent of the
            largest that fits into a picture, 10 to 100.
        seed: Seed of the random numbers, from 0.

    Raises:
        ValueError: If a value is impossible.
    """

    train: int = 200
    val: int = 40
    size: tuple[int, int] = (192, 256)
    figures: tuple[int, int] = (1, 1)
    sides: tuple[int, int] = (55, 95)
    seed: int = 0

    def __post_init__(self):
        for what, *bounds in (
            ('the number of training pictures', self.train, 1),
            ('the number of validation pictures', self.val, 1),
            ('the width of a picture', self.size[0], MIN_SIDE, MAX_SIDE),
            ('the height of a picture', self.size[1], MIN_SIDE, MAX_SIDE),
            ('the most figures in a picture', self.figures[1], 1, MAX_FIGURES),
            ('the least figures in a picture', self.figures[0], 1, self.figures[1]),
            ('the largest figure in percent', self.sides[1], 10, 100),
            ('the smallest figure in percent', self.sides[0], 10, self.sides[1]),
            ('the seed', self.seed, 0),
        ):
            check_range(what, *bounds)


# --- Poses: points in space, where x grows to the right, y down and z to the viewer, in
# units of about the height of a figure


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Matrix (3, 3) that rolls, then nods, then turns, all in degrees."""
    matrix = np.eye(3)
    for (i, j), angle in (((0, 1), roll), ((1, 2), pitch), ((2, 0), yaw)):
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        plane = np.eye(3)
        plane[[i, i, j, j], [i, j, i, j]] = cos, -sin, sin, cos
        matrix = plane @ matrix
    return matrix


def _limb(away: float, ahead: float, sign: int) -> np.ndarray:
    """Direction of a limb: degrees from down to its own side, and to the front."""
    away, ahead = np.radians([away, ahead])
    level = np.cos(ahead)
    return np.array([sign * np.sin(away) * level, np.cos(away) * level, np.sin(ahead)])


def _bent(direction: np.ndarray, angle: float, towards: np.ndarray) -> np.ndarray:
    """A direction, turned by degrees towards another."""
    aside = towards - direction * (direction @ towards)
    aside /= np.linalg.norm(aside)
    return np.cos(np.radians(angle)) * direction + np.sin(np.radians(angle)) * aside


def random_pose(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Points (3,) of a figure: its joints, toes, neck, head and hair, by name."""
    points = {'neck': np.array([0, -0.32, 0])}
    for side, sign in SIDES.items():
        arm = _limb(rng.uniform(4, 165), rng.uniform(-25, 65), sign)
        up = np.array([-0.3 * sign, -0.4, 0.8]) + rng.normal(0, 0.5, 3)
        forearm = _bent(arm, rng.uniform(0, 130), up)
        thigh = _limb(rng.uniform(0, 38), rng.uniform(-25, 55), sign)
        shin = _bent(thigh, rng.uniform(0, 80), np.array([0.1 * sign, 0.2, -1]))
        foot = _bent(shin, 75, np.array([0.4 * sign, 0, 1]))
        bones = dict(elbow=0.16 * arm, wrist=0.15 * forearm)
        bones |= dict(knee=0.23 * thigh, ankle=0.23 * shin, toe=0.07 * foot)
        for start, place, names in (
            ('shoulder', (0.12 * sign, -0.3, 0), ('elbow', 'wrist')),
            ('hip', (0.07 * sign, 0, 0), ('knee', 'ankle', 'toe')),
        ):
            place = points[f'{side}_{start}'] = np.array(place)
            for name in names:
                place = points[f'{side}_{name}'] = place + bones[name]
    look = _rotation(rng.uniform(-35, 35), rng.uniform(-15, 15), rng.uniform(-12, 12))
    head = np.array([0, -0.44, 0.01])
    on_head = {'head': (0, 0, 0), 'hair': (0, -0.3, -0.4), 'nose': (0, 0.15, 1)}
    for side, sign in SIDES.items():
        on_head[f'{side}_eye'] = (0.4 * sign, -0.15, 0.85)
        on_head[f'{side}_ear'] = (0.98 * sign, 0.05, -0.05)
    for name, place in on_head.items():
        points[name] = head + HEAD * look @ place
    yaw = rng.uniform(-60, 60) + 180 * (rng.random() < 0.2)
    turn = _rotation(yaw, rng.uniform(-12, 12), rng.uniform(-18, 18))
    return {name: turn @ point for name, point in points.items()}


@dataclass(frozen=True)
class Part:
    """A part of a figure, or an object, as it is drawn.

    Attributes:
        points: (N, 2) in pixels: the middle of a disc, or the ends of a line, or the
            corners of an area.
        radius: About the points, in pixels.
        colour: BGR in 0..255.
        joints: Those that are seen where this part is.
    """

    points: np.ndarray
    radius: float
    colour: tuple[float, ...]
    joints: tuple[str, ...] = ()

    def draw(self, canvas: np.ndarray, value, rim: float = 0):
        """Draw it on a canvas of ``SAMPLES`` per pixel, without a rim in pixels."""
        # The middle of the first pixel has the coordinate 0.
        points = SAMPLES * self.points + (SAMPLES - 1) / 2
        points = np.round(points * 2**BITS).astype(np.int32)
        radius = SAMPLES * max(self.radius - rim, self.radius / 2)
        if len(points) == 1:
            radius = round(radius * 2**BITS)
            cv2.circle(canvas, points[0].tolist(), radius, value, -1, shift=BITS)
            return
        if len(points) > 2:
            cv2.fillPoly(canvas, [points], value, shift=BITS)
        width = max(1, round(2 * radius))
        cv2.polylines(canvas, [points], len(points) > 2, value, width, shift=BITS)


def _colour(hue: float, saturation: float, value: float) -> tuple[float, ...]:
    return tuple((255 * bgr(hue, saturation, value)).tolist())


def _random_colour(rng: np.random.Generator) -> tuple[float, ...]:
    return _colour(rng.uniform(0, 360), rng.uniform(0.15, 0.85), rng.uniform(0.25, 1))


def dress(
    rng: np.random.Generator, pose: dict[str, np.ndarray], scale: float
) -> list[Part]:
    """Give a pose clothes, hair and a build.

    Args:
        rng: Random numbers.
        pose: Points (3,) in pixels, by name.
        scale: Pixels of a unit.

    Returns:
        The parts, the farthest first.
    """
    width = rng.uniform(0.6, 1.25) * 0.03 * scale
    skin = _colour(rng.uniform(14, 32), rng.uniform(0.2, 0.6), rng.uniform(0.4, 1))
    hair = _colour(rng.uniform(0, 45), rng.uniform(0, 0.8), rng.uniform(0.05, 0.8))
    shirt, trousers, shoes = (_random_colour(rng) for _ in range(3))
    sleeves = shirt if rng.random() < 0.5 else skin
    legs = trousers if rng.random() < 0.7 else skin
    features = _colour(0, 0, 0.1)
    found: list[tuple[float, Part]] = []

    def add(names, radius, colour, joints=(), depth=None, nearer=0.0):
        points = np.array([pose[name] for name in names])
        depth = points[:, 2].mean() + nearer * scale if depth is None else depth
        found.append((depth, Part(points[:, :2], radius, colour, tuple(joints))))

    for side in SIDES:
        shoulder, elbow, wrist, hip, knee, ankle, toe = (
            f'{side}_{part}'
            for part in ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle', 'toe')
        )
        add((hip, knee), 1.15 * width, trousers, (hip, knee))
        add((knee, ankle), width, legs, (knee, ankle))
        add((ankle, toe), width, shoes, (ankle,))
        # In front of a body that is flat: arms hang beside and before it.
        add((shoulder, elbow), width, shirt, (shoulder, elbow), nearer=0.03)
        add((elbow, wrist), 0.85 * width, sleeves, (elbow, wrist), nearer=0.035)
        add((wrist,), 1.1 * width, skin, (wrist,), nearer=0.04)
    corners = ('left_shoulder', 'right_shoulder', 'right_hip', 'left_hip')
    add(corners, 1.1 * width, shirt, corners)
    add(('neck', 'head'), 0.9 * width, skin)

    # Nothing comes between a head and what is on it.
    middle = pose['head'][2] + 0.02 * scale
    for name, radius, colour in (
        *((f'{side}_ear', 0.22, skin) for side in SIDES),
        *(('hair', 1, hair), ('head', 1, skin)),
        *((f'{side}_eye', 0.14, features) for side in SIDES),
        ('nose', 0.13, _colour(8, 0.7, 0.75)),
    ):
        depth = middle + 1e-3 * (pose[name][2] - pose['head'][2])
        add((name,), radius * HEAD * scale, colour, {name} & {*JOINTS}, depth)
    found.sort(key=lambda item: item[0])
    return [part for _, part in found]


# --- Pictures


class Scene:
    """Figures and objects, one in front of the other.

    Attributes:
        owner: Number of the part that is seen at each sample, uint8 of shape (height,
            width), ``SAMPLES`` times as large as the picture; 0 is the background,
            ``OBJECT`` an object.
        layers: Parts of each figure and object, those at the back first.
        figures: Of each, its parts and the places (17, 2) of its joints in pixels.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.owner = np.zeros((size[1] * SAMPLES, size[0] * SAMPLES), np.uint8)
        self.layers: list[list[Part]] = []
        self.figures: list[tuple[list[Part], np.ndarray]] = []

    def add(self, parts: list[Part], joints: np.ndarray | None = None) -> bool:
        """Put something in front, unless a figure then shows too few of its joints.

        Args:
            parts: What to draw, the farthest first.
            joints: Those (17, 2) of a figure in pixels; None for an object.

        Returns:
            Whether it was added; the scene is as it was if not.
        """
        before = self.owner.copy()
        first = 1 + PARTS * len(self.figures)
        for k, part in enumerate(parts):
            part.draw(self.owner, OBJECT if joints is None else first + k)
        self.layers.append(parts)
        if joints is not None:
            self.figures.append((parts, joints))
        if all(
            np.sum(self.visibility(k) == 2) >= MIN_SEEN
            for k in range(len(self.figures))
        ):
            return True
        self.owner = before
        self.layers.pop()
        if joints is not None:
            self.figures.pop()
        return False

    def visibility(self, k: int) -> np.ndarray:
        """What COCO says of each joint (17,) of a figure, counted from 0.

        0 is outside of the picture, 1 hidden, 2 seen.
        """
        parts, joints = self.figures[k]
        inside = np.all((joints >= 0) & (joints <= np.array(self.size) - 1), axis=1)
        x, y = np.round(SAMPLES * joints + (SAMPLES - 1) / 2).astype(int).T
        height, width = self.owner.shape
        owner = self.owner[y.clip(0, height - 1), x.clip(0, width - 1)]
        shown = {1 + PARTS * k + i: part.joints for i, part in enumerate(parts)}
        seen = [
            name in shown.get(number, ())
            for number, name in zip(owner.tolist(), JOINTS, strict=True)
        ]
        return np.where(inside, 1 + np.array(seen, int), 0)

    def annotations(self) -> Iterator[dict]:
        """Yield what COCO says of each figure, but for the ids of it and its image."""
        middle = slice(SAMPLES // 2, None, SAMPLES)
        owner = self.owner[middle, middle]
        for k, (_, joints) in enumerate(self.figures):
            visibility = self.visibility(k)
            mask = (owner > PARTS * k) & (owner <= PARTS * (k + 1))
            code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
            places = np.where(visibility[:, None] > 0, joints.round(2), 0)
            yield dict(
                category_id=1,
                keypoints=[
                    value
                    for (x, y), seen in zip(places.tolist(), visibility, strict=True)
                    for value in (x, y, int(seen))
                ],
                num_keypoints=int(np.sum(visibility > 0)),
                bbox=coco_mask.toBbox(code).tolist(),
                area=int(coco_mask.area(code)),
                segmentation=dict(code, counts=code['counts'].decode('ascii')),
                iscrowd=0,
            )


def random_figure(
    rng: np.random.Generator, settings: Settings
) -> tuple[list[Part], np.ndarray]:
    """A figure somewhere in a picture: its parts, and its joints (17, 2) in pixels."""
    size = np.array(settings.size)
    pose = random_pose(rng)
    flat = np.array(list(pose.values()))[:, :2]
    low, extent = flat.min(axis=0) - HEAD, np.ptp(flat, axis=0) + 2 * HEAD
    scale = rng.uniform(*settings.sides) / 100 * (size / extent).min()
    # A little of it may be outside.
    start = rng.uniform(-0.06 * size, 1.06 * size - scale * extent)
    move = np.append(start - scale * low, 0)
    pose = {name: scale * point + move for name, point in pose.items()}
    joints = np.array([pose[name][:2] for name in JOINTS])
    return dress(rng, pose, scale), joints


def random_object(rng: np.random.Generator, settings: Settings, longest: float) -> Part:
    """A shape of any colour, at most so long, in parts of a picture."""
    size = np.array(settings.size)
    outline = list(SHAPES.values())[rng.integers(len(SHAPES))]
    turn = _rotation(0, 0, rng.uniform(0, 360))[:2, :2]
    scale = rng.uniform(0.3, 1) * longest * min(size)
    return Part(scale * outline @ turn + rng.uniform(0, size), 0, _random_colour(rng))


def draw_picture(
    rng: np.random.Generator, settings: Settings, wanted: int
) -> tuple[np.ndarray, Scene]:
    """Draw one picture.

    Args:
        rng: Random numbers.
        settings: Those of the data set.
        wanted: Number of figures; there are fewer where they find no room.

    Returns:
        The picture, uint8 BGR of shape (height, width, 3), and its scene.
    """
    scene = Scene(settings.size)
    behind = [random_object(rng, settings, 0.7) for _ in range(rng.integers(5))]
    for _ in range(wanted):
        for _ in range(TRIES):
            if scene.add(*random_figure(rng, settings)):
                break
    for _ in range(rng.integers(3)):
        scene.add([random_object(rng, settings, 0.35)])

    image = background(rng, rng.uniform(0, 360), settings.size)
    image = cv2.merge([*np.clip(255 * image, 0, 255).astype(np.uint8)])
    canvas = cv2.resize(image, scene.owner.shape[::-1], interpolation=cv2.INTER_LINEAR)
    for part in [*behind, *(part for layer in scene.layers for part in layer)]:
        dark = tuple(0.45 * value for value in part.colour)
        part.draw(canvas, dark)
        part.draw(canvas, part.colour, rim=RIM)
    image = cv2.resize(canvas, settings.size, interpolation=cv2.INTER_AREA)
    grain = 3 * rng.standard_normal(image.shape[:2], np.float32)
    return np.clip(image + grain[..., None], 0, 255).astype(np.uint8), scene


# --- The data set


def draw_split(
    settings: Settings, split: str
) -> Iterator[tuple[int, np.ndarray, Scene]]:
    """Yield the id, the picture (uint8 BGR) and the scene of each of a split."""
    low, high = settings.figures
    for image_id in range(1, getattr(settings, split) + 1):
        rng = np.random.default_rng((settings.seed, SPLITS.index(split), image_id))
        wanted = int(rng.integers(low, high + 1))
        yield image_id, *draw_picture(rng, settings, wanted)


def _json_file(root: Path, split: str) -> Path:
    return root / f'annotations/person_keypoints_{split}2017.json'


def _picture(root: Path, split: str, image_id: int) -> Path:
    return root / f'{split}2017/{image_id:012}.jpg'


def _write_split(root: Path, split: str, settings: Settings, progress: tqdm):
    """Write the pictures and the annotations of a split."""
    width, height = settings.size
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, image, scene in draw_split(settings, split):
        file = _picture(root, split, image_id)
        file.parent.mkdir(exist_ok=True)
        write_picture(file, image, JPEG_OPTIONS)
        images.append(
            dict(id=image_id, file_name=file.name, width=width, height=height)
        )
        for annotation in scene.annotations():
            ids = dict(id=len(annotations) + 1, image_id=image_id)
            annotations.append(ids | annotation)
        progress.update()
    category = dict(id=1, name='person', supercategory='person')
    skeleton = [[JOINTS.index(name) + 1 for name in bone] for bone in SKELETON]
    data = dict(
        info=_info(settings),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[dict(category, keypoints=JOINTS, skeleton=skeleton)],
    )
    file = _json_file(root, split)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(data), encoding='utf-8')


def _info(settings: Settings) -> dict:
    info = dict(description=DESCRIPTION, version=VERSION, settings=asdict(settings))
    return json.loads(json.dumps(info))  # tuples become lists, as when read back


def _files(root: Path, info: dict | None) -> set[Path]:
    """All files of a data set of ours."""
    files = set()
    for split in SPLITS if info else ():
        count = info['settings'][split]
        files |= {_picture(root, split, k) for k in range(1, count + 1)}
        files.add(_json_file(root, split))
    return files


def make_stick_figures(out: str | Path, settings: Settings | None = None) -> bool:
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


# --- Command line


def build_parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of ``Settings``."""
    parser = command_line(
        'Draw pictures of stick figures, annotated in the layout of COCO\n(keypoints).',
        'python tools/make_stick_figures_data.py data/stick --train 3000 --val 100',
    )
    default = Settings()
    size = partial(pair, separator='x', example='256 or 192x256')
    span = partial(pair, separator='-', example='2 or 1-3')
    parser.add_argument(
        'out', metavar='OUT', help='folder to make; must be new, empty or made by this'
    )
    for name, kind, initial, metavar, text in (
        ('train', int, default.train, 'N', 'number of training pictures'),
        ('val', int, default.val, 'N', 'number of validation pictures, at least 1'),
        (
            'size',
            size,
            'x'.join(map(str, default.size)),
            'N or WxH',
            f'side, or width and height, in pixels, {MIN_SIDE} to {MAX_SIDE} each',
        ),
        (
            'figures',
            span,
            '-'.join(map(str, default.figures)),
            'MIN-MAX',
            f'figures per picture, at most {MAX_FIGURES}; fewer where there is no room',
        ),
        (
            'sides',
            span,
            '-'.join(map(str, default.sides)),
            'MIN-MAX',
            'length of the figures, in percent of the largest that fits, 10 to 100',
        ),
        ('seed', int, default.seed, 'N', 'the same seed gives the same files'),
    ):
        text += ' (default: %(default)s)'
        parser.add_argument(
            f'--{name}', type=kind, default=initial, metavar=metavar, help=text
        )
    return parser


def _report(out: Path, settings: Settings) -> str:
    counts = []
    for split in SPLITS:
        data = json.loads(_json_file(out, split).read_text(encoding='utf-8'))
        pictures, figures = len(data['images']), len(data['annotations'])
        counts.append(f'{split}: {pictures} pictures, {figures} figures')
    width, height = settings.size
    return f'  {"; ".join(counts)}; {width}x{height}'


def main(argv: list[str] | None = None):
    """Run the command line; exit with 2 and a message if it asks the impossible."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    out, debug = Path(options.pop('out')), options.pop('debug', False)
    try:
        settings = Settings(**options)
    except ValueError as error:
        parser.error(str(error))
    run(parser, out, partial(make_stick_figures, out, settings), debug)
    print(_report(out, settings))


if __name__ == '__main__':
    main()
