import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.errors import OptionError
from mmrecnext.models import LinearAttn, RecConv
from mmrecnext.models.blocks import SharedChannels, SharingBlock
from mmrecnext.pretrained import FIGURES
from tests.helpers import SERIES, SUBSETS, TINY, golden_input, golden_weights


def batch(*size, n=2):
    return torch.randn(n, 3, *(size or (64, 64)))


@pytest.mark.parametrize('arch', FIGURES)
class TestPublishedModel:
    def test_keys_shapes_and_size(self, arch, golden_states):
        golden = golden_states[f'recnext_{arch}']
        model = RecNeXt(arch)
        own = [[key, list(value.shape)] for key, value in model.state_dict().items()]
        assert own == [kv for kv in golden['train'] if not kv[0].startswith('head.')]

        head = [kv for kv in golden['train'] if kv[0].startswith('head.')]
        head_size = sum(
            np.prod(shape)
            for key, shape in head
            if not key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
        )
        size = sum(p.numel() for p in model.parameters())
        assert size + head_size == golden['params_train']

    def test_maps(self, arch, golden_states, golden_features):
        model = RecNeXt(arch)
        model.load_state_dict(golden_weights(golden_states, arch))
        with torch.no_grad():
            maps = model.eval()(golden_input())
        for stage, x in enumerate(maps):
            name = f'recnext_{arch}.stage{stage}'
            assert x.shape == tuple(golden_features[name + '.shape'])
            sample = np.linspace(0, x.numel() - 1, 256).astype(int)
            values = x.flatten()[torch.from_numpy(sample)].numpy()
            error = np.abs(values - golden_features[name]).max()
            assert error / golden_features[name + '.std'] <= 1e-5

    def test_channels_and_strides(self, arch):
        model = RecNeXt(arch, out_indices=(3, 1))
        maps = model.eval()(batch(65, 97, n=1))
        assert model.out_channels == (ARCHS[arch].dims[3], ARCHS[arch].dims[1])
        for x, channels, stride in zip(
            maps, model.out_channels, model.out_strides, strict=True
        ):
            assert x.shape == (1, channels, -(-65 // stride), -(-97 // stride))


@pytest.mark.parametrize('out_indices', SUBSETS, ids=str)
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('series', SERIES)
def test_gradient_reaches_every_parameter(series, out_indices, with_cp):
    torch.manual_seed(0)
    model = RecNeXt(SERIES[series], out_indices=out_indices, with_cp=with_cp)
    image = batch(64, 64) if series == 'm' else batch(160, 160)
    loss = sum((x * torch.randn_like(x)).sum() for x in model(image))
    loss.backward()
    unused = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert unused == []


@pytest.mark.parametrize('series', SERIES)
@torch.no_grad()
def test_every_size(series):
    model = RecNeXt(SERIES[series]).eval()
    sides = range(32, 98)
    for height, width in [*zip(sides, reversed(sides), strict=True), (800, 1333)]:
        for x, stride in zip(
            model(batch(height, width, n=1)), model.out_strides, strict=True
        ):
            assert x.shape[2:] == (-(-height // stride), -(-width // stride))


@torch.no_grad()
def test_out_indices_give_the_same_maps_in_their_order():
    model = RecNeXt(TINY).eval()
    part = RecNeXt(TINY, out_indices=(2, 0)).eval()
    part.load_state_dict(
        {k: v for k, v in model.state_dict().items() if 'stages.3' not in k}
    )
    image = batch()
    maps = model(image)
    for x, y in zip(part(image), (maps[2], maps[0]), strict=True):
        assert torch.equal(x, y)


@torch.no_grad()
def test_recconv_is_the_published_recursion():
    torch.manual_seed(0)
    conv = RecConv(4, level=2, kernel_size=5)
    x = torch.randn(2, 4, 13, 18)

    def up(y, like):
        return nn.functional.interpolate(
            y, like.shape[2:], mode='bilinear', align_corners=False
        )

    f1 = conv.down(x)
    f2 = conv.down(f1)
    y = up(conv.convs[0](f2), f1)
    y = up(conv.convs[1](f1 + y), x)
    assert torch.allclose(conv(x), conv.convs[2](x + y), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('size', [(2, 3), (24, 40)])
def test_attention_is_the_published_formula_in_either_order(size):
    torch.manual_seed(0)
    attn = LinearAttn(16, num_heads=4).double().eval()
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    n = size[0] * size[1]
    qk = nn.functional.elu(attn.qk(x)) + 1
    q, k = qk.view(2, 2, 4, 4, n).unbind(1)
    v = x.view(2, 4, 4, n)
    weights = torch.einsum('bhdi,bhdj->bhij', q, k) / n
    total = torch.einsum('bhdi,bhd->bhi', q, k.mean(-1)) + 1e-6
    mixed = torch.einsum('bhij,bhcj->bhci', weights / total[..., None], v)
    assert torch.allclose(attn(x), mixed.reshape(x.shape) + attn.pe(x))


@torch.no_grad()
def test_drop_path_grows_with_depth_in_t_s_and_b():
    model = RecNeXt('t', drop_path_rate=0.3)
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, 'drop_prob', 0.0) for block in blocks]
    assert rates == pytest.approx([0.3 * i / 19 for i in range(20)])
    first = model.stages[3].blocks[0].drop_path.drop_prob
    assert model.stages[3].downsample.drop_path.drop_prob == first


@torch.no_grad()
def test_recconv_is_linear():
    conv = RecConv(4, level=3).double()
    x, y = torch.randn(2, 1, 4, 21, 30, dtype=torch.float64)
    assert torch.allclose(conv(2 * x - y), 2 * conv(x) - conv(y))


class TestTrainingModes:
    def step(self, model):
        """One optimisation step; return what changed, by name."""
        before = {k: v.clone() for k, v in model.state_dict().items()}
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], 1
        )
        sum(x.square().mean() for x in model(batch())).backward()
        optimizer.step()
        return {k for k, v in model.state_dict().items() if not v.equal(before[k])}

    @pytest.mark.parametrize('frozen_stages', range(-1, 5))
    def test_frozen_stages(self, frozen_stages):
        model = RecNeXt(TINY, frozen_stages=frozen_stages)
        frozen = tuple(
            ['stem.'] * (frozen_stages >= 0)
            + [f'stages.{i}.' for i in range(frozen_stages)]
        )
        assert model.train() is model
        if frozen_stages == 4:
            assert not any(p.requires_grad for p in model.parameters())
            return
        changed = self.step(model)
        expected = {k for k in model.state_dict() if not k.startswith(frozen or ('?',))}
        assert changed == expected

    def test_norm_eval(self):
        model = RecNeXt(TINY, norm_eval=True).train()
        changed = self.step(model)
        assert changed == {k for k, _ in model.named_parameters()}

    def test_synchronised_norms_are_frozen_too(self):
        model = RecNeXt(TINY, norm_cfg=dict(type='SyncBN'), norm_eval=True).train()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
        assert not any(m.training for m in norms)

    @pytest.mark.parametrize('series', SERIES)
    def test_checkpointing_changes_nothing_but_memory(self, series):
        torch.manual_seed(0)
        plain = RecNeXt(SERIES[series], drop_path_rate=0.3)
        saving = RecNeXt(SERIES[series], drop_path_rate=0.3, with_cp=True)
        saving.load_state_dict(plain.state_dict())
        image = batch(128, 128)
        for model in (plain, saving):
            torch.manual_seed(1)  # the same paths are dropped
            sum(x.square().mean() for x in model(image)).backward()
        for (name, p), q in zip(
            plain.named_parameters(), saving.parameters(), strict=True
        ):
            assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-7), name
        for (name, p), q in zip(plain.named_buffers(), saving.buffers(), strict=True):
            assert torch.equal(p, q), name  # counted once, though computed twice
        norms = [m for m in saving.modules() if isinstance(m, _BatchNorm)]
        assert all(m.momentum == 0.1 for m in norms)

    def test_modes_return_the_model(self):
        model = RecNeXt(TINY)
        assert model.eval() is model and not model.training
        assert model.train() is model and model.training

    def test_drop_path_only_in_training(self):
        model = RecNeXt(TINY, drop_path_rate=0.5)
        image = batch()
        model.eval()
        assert torch.equal(model(image)[0], model(image)[0])
        model.train()
        assert not torch.equal(model(image)[0], model(image)[0])


