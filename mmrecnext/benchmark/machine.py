"""What is measured on, in words."""

from __future__ import annotations

import platform
import re
import time
from pathlib import Path

import torch

from mmrecnext.version import __version__


def machine(device: str) -> dict[str, str]:
    """Describe what is measured on."""
    kind = torch.device(device).type
    if kind == 'cuda':
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f'{cpu_model()}, {torch.get_num_threads()} thread(s)'
    return dict(
        hardware=hardware,
        torch=torch.__version__,
        mmrecnext=__version__,
        date=time.strftime('%Y-%m-%d'),
    )


def cpu_model() -> str:
    """Return the name of the processor and its widest vector and matrix units."""
    info = Path('/proc/cpuinfo')
    text = info.read_text() if info.is_file() else ''
    name = re.search(r'model name\s*: (.*)', text)
    flags = re.search(r'flags\s*: (.*)', text)
    have = flags[1].split() if flags else []
    units = [u for u in ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16') if u in have]
    return ', '.join([name[1] if name else platform.processor(), *units])
