import copy
import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as MMENGINE_MODELS

from mmrecnext import ARCHS, RecNeXt
from mmrecnext.archs import get_arch
from mmrecnext.errors import OptionError
from mmrecnext.models import RecConv, RecConvConcat, RecConvGroups, RecConvRecurrent
from tests.models.helpers import LINEAR, OPERATORS

SIZES = [(1, 1), (1, 9), (2, 3), (5, 7), (8, 8), (13, 18), (16, 32)]
TINY = dict(base='m0', dims=(16, 32, 64, 128), depths=(1, 1, 1, 1))

every_operator = pytest.mark.parametrize('operator', OPERATORS)


def build(operator, channels=8, level=2, kernel_size=5, dtype=torch.float64):
    torch.manual_seed(0)
    return OPERATORS[operator](channels, level, kernel_size).to(dtype)


def random_map(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


# The formulas, slowly and literally, of weights by key.


def convolve(x, weight, stride=1):
    """Sum of shifted maps; each output channel sees the next few of the input."""
    height, width = x.shape[2:]
    reach = weight.shape[-1] // 2
    padded = F.pad(x, [reach] * 4)
    outputs, seen = weight.shape[:2]
    result = []
    for o in range(outputs):
        total = 0
        for s in range(seen):
            channel = padded[:, o * seen + s]
            for dy in range(weight.shape[2]):
                for dx in range(weight.shape[3]):
                    shifted = channel[:, dy : dy + height, dx : dx + width]
                    total = total + weight[o, s, dy, dx] * shifted
        result.append(total[:, ::stride, ::stride])
    return torch.stack(result, dim=1)


def transposed(x, weight, size):
    """Each coarse pixel adds its kernel to the fine map; what lies outside is lost."""
    n, channels, rows, columns = x.shape
    made, side = weight.shape[1], weight.shape[2]
    reach = (side - 1) // 2
    fine = x.new_zeros(n, channels * made, 2 * rows + side, 2 * columns + side)
    for c in range(channels):
        for m in range(made):
            for i in range(rows):
                for j in range(columns):
                    fine[
                        :, c * made + m, 2 * i : 2 * i + side, 2 * j : 2 * j + side
                    ] += x[:, c, i, j][:, None, None] * weight[c, m]
    return fine[:, :, reach : reach + size[0], reach : reach + size[1]]


def nearest(x, size):
    """Each coarse pixel is repeated: fine pixel i is coarse pixel i // 2."""
    rows, columns = (torch.arange(side) // 2 for side in size)
    return x[:, :, rows][..., columns]


def bilinear(x, size):
    """Along rows, then columns: what lies between the centres of two pixels."""
    for dim, side in zip((2, 3), size, strict=True):
        coarse = x.shape[dim]
        at = ((torch.arange(side, dtype=x.dtype) + 0.5) * coarse / side - 0.5).clamp(
            0, coarse - 1
        )
        low = at.long()
        high = (low + 1).clamp(max=coarse - 1)
        share = (at - low).to(x.dtype).view((-1, 1) if dim == 2 else (1, -1))
        x = x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
    return x


INTERPOLATE = dict(bilinear=bilinear, nearest=nearest)


def pool(x):
    """Maximum of each 2x2 pixels, and the row and column of each."""
    n, channels, height, width = x.shape
    coarse = x.new_zeros(n, channels, (height + 1) // 2, (width + 1) // 2)
    places = {}
    for k in range(n):
        for c in range(channels):
            for i in range(coarse.shape[2]):
                for j in range(coarse.shape[3]):
                    window = [
                        (x[k, c, y, z].item(), y, z)
                        for y in (2 * i, 2 * i + 1)
                        for z in (2 * j, 2 * j + 1)
                        if y < height and z < width
                    ]
                    coarse[k, c, i, j], *places[k, c, i, j] = max(window)
    return coarse, places


def unpool(x, places, size):
    fine = x.new_zeros(*x.shape[:2], *size)
    for (k, c, i, j), (row, column) in places.items():
        fine[k, c, row, column] = x[k, c, i, j]
    return fine


def literal_rec_conv(w, x, level, mode):
    f, places = [x], []
    for _ in range(level):
        if mode == 'unpool':
            coarse, place = pool(f[-1])
            f.append(coarse)
            places.append(place)
        else:
            f.append(convolve(f[-1], w['down.weight'], stride=2))
    y = 0
    for k in range(level):
        y = convolve(f[level - k] + y, w[f'convs.{k}.weight'])
        size = f[level - k - 1].shape[2:]
        if mode == 'unpool':
            y = unpool(y, places[level - k - 1], size)
        elif mode == 'transposed':
            y = transposed(y, w['up.weight'], size)
        else:
            y = INTERPOLATE[mode](y, size)
    return convolve(x + y, w[f'convs.{level}.weight'])


def literal_groups(w, x, level):
    f = [x]
    for step in range(level):
        f.append(convolve(f[-1], w[f'downs.{step}.weight'], stride=2))
    y = 0
    for k in range(level):
        y = convolve(f[level - k] + y, w[f'convs.{k}.weight'])
        y = transposed(y, w[f'ups.{k}.weight'], f[level - k - 1].shape[2:])
    return convolve(x + y, w[f'convs.{level}.weight'])


def literal_concat(w, x, level, mode='transposed'):
    f, r = [x], []
    for step in range(level):
        half = f[-1].shape[1] // 2
        r.append(f[-1][:, :half])
        f.append(convolve(f[-1][:, half:], w[f'downs.{step}.weight'], stride=2))
    y = f[level]
    for k in range(level):
        waiting = r[level - k - 1]
        y = convolve(y, w[f'convs.{k}.weight'])
        size = waiting.shape[2:]
        if mode == 'transposed':
            y = transposed(y, w[f'ups.{k}.weight'], size)
        else:
            y = INTERPOLATE[mode](y, size)
        y = torch.cat([waiting, y], 1)
    return convolve(y, w[f'convs.{level}.weight'])


def literal_recurrent(w, x, level, mode):
    f = [x]
    for _ in range(level):
        f.append(convolve(f[-1], w['n.weight'], stride=2))
    h = convolve(f[level], w['b.weight'])
    h = INTERPOLATE[mode](h, f[level - 1].shape[2:])
    for step in range(level - 1, 0, -1):
        h = convolve(h, w['a.weight']) + convolve(f[step], w['b.weight'])
        h = INTERPOLATE[mode](h, f[step - 1].shape[2:])
    return convolve(h, w['c.weight']) + convolve(x, w['d.weight'])


LITERAL = {
    'RecConv': literal_rec_conv,
    'RecConvGroups': literal_groups,
    'RecConvConcat': literal_concat,
    'RecConvRecurrent': literal_recurrent,
}


@every_operator
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7])
@torch.no_grad()
def test_operator_is_its_formula(operator, kernel_size):
    for level, sizes in ((1, SIZES[:4]), (2, SIZES), (3, [(5, 7)])):
        layer = build(operator, 8, level, kernel_size)
        name, _, mode = operator.partition('-')
        options = dict(mode=mode) if mode else {}
        for size in sizes if kernel_size == 5 else sizes[-2:-1]:
            x = random_map(1, 8, *size)
            expected = LITERAL[name](layer.state_dict(), x, level, **options)
            assert layer(x).shape == x.shape
            assert torch.allclose(layer(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize('operator', [n for n in OPERATORS if 'Recurrent' not in n])
@torch.no_grad()
def test_level_0_is_one_convolution(operator):
    layer = build(operator, 3, level=0)
    x = random_map(1, 3, 5, 7)
    assert list(layer.state_dict()) == ['convs.0.weight']
    assert torch.allclose(layer(x), convolve(x, layer.convs[0].weight))


@pytest.mark.parametrize('mode', RecConv.MODES)
@torch.no_grad()
def test_bias_of_the_last_kernel(mode):
    conv = RecConv(4, level=0, mode=mode, bias=True)
    x = random_map(2, 4, 6, 7, dtype=torch.float32)
    last = conv.convs[0]
    expected = F.conv2d(x, last.weight, last.bias, padding=2, groups=4)
    torch.testing.assert_close(conv(x), expected)

    conv = RecConv(4, level=2, mode=mode, bias=True)
    assert [each.bias is None for each in conv.convs] == [True, True, False]
    with_bias, bias = conv(x), conv.convs[-1].bias
    conv.convs[-1].bias = None
    torch.testing.assert_close(with_bias, conv(x) + bias[:, None, None])
    with pytest.raises(OptionError, match='`bias` is True or False'):
        RecConv(4, bias='no')


@pytest.mark.parametrize('base', ['m0', 't'])
@torch.no_grad()
def test_bias_in_a_backbone_fused(base):
    arch = dict(TINY, base=base, mixer_norm=True, share_every=0)
    if base == 't':
        arch['dims'], arch['depths'] = (16, 32, 64, 128), (0, 1, 1, 1)
    arch['mixer'] = dict(type='RecConv', level=1, bias=True)
    model = RecNeXt(arch).eval()
    x = random_map(1, 3, 64, 64, dtype=torch.float32)
    before = model(x)
    model.switch_to_deploy()
    for new, old in zip(model(x), before, strict=True):
        torch.testing.assert_close(new, old)


@every_operator
@torch.no_grad()
def test_every_size_and_batch(operator):
    layer = build(operator, level=3)
    for height in range(1, 20):
        for width in (height, 20 - height):
            x = random_map(2, 8, height, width)
            both = layer(x)
            assert both.shape == x.shape
            assert torch.allclose(both[1:], layer(x[1:]))


def test_published_keys():
    convs = ['convs.0.weight', 'convs.1.weight', 'convs.2.weight']
    ups = ['ups.0.weight', 'ups.1.weight']
    downs = ['downs.0.weight', 'downs.1.weight']
    halving = [*downs, *ups, *convs]
    recurrent = [f'{name}.weight' for name in 'nabcd']
    keys = {name: list(build(name).state_dict()) for name in OPERATORS}
    assert keys == {
        'RecConv-bilinear': ['down.weight', *convs],
        'RecConv-nearest': ['down.weight', *convs],
        'RecConv-transposed': ['down.weight', 'up.weight', *convs],
        'RecConv-unpool': convs,
        'RecConvGroups': halving,
        'RecConvConcat': halving,
        'RecConvConcat-bilinear': [*downs, *convs],
        'RecConvConcat-nearest': [*downs, *convs],
        'RecConvRecurrent-bilinear': recurrent,
        'RecConvRecurrent-nearest': recurrent,
    }
    assert 'a.weight' not in build('RecConvRecurrent-nearest', level=1).state_dict()


@pytest.mark.parametrize('operator', LINEAR)
@pytest.mark.parametrize('size', [(1, 1), (13, 18)], ids=str)
@torch.no_grad()
def test_linear(operator, size):
    layer = build(operator)
    x, y = random_map(2, 1, 8, *size)
    assert torch.allclose(layer(2 * x - y), 2 * layer(x) - layer(y))


@torch.no_grad()
def test_unpooling_is_homogeneous_but_not_linear():
    layer = build('RecConv-unpool')
    x, y = random_map(2, 1, 8, 13, 18)
    assert torch.allclose(layer(3 * x), 3 * layer(x))
    assert not torch.allclose(layer(x + y), layer(x) + layer(y))


@every_operator
@pytest.mark.parametrize('level', [1, 2, 4])
def test_gradient_reaches_every_parameter(operator, level):
    layer = build(operator, 16, level)
    (layer(x := random_map(2, 16, 21, 34)) * random_map(*x.shape)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@every_operator
@pytest.mark.parametrize('size', [(2, 2), (3, 4)], ids=str)
def test_gradients_are_those_of_the_function(operator, size):
    layer = build(operator, 4, 2, 3)
    names, weights = zip(*layer.named_parameters(), strict=True)
    x = random_map(1, 4, *size).requires_grad_()

    def run(x, *weights):
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(layer, parameters, x)

    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)


@every_operator
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(operator, dtype):
    layer = build(operator, dtype=torch.float32)
    x = random_map(2, 8, 13, 18, dtype=torch.float32)
    expected = layer(x)
    with torch.autocast('cpu', dtype):
        y = layer(x)
    error = (y.float() - expected).std() / expected.std()
    assert y.dtype is dtype and error < 16 * torch.finfo(dtype).eps
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@every_operator
@torch.no_grad()
def test_memory_format_changes_nothing(operator):
    layer = build(operator)
    x = random_map(2, 8, 13, 18)
    y = layer(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(y, layer(x))


@every_operator
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
@torch.no_grad()
def test_can_be_traced(operator):
    layer = build(operator)
    traced = torch.jit.trace(layer, random_map(1, 8, 16, 32))
    x = random_map(2, 8, 13, 18)
    assert torch.allclose(traced(x), layer(x))


@every_operator
def test_cost_hardly_grows_with_level(operator):
    """Every level is a quarter of the one before: all cost at most 4/3 of the first."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(level):
        with FlopCounterMode(display=False) as counter:
            build(operator, 16, level)(random_map(1, 16, 64, 64))
        return counter.get_total_flops()

    assert flops(4) < 4 / 3 * flops(1)


class TestArchSettings:
    @pytest.mark.parametrize(
        'mixer',
        [
            *(dict(type='RecConv', mode=mode) for mode in RecConv.MODES),
            *(dict(type='RecConv', kernel_size=k) for k in (3, 7)),
            dict(type='RecConvGroups', kernel_size=3),
            dict(type='RecConvConcat'),
            dict(type='RecConvConcat', mode='bilinear'),
            dict(type='RecConvRecurrent', mode='nearest', kernel_size=7),
        ],
        ids=str,
    )
    def test_backbone_trains(self, mixer):
        torch.manual_seed(0)
        model = MMENGINE_MODELS.build(
            dict(type='mmrecnext.RecNeXt', arch=dict(TINY, mixer=mixer))
        )
        mixers = [block.token_mixer for s in model.stages for block in s.blocks]
        assert [type(m).__name__ for m in mixers] == [mixer['type']] * 4
        assert [m.level for m in mixers] == [4, 3, 2, 1]
        options = {k: v for k, v in mixer.items() if k != 'type'}
        for channels, own in zip(TINY['dims'], mixers, strict=True):
            alone = type(own)(channels, own.level, **options)
            own.load_state_dict(alone.state_dict())
            x = torch.randn(1, channels, 7, 10)
            assert torch.equal(own(x), alone(x))

        image = torch.randn(2, 3, 65, 97)
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        sum(y.square().mean() for y in model(image)).backward()
        optimizer.step()
        after = model.state_dict()
        assert not [k for k, v in before.items() if v.equal(after[k])]
        for y, stride in zip(model.eval()(image), model.out_strides, strict=True):
            assert y.isfinite().all()
            assert y.shape[2:] == (-(-65 // stride), -(-97 // stride))

    def test_options_of_every_stage_stay_unless_given(self):
        arch = get_arch(dict(base='m3', mixer=dict(kernel_size=7)))
        assert arch.mixers == tuple(
            dict(type='RecConv', level=level, kernel_size=7) for level in (4, 3, 2, 1)
        )
        arch = get_arch(dict(base='m3', mixer=dict(type='RecConvConcat', level=2)))
        assert arch.mixers == (dict(type='RecConvConcat', level=2),) * 4
        assert get_arch(dict(base='m3', mixer={})) == ARCHS['m3']
        assert ARCHS['m3'].mixers[0] == dict(type='RecConv', level=4)

    def test_another_type_keeps_only_options_that_it_has(self):
        attn = get_arch(dict(base='m0', mixer=dict(type='RecAttn')))
        assert attn.mixers == (dict(type='RecAttn'),) * 4
        mixers = [dict(type='RecConv', level=1, mode='nearest', kernel_size=3)] * 4
        arch = get_arch(dict(mixers=mixers, mixer=dict(type='RecConvGroups')))
        assert arch.mixers == (dict(type='RecConvGroups', level=1, kernel_size=3),) * 4

    def test_attention_can_make_way(self):
        settings = dict(base='a0', dims=(16, 32, 64, 128), mixer_norm=True)
        model = RecNeXt(dict(settings, mixer=dict(type='RecConv', level=2)))
        assert {b.token_mixer.level for s in model.stages for b in s.blocks} == {2}

    def test_class_as_type(self):
        model = RecNeXt(dict(TINY, mixer=dict(type=RecConvGroups)))
        assert isinstance(model.stages[0].blocks[0].token_mixer, RecConvGroups)

    @pytest.mark.parametrize(
        ('mixer', 'message'),
        [
            (dict(type='RecCov'), 'RecConv, RecConvConcat, RecConvGroups, RecConvRec'),
            (dict(type='RecNeXt'), 'the mixers are LinearAttn'),
            (dict(kernel=3), 'level, kernel_size, mode'),
            (dict(type='RecConvGroups', mode='nearest'), 'are level, kernel_size$'),
            (dict(type='RecConv', num_heads=2), 'no option num_heads'),
            (dict(mode='bicubic'), 'bilinear, nearest, transposed, unpool'),
            (dict(type='RecConvRecurrent', mode='unpool'), 'one of bilinear, nearest,'),
            (dict(kernel_size=4), 'odd and positive'),
            (dict(level=-1), '0 or more'),
            (dict(type='RecConvConcat', level=5), 'divisible by 32'),
            (7, 'a dict of settings'),
        ],
        ids=str,
    )
    def test_bad_mixers(self, mixer, message):
        with pytest.raises(OptionError, match=message):
            RecNeXt(dict(TINY, mixer=mixer))

    def test_bad_mixers_of_stages(self):
        mixers = [dict(type='RecConv', levels=2)] * 4
        with pytest.raises(OptionError, match='no option levels'):
            get_arch(dict(mixers=mixers))
        with pytest.raises(OptionError, match='unknown mixer None'):
            get_arch(dict(mixers=[dict(level=1)] * 4))

    def test_norms_that_a_mixer_lacks(self):
        with pytest.raises(OptionError, match='mixer_norm=True'):
            get_arch(dict(base='a0', mixer=dict(type='RecConv')))


@every_operator
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(level=-1), 'level` is an integer of . or more, got -1'),
        (dict(level=1.5), 'integer'),
        (dict(kernel_size=4), 'odd and positive, got 4'),
        (dict(kernel_size=-1), 'odd and positive, got -1'),
    ],
    ids=str,
)
def test_bad_options(operator, options, message):
    with pytest.raises(OptionError, match=message):
        OPERATORS[operator](8, **options)


def test_bad_modes_and_channels():
    with pytest.raises(OptionError, match='bilinear, nearest, transposed, unpool'):
        RecConv(8, mode='linear')
    with pytest.raises(OptionError, match='bilinear, nearest, got'):
        RecConvRecurrent(8, mode='transposed')
    with pytest.raises(OptionError, match='transposed, bilinear, nearest, got'):
        RecConvConcat(8, mode='unpool')
    with pytest.raises(OptionError, match='1 or more'):
        RecConvRecurrent(8, level=0)
    for halving in (RecConvGroups, RecConvConcat):
        with pytest.raises(OptionError, match='divisible by 16'):
            halving(24, level=4)


@pytest.mark.parametrize(
    'layer', [RecConv, RecConvGroups, RecConvConcat, RecConvRecurrent]
)
def test_every_option_is_documented(layer):
    options = inspect.signature(layer).parameters
    assert all(re.search(rf'^ +{name}: ', layer.__doc__, re.M) for name in options)
