"""The models as tables, RecNeXt and MLLA; everything else reads from them.

Source: RecNeXt (https://github.com/suous/RecNeXt), MLLA
(https://github.com/LeapLabTHU/MLLA).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from math import gcd, prod
from typing import Any, TypeVar

from mmrecnext.errors import (
    OptionError,
    check_flag,
    check_option,
    closest,
    is_integer,
    is_number,
    is_settings,
)
from mmrecnext.registry import MODELS

NUM_STAGES = 4
MOST_CHANNELS = 2**16
MOST_BLOCKS = 1000
"""Numbers beyond which nobody means a network: one of them takes all memory."""

DEPTHS = (
    f'integers from 0 to {MOST_BLOCKS}',
    partial(is_integer, least=0, most=MOST_BLOCKS),
)


def check_stages(
    arch: Any, name: str, choices: str, is_valid: Callable[[Any], bool]
) -> None:
    """Check a field of an arch that has an entry per stage."""
    values = getattr(arch, name)
    if not isinstance(values, tuple) or len(values) != NUM_STAGES:
        raise OptionError(
            f'arch: `{name}` needs {NUM_STAGES} entries, one per stage, got {values!r}'
        )
    if not all(map(is_valid, values)):
        raise OptionError(f'arch: `{name}` are {choices}, got {values!r}')


@dataclass(frozen=True)
class Arch:
    """What makes one RecNeXt differ from another; a field that is a tuple of four
    holds one entry per stage.

    Args:
        dims: channels.
        depths: blocks.
        mixers: token mixer of the blocks, its registered ``type`` and its options.
        mlp_ratios: hidden channels of the channel mixers over their channels.
        mixer_norm: whether the token mixers are followed by a norm; if not, they are
            given ``norm_cfg`` for norms of their own.
        rep_mixer: whether a block begins with a 3x3 depthwise convolution that can be
            merged from three branches.
        share_every: in the last stage, every so many blocks one attends to nothing, but
            takes the attended channels of those before it; 0 for none.
        stem_strides: stride of each 3x3 convolution of the stem.
        downsample_kernel: kernel size of the stride-2 convolution between stages.
        downsample_norm: whether a norm of its own follows that convolution, which then
            has a bias, or the two are one layer.
        conv_bias: whether convolutions that a norm follows have a bias.
        linear_drop_path: whether stochastic depth grows from 0 at the first block to
            its rate at the last, downsampling included, or is the same in all blocks.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    mixers: tuple[Mapping[str, Any], ...]
    mlp_ratios: tuple[float, ...] = (2.0, 2.0, 2.0, 2.0)
    mixer_norm: bool = True
    rep_mixer: bool = False
    share_every: int = 0
    stem_strides: tuple[int, ...] = (2, 2)
    downsample_kernel: int = 7
    downsample_norm: bool = True
    conv_bias: bool = False
    linear_drop_path: bool = False

    def __post_init__(self) -> None:
        self._check_stages()
        self._check_downsampling()
        for name in ('mixer_norm', 'rep_mixer', 'downsample_norm', 'conv_bias'):
            check_flag(f'arch: `{name}`', getattr(self, name))
        check_flag('arch: `linear_drop_path`', self.linear_drop_path)
        check_option(
            'arch: `share_every`',
            self.share_every,
            is_integer(self.share_every, 0),
            'an integer, 0 for none',
        )

    def _check_stages(self) -> None:
        check_stages(
            self,
            'dims',
            f'positive integers up to {MOST_CHANNELS}',
            lambda value: is_integer(value, 1, MOST_CHANNELS),
        )
        check_stages(self, 'depths', *DEPTHS)
        check_stages(self, 'mixers', 'dicts of settings', is_settings)
        check_stages(
            self, 'mlp_ratios', 'positive', lambda value: is_number(value) and value > 0
        )
        for dim, ratio in zip(self.dims, self.mlp_ratios, strict=True):
            check_option(
                'arch: `mlp_ratios`',
                self.mlp_ratios,
                int(ratio * dim) >= 1,
                f'large enough for a hidden channel in each stage of {self.dims}',
            )

    def _check_downsampling(self) -> None:
        if any(gcd(narrow, wide) == 1 for narrow, wide in pairwise(self.dims)):
            raise OptionError(
                'arch: neighbouring `dims` have a common divisor, for the grouped '
                f'convolution between them, got {self.dims!r}'
            )
        strides = self.stem_strides
        if (
            not isinstance(strides, tuple)
            or not strides
            or not all(is_integer(stride, 1) for stride in strides)
            or self.dims[0] < 2 ** (len(strides) - 1)
        ):
            raise OptionError(
                'arch: `stem_strides` are positive integers, one per convolution of '
                'the stem, each of which has half of the channels of the next, '
                f'{self.dims[0]} in the end, got {strides!r}'
            )
        kernel = self.downsample_kernel
        check_option(  # an even one would give maps of other sizes
            'arch: `downsample_kernel`',
            kernel,
            is_integer(kernel, 1) and kernel % 2 == 1,
            'odd and positive',
        )

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per pixel of each stage's map, along one side."""
        return tuple(prod(self.stem_strides) * 2**stage for stage in range(NUM_STAGES))


