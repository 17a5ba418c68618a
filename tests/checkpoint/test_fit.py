import pickle
import re
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.checkpoint import backbone_weights, load_network, read_checkpoint
from mmrecnext.checkpoint.files import read_file
from mmrecnext.checkpoint.sources import download_path
from mmrecnext.errors import CheckpointError
from mmrecnext.models.fusion import count_norms, fuse_conv_norms
from tests.checkpoint.helpers import RunsCode, load
from tests.helpers import SERIES, TINY, golden_input, golden_tensor, golden_weights


@pytest.fixture(scope='module')
def m0(golden_states):
    return golden_weights(golden_states, 'm0', head=True)


@pytest.fixture
def save(tmp_path):
    def save(content, name='weights.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


def with_prefix(weights, prefix):
    return {prefix + key: value for key, value in weights.items()}


FORMS = {
    'compiled': lambda w: {'model': with_prefix(w, 'module._orig_mod.')},
    'averages of timm': lambda w: {
        'state_dict': w,
        'state_dict_ema': {k: v + 1 for k, v in w.items()},
        'args': Namespace(lr=1e-3, output='out'),
    },
    'averages alone': lambda w: {'model_ema': w},
    'published': lambda w: {'model': w, 'epoch': 299},
    'bare': lambda w: w,
    'data parallel': lambda w: {'state_dict': with_prefix(w, 'module.')},
    'mmlab detector': lambda w: {
        'meta': {'epoch': 12},
        'state_dict': {
            **with_prefix({k: v for k, v in w.items() if 'head' not in k}, 'backbone.'),
            'neck.lateral_convs.0.conv.weight': torch.zeros(1),
        },
    },
    'averages of mmcv 1': lambda w: {
        'state_dict': {
            **with_prefix(w, 'module.backbone.'),
            **{f'ema_backbone_{k.replace(".", "_")}': v + 1 for k, v in w.items()},
        },
        'optimizer': {'state': {}, 'param_groups': [{'betas': (0.9, 0.999)}]},
    },
    'averages of mmengine': lambda w: {
        'state_dict': with_prefix(w, 'backbone.'),
        'ema_state_dict': {
            'steps': torch.tensor(9),
            **{f'module.backbone.{k}': v + 1 for k, v in w.items()},
        },
    },
}


@pytest.mark.parametrize('form', FORMS)
def test_forms(form, m0, save, golden_features):
    model = load(save(FORMS[form](m0))).eval()
    for key, value in model.state_dict().items():
        assert torch.equal(value, m0[key])
    with torch.no_grad():
        last = model(golden_input())[3].flatten()
    sample = np.linspace(0, last.numel() - 1, 256).astype(int)
    golden = golden_features['recnext_m0.stage3']
    assert np.abs(last.numpy()[sample] - golden).max() <= 1e-5 * golden.std()


def test_prefix(m0, save):
    file = save(with_prefix(m0, 'teacher.net.'))
    assert load(file, prefix='teacher.net').is_init
    with pytest.raises(CheckpointError, match=r"begins with 'student\.'.*teacher"):
        load(file, prefix='student.')


def test_fewer_stages_take_what_they_need(m0, save):
    model = load(save({'model': m0}), out_indices=(0, 1))
    assert torch.equal(
        model.stages[1].blocks[0].norm.weight, m0['stages.1.blocks.0.norm.weight']
    )


def test_the_count_is_logged(m0, save, caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    load(save({'model': m0}))
    logger.removeHandler(caplog.handler)
    assert (
        f'Loaded {len(m0) - 14}/{len(m0) - 14} weights of the backbone' in caplog.text
    )


def renamed(w):
    w['stages.0.blocks.0.norm.wait'] = w.pop('stages.0.blocks.0.norm.weight')


def reshaped(w):
    w['stem.stem.0.conv.weight'] = w['stem.stem.0.conv.weight'][:, :1]


def removed(w):
    del w['stages.3.blocks.0.token_mixer.down.weight']


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (renamed, r'missing: stages\.0\.blocks\.0\.norm\.weight; left over: .*wait'),
        (reshaped, r'stem\.0\.conv\.weight \[20, 1, 3, 3\] instead of \[20, 3, 3, 3\]'),
        (removed, 'missing: stages.3.blocks.0.token_mixer.down.weight'),
    ],
)
def test_misfits_are_errors(spoil, message, m0, save):
    weights = dict(m0)
    spoil(weights)
    file = save({'model': weights})
    model = RecNeXt('m0', init_cfg=dict(type='Pretrained', checkpoint=file))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        model.init_weights()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ('arch', 'options', 'message'),
    [
        ('m1', {}, 'These are weights of m0, this is m1'),
        ('m1', dict(out_indices=(1,)), 'These are weights of m0, this is m1'),
        ('m1', dict(deploy=True), 'These are weights of m0, this is m1'),
        (dict(base='m0', depths=(2, 2, 9, 2)), {}, 'of m0, this is another model'),
    ],
)
def test_the_right_model_is_named(arch, options, message, m0, save):
    with pytest.raises(CheckpointError, match=message):
        load(save({'model': m0}), arch, **options)