def test_arch_of_settings():
    model = RecNeXt(dict(base='m3', depths=[1, 1, 1, 1]))
    assert model.out_channels == (64, 128, 256, 512)
    assert [len(stage.blocks) for stage in model.stages] == [1, 1, 1, 1]


def test_other_image_channels():
    assert RecNeXt(TINY, in_channels=5)(torch.randn(2, 5, 64, 64))[0].shape[1] == 8


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(arch='m9'), OptionError, r'm5 or m4 or m3\? The archs are m0, m1, m2'),
        (dict(arch='nano_recatn'), OptionError, 'nano_recattn is one of .*MLLA'),
        (dict(arch='M3'), OptionError, r'did you mean m3\? The archs are m0'),
        (dict(arch='recnext_m3'), OptionError, r'did you mean m3\?'),
        (dict(arch='t_shared'), OptionError, r'did you mean t_share_channel\?'),
        (dict(arch=3), OptionError, 'a name or a dict'),
        (dict(arch=dict(depth=(1, 1, 1, 1))), OptionError, 'dims, depths, mixers'),
        (dict(arch=dict(depths=(1, 1, 1))), OptionError, '4 entries, one per stage'),
        (dict(arch=dict(dims=(8, 16, 32, 65))), OptionError, 'common divisor'),
        (dict(arch=dict(mlp_ratios=(2, 2, 2, 0))), OptionError, 'positive'),
        (dict(out_indices=(0, 4)), OptionError, r'\(0, 1, 2, 3\)'),
        (dict(out_indices=()), OptionError, 'one or more'),
        (dict(out_indices=(1, 1)), OptionError, 'each once'),
        (dict(frozen_stages=5), OptionError, 'up to 4'),
        (dict(frozen_stages=3, out_indices=(0, 1)), OptionError, 'up to 2'),
        (dict(drop_path_rate=1), OptionError, r'\[0, 1\)'),
        (dict(frozen_stage=1), OptionError, 'frozen_stages, norm_cfg'),
        (dict(arch=dict(downsample_kernel=4)), OptionError, 'odd and positive, got 4'),
        (dict(arch=dict(depths=(1, 1, 1, None))), OptionError, 'from 0 to 1000'),
        (dict(arch=dict(stem_strides=(2,) * 9)), OptionError, 'positive integers'),
        (dict(arch=dict(mixer=dict(num_heads=0), base='a0')), OptionError, 'positive'),
        (dict(arch=dict(mixer_norm=None)), OptionError, 'True or False'),
        (dict(out_indices=None), OptionError, r'\(0, 1, 2, 3\), each once, got None'),
        (dict(drop_path_rate=None), OptionError, r'\[0, 1\), got None'),
        (dict(norm_cfg=None), OptionError, 'such as BN, SyncBN, GN or IN'),
        (dict(norm_cfg=dict(type='BN1d')), OptionError, 'a norm layer of maps'),
        (dict(with_cp='False'), OptionError, 'True or False'),
        (dict(in_channels=0), OptionError, 'from 1 to 65536'),
        (dict(init_cfg='m0.pth'), OptionError, '`type` of an initialiser'),
        (dict(init_cfg=dict(type='Pretrained')), OptionError, '`checkpoint`'),
    ],
    ids=str,
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        RecNeXt(**options)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(mixer=dict(type='LinearAttn')), 'PartialChannels.*set `share_every=0`'),
        (dict(mixer=dict(type='PartialChannels', ratio=2)), '`ratio` 4'),
        (dict(share_every=4), '`ratio` 3'),
        (dict(share_every=1), 'share_every'),
        (dict(dims=(16, 32, 64, 102)), 'divisible by 4'),
    ],
    ids=str,
)
def test_channels_that_cannot_be_shared(settings, message):
    with pytest.raises(OptionError, match=message):
        RecNeXt(dict(base='t_share_channel', **settings))


