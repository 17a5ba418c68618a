import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrecnext.ops.attention import attend, positive
from mmrecnext.ops.conv import BAND_BYTES, conv_gelu, mix_channels, runs_on_onednn


@pytest.fixture(params=[dict(kernel_size=1), dict(kernel_size=3, stride=2, padding=1)])
def conv(request):
    torch.manual_seed(0)
    return nn.Conv2d(12, 20, **request.param)


class TestFusedConvolutions:
    @pytest.mark.parametrize('size', [(8, 8), (7, 9)], ids=str)
    @pytest.mark.parametrize('channels_last', [False, True])
    def test_equal_plain_ones(self, conv, size, channels_last):
        x = torch.randn(2, 12, *size)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            assert torch.allclose(conv_gelu(x, conv), F.gelu(conv(x)), atol=2e-6)

    def test_have_gradients(self, conv):
        x = torch.randn(2, 12, 8, 8, requires_grad=True)
        conv_gelu(x, conv).sum().backward()
        assert x.grad.abs().min() > 0 and conv.weight.grad is not None

    def test_take_part_in_autocast(self, conv):
        x = torch.randn(2, 12, 8, 8)
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            assert conv_gelu(x, conv).dtype == torch.bfloat16

    def test_compile_with_any_size(self, conv):
        compiled = torch.compile(
            lambda x: conv_gelu(x, conv),
            backend='aot_eager',
            fullgraph=True,
            dynamic=True,
        )
        conv.stride, conv.padding = (1, 1), (conv.kernel_size[0] // 2,) * 2
        with torch.no_grad():
            for size in (8, 10):
                x = torch.randn(1, 12, size, size)
                assert torch.allclose(compiled(x), F.gelu(conv(x)), atol=2e-6)

    def test_are_no_part_of_traced_models(self, conv):
        class Mixer(nn.Sequential):
            def forward(self, x):
                return conv_gelu(x, self[0])

        with torch.no_grad():
            traced = torch.jit.trace(Mixer(conv), torch.randn(1, 12, 8, 8))
        assert not any(
            '::conv_' in node.kind() for node in traced.inlined_graph.nodes()
        )

    @torch.no_grad()
    def test_are_used_where_they_can(self, conv):
        assert runs_on_onednn(torch.zeros(1, 12, 8, 8), conv)
        assert not runs_on_onednn(torch.zeros(1, 12, 8, 8), nn.Sequential(conv))
        assert not runs_on_onednn(torch.zeros(1, 12, 8, 8).half(), conv.half())


class TestMixedChannels:
    """Two 1x1 convolutions around a GELU, and what is added, in one operator."""

    @pytest.fixture
    def convs(self):
        torch.manual_seed(0)
        return nn.Conv2d(12, 20, 1), nn.Conv2d(20, 12, 1, bias=False)

    @staticmethod
    def maps(n, height, width, channels_last=True):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return [
            torch.randn(n, 12, height, width).contiguous(memory_format=layout)
            for _ in range(2)
        ]

    @staticmethod
    def plain(x, expand, project, residual):
        return project(F.gelu(expand(x))) + residual

    @pytest.mark.parametrize(
        'size', [(1, 1, 1), (2, 8, 8), (3, 1, 9), (2, 7, 1), (1, 300, 301)], ids=str
    )
    @pytest.mark.parametrize('channels_last', [False, True])
    @torch.no_grad()
    def test_equal_plain_ones(self, convs, size, channels_last):
        x, residual = self.maps(*size, channels_last)
        for rest in (residual, residual.contiguous(), x):
            expected = self.plain(x, *convs, rest)
            before = x.clone()
            assert torch.allclose(mix_channels(x, *convs, rest), expected, atol=2e-6)
            assert x.equal(before), 'overwritten without leave'

    def test_go_through_memory_in_bands(self):
        """The size above is more than one of these, and no multiple."""
        assert BAND_BYTES < 300 * 301 * 20 * 4

    @pytest.mark.parametrize('itself', [False, True])
    @torch.no_grad()
    def test_overwrite_what_they_may(self, convs, itself):
        x, residual = self.maps(2, 8, 9)
        rest = x if itself else residual
        expected, kept = self.plain(x, *convs, rest), residual.clone()
        result = mix_channels(x, *convs, rest, overwrite=True)
        assert result.data_ptr() == x.data_ptr()
        assert torch.allclose(result, expected, atol=2e-6)
        assert residual.equal(kept)

    @torch.no_grad()
    def test_compile_with_any_size(self, convs):
        compiled = torch.compile(
            lambda x: mix_channels(x + 1, *convs, x, overwrite=True),
            backend='aot_eager',
            fullgraph=True,
            dynamic=True,
        )
        for size in (8, 10):
            x, _ = self.maps(1, size, size)
            assert torch.allclose(compiled(x), self.plain(x + 1, *convs, x), atol=2e-6)

    def test_have_gradients(self, convs):
        x, residual = self.maps(2, 8, 8)
        x.requires_grad_()
        mix_channels(x, *convs, residual, overwrite=True).sum().backward()
        assert x.grad.abs().min() > 0 and convs[0].weight.grad is not None

    @torch.no_grad()
    def test_fall_back_to_plain_ones(self, convs):
        x, residual = self.maps(2, 8, 8)
        strided = nn.Conv2d(12, 20, 1, padding=1), nn.Conv2d(20, 12, 3)
        result = mix_channels(x, *strided, residual, overwrite=True)
        expected = self.plain(x, *strided, residual)
        assert torch.allclose(result, expected, atol=2e-6)


class TestAttention:
    """Against the formula in double, with few pixels (the second order) and many."""

    @staticmethod
    def reference(qk, v, heads, added):
        n, c, h, w = v.shape
        qk = F.elu(qk.double()) + 1
        q, k = qk.reshape(n, 2, heads, -1, h * w).unbind(1)
        values = v.double().reshape(n, heads, -1, h * w)
        likeness = q.mT @ k / (h * w)
        mixed = (likeness @ values.mT) / (likeness.sum(-1, keepdim=True) + 1e-6)
        return mixed.mT.reshape(n, c, h, w) + added.double()

    @pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 7), (16, 9)], ids=str)
    @pytest.mark.parametrize('heads', [1, 4])
    @pytest.mark.parametrize('grad', [False, True])
    def test_both_orders(self, size, heads, grad):
        torch.manual_seed(0)
        qk, whole, added = (torch.randn(2, c, *size) for c in (32, 48, 24))
        v = whole.contiguous(memory_format=torch.channels_last)[:, :24]
        with torch.set_grad_enabled(grad):
            result = attend(qk, v, heads, added)
        expected = self.reference(qk, v, heads, added)
        assert (result - expected).abs().max() <= 2e-6 * expected.std(
            correction=0
        ) + 2e-6

    def test_memory_format(self):
        qk, v, added = (
            torch.randn(2, c, 4, 5).contiguous(memory_format=torch.channels_last)
            for c in (16, 8, 8)
        )
        result = attend(qk, v, 2, added)
        assert result.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_half_precision_sums_in_single(self, dtype):
        """In half precision, sums over these pixels would leave its range."""
        qk = torch.full((1, 16, 300, 300), 30.0, dtype=dtype)
        v = torch.full((1, 8, 300, 300), 100.0, dtype=dtype)
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            result = attend(qk, v, 2, torch.zeros_like(v))
        assert result.dtype == dtype
        assert torch.allclose(result.float(), torch.tensor(100.0), rtol=1e-2)


def test_positive_features():
    x = torch.tensor([-200.0, -1, -1e-6, 0, 1e-6, 1, 200])
    expected = F.elu(x.double()) + 1
    assert torch.allclose(positive(x).double(), expected, rtol=1e-6)
    with torch.no_grad():
        assert torch.allclose(positive(x).double(), expected, rtol=1e-6)
    assert (positive(x[1:]) > 0).all()
