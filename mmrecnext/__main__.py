"""``python -m mmrecnext``: what this installation is and what it lacks."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from mmrecnext import ARCHS, __version__, mmcv_ext
from mmrecnext.cli import shipped

PACKAGES = (
    'torch',
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    'mmdet',
    'mmsegmentation',
    'timm',
)
# What each job needs, as alternatives of distributions, and the command that adds it.
NEEDS = {
    'detection': [
        (('mmcv', 'mmcv-lite'), "pip install 'mmcv-lite>=2.0.0,<2.2.0'"),
        (('mmdet',), "pip install 'mmdet>=3.1.0,<3.4.0'"),
    ],
    'segmentation': [
        (('mmcv', 'mmcv-lite'), "pip install 'mmcv-lite>=2.0.0,<2.2.0'"),
        (('mmsegmentation',), "pip install 'mmsegmentation>=1.1.0,<1.3.0'"),
        (('ftfy',), 'pip install ftfy'),
        (('regex',), 'pip install regex'),
    ],
}


def installed(package: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device() -> str:
    """Describe what PyTorch computes on."""
    if torch.cuda.is_available():
        return f'{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})'
    return f'CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores'


def main():
    """Print the report."""
    console = Console(highlight=False)
    table = Table(
        title=f'mmrecnext {__version__}', show_header=False, title_justify='left'
    )
    table.add_row('archs', ' '.join(ARCHS))
    table.add_row('Python', f'{platform.python_version()} on {platform.system()}')
    table.add_row('device', device())
    for package in PACKAGES:
        if found := installed(package):
            table.add_row(package, found)
    for kind in ('configs', 'tools'):
        table.add_row(kind, str(shipped(kind)))
    console.print(table)

    sources: dict[str, list[str]] = {}
    for operator, source in mmcv_ext.status().items():
        sources.setdefault(source, []).append(operator)
    operators = Table('mmcv operators by', '')
    for source, names in sources.items():
        operators.add_row(source, ', '.join(names))
    console.print(operators)

    for job, needs in NEEDS.items():
        commands = [
            command for packages, command in needs if not any(map(installed, packages))
        ]
        if commands:
            console.print(f'{job}: not ready; run')
            console.print('\n'.join(f'    {command}' for command in commands))
        else:
            console.print(f'{job}: ready')


if __name__ == '__main__':
    main()