def test_a_spoilt_file_is_likened_to_its_model(m0, save):
    renamed(weights := dict(m0))
    with pytest.raises(CheckpointError, match='look like weights of m0, this is m1'):
        load(save(weights), 'm1')
    with pytest.raises(CheckpointError) as error:
        load(save(weights), 'm0')
    assert 'weights of' not in str(error.value)


class Network(nn.Module):
    """Keys and shapes like those of a detector or segmentor."""

    def __init__(self, arch='m0', head='bbox_head', classes=2):
        super().__init__()
        self.backbone = RecNeXt(arch)
        self.add_module(head, nn.Linear(1, classes))


OTHER_NETWORKS = {
    'arch': (
        lambda m0: Network('a0').state_dict(),
        r'config: its backbone is RecNeXt-A0, that of the config RecNeXt-M0; '
        r'missing: backbone\.\S+, .* more; left over: backbone\.\S+, .* more$',
    ),
    'kind': (
        lambda m0: Network(head='decode_head').state_dict(),
        'config: it is of a segmentor, the config of a detector; missing: bbox_head',
    ),
    'both': (
        lambda m0: Network('a0', 'decode_head').state_dict(),
        'a detector, and its backbone is RecNeXt-A0, that of the config RecNeXt-M0; ',
    ),
    'classes': (
        lambda m0: Network(classes=3).state_dict(),
        r'config; of another shape: bbox_head\.bias \[3\] instead of \[2\], bbox_head',
    ),
    'classifier': (lambda m0: {'model': m0}, r'only a classifier \(RecNeXt-M0\); miss'),
    'backbone': (
        lambda m0: with_prefix(backbone_weights(m0), 'backbone.'),
        r'only a backbone \(RecNeXt-M0\); missing: bbox_head\.bias, bbox_head\.weight$',
    ),
}


@pytest.mark.parametrize('case', OTHER_NETWORKS)
def test_other_networks_are_named(case, m0, save):
    make, message = OTHER_NETWORKS[case]
    with pytest.raises(CheckpointError, match=f'does not fit .*{message}') as error:
        load_network(Network(), save(make(m0)))
    assert len(str(error.value)) < 800


def test_network_that_fits(save):
    model = Network()
    saved = {'meta': {'epoch': 1}, 'state_dict': Network().state_dict()}
    assert load_network(model, save(saved))['meta'] == {'epoch': 1}
    assert torch.equal(model.bbox_head.weight, saved['state_dict']['bbox_head.weight'])


@torch.no_grad()
@pytest.mark.parametrize('series', SERIES)
@pytest.mark.parametrize('form', ['training', 'fused', 'deployed'])
def test_deployed_backbone_takes_any_form(form, series, save):
    model = RecNeXt(SERIES[series], in_channels=4, out_indices=(0, 2)).eval()
    for key, value in model.state_dict().items():
        value.copy_(golden_tensor(key, value.shape))
    image = torch.randn(1, 4, 64, 96)
    expected = model(image)
    if form != 'training':
        fuse_conv_norms(model)
    if form == 'deployed':
        model.switch_to_deploy()
    options = dict(in_channels=4, out_indices=(0, 2), deploy=True)
    deployed = load(save(model.state_dict()), SERIES[series], **options)
    assert deployed.deployed and count_norms(deployed) == 0
    for x, y in zip(deployed(image), expected, strict=True):
        assert (x - y).abs().max() <= 1e-5 * y.std()


