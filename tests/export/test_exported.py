"""Exported files in the place of the networks that they were written from."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from mmrecnext.engine.configs import load_config
from mmrecnext.engine.prepare import move_data_root
from mmrecnext.errors import ExportError
from mmrecnext.export import classifier_subject, export, network_subject
from mmrecnext.export.evaluation import (
    evaluate_beside,
    loss_of,
    why_not_evaluated,
)
from mmrecnext.export.exported import ExportedClassifier, open_exported
from mmrecnext.export.predicting import (
    Exported,
    _instances,
    config_of,
    put_in_place,
)
from mmrecnext.models.classifier import RecNeXtClassifier
from mmrecnext.pretrained import MEAN, STD
from tests.docs.doc_blocks import BLOCKS
from tests.helpers import ROOT, SMALL, check, randomise, run_tool

pytestmark = pytest.mark.filterwarnings('ignore')  # of the exporter's own affairs


@pytest.fixture(scope='module')
def exported(segmentor, tmp_path_factory):
    """A segmentor for pictures of 160 x 160 in a file, which has its logits."""
    file = tmp_path_factory.mktemp('exported') / 'segmentor.onnx'
    config, weights = segmentor
    subject = network_subject(load_config(config), weights, logits=True)
    export(subject, file, size=(160, 160))
    return str(file)


@pytest.mark.slow
def test_label_maps_are_those_of_the_checkpoint(segmentor, exported, shapes, tmp_path):
    """By one command each, pictures of another size than the network's among them."""
    config, weights = segmentor
    figures, maps = [], []
    for name, model in (('checkpoint', weights), ('file', exported)):
        out = tmp_path / name
        log = check(
            run_tool(
                'tools/test.py', config, model, '--data-root', shapes,
                '--work-dir', tmp_path / 'run', '--out', out,
            )
        )  # fmt: skip
        figures.append(re.findall(r'^small: .*', log, re.M))
        maps.append({x.name: x.read_bytes() for x in out.iterdir()})
    assert figures[0] == figures[1] and len(figures[0]) == 1
    assert maps[0] == maps[1] and len(maps[0]) == 2


@pytest.mark.slow
def test_evaluated_beside_the_network(segmentor, exported, shapes):
    cfg = load_config(segmentor[0])
    assert 'data/shapes/' in why_not_evaluated(cfg)
    move_data_root(cfg, str(shapes))
    assert not why_not_evaluated(cfg)
    network, file = evaluate_beside(cfg, segmentor[1], exported)
    assert network == file and 0 < network['mIoU'] < 100
    said = loss_of(dict(network, worse=-1.0), dict(file, mIoU=0.0))
    assert f'mIoU {network["mIoU"]:.3f} to 0.000' in said and 'worse' not in said
    cfg.pop('test_evaluator')
    assert why_not_evaluated(cfg) == 'the config has no test'


@pytest.mark.slow
def test_predicts_with_nothing_but_the_file(segmentor, exported, shapes, tmp_path):
    config, weights = segmentor
    pictures = shapes / 'val2017'
    found = []
    for model in ([config, weights], [exported]):
        out = tmp_path / str(len(model))
        check(run_tool('tools/infer.py', *model, pictures, '--out-dir', out))
        found.append(json.loads((out / 'predictions.json').read_text()))
        drawn = {x.name: x.read_bytes() for x in out.glob('*.png')}
        found.append(drawn)
    assert found[0] == found[2] and len(found[0]) == 2
    assert found[1] == found[3] and len(found[1]) == 2


