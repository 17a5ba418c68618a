"""Command lines of the tools, of the standard library alone.

A tool reads its own by :func:`begin`, before it imports mmrecnext, PyTorch and others,
which takes seconds: help, and what is wrong with a command line, do not wait for them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from mmrecnext_autoload.choices import DTYPES, RANKS
from mmrecnext_autoload.signals import answer_signals


def begin(parse: Callable[[], argparse.Namespace]) -> argparse.Namespace:
    """Read the command line of a tool, which answers signals from then on.

    Args:
        parse: reads it.
    """
    answer_signals()
    return parse()


def is_run(package: str) -> bool:
    """Tell whether a package is imported because ``python -m`` is to run it."""
    if sys.argv[:1] != ['-m']:  # so it is until what to run is found
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix('-m') == package


def read_package_arguments() -> argparse.Namespace:
    """Read the command line of ``python -m mmrecnext``."""
    return argparse.ArgumentParser(
        'python -m mmrecnext',
        description='Tell what this installation is, and what it lacks.',
        epilog='Example: python -m mmrecnext',
        allow_abbrev=False,
    ).parse_args()


def command_line(about: str, *examples: str) -> argparse.ArgumentParser:
    """Return the parser of a tool, which knows what all of them do.

    Args:
        about: what the tool does.
        examples: commands, as a reader would type them.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser, *examples)
    return parser


def add_common(parser: argparse.ArgumentParser, *examples: str):
    """Add what every tool, and every command of a tool, has."""
    lines = ''.join(f'\n  {example}' for example in examples)
    parser.epilog = f'{"Examples" if len(examples) > 1 else "Example"}:{lines}'
    parser.add_argument(
        '--debug',
        action='store_true',
        default=argparse.SUPPRESS,  # not to undo what stands before a command
        help='show where an error comes from, above the line that tells it',
    )


def file_to_write(path: str) -> str:
    """Read a file name of the command line.

    Raises:
        argparse.ArgumentTypeError: where a folder has that name.
    """
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f'{path} is a folder; name a file')
    return path


def add_config_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of every tool that reads a config."""
    parser.add_argument(
        'config',
        help='config file, or a name such as mmdet::FILE; a bare name is sought in '
        'configs/ and below',
    )
    add_settings_argument(parser)


def add_settings_argument(parser: argparse.ArgumentParser):
    """Add the argument that changes settings; ``mmrecnext.cli.run`` reads these."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config, such as '
        'optim_wrapper.optimizer.lr=1e-4 "model.neck.in_channels=[64,128,256,512]"',
    )


def add_model_argument(parser: argparse.ArgumentParser, name: str, default: str = ''):
    """Add the argument of tools that are told of which model weights are.

    Args:
        parser: which is given it.
        name: of the argument.
        default: what the model is without it.
    """
    parser.add_argument(
        name,
        help='such as recnext_m3 or mlla_nano_recattn; of one that was changed, the '
        "config of its training, or its arch: \"{'base': 'm3', 'dims': [8, 16, 32, 64]}"
        f'" {default}',
    )


def add_ema_argument(parser: argparse.ArgumentParser):
    """Add the argument of tools that read checkpoints of classifiers."""
    parser.add_argument(
        '--ema',
        action='store_true',
        help='take the moving averages that timm saves beside the weights',
    )


def add_device_argument(parser: argparse.ArgumentParser):
    """Add the argument of tools that compute; see ``mmrecnext.cli.chosen_device``."""
    parser.add_argument(
        '--device',
        help='where to compute: cpu, cuda or cuda:N [cuda where there is one; cpu for '
        'exported files]',
    )


def add_runner_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of tools that run a runner, by MMDetection's names."""
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints [work_dirs/CONFIG]'
    )
    parser.add_argument(
        '--data-root',
        metavar='FOLDER',
        help='where the data stand, in place of `data_root` of the config',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', *RANKS),
        default='none',
        help='job launcher [none]',
    )
    # torch.distributed.launch passes it; torchrun sets the variable itself.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS
    )


def add_inference_arguments(parser: argparse.ArgumentParser):
    """Add the arguments of tools that have a network infer."""
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='merge batch norms into convolutions first: same results, sooner',
    )
    parser.add_argument(
        '--dtype',
        choices=tuple(DTYPES),
        default='fp32',
        help='precision of backbone, neck and heads; boxes, scores and masks stay in '
        'fp32 [%(default)s]',
    )
