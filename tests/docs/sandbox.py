"""A folder like a clone of the repository, with tiny data, in which the docs run."""

import shutil
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from safetensors.torch import save_file

from mmrecnext.engine.build import fit_cpu
from mmrecnext.engine.configs import load_config
from mmrecnext.models import RecNeXtClassifier
from mmrecnext.pretrained import Pretrained
from tests.fork_server import ForkServer
from tests.helpers import FRAMEWORKS, PRELOADED, ROOT, golden_tensor

SIDE = 128  # of images, in pixels: two of the coarsest map, for batch norms to train
BATCH = 2
STEPS = 2  # of training
REGIONS = 8  # of an image, for the heads of a detector to look at

# What the commands of the docs import, ours too, with shallow models: they are many.
SERVER = ForkServer(
    *PRELOADED,
    'mmrecnext.classification',
    'mmrecnext.engine.runner',
    'tests.docs.shallow',
    'pandas',
    *FRAMEWORKS,
)
OUTPUTS = ('data', 'work_dirs', 'build')
TEACHER = 'teacher.pth'
"""Weights of timm's ``test_resnet``, of as many classes as ``imagenet`` has."""

IMAGENET_LABELS = ('n01440764', 'n01443537', 'n01484850')


def python(argv, cwd):
    """Run ``python ARGV``: a script, or ``-m`` and a module."""
    return SERVER.run(argv, cwd, OMP_NUM_THREADS='1')


def smaller(cfg: Config, steps: int = STEPS) -> list[str]:
    """Return ``--cfg-options`` for a few steps on small images, in one process."""
    options = {'default_hooks.logger.interval': 1}
    for split in ('train', 'val', 'test'):
        if loader := cfg.get(f'{split}_dataloader'):
            at = f'{split}_dataloader'
            options[f'{at}.num_workers'] = 0
            options[f'{at}.persistent_workers'] = False
            options[f'{at}.batch_size'] = BATCH
            options |= _smaller_dataset(loader.dataset, f'{at}.dataset')
    options |= _smaller_steps(cfg.get('tta_pipeline', []), 'tta_pipeline')
    if 'teacher' in cfg.model:
        options['model.teacher.model'] = 'test_resnet'
        options['model.teacher.checkpoint'] = TEACHER
    if cfg.get('train_cfg'):
        unit = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
        steps = steps if unit == 'max_iters' else steps // STEPS
        options[f'train_cfg.{unit}'] = options['train_cfg.val_interval'] = steps
        options['default_hooks.checkpoint.interval'] = steps
    if 'size' in cfg.model.get('data_preprocessor', {}):
        options['model.data_preprocessor.size'] = (SIDE, SIDE)
    if 'sampler' in ((cfg.model.get('train_cfg') or {}).get('rcnn') or {}):
        options['model.train_cfg.rcnn.sampler.num'] = REGIONS
        for part in ('train_cfg.rpn_proposal', 'test_cfg.rpn', 'test_cfg.rcnn'):
            options[f'model.{part}.max_per_img'] = REGIONS
    return [f'{key}={value}'.replace(' ', '') for key, value in options.items()]


def _smaller_dataset(dataset, at):
    if 'dataset' in dataset:
        return _smaller_dataset(dataset.dataset, f'{at}.dataset')
    if 'transform' in dataset:  # of classifiers
        return {f'{at}.transform.input_size': SIDE // 2}
    options = _smaller_steps(dataset.pipeline, f'{at}.pipeline')
    return options | {f'{at}.indices': STEPS * BATCH}


def _smaller_steps(pipeline, at):
    options = {}
    for i, step in enumerate(pipeline):
        for key in {'scale', 'crop_size'} & set(step):
            options[f'{at}.{i}.{key}'] = (SIDE, SIDE)
    return options


def save_random_weights(config: str, file: Path, **meta):
    """Save a checkpoint of the model of ``config``, untrained."""
    cfg = load_config(str(config))
    cfg.model.backbone.init_cfg = None
    fit_cpu(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        registry = import_module(f'{cfg.default_scope}.registry')
        model = registry.MODELS.build(cfg.model)
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, file)


def make_world(folder: Path, data: dict[str, Path]):
    """Make a folder with all that commands of the docs read, but weights.

    Args:
        folder: to be made.
        data: where the data sets stand, by the name of a link in ``data``.
    """
    folder.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if not entry.name.startswith('.') and entry.name not in OUTPUTS:
            (folder / entry.name).symlink_to(entry)
    for name, source in data.items():
        shutil.copytree(source, folder / 'data' / name, symlinks=True)
    photo = np.random.RandomState(0).randint(0, 255, (SIDE, SIDE, 3), np.uint8)
    photos = ['photo.jpg', 'folder/photo.jpg']
    for label in IMAGENET_LABELS:
        photos += [f'imagenet/val/{label}/photo.jpg', f'pictures/{label}/photo.jpg']
        for split in ('train', 'val'):
            photos.append(f'data/imagenet/{split}/{label}/photo.jpg')
    for file in photos:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / file), photo)
    teacher = timm.create_model('test_resnet', num_classes=len(IMAGENET_LABELS))
    torch.save(teacher.state_dict(), folder / TEACHER)
    fourcc = cv2.VideoWriter_fourcc(*'mp4v')
    film = cv2.VideoWriter(str(folder / 'film.mp4'), fourcc, 5, (SIDE, SIDE))
    film.write(photo)
    film.release()


def save_published(folder: Path, weights: Pretrained):
    """Save made-up weights where downloads of the published ones are kept.

    The classifier of the released file knows as many classes as ``imagenet`` has, that
    of the hub 1,000.
    """
    file = folder / 'hub/checkpoints' / Path(weights.url).name
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.device('meta'):
        shapes = {
            k: v.shape for k, v in RecNeXtClassifier(weights.arch).state_dict().items()
        }
    state = {key: golden_tensor(key, shape) for key, shape in shapes.items()}
    few = len(IMAGENET_LABELS)
    released = {k: v[:few] if '.linear.' in k else v for k, v in state.items()}
    torch.save({'model': released}, file)

    cache = folder / 'hub' / f'models--{weights.hub_id.replace("/", "--")}'
    (cache / 'refs').mkdir(parents=True)
    (cache / 'refs/main').write_text('0')
    (cache / 'snapshots/0').mkdir(parents=True)
    save_file(state, cache / 'snapshots/0/model.safetensors')
