import math
import tarfile
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from timm.scheduler import CosineLRScheduler
from torch import nn

from mmrecnext.classification import recipe
from mmrecnext.classification.recipe import (
    PicturesByClass,
    RepeatedAugmentation,
    TimmOptimWrapperConstructor,
    WarmupCosineLR,
)
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import ConfigError, DataError
from mmrecnext.pretrained import FIGURES
from tests.classification.helpers import CONFIGS
from tests.classification.toy import CLASSES, make_toy
from tests.helpers import tool

RUNS = [f'recnext_{arch}{kind}' for arch in FIGURES for kind in ('', '_dist')]
UNDISTILLED = dict(m4=0.2, a4=0.2, m5=0.3, a5=0.3, s=0.1, b=0.2)
TRANSFORM = dict(input_size=32)


def rates(optimizer, scheduler, epochs):
    """The rate of each epoch, as MMEngine's runner steps a scheduler."""
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return found


def optimizer_of(rate):
    return torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=rate)


def test_a_config_of_each_run():
    assert {file.stem for file in CONFIGS.glob('*_300e_in1k.py')} == {
        f'{run}_300e_in1k' for run in RUNS
    }


@pytest.mark.parametrize('run', RUNS)
def test_each_run_is_as_logged(run):
    """Rates, batches and stochastic depth; whether it has a teacher."""
    cfg = load_config(str(CONFIGS / f'{run}_300e_in1k.py'), classifiers=True)
    base = 4e-3 if run == 'recnext_m0' else 2e-3
    optimizer = optimizer_of(cfg.optim_wrapper.optimizer.lr)
    options = dict(cfg.param_scheduler)
    assert options.pop('type') == 'WarmupCosineLR'
    found = rates(optimizer, WarmupCosineLR(optimizer, **options), 300)

    expected = []
    for epoch in range(300):
        t = max(epoch - 1, 0)
        if t < 5:
            expected.append(1e-6 + (base - 1e-6) * t / 5)
        else:
            cosine = 0.5 * (base - 1e-5) * (1 + math.cos(math.pi * t / 300))
            expected.append(1e-5 + cosine)
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    assert found[:2] == [1e-6, 1e-6]
    if base == 2e-3:
        assert found[6] == pytest.approx(0.00199864, abs=5e-9)
        assert found[299] == pytest.approx(1.022e-5, abs=5e-9)

    processes = 8
    batch = cfg.train_dataloader.batch_size * processes
    assert batch == cfg.auto_scale_lr.base_batch_size == base / 1e-3 * 512
    distilled = run.endswith('_dist')
    series = run.removeprefix('recnext_').removesuffix('_dist')
    depth = UNDISTILLED.get(series.removesuffix('_share_channel'), 0.0)
    assert cfg.model.drop_path_rate == (0.0 if distilled else depth)
    assert ('teacher' in cfg.model) == distilled
    assert cfg.model.arch == series


@pytest.mark.parametrize('epochs, last', [(300, 1.022e-5), (120, 1.1364e-5)])
def test_rates_are_those_of_timm(epochs, last):
    """Its scheduler is stepped with the number of the epoch, after that."""
    own, other = optimizer_of(2e-3), optimizer_of(2e-3)
    scheduler = CosineLRScheduler(
        other, t_initial=epochs, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6
    )
    expected = []
    for epoch in range(epochs):
        expected.append(other.param_groups[0]['lr'])
        scheduler.step(epoch)
    found = rates(own, WarmupCosineLR(own, epochs), epochs)
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    assert found[-1] == pytest.approx(last, rel=5e-4)


@pytest.mark.parametrize('processes', [1, 3])
def test_each_picture_three_times_in_a_row(processes, monkeypatch):
    dataset = [None] * 600
    drawn = []
    for rank in range(processes):
        monkeypatch.setattr(recipe, 'get_dist_info', lambda r=rank: (r, processes))
        sampler = RepeatedAugmentation(dataset, seed=0, num_repeats=3)
        sampler.set_epoch(7)
        drawn.append([*sampler])
        assert len(drawn[-1]) == len(sampler) == 512 // processes
    dealt = [x for turn in zip(*drawn, strict=True) for x in turn]
    order = torch.randperm(600, generator=torch.Generator().manual_seed(7))
    assert dealt == order.repeat_interleave(3)[: len(dealt)].tolist()


def test_steps_of_imagenet(monkeypatch):
    monkeypatch.setattr(recipe, 'get_dist_info', lambda: (0, 8))
    sampler = RepeatedAugmentation(range(1_281_167))
    assert len(sampler) * 8 == 1_281_024
    assert len(sampler) // 128 == 1251


