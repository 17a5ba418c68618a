"""MLLA: its keys and maps against the authors' computation, and what it is used for."""

import copy
import hashlib
import json
import re

import pytest
import torch
from torch import nn

from mmrecnext import MLLA, MLLA_ARCHS
from mmrecnext.archs import MLLA_MIXERS
from mmrecnext.benchmark.operations import classifier_cost
from mmrecnext.engine.build import build_network
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import CheckpointError, OptionError
from mmrecnext.models import MLLAClassifier
from mmrecnext.models.fusion import count_norms
from mmrecnext.models.mlla import RoPE, drop_path_rates
from mmrecnext.ops.attention import attend
from mmrecnext.pretrained import MLLA_FIGURES
from tests.helpers import (
    DATA,
    ROOT,
    compiled_and_graphs,
    golden_input,
    golden_tensor,
    randomise,
)

GOLDEN = json.loads((DATA / 'mlla.json').read_text())
SIZES = [(65, 97), (33, 31), (1, 40)]

every_mixer = pytest.mark.parametrize('mixer', MLLA_MIXERS)


def small(mixer, **options):
    """A network of one block per stage, of few channels."""
    torch.manual_seed(0)
    settings = dict(embed_dim=16, depths=(1, 1, 1, 1), mixer=mixer)
    return MLLA(settings, **options)


def image(*size, n=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, *size, generator=generator, dtype=dtype)


@pytest.mark.parametrize('arch', MLLA_ARCHS)
def test_keys_shapes_and_parameters(arch):
    with torch.device('meta'):
        model = MLLAClassifier(arch)
    state = {key: list(value.shape) for key, value in model.state_dict().items()}
    text = '\n'.join(sorted(f'{key} {shape}' for key, shape in state.items()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN[arch]['keys']
    assert sum(p.numel() for p in model.parameters()) == GOLDEN[arch]['params']


@every_mixer
@torch.no_grad()
def test_maps_and_logits(mixer):
    """In double, each map as it is after the downsampling of its stage."""
    golden = GOLDEN[f'nano_{mixer}']
    model = MLLAClassifier(f'nano_{mixer}').eval()
    state = model.state_dict()
    model.load_state_dict({k: golden_tensor(k, v.shape) for k, v in state.items()})
    model.double()
    maps = []
    for stage in model.layers:
        stage.downsample.register_forward_hook(lambda _, __, x: maps.append(x))
    logits = model(golden_input((1, 3, 256, 256)).double())
    for x, expected in zip(maps, golden['maps'], strict=True):
        if mixer == 'baseline':  # tokens [N, H * W, C]
            x = x.flatten(2).mT
        assert list(x.shape) == expected['shape']
        values = x.flatten()[:: expected['step']]
        assert torch.allclose(values, values.new_tensor(expected['values']), 0, 1e-9)
    values = logits.flatten()[::40]
    assert torch.allclose(values, values.new_tensor(golden['logits']), 0, 1e-9)


@every_mixer
@torch.no_grad()
def test_backbone_norms_the_maps_of_the_classifier(mixer):
    classifier = MLLAClassifier(f'nano_{mixer}', num_classes=0).eval()
    backbone = MLLA(f'nano_{mixer}', out_indices=(3, 1)).eval()
    weights = backbone.own_weights(classifier.state_dict())
    backbone.load_state_dict(weights)
    _, maps = classifier.forward_intermediates(image(64, 96).float(), (3, 1))
    for x, y in zip(backbone(image(64, 96).float()), maps, strict=True):
        y = nn.functional.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2])
        assert torch.allclose(x, y.permute(0, 3, 1, 2), atol=1e-5)


