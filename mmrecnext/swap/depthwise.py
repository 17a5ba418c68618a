"""Recursive convolutions in the place of another network's depthwise ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmrecnext.engine.flops import FLOPS_PER_MAC, count_flops, count_parameters
from mmrecnext.errors import (
    OptionError,
    check_flag,
    check_option,
    is_integer,
    printable,
)
from mmrecnext.models.recconv import RecConv
from mmrecnext.pretrained import INPUT_SIDE

COARSEST = 64
"""Input pixels per pixel of the coarsest map of a recursion, as in the M series."""


@dataclass(frozen=True)
class ReplacedConv:
    """A convolution that a recursive one has replaced.

    Args:
        name: of the layer in the model.
        channels: of its maps.
        stride: of the image, in pixels, to a pixel of its maps.
        kernel_size: side of the old kernel.
        level: how many times the recursive convolution halves the map.
        field: side, in pixels of its maps, of what a pixel sees now. It saw
            ``kernel_size`` of them.
    """

    name: str
    channels: int
    stride: int
    kernel_size: int
    level: int
    field: int


@dataclass(frozen=True)
class DepthwiseReplacement:
    """What :func:`replace_depthwise` did; as a text, a table.

    Args:
        layers: the convolutions replaced.
        params: parameters of the model, before and after.
        macs: multiply-adds for an image in inference, before and after.
        image_size: its height and width.
    """

    layers: tuple[ReplacedConv, ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    image_size: tuple[int, int]

    def __str__(self) -> str:
        """Return the table, a row for convolutions that are alike."""
        alike = Counter(
            (x.stride, x.channels, x.kernel_size, x.level, x.field) for x in self.layers
        )
        lines = ['stride  channels  convolutions  kernel  level  receptive field']
        for (stride, channels, kernel, level, field), count in alike.items():
            lines.append(
                f'{stride:6}  {channels:8}  {count:12}  {kernel:6}  {level:5}  '
                f'{kernel:5} -> {field}'
            )
        (few, many), (less, more) = self.params, self.macs
        lines.append(f'parameters: {few / 1e6:.3f} M -> {many / 1e6:.3f} M')
        size = ' x '.join(map(str, self.image_size))
        lines.append(
            f'multiply-adds at {size}: {less / 1e9:.3f} G -> {more / 1e9:.3f} G'
        )
        return '\n'.join(lines)


def replace_depthwise(
    model: nn.Module,
    kernel_size: int = 5,
    min_kernel: int = 7,
    level: int | None = None,
    mode: str = 'bilinear',
    keep_kernels: bool = True,
    example: Tensor | None = None,
    verbose: bool = True,
) -> DepthwiseReplacement:
    """Put recursive convolutions in the place of a network's large depthwise ones.

    Each depthwise convolution of stride 1 with an odd, square kernel of at least
    ``min_kernel``, padded to keep the size of its maps, becomes a
    :class:`~mmrecnext.models.RecConv`, in place. ConvNeXt has kernels of 7, CSPNeXt
    and some of MobileNet's of 5, RepViT's are of 3.

    The model then computes what it did: of each recursive convolution, the finest level
    has the old kernel and bias, that above it a kernel of zeros, through which the
    coarser levels add nothing yet. Only these zeros and the old kernels have a gradient
    in the first step; after it, all have one, as with other residual branches that
    begin at zero. The old kernel stays whole: it is framed in zeros where it is smaller
    than ``kernel_size``, and where it is larger, the finest level keeps its size. One
    of 7x7 has no exact form in kernels of 5x5 alone.

    Args:
        model: takes images ``[N, C, H, W]``; changed in place. What reads the weights
            of the convolutions, as the fusing methods of some models do, has to come
            before.
        kernel_size: side of the kernels, an odd number.
        min_kernel: side of the smallest kernel to be replaced.
        level: how many times each halves its map; by default as often as makes a pixel
            of the coarsest map 64 of the image, as in RecNeXt-M, and once at least.
        mode: see :class:`~mmrecnext.models.RecConv`.
        keep_kernels: as told above. Otherwise all kernels are of ``kernel_size`` and
            begin at random, as for a model that is trained from the start; there is a
            bias where there was one.
        example: images such as the model takes; by default of 3 channels, 224x224.
            Nothing is computed of them but sizes.
        verbose: print the result.

    Returns:
        Which were replaced, and the receptive field, parameters and multiply-adds
        before and after.

    Raises:
        OptionError: for a model without such convolutions, or that cannot be run on
            the example, and for an impossible value of an option; the model is then as
            it was.

    Examples:
        >>> import timm, torch
        >>> from mmrecnext import replace_depthwise
        >>> model = timm.create_model('convnext_atto').eval()
        >>> images = torch.rand(1, 3, 64, 64)
        >>> before = model(images)
        >>> replaced = replace_depthwise(model)
        stride  channels  convolutions  kernel  level  receptive field
             4        40             2       7      4      7 -> 80
             8        80             2       7      3      7 -> 40
            16       160             6       7      2      7 -> 20
            32       320             2       7      1      7 -> 10
        parameters: 3.696 M -> 3.826 M
        multiply-adds at 224 x 224: 0.547 G -> 0.560 G
        >>> torch.allclose(model(images), before, atol=1e-5)
        True
    """
    check_option(
        'min_kernel', min_kernel, is_integer(min_kernel, 2), 'an integer of 2 or more'
    )
    is_valid = level is None or is_integer(level, 1)
    check_option('level', level, is_valid, 'an integer of 1 or more, or None')
    check_flag('keep_kernels', keep_kernels)
    if example is None:
        dtype = next((p.dtype for p in model.parameters()), None)
        size = (1, 3, INPUT_SIDE, INPUT_SIDE)
        example = torch.empty(size, dtype=dtype, device='meta')
    is_valid = isinstance(example, Tensor) and example.dim() == 4
    check_option('example', example, is_valid, 'images [N, C, H, W]')

    found = dict(_depthwise_convs(model))
    params = count_parameters(model)
    macs, sizes = _measure(model, example, found)
    chosen = {
        name: conv
        for name, conv in found.items()
        if conv.kernel_size[0] >= min_kernel and conv in sizes
    }
    if not chosen:
        raise OptionError(_nothing_found(model, found, min_kernel))

    height = example.shape[2]
    made: dict[nn.Conv2d, RecConv] = {}  # one for what stands in several places
    layers = []
    for name, conv in chosen.items():
        stride = max(1, round(height / sizes[conv]))
        depth = level or max(1, int(math.log2(max(1, COARSEST / stride))))
        if conv not in made:
            made[conv] = _recursive(conv, kernel_size, depth, mode, keep_kernels)
        side = conv.kernel_size[0]
        field = kernel_size * 2**depth
        field = max(field, side) if keep_kernels else field
        layers.append(ReplacedConv(name, conv.in_channels, stride, side, depth, field))

    for name, conv in chosen.items():
        model.set_submodule(name, made[conv])
    try:
        new_macs, _ = _measure(model, example, {})
    except OptionError:
        for name, conv in chosen.items():
            model.set_submodule(name, conv)
        raise
    replacement = DepthwiseReplacement(
        tuple(layers),
        (params, count_parameters(model)),
        (macs, new_macs),
        (height, example.shape[3]),
    )
    if verbose:
        print(replacement)
    return replacement


def _depthwise_convs(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Yield what a recursive convolution can replace, by name, unless it is in one."""
    own = {
        part
        for module in model.modules()
        if isinstance(module, RecConv)
        for part in module.modules()
    }
    for name, conv in model.named_modules(remove_duplicate=False):
        if name and isinstance(conv, nn.Conv2d) and conv not in own:
            side = conv.kernel_size[0]
            if (
                1 < conv.groups == conv.in_channels == conv.out_channels
                and conv.kernel_size == (side, side)
                and side % 2 == 1
                and conv.stride == conv.dilation == (1, 1)
                and conv.padding in ('same', (side // 2, side // 2))
                and conv.padding_mode == 'zeros'
            ):
                yield name, conv


def _measure(
    model: nn.Module, example: Tensor, convs: dict[str, nn.Conv2d]
) -> tuple[int, dict[nn.Module, int]]:
    """Count the multiply-adds for an image, and see which convolutions are called.

    Returns:
        The number, and the height of the map that each was given.

    Raises:
        OptionError: where the model cannot be run.
    """
    sizes: dict[nn.Module, int] = {}

    def note(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.setdefault(conv, inputs[0].shape[2])

    # No weights, no statistics and no random numbers: the model stays as it is. Each
    # place once, as what is put in twice would not be taken out again.
    state = {
        f'{path}.{name}' if path else name: tensor.to('meta')
        for path, module in model.named_modules()
        for tensors in (module.named_parameters, module.named_buffers)
        for name, tensor in tensors(recurse=False)
    }
    images = torch.empty_like(example[:1], device='meta')
    modes = {module: module.training for module in model.modules()}
    hooks = [conv.register_forward_pre_hook(note) for conv in {*convs.values()}]
    try:
        for module in modes:  # not by `eval()`, which a model may do more in
            module.training = False
        flops = count_flops(
            lambda: functional_call(model, state, (images,), tie_weights=False)
        )
    except Exception as error:  # whatever a foreign model raises
        raise OptionError(
            f'{type(model).__name__} cannot be run on images {[*example.shape]} '
            f'without numbers in them (give others as `example`): '
            f'{printable(str(error))[:200]}'
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return flops // FLOPS_PER_MAC, sizes


def _nothing_found(
    model: nn.Module, found: dict[str, nn.Conv2d], min_kernel: int
) -> str:
    sides = sorted({conv.kernel_size[0] for conv in found.values()}, reverse=True)
    text = f'{type(model).__name__} has no depthwise convolution of stride 1'
    if not sides:
        return f'{text} with an odd, square kernel, padded to keep the size of maps'
    has = ', '.join(f'{side}x{side}' for side in sides)
    if sides[0] >= min_kernel:
        return f'{text} that its forward calls; it holds kernels of {has}'
    return (
        f'{text} with a kernel of min_kernel={min_kernel} or more; those there are of '
        f'{has}'
    )


@torch.no_grad()
def _recursive(
    conv: nn.Conv2d, kernel_size: int, level: int, mode: str, keep_kernels: bool
) -> RecConv:
    """Return what replaces a convolution, of its device and dtype."""
    bias = conv.bias is not None
    new = RecConv(conv.in_channels, level, kernel_size, mode, bias).to(conv.weight)
    if keep_kernels:
        frame = (kernel_size - conv.kernel_size[0]) // 2
        finest, above = (cast(nn.Conv2d, new.convs[i]) for i in (-1, -2))
        if frame > 0:
            finest.weight.copy_(F.pad(conv.weight, [frame] * 4))
            finest.weight.requires_grad_(conv.weight.requires_grad)
            finest.bias = conv.bias
        else:
            new.convs[-1] = conv
        above.weight.zero_()
    return new.train(conv.training)
