import csv
import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from mmrecnext.checkpoint import read_checkpoint
from mmrecnext.classification.mistakes import Seen, count
from mmrecnext.classification.recipe import PicturesByClass
from mmrecnext.classification.registration import chosen_weights
from mmrecnext.models.classifier import RecNeXtClassifier
from tests.classification.helpers import CONFIGS, SIZE, train
from tests.classification.toy import make_toy
from tests.helpers import ROOT, SERVER, TINY, check, run_tool

FINETUNE = CONFIGS / 'recnext_m3_finetune.py'


@pytest.fixture
def pictures(tmp_path):
    """Three classes of pictures, nothing set apart to validate on."""
    make_toy(tmp_path / 'toy', per_class=5, splits=['train'], size=24)
    folder = tmp_path / 'toy/train'
    for name in ('red_plain', 'green_rings', 'blue_bars'):
        (folder / name).rename(tmp_path / 'toy' / name)
    for rest in sorted(folder.rglob('*'), reverse=True):
        rest.rmdir() if rest.is_dir() else rest.unlink()
    folder.rmdir()
    return tmp_path / 'toy'


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of 20 classes."""
    torch.manual_seed(0)
    path = tmp_path / 'weights.pth'
    model = RecNeXtClassifier(TINY, num_classes=20)
    torch.save({'model': model.state_dict()}, path)
    return path


def test_a_folder_of_pictures_is_learnt(pictures, weights, tmp_path):
    """Classes and what is held out are found, and mistakes are those of the model."""
    work_dir = tmp_path / 'work'
    options = {
        'model.pretrained': str(weights),
        'train_dataloader.batch_size': 4,
        'val_dataloader.batch_size': 2,
    }
    runner, losses = train(pictures, work_dir, FINETUNE, **options)
    assert len(losses) == 2 * (12 // 4)
    assert runner.model.num_classes == 3
    model = runner.model.backbone.eval()
    assert chosen_weights(torch.load(weights)).keys() == model.state_dict().keys()

    held_out = PicturesByClass(
        str(pictures), 'val', dict(input_size=SIZE, crop_pct=224 / 256)
    )
    assert held_out.metainfo['classes'] == ('blue_bars', 'green_rings', 'red_plain')
    wrong = {}
    for i in range(len(held_out)):
        picture, label = held_out[i]
        with torch.no_grad():
            shares = model(picture[None]).softmax(1)[0]
        if shares.argmax() != label:
            wrong[held_out.filename(i)] = shares[label].item()
    assert wrong, 'all is right, and nothing is tested'
    with open(work_dir / 'mistakes.csv') as file:
        rows = [*csv.DictReader(file)]
    found = {row['picture']: float(row['likelihood of its class']) for row in rows}
    assert found == pytest.approx(wrong, abs=1e-4)
    assert [*found.values()] == sorted(found.values())
    for name in ('confusion.png', 'mistakes.png'):
        assert np.ptp(np.asarray(Image.open(work_dir / name))) > 100


def test_pictures_are_counted_by_class_and_prediction():
    seen = [Seen(0, 0, 0.9), Seen(0, 2, 0.1), Seen(2, 2, 0.5), Seen(0, 2, 0.3)]
    assert count(seen, 3).tolist() == [[1, 0, 2], [0, 0, 0], [0, 0, 1]]


SMALL = [
    f'{split}_dataloader.{setting}'
    for split in ('train', 'val')
    for setting in (
        'batch_size=4',
        'num_workers=0',
        'persistent_workers=False',
        'dataset.transform.input_size=32',
    )
]


@pytest.mark.slow
def test_one_command(pictures, tmp_path):
    """M0 from nothing, for an epoch of small pictures; then evaluated, and released."""
    work_dir = tmp_path / 'work'
    options = ['model.arch=m0', 'model.pretrained=None', 'train_cfg.max_epochs=1']
    said = check(
        run_tool(
            'tools/train.py',
            'recnext_m3_finetune.py',
            *('--data-root', pictures, '--work-dir', work_dir),
            *('--cfg-options', *options, *SMALL),
        )
    )
    assert '3 classes: blue_bars, green_rings, red_plain' in said
    assert (work_dir / 'confusion.png').exists()
    file = work_dir / 'epoch_1.pth'
    options = ['--checkpoint', file, '--data', pictures, '--workers', 0]
    figures = check(run_tool('tools/eval_imagenet.py', 'recnext_m0', *options))
    assert '(15 images)' in figures
    check(run_tool('tools/publish.py', 'recnext_m0', file, tmp_path / 'm0'))
    (released,) = tmp_path.glob('m0-*.pth')
    weights = torch.load(released)['model']
    own = chosen_weights(read_checkpoint(str(file), 'cpu'))
    torch.testing.assert_close(weights, own, rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes(pictures, tmp_path):
    """They take turns, keep one network, and count each picture once."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    options = ['model.arch=m0', 'train_cfg.max_epochs=1', 'param_scheduler.epochs=1']
    command = [
        *(ROOT / 'tools/dist_train.sh', CONFIGS / 'recnext_m0_300e_in1k.py', '2'),
        *('--data-root', pictures, '--work-dir', tmp_path / 'work'),
        *('--cfg-options', *options, *SMALL, 'default_hooks.logger.interval=1'),
    ]
    check(SERVER.launch([*map(str, command)], ROOT, PORT=port))
    (scalars,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    *steps, figures = map(json.loads, scalars.read_text().splitlines())
    assert len(steps) == 6 // 4  # half of twelve, in batches of four
    assert figures['top1'] in [100 * hits / 3 for hits in range(4)]