@every_mixer
@torch.no_grad()
def test_any_size(mixer):
    model = small(mixer, out_indices=(0, 2, 3)).eval()
    for size in SIZES:
        maps = model(image(*size).float())
        for x, channels, stride in zip(
            maps, model.out_channels, model.out_strides, strict=True
        ):
            assert x.shape == (1, channels, *(-(-side // stride) for side in size))
            assert x.isfinite().all() and x.is_contiguous()


@every_mixer
def test_empty_batch(mixer):
    x = torch.zeros(0, 3, 64, 96, requires_grad=True)
    maps = small(mixer).eval()(x)
    assert [len(y) for y in maps] == [0] * 4
    sum(y.sum() for y in maps).backward()
    assert x.grad.shape == x.shape


def test_rotary_attention_is_its_formula():
    """Row by row and pixel by pixel, in complex numbers."""
    torch.manual_seed(0)
    channels, heads, height, width = 8, 2, 3, 5
    qk = torch.randn(1, 2 * channels, height, width, dtype=torch.float64)
    v, added = torch.randn(2, 1, channels, height, width, dtype=torch.float64)
    q, k = (nn.functional.elu(qk[0]) + 1).flatten(1).T.chunk(2, dim=1)

    turns = RoPE(channels, 5).rotations.double()[:height].flatten(0, 1)
    turns = torch.view_as_complex(turns)

    def rotate(x):
        pairs = torch.view_as_complex(x.reshape(-1, channels // 2, 2).contiguous())
        return torch.view_as_real(pairs * turns).flatten(1)

    values, results = v[0].flatten(1).T, []
    for part in torch.arange(channels).chunk(heads):
        likeness = rotate(q)[:, part] @ rotate(k)[:, part].T
        weight = (q[:, part] @ k[:, part].T).sum(1, keepdim=True)
        pixels = height * width
        results.append(likeness @ values[:, part] / pixels / (weight / pixels + 1e-6))
    expected = torch.cat(results, 1).T.reshape(1, channels, height, width) + added
    result = attend(qk, v, heads, added, rotated=True)
    assert torch.allclose(result, expected, 0, 1e-12)


@every_mixer
def test_gradients_reach_every_parameter(mixer):
    model = small(mixer).double().train()
    maps = model(image(64, 96, n=2))
    torch.autograd.backward(maps, [torch.randn_like(x) for x in maps])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@every_mixer
def test_recomputed_blocks_learn_the_same(mixer):
    def gradients(with_cp):
        model = small(mixer, drop_path_rate=0.5, with_cp=with_cp).double().train()
        torch.manual_seed(3)
        maps = model(image(33, 64, n=2))
        torch.autograd.backward(maps, [torch.randn_like(x) for x in maps])
        learnt = dict(model.named_buffers())
        return {name: p.grad for name, p in model.named_parameters()} | learnt

    plain, again = gradients(False), gradients(True)
    for name, value in plain.items():
        assert torch.allclose(again[name], value, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize('mixer', ['baseline', 'recattn'])
@torch.no_grad()
def test_inference_form(mixer):
    model = randomise(small(mixer)).double()
    fused = copy.deepcopy(model)
    fused.switch_to_deploy()
    assert count_norms(fused) == 0 < count_norms(model)
    for x, y in zip(fused(image(65, 97)), model(image(65, 97)), strict=True):
        assert (x - y).abs().max() <= 1e-12 * y.abs().max()
    with pytest.raises(OptionError, match='this MLLA has been switched to deploy'):
        fused.train()


@pytest.mark.slow
@pytest.mark.parametrize('mixer', ['baseline', 'recconv_transposed'])
@torch.no_grad()
def test_traces_suit_any_size(mixer):
    """Of ``torch.jit`` and of ``torch.export``, made with an image of another size."""
    model = small(mixer).eval()
    example = (image(160, 224).float(),)
    sides = (dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC),)
    graph = torch.export.export(model, example, dynamic_shapes=sides, strict=False)
    x = image(129, 161).float()
    expected = model(x)
    for other in (torch.jit.script(model), graph.module()):
        for own, y in zip(other(x), expected, strict=True):
            assert torch.allclose(own, y, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_for_every_size():
    model = small('recattn_rope').eval()
    compiled, graphs = compiled_and_graphs(model)
    for size in ((160, 224), (129, 161), (192, 192)):
        x = image(*size).float()
        for own, y in zip(compiled(x), model(x), strict=True):
            assert torch.allclose(own, y, atol=1e-5)
    assert len(graphs) == 1


@every_mixer
def test_frozen_stages(mixer):
    model = small(mixer, frozen_stages=2, norm_eval=True).train()
    frozen = ('patch_embed.', 'layers.0.', 'layers.1.')
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    assert not model.layers[1].training and model.layers[2].training


def test_stochastic_depth_grows():
    rates = drop_path_rates(MLLA_ARCHS['mini_recattn'], 0.2)
    flat = [rate for stage in rates for rate in stage]
    assert flat == pytest.approx([0.2 * i / 17 for i in range(18)])
    model = MLLA('mini_recattn', drop_path_rate=0.2)
    for stage, own in zip(model.layers[:3], rates, strict=False):
        found = [block.drop_path.drop_prob for block in stage.blocks[1:]]
        assert found == own[1:] and stage.downsample.drop_path.drop_prob == own[-1]


@pytest.mark.parametrize('mixer', ['baseline', 'recattn_rope'])
def test_turns_of_any_size_or_none_are_accepted(mixer):
    model = small(mixer)
    state = model.state_dict()
    keys = [key for key in state if key.endswith('rotations')]
    assert keys
    for key in keys:
        state[key] = torch.full((3, 2, 8, 2), torch.nan)
    expected = model.eval()(image(64, 64).float())
    for weights in (state, {k: v for k, v in state.items() if k not in keys}):
        with torch.device('meta'):
            other = small(mixer)
        other.load_state_dict(weights, assign=True)
        for x, y in zip(other.eval()(image(64, 64).float()), expected, strict=True):
            assert torch.equal(x, y)
        for key in keys:
            assert torch.equal(other.get_buffer(key), model.get_buffer(key))


class TestPretrained:
    @pytest.fixture
    def file(self, tmp_path):
        torch.manual_seed(0)
        classifier = MLLAClassifier(small('recattn_rope').arch.__dict__, 5)
        torch.save({'model': randomise(classifier).state_dict()}, tmp_path / 'x.pth')
        return str(tmp_path / 'x.pth')

    def load(self, file, mixer='recattn_rope', **options):
        init_cfg = dict(type='Pretrained', checkpoint=file)
        model = small(mixer, init_cfg=init_cfg, **options)
        model.init_weights()
        return model.eval()

    def test_of_a_classifier(self, file, quiet):
        weights = torch.load(file)['model']
        model = self.load(file)
        state = model.state_dict()
        for key, value in weights.items():
            if not key.startswith(('norm.', 'head.')):
                assert torch.equal(state[key], value), key
        with torch.no_grad():
            expected = model(image(64, 64).float())
            fewer = self.load(file, out_indices=(1, 2))
            deployed = self.load(file, deploy=True)
            for own, maps in (
                (fewer(image(64, 64).float()), expected[1:3]),
                (deployed(image(64, 64).float()), expected),
            ):
                for x, y in zip(own, maps, strict=True):
                    assert torch.allclose(x, y, atol=1e-4)

    def test_of_a_backbone(self, file, quiet, tmp_path):
        model = self.load(file)
        for name, parameter in model.named_parameters():
            if name.startswith('norm'):
                nn.init.uniform_(parameter)
        torch.save(model.state_dict(), tmp_path / 'backbone.pth')
        again = self.load(str(tmp_path / 'backbone.pth'))
        for key, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key

    @pytest.mark.slow
    def test_of_another_model(self, file, quiet):
        with pytest.raises(CheckpointError, match='does not fit this model; missing'):
            self.load(file, mixer='recconv_nearest')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='m3'), "unknown arch 'm3'; m3 is one of type='mmrecnext.RecNeXt'"),
        (dict(arch='nano'), "unknown arch 'nano'; .*archs are nano_baseline"),
        (dict(arch=dict(mixer='attn')), 'mixer` is one of baseline, .*recattn, got'),
        (dict(arch=dict(embed_dim=30)), 'multiple of 4'),
        (dict(arch=dict(num_heads=(3, 3, 3, 3))), 'divisors of the channels'),
        (dict(arch=dict(dims=(1,))), 'no setting dims; the settings are base, embed'),
        (dict(output_stride=8), 'MLLA has no option output_stride; the options are'),
        (dict(frozen_stages=5), 'frozen_stages is -1'),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        MLLA(**options)


@pytest.mark.slow
def test_table_of_the_docs():
    rows = re.findall(r'^\| `(\w+)` (.*)\|$', (ROOT / 'docs/mlla.md').read_text(), re.M)
    assert [name for name, _ in rows] == [*MLLA_ARCHS] == [*MLLA_FIGURES]
    for name, row in rows:
        arch, cost = MLLA_ARCHS[name], classifier_cost(name, 256, 256)
        assert [cell.strip() for cell in row.split('|')[1:]] == [
            ' '.join(map(str, arch.dims)),
            ' '.join(map(str, arch.depths)),
            f'{GOLDEN[name]["params"] / 1e6:.2f}',
            f'{cost.macs / 1e9:.3f}',
            f'{MLLA_FIGURES[name].top1:.2f}',
        ]


def detected():
    """An object for a detector to find."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), scale_factor=(1.0, 1.0)))
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[:, 10:50, 20:70] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[20.0, 10, 70, 50]]),
        labels=torch.tensor([1]),
        masks=BitmapMasks(masks.numpy(), 64, 96),
    )
    return sample


def segmented():
    """Pixels for a segmentor to tell apart."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 6, (1, 64, 96)))
    return sample


@pytest.mark.parametrize('kind', ['mask_rcnn', 'sem_fpn'])
@every_mixer
def test_a_network_trains(kind, mixer):
    torch.manual_seed(0)
    cfg = load_config(str(ROOT / f'configs/mlla/{kind}_mlla_nano_recattn_shapes.py'))
    cfg.model.backbone.arch = dict(base=f'nano_{mixer}', depths=(1, 1, 1, 1))
    model = build_network(cfg.model, cfg.default_scope).train()
    samples = [{'mask_rcnn': detected, 'sem_fpn': segmented}[kind]() for _ in range(2)]
    inputs = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
    loss, _ = model.parse_losses(model.forward(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    stem = model.backbone.patch_embed.conv1.conv.weight
    before = stem.clone()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert not torch.equal(stem, before)
