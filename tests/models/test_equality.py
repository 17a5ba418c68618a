"""Against the original computation, in double, in every form that a model has.

Single precision cannot tell another formula from another order of rounding.
"""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.benchmark.original import Original, original_of
from mmrecnext.checkpoint import load_pretrained, read_checkpoint
from mmrecnext.checkpoint.convert import convert
from mmrecnext.classification import load_classifier
from mmrecnext.models.fusion import fuse_conv_norms
from tests.helpers import SMALL, golden_tensor, golden_weights, randomise

TOLERANCE = 1e-12
SIZES = [(65, 97), (33, 31), (1, 40)]

every_arch = pytest.mark.parametrize('arch', ARCHS)
every_series = pytest.mark.parametrize('base', SMALL)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def image(size, n=1):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0))


def assert_equal(maps, expected):
    for x, y in zip(maps, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype == torch.float64
        assert (x - y).abs().max() <= TOLERANCE * y.abs().max()


def published(arch, weights):
    """A published model and the original computation, with the same weights."""
    weights = {k: v for k, v in weights.items() if not k.startswith('head.')}
    with torch.device('meta'):  # no time for weights that are replaced
        models = RecNeXt(arch), Original(ARCHS[arch])
    for model in models:
        model.load_state_dict(weights, assign=True)
        model.eval()
    return models


def doubled(weights):
    return {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}


@every_arch
@torch.no_grad()
def test_every_model(arch):
    with torch.device('meta'):
        shapes = {k: v.shape for k, v in RecNeXt(arch).state_dict().items()}
    weights = {key: golden_tensor(key, shape) for key, shape in shapes.items()}
    model, original = published(arch, doubled(weights))
    expected = original(image((33, 31)))
    assert_equal(model(image((33, 31))), expected)
    model.switch_to_deploy()
    assert_equal(model(image((33, 31))), expected)


FORMS = {
    'published': 'recnext.pth',
    'safetensors': 'model.safetensors',
    'backbone': 'backbone.pth',
}


def logits_of(x, weights):
    """What both heads make of the last map, on average."""
    x = x.mean((2, 3))
    logits = []
    for head in ('head.head', 'head.head_dist'):
        norm = {k: weights[f'{head}.norm.{k}'] for k in ('weight', 'bias')}
        state = [weights[f'{head}.norm.running_{k}'] for k in ('mean', 'var')]
        linear = [weights[f'{head}.linear.{k}'] for k in ('weight', 'bias')]
        logits.append(F.linear(F.batch_norm(x, *state, **norm), *linear))
    return sum(logits) / 2


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['m0', 'a0'])
@torch.no_grad()
def test_converted_weights(arch, golden_states, tmp_path, monkeypatch):
    """Each form made of the one before it, as a file, and read into a new model."""
    monkeypatch.setattr('mmrecnext.checkpoint.convert.INPUT_SIDE', 64)  # sooner
    weights = doubled(golden_weights(golden_states, arch, head=True))
    _, original = published(arch, weights)
    expected = original(image((33, 31)))
    logits = logits_of(expected[-1], weights)

    def write(form, file, checkpoint):
        convert(checkpoint, form, tmp_path / file, 'golden weights')
        return str(tmp_path / file)

    def load(file, deploy=False):
        with torch.device('meta'):
            model = RecNeXt(arch, deploy=deploy)
        load_pretrained(model.to_empty(device='cpu'), file)
        return model.eval()

    checkpoint = weights
    for form, name in FORMS.items():
        file = write(form, name, checkpoint)
        assert_equal(load(file)(image((33, 31))), expected)
        checkpoint = read_checkpoint(file, 'cpu')
    fused = write('fused', 'recnext_fused.pt', weights)
    assert_equal(load(fused, deploy=True)(image((33, 31))), expected)

    name = f'recnext_{arch}'
    overlay = dict(file=str(tmp_path / FORMS['safetensors']))
    of_timm = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    for model in (of_timm.eval(), load_classifier(name, fused)):
        last, maps = model.forward_intermediates(image((33, 31)))
        assert_equal(maps, expected)
        assert_equal([model.forward_head(last)], [logits])


def dilate(original, strides, limit):
    """Have no map exceed a stride: kernels widen by what was not reduced."""
    for stage, stride in zip(original.stages, strides, strict=True):
        forgone = max(1, stride // limit)
        parts = [(stage.blocks, forgone)]
        if forgone > 1:
            parts += [(stage.downsample, forgone // 2)]
        for part, dilation in parts:
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.dilation = (dilation, dilation)
                    if part is not stage.blocks:
                        conv.stride = (1, 1)
                    conv.padding = tuple(dilation * (k // 2) for k in conv.kernel_size)


@pytest.mark.parametrize(
    ('size', 'output_stride'),
    [*((size, None) for size in SIZES), ((65, 97), 8), ((33, 31), 16)],
    ids=str,
)
@every_series
def test_every_form(base, size, output_stride):
    torch.manual_seed(0)
    model = randomise(RecNeXt(SMALL[base], output_stride=output_stride))
    original = original_of(model)
    if output_stride is not None:
        dilate(original, model.arch.strides, output_stride)
    expected = original(image(size))
    assert_equal(model(image(size)), expected)
    for change in (lambda model: None, fuse_conv_norms, RecNeXt.switch_to_deploy):
        change(model)
        with torch.no_grad():
            assert_equal(model(image(size)), expected)


# Of two pixels in a batch, a norm makes 1 and -1, whatever rounding left between them.
@pytest.mark.parametrize(
    ('size', 'output_stride'),
    [((65, 97), None), ((129, 70), None), ((33, 49), 8)],
    ids=str,
)
@every_series
def test_training(base, size, output_stride):
    torch.manual_seed(0)
    model = randomise(RecNeXt(SMALL[base], output_stride=output_stride)).train()
    original = original_of(model)
    if output_stride is not None:
        dilate(original, model.arch.strides, output_stride)
    assert_equal(model(image(size, n=2)), original(image(size, n=2)))
    for (name, own), other in zip(
        model.named_buffers(), original.buffers(), strict=True
    ):
        assert torch.allclose(own, other, rtol=TOLERANCE, atol=TOLERANCE), name
