"""The two stacks of OpenMMLab's packages: upstream, and OneDL, its maintained fork.

Both install ``mmengine``, ``mmcv``, ``mmdet`` and so on, by distributions of different
names. pip does not know that these exclude each other: a part of one stack installed
over that of the other leaves a mixture of both. So whatever names a distribution asks
here how it is called in the stack that is there.

A requirement is an argument of ``pip install``, such as ``mmdet>=3.1,<3.4``, options
before it or not, in the names of upstream but for what the fork alone has. Nothing but
Python's own modules is imported at the top: this is asked where all else is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version


@dataclass(frozen=True)
class Part:
    """A package that both stacks install.

    Args:
        package: what is imported.
        upstream: distributions of upstream that hold it.
        fork: requirement of the fork, with the versions that are known to work.
    """

    package: str
    upstream: tuple[str, ...]
    fork: str


PARTS = (
    Part('mmengine', ('mmengine',), 'onedl-mmengine>=0.10.12,<0.11'),
    Part('mmcv', ('mmcv-lite', 'mmcv'), 'onedl-mmcv>=2.3.6,<2.4'),
    Part('mmdet', ('mmdet',), 'onedl-mmdetection>=3.5.1,<3.6'),
    Part('mmseg', ('mmsegmentation',), 'onedl-mmsegmentation>=1.4.2,<1.5'),
    Part('mmpretrain', ('mmpretrain',), 'onedl-mmpretrain>=1.3.6,<1.4'),
    Part('mmrotate', ('mmrotate',), 'onedl-mmrotate>=1.2.1,<1.3'),
)

REFUSED = {'mmyolo': 'mmcv below 2.1', 'mmdet3d': 'mmcv below 2.2'}
"""What upstream alone has and does not import on the fork, and what it asks for."""


def distribution_of(requirement: str) -> str:
    """Return the name of what a requirement installs."""
    return re.split(r'[<>=!~,;\[]', requirement.split(' ')[-1])[0]


def version_of(distribution: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def has_fork() -> bool:
    """Tell whether the stack of this environment is the fork.

    Whose MMEngine is there decides, the fork's where both are; where none is, whether
    any other part of the fork is.
    """
    engine, *others = (distribution_of(part.fork) for part in PARTS)
    if version_of(engine):
        return True
    return not version_of('mmengine') and any(map(version_of, others))


def here(requirement: str) -> str:
    """Return a requirement as the stack of this environment has it."""
    part = _part_of(requirement)
    return part.fork if part and has_fork() else requirement


def advice(requirement: str) -> str:
    """Return the command that installs what is required, or why none does."""
    name = distribution_of(requirement)
    if _is_refused(requirement):
        return f'it takes {REFUSED[name]}: an environment of its own without onedl-mmcv'
    part = _part_of(requirement)
    if part and name not in part.upstream and not has_fork():
        return f'it takes an environment of its own with {name} and the rest of OneDL'
    *options, wanted = here(requirement).split(' ')
    quote = "'" if set('<>=!~,;[') & set(wanted) else ''
    return ' '.join(['pip install', *options, f'{quote}{wanted}{quote}'])


def owners() -> dict[str, list[str]]:
    """Return per package of :data:`PARTS` what has installed it, two at worst."""
    found = packages_distributions()
    return {part.package: sorted({*found.get(part.package, ())}) for part in PARTS}


def holders(requirement: str, owned: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the installed distributions that hold what is required.

    Args:
        requirement: what is required; for the versions in it see :func:`meets`.
        owned: result of :func:`owners`.
    """
    part = _part_of(requirement)
    names = [distribution_of(requirement)]
    if part:
        # By package too, as compiled ones have names such as onedl-mmcv-cu128-torch2-8.
        names = [*part.upstream, distribution_of(part.fork), *owned[part.package]]
    return [name for name in dict.fromkeys(names) if version_of(name)]


def meets(distribution: str, requirement: str) -> bool:
    """Tell whether a distribution that holds what is required can be used for it.

    Args:
        distribution: one of :func:`holders`. The fork's have versions of their own.
        requirement: what is required. Where ``packaging`` is missing, which is required
            itself, no versions are looked at.
    """
    if _is_refused(requirement):
        return False
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    part = _part_of(requirement)
    if part and distribution not in part.upstream:
        requirement = part.fork
    versions = Requirement(requirement.split(' ')[-1]).specifier
    return versions.contains(version_of(distribution) or '', prereleases=True)


def teach_mmengine() -> None:
    """Have MMEngine know what the fork's distributions are called.

    It asks for ``mmsegmentation`` before it reads ``mmseg::FILE``; where that is not
    there, its hub installs it, over the fork. What upstream installed keeps its name.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    for module, distribution in MODULE2PACKAGE.items():
        if not version_of(distribution):
            MODULE2PACKAGE[module] = distribution_of(here(distribution))


def _part_of(requirement: str) -> Part | None:
    name = distribution_of(requirement)
    return next(
        (x for x in PARTS if name in (*x.upstream, distribution_of(x.fork))), None
    )


def _is_refused(requirement: str) -> bool:
    return distribution_of(requirement) in REFUSED and has_fork()
