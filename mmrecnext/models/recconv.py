"""RecConv, the token mixer of the M series, and the variants published beside it.

All are ``[N, channels, H, W]`` in and out, for any ``H`` and ``W`` of 1 or more, and
are built from ``channels``, ``level`` and ``kernel_size``. In their formulas, ``f[l]``
is the map after ``l`` halvings, each to ``ceil(size / 2)``, and ``L`` is ``level``.

Source: RecNeXt (https://github.com/suous/RecNeXt).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrecnext.errors import check_flag, check_option, is_integer
from mmrecnext.ops.constants import INTERPOLATIONS
from mmrecnext.ops.depthwise import DepthwiseConv2d
from mmrecnext.ops.recconv import recconv, recconv_plain
from mmrecnext.registry import MODELS


def check_layer(
    layer: nn.Module, name: str, value: Any, valid: bool, choices: str
) -> None:
    """Raise an :class:`OptionError` unless the option of a layer is ``valid``."""
    check_option(f'{type(layer).__name__}: `{name}`', value, valid, choices)


def check_recursion(
    layer: nn.Module, level: int, kernel_size: int, least: int = 0
) -> None:
    """Check the options that all operators have."""
    is_valid = is_integer(level, least)
    check_layer(layer, 'level', level, is_valid, f'an integer of {least} or more')
    is_valid = is_integer(kernel_size, 1) and kernel_size % 2 == 1
    check_layer(layer, 'kernel_size', kernel_size, is_valid, 'odd and positive')


def check_mode(layer: nn.Module, mode: str, modes: Sequence[str]) -> None:
    """Check the name of a way to enlarge maps."""
    check_layer(layer, 'mode', mode, mode in modes, f'one of {", ".join(modes)}')


def grouped_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Return the convolution of most groups, which keeps ``ceil(size / stride)``."""
    return DepthwiseConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        kernel_size // 2,
        groups=min(in_channels, out_channels),
        bias=bias,
    )


