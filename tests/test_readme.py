import re

import pytest
from conftest import ROOT
from mmengine.config import Config

from mmrecnext import ARCHS, RecNeXt

README = (ROOT / 'README.md').read_text()


def test_table_of_models():
    rows = re.findall(r'\| `(\w+)` \| ([\d ]+) \| ([\d ]+) \| ([\d.]+) \|', README)
    assert [row[0] for row in rows] == list(ARCHS)
    for arch, channels, blocks, size in rows:
        assert tuple(map(int, channels.split())) == ARCHS[arch].dims
        assert tuple(map(int, blocks.split())) == ARCHS[arch].depths
        millions = sum(p.numel() for p in RecNeXt(arch).parameters()) / 1e6
        assert f'{millions:.2f}' == size


def test_config_of_the_readme_builds(tmp_path):
    (block,) = re.findall(r'```python\n(.*?)```', README, re.S)
    (tmp_path / 'config.py').write_text(block)
    cfg = Config.fromfile(tmp_path / 'config.py')
    cfg.model.backbone.init_cfg = None

    from mmdet.registry import MODELS

    model = MODELS.build(cfg.model)
    assert model.backbone.out_channels == tuple(cfg.model.neck.in_channels)


@pytest.mark.parametrize('path', sorted(set(re.findall(r'\]\(([\w/.]+)\)', README))))
def test_links_lead_to_files(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize('name', sorted(set(re.findall(r'`(\w+\.py)`', README))))
def test_configs_exist(name):
    assert [*ROOT.glob(f'configs/{name}'), *ROOT.glob(f'tools/{name}')]
