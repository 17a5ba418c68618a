import re
from importlib import import_module

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.cli import fit_cpu

README = (ROOT / 'README.md').read_text()


def test_table_of_models():
    rows = re.findall(r'\| `(\w+)` \| ([\d ]+) \| ([\d ]+) \| ([\d.]+) \|', README)
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, channels, blocks, size in rows:
        assert tuple(map(int, channels.split())) == ARCHS[arch].dims
        assert tuple(map(int, blocks.split())) == ARCHS[arch].depths
        millions = sum(p.numel() for p in RecNeXt(arch).parameters()) / 1e6
        assert f'{millions:.2f}' == size


@pytest.mark.parametrize('block', re.findall(r'```python\n(.*?)```', README, re.S))
def test_configs_in_the_readme_build_and_run(block, tmp_path):
    (tmp_path / 'config.py').write_text(block)
    cfg = Config.fromfile(tmp_path / 'config.py')
    cfg.model.backbone.init_cfg = None
    fit_cpu(cfg)
    registry = import_module(f'{cfg.default_scope}.registry')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = registry.MODELS.build(cfg.model).eval()

    maps = model.extract_feat(torch.zeros(1, 3, 128, 128))
    generator = getattr(getattr(model, 'bbox_head', None), 'prior_generator', None)
    if generator is not None:
        assert [128 // x.shape[-1] for x in maps] == [s[0] for s in generator.strides]


@pytest.mark.parametrize('path', sorted(set(re.findall(r'\]\(([\w/.]+)\)', README))))
def test_links_lead_to_files(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize('name', sorted(set(re.findall(r'`(\w+\.py)`', README))))
def test_configs_exist(name):
    assert [*ROOT.glob(f'configs/{name}'), *ROOT.glob(f'tools/{name}')]