def test_another_mixer_without_sharing():
    mixer = dict(type='LinearAttn')
    settings = dict(SERIES['t_share_channel'], share_every=0, mixer=mixer)
    assert len(RecNeXt(settings).eval()(batch())) == 4


@torch.no_grad()
@pytest.mark.parametrize('mixer', [None, nn.Identity()], ids=['own', 'identity'])
@pytest.mark.parametrize('series', SERIES)
def test_deployed_blocks_leave_their_input_as_it_is(series, mixer):
    """Also with a mixer that returns what it was given, as its caller's own."""
    for stage in RecNeXt(SERIES[series], deploy=True).stages:
        for block in stage.blocks:
            if mixer is not None and not isinstance(block, SharingBlock):
                block.token_mixer = mixer
            channels = block.channel_mixer[0].in_channels
            x = torch.randn(1, channels, 8, 8)
            x = x.contiguous(memory_format=torch.channels_last)
            before = x.clone()
            if isinstance(block.token_mixer, SharedChannels):
                block(x, (x,))
            elif isinstance(block, SharingBlock):
                block(x, ())
            else:
                block(x)
            assert x.equal(before)


def has_layout(x, layout):
    return x.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('form', ['train', 'eval', 'no_grad', 'deploy'])
@pytest.mark.parametrize('series', SERIES)
def test_layout_of_maps_is_that_of_a_convolution(series, form, layout):
    """Heads take views of what they are given."""
    model = RecNeXt(SERIES[series]).train(form == 'train')
    if form == 'deploy':
        model.switch_to_deploy()
    image = batch(96, 160)
    with torch.set_grad_enabled(form in ('train', 'eval')):
        for maps in (
            model(image.contiguous(memory_format=layout)),
            model.to(memory_format=layout)(image),
        ):
            assert all(has_layout(x, layout) for x in maps)


