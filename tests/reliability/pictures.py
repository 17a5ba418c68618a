"""Odd pictures, annotations and label maps, by chance, and what is made of them.

``python -m tests.reliability.pictures --number 300`` prints a table. What cannot be
used is told in a line that names the file; the rest is loaded as it is, and each
annotation is counted, of a crowd, or told to be left out.
"""

import argparse

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(
        __doc__.partition('\n')[0], 'python -m tests.reliability.pictures --number 300'
    )
    parser.add_argument('--number', type=int, default=300)
    parser.add_argument('--start', type=int, default=0, help='the first seed')
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import copy
import io
import json
import math
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import mmdet.datasets
import mmdet.evaluation
import mmdet.models  # noqa: F401
import mmseg.datasets
import mmseg.models  # noqa: F401, as those before it registers what configs name
import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, MODELS, DefaultScope, init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from mmrecnext.cli import run
from mmrecnext.engine.data import check_data, coco, hook, samples
from mmrecnext.engine.data.samples import check_loaded
from mmrecnext.engine.predictor import Predictor
from mmrecnext.engine.runner import Runner
from mmrecnext.errors import ConfigError
from tests.helpers import ROOT
from tests.reliability.guard import Outcome, watched

Chance = random.Random
HEIGHT, WIDTH = 40, 60
CLASSES = ('bolt', 'nut')

# Pictures, by what they are: each writes a file, and returns height and width, or None
# where it cannot be read.

Size = tuple[int, int] | None


def noise(height: int = HEIGHT, width: int = WIDTH, top: int = 255, bands=(3,)):
    return np.random.default_rng(0).integers(0, top, (height, width, *bands))


