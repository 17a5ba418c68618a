"""SyncBN, the norm of the published recipes: in one process, and in two."""

from contextlib import ExitStack
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from mmengine.model import revert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmrecnext.models import RecNeXt
from tests.helpers import SMALL, assert_same_gradients

SIZE = (64, 96)
BASES = ['m0', 'a0', 'b', 't_share_channel']


def per_channel(x):
    return x[:, None, None]


def batch_norm_stats(x, eps):
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, (var + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x, mean, invstd, running_mean, running_var, momentum, eps, counts
):
    weight = (counts / counts.sum())[:, None]
    var = invstd.square().reciprocal() - eps
    total = (weight * mean).sum(0)
    total_var = (weight * (var + (mean - total).square())).sum(0)
    if running_mean is not None:
        unbiased = total_var * counts.sum() / (counts.sum() - 1)
        running_mean.lerp_(total, momentum)
        running_var.lerp_(unbiased, momentum)
    return total, (total_var + eps).rsqrt()


def batch_norm_elemt(x, weight, bias, mean, invstd, eps):
    normal = (x - per_channel(mean)) * per_channel(invstd)
    return normal * per_channel(weight) + per_channel(bias)


def batch_norm_backward_reduce(grad, x, mean, invstd, weight, *wanted):
    sums = grad.sum((0, 2, 3))
    products = (grad * (x - per_channel(mean))).sum((0, 2, 3))
    return sums, products, products * invstd, sums


def batch_norm_backward_elemt(grad, x, mean, invstd, weight, sums, products, counts):
    total = counts.sum()
    slope = per_channel(products * invstd.square() / total)
    centred = grad - per_channel(sums / total) - (x - per_channel(mean)) * slope
    return centred * per_channel(weight * invstd)


def let_synchronise_on_cpu(stack):
    """Give PyTorch's SyncBatchNorm the kernels that it has for GPUs alone."""
    library = torch.library.Library('aten', 'IMPL')
    for kernel in (
        batch_norm_stats,
        batch_norm_gather_stats_with_counts,
        batch_norm_elemt,
        batch_norm_backward_reduce,
        batch_norm_backward_elemt,
    ):
        library.impl(kernel.__name__, kernel, 'CPU')
    forward = nn.SyncBatchNorm.forward

    def on_cpu(norm, x):
        with mock.patch.object(
            torch._C, '_get_privateuse1_backend_name', return_value='cpu'
        ):
            return forward(norm, x)

    for owner, name, replacement in (
        (nn.SyncBatchNorm, 'forward', on_cpu),
        (DistributedDataParallel, '_passing_sync_batchnorm_handle', mock.Mock()),
    ):
        stack.enter_context(mock.patch.object(owner, name, replacement))
    return library


def images():
    torch.manual_seed(0)
    return torch.randn(4, 3, *SIZE, dtype=torch.float64)


def build(base, norm, with_cp):
    torch.manual_seed(1)
    options = dict(norm_cfg=dict(type=norm), with_cp=with_cp)
    return RecNeXt(SMALL[base], **options).double().train()


def step(model):
    """Return the gradients of a step, and how many bytes are kept for them."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = sum(x.square().sum() for x in model(images()))
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, sum(kept.values())


@pytest.mark.parametrize('base', BASES)
def test_what_mmengine_makes_of_it_in_one_process_is_as_lean(base):
    single = revert_sync_batchnorm(build(base, 'SyncBN', False))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in single.modules())
    plain = build(base, 'BN', False)
    (own, kept), (expected, needed) = map(step, (single, plain))
    assert kept == needed
    for name, grad in expected.items():
        assert torch.equal(own[name], grad), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(single.get_buffer(name), buffer), name


def train_half(rank, folder, bases):
    """Train on half of the images, as one of two processes; save what comes of it."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    calls = []

    def recorded(name):
        function = getattr(dist, name)

        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        return mock.patch.object(dist, name, call)

    results = {}
    with ExitStack() as stack:
        library = let_synchronise_on_cpu(stack)
        stack.enter_context(recorded('all_gather'))
        stack.enter_context(recorded('all_reduce'))
        for base in bases:
            for with_cp in (False, True):
                model = build(base, 'SyncBN', with_cp)
                parallel = DistributedDataParallel(model)
                calls.clear()
                maps = parallel(images()[2 * rank :][:2])
                sum(x.square().sum() for x in maps).backward()
                results[base, with_cp] = (
                    {name: p.grad for name, p in model.named_parameters()},
                    dict(model.named_buffers()),
                    [*calls],
                )
        torch.save(results, f'{folder}/{rank}.pth')
    dist.destroy_process_group()
    del library


@pytest.fixture(scope='module')
def halves(tmp_path_factory):
    """What two processes of half a batch each come to, by base and ``with_cp``."""
    folder = tmp_path_factory.mktemp('halves')
    context = torch.multiprocessing.get_context('fork')
    processes = [
        context.Process(target=train_half, args=(rank, folder, list(SMALL)))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    return [torch.load(folder / f'{rank}.pth') for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('base', BASES)
def test_two_processes_equal_one(base, with_cp, halves):
    """Gradients, averaged by DDP, and what the norms learn."""
    model = build(base, 'BN', with_cp=False)
    (sum(x.square().sum() for x in model(images())) / 2).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    orders = []
    for half in halves:
        grads, buffers, calls = half[base, with_cp]
        assert_same_gradients(grads, expected, tolerance=1e-8, floor=1e-3)
        for name, buffer in model.named_buffers():
            assert torch.allclose(buffers[name], buffer, rtol=1e-9, atol=1e-12), name
        orders.append(calls)
    assert orders[0] == orders[1]  # or each would wait for the other
    assert orders[0].count('all_reduce') == norms
    if not with_cp:
        assert orders[0] == ['all_gather'] * norms + ['all_reduce'] * norms
