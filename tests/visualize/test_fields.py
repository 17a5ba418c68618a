import logging
import runpy
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmrecnext import RecNeXt
from mmrecnext.errors import ConfigError
from mmrecnext.visualize.fields import Field, draw_fields, influence, recconv_fields
from tests.helpers import ROOT


@pytest.mark.parametrize('kernel', [1, 3, 7])
def test_a_convolution_sees_its_kernel(kernel):
    conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2)
    seen = influence(conv, 4, 21)
    rows, columns = np.nonzero(seen)
    assert rows.min() == columns.min() == 10 - kernel // 2
    assert rows.max() == columns.max() == 10 + kernel // 2
    assert seen.max() == 1


def test_effective_field_of_an_even_square():
    square = np.zeros((51, 51))
    square[15:36, 15:36] = 1  # 21 x 21
    assert Field('', square).effective == 21
    square[:, :] = 0
    square[25, 25] = 1
    assert Field('', square).effective == 1


def test_fields_grow_with_the_level():
    fields = recconv_fields(range(4), channels=8, size=96)
    sides = [field.effective for field in fields]
    assert sides == sorted(sides) and sides[0] == fields[0].nominal == 5
    assert [field.nominal for field in fields] == [5, 10, 20, 40]
    assert sides[-1] > 2 * sides[0]


def test_picture(tmp_path):
    fields = [Field('one', np.eye(8)), Field('two', np.ones((8, 8)), 5)]
    figure = draw_fields({'a': fields, 'b': fields[:1]})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ['one', 'two', 'one', '']
    figure.savefig(tmp_path / 'x.png')


@pytest.mark.parametrize(
    'rows',
    [{'a': 3}, {'a': 1}, {'a': 5, 'b': 2}],
    ids=lambda rows: f'{[*rows.values()]}',
)
def test_nothing_is_cut_off_or_drawn_over(rows):
    field = Field('m0\nmask_rcnn_recnext_m0_shapes_epoch_4.pth', np.ones((8, 8)))
    figure = draw_fields({name: [field] * count for name, count in rows.items()})
    figure.draw_without_rendering()
    shown = [
        *(axes.title for axes in figure.axes),
        *(axes.xaxis.label for axes in figure.axes),
        figure.axes[-1].yaxis.label,
    ]
    places = [text.get_window_extent() for text in shown if text.get_text()]
    places.append(figure.legends[0].get_window_extent())
    for place, other in combinations(places, 2):
        assert not place.overlaps(other)
    for place in places:
        assert min(place.min) >= 0 and all(place.max <= figure.bbox.max)


@pytest.mark.parametrize(('nominal', 'count'), [(None, 1), (5, 2)])
def test_the_legend_names_the_squares_that_are_drawn(nominal, count):
    legend = draw_fields({'a': [Field('', np.ones((8, 8)), nominal)]}).legends[0]
    assert len(legend.get_texts()) == count


def test_weights_of_the_model_are_left_alone():
    conv = nn.Conv2d(3, 3, 3).requires_grad_(False)
    influence(conv, 3, 9)
    assert conv.weight.grad is None
    assert torch.is_grad_enabled()


def test_the_tool_draws_a_model_with_each_weights(tmp_path, monkeypatch):
    torch.manual_seed(1)
    torch.save(RecNeXt('m0').state_dict(), tmp_path / 'trained.pth')
    drawn = []
    tool = runpy.run_path(str(ROOT / 'tools/visualize.py'))
    monkeypatch.setitem(tool['show_fields'].__globals__, 'draw_fields', drawn.append)
    logger, logged = logging.Logger('log', logging.INFO), []
    monkeypatch.setattr(logger, 'handle', logged.append)
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)
    checkpoints = ['random', str(tmp_path / 'trained.pth')]
    args = SimpleNamespace(arch=['m0', 'm0'], checkpoint=checkpoints, size=32)
    tool['show_fields'](args)
    assert [*drawn[0]] == ['last stage']
    random, trained = drawn[0]['last stage']
    assert (random.title, trained.title) == ('m0\nrandom weights', 'm0\ntrained.pth')
    assert not np.array_equal(random.influence, trained.influence)
    assert len(logged) == 1  # not one a parameter
    with pytest.raises(ConfigError, match='1 for 2 models'):
        tool['with_weights'](args.arch, checkpoints[:1])