def test_norms_are_merged_as_the_backbone_says(m0, save):
    norm_cfg = dict(type='SyncBN', eps=0.1)
    trained = load(save(m0), norm_cfg=norm_cfg).eval()
    deployed = load(save(m0), norm_cfg=norm_cfg, deploy=True)
    with torch.no_grad():
        x, y = deployed(golden_input())[3], trained(golden_input())[3]
    assert (x - y).abs().max() <= 1e-5 * y.std()


def test_no_weights(save):
    with pytest.raises(CheckpointError, match=r'no weights.*it has epoch'):
        load(save({'epoch': 3}))


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r'there is no checkpoint .*nowhere.pth'):
        load(str(tmp_path / 'nowhere.pth'))


def test_unreachable_url(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(CheckpointError, match=r'cannot download .*put it at'):
        load('http://127.0.0.1:9/recnext_m0_distill_300e.pth')


def test_downloaded_file_is_found(tmp_path, monkeypatch, m0):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'http://127.0.0.1:9/recnext_m0_distill_300e.pth'
    file = download_path(url)
    file.parent.mkdir(parents=True)
    torch.save({'model': m0}, file)
    assert load(url).is_init


@pytest.mark.parametrize('size', [0, 100, 30_000])
def test_truncated_file(size, m0, save, tmp_path):
    whole = (tmp_path / save({'model': m0})).read_bytes()
    (tmp_path / 'part.pth').write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match=r'part\.pth is broken or cut short'):
        load(str(tmp_path / 'part.pth'))


def test_other_file(tmp_path):
    (tmp_path / 'page.pth').write_text('<html>404</html>')
    with pytest.raises(CheckpointError, match='is broken'):
        load(str(tmp_path / 'page.pth'))


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('mine.py', 'a Python file, such as a config'),
        ('notes.txt', 'a text file'),
        ('A.JPG', 'a picture'),
        ('m0.onnx', 'a model of ONNX'),
    ],
)
def test_files_of_other_kinds_are_told_by_their_name(name, kind, tmp_path):
    (tmp_path / name).write_bytes(b'a = 1')
    with pytest.raises(CheckpointError, match=f'{name} is {kind}, and no checkpoint'):
        read_file(tmp_path / name)


def test_paths_are_taken_as_names_are(m0, save, tmp_path):
    assert read_checkpoint(tmp_path / save({'model': m0}))['model'].keys() == m0.keys()


