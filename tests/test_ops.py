import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrecnext.ops.attention import attend, positive
from mmrecnext.ops.conv import conv_add, conv_gelu, runs_on_onednn


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
        plain = conv(x).detach()
        other = torch.randn_like(plain)
        with torch.no_grad():
            assert torch.allclose(conv_gelu(x, conv), F.gelu(plain), atol=2e-6)
            assert torch.allclose(conv_add(x, conv, other), plain + other, atol=2e-6)

    def test_have_gradients(self, conv):
        x = torch.randn(2, 12, 8, 8, requires_grad=True)
        conv_add(
            conv_gelu(x, conv), nn.Conv2d(20, 3, 1), torch.zeros(1)
        ).sum().backward()
        assert x.grad.abs().min() > 0 and conv.weight.grad is not None

    def test_take_part_in_autocast(self, conv):
        x = torch.randn(2, 12, 8, 8)
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            assert conv_gelu(x, conv).dtype == torch.bfloat16

    def test_compile_with_any_size(self, conv):
        compiled = torch.compile(
            lambda x: conv_add(conv_gelu(x, conv), project, x[:, :3]),
            backend='aot_eager',
            fullgraph=True,
            dynamic=True,
        )
        project = nn.Conv2d(20, 3, 1)
        conv.stride, conv.padding = (1, 1), (conv.kernel_size[0] // 2,) * 2
        with torch.no_grad():
            for size in (8, 10):
                x = torch.randn(1, 12, size, size)
                expected = project(F.gelu(conv(x))) + x[:, :3]
                assert torch.allclose(compiled(x), expected, atol=2e-6)

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
