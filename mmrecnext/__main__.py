"""``python -m mmrecnext``: what this installation is and what it lacks.

It runs wherever Python does, so that it can tell of any package that is missing.
"""

from __future__ import annotations

import os
import platform
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from mmrecnext import __version__, mmcv_ext
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.stacks import (
    advice,
    distribution_of,
    here,
    holders,
    meets,
    owners,
    version_of,
)
from mmrecnext_autoload.arguments import read_package_arguments
from mmrecnext_autoload.signals import ending_with_reader

# What each job needs, as arguments of `pip install`.
BASE = (
    'torch>=2.7',
    'torchvision>=0.22',
    'mmengine>=0.10.5,<0.11',
    'numpy',
    'jinja2',
    'rich',
    'packaging',
)
NEEDS = {
    framework.job: (*BASE, f'mmcv-lite{framework.mmcv}', *framework.requirements)
    for framework in FRAMEWORKS.values()
} | {'classification': (*BASE, 'timm>=1.0.13', 'safetensors')}
PACKAGES = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv-lite',
    *(framework.requirements[0] for framework in FRAMEWORKS.values()),
    'timm',
)
WIDTH = 80
INDENT = 22


def device() -> str:
    """Describe what PyTorch computes on."""
    try:
        import torch
    except ImportError as error:
        return f'none: {error}'
    if torch.cuda.is_available():
        return f'{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})'
    return f'CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores'


def contents() -> dict[str, str]:
    """Return what mmrecnext has, if what it stands on is there."""
    try:
        from mmrecnext.archs import ARCHS, MLLA_ARCHS
        from mmrecnext.engine.configs import shipped
    except ImportError:
        return {}
    places = {kind: str(shipped(kind)) for kind in ('configs', 'tools')}
    return {'archs': listed(ARCHS), 'of MLLA': listed(MLLA_ARCHS), **places}


def operators() -> dict[str, list[str]]:
    """Return the operators of mmcv, forward and backward as one, by what has them."""
    by: dict[str, list[str]] = {}
    for operator, source in mmcv_ext.status().items():
        name = re.sub('_(for|back)ward.*', '', operator)
        if name not in by.setdefault(source, []):
            by[source].append(name)
    return by


def lacking(requirement: str, owned: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the commands that bring what is required, none where it is there.

    Of what is there twice, files of the one have been written over the other's. pip
    replaces another version by itself, but not a distribution of another name.
    """
    names = holders(requirement, owned)
    if len(names) == 1:
        if meets(names[0], requirement):
            return []
        names = [name for name in names if name != distribution_of(here(requirement))]
    remove = [f'pip uninstall --yes {" ".join(names)}'] if names else []
    return [*remove, advice(requirement)]


def row(name: str, value: str):
    """Print a line of the report; it is never cut, so that a path can be copied."""
    print(f'{name:<{INDENT}}{value}')


def listed(names: Iterable[str]) -> str:
    """Join names, in lines that fit into the second column."""
    return textwrap.fill(
        ' '.join(names), WIDTH - INDENT, break_on_hyphens=False
    ).replace('\n', '\n' + ' ' * INDENT)


def main():
    """Print the report, and last what is ready."""
    row('mmrecnext', __version__)
    row('Python', f'{platform.python_version()} on {platform.system()}')
    row('device', device())
    owned = owners()
    for package in PACKAGES:
        for name in holders(package, owned) or [distribution_of(here(package))]:
            row(name, version_of(name) or '-')
    for name, value in contents().items():
        row(name, value)
    print('operators of mmcv')
    for source, names in operators().items():
        row(f'  {source}', listed(names))

    print()
    for job, needs in NEEDS.items():
        steps = [step for need in needs for step in lacking(need, owned)]
        obstacles = [step for step in steps if not step.startswith('pip ')]
        outcome = (
            'not ready, as' if obstacles else 'not ready; run' if steps else 'ready'
        )
        print(f'{job}: {outcome}')
        for line in obstacles[:1] or steps:
            print(f'    {line}')


if __name__ == '__main__':
    read_package_arguments()
    with ending_with_reader():
        main()