def test_detections_go_back_to_the_size_of_the_picture():
    """Masks in boxes are pasted as MMDetection does it, pasted ones enlarged."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    from mmdet.structures import DetDataSample

    torch.manual_seed(0)
    meta = dict(ori_shape=(60, 80), img_shape=(30, 40), scale_factor=(0.5, 0.5))
    sample = DetDataSample(metainfo=meta)
    boxes = torch.tensor([[3.0, 4, 20, 25], [10, 0, 40, 30], [0, 0, 0, 0]])
    scores = torch.tensor([[0.9], [0.8], [-1]])
    found = dict(
        dets=torch.cat([boxes, scores], 1)[None],
        labels=torch.tensor([[2, 0, -1]]),
        masks=torch.rand(1, 3, 28, 28),
    )
    test_cfg = dict(rcnn=dict(mask_thr_binary=0.5))
    result = _instances(found, sample, dict(masks='box', test_cfg=test_cfg))
    instances = result['pred_instances']
    assert instances.bboxes.equal(2 * boxes[:2])
    assert instances.labels.tolist() == [2, 0]
    assert instances.scores.equal(scores[:2, 0])
    pasted, _ = _do_paste_mask(
        found['masks'][0, :2, None], 2 * boxes[:2], 60, 80, False
    )
    others = instances.masks != (pasted >= 0.5)
    assert instances.masks.any() and not others[(pasted - 0.5).abs() > 1e-5].any()

    found['masks'] = torch.rand(1, 3, 32, 40) > 0.5  # the divisor has made rows up
    result = _instances(found, sample, dict(masks='picture'))
    enlarged = (
        found['masks'][0, :2, :30].repeat_interleave(2, 1).repeat_interleave(2, 2)
    )
    assert result['pred_instances'].masks.equal(enlarged)
    del found['masks']
    assert 'masks' not in _instances(found, sample, {})['pred_instances']


@pytest.mark.slow
def test_smaller_pictures_are_made_up(exported):
    file = open_exported(exported)
    image = torch.randint(0, 256, (3, 90, 70), dtype=torch.uint8)
    whole = torch.empty(3, 160, 160, dtype=torch.uint8)
    whole[:] = torch.tensor([104, 116, 124])[:, None, None]  # BGR, as it is loaded
    whole[:, :90, :70] = image
    assert torch.equal(file(image)['logits'], file(whole)['logits'])
    with pytest.raises(
        ExportError, match=r'takes pictures of 160 x 160, got .* 161 x 9'
    ):
        file(torch.zeros(3, 161, 9))


@pytest.mark.slow
def test_classifier(tmp_path):
    torch.manual_seed(0)
    model = randomise(RecNeXtClassifier(SMALL['m0'], num_classes=3))
    file = tmp_path / 'classifier.onnx'
    export(classifier_subject(model), file, size=(64, 64))
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8) / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    images = (pictures - mean) / std
    with torch.no_grad():
        expected = model(images)
    found = ExportedClassifier(str(file))(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.std()
    for take in (Exported, config_of):
        with pytest.raises(ExportError, match='of classification: only files of det'):
            take(str(file))


NEEDED = ('numpy', 'PIL', 'onnxruntime', 'google', 'flatbuffers', 'packaging')
"""What the program of the docs may import, with what these need."""


@pytest.mark.slow
def test_program_of_the_docs_needs_nothing_else(tmp_path):
    """It runs where there is neither OpenMMLab nor PyTorch."""
    torch.manual_seed(0)
    model = randomise(RecNeXtClassifier(SMALL['m0'], num_classes=7))
    export(classifier_subject(model), tmp_path / 'm0.onnx', size=(224, 224))
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    photo.save(tmp_path / 'photo.png')
    (program,) = (block.text for block in BLOCKS if block.file == 'classify.py')
    (tmp_path / 'classify.py').write_text(program)
    site = tmp_path / 'site'
    site.mkdir()
    for name in NEEDED:
        for place in sys.path:
            for part in (name, f'{name}.libs', f'{name.lower()}.libs'):
                if (Path(place) / part).is_dir() and not (site / part).exists():
                    (site / part).symlink_to(Path(place) / part)
    start = (
        f'import runpy, sys; sys.path.append({str(site)!r}); sys.argv = sys.argv[1:]; '
        'runpy.run_path("classify.py", run_name="__main__")'
    )
    words = ['classify.py', 'm0.onnx', 'photo.png']
    own = subprocess.run(
        [sys.executable, '-I', '-S', '-c', start, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert own.returncode == 0, own.stderr
    transform = create_transform(**resolve_data_config(model=model))
    with torch.no_grad():
        logits = model(transform(photo)[None])[0]
    expected = [f'{logits[i]:6.2f} class {i}' for i in logits.argsort(descending=True)]
    assert own.stdout.splitlines() == expected[:5]


@pytest.mark.slow
def test_tools_start_without_what_detectors_need():
    """Those of classifiers and of speed."""
    code = """
