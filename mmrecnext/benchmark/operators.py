"""Operators of detectors, in place of mmcv's, beside others of the same task.

And pasting of masks, in place of MMDetection's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.benchmark.measure import time_in_turns
from mmrecnext.benchmark.workloads import Workload
from mmrecnext.engine.pasting import paste_in_boxes
from mmrecnext.mmcv_ext import install

COLUMNS = ('operator', 'of', 'beside', 'its ms', 'here, ms', 'gain')
TORCHVISION, PLAIN, MMDETECTION = 'torchvision', 'plain PyTorch', 'MMDetection'
IMAGE = (800, 1344)


@dataclass
class Task:
    """What is computed in two ways, or in one where there is no other.

    Args:
        operator: its name.
        size: of what it is given, in words.
        beside: whose the other way is.
        here: computes by the operator that is taken here.
        other: the other way, None for none.
        seconds: of each, one per repeat.
    """

    operator: str
    size: str
    beside: str
    here: Callable[[], Any]
    other: Callable[[], Any] | None
    seconds: list[list[float]] = field(default_factory=list)


def boxes(count: int, device: str, longest: float = 600.0) -> Tensor:
    """Return corners ``[count, 4]`` of boxes in an image, from 16 pixels on."""
    generator = torch.Generator().manual_seed(0)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    height, width = IMAGE
    side, stretch = 16 * (longest / 16) ** uniform(), 2 ** (uniform() - 0.5)
    wide, high = side * stretch, side / stretch
    wide, high = wide.clamp(max=width), high.clamp(max=height)
    x, y = uniform() * (width - wide), uniform() * (height - high)
    return torch.stack([x, y, x + wide, y + high], 1).to(device)


def roi_align_tasks(device: str) -> Iterator[Task]:
    """Yield RoIAlign on the finest map of a pyramid, channels-last as in a network."""
    from mmcv import ops
    from torchvision import ops as others

    def task(count: int, side: int, ratio: int, dtype: torch.dtype, step: bool) -> Task:
        corners = boxes(count, device, 112.0)
        rois = F.pad(corners, (1, 0))
        features = torch.randn(1, 256, 200, 336, device=device, dtype=dtype)
        features = features.contiguous(memory_format=torch.channels_last)
        features.requires_grad_(step)
        rois = rois.to(dtype)
        size = f'{count} boxes, {side} x {side}, sampling {ratio}, {dtype}'
        return Task(
            'RoIAlign' + ', step' * step,
            size.replace('torch.', ''),
            TORCHVISION,
            stepping(
                lambda: ops.roi_align(features, rois, side, 0.25, ratio, 'avg', True),
                step,
            ),
            stepping(
                # which has none in bfloat16
                lambda: others.roi_align(
                    features.float(), rois.float(), side, 0.25, ratio, True
                ),
                step,
            ),
        )

    for ratio in (0, 2):
        yield task(1000, 7, ratio, torch.float32, False)
    yield task(1000, 7, 0, torch.bfloat16, False)
    yield task(100, 14, 0, torch.float32, False)
    yield task(4, 7, 0, torch.float32, False)
    yield task(512, 7, 0, torch.float32, True)


def roi_pool_tasks(device: str) -> Iterator[Task]:
    """Yield RoI pooling. That of torchvision rounds the corners of regions."""
    from mmcv import ops
    from torchvision import ops as others

    features = torch.randn(1, 256, 100, 168, device=device)
    rois = F.pad(boxes(300, device), (1, 0))
    yield Task(
        'RoI pooling',
        '300 boxes, 7 x 7',
        TORCHVISION,
        lambda: ops.roi_pool(features, rois, 7, 0.125),
        lambda: others.roi_pool(features, rois, 7, 0.125),
    )


def nms_tasks(device: str) -> Iterator[Task]:
    """Yield suppression, of one class, of 80, and soft."""
    from mmcv import ops
    from torchvision import ops as others

    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> tuple[Tensor, Tensor, Tensor]:
        # twenty around each, as a detector finds them
        around = boxes(count // 20, device).repeat(20, 1)
        extent = (around[:, 2:] - around[:, :2]).repeat(1, 2)
        shift = 0.1 * torch.randn(len(around), 4, generator=generator).to(device)
        scores = torch.rand(len(around), generator=generator).to(device)
        classes = torch.randint(80, (count // 20,), generator=generator).repeat(20)
        return around + shift * extent, scores, classes.to(device)

    for count in (1000, 20000):
        corners, scores, _ = draw(count)
        yield Task(
            'NMS',
            f'{count} boxes',
            TORCHVISION,
            partial(ops.nms, corners, scores, 0.7),
            partial(others.nms, corners, scores, 0.7),
        )
    corners, scores, classes = draw(5000)
    yield Task(
        'batched NMS',
        '5000 boxes of 80 classes',
        TORCHVISION,
        lambda: ops.batched_nms(
            corners, scores, classes, dict(type='nms', iou_threshold=0.5)
        ),
        lambda: others.batched_nms(corners, scores, classes, 0.5),
    )
    few, few_scores, _ = draw(1000)
    yield Task(
        'soft NMS',
        '1000 boxes',
        '',
        lambda: ops.soft_nms(few, few_scores, 0.3, 0.5, 1e-3, 'linear'),
        None,
    )


def deform_conv_tasks(device: str) -> Iterator[Task]:
    """Yield a modulated deformable convolution, and its step."""
    from mmcv import ops
    from torchvision import ops as others

    shapes = (1, 128, 50, 84), (1, 18, 50, 84), (1, 9, 50, 84), (128, 128, 3, 3)
    for step in (False, True):
        x, offset, mask, weight = (
            torch.randn(shape, device=device).requires_grad_(step) for shape in shapes
        )
        yield Task(
            'deformable convolution' + ', step' * step,
            '128 x 50 x 84, 3 x 3',
            TORCHVISION,
            stepping(
                partial(
                    ops.modulated_deform_conv2d, x, offset, mask, weight, None, *[1] * 5
                ),
                step,
            ),
            stepping(
                partial(others.deform_conv2d, x, offset, weight, None, 1, 1, 1, mask),
                step,
            ),
        )


def attention_tasks(device: str) -> Iterator[Task]:
    """Yield multi-scale deformable attention of a decoder's queries.

    On a CPU mmcv's layers call the plain form themselves.
    """
    from mmcv.ops import multi_scale_deform_attn as attention

    shapes = torch.tensor([[100, 168], [50, 84], [25, 42], [13, 21]], device=device)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    value = torch.randn(1, int(shapes.prod(1).sum()), 8, 32, device=device)
    at = torch.rand(1, 900, 8, 4, 4, 2, device=device)
    weights = torch.rand(1, 900, 8, 4, 4, device=device)
    yield Task(
        'deformable attention',
        '900 queries, 4 levels',
        PLAIN,
        lambda: attention.MultiScaleDeformableAttnFunction.apply(
            value, shapes, starts, at, weights, 64
        ),
        lambda: attention.multi_scale_deformable_attn_pytorch(
            value, shapes, at, weights
        ),
    )


def focal_loss_tasks(device: str) -> Iterator[Task]:
    """Yield the focal loss of a dense head. On a CPU MMDetection has a plain one."""
    from mmcv import ops
    from torchvision import ops as others

    logits = torch.randn(50000, 80, device=device, requires_grad=True)
    target = torch.arange(50000, device=device) % 81
    yield Task(
        'focal loss, step',
        '50000 x 80',
        PLAIN,
        stepping(
            lambda: ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'sum'), True
        ),
        stepping(
            lambda: others.sigmoid_focal_loss(
                logits, F.one_hot(target, 81)[:, :80].to(logits)
            ),
            True,
        ),
    )


def pasting_tasks(device: str) -> Iterator[Task]:
    """Yield what becomes of the masks of a picture, of large objects and of small."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmengine.config import ConfigDict

    heads: list[Any] = [FCNMaskHead(num_convs=0, in_channels=1) for _ in range(2)]
    paste_in_boxes(heads[0])
    logits = torch.randn(100, 80, 28, 28, device=device)
    labels = torch.arange(100, device=device) % 80
    meta = dict(ori_shape=IMAGE, scale_factor=(1.0, 1.0))
    cfg = ConfigDict(mask_thr_binary=0.5)
    for longest in (600.0, 100.0):
        corners = boxes(100, device, longest)
        here, other = (
            partial(
                head._predict_by_feat_single, logits, corners, labels, meta, cfg, True
            )
            for head in heads
        )
        size = f'100 of 80 classes, 16 to {longest:.0f} pixels'
        yield Task('masks, pasted', size, MMDETECTION, here, other)


