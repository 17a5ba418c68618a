"""The stand-in for mmcv's compiled operators, through ``mmcv.ops`` where it can be.

``data/mmcv_ops.npz`` holds results of mmcv's own kernels.
"""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmrecnext.mmcv_ext import OPERATORS, install, status

STANDS_IN = install()

from mmcv import ops  # noqa: E402
from mmcv.ops.multi_scale_deform_attn import (  # noqa: E402
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

ROOT = Path(__file__).parents[2]
GOLDEN = {
    name: torch.from_numpy(array)
    for name, array in np.load(ROOT / 'tests/data/mmcv_ops.npz').items()
}
SPATIAL_SHAPES = torch.tensor([[5, 7], [3, 2]])
LEVEL_STARTS = torch.tensor([0, 35])

needs_stand_in = pytest.mark.skipif(
    not STANDS_IN, reason='mmcv has its own compiled operators or the switch is off'
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA')
devices = pytest.mark.parametrize(
    'device', ['cpu', pytest.param('cuda', marks=needs_cuda)]
)


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    actual, expected = actual.cpu().double(), expected.cpu().double()
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Plain references -----------------------------------------------------------------


def bilinear(plane, y, x):
    """Sample (C, H, W) at one point as RoIAlign does: clamped to the border."""
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane[:, 0, 0] * 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    b, r = y - top, x - left
    upper = (1 - r) * plane[:, top, left] + r * plane[:, top, right]
    lower = (1 - r) * plane[:, bottom, left] + r * plane[:, bottom, right]
    return (1 - b) * upper + b * lower


def roi_align_reference(feat, rois, size, scale, ratio, mode, aligned):
    output = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        least = 0 if aligned else 1
        bin_h, bin_w = max(y2 - y1, least) / size[0], max(x2 - x1, least) / size[1]
        n_y, n_x = ratio or math.ceil(bin_h), ratio or math.ceil(bin_w)
        for i in range(size[0]):
            for j in range(size[1]):
                samples = [
                    bilinear(
                        feat[int(image)],
                        y1 + (i + (a + 0.5) / n_y) * bin_h,
                        x1 + (j + (b + 0.5) / n_x) * bin_w,
                    )
                    for a in range(n_y)
                    for b in range(n_x)
                ]
                samples = torch.stack(samples or [feat[0, :, 0, 0] * 0])
                output.append(samples.amax(0) if mode == 'max' else samples.mean(0))
    return torch.stack(output).view(len(rois), *size, -1).permute(0, 3, 1, 2)


def roi_pool_reference(feat, rois, size, scale):
    height, width = feat.shape[2:]
    output = []
    for image, x1, y1, x2, y2 in rois.tolist():
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        bin_h, bin_w = (y2 - y1) / size[0], (x2 - x1) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                rows = [math.floor(y1 + i * bin_h), math.ceil(y1 + (i + 1) * bin_h)]
                cols = [math.floor(x1 + j * bin_w), math.ceil(x1 + (j + 1) * bin_w)]
                top, bottom = (min(max(y, 0), height) for y in rows)
                left, right = (min(max(x, 0), width) for x in cols)
                pixels = feat[int(image), :, top:bottom, left:right].flatten(1)
                output.append(
                    pixels.max(1).values if pixels.numel() else feat[0, :, 0, 0] * 0
                )
    return torch.stack(output).view(len(rois), *size, -1).permute(0, 3, 1, 2)


def deform_conv_reference(x, offset, mask, weight, bias, settings):
    stride, padding, dilation, groups, deform_groups = settings
    height, width = x.shape[2:]
    kernel = weight.shape[2:]
    taps = offset.unflatten(1, (deform_groups, kernel[0] * kernel[1], 2))
    mask = mask.unflatten(1, (deform_groups, kernel[0] * kernel[1]))
    rows = torch.arange(offset.size(2))[:, None] * stride[0] - padding[0]
    cols = torch.arange(offset.size(3)) * stride[1] - padding[1]
    columns = []
    for tap in range(kernel[0] * kernel[1]):
        i, j = divmod(tap, kernel[1])
        parts = []
        for group, part in enumerate(x.chunk(deform_groups, 1)):
            y = taps[:, group, tap, 0] + rows + i * dilation[0]
            z = taps[:, group, tap, 1] + cols + j * dilation[1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            sampled = F.grid_sample(part, grid, align_corners=True)
            parts.append(sampled * mask[:, group, tap, None])
        columns.append(torch.cat(parts, 1))
    columns = torch.stack(columns, 2).flatten(1, 2)  # (B, C * taps, H', W')
    return F.conv2d(columns, weight.flatten(1)[..., None, None], bias, groups=groups)


def focal_loss_reference(logits, target, weight=None, gamma=1.5, alpha=0.3):
    truth = F.one_hot(target, logits.size(1) + 1)[:, :-1].to(logits)
    p = logits.sigmoid()
    wrong = truth * (1 - p) + (1 - truth) * p
    share = truth * alpha + (1 - truth) * (1 - alpha)
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction='none')
    loss = share * wrong**gamma * bce
    if weight is not None:
        loss = loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]
    return loss


def softmax_focal_loss_reference(logits, target, weight, gamma=1.5, alpha=0.3):
    log_p = logits.log_softmax(1)[torch.arange(len(target)), target]
    loss = -alpha * (1 - log_p.exp()) ** gamma * log_p
    return loss if weight is None else loss * weight[target]


# One row per operator ---------------------------------------------------------------


class Op(NamedTuple):
    """A function of mmcv, a plain reference of it, and tensors to differentiate."""

    run: callable
    reference: callable
    inputs: tuple


# inside, across the border, outside, without extent, and higher than wide; all are
# exact in bfloat16
ROIS = torch.tensor(
    [
        [0, 1.25, 2.0, 20.5, 17.75],
        [1, -6.5, -4.0, 9.25, 50.0],
        [1, 60.0, 70.0, 90.0, 80.0],
        [0, 7.25, 9.5, 7.25, 9.5],
        [1, 3.0, 1.0, 8.0, 30.0],
    ]
)
FEAT = random(2, 3, 9, 11)


def roi_align_op(mode, ratio, aligned):
    settings = (0.25, ratio, mode, aligned)
    return Op(
        lambda x: ops.roi_align(x, ROIS.to(x), (3, 2), *settings),
        lambda x: roi_align_reference(x, ROIS, (3, 2), *settings),
        (FEAT,),
    )


def deform_conv_op(stride, padding, dilation, groups, deform_groups, modulated, bias):
    settings = (stride, padding, dilation, groups, deform_groups)
    x, weight = random(2, 8, 9, 8), random(4, 8 // groups, 3, 2, seed=1)
    size = F.conv2d(x, weight, None, *settings[:4]).shape[2:]
    offset = 2 * random(2, deform_groups * 12, *size, seed=2)
    mask = random(2, deform_groups * 6, *size, seed=3).sigmoid()
    if not modulated:
        ones = torch.ones_like(mask)
        return Op(
            lambda x, o, w: ops.deform_conv2d(x, o, w, *settings),
            lambda x, o, w: deform_conv_reference(x, o, ones, w, None, settings),
            (x, offset, weight),
        )
    inputs = (x, offset, mask, weight) + ((random(4, seed=4),) if bias else ())
    return Op(
        lambda x, o, m, w, b=None: ops.modulated_deform_conv2d(
            x, o, m, w, b, *settings
        ),
        lambda x, o, m, w, b=None: deform_conv_reference(x, o, m, w, b, settings),
        inputs,
    )


LABELS = torch.tensor([2, 0, 3, 1, 2])
CLASS_WEIGHT = torch.tensor([0.5, 2.0, 1.5, 3.0], dtype=torch.float64)


def focal_loss_op(kind, weighted):
    # label 3 of 3 classes is the background of the sigmoid form
    classes = 3 if kind == 'sigmoid' else 4
    weight = CLASS_WEIGHT[:classes] if weighted else None
    run = getattr(ops, f'{kind}_focal_loss')
    reference = dict(
        sigmoid=focal_loss_reference, softmax=softmax_focal_loss_reference
    )[kind]

    def on_device(x):
        on = None if weight is None else weight.to(x)
        return run(x, LABELS.to(x.device), 1.5, 0.3, on, 'sum')

    return Op(
        on_device,
        lambda x: reference(x, LABELS, weight).sum(),
        (3 * random(5, classes),),
    )


def run_attention(value, locations, weights):
    return MultiScaleDeformableAttnFunction.apply(
        value,
        SPATIAL_SHAPES.to(value.device),
        LEVEL_STARTS.to(value.device),
        locations,
        weights,
        64,
    )


OPS = {
    **{
        f'roi_align-{mode}-ratio{ratio}-aligned{aligned:d}': roi_align_op(
            mode, ratio, aligned
        )
        for mode in ('avg', 'max')
        for ratio in (0, 2)
        for aligned in (False, True)
    },
    'roi_pool': Op(
        lambda x: ops.roi_pool(x, ROIS.to(x), (3, 2), 0.25),
        lambda x: roi_pool_reference(x, ROIS, (3, 2), 0.25),
        (FEAT,),
    ),
    'deform_conv': deform_conv_op((1, 1), (1, 1), (1, 1), 1, 1, False, False),
    'deform_conv-grouped': deform_conv_op((2, 1), (1, 2), (1, 2), 2, 4, False, False),
    'modulated': deform_conv_op((1, 1), (0, 1), (2, 1), 1, 2, True, False),
    'modulated-bias': deform_conv_op((2, 1), (1, 2), (1, 2), 4, 2, True, True),
    'sigmoid_focal_loss': focal_loss_op('sigmoid', False),
    'sigmoid_focal_loss-weight': focal_loss_op('sigmoid', True),
    'softmax_focal_loss': focal_loss_op('softmax', False),
    'softmax_focal_loss-weight': focal_loss_op('softmax', True),
    'ms_deform_attn': Op(
        run_attention,
        lambda v, at, w: multi_scale_deformable_attn_pytorch(v, SPATIAL_SHAPES, at, w),
        (
            random(2, 41, 2, 4),
            0.5 + 0.4 * random(2, 6, 2, 2, 3, 2, seed=1),
            random(2, 6, 2, 2, 3, seed=2).sigmoid(),
        ),
    ),
}
every_op = pytest.mark.parametrize('op', OPS.values(), ids=OPS)


def run_with_grads(function, inputs, grad_output=None):
    """Output of a function and the gradients of all its inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    output = function(*leaves)
    if grad_output is None:
        grad_output = random(*output.shape, seed=9)
    grads = torch.autograd.grad(output, leaves, grad_output.to(output))
    return output.detach(), *grads


@devices
@every_op
def test_matches_reference(op, device):
    actual = run_with_grads(op.run, [x.to(device) for x in op.inputs])
    expected = run_with_grads(op.reference, op.inputs)
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-9


@every_op
def test_gradcheck(op):
    inputs = [x.clone().requires_grad_() for x in op.inputs]
    assert gradcheck(op.run, inputs, fast_mode=True)


@devices
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@every_op
def test_half_precision_is_float32_rounded(op, dtype, device):
    half = [x.to(device, dtype) for x in op.inputs]
    actual = run_with_grads(op.run, half)
    expected = run_with_grads(op.run, [x.float() for x in half])
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, e) < 2 * torch.finfo(dtype).eps


@every_op
def test_autocast_does_not_lower_float32(op):
    inputs = [x.float() for x in op.inputs]
    with torch.autocast('cpu', torch.bfloat16):
        actual = run_with_grads(op.run, inputs)
    for a, e in zip(actual, run_with_grads(op.run, inputs), strict=True):
        assert torch.equal(a, e)


@every_op
def test_non_contiguous(op):
    strided = [x.mT.contiguous().mT for x in op.inputs if x.dim() > 1]
    strided += [x for x in op.inputs if x.dim() == 1]
    assert not strided[0].is_contiguous()
    grad_output = random(1)[0].expand(op.run(*op.inputs).shape)
    actual = run_with_grads(op.run, strided, grad_output)
    expected = run_with_grads(op.run, op.inputs, grad_output)
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-12


# mmcv's own results -----------------------------------------------------------------

DCN_INPUTS = ('dcn.x', 'dcn.offset', 'dcn.weight')
MODULATED_INPUTS = ('dcn.x', 'dcn.offset', 'dcn.mask', 'dcn.weight')


def golden_roi_align(ratio, aligned):
    return lambda x: ops.roi_align(
        x, GOLDEN['roi.rois'].to(x), (7, 5), 0.25, ratio, 'avg', aligned
    )


# name: function, inputs, what their gradients are named
GOLDEN_OPS = {
    'deform_conv2d': (
        lambda x, o, w: ops.deform_conv2d(x, o, w, 2, 1, 1, 2, 2),
        DCN_INPUTS,
        [name.replace('dcn.', 'grad_') for name in DCN_INPUTS],
    ),
    'modulated_deform_conv2d': (
        lambda x, o, m, w: ops.modulated_deform_conv2d(x, o, m, w, None, 2, 1, 1, 2, 2),
        MODULATED_INPUTS,
        [name.replace('dcn.', 'grad_') for name in MODULATED_INPUTS],
    ),
    **{
        f'roi_align.aligned{aligned:d}.ratio{ratio}': (
            golden_roi_align(ratio, aligned),
            ['roi.feat'],
            ['grad_in'],
        )
        for ratio in (0, 2)
        for aligned in (False, True)
    },
}


@devices
@pytest.mark.parametrize('name', GOLDEN_OPS)
def test_matches_mmcv(name, device):
    function, inputs, grads = GOLDEN_OPS[name]
    output = GOLDEN[name]
    grad_output = GOLDEN.get(f'{name}.grad_out', torch.ones_like(output))
    inputs = [GOLDEN[key].to(device) for key in inputs]
    actual = run_with_grads(function, inputs, grad_output)
    expected = [output] + [GOLDEN[f'{name}.{grad}'] for grad in grads]
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-4


@devices
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('iou', [0.3, 0.5, 0.7])
def test_nms_matches_mmcv(iou, offset, device):
    boxes, scores = (GOLDEN[f'nms.{k}'].to(device) for k in ('boxes', 'scores'))
    dets, index = ops.nms(boxes, scores, iou, offset)
    assert index.tolist() == GOLDEN[f'nms.iou{iou}.offset{offset}.index'].tolist()
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[index])


@devices
@pytest.mark.parametrize('iou', [0.3, 0.5, 0.7])
def test_batched_nms_matches_mmcv(iou, device):
    boxes, scores, ids = (
        GOLDEN[f'nms.{k}'].to(device) for k in ('boxes', 'scores', 'ids')
    )
    _, index = ops.batched_nms(boxes, scores, ids, dict(type='nms', iou_threshold=iou))
    assert index.tolist() == GOLDEN[f'batched_nms.iou{iou}.index'].tolist()


@devices
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_matches_mmcv(method, device):
    boxes, scores = (GOLDEN[f'nms.{k}'].to(device) for k in ('boxes', 'scores'))
    dets, index = ops.soft_nms(boxes, scores, 0.3, 0.5, 1e-3, method)
    assert index.tolist() == GOLDEN[f'soft_nms.{method}.index'].tolist()
    assert relative_error(dets, GOLDEN[f'soft_nms.{method}.dets']) < 1e-4


# Suppression ------------------------------------------------------------------------


def soft_nms_reference(boxes, scores, threshold, sigma, min_score, method, offset):
    """The indices and scores, box by box, in the dtype of the arrays given.

    The first of equal scores wins, after the swaps of the boxes before it.
    """
    rows = [[*box, s, i] for i, (box, s) in enumerate(zip(boxes, scores, strict=True))]

    def area(x1, y1, x2, y2):
        return max(x2 - x1 + offset, 0) * max(y2 - y1 + offset, 0)

    for i in range(len(rows)):
        if i >= len(rows):
            break
        best = max(range(i, len(rows)), key=lambda row: rows[row][4])
        rows[i], rows[best] = rows[best], rows[i]
        x1, y1, x2, y2 = rows[i][:4]
        j = i + 1
        while j < len(rows):
            a1, b1, a2, b2 = rows[j][:4]
            shared = area(max(x1, a1), max(y1, b1), min(x2, a2), min(y2, b2))
            iou = shared / (area(x1, y1, x2, y2) + area(a1, b1, a2, b2) - shared)
            factor = {'naive': 0, 'linear': 1 - iou}.get(method, 1)
            factor = factor if iou >= threshold else 1
            factor = np.exp(-(iou**2) / sigma) if method == 'gaussian' else factor
            rows[j][4] *= factor
            if rows[j][4] < min_score:
                rows[j] = rows[-1]
                rows.pop()
            else:
                j += 1
    return [row[5] for row in rows], [row[4] for row in rows]


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_breaks_ties_as_mmcv(method, offset):
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        corner = torch.randint(0, 6, (24, 2), generator=generator)
        size = torch.randint(1, 6, (24, 2), generator=generator)
        boxes = torch.cat([corner, corner + size], 1).float()
        scores = torch.randint(1, 5, (24,), generator=generator) / 4
        # thresholds that overlaps and scores meet exactly
        settings = (0.5, 0.5, 0.25, method, offset)
        dets, index = ops.soft_nms(boxes, scores, *settings)
        kept, decayed = soft_nms_reference(boxes.numpy(), scores.numpy(), *settings)
        assert index.tolist() == kept
        assert dets[:, 4].tolist() == pytest.approx(decayed, rel=1e-5)
        assert torch.equal(dets[:, :4], boxes[index])


def test_nms_compares_in_float32():
    # their overlap is 6 / 20, which does not exceed 0.3
    boxes = torch.tensor([[0.0, 0.0, 13.0, 1.0], [7.0, 0.0, 20.0, 1.0]])
    assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.3)[1].tolist() == [0, 1]


@needs_stand_in
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_in_parts(offset, monkeypatch):
    """Of boxes with gaps between them, equal scores, and edges that touch."""
    from mmrecnext.mmcv_ext import nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 400, (300, 2), generator=generator)
    size = torch.randint(0, 9, (300, 2), generator=generator)
    boxes = torch.cat([corner, corner + size], 1).float()
    boxes[7, 2] = boxes[7, 0] - 5  # inverted
    scores = torch.randint(1, 9, (300,), generator=generator) / 8
    expected = ops.nms(boxes, scores, 0.1, offset)[1]
    assert len(expected) < 300
    monkeypatch.setattr(nms, '_MANY', 0)
    monkeypatch.setattr(nms, '_SOME', 2)
    shifted = boxes + boxes.new_tensor([0, 0, offset, offset])
    assert len(nms._apart(shifted)) > 5
    assert ops.nms(boxes, scores, 0.1, offset)[1].tolist() == expected.tolist()
    lost = boxes.clone()
    lost[50] = float('nan')
    expected = torch.ops.torchvision.nms(lost, scores, 0.1)
    assert nms.nms(lost, scores, 0.1, 0).tolist() == expected.tolist()


@devices
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('function', [ops.nms, ops.soft_nms], ids=['nms', 'soft_nms'])
def test_suppression_in_half_precision(function, dtype, device):
    boxes, scores = (GOLDEN[f'nms.{k}'].to(device, dtype) for k in ('boxes', 'scores'))
    dets, index = function(boxes, scores, iou_threshold=0.5)
    expected, kept = function(boxes.float(), scores.float(), iou_threshold=0.5)
    assert dets.dtype == dtype
    assert index.tolist() == kept.tolist()
    assert torch.equal(dets, expected.to(dtype))


@needs_stand_in
def test_soft_nms_rejects_unknown_method():
    boxes = GOLDEN['nms.boxes']
    with pytest.raises(ValueError, match='0 naive, 1 linear or 2 gaussian, got 3'):
        ext().softnms(boxes, GOLDEN['nms.scores'], boxes, 0.3, 0.5, 0.0, 3, 0)


# Edges ------------------------------------------------------------------------------


def ext():
    from mmcv import _ext

    return _ext


NO_ROIS = torch.zeros(0, 5)
EMPTY = {
    'roi_align-avg': (
        lambda x: ops.roi_align(x, NO_ROIS.to(x), (3, 2), 0.25, 0, 'avg', True),
        (FEAT,),
        (0, 3, 3, 2),
    ),
    'roi_align-max': (
        lambda x: ops.roi_align(x, NO_ROIS.to(x), (3, 2), 0.25, 2, 'max', True),
        (FEAT,),
        (0, 3, 3, 2),
    ),
    'roi_pool': (
        lambda x: ops.roi_pool(x, NO_ROIS.to(x), (3, 2), 0.25),
        (FEAT,),
        (0, 3, 3, 2),
    ),
    'sigmoid_focal_loss': (
        lambda x: ops.sigmoid_focal_loss(x, LABELS[:0], 2.0, 0.25, None, 'none'),
        (random(0, 3),),
        (0, 3),
    ),
    'softmax_focal_loss': (
        lambda x: ops.softmax_focal_loss(x, LABELS[:0], 2.0, 0.25, None, 'sum'),
        (random(0, 3),),
        (),
    ),
    'ms_deform_attn': (
        run_attention,
        (random(2, 41, 2, 4), random(2, 0, 2, 2, 3, 2), random(2, 0, 2, 2, 3)),
        (2, 0, 8),
    ),
}


@pytest.mark.parametrize('name', EMPTY)
def test_empty(name):
    function, inputs, shape = EMPTY[name]
    output, *grads = run_with_grads(function, inputs)
    assert output.shape == shape
    assert not output.any()
    for grad, x in zip(grads, inputs, strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


@pytest.mark.parametrize('function', [ops.nms, ops.soft_nms], ids=['nms', 'soft_nms'])
def test_suppression_of_nothing(function):
    dets, index = function(torch.zeros(0, 4), torch.zeros(0), iou_threshold=0.5)
    assert dets.shape == (0, 5)
    assert index.shape == (0,)
    assert index.dtype == torch.int64


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss_of_certain_predictions_is_finite(kind, gamma):
    logits = 500 * torch.tensor([[1.0, 0.0, -1.0]]).repeat(3, 1)
    target = torch.tensor([0, 1, 2])
    loss = getattr(ops, f'{kind}_focal_loss')
    output, grad = run_with_grads(
        lambda x: loss(x, target, gamma, 0.25, None, 'sum'), [logits]
    )
    assert output.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize('label', [-1, 4])
def test_softmax_focal_loss_ignores_other_labels(label):
    target = torch.tensor([1, label, 2])
    weight = CLASS_WEIGHT.double()

    def loss(x):
        return ops.softmax_focal_loss(x, target, 1.5, 0.3, weight, 'sum')

    output, grad = run_with_grads(loss, [random(3, 4)], torch.ones(()))
    rest = softmax_focal_loss_reference(
        random(3, 4)[[0, 2]], target[[0, 2]], CLASS_WEIGHT
    )
    assert relative_error(output, rest.sum()) < 1e-12
    assert not grad[1].any()
    assert grad[0].any()


def test_deform_conv_weight_gradient_alone():
    """The kernel that yields all gradients at once serves every combination."""
    op = OPS['deform_conv-grouped']
    x, offset, weight = op.inputs
    expected = run_with_grads(op.run, op.inputs)[3]
    _, alone = run_with_grads(lambda w: op.run(x, offset, w), [weight])
    assert torch.equal(alone, expected)


def test_deform_conv_backward_twice():
    op = OPS['deform_conv']
    leaves = [x.clone().requires_grad_() for x in op.inputs]
    output = op.run(*leaves)
    once = torch.autograd.grad(output.sum(), leaves, retain_graph=True)
    twice = torch.autograd.grad(3 * output.sum(), leaves)
    for a, e in zip(twice, once, strict=True):
        assert relative_error(a, 3 * e) < 1e-12


@needs_stand_in
def test_deform_conv_scratch_is_used_once():
    """backward_input leaves the gradient of the weight for backward_parameters."""
    x, offset, weight = OPS['deform_conv'].inputs
    ones = torch.ones_like(OPS['deform_conv'].run(x, offset, weight))
    geometry = dict(kW=2, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1)
    geometry |= dict(group=1, deformable_group=1, im2col_step=2)
    scratch = x.new_empty(0)

    def grad_weight(grad_output, start, scale):
        grad = torch.full_like(weight, start)
        ext().deform_conv_backward_parameters(
            x, offset, grad_output, grad, scratch, scratch, scale=scale, **geometry
        )
        return grad

    expected = grad_weight(ones, 0.0, 1.0)
    grads = torch.zeros_like(x), torch.zeros_like(offset)
    ext().deform_conv_backward_input(
        x, offset, ones, *grads, weight, scratch, **geometry
    )
    assert relative_error(grad_weight(ones, 1.0, 2.0), 1 + 2 * expected) < 1e-12
    assert relative_error(grad_weight(3 * ones, 1.0, 2.0), 1 + 6 * expected) < 1e-12


@needs_stand_in
def test_roi_align_max_of_nothing_is_written():
    rois = torch.tensor([[0, 7.25, 9.5, 7.25, 9.5]], dtype=torch.float64)
    output, y, x = (torch.full((1, 3, 2, 2), 7.0) for _ in range(3))
    ext().roi_align_forward(FEAT, rois, output, y, x, 2, 2, 0.25, 0, 0, True)
    assert not output.any()
    assert (y == -1).all()
    assert (x == -1).all()


def test_roi_pool_of_inverted_region_is_zero():
    # its corners share a pixel, which is thus touched
    rois = torch.tensor([[0, 5.5, 5.5, 4.25, 4.25]], dtype=torch.float64)
    output, grad = run_with_grads(lambda x: ops.roi_pool(x, rois, (1, 1), 1.0), [FEAT])
    assert not output.any()
    assert not grad.any()


# The module and its finder ----------------------------------------------------------


@needs_stand_in
def test_every_listed_operator_is_defined():
    assert set(OPERATORS) < vars(ext()).keys()
    assert set(ext().__all__) >= set(OPERATORS)
    assert all(hasattr(ext(), name) for name in ext().__all__)
    assert status() == OPERATORS


@needs_stand_in
def test_says_that_it_is_a_stand_in():
    import torchvision

    for version in (ops.get_compiler_version(), ops.get_compiling_cuda_version()):
        assert f'mmrecnext stand-in on torchvision {torchvision.__version__}' in version


UNSUPPORTED = {
    'border_align_forward': lambda: ops.border_align(
        torch.rand(1, 4, 3, 3), torch.rand(1, 9, 4), 2
    ),
    'tin_shift_forward': lambda: ops.tin_shift(
        torch.rand(1, 2, 4, 1), torch.zeros(1, 2, dtype=torch.int32)
    ),
}


@needs_stand_in
@pytest.mark.parametrize('name', UNSUPPORTED)
def test_unsupported_operator_says_how_to_get_it(name):
    advice = f'^{name} .*mim install "(onedl-)?mmcv>='
    with pytest.raises(NotImplementedError, match=advice):
        UNSUPPORTED[name]()


@needs_stand_in
def test_special_names_are_no_operators():
    assert not hasattr(ext(), '__path__')
    assert not hasattr(ext(), '_private')


@needs_stand_in
def test_frameworks_see_the_operators():
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.utils.dl_utils.misc import mmcv_full_available

    assert check_ops_exist()
    assert mmcv_full_available()


def run_python(code, *paths, **variables):
    """What a fresh interpreter prints, its log included."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    unset = {'MMRECNEXT_MMCV_EXT', 'RANK', 'LOCAL_RANK'}
    clean = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**clean, 'PYTHONPATH': path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=paths[0] if paths else ROOT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_package(folder, **modules):
    package = folder / 'mmcv'
    package.mkdir()
    for name, code in {'__init__': '', **modules}.items():
        (package / f'{name}.py').write_text(code)
    return folder


# a package with nothing in it lacks its compiled module just as mmcv-lite does
INSTALL = """
import sys
from mmrecnext.mmcv_ext import install, status
print('installed:', install(), install())
print('status:', *sorted(set(status().values())))
print('finders:', sum('StandIn' in str(finder) for finder in sys.meta_path))
print('last:', 'StandIn' in str(sys.meta_path[-1]))
"""


@pytest.mark.slow
def test_finder_is_installed_once(tmp_path):
    printed = run_python(INSTALL, make_package(tmp_path))
    assert 'stands in' not in printed
    assert 'installed: True True' in printed
    assert 'status: pytorch torchvision' in printed
    assert 'finders: 1' in printed
    assert 'last: True' in printed


@pytest.mark.slow
def test_compiled_module_is_never_touched(tmp_path):
    folder = make_package(tmp_path, _ext="ORIGIN = 'compiled'")
    printed = run_python(INSTALL + 'import mmcv._ext; print(mmcv._ext.ORIGIN)', folder)
    assert 'stands in' not in printed
    assert 'installed: False False' in printed
    assert 'status: mmcv\n' in printed
    assert 'compiled' in printed


@pytest.mark.slow
@needs_stand_in
def test_switched_off():
    code = """
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print('lacks', error.name)
"""
    printed = run_python(INSTALL + code, MMRECNEXT_MMCV_EXT='0')
    assert 'stands in' not in printed
    assert 'installed: False False' in printed
    assert 'status: missing\n' in printed
    assert 'lacks mmcv._ext' in printed


# the file by itself: what importing its package loads does not count
ALONE = f"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
path = {str(ROOT / 'mmrecnext/mmcv_ext/__init__.py')!r}
spec = spec_from_file_location('mmcv_ext', path)
mmcv_ext = module_from_spec(spec)
spec.loader.exec_module(mmcv_ext)
"""


def test_import_is_light():
    code = "print(*{'torch', 'torchvision', 'mmcv', 'mmengine'} & sys.modules.keys())"
    assert run_python(ALONE + code) == '\n'


# only what goes to stderr is seen
ANNOUNCED = """
import os, sys
sys.stdout = open(os.devnull, 'w')
import mmrecnext, mmcv._ext, mmcv._ext
"""


@pytest.mark.slow
def test_announced_on_stderr_once_the_module_is_loaded(tmp_path):
    folder = make_package(tmp_path)
    assert 'stands in' not in run_python('import mmrecnext, mmcv', folder)
    assert run_python(ANNOUNCED, folder).count('stands in') == 1


@pytest.mark.slow
@pytest.mark.parametrize('variable', ['RANK', 'LOCAL_RANK'])
def test_announced_on_the_first_rank_only(variable, tmp_path):
    printed = run_python(ANNOUNCED, make_package(tmp_path), **{variable: '1'})
    assert 'stands in' not in printed
