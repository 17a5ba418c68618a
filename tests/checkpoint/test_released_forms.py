"""Every released form of every model loads and is the network; all else is refused."""

import functools
import pickle
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmrecnext import RecNeXt
from mmrecnext.checkpoint import load_pretrained
from mmrecnext.checkpoint.convert import model_of, torchscript_of
from mmrecnext.errors import CheckpointError
from mmrecnext.models.fusion import count_norms
from mmrecnext.pretrained import FIGURES
from tests.checkpoint.helpers import RunsCode
from tests.helpers import golden_input, golden_weights

pytestmark = pytest.mark.slow

TRAINING = ('recnext.pth', 'model.safetensors', 'recnext_coco.pth')
FUSED = 'recnext_fused.pt'
EVERY_FORM = ('m0', 'a0', 't', 't_share_channel', 'm5')
"""One of each kind of block and the largest file; the others come in one form."""


@pytest.fixture(scope='module', params=FIGURES)
def arch(request):
    return request.param


@pytest.fixture(scope='module')
def weights(arch, golden_states):
    """Golden weights of one model, with its head."""
    return golden_weights(golden_states, arch, head=True)


@pytest.fixture
def folder(tmp_path):
    """For files that are too large to stay until the next run."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def write(form, weights, folder):
    """Write weights, those for training, in a released form."""
    file = folder / form
    if form == 'recnext.pth':
        torch.save({'model': weights}, file)
    elif form == 'model.safetensors':
        save_file(weights, file, metadata={'format': 'pt'})
    elif form == 'recnext_coco.pth':
        network = {f'backbone.{key}': value for key, value in weights.items()}
        network['rpn_head.rpn_cls.weight'] = torch.zeros(3, 8, 1, 1)
        torch.save({'meta': {'epoch': 12}, 'state_dict': network}, file)
    else:
        file.write_bytes(torchscript_of(model_of(weights, form)))
    return str(file)


def build(arch, deploy=False):
    with torch.device('meta'):  # no time for weights that are replaced
        model = RecNeXt(arch, deploy=deploy)
    return model.to_empty(device='cpu').eval()


build_once = functools.cache(build)  # for those that refuse what they are given


def assert_golden(model, arch, features):
    with torch.no_grad():
        maps = model(golden_input())
    for stage, x in enumerate(maps):
        name = f'recnext_{arch}.stage{stage}'
        assert x.shape == tuple(features[f'{name}.shape'])
        sample = np.linspace(0, x.numel() - 1, 256).astype(int)
        error = np.abs(x.flatten().numpy()[sample] - features[name]).max()
        assert error / features[f'{name}.std'] <= 1e-5, name


def test_training_forms_reproduce_the_golden_maps(
    arch, weights, golden_features, folder
):
    for form in TRAINING if arch in EVERY_FORM else ('model.safetensors',):
        model = build(arch)
        load_pretrained(model, write(form, weights, folder))
        for key, value in model.state_dict().items():
            assert value.equal(weights[key]), (form, key)
    assert_golden(model, arch, golden_features)


@pytest.mark.parametrize('arch', EVERY_FORM, indirect=True, scope='module')
def test_fused_form_reproduces_the_golden_maps(
    arch, weights, golden_features, folder, monkeypatch
):
    monkeypatch.setattr('mmrecnext.checkpoint.convert.INPUT_SIDE', 64)  # sooner
    file = write(FUSED, weights, folder)
    model = build(arch, deploy=True)
    load_pretrained(model, file)
    assert count_norms(model) == 0
    assert_golden(model, arch, golden_features)
    with pytest.raises(CheckpointError, match=r'for inference only.*`deploy=True`'):
        load_pretrained(build(arch), file)


@pytest.mark.parametrize(
    ('arch', 'form'),
    [
        (arch, form)
        for arch in FIGURES
        for form in (*TRAINING, FUSED)
        if arch in EVERY_FORM or form in ('model.safetensors', FUSED)
    ],
    indirect=['arch'],
    scope='module',
)
def test_all_else_is_refused(arch, form, golden_states, folder, capfd):
    deploy = form == FUSED
    states = golden_states[f'recnext_{arch}']['fused' if deploy else 'train']
    weights = {key: torch.zeros(shape, dtype=torch.int8) for key, shape in states}
    moved, *_, cut = (k for k in weights if k.startswith('stages.2.') and 'weight' in k)
    model = build(arch, deploy)

    def refuse(weights, message, model=model):
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(model, write_raw(form, weights, folder))

    wrong = {moved.replace('stages.2', 'stages.4'): weights[moved], **weights}
    wrong[cut] = torch.zeros(7, 1)
    del wrong[moved]
    found = (
        rf'missing: {moved}; left over: stages\.4.*; of another shape: {cut} \[7, 1\]'
    )
    refuse(wrong, rf'does not fit {arch}; {found} inst')
    other = 'm0' if arch != 'm0' else 'a0'
    hint = rf'These are weights of {arch}, this is {other}'
    refuse(weights, hint, build_once(other, deploy))
    with_code(folder / form)
    with pytest.raises(CheckpointError, match=r'would execute code|is broken'):
        load_pretrained(model, str(folder / form))
    assert 'never be printed' not in capfd.readouterr().out


class Module:
    """A module as an archive's pickle has it: tensors and modules by name."""

    __module__ = '__torch__'


def write_raw(form, weights, folder):
    """Write weights as they are; an archive of them has no code."""
    if not form.endswith('.pt'):
        return write(form, weights, folder)
    root = Module()
    for key, value in weights.items():
        *path, name = key.split('.')
        module = root
        for part in path:
            module = vars(module).setdefault(part, Module())
        setattr(module, name, value)
    with pytest.MonkeyPatch.context() as patch:  # to be found where it says it is
        patch.setitem(sys.modules, '__torch__', SimpleNamespace(Module=Module))
        torch.save(root, folder / form)
    with zipfile.ZipFile(folder / form, 'a') as archive:
        archive.writestr(f'{archive.namelist()[0].split("/")[0]}/constants.pkl', b'')
    return str(folder / form)


def with_code(file):
    """Have a pickle in a file call a function, or put one in place of what has none."""
    if file.suffix == '.safetensors':
        file.write_bytes(pickle.dumps(RunsCode()))
    elif file.suffix == '.pth':
        torch.save({**torch.load(file), 'hook_msgs': RunsCode()}, file)
    else:
        with zipfile.ZipFile(file) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in records if name.endswith('/data.pkl'))
        call = pickle.dumps(RunsCode(), protocol=2).removesuffix(pickle.STOP)
        records[name] = call + pickle.POP + records[name][2:]  # its protocol: 2 too
        with zipfile.ZipFile(file, 'w') as archive:
            for name, content in records.items():
                archive.writestr(name, content)
