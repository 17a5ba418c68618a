import numpy as np
import pytest
import torch

from mmrecnext.engine.configs import load_config
from mmrecnext.engine.predictor import Predictor
from mmrecnext.errors import OptionError
from mmrecnext.visualize.maps import Look, attributed, explained, look, strengths
from tests.helpers import ROOT, check, run_tool

pytestmark = pytest.mark.slow

KINDS = ('mask_rcnn', 'sem_fpn')


def untrained(kind):
    torch.manual_seed(0)
    cfg = load_config(str(ROOT / f'configs/{kind}_recnext_m0_shapes.py'))
    return Predictor(cfg, None, score_thr=0.0)


@pytest.fixture(scope='module', params=KINDS)
def predictor(request):
    return untrained(request.param)


@pytest.fixture(scope='module')
def picture(shapes):
    return sorted((shapes / 'images/validation').glob('*.jpg'))[0]


def test_maps_of_stages_and_levels(predictor, picture):
    seen = look(predictor, picture, ('backbone', 'neck', 'absent'))
    rows = strengths(seen)
    assert len(rows) == 2 and len(rows[0]) == 4
    for row in rows:
        for one in row:
            assert one.heat.shape == seen.picture.shape[:2]
            assert one.heat.min() >= 0 and one.heat.max() <= 1 + 1e-6
    assert rows[0][0].title.startswith('backbone 0: stride 4\n40 x ')
    assert not any(m._forward_hooks for m in predictor.model.modules())


def test_what_predictions_rest_on(predictor, picture):
    seen = look(predictor, picture, ('neck',))
    found = list(explained(predictor, seen, 'neck', most=2))
    assert 1 <= len(found) <= 2
    assert all(np.isfinite(x.heat).all() and x.heat.max() > 0 for x in found)
    name = found[0].title.split('\n')[0].split()[0]
    assert name in predictor.classes


def test_a_part_without_maps_is_refused(predictor, picture):
    seen = look(predictor, picture, ('nose',))
    said = r'--part nose gave no maps; .*backbone, neck'
    with pytest.raises(OptionError, match=said):
        next(explained(predictor, seen, 'nose'))


def test_attribution_is_where_it_is_due():
    x = torch.zeros(1, 2, 4, 4, requires_grad=True)
    with torch.no_grad():
        x[0, :, 1, 2] = 1
        x[0, 0, 3, 3] = 1  # which counts against
    target = x[0, :, 1, 2].sum() - x[0, 0, 3, 3] + x.sum() * 0
    picture = np.zeros((4, 4, 3), np.uint8)
    seen = Look(picture, [], {'neck': [x]}, (4, 4), (4, 4))
    heat = attributed(seen, target, 'neck')
    assert heat[1, 2] == 1 and heat.sum() == 1


def test_padding_is_left_out():
    seen = Look(np.zeros((6, 8, 3), np.uint8), [], {}, (4, 8), (3, 4))
    heat = torch.zeros(4, 8)
    heat[3:], heat[:, 4:] = 1, 1
    assert seen.over_picture(heat).shape == (6, 8)
    assert not seen.over_picture(heat).any()


def test_the_tool_draws(shapes, picture, tmp_path):
    from tests.docs.sandbox import save_random_weights

    config = ROOT / 'configs/sem_fpn_recnext_m0_shapes.py'
    save_random_weights(config, tmp_path / 'w.pth')
    out = tmp_path / 'maps.png'
    options = [config, tmp_path / 'w.pth', picture, '--out', out]
    log = check(run_tool('tools/visualize.py', 'maps', *options))
    assert f'drawn in {out}' in log and out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['curves', '.', '--out', 'x.gif'], '--out ends in .png or .svg, got x.gif'),
        (['fields', 'm9'], 'm9'),
        (['fields', 'm0', '--checkpoint', 'a', 'b'], '2 for 1 models; name one each'),
    ],
)
def test_mistakes_are_told(options, said, tmp_path):
    run = run_tool('tools/visualize.py', *options, cwd=tmp_path)
    assert run.returncode == 1 and said in run.stderr