BROKEN = {
    'page': (lambda whole: b'<html>404</html>', r': a web page'),
    'pointer': (
        lambda whole: b'version https://git-lfs.github.com/spec/v1',
        ': a poin',
    ),
    'text': (lambda whole: b'tensors', ''),
    'half': (lambda whole: whole[: len(whole) // 2], ''),
    'spoilt': (lambda whole: whole[:30] + bytes(300) + whole[330:], ''),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_files_are_told_in_plain_words(case, m0, save, tmp_path):
    spoil, kind = BROKEN[case]
    whole = (tmp_path / save({'model': m0})).read_bytes()
    (tmp_path / 'x.pth').write_bytes(spoil(whole))
    words = (
        rf'x\.pth is broken or cut short \(\d+ bytes{kind}.*\)\. Delete it and fetch'
    )
    with pytest.raises(CheckpointError, match=words) as error:
        load(str(tmp_path / 'x.pth'))
    internals = re.search(r'operand|miniz|codec|Errno|zip|\n', str(error.value))
    assert not internals


def test_truncated_safetensors(m0, tmp_path):
    save_file(m0, tmp_path / 'whole.safetensors')
    whole = (tmp_path / 'whole.safetensors').read_bytes()
    for size in (0, 5, 1000, len(whole) - 1):
        (tmp_path / 'part.safetensors').write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r'is broken or cut short \(\d+ byte'):
            load(str(tmp_path / 'part.safetensors'))
    (tmp_path / 'whole.bin').write_bytes(whole)  # the content tells, not the name
    assert load(str(tmp_path / 'whole.bin')).is_init


def test_missing_package_for_safetensors(m0, tmp_path, monkeypatch):
    save_file(m0, tmp_path / 'm0.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(CheckpointError, match='pip install safetensors'):
        load(str(tmp_path / 'm0.safetensors'))


@pytest.mark.parametrize('zipped', [True, False])
def test_code_is_refused_and_not_run(zipped, tmp_path, capfd):
    file = tmp_path / 'bomb.pth'
    torch.save({'model': RunsCode()}, file, _use_new_zipfile_serialization=zipped)
    for read in (load, read_checkpoint):
        with pytest.raises(CheckpointError, match=r'refused.*execute code.*print'):
            read(str(file))
    assert 'never be printed' not in capfd.readouterr().out


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_plain_pickle_is_named(protocol, tmp_path, capfd, recwarn):
    file = tmp_path / 'bomb.pth'
    file.write_bytes(pickle.dumps({'state_dict': {'x': RunsCode()}}, protocol))
    with pytest.raises(CheckpointError, match=r'refused: .*code \(\S*print\)'):
        read_checkpoint(str(file))
    assert 'never be printed' not in capfd.readouterr().out and not recwarn


def test_pickle_of_another_protocol(tmp_path):
    (tmp_path / 'w.pth').write_bytes(pickle.dumps({'x': np.ones(2)}, protocol=5))
    torch.save({'x': torch.ones(2)}, tmp_path / 'x.pth', pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r'plain pickle. Save it with `torch\.sa'):
        read_checkpoint(str(tmp_path / 'w.pth'))
    assert read_checkpoint(str(tmp_path / 'x.pth'))['x'].equal(torch.ones(2))


def test_getattr_reaches_only_log_histories(tmp_path):
    class Reaches:
        def __reduce__(self):
            return getattr, (np.ndarray, 'tofile')

    torch.save(Reaches(), tmp_path / 'reach.pth')
    with pytest.raises(CheckpointError, match='execute code'):
        read_checkpoint(str(tmp_path / 'reach.pth'))


def test_log_histories_load(save):
    history = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 1])
    file = save({'meta': {'score': np.float64(0.5)}, 'history': history})
    loaded = read_checkpoint(file)
    assert loaded['history'].mean() == 2
    assert loaded['history'].statistics('max') == 3
    assert loaded['meta']['score'] == 0.5


def test_config_text_is_not_kept(save):
    """MMEngine executes it on resuming."""
    meta = {'epoch': 3, 'config': 'raise SystemExit'}
    file = save({'state_dict': {'x': torch.ones(1)}, 'meta': meta})
    loaded = read_checkpoint(file, 'cpu')
    assert loaded['meta'] == {'epoch': 3}


def test_head_is_left_out(m0):
    assert any(key.startswith('head.') for key in m0)
    assert backbone_weights({'model': m0}).keys() == RecNeXt('m0').state_dict().keys()


@pytest.mark.parametrize(
    'kind', ['mmengine.Pretrained', 'mmengine.model.weight_init.PretrainedInit']
)
def test_weights_are_checked_whatever_module_names_the_initialiser(kind, save):
    """Of the latter is made, in a config of plain Python, MMEngine's own class."""
    file = save({'other': torch.ones(1)})
    model = RecNeXt(TINY, init_cfg=dict(type=kind, checkpoint=file))
    with pytest.raises(CheckpointError, match='does not fit'):
        model.init_weights()


def test_plain_initialisation_still_works():
    init_cfg = dict(type='Constant', layer='Conv2d', val=0.5)
    model = RecNeXt(TINY, init_cfg=init_cfg)
    model.init_weights()
    assert (model.stem.stem[0].conv.weight == 0.5).all()