def recnext_m(dims: tuple[int, ...], depths: tuple[int, ...]) -> Arch:
    """Describe a model of the M series, whose token mixer is a recursive convolution.

    The coarsest map of a recursion is 1/64 of the image's sides, whatever the stage.
    """
    mixers = tuple(
        dict(type='RecConv', level=NUM_STAGES - i) for i in range(NUM_STAGES)
    )
    return Arch(dims, depths, mixers)


def recnext_a(
    dims: tuple[int, ...], depths: tuple[int, ...], mlp_ratio: float = 2.0
) -> Arch:
    """Describe a model of the A series, whose token mixer is recursive attention."""
    mixers = tuple(
        dict(type='RecAttn', num_heads=2 ** (i + 1)) for i in range(NUM_STAGES)
    )
    return Arch(dims, depths, mixers, (mlp_ratio,) * NUM_STAGES, mixer_norm=False)


def recnext_l(
    dims: tuple[int, ...], depths: tuple[int, ...], share_channel: bool = False
) -> Arch:
    """Describe T, S or B, which start at stride 8 and attend in some channels."""
    recursive = dict(type='PartialChannels', attn=dict(type='RecAttn'))
    plain = dict(
        type='PartialChannels', attn=dict(type='LinearAttn', qk_ratio=1, qk_groups=1)
    )
    return Arch(
        dims,
        depths,
        mixers=(recursive, recursive, plain if share_channel else recursive, plain),
        mlp_ratios=(2.0, 2.0, 2.0, 1.5),
        mixer_norm=False,
        rep_mixer=True,
        share_every=5 if share_channel else 0,
        stem_strides=(2, 2, 2),
        downsample_kernel=5,
        downsample_norm=False,
        conv_bias=True,
        linear_drop_path=True,
    )


ARCHS = {
    'm0': recnext_m((40, 80, 160, 320), (2, 2, 9, 1)),
    'm1': recnext_m((48, 96, 192, 384), (3, 3, 15, 2)),
    'm2': recnext_m((56, 112, 224, 448), (3, 3, 15, 2)),
    'm3': recnext_m((64, 128, 256, 512), (3, 3, 13, 2)),
    'm4': recnext_m((64, 128, 256, 512), (5, 5, 25, 4)),
    'm5': recnext_m((80, 160, 320, 640), (7, 7, 35, 2)),
    'a0': recnext_a((40, 80, 160, 320), (2, 2, 9, 1)),
    'a1': recnext_a((48, 96, 192, 384), (3, 3, 15, 2)),
    'a2': recnext_a((56, 112, 224, 448), (3, 3, 15, 2)),
    'a3': recnext_a((64, 128, 256, 512), (3, 3, 13, 2), mlp_ratio=1.875),
    'a4': recnext_a((64, 128, 256, 512), (5, 5, 25, 4), mlp_ratio=1.875),
    'a5': recnext_a((80, 160, 320, 640), (7, 7, 35, 2), mlp_ratio=1.875),
    't': recnext_l((64, 128, 256, 512), (0, 2, 8, 10)),
    's': recnext_l((128, 256, 384, 512), (0, 2, 8, 10)),
    'b': recnext_l((128, 256, 384, 512), (2, 8, 8, 12)),
    't_share_channel': recnext_l((64, 128, 256, 512), (0, 2, 8, 10), True),
    's_share_channel': recnext_l((128, 256, 384, 512), (0, 2, 8, 10), True),
    'b_share_channel': recnext_l((128, 256, 384, 512), (2, 8, 8, 12), True),
}
"""The published models, by name."""


MLLA_MIXERS = (
    'baseline',
    'recconv_transposed',
    'recconv_nearest',
    'recattn_rope',
    'recattn',
)
"""What can mix the pixels of an MLLA: its own attention, and what took its place."""


