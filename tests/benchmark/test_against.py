"""Two networks beside each other."""

import pytest

from mmrecnext.benchmark.against import beside
from mmrecnext.benchmark.detector import PARTS
from mmrecnext.benchmark.operations import network_cost
from mmrecnext.engine.configs import load_config
from mmrecnext.errors import OptionError
from tests.helpers import ROOT, SMALL, run_tool

DEMO = ROOT / 'configs/sem_fpn_recnext_m0_shapes.py'


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Two configs, of which the second has a smaller backbone."""
    folder = tmp_path_factory.mktemp('configs')
    files = []
    for name, depths in (('old', (2, 2, 2, 2)), ('new', (1, 1, 1, 1))):
        files.append(folder / f'{name}.py')
        files[-1].write_text(
            f"_base_ = '{DEMO}'\n"
            "model = dict(backbone=dict(_delete_=True, type='mmrecnext.RecNeXt', "
            f'arch=dict({SMALL["m0"]}, depths={depths})), '
            'neck=dict(in_channels=[16, 32, 64, 128]))'
        )
    return [str(file) for file in files]


@pytest.mark.slow
def test_rows(configs):
    (title, columns, rows), report = beside(*configs, (64, 96), batch=2, repeats=1)
    assert title == 'old and new, 2 x 64 x 96, deployed, fp32'
    assert columns == ('', 'old', 'new', 'old / new')
    found = {name.strip(): values for name, *values in rows}
    assert all(f'{part}, ms' in found for part in PARTS)
    costs = [network_cost(load_config(file), (64, 96)) for file in configs]
    for name, unit in (('params', 1e6), ('macs', 1e9)):
        old, new = (getattr(cost, name) for cost in costs)
        row = next(v for k, v in found.items() if k.startswith(('para', 'mult')))
        found = {k: v for k, v in found.items() if v is not row}
        assert row == [f'{old / unit:.1f}', f'{new / unit:.1f}', f'{old / new:.2f}']
    assert {x.case.work for x in report.results} == {'forward', 'step'}
    assert all(x.case.batch == 2 for x in report.results)


def test_only_configs_are_compared():
    with pytest.raises(OptionError, match='recnext_m0: configs alone'):
        beside('recnext_m0', str(DEMO))


@pytest.mark.slow
@pytest.mark.parametrize('models', [[], [DEMO, DEMO]])
def test_mistakes(models):
    result = run_tool('tools/benchmark.py', *models, '--against', DEMO)
    assert result.returncode == 1 and 'name one config before it' in result.stderr
