"""The RecNeXt family as one table; everything else reads from it.

Source: RecNeXt (https://github.com/suous/RecNeXt).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from mmrecnext.errors import OptionError

NUM_STAGES = 4


@dataclass(frozen=True)
class Arch:
    """What makes one RecNeXt differ from another; a field that is a tuple of four
    holds one entry per stage.

    Args:
        dims: channels.
        depths: blocks.
        mixers: token mixer of the blocks, its registered ``type`` and its options.
        mixer_norm: whether a norm follows the token mixer, for mixers without one.
        mlp_ratio: hidden channels of a channel mixer over its channels.
        stem_strides: stride of each 3x3 convolution of the stem.
        downsample_kernel: kernel size of the stride-2 convolution between stages.
    """

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    mixers: tuple[Mapping, ...]
    mixer_norm: bool = True
    mlp_ratio: float = 2.0
    stem_strides: tuple[int, ...] = (2, 2)
    downsample_kernel: int = 7

    def __post_init__(self):
        for name in ('dims', 'depths', 'mixers'):
            if len(getattr(self, name)) != NUM_STAGES:
                raise OptionError(
                    f'arch: `{name}` needs {NUM_STAGES} entries, one per stage, '
                    f'got {getattr(self, name)!r}'
                )
        if min(self.dims) < 1 or any(
            wide != 2 * narrow
            for narrow, wide in zip(self.dims, self.dims[1:], strict=False)
        ):
            raise OptionError(
                f'arch: each entry of `dims` is twice the one before, got {self.dims!r}'
            )
        if min(self.depths) < 0:
            raise OptionError(f'arch: `depths` are not negative, got {self.depths!r}')
        if self.mlp_ratio <= 0:
            raise OptionError(f'arch: `mlp_ratio` is positive, got {self.mlp_ratio!r}')

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per pixel of each stage's map, along one side."""
        stem = 1
        for stride in self.stem_strides:
            stem *= stride
        return tuple(stem * 2**stage for stage in range(NUM_STAGES))


def recnext_m(dims: tuple[int, ...], depths: tuple[int, ...]) -> Arch:
    """Describe a model of the M series, whose token mixer is a recursive convolution.

    The coarsest map of a recursion is 1/64 of the stem's, whatever the stage.
    """
    mixers = tuple(
        dict(type='RecConv', level=NUM_STAGES - i) for i in range(NUM_STAGES)
    )
    return Arch(dims, depths, mixers)


ARCHS = {
    'm0': recnext_m((40, 80, 160, 320), (2, 2, 9, 1)),
    'm1': recnext_m((48, 96, 192, 384), (3, 3, 15, 2)),
    'm2': recnext_m((56, 112, 224, 448), (3, 3, 15, 2)),
    'm3': recnext_m((64, 128, 256, 512), (3, 3, 13, 2)),
    'm4': recnext_m((64, 128, 256, 512), (5, 5, 25, 4)),
    'm5': recnext_m((80, 160, 320, 640), (7, 7, 35, 2)),
}


def get_arch(arch: str | Mapping) -> Arch:
    """Look up a model by name, or make one from settings.

    Args:
        arch: a name in ``ARCHS``, or a dict of fields of :class:`Arch`; with the key
            ``base``, a name, the dict overrides fields of that model.

    Raises:
        OptionError: for an unknown name or setting, naming the valid ones.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise OptionError(
                f'unknown arch {arch!r}; the archs are {", ".join(ARCHS)}'
            )
        return ARCHS[arch]
    if not isinstance(arch, Mapping):
        raise TypeError(f'arch is a name or a dict of settings, got {arch!r}')

    settings = dict(arch)
    base = get_arch(settings.pop('base', 'm0'))
    valid = [field.name for field in fields(Arch)]
    if unknown := sorted(set(settings) - set(valid)):
        raise OptionError(
            f'arch has no setting {", ".join(unknown)}; '
            f'the settings are base, {", ".join(valid)}'
        )
    return replace(
        base, **{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    )
