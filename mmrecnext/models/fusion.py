"""Inference form: batch norms, which are affine then, merged into convolutions.

A module that one layer can stand for says which, by a method ``fused``; one with a norm
of its own merges it by a method ``fold_norm``. The sums are done in float64.

Both also have a method ``fuse``, which returns what is to stand in their place: timm's
``reparameterize_model`` and the authors' ``replace_batchnorm`` ask layers for it.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeGuard

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, fx, nn

from mmrecnext.compat import BatchNorm, has_hooks
from mmrecnext.errors import OptionError
from mmrecnext.ops.winograd import Conv3x3, is_3x3


def switch_to_deploy(model: nn.Module) -> None:
    """Bring a network into its inference form, in place.

    Backbones that have a ``switch_to_deploy`` are folded by it, and in the rest every
    ``ConvModule`` of MMCV whose convolution a batch norm follows, and whatever else a
    graph shows to be such a pair, as in a ResNet of MMDetection. Other norms stay.
    Convolutions of 3x3 then take a faster way on a CPU, see :class:`Conv3x3`.

    Args:
        model: a detector or segmentor, with its weights loaded; may be wrapped.

    Raises:
        OptionError: where a RecNeXt has norms that are no batch norms.

    Examples:
        >>> from mmrecnext import RecNeXt
        >>> from mmrecnext.models.fusion import switch_to_deploy
        >>> model = RecNeXt('m0')
        >>> switch_to_deploy(model)
        >>> model.deployed, model.training
        (True, False)
    """
    before = count_norms(model)
    model.eval()
    for module in list(model.modules()):
        if switch := deploying(module):
            switch()
    fold_conv_modules(model)
    fold_pairs(model)
    speed_up_convolutions(model)
    print_log(
        f'Merged {before - count_norms(model)} of {before} batch norms',
        logger='current',
    )


def deploying(module: nn.Module) -> Callable[[], object] | None:
    """Return what brings a layer into its inference form, if it knows.

    What asks for settings, as heads of MMPose, does so for the whole of its model.
    """
    switch: Callable[[], object] | None = getattr(module, 'switch_to_deploy', None)
    if switch is None or isinstance(module, BaseModel):
        return None
    try:
        inspect.signature(switch).bind()
    except TypeError:
        return None
    return switch


def count_norms(model: nn.Module) -> int:
    """Return how many batch norms there are in ``model``."""
    return sum(isinstance(module, BatchNorm) for module in model.modules())


def fuse_conv_norms(model: nn.Module) -> None:
    """Put one layer in the place of each that offers to be ``fused``, in place.

    A RecNeXt then has the keys and shapes of the published fused files.

    Args:
        model: what contains the layers.

    Raises:
        OptionError: for norms that are no batch norms; the model is then as it was.
    """
    for parent, name, layer in list(_fused_layers(model)):
        setattr(parent, name, layer)


def _fused_layers(parent: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for name, child in parent.named_children():
        fused = getattr(child, 'fused', None)
        if fused is not None:
            yield parent, name, fused()
        else:
            yield from _fused_layers(child)


def fold_outer_norms(model: nn.Module) -> None:
    """Merge also the norms that the published fused files keep, in place.

    These stand behind a token mixer or the convolution between two stages.

    Args:
        model: what contains them, if need be fused by :func:`fuse_conv_norms` first.

    Raises:
        OptionError: for norms that are no batch norms.
    """
    fuse_conv_norms(model)
    for module in model.modules():
        fold_norm = getattr(module, 'fold_norm', None)
        if fold_norm is not None:
            fold_norm()


def fuse_whole(module: nn.Module) -> nn.Module:
    """Merge all norms in ``module``, in place, and return it: a method ``fuse``.

    Not only its own layers' norms: whoever asks may drop a norm that nobody fused, or
    look no further into what was.
    """
    fold_outer_norms(module)
    return module


def fold_conv_modules(model: nn.Module) -> None:
    """Merge the batch norm of each ``ConvModule`` of MMCV, in place.

    A convolution that several of them share, with a norm each, is copied. What is no
    plain convolution, or normalises by the batch even in inference, stays.

    Args:
        model: what contains them.
    """
    from mmcv.cnn import ConvModule  # here: it takes as long as all of mmrecnext

    for module in model.modules():
        if (
            isinstance(module, ConvModule)
            and type(module).forward is ConvModule.forward
            and type(module.conv) in plain_convolutions()
            and not module.with_spectral_norm
            and is_foldable(module.norm)
            and module.order.index('norm') == module.order.index('conv') + 1
        ):
            merged = conv_then_norm(module.conv, module.norm)
            module.conv = conv_of(module.conv, *merged)
            setattr(module, module.norm_name, nn.Identity())
            module.efficient_conv_bn_eval_forward = None  # it would read the norm


def plain_convolutions() -> tuple[type[nn.Conv2d], ...]:
    """Return the types that convolve by the weights that they hold, as they are."""
    from mmcv.cnn.bricks import Conv2d, Conv2dAdaptivePadding  # here: see above

    return nn.Conv2d, Conv2d, Conv2dAdaptivePadding, Conv3x3


class Layers(fx.Tracer):
    """Follows a network down to its layers, and to what has no batch norm in it."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether to look no further into a module."""
        return isinstance(m, nn.Conv2d | BatchNorm) or count_norms(m) == 0