def test_no_decay_on_vectors_and_units_clipped():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    constructor = TimmOptimWrapperConstructor(
        dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=1.0, weight_decay=0.025),
            clip_grad=dict(type='adaptive', clip_factor=0.02, eps=1e-3),
        )
    )
    wrapper = constructor(model)
    decays = {
        parameter: group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert {n: decays[p] for n, p in model.named_parameters()} == {
        '0.weight': 0.025,
        '0.bias': 0.0,
        '1.weight': 0.0,
        '1.bias': 0.0,
    }
    weight = model[0].weight
    weight.grad = torch.ones_like(weight)
    weight.grad[1] *= 1e-6
    norms = weight.detach().flatten(1).norm(dim=1)
    wrapper.step()
    assert weight.grad[0].norm() == pytest.approx(0.02 * norms[0].item(), rel=1e-5)
    assert (weight.grad[1] == 1e-6).all()


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp('toy')
    make_toy(folder, size=16)
    return folder


def read(folder, split='val'):
    dataset = PicturesByClass(str(folder), split, TRANSFORM)
    return dataset, [dataset[i] for i in range(len(dataset))]


def test_a_folder_and_a_tar_file_give_the_same(toy, tmp_path):
    for split in ('train', 'val'):
        with tarfile.open(tmp_path / f'{split}.tar', 'w') as tar:
            tar.add(toy / split, '.')
    for split, number in (('train', 40), ('val', 20)):
        one, pictures = read(toy, split)
        other, same = read(tmp_path, split)
        assert len(one) == number
        assert one.metainfo == other.metainfo == dict(classes=tuple(sorted(CLASSES)))
        for (picture, label), (again, number) in zip(pictures, same, strict=True):
            assert label == number
            assert torch.equal(picture, again)


def test_some_are_held_out_where_nothing_is(toy):
    whole = sorted((toy / 'train').rglob('*.png'))
    parts = [
        {dataset.filename(i, absolute=True) for i in range(len(dataset))}
        for dataset in (
            PicturesByClass(str(toy / 'train'), split, TRANSFORM, held_out=4)
            for split in ('train', 'val')
        )
    ]
    assert [len(part) for part in parts] == [30, 10]
    assert set.union(*parts) == {*map(str, whole)}


def test_classes_are_numbered_alike_wherever_they_are_read(tmp_path):
    """In evaluation as in training, by the numbers in names, whatever their case."""
    names = ('2', '10', 'ant', 'Bee')
    for split, name, i in product(('train', 'val'), names, range(2)):
        folder = tmp_path / split / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (16, 16)).save(folder / f'{i}.png')
    read_folder = tool('eval_imagenet').read_folder
    trained = PicturesByClass(str(tmp_path), 'train', TRANSFORM)
    for folder in (tmp_path, tmp_path / 'train'):
        evaluated = read_folder(str(folder), TRANSFORM)
        assert evaluated.metainfo == trained.metainfo == dict(classes=names)
        assert [label for _, label in evaluated] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_pictures_of_every_kind_are_read(tmp_path):
    """A grey one of 16 bits as OpenCV reads it for detectors; none is left out."""
    ramp = np.linspace(0, 2**16 - 1, 32 * 32).astype(np.uint16).reshape(32, 32)
    folder = tmp_path / 'a'
    folder.mkdir()
    for suffix in ('.png', '.tif'):
        cv2.imwrite(str(folder / f'deep{suffix}'), ramp)
    bgr = cv2.imread(str(folder / 'deep.png'))
    for suffix in ('.bmp', '.webp', '.jpg'):
        cv2.imwrite(str(folder / f'flat{suffix}'), bgr)
    how = dict(input_size=32, crop_pct=1.0, normalize=False)
    dataset = PicturesByClass(str(tmp_path), 'all', how)
    assert len(dataset) == 5
    for i in range(5):
        picture, _ = dataset[i]
        off = np.abs(np.asarray(picture).transpose(1, 2, 0).astype(int) - bgr)
        assert off.max() <= (0 if 'deep' in dataset.filename(i) else 8)


def test_a_class_is_one_folder(tmp_path):
    for name in ('cat/indoors', 'dog/indoors'):
        (tmp_path / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / name / '0.png')
    with pytest.raises(ConfigError, match=r'2 are of one name: .*cat/.*, .*dog/'):
        PicturesByClass(str(tmp_path), 'train', TRANSFORM)


def test_what_is_no_data_is_told(toy, tmp_path):
    with pytest.raises(ConfigError, match='is missing'):
        PicturesByClass(str(tmp_path / 'none'), 'train', TRANSFORM)
    with pytest.raises(ConfigError, match=r'no pictures'):
        PicturesByClass(str(tmp_path), 'train', TRANSFORM)
    Image.new('RGB', (8, 8)).save(tmp_path / 'loose.png')
    with pytest.raises(ConfigError, match='in no folder of a class'):
        PicturesByClass(str(tmp_path), 'train', TRANSFORM)
    (tmp_path / 'train').mkdir()
    with pytest.raises(ConfigError, match='has no val nor validation nor valid'):
        PicturesByClass(str(tmp_path), 'val', TRANSFORM)
    (tmp_path / 'train/a').mkdir()
    (tmp_path / 'train/a/broken.png').write_bytes(b'no picture')
    dataset = PicturesByClass(str(tmp_path), 'train', TRANSFORM)
    with pytest.raises(DataError, match=r'the picture a/broken.png cannot be read'):
        dataset[0]