class DoublingConv(nn.ConvTranspose2d):
    """Transposed convolution of most groups, which doubles a map and crops it.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the result; either number divides the other.
        kernel_size: side, an odd number, of the kernels that halved the map; those
            here are larger by one, the least that reaches as far on either side.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size + 1,
            stride=2,
            padding=kernel_size // 2,
            # There is always something to crop: a graph would else be of even sizes, or
            # of odd ones, as its example was.
            output_padding=1,
            groups=min(in_channels, out_channels),
            bias=False,
        )

    def forward(  # type: ignore[override]  # the size by which it crops is required
        self, x: Tensor, size: Sequence[int]
    ) -> Tensor:
        """Turn ``[N, C, H, W]`` into ``[N, C', *size]``, twice as large at most."""
        height, width = size
        return super().forward(x)[..., :height, :width]


class Interpolation(nn.Module):
    """Enlarges maps without parameters, in the place of :class:`DoublingConv`.

    Args:
        mode: ``bilinear`` or ``nearest``.
    """

    def __init__(self, mode: str):
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Turn ``[N, C, H, W]`` into ``[N, C, *size]``."""
        return F.interpolate(x, size, mode=self.mode)


def unpool(x: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Put the values of ``x`` at ``places``, among zeros.

    PyTorch's own ``max_unpool2d`` can neither be traced nor run in deterministic mode.

    Args:
        x: ``[N, C, H, W]``.
        places: ``[N, C, H, W]``, indices into the flattened pixels of the result, as
            max-pooling returns them.
        size: height and width of the result.
    """
    n, channels = x.shape[:2]
    fine = x.new_zeros(n, channels, size[0] * size[1])
    fine = fine.scatter(2, places.flatten(2), x.flatten(2))
    return fine.reshape(n, channels, *size)


@MODELS.register_module()
class RecConv(nn.Module):
    """Recursive convolution: one depthwise kernel per level of a feature pyramid.

    One shared operator halves the map ``level`` times; from the coarsest level up, each
    is convolved, enlarged and added to the next::

        f[0] = x,  f[l + 1] = halve(f[l])
        y[L] = convs[0](f[L]),  y[l] = convs[L - l](f[l] + enlarge(y[l + 1]))
        result y[0]

    It sees about ``kernel_size * 2**level`` pixels at a cost that hardly grows with
    ``level``, and is linear, except in mode ``unpool``.

    Args:
        channels: channels of the map.
        level: how many times the map is halved, 0 or more.
        kernel_size: side of the kernels, an odd number.
        mode: how maps are halved and enlarged:

            - ``bilinear`` (the published models) and ``nearest``: by the convolution
              ``down`` of stride 2, and by interpolation;
            - ``transposed``: by ``down``, and by the transposed convolution ``up``;
            - ``unpool``: by the maximum of 2x2 pixels, and by putting each value where
              the maximum was and zeros elsewhere.
        bias: whether the last kernel, that of the map itself, has a bias. The published
            models have none: the norm behind adds one.

    Raises:
        OptionError: for an impossible value of an option.

    Shape: ``[N, channels, H, W]`` in and out, for any ``H`` and ``W``.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    MODES = (*INTERPOLATIONS, 'transposed', 'unpool')

    def __init__(
        self,
        channels: int,
        level: int = 1,
        kernel_size: int = 5,
        mode: str = 'bilinear',
        bias: bool = False,
    ):
        super().__init__()
        check_recursion(self, level, kernel_size)
        check_mode(self, mode, self.MODES)
        check_flag('RecConv: `bias`', bias)
        self.level = level
        self.mode = mode
        if level > 0 and mode != 'unpool':
            self.down = grouped_conv(channels, channels, kernel_size, stride=2)
        if level > 0 and mode == 'transposed':
            self.up = DoublingConv(channels, channels, kernel_size)
        self.convs = nn.ModuleList(
            grouped_conv(channels, channels, kernel_size, bias=bias and i == level)
            for i in range(level + 1)
        )

    def halve(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the next coarser map, and where its values stood if that matters."""
        if self.mode == 'unpool':
            return F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        return self.down(x), None

    def enlarge(self, x: Tensor, size: Sequence[int], places: Tensor | None) -> Tensor:
        """Return ``x`` at the next finer ``size``, of which ``places`` tells."""
        if places is not None:
            return unpool(x, places, size)
        larger: Tensor = self.up(x, size)
        return larger

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of each channel of ``x``."""
        if self.mode in INTERPOLATIONS:
            return recconv(x, getattr(self, 'down', None), self.convs, self.mode)
        return recconv_plain(x, self.convs, self.halve, self.enlarge)


class ChannelHalvingRecConv(nn.Module):
    """Base of the operators that halve the channels where they halve the map.

    Args:
        channels: channels of the map, divisible by ``2**level``.
        level: how many times the map and its channels are halved, 0 or more.
        kernel_size: side of the kernels, an odd number; of ``ups``, larger by one.
        ratio: channels that go into each of ``downs``, and come out of each of ``ups``,
            for each that it has on the coarse side.
        mode: how maps are enlarged: ``transposed``, by convolutions, or, at a ratio of
            1, by interpolation.

    Raises:
        OptionError: for an impossible value of an option.
    """

    def __init__(
        self,
        channels: int,
        level: int,
        kernel_size: int,
        ratio: int,
        mode: str = 'transposed',
    ):
        super().__init__()
        check_recursion(self, level, kernel_size)
        check_layer(
            self,
            'channels',
            channels,
            channels % 2**level == 0,
            f'divisible by {2**level}, two to the power of `level`',
        )
        finest_first = [channels // 2**i for i in range(1, level + 1)]
        coarsest_first = finest_first[::-1]
        self.level = level
        self.downs = nn.ModuleList(
            grouped_conv(ratio * c, c, kernel_size, stride=2) for c in finest_first
        )
        self.ups = nn.ModuleList(
            DoublingConv(c, ratio * c, kernel_size)
            if mode == 'transposed'
            else Interpolation(mode)
            for c in coarsest_first
        )
        self.convs = nn.ModuleList(
            grouped_conv(c, c, kernel_size) for c in (*coarsest_first, channels)
        )


@MODELS.register_module()
class RecConvGroups(ChannelHalvingRecConv):
    """Recursive convolution whose group convolutions halve the channels per level.

    Each of ``downs`` makes one channel of two, each of ``ups`` two of one::

        f[0] = x,  f[l + 1] = downs[l](f[l])
        y[L] = convs[0](f[L]),  y[l] = convs[L - l](f[l] + ups[L - 1 - l](y[l + 1]))
        result y[0]

    Args:
        channels: channels of the map, divisible by ``2**level``.
        level: how many times the map and its channels are halved, 0 or more.
        kernel_size: side of the kernels, an odd number; of the transposed convolutions
            ``ups``, larger by one.

    Raises:
        OptionError: for an impossible value of an option.

    Shape: ``[N, channels, H, W]`` in and out, for any ``H`` and ``W``.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    def __init__(self, channels: int, level: int = 1, kernel_size: int = 5):
        super().__init__(channels, level, kernel_size, ratio=2)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of ``x``, and neighbouring channels with them."""
        pyramid = [x]
        for down in self.downs:
            pyramid.append(down(pyramid[-1]))

        first, *rest = self.convs
        mixed: Tensor = first(pyramid.pop())
        for up, conv in zip(self.ups, rest, strict=True):
            fine = pyramid.pop()
            mixed = conv(fine + up(mixed, fine.shape[2:]))
        return mixed


@MODELS.register_module()
class RecConvConcat(ChannelHalvingRecConv):
    """Recursive convolution that sends half of the channels on to the next level.

    The other half waits, and is concatenated with what comes back::

        f[0] = x,  (r[l], s[l]) = halves of f[l],  f[l + 1] = downs[l](s[l])
        y[L] = convs[0](f[L])
        y[l] = convs[L - l](concat(r[l], ups[L - 1 - l](y[l + 1])))
        result y[0]

    Args:
        channels: channels of the map, divisible by ``2**level``.
        level: how many times the map and its channels are halved, 0 or more.
        kernel_size: side of the kernels, an odd number; of the transposed convolutions
            ``ups``, larger by one.
        mode: how maps are enlarged: ``transposed``, as published, by ``ups``; by
            ``bilinear`` or ``nearest`` interpolation, which has no parameters.

    Raises:
        OptionError: for an impossible value of an option.

    Shape: ``[N, channels, H, W]`` in and out, for any ``H`` and ``W``.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    MODES = ('transposed', *INTERPOLATIONS)

    def __init__(
        self,
        channels: int,
        level: int = 1,
        kernel_size: int = 5,
        mode: str = 'transposed',
    ):
        check_mode(self, mode, self.MODES)
        super().__init__(channels, level, kernel_size, ratio=1, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of each channel of ``x``."""
        waiting = []
        for down in self.downs:
            wait, sent = x.chunk(2, dim=1)
            waiting.append(wait)
            x = down(sent)

        first, *rest = self.convs
        mixed: Tensor = first(x)
        for up, conv in zip(self.ups, rest, strict=True):
            wait = waiting.pop()
            mixed = conv(torch.cat([wait, up(mixed, wait.shape[2:])], dim=1))
        return mixed


@MODELS.register_module()
class RecConvRecurrent(nn.Module):
    """Recursive convolution whose five depthwise kernels are shared by all levels.

    The pyramid is aggregated as a sequence, the coarsest level first::

        f[0] = x,  f[l + 1] = n(f[l])
        h[L] = b(f[L]),  h[l] = a(enlarge(h[l + 1])) + b(f[l])
        result c(enlarge(h[1])) + d(x)

    The operator is linear, and as large at any ``level`` of 2 or more.

    Args:
        channels: channels of the map.
        level: how many times the map is halved, 1 or more; ``a`` exists from 2 on.
        kernel_size: side of the kernels, an odd number.
        mode: interpolation by which maps are enlarged, ``bilinear`` or ``nearest``.

    Raises:
        OptionError: for an impossible value of an option.

    Shape: ``[N, channels, H, W]`` in and out, for any ``H`` and ``W``.
    Source: RecNeXt (https://github.com/suous/RecNeXt).
    """

    def __init__(
        self,
        channels: int,
        level: int = 1,
        kernel_size: int = 5,
        mode: str = 'bilinear',
    ):
        super().__init__()
        check_recursion(self, level, kernel_size, least=1)
        check_mode(self, mode, INTERPOLATIONS)
        self.level = level
        self.mode = mode
        self.n = grouped_conv(channels, channels, kernel_size, stride=2)
        if level > 1:
            self.a = grouped_conv(channels, channels, kernel_size)
        self.b = grouped_conv(channels, channels, kernel_size)
        self.c = grouped_conv(channels, channels, kernel_size)
        self.d = grouped_conv(channels, channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of each channel of ``x``."""
        pyramid = [x]
        for _ in range(self.level):
            pyramid.append(self.n(pyramid[-1]))

        mixed = self.b(pyramid.pop())
        for fine in reversed(pyramid[1:]):
            mixed = self.a(self.enlarge(mixed, fine)) + self.b(fine)
        result: Tensor = self.c(self.enlarge(mixed, x)) + self.d(x)
        return result

    def enlarge(self, x: Tensor, like: Tensor) -> Tensor:
        """Return ``x`` at the height and width of ``like``."""
        return F.interpolate(x, like.shape[2:], mode=self.mode)