@dataclass(frozen=True)
class MLLAArch:
    """What makes one MLLA differ from another; a field that is a tuple of four holds
    one entry per stage.

    Args:
        embed_dim: channels of the first stage, a multiple of 4; each next one has twice
            as many.
        depths: blocks.
        mixer: what mixes the pixels, one of ``MLLA_MIXERS``.
        num_heads: heads of attention, divisors of the channels.
        mlp_ratio: hidden channels of the channel mixers over their channels.
    """

    embed_dim: int
    depths: tuple[int, ...]
    mixer: str
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        dim = self.embed_dim
        most = MOST_CHANNELS // 2 ** (NUM_STAGES - 1)
        check_option(
            'arch: `embed_dim`',
            dim,
            is_integer(dim, 4, most) and dim % 4 == 0,
            f'a multiple of 4, up to {most}',
        )
        check_stages(self, 'depths', *DEPTHS)
        check_option(
            'arch: `mixer`',
            self.mixer,
            self.mixer in MLLA_MIXERS,
            f'one of {", ".join(MLLA_MIXERS)}',
        )
        check_stages(
            self, 'num_heads', 'positive integers', partial(is_integer, least=1)
        )
        check_option(
            'arch: `num_heads`',
            self.num_heads,
            not any(d % n for d, n in zip(self.dims, self.num_heads, strict=True)),
            f'divisors of the channels {self.dims}',
        )
        ratio = self.mlp_ratio
        check_option(
            'arch: `mlp_ratio`',
            ratio,
            is_number(ratio) and 1 <= ratio * dim <= MOST_CHANNELS,
            'positive, and large enough for a hidden channel',
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(NUM_STAGES))

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per pixel of each stage's map, along one side."""
        return tuple(4 * 2**stage for stage in range(NUM_STAGES))


A = TypeVar('A', bound=Arch | MLLAArch)

MLLA_ARCHS = {
    f'{size}_{mixer}': MLLAArch(embed_dim, depths, mixer)
    for size, embed_dim, depths in (
        ('nano', 32, (2, 2, 4, 2)),
        ('mini', 48, (2, 4, 8, 4)),
    )
    for mixer in MLLA_MIXERS
}
"""The models of the ablation with MLLA, by name."""


def get_arch(arch: str | Mapping[str, Any]) -> Arch:
    """Look up a model by name, or make one from settings.

    Args:
        arch: a name in ``ARCHS``, or a dict of fields of :class:`Arch`. With the key
            ``base``, a name, the dict overrides fields of that model. With the key
            ``mixer``, a dict of options and perhaps a ``type``, it overrides those of
            the token mixer in every stage; another type keeps the options that it has
            too, such as the stage's ``level``.

    Raises:
        OptionError: for an unknown name or setting, naming the valid ones.

    Examples:
        >>> from mmrecnext.archs import get_arch
        >>> get_arch('m3').dims
        (64, 128, 256, 512)
        >>> get_arch(dict(base='m3', mixer=dict(kernel_size=7))).mixers[0]
        {'type': 'RecConv', 'level': 4, 'kernel_size': 7}
    """
    if isinstance(arch, str):
        return published(arch, ARCHS)
    check_option('arch', arch, is_settings(arch), 'a name or a dict of settings')

    settings = dict(arch)
    base = get_arch(settings.pop('base', 'm0'))
    mixer = settings.pop('mixer', {})
    made = changed(base, settings, ('base', 'mixer'))
    made = replace(made, mixers=tuple(merge_mixer(old, mixer) for old in made.mixers))
    for new in made.mixers:
        check_mixer(new)
        check_norms(new, made)
    if made.share_every:
        check_sharing(made)
    return made


def get_mlla_arch(arch: str | Mapping[str, Any]) -> MLLAArch:
    """Look up an MLLA by name, or make one from settings.

    Args:
        arch: a name in ``MLLA_ARCHS``, or a dict of fields of :class:`MLLAArch`, over
            those of the model named by its key ``base``.

    Raises:
        OptionError: for an unknown name or setting, naming the valid ones.

    Examples:
        >>> from mmrecnext.archs import get_mlla_arch
        >>> get_mlla_arch(dict(base='mini_recattn', depths=(2, 2, 6, 2))).dims
        (48, 96, 192, 384)
    """
    if isinstance(arch, str):
        return published(arch, MLLA_ARCHS)
    check_option('arch', arch, is_settings(arch), 'a name or a dict of settings')

    settings = dict(arch)
    base = get_mlla_arch(settings.pop('base', 'nano_recattn'))
    return changed(base, settings, ('base',))


def is_mlla(arch: Any) -> bool:
    """Tell whether a name, or the ``base`` of settings, is that of an MLLA.

    Raises:
        OptionError: for an unknown name, naming those of both.
    """
    name = arch.get('base') if isinstance(arch, Mapping) else arch
    if not isinstance(name, str):
        return False
    archs: dict[str, Arch | MLLAArch] = {**ARCHS, **MLLA_ARCHS}
    return isinstance(published(name, archs), MLLAArch)


def timm_name(arch: str) -> str:
    """Return the name by which timm knows the model of an arch."""
    return f'{"mlla" if arch in MLLA_ARCHS else "recnext"}_{arch}'