def fold_pairs(model: nn.Module) -> None:
    """Merge each batch norm that takes what a convolution returns, and alone does.

    Which do, the forward of a part tells as ``torch.fx`` records it; a part that cannot
    be recorded is looked into, part by part. Layers that are called more than once
    stay.

    Args:
        model: what contains them, in inference; changed in place.
    """
    names = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    parts = [model]
    while parts:
        part = parts.pop()
        if count_norms(part) == 0 or isinstance(part, BatchNorm):
            continue
        for pair in _pairs(part):
            conv, norm = map(part.get_submodule, pair)
            if names[id(conv)] == names[id(norm)] == 1 and is_foldable(norm):
                assert isinstance(conv, nn.Conv2d)
                merged = conv_of(conv, *conv_then_norm(conv, norm))
                part.set_submodule(pair[0], merged)
                part.set_submodule(pair[1], nn.Identity())
        parts.extend(part.children())


def _pairs(part: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions, and of the batch norms that follow them."""
    if isinstance(part, BaseModel):  # its forward has several modes
        return []
    try:
        graph = Layers().trace(copy.deepcopy(part))  # a forward may keep what it sees
    except Exception:  # whatever it raises that is given no numbers
        return []
    modules = dict(part.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == 'call_module')
    found = []
    for node in graph.nodes:
        conv = node.args[0] if node.op == 'call_module' and node.args else None
        if (
            isinstance(conv, fx.Node)
            and conv.op == 'call_module'
            and len(conv.users) == 1
            and calls[node.target] == calls[conv.target] == 1
            and isinstance(modules[str(node.target)], BatchNorm)
            and type(modules[str(conv.target)]) in plain_convolutions()
        ):
            found.append((str(conv.target), str(node.target)))
    return found


def speed_up_convolutions(model: nn.Module) -> None:
    """Put a :class:`Conv3x3` in the place of each convolution that it can stand for.

    Args:
        model: what contains them; changed in place.
    """
    made: dict[nn.Module, Conv3x3] = {}
    places = list(model.named_modules(remove_duplicate=False))  # some parts share one
    for name, layer in places:
        if (
            name
            and type(layer) in plain_convolutions()
            and not isinstance(layer, Conv3x3)
            and is_3x3(layer)
            and not has_hooks(layer)
        ):
            assert isinstance(layer, nn.Conv2d)
            if layer not in made:
                made[layer] = Conv3x3(layer)
            model.set_submodule(name, made[layer])


def is_foldable(norm: nn.Module | None) -> TypeGuard[BatchNorm]:
    """Tell whether a norm is affine in inference: a batch norm with statistics."""
    return isinstance(norm, BatchNorm) and norm.running_mean is not None


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what a batch norm multiplies by in inference, and what it then adds.

    Returns:
        Two tensors ``[C]``, float64.

    Raises:
        OptionError: for a norm that is not affine in inference.
    """
    if not is_foldable(norm):
        raise OptionError(
            'only norms of the types BN and SyncBN, with running statistics, can be '
            f'merged into convolutions, not {type(norm).__name__}: leave a model with '
            'it in its training form'
        )
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None  # as in all that are foldable
    scale = (var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = norm.weight.detach().double() * scale
    shift = -mean.double() * scale
    if norm.bias is not None:
        shift = norm.bias.detach().double() + shift
    return scale, shift


def conv_then_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, that do what ``norm(conv(x))`` does."""
    scale, shift = affine(norm)
    weight, bias = _parameters(conv)
    return weight * scale[:, None, None, None], bias * scale + shift


def norm_then_conv(norm: nn.Module, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, that do what ``conv(norm(x))`` does.

    Args:
        norm: a batch norm.
        conv: of kernel size 1 and one group. A larger kernel would see the padding,
            which the norm does not shift.
    """
    scale, shift = affine(norm)
    weight, bias = _parameters(conv)
    return weight * scale[:, None, None], bias + weight[..., 0, 0] @ shift


def _parameters(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    weight = conv.weight.detach().double()
    if conv.bias is None:
        return weight, weight.new_zeros(len(weight))
    return weight, conv.bias.detach().double()


def conv_of(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution like ``conv``, of its dtype, with other parameters."""
    conv = copy.deepcopy(conv)
    old = conv.weight
    for name, value in (('weight', weight), ('bias', bias)):
        value = value.to(old.dtype)
        setattr(conv, name, nn.Parameter(value, requires_grad=old.requires_grad))
    return conv
