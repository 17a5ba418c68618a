import pytest
import torch
from mmdet.registry import MODELS as MMDET
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG
from torch import nn

from mmrecnext.models.fusion import switch_to_deploy

CHANNELS = [4, 8, 12, 16]


def maps(side: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """What a backbone that begins at stride 8 gives of images of this side."""
    torch.manual_seed(0)
    return tuple(
        torch.randn(batch, channels, -(-side // stride), -(-side // stride))
        for channels, stride in zip(CHANNELS, (8, 16, 32, 64), strict=True)
    )


def neck(registry=MMDET, **options) -> nn.Module:
    cfg = dict(
        type='mmrecnext.FPNWithStride4',
        in_channels=CHANNELS,
        out_channels=6,
        num_outs=5,
        **options,
    )
    with DefaultScope.overwrite_default_scope(registry.scope):
        return registry.build(cfg)


@pytest.mark.parametrize('registry', [MMDET, MMSEG], ids=lambda r: r.scope)
@pytest.mark.parametrize('side', [128, 100])
def test_one_level_finer_than_the_fpn_of_the_framework(registry, side):
    model = neck(registry)
    assert type(model.fpn).__module__.startswith(registry.scope)
    finest, *others = model(maps(side))
    assert finest.shape[-1] == 2 * -(-side // 8)
    assert len(others) == 4 and finest.shape[1] == 6
    for ours, plain in zip(others, model.fpn(maps(side)), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_each_pixel_of_the_finest_level_is_a_product_of_the_one_under_it():
    model = neck()
    finest, coarser, *_ = model(maps(64))
    weight, bias = model.upsample.weight, model.upsample.bias
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        wanted = torch.einsum('nchw,cd->ndhw', coarser, weight[..., row, column])
        torch.testing.assert_close(
            finest[..., row::2, column::2], wanted + bias[:, None, None]
        )


def test_finest_level_begins_as_wide_as_the_next():
    torch.manual_seed(0)
    model = neck()
    model.upsample = nn.ConvTranspose2d(256, 256, 2, stride=2)
    model.init_weights()
    x = torch.randn(1, 256, 32, 32)
    assert model.upsample(x).std().item() == pytest.approx(1, abs=0.05)
    assert not model.upsample.bias.any()


def test_gradients_reach_every_parameter():
    model = neck()
    sum(x.square().mean() for x in model(maps(64))).backward()
    assert all(p.grad.any() for p in model.parameters())


def test_options_of_the_fpn_are_passed_on_and_inference_form_is_equal():
    model = neck(norm_cfg=dict(type='BN'))
    model(maps(64, batch=2))  # moves the statistics
    model.eval()
    before = model(maps(64))
    switch_to_deploy(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for ours, wanted in zip(model(maps(64)), before, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
