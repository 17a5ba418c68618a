"""Training that keeps for the backward pass only what is dear to compute again.

A network of dense convolutions between batch norms, GELUs and depthwise convolutions
spends its time in the former, and its memory on the latter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.compat import has_hooks
from mmrecnext.ops import fast_paths
from mmrecnext.ops.batch_norm import (
    Normed,
    is_plain,
    laid_out,
    norm_backward,
    normalize,
    statistics,
)
from mmrecnext.ops.depthwise import DepthwiseConv2d
from mmrecnext.ops.replay import Moment

aten = torch.ops.aten
Before = Callable[..., tuple[Tensor, ...]]

CONVOLUTIONS = (nn.Conv2d, DepthwiseConv2d)
# Whose layers compute by what they hold as parameters, buffers and modes, alone.
REPEATABLE = (
    'mmrecnext.',
    'mmengine.model.utils',  # what is made of SyncBN
    'torch.nn.modules.batchnorm',
    'torch.nn.modules.container',
    'torch.nn.modules.conv',
    'torch.nn.modules.instancenorm',
    'torch.nn.modules.linear',
    'torch.nn.modules.normalization',
)


class Layer(NamedTuple):
    """A link of a chain: a convolution, its batch norm, and perhaps a GELU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    gelu: bool


def recompute(
    before: Before,
    modules: Sequence[nn.Module],
    chain: nn.Module | None,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """Return ``(chain(first), *rest)``, where ``first, *rest = before(*inputs)``.

    In training, what is kept for the backward pass are the inputs, from which it
    computes ``before`` again, and the outputs of the convolutions in ``chain``.
    Gradients and running statistics are those of the plain modules, whatever becomes of
    these before the backward pass. They run by themselves where gradients or fast paths
    are off, under ``torch.compile``, in a trace, with hooks, with layers in ``modules``
    that this library does not know, and with norms other than ``nn.BatchNorm2d`` and
    what MMEngine makes of SyncBN in a single process.

    Args:
        before: what is computed first, a method of the module that has ``modules``, or
            a function; of its results, only the first may be an input.
        modules: those that ``before`` uses.
        chain: layers of a convolution and a norm, GELUs and identities, in sequence.
        inputs: of ``before``.
    """
    layers = _plan(modules, chain, inputs[0])
    if layers is None:
        first, *rest = before(*inputs)
        return first if chain is None else chain(first), *rest
    device = inputs[0].device.type
    moment = Moment(modules, getattr(before, '__self__', None))
    call = _Call(
        before,
        moment,
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
    return _Recompute.apply(call, *inputs, *moment.parameters, *weights)


def _plan(
    modules: Sequence[nn.Module], chain: nn.Module | None, x: Tensor
) -> list[Layer] | None:
    """Return the links of a chain, or None if its modules are to run by themselves."""
    parts = [*modules, *([] if chain is None else [chain])]
    if (
        not fast_paths.is_eager_training()
        or not any(part.training for part in parts)
        or x.numel() == 0  # of which PyTorch's kernels divide by zero
        or not torch.amp.is_autocast_available(x.device.type)  # as on the meta device
        or has_hooks(*parts)
        or not all(is_repeatable(part) for m in modules for part in m.modules())
    ):
        return None
    return [] if chain is None else parse(chain)


def is_repeatable(part: nn.Module) -> bool:
    """Tell whether a layer, called again in the same state, does the same again.

    One that is synchronised would wait for other processes again.
    """
    kind: Any = type(part)  # hashed as a class, which mypy takes for a module
    # Others, such as FSDP, put tensors in the place of parameters.
    return _is_repeatable(kind) and 'weight' not in vars(part)


@functools.cache
def _is_repeatable(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith(REPEATABLE) and kind is not nn.SyncBatchNorm


def is_gelu(step: nn.Module) -> bool:
    """Tell whether a layer is the exact GELU."""
    return type(step) is nn.GELU and step.approximate == 'none'


def parse(chain: nn.Module) -> list[Layer] | None:
    """Return the links of a chain, or None if it has others."""
    if not is_sequence(chain):
        return None
    layers: list[Layer] = []
    for step in chain:
        if link := link_of(step):
            layers.append(link)
        elif is_gelu(step) and layers and not layers[-1].gelu:
            layers[-1] = layers[-1]._replace(gelu=True)
        elif type(step) is not nn.Identity:
            return None
    return layers


def is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Tell whether a module does what its parts do, one after the other."""
    return type(module).forward in (nn.Sequential.forward, Normed.forward)


def link_of(step: nn.Module) -> Layer | None:
    """Return a convolution and its norm as a link of a chain, None if it has others."""
    if not is_sequence(step) or len(step) != 2:
        return None
    conv, norm = step
    if (
        isinstance(conv, nn.Conv2d)
        and type(conv) in CONVOLUTIONS
        and conv.padding_mode == 'zeros'
        and not isinstance(conv.padding, str)
        and is_plain(norm)
        and 'weight' not in vars(conv)
    ):
        return Layer(conv, norm, gelu=False)
    return None


class _Call(NamedTuple):
    """What the backward pass needs to know, apart from tensors that it saves."""

    before: Before
    moment: Moment
    layers: list[Layer]
    num_inputs: int
    autocast: dict


class _Link(NamedTuple):
    """A layer of the chain in the backward pass."""

    conv: nn.Conv2d
    eps: float
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
            self.y, self.mean, self.invstd, self.scale, self.shift, self.eps
        )

    def norm_backward(self, grad: Tensor, mask: Sequence[bool]):
        return norm_backward(
            grad,
            self.y,
            self.scale,
            self.mean,
            self.invstd,
            self.eps,
            self.by_batch,
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


class _Recompute(torch.autograd.Function):
    """What :func:`recompute` does in training.

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
        ctx.norms = [(norm.eps, norm.training) for _, norm, _ in call.layers]
        ctx.save_for_backward(*tensors, *kept)
        return x, *rest

    @staticmethod
    def backward(ctx, grad, *rest):
        if torch.is_grad_enabled():  # of gradients, gradients are wanted
            return _graph_of_gradients(ctx, (grad, *rest))
        call, saved, needed = ctx.call, ctx.saved_tensors, ctx.needs_input_grad[1:]
        first = call.num_inputs
        begin = first + len(call.moment.parameters)
        end = begin + 4 * len(call.layers)
        links = [
            _Link(
                conv,
                eps,
                gelu,
                by_batch,
                *saved[begin + 4 * i :][:4],
                *saved[end + 3 * i :][:3],
            )
            for i, ((conv, _, gelu), (eps, by_batch)) in enumerate(
                zip(call.layers, ctx.norms, strict=True)
            )
        ]
        sources = [
            x.detach().requires_grad_(need)
            for x, need in zip(saved[:begin], needed[:begin], strict=True)
        ]
        with torch.autocast(**call.autocast):
            with torch.enable_grad(), call.moment.restored(sources[first:]):
                outputs = call.before(*sources[:first])
            grad, weight_grads = _chain_backward(
                grad, outputs[0], links, needed[begin:end]
            )
        return (
            None,
            *_gradients(outputs, (grad, *rest), sources),
            *weight_grads,
        )


def _graph_of_gradients(ctx, grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Do the backward pass of :class:`_Recompute` by layers that have one too."""
    call, saved = ctx.call, ctx.saved_tensors
    first = call.num_inputs
    begin = first + len(call.moment.parameters)
    end = begin + 4 * len(call.layers)
    # Not the tensors themselves, which may depend on each other.
    sources = [None if x is None else x.view_as(x) for x in saved[:end]]
    with (
        fast_paths.off(),
        torch.autocast(**call.autocast),
        call.moment.restored(sources[first:begin]),
    ):
        x, *rest = call.before(*sources[:first])
        for i, (layer, norm) in enumerate(zip(call.layers, ctx.norms, strict=True)):
            weight, bias, scale, shift = sources[begin + 4 * i :][:4]
            _, mean, invstd = saved[end + 3 * i :][:3]
            eps, by_batch = norm
            var = None if by_batch else invstd**-2 - eps
            x = layer.conv._conv_forward(x, weight, bias)
            x = F.batch_norm(
                x, None if by_batch else mean, var, scale, shift, by_batch, 0.0, eps
            )
            x = F.gelu(x) if layer.gelu else x
    return None, *_gradients((x, *rest), grads, sources, create_graph=True)


def _gradients(
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor],
    sources: Sequence[Tensor | None],
    create_graph: bool = False,
) -> list[Tensor | None]:
    """Return the gradients of those ``sources`` that require one."""
    pairs = [pair for pair in zip(outputs, grads, strict=True) if pair[0].requires_grad]
    needed = [x is not None and x.requires_grad for x in sources]
    if not pairs or not any(needed):
        return [None] * len(sources)
    roots, root_grads = zip(*pairs, strict=True)
    wanted = [x for x in sources if x is not None and x.requires_grad]
    found = iter(
        torch.autograd.grad(roots, wanted, root_grads, create_graph=create_graph)
    )
    return [next(found) if need else None for need in needed]


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
            assert normal is not None  # what the layer behind this one came from
            grad = aten.gelu_backward(laid_out(grad, normal), normal)
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