def nearest_archs(name: str) -> list[str]:
    """Return up to three archs, RecNeXt or MLLA, that a name may be a slip of.

    Args:
        name: one, or that of a model.
    """
    short = name.lower().removeprefix('recnext_').removeprefix('mlla_')
    known = [*ARCHS, *MLLA_ARCHS]
    return closest(short, known) or closest(short, known, cutoff=0.5)  # m7: m5


def published(name: str, table: Mapping[str, A]) -> A:
    """Look up an arch in a table.

    Raises:
        OptionError: for an unknown name, naming the nearest and all of the table.
    """
    if name in table:
        return table[name]
    near = nearest_archs(name)
    hint = 'the'
    if own := [arch for arch in near if arch in table]:
        hint = f'did you mean {" or ".join(own)}? The'
    elif near:
        family = 'MLLA' if near[0] in MLLA_ARCHS else 'RecNeXt'
        hint = f"{near[0]} is one of type='mmrecnext.{family}'. The"
    raise OptionError(f'unknown arch {name!r}; {hint} archs are {", ".join(table)}')


def changed(base: A, settings: Mapping[str, Any], others: Sequence[str]) -> A:
    """Change fields of an arch; ``others`` can be set besides."""
    valid: list[str] = [field.name for field in fields(base)]
    if unknown := sorted(set(settings) - set(valid)):
        raise OptionError(
            f'arch has no setting {", ".join(unknown)}; '
            f'the settings are {", ".join((*others, *valid))}'
        )
    changes: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
    }
    return replace(base, **changes)


def merge_mixer(mixer: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change a token mixer; its options stay as far as the new type has them."""
    for settings in (mixer, changes):
        check_option(
            'arch: a mixer', settings, is_settings(settings), 'a dict of settings'
        )
    merged = {**mixer, **changes}
    if 'type' not in changes:
        return merged
    kept = {'type', *mixer_options(merged['type']), *changes}
    return {name: value for name, value in merged.items() if name in kept}


def check_mixer(mixer: Mapping[str, Any]) -> None:
    """Check a token mixer's type, and the names of its options."""
    check_option('a mixer', mixer, is_settings(mixer), 'a dict of settings')
    name = mixer.get('type')
    options = mixer_options(name)
    passes_on = {k for k, v in options.items() if v.kind is v.VAR_KEYWORD}
    valid = [k for k in options if k not in passes_on]
    unknown = sorted(set(mixer) - {'type', *valid})
    if unknown and not passes_on:  # else the layer that they are passed on to checks
        raise OptionError(
            f'the mixer {name} has no option {", ".join(unknown)}; '
            f'the options are {", ".join(valid)}'
        )
    if lacking := [k for k in valid if options[k].default is inspect.Parameter.empty]:
        check_option(
            f'the mixer {name}',
            dict(mixer),
            mixer.keys() >= {*lacking},
            f'given {", ".join(lacking)}',
        )


def check_norms(mixer: Mapping[str, Any], arch: Arch) -> None:
    """Check that a token mixer has norms of its own where none follows it."""
    options = mixer_options(mixer['type'])
    takes_any = any(v.kind is v.VAR_KEYWORD for v in options.values())
    if not (arch.mixer_norm or takes_any or 'norm_cfg' in options):
        raise OptionError(
            f'the mixer {mixer["type"]} has no norms of its own: set `mixer_norm=True`'
        )


def check_sharing(arch: Arch) -> None:
    """Check that blocks of the last stage hand on what fills all channels of another.

    Each passes on the channels that it mixes, one of ``ratio``.
    """
    mixer, givers = arch.mixers[-1], arch.share_every - 1
    ratio = mixer_options(mixer['type']).get('ratio')
    if givers < 1 or not ratio or mixer.get('ratio', ratio.default) != givers:
        raise OptionError(
            f'arch: `share_every` {arch.share_every} needs, in the last stage, a mixer '
            f'of some of the channels with `ratio` {givers}, such as PartialChannels, '
            f'got {dict(mixer)}: set `share_every=0`'
        )
    if arch.dims[-1] % givers:
        raise OptionError(
            f'arch: with `share_every` {arch.share_every}, the last of `dims` is '
            f'divisible by {givers}, got {arch.dims[-1]}'
        )


def mixer_options(name: str | type | None) -> dict[str, inspect.Parameter]:
    """Return the options of a token mixer: a registered layer given ``channels``."""

    def options(layer: Callable[..., Any] | None) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(layer).parameters) if callable(layer) else {}

    own = options(MODELS.get(name) if isinstance(name, str) else name)
    if own.pop('channels', None) is None:
        mixers = [k for k, v in MODELS.module_dict.items() if 'channels' in options(v)]
        raise OptionError(
            f'unknown mixer {name!r}; the mixers are {", ".join(sorted(mixers))}'
        )
    return own
