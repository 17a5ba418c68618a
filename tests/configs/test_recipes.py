"""Every config: its model, what depends on the backbone, and its training."""

import functools
import json
import re

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmrecnext import ARCHS
from mmrecnext.benchmark.operations import Cost, cost_of, run_networks
from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config, nodes
from mmrecnext.engine.frameworks import FRAMEWORKS, names_of
from mmrecnext.errors import ConfigError
from mmrecnext.models import RecNeXt
from mmrecnext.pretrained import FIGURES, PRETRAINED
from mmrecnext.swap import read_config
from tests.helpers import ROOT, SMALL, compare_networks, compare_with_plain, tool

model_zoo = tool('model_zoo')

FOLDER = ROOT / 'configs'
MAKEFILE = ROOT / 'Makefile'
FILES = {
    str(file.relative_to(FOLDER)): file
    for file in FOLDER.rglob('*.py')
    # Without those of classifiers, of another backbone, of other frameworks.
    if not {'imagenet', 'mlla', 'pose', 'cls', 'yolo', 'det3d'} & {*file.parts}
}
NAME = re.compile(
    r'(?:(?P<folder>\w+)/)?(?P<model>mask_rcnn|retinanet|sem_fpn)_recnext_(?P<arch>\w+)_'
    r'(?P<data>coco|ade20k|shapes)(?P<variant>_40k|_drop_path|)\.py'
)
DROP_PATH = dict(m4=0.1, a4=0.1, m5=0.2, a5=0.2)
GPUS = 8
BENCHMARKS = [name for name in FILES if '_shapes' not in name]
each_config = pytest.mark.parametrize('name', sorted(FILES))
each_benchmark = pytest.mark.parametrize('name', sorted(BENCHMARKS))


@functools.cache
def config(name: str) -> Config:
    return load_config(str(FILES[name]))


def arch_of(name: str) -> str:
    return NAME.fullmatch(name)['arch']


@functools.cache
def examine(model: str, framework: str) -> tuple[dict, list, Cost]:
    """Return where a model takes its maps from, their shapes, and what it costs."""
    cfg = Config(dict(model=json.loads(model), default_scope=framework))
    fit_cpu(cfg)
    built = build_network(cfg.model, framework, weights=False).to('meta').eval()
    maps = []
    built.neck.register_forward_hook(lambda *call: maps.extend(call[-1]))
    row = FRAMEWORKS[framework]
    image = torch.empty(1, 3, *row.image_size, device='meta')
    cost = cost_of(built, lambda model: run_networks(model, image, row.heads))
    strides = {}
    for part, module in built.named_modules():
        for attribute in ('featmap_strides', 'feature_strides'):
            if hasattr(module, attribute):
                strides[f'{part}.{attribute}'] = list(getattr(module, attribute))
        if hasattr(module, 'prior_generator'):
            pairs = module.prior_generator.strides
            assert all(x == y for x, y in pairs)
            strides[f'{part}.anchors'] = [x for x, _ in pairs]
    return strides, [tuple(x.shape[-2:]) for x in maps], cost


def examined(name: str) -> tuple[dict, list, Cost]:
    """Of configs whose models differ in their training alone, build one."""
    cfg = config(name)
    model = cfg.model.to_dict()
    for option in ('init_cfg', 'drop_path_rate'):
        model['backbone'].pop(option, None)
    return examine(json.dumps(model), cfg.default_scope)


def test_a_config_of_each_kind_for_every_model():
    kinds = {}
    for name in FILES:
        fields = NAME.fullmatch(name)
        assert fields, f'{name} is none of the known kinds'
        kind = (fields['folder'], fields['model'], fields['data'], fields['variant'])
        kinds.setdefault(kind, set()).add(fields['arch'])
    every = set(FIGURES)
    assert kinds == {
        (None, 'mask_rcnn', 'coco', ''): every,
        (None, 'sem_fpn', 'ade20k', ''): every,
        ('retinanet', 'retinanet', 'coco', ''): every,
        ('retinanet', 'retinanet', 'shapes', ''): {'m0'},
        ('sem_fpn_40k', 'sem_fpn', 'ade20k', '_40k'): every,
        ('drop_path', 'mask_rcnn', 'coco', '_drop_path'): set(DROP_PATH),
        (None, 'mask_rcnn', 'shapes', ''): {'m0'},
        (None, 'sem_fpn', 'shapes', ''): {'m0'},
    }


