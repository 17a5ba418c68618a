import json

import numpy as np
import pytest

from mmrecnext.errors import ConfigError
from mmrecnext.visualize.curves import (
    Run,
    draw_curves,
    published_run,
    read_run,
    smoothed,
)


def write(folder, time, *rows):
    place = folder / time / 'vis_data'
    place.mkdir(parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (place / 'scalars.json').write_text('\n'.join(lines) + '\n')


def step(number, loss):
    return {'loss': loss, 'lr': 0.1, 'iter': number, 'step': number}


def test_a_resumed_run_is_one(tmp_path):
    write(tmp_path, '1', step(1, 4.0), step(2, 3.0), step(3, 9.0), '{"loss": 1.')
    write(tmp_path, '2', step(3, 2.0), {'coco/bbox_mAP': 0.5, 'a': -1, 'step': 1})
    run = read_run(tmp_path)
    assert run.training['loss'] == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert run.figures == {'bbox_mAP': [(1, 0.5)]}


def test_a_folder_without_logs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='has no logs of a run'):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ('name', 'last'),
    [
        ('mask_rcnn_recnext_m3_coco', {'bbox_mAP': 0.4174, 'segm_mAP': 0.3855}),
        ('sem_fpn_recnext_a5_ade20k', {'mIoU': 46.53}),
    ],
)
def test_published_figures(name, last):
    run = published_run(name)
    assert {k: v[-1][1] for k, v in run.figures.items()} == last


def test_no_other_run_is_published():
    assert published_run('mask_rcnn_recnext_m0_shapes') is None


def test_the_running_mean_begins_at_the_first_point():
    points = [(i, float(i % 2)) for i in range(40)]
    x, y = smoothed(points)
    assert x.tolist() == list(range(40)) and y[0] == 0
    assert np.allclose(y[4:], 0.5)


def test_panels():
    run = Run('mine', {'loss': [(1, 2.0), (2, 1.0)]}, {'mIoU': [(2, 40.0)], 'x': []})
    figure = draw_curves([run, published_run('sem_fpn_recnext_m3_ade20k')])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ['loss', 'learning rate', 'mIoU']
    with pytest.raises(ConfigError, match='no run has y; they have mIoU, x'):
        draw_curves([run], ['y'])
