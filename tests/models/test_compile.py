import pytest
import torch

from mmrecnext import RecNeXt
from tests.helpers import SERIES, compiled_and_graphs

pytestmark = pytest.mark.slow

SIZES = [(480, 640), (512, 512), (483, 641), (800, 1344)]


@pytest.mark.parametrize('series', SERIES)
@torch.no_grad()
def test_one_graph_for_every_size(series):
    """The whole backbone compiles, and once for all sizes of an image."""
    model = RecNeXt(SERIES[series])
    model.switch_to_deploy()
    compiled, graphs = compiled_and_graphs(model)
    for size in SIZES:
        maps = compiled(torch.zeros(1, 3, *size))
        assert [tuple(x.shape[2:]) for x in maps] == [
            (-(-size[0] // stride), -(-size[1] // stride))
            for stride in model.out_strides
        ]
    assert len(graphs) == 1
