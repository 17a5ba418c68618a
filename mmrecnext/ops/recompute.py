"""Training that keeps for the backward pass only what is dear to compute again.

A network of dense convolutions between batch norms, GELUs and depthwise convolutions
spends its time in the former, and its memory on the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

aten = torch.ops.aten
Before = Callable[..., tuple[Tensor, ...]]


class Layer(NamedTuple):
    """A link of a chain: a convolution, its batch norm, and perhaps a GELU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    gelu: bool


def lean(
    before: Before,
    modules: Sequence[nn.Module],
    chain: Iterable[nn.Module],
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """Return ``(chain(first), *rest)``, where ``first, *rest = before(*inputs)``.

    In training, what is kept for the backward pass are the inputs, from which it
    computes ``before`` again, and the outputs of the convolutions in ``chain``.
    Gradients and running statistics are those of the plain modules. These run by
    themselves where gradients are off, under ``torch.compile``, in a trace, and with
    norms in ``chain`` other than ``nn.BatchNorm2d``.

    Args:
        before: what is computed first; of its results, only the first may be an input.
        modules: those whose parameters and norms ``before`` uses.
        chain: layers with a ``conv`` and a ``norm``, GELUs and identities.
        inputs: of ``before``.

    Raises:
        RuntimeError: in the backward pass, if asked for gradients of gradients.
    """
    layers = parse(chain)
    device = inputs[0].device.type
    if (
        layers is None
        or inputs[0].numel() == 0  # of which PyTorch's kernels divide by zero
        or not is_eager_training()
        or not torch.amp.is_autocast_available(device)  # as on the meta device
    ):
        first, *rest = before(*inputs)
        for step in chain:
            first = step(first)
        return first, *rest
    call = _Call(
        before,
        modules,
        _parameters(modules),
        layers,
        len(inputs),
        dict(
            device_type=device,
            dtype=torch.get_autocast_dtype(device),
            enabled=torch.is_autocast_enabled(device),
            # What is cast without gradients must not serve where they are wanted.
            cache_enabled=False,
        ),
    )
    weights = [
        weight
        for conv, norm, _ in layers
        for weight in (conv.weight, conv.bias, norm.weight, norm.bias)
    ]
    return _Lean.apply(call, *inputs, *call.parameters, *weights)


def same(*inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the inputs: nothing comes before the chain."""
    return inputs


def is_eager_training() -> bool:
    """Tell whether operations run one by one, and gradients are recorded."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def parse(chain: Iterable[nn.Module]) -> list[Layer] | None:
    """Return the links of a chain, or None if it has others."""
    layers: list[Layer] = []
    for step in chain:
        conv, norm = getattr(step, 'conv', None), getattr(step, 'norm', None)
        if (
            isinstance(conv, nn.Conv2d)
            and conv.padding_mode == 'zeros'
            and not isinstance(conv.padding, str)
            and type(norm) is nn.BatchNorm2d
            and norm.affine
            and norm.track_running_stats
            and norm.weight.dtype in (torch.float32, torch.float64)
        ):
            layers.append(Layer(conv, norm, False))
        elif (
            isinstance(step, nn.GELU)
            and step.approximate == 'none'
            and layers
            and not layers[-1].gelu
        ):
            layers[-1] = layers[-1]._replace(gelu=True)
        elif not isinstance(step, nn.Identity):
            return None
    return layers


@contextmanager
def constant_running_stats(*modules: nn.Module) -> Iterator[None]:
    """Keep batch norms from counting a batch again when it is recomputed."""
    norms = [
        m for module in modules for m in module.modules() if isinstance(m, _BatchNorm)
    ]
    saved = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, state in zip(norms, saved, strict=True):
            norm.momentum, norm.num_batches_tracked = state


class _Call(NamedTuple):
    """What the backward pass needs to know, apart from tensors that it saves."""

    before: Before
    modules: Sequence[nn.Module]
    parameters: list[Tensor]
    layers: list[Layer]
    num_inputs: int
    autocast: dict


class _Link(NamedTuple):
    """A layer of the chain in the backward pass."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    gelu: bool
    by_batch: bool
    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    shift: Tensor
    y: Tensor
    mean: Tensor
    invstd: Tensor

    def normalized(self) -> Tensor:
        return normalize(
            self.y, self.mean, self.invstd, self.scale, self.shift, self.norm.eps
        )

    def norm_backward(self, grad: Tensor, mask: Sequence[bool]):
        return aten.native_batch_norm_backward(
            _laid_out(grad, self.y),
            self.y,
            self.scale,
            self.norm.running_mean,
            self.norm.running_var,
            self.mean,
            self.invstd,
            self.by_batch,
            self.norm.eps,
            [True, *mask],
        )

    def conv_backward(self, grad: Tensor, x: Tensor, mask: Sequence[bool]):
        grads = aten.convolution_backward(
            grad,
            x.to(grad.dtype),
            self.weight.to(grad.dtype),
            None if self.bias is None else [len(self.bias)],
            self.conv.stride,
            self.conv.padding,
            self.conv.dilation,
            False,
            (0, 0),
            self.conv.groups,
            [*mask],
        )
        dtypes = (x.dtype, self.weight.dtype, self.weight.dtype)
        return [
            grad.to(dtype) if wanted else None
            for grad, dtype, wanted in zip(grads, dtypes, mask, strict=True)
        ]


class _Lean(torch.autograd.Function):
    """What :func:`lean` does in training.

    Its tensors are the inputs and the parameters of ``before`` and, of each layer,
    weight and bias of the convolution and of the norm. It saves besides, of each layer,
    the output of the convolution, its mean, and one over its standard deviation.
    """

    @staticmethod
    def forward(ctx, call, *tensors):
        kept = []
        with torch.autocast(**call.autocast):
            x, *rest = call.before(*tensors[: call.num_inputs])
            for conv, norm, gelu in call.layers:
                y = conv(x)
                mean, invstd = statistics(y, norm)
                x = normalize(y, mean, invstd, norm.weight, norm.bias, norm.eps)
                x = aten.gelu_(x) if gelu else x
                kept += [y, mean, invstd]
        ctx.call = call
        ctx.by_batch = [norm.training for _, norm, _ in call.layers]
        ctx.save_for_backward(*tensors, *kept)
        return x, *rest

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *rest):
        call, saved, needed = ctx.call, ctx.saved_tensors, ctx.needs_input_grad[1:]
        now = _parameters(call.modules)
        if any(p is not q for p, q in zip(now, call.parameters, strict=True)):
            raise RuntimeError(
                'parameters were replaced by others between the forward and the '
                'backward pass of a RecNeXt, which computes parts of itself again'
            )
        begin = call.num_inputs + len(call.parameters)
        end = begin + 4 * len(call.layers)
        links = [
            _Link(
                *layer,
                ctx.by_batch[i],
                *saved[begin + 4 * i :][:4],
                *saved[end + 3 * i :][:3],
            )
            for i, layer in enumerate(call.layers)
        ]
        with torch.autocast(**call.autocast):
            with torch.enable_grad(), constant_running_stats(*call.modules):
                inputs = [
                    x.detach().requires_grad_(need)
                    for x, need in zip(saved[: call.num_inputs], needed, strict=False)
                ]
                outputs = call.before(*inputs)
            grad, weight_grads = _chain_backward(
                grad, outputs[0], links, needed[begin:end]
            )
        return (
            None,
            *_gradients(outputs, (grad, *rest), (*inputs, *call.parameters)),
            *weight_grads,
        )


def _parameters(modules: Sequence[nn.Module]) -> list[Tensor]:
    # Not by `parameters()`, which takes as long as many a small layer. Each once: the
    # gradient of one that modules share would count as often as it is listed.
    return list(
        dict.fromkeys(
            p
            for module in modules
            for part in module.modules()
            for p in part._parameters.values()
            if p is not None
        )
    )


def _gradients(
    outputs: Sequence[Tensor], grads: Sequence[Tensor], sources: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of those ``sources`` that require one."""
    roots = [pair for pair in zip(outputs, grads, strict=True) if pair[0].requires_grad]
    wanted = [x for x in sources if x.requires_grad]
    if not roots or not wanted:
        return [None] * len(sources)
    roots, root_grads = zip(*roots, strict=True)
    found = iter(torch.autograd.grad(roots, wanted, root_grads))
    return [next(found) if x.requires_grad else None for x in sources]


def _chain_backward(
    grad: Tensor, x: Tensor, links: Sequence[_Link], needed: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Go back through a chain.

    Args:
        grad: gradient of its result.
        x: its input.
        links: its layers.
        needed: whether the gradients of a layer's weights are, four of each layer.

    Returns:
        The gradient of ``x``, None if it needs none, and those of the weights.
    """
    weight_grads: list[Tensor | None] = []
    normal = links[-1].normalized() if links and links[-1].gelu else None
    for i in reversed(range(len(links))):
        link, before = links[i], links[i - 1] if i else None
        mask = needed[4 * i : 4 * i + 4]
        if link.gelu:
            grad = aten.gelu_backward(_laid_out(grad, normal), normal)
        grad, *norm_grads = link.norm_backward(grad, mask[2:])
        source = x.detach()
        if before is not None:
            source = normal = before.normalized()
            if before.gelu:
                source = aten.gelu(normal)
        mask = [before is not None or x.requires_grad, *mask[:2]]
        grad, *conv_grads = link.conv_backward(grad, source, mask)
        weight_grads = [*conv_grads, *norm_grads, *weight_grads]
    return grad, weight_grads


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` dense, in the order that the elements of ``like`` have in memory."""
    if like.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def statistics(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return by what ``norm`` normalises ``x``, and in training let it learn that.

    Returns:
        Mean and one over the standard deviation, each ``[C]``.

    Raises:
        ValueError: in training, for one value per channel.
    """
    if not norm.training:
        return norm.running_mean, (norm.running_var + norm.eps).rsqrt()
    if x.numel() == x.size(1):
        raise ValueError(
            'Expected more than 1 value per channel when training, '
            f'got input size {list(x.shape)}'
        )
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    mean, var = aten.batch_norm_update_stats(
        x, norm.running_mean, norm.running_var, momentum
    )
    return mean, (var + norm.eps).rsqrt()


def normalize(
    x: Tensor, mean: Tensor, invstd: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    """Return ``(x - mean) * invstd * scale + shift``, of the dtype of ``x``.

    Args:
        x: ``[N, C, H, W]``.
        mean: ``[C]``, as all that follow.
        invstd: one over the standard deviation, which is that of a variance plus eps.
        scale: weight of the norm.
        shift: bias of the norm.
        eps: of the norm.
    """
    if x.dtype == scale.dtype:
        scale = scale * invstd
        shift = shift - mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])
    var = invstd.square().reciprocal() - eps
    return aten.native_batch_norm(x, scale, shift, mean, var, False, 0.0, eps)[0]