TASKS = {
    'roi_align': roi_align_tasks,
    'roi_pool': roi_pool_tasks,
    'nms': nms_tasks,
    'deform_conv': deform_conv_tasks,
    'deform_attn': attention_tasks,
    'focal_loss': focal_loss_tasks,
    'pasting': pasting_tasks,
}


def stepping(forward: Callable[[], Tensor], step: bool) -> Callable[[], Any]:
    """Return a call of ``forward``, with the backward pass of its sum for a step."""
    if not step:
        return forward
    return lambda: forward().sum().backward()


def measure_operators(
    names: Sequence[str] = (),
    device: str = 'cpu',
    repeats: int = 5,
    clock: str = 'wall',
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> list[Task]:
    """Time operators, each in turn with the other way.

    Args:
        names: of ``TASKS``; all, where none is given.
        device: where.
        repeats: how often.
        clock: a name in ``CLOCKS``.
        progress: is told what comes next, and what share is done.
    """
    install()
    found = []
    names = names or [*TASKS]
    for i, name in enumerate(names):
        for task in TASKS[name](device):
            progress(f'{task.operator}, {task.size}', i / len(names))
            ways = [
                Workload(way, None, nn.Identity(), device)
                for way in (task.here, task.other)
                if way
            ]
            task.seconds = time_in_turns(ways, repeats, clock, lambda *_: None)
            found.append(task)
    return found


def operator_rows(tasks: Sequence[Task]) -> tuple[tuple[str, ...], list[tuple]]:
    """Return columns and rows: the medians, and how many times faster it is here."""
    rows = []
    for task in tasks:
        here, other = (*map(median, task.seconds), math.nan)[:2]
        figures = [f'{1000 * other:.3g}', f'{1000 * here:.3g}', f'{other / here:.2f}']
        if not task.other:
            figures = ['', figures[1], '']
        rows.append((task.operator, task.size, task.beside, *figures))
    return COLUMNS, rows
