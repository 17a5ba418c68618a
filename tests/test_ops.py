import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrecnext.models.attention import positive
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


def test_positive_features():
    x = torch.tensor([-200.0, -1, -1e-6, 0, 1e-6, 1, 200])
    expected = F.elu(x.double()) + 1
    assert torch.allclose(positive(x).double(), expected, rtol=1e-6)
    with torch.no_grad():
        assert torch.allclose(positive(x).double(), expected, rtol=1e-6)
    assert (positive(x[1:]) > 0).all()