import runpy, sys
for package in ('mmdet', 'mmseg', 'pycocotools'):
    sys.modules[package] = None  # as if it were not there
for tool in ('eval_imagenet', 'benchmark', 'export'):
    print(callable(runpy.run_path(f'tools/{tool}.py')['main']))
"""
    started = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert started.returncode == 0, started.stderr
    assert started.stdout.split() == ['True'] * 3


@pytest.mark.slow
def test_files_are_loaded_when_they_run(exported):
    file = open_exported(exported)
    assert file.about['task'] == 'segmentation' and 'run' not in vars(file)
    assert 'run' in vars(file.load())


def test_files_that_were_not_exported(tmp_path):
    file = tmp_path / 'x.onnx'
    with pytest.raises(FileNotFoundError, match='there is no file'):
        open_exported(file)
    file.write_bytes(b'something')
    with pytest.raises(ExportError, match=r'x\.onnx cannot be read'):
        open_exported(file)
    torch.onnx.export(nn.ReLU(), torch.ones(1), file, dynamo=False)
    with pytest.raises(ExportError, match='tells no task'):
        open_exported(file)


@pytest.mark.slow
def test_what_does_not_fit_the_config(segmentor, exported, tmp_path):
    cfg = load_config(segmentor[0])
    put_in_place(exported, cfg)
    model = MODELS.build(cfg.model)
    with pytest.raises(ExportError, match='predicts, and does nothing else'):
        model(torch.zeros(1, 3, 8, 8), mode='loss')
    cfg.test_dataloader.dataset.metainfo.classes = ('one', 'two')
    with pytest.raises(ExportError, match=r'of 6 classes .* config of 2 \(one, two\)'):
        put_in_place(exported, cfg)
    detector = load_config('mask_rcnn_recnext_m0_shapes.py')
    with pytest.raises(ExportError, match='is of segmentation, the config of mmdet'):
        put_in_place(exported, detector)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('command', 'message'),
    [
        (['test.py', 'CONFIG', 'FILE', '--tta'], 'as it was exported'),
        (['test.py', 'CONFIG', 'none.onnx'], 'there is no file none.onnx'),
        (['infer.py', 'FILE', 'x.png', '--deploy'], 'as it was exported'),
        (['infer.py', 'FILE', 'none.png'], 'no image, folder or video none.png'),
        (['infer.py', 'CONFIG', 'weights.pth'], 'name images, folders'),
    ],
)
def test_mistakes_on_the_command_line(
    command, message, segmentor, exported, shapes, tmp_path
):
    names = {'CONFIG': segmentor[0], 'FILE': exported}
    name, *rest = [names.get(word, word) for word in command]
    if name == 'test.py':
        rest += ['--data-root', shapes, '--work-dir', tmp_path]
    else:
        rest += ['--out-dir', tmp_path / 'out']
        (tmp_path / 'x.png').write_bytes(
            (next((shapes / 'val2017').iterdir())).read_bytes()
        )
        rest = [tmp_path / x if x == 'x.png' else x for x in rest]
    result = run_tool(f'tools/{name}', *rest)
    assert result.returncode != 0 and message in result.stderr
    assert 'Traceback' not in result.stderr
