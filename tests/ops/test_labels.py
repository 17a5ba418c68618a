"""Label maps beside those of all logits at the size of the image, at every pixel."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mmrecnext.ops import fast_paths, labels
from mmrecnext.ops.labels import Enlargement, label_map, label_map_plain

LAYOUTS = (torch.contiguous_format, torch.channels_last)
WAYS = {
    'once': Enlargement((61, 90), False),
    'twice': Enlargement((75, 110), False, seen=(64, 92)),
    'to the same': Enlargement((64, 92), True, seen=(64, 92)),
    'corners aligned': Enlargement((47, 101), True, seen=(61, 89)),
    'padded': Enlargement((70, 66), False, seen=(64, 92), padding=(3, 0, 0, 9)),
    'flipped': Enlargement((80, 70), False, (64, 92), (0, 20, 8, 0), 'horizontal'),
    'upside down': Enlargement((80, 70), True, (64, 92), (1, 2, 3, 4), 'vertical'),
    'made smaller': Enlargement((33, 40), False, seen=(64, 92)),
}
KINDS = ('noisy', 'smooth', 'tied', 'equal')


def make_logits(kind, channels=40, dtype=torch.float32, layout=LAYOUTS[1]):
    """Logits ``[1, C, 16, 23]`` of a kind."""
    torch.manual_seed(0)
    coarse = torch.randn(1, channels, 3, 5)
    logits = {
        'noisy': torch.randn(1, channels, 16, 23),
        'smooth': F.interpolate(coarse, (16, 23), mode='bicubic') * 5,
        'tied': F.interpolate(coarse, (16, 23), mode='bilinear').mul(4).round() / 8,
        'equal': torch.full((1, channels, 16, 23), 0.3),
    }[kind]
    return logits.to(dtype).contiguous(memory_format=layout)


@pytest.fixture
def taken(monkeypatch):
    """Which ways were taken, and to which end."""
    ways = []

    def spied(inner, *args):
        result = inner(*args)
        ways.append((inner.__name__, result is not None))
        return result

    for inner in (labels._by_contenders, labels._by_portions):
        monkeypatch.setattr(labels, inner.__name__, partial(spied, inner))
    return ways


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('layout', LAYOUTS, ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_equal_those_of_all_logits(way, kind, layout, dtype):
    for channels in (16, 40, 41):
        logits = make_logits(kind, channels, dtype, layout)
        expected = label_map_plain(logits, WAYS[way])
        assert label_map(logits, WAYS[way]).equal(expected), channels


def test_equal_them_at_sizes_drawn_by_chance():
    draw = torch.Generator().manual_seed(0)

    def below(end, first=0):
        return int(torch.randint(first, end, (), generator=draw))

    for _ in range(60):
        kind, layout = KINDS[below(4)], LAYOUTS[below(2)]
        height, width = below(17, 1), below(24, 1)
        logits = make_logits(kind, below(45, 2))[:, :, :height, :width]
        seen = (4 * height - below(3), 4 * width - below(3))
        padding = tuple(below(seen[i < 2] // 4 + 1) for i in range(4))
        enlarge = Enlargement(
            (below(150, 1), below(150, 1)),
            bool(below(2)),
            seen if below(3) else None,
            padding if below(2) and min(seen) > 8 else (0, 0, 0, 0),
            (None, 'horizontal', 'vertical')[below(3)],
        )
        if not enlarge.seen:
            enlarge = Enlargement(enlarge.size, enlarge.align_corners)
        logits = logits.contiguous(memory_format=layout)
        expected = label_map_plain(logits, enlarge)
        assert label_map(logits, enlarge).equal(expected), (logits.shape, enlarge)


def test_nothing_is_enlarged_where_it_is_clear_who_wins(taken):
    logits = make_logits('smooth') / 100
    across = torch.linspace(-1.1, 2, 23)
    logits[:, 3], logits[:, 30] = 3 + across, 3 - across
    assert label_map(logits, WAYS['twice']).unique().tolist() == [3, 30]
    assert taken == [('_by_contenders', True)]


@pytest.mark.parametrize('kind', ['tied', 'equal'])
def test_what_is_too_close_to_tell_is_left_to_pytorch(kind, taken):
    label_map(make_logits(kind, channels=20), WAYS['twice'])
    assert taken == [('_by_portions', True), ('_by_contenders', True)]


@pytest.mark.parametrize(
    'reason', ['many', 'few', 'large', 'half', 'not finite', 'off']
)
def test_where_it_does_not_pay_all_are_enlarged(reason, taken, monkeypatch):
    logits, enlarge = make_logits('noisy'), WAYS['twice']
    if reason == 'many':
        monkeypatch.setattr(labels, 'MOST', 2)
    elif reason == 'few':
        logits = logits[:, :15].contiguous()
    elif reason == 'large':
        enlarge = Enlargement((20, 30), False, seen=(16, 23))
    elif reason == 'half':
        logits = logits.bfloat16()
    elif reason == 'not finite':
        logits[:, 7, 3, 4], logits[:, 9, 8, 2] = torch.inf, torch.nan
    with fast_paths.off() if reason == 'off' else torch.no_grad():
        found = label_map(logits, enlarge)
    assert taken[-1] == ('_by_portions', True)
    assert taken[:-1] in ([], [('_by_contenders', False)])
    assert found.equal(label_map_plain(logits, enlarge))


@pytest.mark.parametrize('at_once', [1, 16, 32, 1000])
@pytest.mark.parametrize('kind', ['noisy', 'tied'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_few_classes_are_held_at_once(at_once, kind, dtype, monkeypatch):
    enlarge = WAYS['twice']
    logits = make_logits(kind, 75, dtype)
    logits[:, 70] = logits[:, 2]  # of equal ones, the first
    bytes_of_one = enlarge.size[0] * enlarge.size[1] * dtype.itemsize
    monkeypatch.setattr(labels, 'ENLARGED_BYTES', at_once * bytes_of_one)
    held = []
    resize = Enlargement._resize

    def spied(self, logits, *args):
        held.append(logits.shape[1])
        return resize(self, logits, *args)

    expected = label_map_plain(logits, enlarge)
    monkeypatch.setattr(Enlargement, '_resize', spied)
    with fast_paths.off():
        assert label_map(logits, enlarge).equal(expected)
    lanes = labels.VECTOR_BYTES // dtype.itemsize
    assert max(held) <= max(at_once, lanes) + lanes - 1


def test_last_bits_are_those_of_all_logits():
    logits = make_logits('noisy', 75)
    whole = WAYS['twice'](logits)
    among = torch.zeros(75, dtype=torch.bool)
    among[[3, 30, 31, 50]] = True
    for wanted in (among, None):
        for some in labels._portions(logits, WAYS['twice'], wanted):
            part = WAYS['twice'](labels._select(logits, some))
            assert part.equal(whole[:, some])
    # They are those of nothing less: else there would be no need for it.
    alone = WAYS['twice'](logits[:, 3:7].contiguous(memory_format=LAYOUTS[1]))
    assert not alone.equal(whole[:, 3:7])


@pytest.mark.parametrize('way', ['once', 'twice', 'padded'])
def test_of_one_channel_the_threshold_decides(way):
    logits = make_logits('smooth', channels=1)
    found = label_map(logits, WAYS[way], 0.4)
    enlarged = WAYS[way](logits)[0, 0]
    assert found.equal((enlarged.sigmoid() > 0.4).long())
    assert 0 < found.sum() < found.numel()


@pytest.mark.parametrize('inference', [False, True])
def test_gradients_are_not_asked_for(inference):
    logits = make_logits('noisy')
    expected = label_map_plain(logits, WAYS['twice'])
    labels._taps.cache_clear()
    with torch.inference_mode(inference):
        label_map(logits, WAYS['twice'])
    assert label_map(logits.requires_grad_(), WAYS['twice']).equal(expected)


def test_mixed_precision_is_as_it_enlarges():
    logits = make_logits('tied').bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        expected = label_map_plain(logits, WAYS['twice'])
        assert label_map(logits, WAYS['twice']).equal(expected)