@pytest.mark.parametrize('form', ['train', 'norm_eval', 'eval', 'deploy', 'no_grad'])
@pytest.mark.parametrize('series', SERIES)
def test_empty_batch(series, form):
    model = RecNeXt(SERIES[series], norm_eval=form == 'norm_eval')
    model.train(form in ('train', 'norm_eval'))
    if form in ('deploy', 'no_grad'):
        model.switch_to_deploy()
    image = torch.zeros(0, 3, 64, 64, requires_grad=form != 'no_grad')
    with torch.set_grad_enabled(form != 'no_grad'):
        maps = model(image)
    for x, channels, stride in zip(
        maps, model.out_channels, model.out_strides, strict=True
    ):
        assert x.shape == (0, channels, 64 // stride, 64 // stride)
    if form != 'no_grad':
        sum(x.sum() for x in maps).backward()
        assert image.grad.shape == image.shape


@pytest.mark.parametrize('shape', [(3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64)], ids=str)
def test_impossible_images(shape):
    with pytest.raises(ValueError, match=r'\[N, 3, H, W\]'):
        RecNeXt(TINY)(torch.zeros(shape))


def test_every_option_is_documented():
    options = [*inspect.signature(RecNeXt).parameters][:-1]
    assert all(re.search(rf'^ +{name}: ', RecNeXt.__doc__, re.M) for name in options)