@each_config
def test_channels_and_strides(name):
    cfg = config(name)
    backbone, neck = cfg.model.backbone, cfg.model.neck
    assert backbone.arch == arch_of(name)
    assert tuple(neck.in_channels) == ARCHS[backbone.arch].dims

    strides, maps, _ = examined(name)
    assert strides
    for part, wanted in strides.items():
        height, width = FRAMEWORKS[cfg.default_scope].image_size
        expected = [(-(-height // stride), -(-width // stride)) for stride in wanted]
        # RoIs are taken from all maps but the coarsest, all else is computed on all.
        found = maps[: len(wanted)] if 'featmap' in part else maps
        assert found == expected, part


@each_benchmark
def test_pretrained_weights_are_the_models_own(name):
    init = config(name).model.backbone.init_cfg
    assert init.type == 'Pretrained'
    weights = PRETRAINED[init.checkpoint]
    assert weights.arch == arch_of(name)
    assert weights.tag == 'dist_300e_in1k'
    assert not config(name).model.get('pretrained')


@each_benchmark
def test_backbone_trains_as_published(name):
    """Batch norms are synchronised, nothing is frozen, only variants have drop path."""
    backbone = dict(config(name).model.backbone)
    for key in ('type', 'arch', 'init_cfg'):
        backbone.pop(key)
    assert backbone.pop('norm_cfg') == dict(type='SyncBN')
    wanted = DROP_PATH[arch_of(name)] if 'drop_path' in name else None
    assert backbone.pop('drop_path_rate', None) == wanted
    assert not backbone


@each_benchmark
def test_images_are_as_published(name):
    cfg = config(name)
    train = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    test = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert train['RandomFlip'].prob == 0.5
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.bgr_to_rgb
    coarsest = ARCHS[arch_of(name)].strides[-1]
    if cfg.default_scope == 'mmdet':
        assert train['Resize'].scale == test['Resize'].scale == (1333, 800)
        assert preprocessor.pad_size_divisor == coarsest
        return
    assert train['RandomResize'].scale == test['Resize'].scale == (2048, 512)
    assert train['RandomResize'].ratio_range == (0.5, 2.0)
    assert train['RandomCrop'].crop_size == preprocessor.size == (512, 512)
    padded = preprocessor.get('test_cfg', {}).get('size_divisor', 1)
    assert max(test['ResizeToMultiple'].size_divisor, padded) == coarsest
    assert cfg.model.decode_head.num_classes == 150


@each_benchmark
def test_optimizer_and_batch(name):
    cfg = config(name)
    wanted = {
        'mask_rcnn': (2e-4, 0.05, 2),
        'retinanet': (1e-4, 1e-4, 2),
        'sem_fpn': (2e-4 if '40k' in name else 1e-4, 0.05, 4),
    }
    rate, decay, batch = wanted[NAME.fullmatch(name)['model']]
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=rate, weight_decay=decay
    )
    assert not cfg.optim_wrapper.get('clip_grad')
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == batch * GPUS
    assert not cfg.auto_scale_lr.enable
    assert cfg.randomness.seed == 0


@each_benchmark
def test_schedule_is_that_of_m3(name):
    """Whose learning rates are compared with the published ones."""
    m3 = name.replace(f'recnext_{arch_of(name)}_', 'recnext_m3_')
    m3 = m3.removeprefix('drop_path/').replace('_drop_path', '')
    for key in ('param_scheduler', 'train_cfg', 'optim_wrapper', 'default_hooks'):
        assert config(name)[key] == config(m3)[key]


@pytest.mark.parametrize('name', sorted(set(FILES) - set(BENCHMARKS)))
def test_batch_of_the_demos(name):
    cfg = config(name)
    launched = re.search(
        r'dist_train\.sh configs/\$\(1\)\.py (\d+)', MAKEFILE.read_text()
    )
    batch_size = cfg.train_dataloader.batch_size * int(launched[1])
    assert cfg.auto_scale_lr.base_batch_size == batch_size


def test_retinanet_trains_as_pvt():
    pvt = load_config('mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py')
    ours = load_config(str(FOLDER / 'retinanet/retinanet_recnext_m3_coco.py'))
    for node in nodes(ours._cfg_dict):
        node.pop('_scope_', None)
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert ours[key] == pvt[key]


class TestMetafile:
    """What configs/metafile.yml says of each config."""

    models = {m['Config']: m for m in model_zoo.read(model_zoo.METAFILE)['Models']}

    def test_names_every_config_once(self):
        assert sorted(self.models) == sorted(f'configs/{name}' for name in BENCHMARKS)
        names = [model['Name'] for model in self.models.values()]
        assert len(set(names)) == len(names)

    @each_benchmark
    def test_entry(self, name):
        model, cfg = self.models[f'configs/{name}'], config(name)
        assert model['Name'] == FILES[name].stem
        assert model['In Collection'] == model_zoo.COLLECTIONS[cfg.model.type]
        metadata = model['Metadata']
        arch, head = metadata['Architecture']
        assert arch == model_zoo.label(arch_of(name))
        assert head == model['In Collection']
        assert metadata['Batch Size'] == cfg.auto_scale_lr.base_batch_size
        assert metadata.get('Epochs') == cfg.train_cfg.get('max_epochs')
        assert metadata.get('Iterations') == cfg.train_cfg.get('max_iters')
        *_, cost = examined(name)
        assert metadata['Parameters'] == cost.params
        assert metadata['MACs (G)'] == round(cost.macs / 1e9, 1)


def test_bare_names_are_found_below_configs():
    name = 'retinanet_recnext_a0_coco.py'
    for read in (load_config, read_config):
        assert read(name).filename == str(FOLDER / 'retinanet' / name)


@pytest.mark.parametrize('read', [load_config, read_config])
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('retinanet_recnext_m3.py', r'closest are .*retinanet_recnext_m3_coco\.py'),
        (
            'mmdet::retinanet_r50_fpn_1x.py',
            'closest are .*mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        ),
        (
            'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k.py',
            'closest are .*mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
        ),
        (
            'retinanet_r50_fpn_1x_coco.py',
            r'did you mean mmdet::retinanet/retinanet_r50_fpn_1x_coco\.py\?',
        ),
        ('in1k_30e.py', r'those of mmrecnext are in .*configs, those of a framework'),
        ('my_dino.py', r'names such as mmdet::retinanet/retinanet_r50_fpn_1x_coco\.py'),
        ('mmseg::ade20k.py', r'those of mmseg are in .*mmseg/\.mim/configs$'),
        ('ade20k.py', 'those of mmrecnext are in'),
        (
            'nosuch::x.py',
            f'nosuch is no framework; those are {names_of()}',
        ),
    ],
)
def test_a_config_that_is_not_there_is_answered_by_the_closest(read, name, message):
    with pytest.raises(ConfigError, match=f'^there is no config {name}.*{message}'):
        read(name)


def test_a_folder_that_is_not_there_has_a_file_of_that_name_elsewhere():
    with pytest.raises(ConfigError) as caught:
        read_config('mmdet::retina/retinanet_r50_fpn_1x_coco.py')
    first = str(caught.value).partition('closest are ')[2].split(',')[0]
    assert first == 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'


def shallow(arch):
    """A published model with as few blocks and channels as show all it has."""
    base = ARCHS[arch]
    depths = [min(depth, 1) for depth in base.depths]
    if base.share_every:
        depths[3] = base.share_every
    return dict(base=arch, dims=(16, 32, 64, 128), depths=depths)


@pytest.mark.slow
def test_backbones_of_all_configs():
    """Built as written, they train as the original does, and again in each block."""
    backbones = {
        json.dumps({**config(name).model.backbone, 'init_cfg': None}) for name in FILES
    }
    assert {json.loads(b)['arch'] for b in backbones} == {*FIGURES}
    for backbone in sorted(backbones):
        options = json.loads(backbone)
        del options['type']
        options['arch'] = shallow(options['arch'])
        kinds = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}
        kind = kinds[options['norm_cfg']['type']]
        for with_cp in (False, True)[: 1 + (options['arch']['base'] in SMALL)]:
            torch.manual_seed(0)
            model = RecNeXt(**options, with_cp=with_cp).train()
            norms = [m for m in model.modules() if hasattr(m, 'running_var')]
            assert norms and all(isinstance(norm, kind) for norm in norms)
            if options.get('drop_path_rate'):
                compare_with_plain(model.double(), (64, 96))
            else:
                compare_networks(model, (64, 96))
