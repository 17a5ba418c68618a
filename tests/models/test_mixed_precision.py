"""Half precision against single: token mixers, all models, and training."""

import pytest
import torch
from torch import nn

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.models import LinearAttn, RecAttn, RecConv
from mmrecnext.pretrained import FIGURES
from tests.helpers import golden_input, golden_weights

pytestmark = pytest.mark.slow

# Root mean square of what half precision changes, over the spread of single's.
BOUNDS = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
MIXERS = {
    'RecConv': lambda: RecConv(16, level=4),
    'RecAttn': lambda: RecAttn(16, num_heads=2),
    'LinearAttn': lambda: LinearAttn(16, qk_ratio=1, qk_groups=1),
}


def deviation(own, reference):
    own = own.float()
    assert own.isfinite().all()
    return (own - reference).square().mean().sqrt() / reference.std()


@pytest.mark.parametrize('dtype', BOUNDS, ids=str)
@pytest.mark.parametrize('scale', [1, 10, 100])
@pytest.mark.parametrize('kind', MIXERS)
def test_token_mixers_at_800_by_1344(kind, scale, dtype):
    """The first stage's map of such an image, at activations of ``scale``."""
    torch.manual_seed(0)
    mixer = MIXERS[kind]().train()
    x = scale * (torch.randn(1, 16, 200, 336) + 0.5)
    cotangent = torch.randn_like(x)
    results = []
    for enabled in (False, True):
        source = x.clone().requires_grad_()
        with torch.autocast('cpu', dtype, enabled):
            y = mixer(source)
        y.backward(cotangent.to(y.dtype))
        results.append((y.detach(), source.grad))
    for own, reference in zip(*results[::-1], strict=True):
        assert deviation(own, reference) <= BOUNDS[dtype]


# No processor is quick at convolutions in float16, of which there is a model per mixer.
MODELS = [
    *((arch, torch.bfloat16) for arch in ARCHS),
    *((arch, torch.float16) for arch in ('m0', 'a0', 't', 't_share_channel')),
]


@pytest.mark.parametrize(('arch', 'dtype'), MODELS, ids=str)
def test_models(arch, dtype):
    """A training step, and inference by the statistics of that batch."""
    torch.manual_seed(0)
    depths = [min(depth, 1) for depth in ARCHS[arch].depths]
    if 'share' in arch:
        depths[3] = 5  # one block reuses what four have attended to
    model = RecNeXt(dict(base=arch, depths=depths)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    # Norms over a handful of pixels, as with smaller images, would enlarge any error.
    image = torch.randn(2, 3, *[4 * max(model.out_strides)] * 2)
    with torch.autocast('cpu', dtype):
        maps = model(image)
    sum(x.float().square().mean() for x in maps).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        expected = model(image)
        for own, reference in zip(maps, expected, strict=True):
            assert deviation(own, reference) <= 8 * BOUNDS[dtype]
        model.eval()
        expected = model(image)
        with torch.autocast('cpu', dtype):
            maps = model(image)
        for own, reference in zip(maps, expected, strict=True):
            assert deviation(own, reference) <= 8 * BOUNDS[dtype]


@pytest.mark.parametrize('arch', FIGURES)
@torch.no_grad()
def test_whole_models_in_inference(arch, golden_states):
    """All blocks, with golden weights: by autocast, and switched to bf16 weights."""
    model = RecNeXt(arch).eval()
    model.load_state_dict(golden_weights(golden_states, arch))
    image = golden_input()
    expected = model(image)
    maps = {}
    for dtype in BOUNDS:
        with torch.autocast('cpu', dtype):
            maps[dtype] = [model(image)]
    model.switch_to_deploy()
    maps[torch.bfloat16].append(model.bfloat16()(image.bfloat16()))
    for dtype, runs in maps.items():
        for run in runs:
            for own, reference in zip(run, expected, strict=True):
                assert deviation(own, reference) <= BOUNDS[dtype]


def squares(n):
    """Noise with bright squares, and where they are: 1 in 8 x 8 pixels."""
    masks = torch.zeros(n, 16, 16)
    for mask in masks:
        top, left = torch.randint(0, 12, (2,))
        mask[top : top + 4, left : left + 4] = 1
    images = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    return images + torch.randn(n, 3, 64, 64), masks


def train(dtype, steps=40):
    """Learn to find squares; return the loss of each step."""
    torch.manual_seed(0)
    arch = dict(base='a0', dims=(16, 32, 64, 128), depths=(1, 1, 1, 1))
    model = RecNeXt(arch, out_indices=(0,)).train()
    head = nn.Conv2d(16, 1, 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], 3e-3)
    scaler = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16)
    losses = []
    for _ in range(steps):
        images, masks = squares(8)
        with torch.autocast('cpu', dtype, dtype != torch.float32):
            logits = head(model(images)[0])[:, 0].float()
            loss = nn.functional.binary_cross_entropy_with_logits(logits, masks)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


def test_learns_as_in_single_precision():
    single = train(torch.float32)
    last = sum(single[-10:])
    assert last < 0.5 * sum(single[:10])  # there is something to learn
    for dtype in BOUNDS:
        losses = train(dtype)
        assert torch.tensor(losses).isfinite().all()
        assert sum(losses[-10:]) <= 1.1 * last
