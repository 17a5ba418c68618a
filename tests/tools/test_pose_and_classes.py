"""Train, resume, test and infer with models of MMPose and MMPretrain, by our tools."""

import json
import re

import cv2
import numpy as np
import pytest

from mmrecnext import swap_backbone
from mmrecnext.benchmark.against import beside
from mmrecnext.benchmark.operations import named_cost
from tests.fork_server import ForkServer
from tests.helpers import PRELOADED, ROOT, check

pytestmark = pytest.mark.slow

ARCH = dict(base='m0', dims=(8, 16, 32, 64), depths=(1, 1, 1, 1))
COCO = 'mmpose::body_2d_keypoint/topdown_heatmap/coco'
POSE = f'{COCO}/td-hm_res50_8xb64-210e_coco-256x192.py'
CLASSES = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
JOINTS = 17
SIDE = 64
SERVERS = {
    name: ForkServer(*PRELOADED, f'{name}.datasets', f'{name}.models')
    for name in ('mmpose', 'mmpretrain')
}


def shortened(cfg, root):
    """Have a config train on four pictures, for an epoch."""
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
    cfg.data_root = str(root)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    return cfg


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    """Pictures of noise, with a person in each, in COCO's format."""
    pytest.importorskip('mmpose')
    pytest.importorskip('xtcocotools')
    root = tmp_path_factory.mktemp('people')
    random = np.random.RandomState(0)
    images, annotations = [], []
    for i in range(1, 5):
        name = f'{i}.png'
        cv2.imwrite(str(root / name), random.randint(0, 256, (SIDE, SIDE, 3), np.uint8))
        joints = np.full((JOINTS, 3), 2)
        joints[:, :2] = random.randint(8, SIDE - 8, (JOINTS, 2))
        images.append(dict(id=i, file_name=name, width=SIDE, height=SIDE))
        box = [4, 4, SIDE - 8, SIDE - 8]
        annotations.append(
            dict(
                id=i,
                image_id=i,
                category_id=1,
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
                num_keypoints=JOINTS,
                keypoints=joints.ravel().tolist(),
            )
        )
    categories = [dict(id=1, name='person')]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'people.json').write_text(json.dumps(content))
    cfg = shortened(swap_backbone(POSE, ARCH, pretrained=False), root)
    cfg.model.head.deconv_out_channels = (8, 8, 8)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.update(ann_file='people.json', data_prefix=dict(img=''))
        dataset.pop('bbox_file', None)
        if split != 'train':
            cfg[f'{split}_evaluator'].ann_file = str(root / 'people.json')
    cfg.dump(root / 'pose.py')
    return root


@pytest.fixture(scope='module')
def kinds(tmp_path_factory):
    """A folder of pictures for each of two classes."""
    pytest.importorskip('mmpretrain')
    root = tmp_path_factory.mktemp('kinds')
    random = np.random.RandomState(0)
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                picture = random.randint(0, 256, (SIDE, SIDE, 3), np.uint8)
                cv2.imwrite(str(root / split / name / f'{i}.png'), picture)
    cfg = shortened(swap_backbone(CLASSES, ARCH, pretrained=False), root)
    cfg.model.head.update(num_classes=2, topk=(1,))
    cfg.data_preprocessor.num_classes = 2
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        prefix = 'train' if split == 'train' else 'val'
        dataset.update(type='CustomDataset', data_prefix=prefix)
        dataset.pop('split')
        dataset.pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=SIDE),
            dict(type='PackInputs'),
        ]
        if split != 'train':
            cfg[f'{split}_evaluator'].topk = (1,)
    cfg.dump(root / 'classes.py')
    return root


def run_all(framework, root, config, picture):
    """Train an epoch, go on for another, test and infer; return what was printed."""

    def tool(name, *args):
        argv = [ROOT / f'tools/{name}.py', root / config, *args]
        return check(SERVERS[framework].run(argv, root, OMP_NUM_THREADS='1'))

    work = ('--work-dir', root / 'work')
    first = tool('train', *work)
    more = tool('train', *work, '--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    weights = root / 'work/epoch_2.pth'
    tested = tool(
        'test', weights, *work, '--out', root / 'out.pkl', '--show-dir', 'drawn'
    )
    refused = SERVERS[framework].run(
        [ROOT / 'tools/test.py', root / config, weights, *work, '--tta'], root
    )
    assert refused.returncode and f'not of {framework}' in refused.stderr
    told = tool('infer', weights, root / picture, '--out-dir', root / 'found')
    assert '1 images' in told
    losses = [float(x) for x in re.findall(r' loss: (\S+)', first + more)]
    assert len(losses) == 4 and np.isfinite(losses).all()
    assert 'resumed epoch: 1' in more
    assert (root / 'out.pkl').is_file()
    drawn = cv2.imread(str(root / 'found' / picture.rpartition('/')[2]))
    assert drawn.shape == (SIDE, SIDE, 3)
    (found,) = json.loads((root / 'found/predictions.json').read_text())
    return tested, found


def test_a_pose_estimator_is_trained_resumed_tested_and_draws(people):
    tested, found = run_all('mmpose', people, 'pose.py', '1.png')
    assert re.search(r'pose: AP \d', tested)
    assert len([*(people / 'drawn').glob('*.png')]) == 4
    (pose,) = found['poses']
    assert pose['box'] == [0, 0, SIDE, SIDE] and pose['score'] == 1
    assert all(len(joint) == 3 for joint in pose['joints'].values())


def test_a_classifier_is_trained_resumed_tested_and_draws(kinds):
    tested, found = run_all('mmpretrain', kinds, 'classes.py', 'val/dog/1.png')
    assert re.search(r'classes: top1 \d', tested)
    assert len([*(kinds / 'drawn').rglob('*.png')]) == 4
    assert found['classes'].keys() == {'cat', 'dog'}
    assert abs(sum(found['classes'].values()) - 1) < 1e-3


@pytest.mark.parametrize(
    ('name', 'params', 'macs'),
    [
        ('td-hm_res50_8xb64-210e_coco-256x192.py', 34.0, 5.4),
        ('resnet50_8xb32_in1k.py', 25.56, 4.1),
    ],
)
def test_operations_are_counted_at_the_size_of_the_framework(name, params, macs):
    """A ResNet-50 has 25.56 M parameters, and takes 4.1 G at 224 x 224."""
    network = POSE if name in POSE else f'mmpretrain::resnet/{name}'
    pytest.importorskip(network.partition('::')[0])
    cost = named_cost(network)
    assert cost.train_params / 1e6 == pytest.approx(params, abs=0.01)
    assert cost.macs / 1e9 == pytest.approx(macs, abs=0.05)


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        (POSE, (256, 192)),
        (CLASSES, (64, 64)),
    ],
)
def test_networks_are_measured_side_by_side(name, shape, tmp_path):
    pytest.importorskip(name.partition('::')[0])
    for i, arch in enumerate((ARCH, dict(ARCH, dims=(16, 32, 64, 128)))):
        swap_backbone(name, arch, pretrained=False).dump(tmp_path / f'{i}.py')
    (title, _, rows), _ = beside(
        str(tmp_path / '0.py'), str(tmp_path / '1.py'), shape, repeats=1
    )
    assert title == f'0 and 1, 1 x {shape[0]} x {shape[1]}, deployed, fp32'
    figures = {row[0].strip(): row[1:3] for row in rows}
    for part in ('inference, ms', 'backbone, ms', 'heads, ms', 'training step, ms'):
        assert all(float(x) > 0 for x in figures[part]), part