def rgb(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    return Image.fromarray(noise(height, width).astype(np.uint8))


def saved(image: Image.Image, path: Path, **options: Any) -> Size:
    image.save(path, **options)
    return image.size[::-1]


def of_mode(mode: str) -> Callable[[Path], Size]:
    return lambda path: saved(rgb().convert(mode), path)


def of_size(height: int, width: int) -> Callable[[Path], Size]:
    return lambda path: saved(rgb(height, width), path)


def of_numbers(dtype: type, top: int, *bands: int) -> Callable[[Path], Size]:
    def write(path: Path) -> Size:
        cv2.imwrite(str(path), noise(top=top, bands=bands).astype(dtype))
        return HEIGHT, WIDTH

    return write


def turned(orientation: int) -> Callable[[Path], Size]:
    """By its EXIF orientation: from 5 on, height and width change places."""

    def write(path: Path) -> Size:
        exif = Image.Exif()
        exif[0x0112] = orientation
        saved(rgb(), path, exif=exif)
        return (WIDTH, HEIGHT) if 5 <= orientation <= 8 else (HEIGHT, WIDTH)

    return write


def animated(path: Path) -> Size:
    others = [rgb().rotate(angle) for angle in (90, 180)]
    return saved(rgb(), path, save_all=True, append_images=others)


def spoilt(how: Callable[[bytes], bytes]) -> Callable[[Path], Size]:
    def write(path: Path) -> Size:
        saved(rgb(), path)
        path.write_bytes(how(path.read_bytes()))
        return None

    return write


def fifo(path: Path) -> Size:
    os.mkfifo(path)
    return None


def folder(path: Path) -> Size:
    path.mkdir()
    return None


def nothing(path: Path) -> Size:
    return None


def refused(write: Callable[[Path], Size]) -> Callable[[Path], Size]:
    """What is whole, but in a format that is not read."""
    return lambda path: write(path) and None


PICTURES: dict[str, Callable[[Path], Size]] = {
    'grey.png': of_mode('L'),
    'grey.jpg': of_mode('L'),
    'grey and alpha.png': of_mode('LA'),
    'alpha.png': of_mode('RGBA'),
    'palette.png': of_mode('P'),
    'one bit.png': of_mode('1'),
    'cmyk.jpg': of_mode('CMYK'),
    'ycbcr.tif': of_mode('YCbCr'),
    '16 bits.png': of_numbers(np.uint16, 65535, 3),
    '16 bits grey.png': of_numbers(np.uint16, 65535),
    '16 bits grey.tif': of_numbers(np.uint16, 65535),
    'floats.tif': refused(of_mode('F')),
    **{f'turned {n}.jpg': turned(n) for n in range(1, 9)},
    'turned otherwise.jpg': turned(99),
    'animated.webp': animated,
    'animated.png': animated,
    'pages.tif': animated,
    'one pixel.png': of_size(1, 1),
    'one pixel.jpg': of_size(1, 1),
    'one row.png': of_size(1, 300),
    'one column.png': of_size(300, 1),
    'narrow.png': of_size(400, 3),
    'UPPER.JPG': of_mode('RGB'),
    'наме 图 .png': of_mode('RGB'),
    'half.png': spoilt(lambda content: content[: len(content) // 2]),
    'half.jpg': spoilt(lambda content: content[: len(content) // 2]),
    'header.png': spoilt(lambda content: content[:20]),
    'empty.png': spoilt(lambda content: b''),
    'text.jpg': spoilt(lambda content: b'<html>Not found</html>'),
    'zeros.png': spoilt(lambda content: bytes(len(content))),
    'vast.png': spoilt(lambda content: content[:16] + b'\x7f' * 8 + content[24:]),
    'missing.png': nothing,
    'folder.png': folder,
    'pipe.png': fifo,
}


def models(place: Path, *kinds: str) -> dict[str, Predictor]:
    """Models of the demos, of random weights."""
    found = {}
    for kind in kinds:
        cfg = Config.fromfile(ROOT / f'configs/{kind}_recnext_m0_shapes.py')
        cfg.model.backbone.update(arch=dict(base='m0', depths=(1, 1, 1, 1)))
        cfg.test_dataloader.dataset.pipeline[1].update(scale=(64, 64))
        for name in ('test_pipeline', 'visualizer'):
            cfg._cfg_dict.pop(name, None)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        torch.save({'state_dict': model.state_dict()}, place / f'{kind}.pth')
        found[kind] = Predictor(cfg, str(place / f'{kind}.pth'), score_thr=0.0)
    return found


def one_line(error: Exception, path: Path) -> str:
    if not isinstance(error, ConfigError):
        return f'traceback: {type(error).__name__}: {str(error)[:200]}'
    if len(str(error).splitlines()) != 1 or str(path) not in str(error):
        return f'traceback: told without the file: {error}'
    return 'refused'


def predict_pictures(place: Path, kinds: dict[str, Predictor]) -> list[Outcome]:
    """Predict and draw each picture by each model."""
    sizes = {name: write(place / name) for name, write in PICTURES.items()}

    def act(item: tuple[str, str]) -> Any:
        kind, name = item
        init_default_scope('mmseg' if kind == 'sem_fpn' else 'mmdet')
        picture, sample = kinds[kind](place / name)
        kinds[kind].describe(sample)
        return picture.shape[:2], kinds[kind].draw(picture, sample).shape[:2]

    def judge(item: tuple[str, str], result: Any) -> str:
        if isinstance(result, BaseException):
            told = one_line(result, place / item[1])
            whole = sizes[item[1]] is not None and 'cannot be prepared' not in str(
                result
            )
            return (
                f'accepted wrongly: {result}' if whole and told == 'refused' else told
            )
        right = result == (sizes[item[1]],) * 2
        return 'used' if right else f'accepted wrongly: {result}'

    items = [(kind, name) for kind in kinds for name in PICTURES]
    return [*watched(act, judge, items)]


# Annotations.


def annotations() -> dict:
    """Three pictures, with a bolt and a nut each."""
    images = [
        dict(id=i, file_name=f'{i}.png', height=HEIGHT, width=WIDTH) for i in (1, 2, 7)
    ]
    objects = [
        dict(
            id=10 * image['id'] + category,
            image_id=image['id'],
            category_id=category,
            bbox=[5, 5, 20, 10],
            area=200,
            iscrowd=0,
            segmentation=[[5, 5, 25, 5, 25, 15, 5, 15]],
        )
        for image in images
        for category in (1, 3)
    ]
    categories = [
        dict(id=i, name=name) for i, name in zip((1, 3), CLASSES, strict=True)
    ]
    return dict(images=images, annotations=objects, categories=categories)


def encoded(chance: Chance) -> dict:
    """A run-length encoding, whole or not."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    mask[5:15, 5:25] = 1
    counts = coco_mask.encode(mask)['counts'].decode()
    runs = [0, HEIGHT * WIDTH // 2, HEIGHT * WIDTH // 2]
    odd = (counts, counts[:-2], counts + '1', 'é', '', runs, runs[:-1], [-5, 2405], [])
    size = chance.choice(([HEIGHT, WIDTH], [HEIGHT, WIDTH], [WIDTH, HEIGHT], None, [0]))
    return dict(size=size, counts=chance.choice(odd))


NUMBERS = (0, 1, -1, 0.5, 39.5, 60, 1e4, 1e30, 2**70, math.nan, math.inf, '5', None, [])


def number(chance: Chance) -> Any:
    return chance.choice(NUMBERS)


def polygons(chance: Chance) -> Any:
    ring = [5, 5, 25, 5, 25, 15, 5, 15]
    odd = (
        *([], [[]], [[1, 1]], [[1, 1, 9, 9]], [ring[:7]], [[5] * 8], ring, [ring] * 2),
        *([ring, []], [[1, 1], ring], [[-50, -50, -40, -50, -40, -40]], [[0] * 6]),
        *([[number(chance) for _ in range(6)]], None, 'x', {}, [[5.5] * 6], [ring, 3]),
        *([[[5, 5], [25, 5], [25, 15]]], [[*ring[:-1], 1e9]]),
    )
    return chance.choice((*odd, encoded(chance), encoded(chance)))


def boxes(chance: Chance) -> Any:
    odd = ([-9, -9, 5, 5], [55, 35, 20, 20], [500, 500, 9, 9], [5, 5, 0, 10], [0] * 4)
    odd = (
        *odd,
        [5, 5, 0.5, 9],
        [5, 5, -5, 5],
        [1, 2, 3],
        None,
        'x',
        {},
        [0, 0, 60, 40],
    )
    return chance.choice((*odd, [number(chance) for _ in range(4)]))


def flags(chance: Chance) -> Any:
    return chance.choice((0, 1, True, False, None, 2, '1', []))


def ids(chance: Chance) -> Any:
    return chance.choice(
        (1, 2, 3, 7, 8, -1, 0, 2**40, '1', 'x', 1.0, None, [], {}, True)
    )


FIELDS: dict[str, Callable[[Chance], Any]] = {
    **dict(segmentation=polygons, bbox=boxes, area=number, iscrowd=flags),
    **dict(ignore=flags, id=ids, image_id=ids, category_id=ids),
}
SIDES = (HEIGHT, WIDTH, 0, -1, 1, 40.0, None, '40', 10**9)


def change_annotations(content: dict, chance: Chance):
    """Change a field of an annotation, of a picture or of a category, or a list."""
    way = chance.randrange(10)
    if way < 6:
        item = chance.choice(content['annotations'] or [{}])
        name = chance.choice([*FIELDS, 'segmentation', 'bbox', 'iscrowd'])
        if isinstance(item, dict):
            item[name] = FIELDS[name](chance)
            if chance.random() < 0.1:
                del item[name]
    elif way == 6:
        item = chance.choice(content['images'] or [{}])
        name = chance.choice(('id', 'height', 'width', 'file_name'))
        names = ('1.png', '2.png', 'x.png', '', None, 5, '../1.png', '\0')
        odd = dict(id=ids(chance), file_name=chance.choice(names))
        item[name] = odd.get(name, chance.choice(SIDES))
    elif way == 7:
        item = chance.choice(content['categories'] or [{}])
        names = (*CLASSES, 'x', '', None, 5)
        item.update(
            chance.choice([{'id': ids(chance)}, {'name': chance.choice(names)}])
        )
    elif way == 8:
        items = content[chance.choice(('images', 'annotations', 'categories'))]
        if items and chance.random() < 0.5:
            del items[chance.randrange(len(items))]
        elif items:
            items.append(copy.deepcopy(chance.choice(items)))
    else:
        items = content['annotations']
        items.append(chance.choice((None, 5, [], {}, dict(id=99), *items[:2])))


def coco_config(place: Path) -> Config:
    """The same files to train on and to measure against."""
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='CocoDataset',
            data_root=str(place),
            ann_file='all.json',
            data_prefix=dict(img=''),
            metainfo=dict(classes=CLASSES),
            pipeline=[dict(type='LoadImageFromFile'), load, dict(type='PackDetInputs')],
        ),
    )
    evaluator = dict(
        type='CocoMetric', ann_file=str(place / 'all.json'), metric=['bbox', 'segm']
    )
    return Config(
        dict(
            default_scope='mmdet',
            train_dataloader=loader,
            val_dataloader=copy.deepcopy(loader),
            val_evaluator=evaluator,
        )
    )


def heard(said: list[str]) -> ExitStack:
    """Collect what is logged."""
    stack = ExitStack()
    for module in (coco, hook, samples):
        collect = mock.patch.object(
            module, 'print_log', lambda line, *_: said.append(line)
        )
        stack.enter_context(collect)
    return stack


def use_annotations(place: Path, seed: int) -> tuple[int, int, int, int]:
    """Check, load and measure; return how many objects are used, crowds and told."""
    chance = Chance(seed)
    content = annotations()
    for _ in range(chance.choice((1, 1, 2, 4))):
        change_annotations(content, chance)
    text = json.dumps(content)
    if chance.random() < 0.03:
        text = text[: chance.randrange(len(text))]
    (place / 'all.json').write_text(text)
    cfg, said = coco_config(place), []
    with DefaultScope.overwrite_default_scope('mmdet'), heard(said):
        split = chance.choice(('train', 'val'))
        check_data(cfg, (split,))
        dataset = Runner.build_dataloader(cfg[f'{split}_dataloader']).dataset
        check_loaded(dataset, split == 'train')
        loaded = [dataset[i] for i in range(len(dataset))]
        if split == 'val':
            with redirect_stdout(io.StringIO()):
                measure(cfg, loaded)
    instances = [data['data_samples'].gt_instances for data in loaded]
    ignored = [data['data_samples'].ignored_instances for data in loaded]
    told = [re.search(r' on (\d+) annotations|: (\d+) objects of', x) for x in said]
    count = sum(int(found[1] or found[2]) for found in told if found)
    crowds = sum(
        bool(a.get('iscrowd') or a.get('ignore')) for a in content['annotations']
    )
    assert all(len(x) == len(x.masks) for x in (*instances, *ignored))
    return sum(map(len, instances)), crowds, count, len(content['annotations'])


def measure(cfg: Config, loaded: list[dict]):
    """Measure predictions that are near the truth."""
    evaluator = Evaluator(cfg.val_evaluator)
    evaluator.dataset_meta = dict(classes=CLASSES)
    mask = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, 5:15, 5:25] = True
    found = dict(
        bboxes=torch.tensor([[5.0, 5, 25, 15]] * 2),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
        masks=mask,
    )
    for data in loaded:
        sample = data['data_samples'].to_dict()
        evaluator.process([{**sample, 'pred_instances': found}], data)
    evaluator.evaluate(len(loaded))


def try_annotations(place: Path, number: int, start: int = 0) -> list[Outcome]:
    """Use so many changed annotation files."""
    for name in ('1.png', '2.png', '7.png'):
        saved(rgb(), place / name)

    def judge(seed: int, result: Any) -> str:
        if isinstance(result, BaseException):
            told = one_line(result, place)
            return told
        used, crowds, told, there = result
        silent = there - used - crowds - told
        return f'accepted wrongly: {silent} left out silently' if silent > 0 else 'used'

    seeds = range(start, start + number)
    return [*watched(lambda seed: use_annotations(place, seed), judge, seeds)]


# Label maps.


def label_map(path: Path, chance: Chance) -> np.ndarray | None:
    """Write one; return its labels, None where it is none of the picture."""
    shape = chance.choice(((HEIGHT, WIDTH),) * 6 + ((WIDTH, HEIGHT), (1, 1), (80, 120)))
    top = chance.choice((1, 1, 1, 2, 7, 254, 255, 256, 300, 65535))
    labels = np.random.default_rng(chance.randrange(99)).integers(0, 2, shape)
    labels[-1, -1] = top
    right = shape == (HEIGHT, WIDTH) and top in (1, 255)
    kind = chance.choice(('8', '8', '16', 'palette', 'rgb', 'alpha', 'la', '1'))
    if kind == '16':
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return labels if right else None
    small = labels.astype(np.uint8)  # as those that save without a look
    image = Image.fromarray(small)
    if kind == 'palette':
        image = image.convert('P')
        image.putdata(small.ravel().tolist())
    elif kind == '1':
        image, right = Image.fromarray(small > 0), shape == (HEIGHT, WIDTH)
        small = (small > 0).astype(np.uint8)
    elif kind in ('rgb', 'alpha', 'la'):
        image, right = (
            image.convert(dict(rgb='RGB', alpha='RGBA', la='LA')[kind]),
            False,
        )
    image.save(path)
    if kind in ('8', 'palette'):
        right = shape == (HEIGHT, WIDTH) and int(small.max()) in (1, 255)
        right = right and not ((small > 1) & (small < 255)).any()
    return small if right else None


def use_labels(place: Path, seed: int) -> np.ndarray:
    chance = Chance(seed)
    path = place / 'labels/1.png'
    expected = label_map(path, chance)
    if chance.random() < 0.15:
        expected = None
        content = path.read_bytes()
        path.write_bytes(content[: chance.randrange(len(content))])
        if chance.random() < 0.3:
            path.unlink()
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    config = dict(
        type='BaseSegDataset',
        data_root=str(place),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes=CLASSES),
        reduce_zero_label=False,
        pipeline=load,
    )
    (place / 'expected.npy').unlink(missing_ok=True)
    if expected is not None:
        np.save(place / 'expected.npy', expected)
    with DefaultScope.overwrite_default_scope('mmseg'), heard([]):
        dataset = DATASETS.build(config)
        check_loaded(dataset, False)
        return dataset[0]['gt_seg_map']


def try_labels(place: Path, number: int, start: int = 0) -> list[Outcome]:
    """Load so many label maps, of which many are none."""
    for name in ('images', 'labels'):
        (place / name).mkdir()
    saved(rgb(), place / 'images/1.png')

    def judge(seed: int, result: Any) -> str:
        file = place / 'expected.npy'
        expected = np.load(file) if file.exists() else None
        if isinstance(result, BaseException):
            told = one_line(result, place / 'labels')
            refuses_right = told == 'refused' and expected is not None
            return f'accepted wrongly: {result}' if refuses_right else told
        if expected is None:
            return f'accepted wrongly: {np.unique(result)} of {result.shape}'
        return (
            'used' if (result == expected).all() else 'accepted wrongly: other labels'
        )

    seeds = range(start, start + number)
    return [*watched(lambda seed: use_labels(place, seed), judge, seeds)]


def fault_of(outcome: Outcome) -> str | None:
    """Name what may not become of a file."""
    return None if outcome.verdict in ('used', 'refused') else outcome.verdict


def main(args: argparse.Namespace):
    print('| what | files | used | refused | faults |\n|---|---|---|---|---|')
    bad = []
    for what in ('pictures', 'annotations', 'label maps'):
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            if what == 'pictures':
                outcomes = predict_pictures(
                    place, models(place, 'mask_rcnn', 'sem_fpn')
                )
            else:
                attempt = try_annotations if what == 'annotations' else try_labels
                outcomes = attempt(place, args.number, args.start)
        counts = Counter(outcome.verdict for outcome in outcomes)
        faults = [outcome for outcome in outcomes if fault_of(outcome)]
        cells = len(outcomes), counts['used'], counts['refused'], len(faults)
        print(f'| {what} | {" | ".join(map(str, cells))} |', flush=True)
        bad += faults
    for outcome in bad[:40]:
        print(outcome.item, outcome.verdict)
    sys.exit(bool(bad))


if __name__ == '__main__':
    run(main, args)
