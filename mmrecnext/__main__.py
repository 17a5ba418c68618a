"""``python -m mmrecnext``: what this installation is and what it lacks.

It runs wherever Python does, so that it can tell of any package that is missing.
"""

from __future__ import annotations

import os
import platform
import re
import textwrap
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from mmrecnext import __version__, mmcv_ext
from mmrecnext.engine.frameworks import FRAMEWORKS, distribution_of, pip_line

# What each job needs, as alternatives of distributions, and the command that adds it.
BASE = [
    (('torch',), "pip install 'torch>=2.7'"),
    (('torchvision',), "pip install 'torchvision>=0.22'"),
    (('mmengine',), "pip install 'mmengine>=0.10.5,<0.11'"),
    (('numpy',), 'pip install numpy'),
    (('jinja2',), 'pip install jinja2'),
    (('rich',), 'pip install rich'),
]
NEEDS: dict[str, list[tuple[tuple[str, ...], str]]] = {
    framework.job: [
        *BASE,
        (('mmcv', 'mmcv-lite'), pip_line(f'mmcv-lite{framework.mmcv}')),
        *(
            ((distribution_of(requirement),), pip_line(requirement))
            for requirement in framework.requirements
        ),
    ]
    for framework in FRAMEWORKS.values()
}
NEEDS['classification'] = [
    *BASE,
    (('timm',), "pip install 'timm>=1.0.13'"),
    (('safetensors',), 'pip install safetensors'),
]
PACKAGES = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    *(framework.distribution for framework in FRAMEWORKS.values()),
    'timm',
)
WIDTH = 80
INDENT = 16


def installed(package: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
    for package in PACKAGES:
        row(package, installed(package) or '-')
    for name, value in contents().items():
        row(name, value)
    print('operators of mmcv')
    for source, names in operators().items():
        row(f'  {source}', listed(names))

    print()
    for job, needs in NEEDS.items():
        commands = [
            command for packages, command in needs if not any(map(installed, packages))
        ]
        print(f'{job}: {"not ready; run" if commands else "ready"}')
        for command in commands:
            print(f'    {command}')


if __name__ == '__main__':
    main()
