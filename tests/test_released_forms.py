"""Every released form of every model loads and is the network; all else is refused."""

import pickle
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import golden_input, golden_weights
from safetensors.torch import save_file

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.checkpoint.convert import model_of, write_torchscript
from mmrecnext.errors import CheckpointError
from mmrecnext.fusion import count_norms

FORMS = ('recnext.pth', 'model.safetensors', 'recnext_coco.pth', 'recnext_fused.pt')


class RunsCode:
    def __reduce__(self):
        return print, ('this must never be printed',)


@pytest.fixture(scope='module', params=ARCHS)
def arch(request):
    return request.param


@pytest.fixture(scope='module')
def weights(arch, golden_states):
    """Golden weights of one model, with its head."""
    return golden_weights(golden_states, arch, head=True)


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
        write_torchscript(model_of(weights, form), file)
    return str(file)


def load(arch, file, deploy=False):
    init_cfg = dict(type='Pretrained', checkpoint=file)
    with torch.device('meta'):  # nothing is left of the initialisation
        model = RecNeXt(arch, init_cfg=init_cfg, deploy=deploy)
    model.to_empty(device='cpu').init_weights()
    return model.eval()


def assert_golden(model, arch, features):
    with torch.no_grad():
        maps = model(golden_input())
    for stage, x in enumerate(maps):
        name = f'recnext_{arch}.stage{stage}'
        assert x.shape == tuple(features[f'{name}.shape'])
        sample = np.linspace(0, x.numel() - 1, 256).astype(int)
        error = np.abs(x.flatten().numpy()[sample] - features[name]).max()
        assert error / features[f'{name}.std'] <= 1e-5, name


@pytest.fixture(autouse=True)
def small_trace(monkeypatch):
    monkeypatch.setattr('mmrecnext.checkpoint.convert.INPUT_SIDE', 64)


@pytest.mark.parametrize('form', FORMS)
class TestReleasedForm:
    def test_reproduces_the_golden_maps(
        self, arch, form, weights, golden_features, tmp_path
    ):
        fused = form.endswith('.pt')
        file = write(form, weights, tmp_path)
        model = load(arch, file, deploy=fused)
        assert_golden(model, arch, golden_features)
        if fused:
            assert count_norms(model) == 0
            with pytest.raises(CheckpointError, match=r'for inference only.*deploy='):
                load(arch, file)

    def test_all_else_is_refused(self, arch, form, golden_states, tmp_path, capfd):
        deploy = form.endswith('.pt')
        states = golden_states[f'recnext_{arch}']['fused' if deploy else 'train']
        weights = {key: torch.zeros(shape, dtype=torch.int8) for key, shape in states}
        key = next(k for k in weights if k.startswith('stages.2.') and 'weight' in k)

        def refuse(weights, message, arch=arch):
            with pytest.raises(CheckpointError, match=message):
                load(arch, write_raw(form, weights, tmp_path), deploy)

        renamed = {key.replace('stages.2', 'stages.4'): weights[key], **weights}
        del renamed[key]
        refuse(renamed, rf'does not fit {arch}; missing: {key}; left over: stages\.4')
        reshaped = {**weights, key: torch.zeros(7, 1)}
        refuse(reshaped, rf'does not fit {arch}; of another shape: {key} \[7, 1\] inst')
        other = 'm0' if arch != 'm0' else 'a0'
        refuse(weights, rf'These are weights of {arch}, this is {other}', arch=other)
        with_code(tmp_path / form)
        with pytest.raises(CheckpointError, match=r'would execute code|is broken'):
            load(arch, str(tmp_path / form), deploy)
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
