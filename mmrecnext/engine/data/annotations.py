"""What is wrong in a file of COCO's format, by image and annotation."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from mmrecnext.errors import DataError, brief

REACH = 10
"""Polygons reach no further than this many times the picture's longer side.

Those that do are drawn edge by edge, until memory is spent.
"""

FIELDS = ('id', 'image_id', 'category_id', 'bbox', 'area')
"""What MMDetection reads of every annotation."""


_names_read: dict[tuple[str, int], tuple[str, ...]] = {}
"""Names of the categories of files that have been read, by path and time."""


@dataclass
class Needs:
    """What those who read a file take from it.

    Attributes:
        masks: whether masks are loaded.
        polygons: whether those who train take polygons alone for masks.
        scores: whether predictions are measured against it.
        mask_scores: whether predicted masks are.
    """

    masks: bool = False
    polygons: bool = False
    scores: bool = False
    mask_scores: bool = False


@dataclass
class Content:
    """An annotation file that holds what it must.

    Attributes:
        images: by id.
        categories: names by id, in the order of the file.
        objects: how many each category has that count: crowds, and boxes that
            MMDetection leaves out, do not.
        annotated: ids of the images of each category.
        crowds: how many annotations are of crowds, or to be ignored.
        left_out: ids of further annotations that MMDetection leaves out, by reason.
    """

    images: dict
    categories: dict
    objects: Counter = field(default_factory=Counter)
    annotated: dict = field(default_factory=lambda: defaultdict(set))
    crowds: int = 0
    left_out: dict[str, list] = field(default_factory=lambda: defaultdict(list))


def read_annotations(file: str, needs: Needs) -> Content:
    """Read a file of COCO's format, and look at every annotation.

    Args:
        file: path of the file.
        needs: what is taken from it.

    Raises:
        DataError: naming the file, the field, and ids where it holds what MMDetection
            and pycocotools fail at, or read wrongly.
    """
    raw = _load(file)
    images = _indexed(file, raw, 'images', ('id', 'file_name', 'height', 'width'))
    _check_sizes(file, images)
    categories = _indexed(file, raw, 'categories', ('id', 'name'))
    content = Content(images, {i: c['name'] for i, c in categories.items()})
    _names_read[_version(file)] = tuple(content.categories.values())
    _check_annotations(file, raw.get('annotations') or [], content, needs)
    return content


def read_categories(file: str) -> tuple[str, ...]:
    """Return the names of a file's categories in its order; it is read but once.

    Raises:
        DataError: naming what is wrong with them.
    """
    version = _version(file)
    if version not in _names_read:
        categories = _indexed(file, _load(file), 'categories', ('id', 'name'))
        _names_read[version] = tuple(c['name'] for c in categories.values())
    return _names_read[version]


def _version(file: str) -> tuple[str, int]:
    return os.path.realpath(file), os.stat(file).st_mtime_ns


def load_json(file: str) -> Any:
    """Return what a file of JSON holds.

    Raises:
        DataError: for one that is none, or is not whole.
    """
    try:
        with open(file, encoding='utf-8') as stream:
            return json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{file} is no whole JSON ({error}); write or copy it again'
        ) from error


def _load(file: str) -> dict:
    raw = load_json(file)
    if not isinstance(raw, dict) or not isinstance(raw.get('images'), list):
        holds = ', '.join(raw) if isinstance(raw, dict) else f'a {type(raw).__name__}'
        raise DataError(
            f'{file} is not in the format of COCO, an object of the lists images, '
            f'annotations and categories: it holds {holds[:200]}'
        )
    return raw


def _indexed(file: str, raw: dict, name: str, fields: tuple[str, ...]) -> dict:
    """Return the items of a list by id."""
    items = raw.get(name)
    if not isinstance(items, list):
        raise DataError(f"{file} has no list `{name}`, which COCO's format has")
    index: dict[Any, dict] = {}
    for place, item in enumerate(items):
        where = f'{file}: {name}[{place}]'
        if not isinstance(item, dict):
            raise DataError(f'{where} is {item!r:.80}, no object')
        if lacking := [f'`{f}`' for f in fields if item.get(f) is None]:
            known = f' (id {item["id"]})' if 'id' in item else ''
            raise DataError(f'{where}{known} has no {", ".join(lacking)}')
        if isinstance(item['id'], list | dict):
            raise DataError(f'{where} has an `id` that is none: {item["id"]!r:.80}')
        if (other := index.get(item['id'])) is not None:
            told = [x.get('file_name', x.get('name')) for x in (other, item)]
            raise DataError(
                f'{file}: two {name} have the `id` {item["id"]}: {told[0]} and '
                f'{told[1]}; MMDetection would mix them up'
            )
        index[item['id']] = item
    return index


def _check_sizes(file: str, images: dict):
    for key, image in images.items():
        for side in ('height', 'width'):
            if not (isinstance(image[side], int | float) and image[side] >= 1):
                raise DataError(
                    f'{file}: `{side}` of the image {key} ({image["file_name"]}) is '
                    f'{image[side]!r:.80}, no number of pixels'
                )
        if not isinstance(image['file_name'], str):
            raise DataError(
                f'{file}: `file_name` of the image {key} is '
                f'{image["file_name"]!r:.80}, no text'
            )


def _check_annotations(file: str, annotations: list, content: Content, needs: Needs):
    if not isinstance(annotations, list):
        raise DataError(f'{file}: `annotations` is no list')
    faults, seen = defaultdict(list), set()
    for place, annotation in enumerate(annotations):
        fault = _fault(annotation, content)
        if fault is None and needs.scores and annotation.get('iscrowd') is None:
            fault = 'no `iscrowd`, by which predictions are measured; it is 0 or 1'
        if fault is None and needs.scores and not _is_number(annotation['id']):
            fault = f'an `id` that is no number ({annotation["id"]!r:.40})'
        if fault is None and needs.scores and annotation['id'] == 0:
            fault = (
                'the `id` 0, which pycocotools takes for none: an object found would '
                'count as missed; number annotations from 1'
            )
        if fault is None:
            key = annotation['id']
            if key in seen:
                fault = 'an `id` that another has; MMDetection needs each once'
            seen.add(key)
        if fault is None:
            fault = _count(annotation, content, needs)
        if fault is not None:
            known = isinstance(annotation, dict) and 'id' in annotation
            faults[fault].append(annotation['id'] if known else f'the {place}th')
    if faults:
        told = [
            f'{len(ids)} of {len(annotations)} annotations (id {brief(ids)}) '
            f'have {fault}'
            for fault, ids in faults.items()
        ]
        raise DataError(f'{file}: {"; ".join(told[:3])}')


def _fault(annotation: dict, content: Content) -> str | None:
    """Say what an annotation has that must not be, but for its mask."""
    try:
        content.images[annotation['image_id']]
        content.categories[annotation['category_id']]
        x, y, width, height = annotation['bbox']
        if isfinite(x + y + width + height + annotation['area']):
            if width >= 0 and height >= 0:
                has_id = isinstance(annotation.get('id', []), Hashable)
                return None if has_id else 'no `id`'
            return 'a `bbox` of negative size; it is [left, top, width, height]'
    except (KeyError, TypeError, ValueError):
        pass
    if not isinstance(annotation, dict):
        return f'no fields, but are {annotation!r:.40}'
    for name in FIELDS:
        if annotation.get(name) is None:
            return f'no `{name}`'
    for name, known in (
        ('image_id', content.images),
        ('category_id', content.categories),
    ):
        if isinstance(annotation[name], list | dict) or annotation[name] not in known:
            return f'a `{name}` ({annotation[name]!r:.40}) that none is listed with'
    if not _is_number(annotation['area']):
        return f'an `area` that is no finite number ({annotation["area"]!r:.40})'
    return f'a `bbox` that is not four finite numbers ({annotation["bbox"]!r:.80})'


def _is_number(value) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _count(annotation: dict, content: Content, needs: Needs) -> str | None:
    """Count an annotation, or say what its mask has that must not be."""
    category = annotation['category_id']
    content.annotated[category].add(annotation['image_id'])
    image = content.images[annotation['image_id']]
    crowd = annotation.get('iscrowd') or annotation.get('ignore')
    reason = _reason_to_leave_out(annotation, image)
    if reason is None and needs.masks:
        mask = annotation.get('segmentation')
        fault, reason = mask_faults(mask, image)
        if fault is None and needs.mask_scores:
            fault = reason or _misread(mask)
        if fault is not None:
            return fault
        if needs.polygons and isinstance(mask, dict) and not crowd:
            reason = (
                'a run-length encoding as `segmentation`, where `LoadAnnotations` of '
                '`poly2mask=False` takes polygons alone; leave `poly2mask` out'
            )
    if reason is not None:
        content.left_out[reason].append(annotation['id'])
    elif crowd:
        content.crowds += 1
    else:
        content.objects[category] += 1
    return None


def _reason_to_leave_out(annotation: dict, image: dict) -> str | None:
    """Say why MMDetection leaves a box out."""
    x, y, width, height = annotation['bbox']
    if width < 1 or height < 1:
        return 'a `bbox` of less than a pixel'
    if annotation['area'] <= 0:
        return 'an `area` of 0 or less'
    inside = min(x + width, image['width']) > max(x, 0)
    if not inside or min(y + height, image['height']) <= max(y, 0):
        return 'a `bbox` outside of its picture'
    return None


def mask_faults(mask: list | dict | None, image: dict) -> tuple[str | None, str | None]:
    """Say what is wrong with a mask.

    Args:
        mask: polygons, or a run-length encoding.
        image: its picture's entry.

    Returns:
        What ends a run or spoils it, and what makes MMDetection ignore the object;
        None where there is no such thing.
    """
    if not mask:
        return (
            'no `segmentation`, which `with_mask=True` loads; add masks, or train a '
            'model of boxes alone',
            None,
        )
    if isinstance(mask, dict):
        return _encoding_fault(mask, image), None
    reach = REACH * max(image['height'], image['width'])
    whole = False
    try:
        for polygon in mask:
            if not isfinite(sum(polygon)):
                return 'a `segmentation` that holds NaN or infinity', None
            if polygon and max(max(polygon), -min(polygon)) > reach:
                return (
                    f'a `segmentation` that reaches over {REACH} times the size of '
                    'its picture',
                    None,
                )
            whole = whole or (len(polygon) >= 6 and len(polygon) % 2 == 0)
    except TypeError:
        return 'a `segmentation` that is no list of polygons [[x, y, x, y, ...]]', None
    if not whole:
        return None, 'a `segmentation` with no polygon of three points or more'
    return None, None


def _misread(mask: Any) -> str | None:
    """Say what pycocotools takes for something else: it looks at the first polygon."""
    if isinstance(mask, list) and (len(mask[0]) < 6 or not all(mask)):
        return (
            'a `segmentation` with an empty polygon, or a first one of less than three '
            'points, which pycocotools takes for a box or fails at'
        )
    return None


def _encoding_fault(mask: dict, image: dict) -> str | None:
    """Say what is wrong with a run-length encoding."""
    size, counts = mask.get('size'), mask.get('counts')
    if not isinstance(size, list) or not isinstance(counts, list | str):
        return 'a `segmentation` that is no run-length encoding of `size` and `counts`'
    expected = [image['height'], image['width']]
    if size != expected:
        return f'a `segmentation` of size {size}, where their picture has {expected}'
    counts = counts if isinstance(counts, list) else [*_decoded(counts)]
    if not all(isinstance(n, int) and n >= 0 for n in counts):
        return 'a `segmentation` whose `counts` are not all numbers from 0 up'
    if sum(counts) != size[0] * size[1]:
        return (
            f'a `segmentation` whose `counts` are {sum(counts)} pixels in all, where '
            f'their picture has {size[0] * size[1]}'
        )
    return None


def _decoded(counts: str) -> Iterator[int]:
    """Yield the lengths of the runs of a compressed encoding.

    A number takes one character for each five bits, the lowest first, from '0' on; 32
    says that more follow, 16 in the last that it is negative. From the fourth on, runs
    are told as differences from the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode():
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        yield runs[-1]
        value = shift = 0
