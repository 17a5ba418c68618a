"""Networks that infer in mixed precision: what is lowered, and what stays single."""

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmrecnext.engine.build import build_network
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.precision import infer_in
from mmrecnext.errors import ConfigError
from mmrecnext.models.fusion import switch_to_deploy
from mmrecnext.ops.conv import ONEDNN_DTYPES
from tests.helpers import ROOT, SMALL, randomise, run_tool

LOW = torch.bfloat16


def build(config, **changes):
    cfg = load_config(str(ROOT / 'configs' / config))
    cfg.model.merge_from_dict(changes) if changes else None
    cfg.model.backbone.arch = ConfigDict(SMALL['m0'])
    cfg.model.neck.in_channels = [16, 32, 64, 128]
    return randomise(build_network(cfg.model, cfg.default_scope))


def seen_by(*modules):
    """Return a list that gets the types of what modules return, as they are called."""
    types = []
    for module in modules:
        module.register_forward_hook(
            lambda m, args, out: types.append(
                {x.dtype for x in torch.utils._pytree.tree_leaves(out)}
            )
        )
    return types


@torch.no_grad()
@pytest.mark.parametrize('deploy', [False, True])
def test_detector(deploy):
    model = build('mask_rcnn_recnext_m0_shapes.py')
    images = torch.randn(1, 3, 64, 64)
    maps = model.extract_feat(images)
    expected = [
        *model.rpn_head(maps)[0],
        *model.roi_head.bbox_head(regions := torch.randn(2, 64, 7, 7)),
    ]
    if deploy:
        switch_to_deploy(model)
    infer_in(model, 'bf16')
    types = seen_by(model.backbone, model.neck, model.rpn_head)
    low = model.extract_feat(images)
    found = [*model.rpn_head(low)[0], *model.roi_head.bbox_head(regions)]
    assert types == [{LOW}, {LOW}, {torch.float32}]
    for value, other in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        error = (value - other).square().mean() / other.square().mean()
        assert 1e-7 < error < 1e-3  # of bf16, 2 ** -9 at each step


@torch.no_grad()
def test_segmentor():
    model = build('sem_fpn_recnext_m0_shapes.py')
    images = torch.randn(1, 3, 64, 64)
    expected = model(images)
    infer_in(model, 'bf16')
    found = model(images)
    assert found.dtype == torch.float32
    error = (found - expected).square().mean() / expected.square().mean()
    assert 1e-7 < error < 1e-3


@torch.no_grad()
def test_what_takes_the_maps_besides_heads_gets_them_in_single_precision():
    model = build('mask_rcnn_recnext_m0_shapes.py')
    model.encoder = nn.Linear(4, 4)
    types = seen_by(model.backbone, model.neck, model.rpn_head)
    infer_in(model, 'bf16')
    model.rpn_head(model.extract_feat(torch.randn(1, 3, 64, 64)))
    assert types == [{LOW}, {torch.float32}, {torch.float32}]
    assert 'forward' not in vars(model.rpn_head)


@torch.no_grad()
def test_wrapped():
    """As of several processes, within test-time augmentation."""
    model = build('sem_fpn_recnext_m0_shapes.py')
    types = seen_by(model.backbone, model.neck)
    infer_in(nn.ModuleDict({'module': nn.ModuleDict({'module': model})}), 'bf16')
    assert model(torch.randn(1, 3, 64, 64)).dtype == torch.float32
    assert types == [{LOW}, {LOW}]


def test_fp16_is_for_gpus():
    with pytest.raises(ConfigError, match='fp16 needs a GPU; a CPU infers in bf16'):
        infer_in(nn.Linear(1, 1), 'fp16')


@pytest.mark.slow
def test_tools(tmp_path, shapes):
    """Of a test and of a prediction, with weights that both lower alike."""
    config = tmp_path / 'small.py'
    config.write_text(
        f"_base_ = '{ROOT / 'configs/sem_fpn_recnext_m0_shapes.py'}'\n"
        "model = dict(backbone=dict(_delete_=True, type='mmrecnext.RecNeXt', "
        f'arch={SMALL["m0"]}), '
        'neck=dict(in_channels=[16, 32, 64, 128]))'
    )
    cfg = load_config(str(config))
    torch.manual_seed(0)
    model = randomise(build_network(cfg.model, cfg.default_scope))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'w.pth')
    data = ('--data-root', shapes, '--work-dir', tmp_path / 'run')
    maps = {}
    for dtype in ('fp32', 'bf16'):
        out = tmp_path / dtype
        arguments = [config, tmp_path / 'w.pth', *data, '--out', out, '--dtype', dtype]
        result = run_tool('tools/test.py', *arguments, '--deploy')
        assert result.returncode == 0, result.stderr
        maps[dtype] = {x.name: x.read_bytes() for x in out.iterdir()}
        assert ('many times as long' in result.stdout + result.stderr) == (
            dtype == 'bf16' and torch.bfloat16 not in ONEDNN_DTYPES
        )
    assert maps['fp32'].keys() == maps['bf16'].keys() and maps['fp32'] != maps['bf16']
