"""The Triton kernels against their twins: on a GPU, or else by Triton's interpreter."""

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mmrecnext.models.recconv import RecConv
from mmrecnext.ops import attention as attention_calls
from mmrecnext.ops import kernels
from mmrecnext.ops import recconv as recconv_calls
from mmrecnext.ops.attention import attend, attend_plain, try_attend
from mmrecnext.ops.recconv import _runs_on_triton, recconv
from tests.helpers import check, run_tool

pytest.importorskip('triton')

# They define the operators.
from mmrecnext.ops import attention_triton, recconv_triton

HAS_GPU = torch.cuda.is_available()
DEVICE = 'cuda' if HAS_GPU else 'cpu'
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

needs_gpu = pytest.mark.skipif(not HAS_GPU, reason='needs a GPU')


def difference(result: Tensor, expected: Tensor) -> float:
    """Return the largest difference, in standard deviations of what is expected."""
    return ((result.double() - expected).abs().max() / expected.std()).item()


def bound(dtype: torch.dtype) -> float:
    """Return the difference allowed: a few roundings of what is stored."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator)).to(DEVICE, dtype)


def recconv_layer(channels: int, level: int, kernel_size: int, mode: str) -> RecConv:
    """Return the inference form, whose last convolution has a bias."""
    torch.manual_seed(level)
    layer = RecConv(channels, level, kernel_size, mode)
    layer.convs[-1].bias = torch.nn.Parameter(torch.randn(channels))
    return layer.requires_grad_(False).to(DEVICE)


def check_recconv(shape, level, kernel_size, mode, dtype):
    layer = recconv_layer(shape[1], level, kernel_size, mode).to(dtype)
    x = random(*shape, dtype=dtype)
    result = recconv(x, getattr(layer, 'down', None), layer.convs, mode)
    expected = layer.double()(x.double())
    assert result.shape == x.shape
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert difference(result, expected) < bound(dtype)


@pytest.mark.parametrize('kernel_size', [3, 5, 7])
@pytest.mark.parametrize('mode', ['bilinear', 'nearest'])
def test_recconv_equals_its_twin(mode, kernel_size):
    check_recconv((2, 6, 9, 10), 2, kernel_size, mode, torch.float32)


@pytest.mark.parametrize(
    'shape',
    [(1, 40, 5, 6), (1, 3, 35, 4), (1, 3, 4, 67), (1, 5, 1, 1), (1, 2, 1, 7)],
    ids=['channels', 'rows', 'columns', 'pixel', 'row'],
)
def test_recconv_covers_the_map(shape):
    check_recconv(shape, 1, 5, 'bilinear', torch.float32)


@pytest.mark.parametrize('level', [0, 4])
def test_recconv_of_any_level(level):
    check_recconv((1, 4, 9, 11), level, 3, 'bilinear', torch.float32)


@pytest.mark.parametrize('dtype', DTYPES[1:])
def test_recconv_in_half_precision(dtype):
    check_recconv((1, 16, 9, 11), 2, 5, 'bilinear', dtype)


def check_attention(shape, qk_channels, num_heads, dtype, scale=1):
    n, channels, height, width = shape
    qk = random(n, qk_channels, height, width, dtype=dtype, scale=scale)
    # The first channels of a larger map, as the models with partial channels have.
    v = random(n, 4 * channels, height, width, dtype=dtype, scale=scale)
    v = v.contiguous(memory_format=torch.channels_last)[:, :channels]
    added = random(*shape, dtype=dtype)
    result = torch.ops.mmrecnext.attend(qk, v, num_heads, added)
    expected = attend_plain(qk.double(), v.double(), num_heads, added.double())
    assert result.shape == shape
    assert result.dtype == dtype
    assert difference(result, expected) < bound(dtype)


@pytest.mark.parametrize(
    ('shape', 'qk_channels', 'num_heads'),
    [
        ((2, 40, 9, 31), 80, 2),  # several programs per head, of 20 channels each
        ((1, 32, 7, 5), 32, 1),  # queries of half the channels
        ((1, 128, 2, 3), 256, 1),
        ((1, 64, 3, 5), 128, 16),
        ((1, 16, 5, 1), 32, 1),
    ],
)
def test_attention_equals_its_twin(shape, qk_channels, num_heads):
    check_attention(shape, qk_channels, num_heads, torch.float32)


@pytest.mark.parametrize('scale', [1, 10, 100])
def test_attention_in_half_precision(scale):
    check_attention((1, 16, 9, 31), 32, 1, torch.float16, scale)


@needs_gpu  # Triton's interpreter multiplies the bits of bfloat16 as if integers
@pytest.mark.parametrize('scale', [1, 10, 100])
def test_attention_in_bfloat16(scale):
    check_attention((1, 16, 9, 31), 32, 1, torch.bfloat16, scale)


@needs_gpu
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('stage', range(4))
def test_kernels_at_the_size_of_detection(stage, dtype):
    torch.backends.cuda.matmul.allow_tf32 = False
    size = tuple(-(-side // 2 ** (stage + 2)) for side in (800, 1344))
    channels = 64 * 2**stage
    check_recconv((2, channels, *size), 4 - stage, 5, 'bilinear', dtype)
    check_attention((2, channels, *size), 2 * channels, 2 ** (stage + 1), dtype)


@needs_gpu
@pytest.mark.parametrize('dtype', DTYPES)
def test_gpu_takes_the_kernels(dtype):
    layer = recconv_layer(64, 1, 5, 'bilinear').to(dtype)
    assert kernels.kernel_runs(try_attend, torch.device('cuda', 0), dtype, 32, 32)
    x = random(1, 64, 9, 9, dtype=dtype)
    with torch.no_grad():
        assert _runs_on_triton(x, layer.down, layer.convs, layer.mode)
        compiled = torch.compile(layer, fullgraph=True, dynamic=True)
        assert torch.equal(compiled(x), layer(x))


def test_kernels_are_launched_on_the_gpu_of_their_maps(monkeypatch):
    """Triton launches on the current one, which may be another."""
    entered = []

    @contextmanager
    def device_of(x):
        entered.append(x)
        yield
        entered.pop()

    def seen(function):
        def call(*args, **options):
            launched.append(bool(entered))
            return function(*args, **options)

        return call

    launched = []
    monkeypatch.setattr(torch.cuda, 'device_of', device_of)
    for module, name in ((recconv_triton, 'launch'), (attention_triton, 'pixel_rows')):
        monkeypatch.setattr(module, name, seen(getattr(module, name)))
    monkeypatch.setattr(recconv_calls, '_runs_on_triton', lambda *_: True)
    monkeypatch.setattr(attention_calls, 'triton_is_usable', lambda *_: True)
    layer = recconv_layer(4, 0, 3, 'bilinear')
    recconv(random(1, 4, 2, 2), None, layer.convs, 'bilinear')
    attend(random(1, 32, 1, 1), random(1, 16, 1, 1), 1, random(1, 16, 1, 1))
    with torch.device(DEVICE):
        recconv_calls.try_recconv(torch.float32, 3, 'nearest')
        try_attend(torch.float32, 16, 16)
    assert len(launched) == 1 + 1 + 3 + 1 and all(launched)


def test_kernel_that_fails_is_told_once(monkeypatch):
    def no_compiler(dtype: torch.dtype, kernel_size: int):
        raise RuntimeError('no compiler')

    told = []
    monkeypatch.setattr(kernels, 'print_log', lambda text, **options: told.append(text))
    for kernel_size in (3, 5, 3, 5):
        device = torch.device('cpu')
        assert not kernels.kernel_runs(no_compiler, device, torch.float32, kernel_size)
    assert len(told) == 2
    assert 'no_compiler(3,) fails with Triton on cpu in torch.float32' in told[0]
    assert told[0].endswith('RuntimeError: no compiler')


@pytest.mark.slow
def test_triton_is_not_imported_before_it_is_used():
    code = 'import sys, mmrecnext.models; print("triton" in sys.modules)'
    assert check(run_tool('-c', code)).split()[-1] == 'False'


def test_what_the_kernels_cannot_do_is_left_to_the_layers(monkeypatch):
    monkeypatch.setattr(kernels, '_kernel_runs', lambda *_: True)
    # Tensors that only say that they are on a GPU.
    with FakeTensorMode(), torch.device('cuda'):
        layer = RecConv(4, 1).requires_grad_(False)
        x = torch.randn(1, 4, 8, 8)
        cpu, double, empty = x.cpu(), x.double(), x[..., :0]

    def is_usable(x=x, mode='bilinear'):
        return _runs_on_triton(x, layer.down, layer.convs, mode)

    assert is_usable()
    assert not is_usable(mode='transposed')
    assert not is_usable(double)
    assert not is_usable(empty)
    assert not is_usable(cpu)
    layer.convs[0].dilation = (2, 2)
    assert not is_usable()
    layer.convs[0].dilation = (1, 1)
    assert is_usable()
    layer.convs[1].weight.requires_grad_()
    assert not is_usable()
    with torch.no_grad():
        assert is_usable()


def test_wide_heads_are_left_to_plain_operators():
    qk, v = torch.randn(1, 600, 3, 3), torch.randn(1, 300, 3, 3)
    assert torch.equal(attend(qk, v, 1, v), attend_plain(qk, v, 1, v))
