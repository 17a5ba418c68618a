"""Every block of README and docs runs, on tiny data and a few steps.

What a command asks for that a test cannot have stands in ``SUBSTITUTES``, with what is
run instead; a block that is in no language below, or a command that nothing here knows
how to run, fails.
"""

import importlib.util
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from mmengine.registry import MODELS

from mmrecnext import ARCHS
from mmrecnext.engine.configs import load_config
from mmrecnext.pretrained import PRETRAINED
from mmrecnext_autoload.choices import is_exported
from tests.docs.doc_blocks import BLOCKS, commands, words
from tests.docs.sandbox import (
    SERVER,
    STEPS,
    make_world,
    python,
    save_published,
    save_random_weights,
    smaller,
)
from tests.helpers import ROOT, check

pytestmark = pytest.mark.slow

LANGUAGES = {'python', 'shell', 'text', 'bibtex', 'pycon'}
DEMO = './configs/{}_recnext_m0_shapes.py'

PLACEHOLDERS = {
    'CONFIG': DEMO.format('mask_rcnn'),
    'PARTITION': 'queue',
    'JOB': 'job',
}
"""Words that the reader replaces; files of their name stand in for the others."""

SEGMENTOR = 'SEGMENTOR'
"""Weights of the other demo."""

FEW_PICTURES = ['--train', '8', '--val', '2', '--size', '96']
QUICK = {
    'make_shapes_data.py': FEW_PICTURES,
    'make_stick_figures_data.py': FEW_PICTURES,
    'eval_imagenet.py': ['--workers', '0'],
    'get_flops.py': ['m0', 'mlla_nano_baseline'],
    'benchmark.py': [
        '--shape',
        '96',
        '--batch',
        '1',
        '--repeats',
        '1',
        '--mode',
        'eager',
        '--dtype',
        'fp32',
    ],
}
"""What makes a tool do little, by its name; those that read a config come below."""

NETWORK = r'/(recnext_(\w+)_(coco|ade20k)\.pth)'
NETWORKS = {
    'coco': 'mask_rcnn_recnext_{}_coco.py',
    'ade20k': 'sem_fpn_recnext_{}_ade20k.py',
}
"""Released detectors and segmentors, and the configs that they are of."""

LAST = {'epoch': 1, 'iter': STEPS}
CONFIG_TOOLS = ('train.py', 'test.py', 'infer.py')


SHELL = {
    page: [b for b in BLOCKS if b.page == page and b.language == 'shell']
    for page in sorted({b.page for b in BLOCKS if b.language == 'shell'})
}


@pytest.fixture(scope='module')
def world(tmp_path_factory, coco, ade, shapes):
    """A clone with data, media and weights, and an environment in which to find them.

    Each test works in a copy of its own.
    """
    folder = tmp_path_factory.mktemp('docs')
    data = {'coco': coco, 'ade/ADEChallengeData2016': ade, 'shapes': shapes}
    make_world(folder / 'clone', data)
    text = '\n'.join(block.text for block in BLOCKS)
    with mock.patch.dict(ARCHS):
        runpy.run_module('tests.docs.shallow')
        save_random_weights(DEMO.format('mask_rcnn'), folder / 'clone/CHECKPOINT')
        save_random_weights(DEMO.format('sem_fpn'), folder / 'clone' / SEGMENTOR)
        for weights in PRETRAINED.values():
            if weights.name in text or Path(weights.url).name in text:
                save_published(folder, weights)
        for name, arch, kind in set(re.findall(NETWORK, text)):
            config = NETWORKS[kind].format(arch)
            file = folder / 'hub/checkpoints' / name
            save_random_weights(config, file, CLASSES=('a', 'b'), PALETTE=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(folder))
        patch.setenv('HF_HOME', str(folder))
        patch.setenv('HF_HUB_OFFLINE', '1')
        patch.setenv('COLUMNS', '200')
        yield folder / 'clone'


@pytest.fixture
def sandbox(world, tmp_path):
    shutil.copytree(world, tmp_path / 'clone', symlinks=True)
    yield tmp_path / 'clone'
    shutil.rmtree(tmp_path / 'clone')  # checkpoints are large


@pytest.mark.parametrize('block', BLOCKS, ids=str)
def test_language(block):
    assert block.language in LANGUAGES


@pytest.mark.parametrize('page', SHELL, ids=lambda page: page.name)
def test_commands(page, sandbox):
    """Run all commands of a page in their order, as a reader would."""
    for block in BLOCKS:
        if block.page == page and block.file:
            (sandbox / block.file).write_text(block.text)
    for block in SHELL[page]:
        for command in commands(block.text):
            print(f'{page.name}:{block.line}$ {command}')
            run([fill(word) for word in words(command, sandbox)], sandbox)


@pytest.mark.parametrize(
    'block', [b for b in BLOCKS if b.language == 'python'], ids=str
)
def test_python(block, sandbox):
    if block.file:
        scripts = SHELL.get(block.page, [])
        assert any(block.file in script.text for script in scripts), 'nothing uses it'
    elif block.kind == 'program':
        text = block.text
        for call, _, instead in SUBSTITUTE_CALLS:
            text = text.replace(call, instead)
        (sandbox / 'block.py').write_text(text)
        check(python(['block.py'], sandbox))
    elif re.search(r"'(mmpretrain|mmpose)::", block.text):  # of which there are no data
        check_backbone(block.text)
    else:
        text = block.text
        if block.kind == 'delta':
            demo = DEMO.format('sem_fpn' if 'decode_head' in text else 'mask_rcnn')
            text = f'_base_ = {demo!r}\n{text}'
        (sandbox / 'block.py').write_text(text)
        run(['python', 'tools/train.py', 'block.py'], sandbox)


def fill(word):
    """Fill in a placeholder, and name the checkpoint of a shorter training."""
    word = re.sub(
        r'\b(epoch|iter)_\d+\.pth$', lambda m: f'{m[1]}_{LAST[m[1]]}.pth', word
    )
    return PLACEHOLDERS.get(word, word)


def run(argv, sandbox):
    """Run a command of the docs, or what stands in for it; return what it prints."""
    for pattern, _, instead in SUBSTITUTES:
        if re.match(pattern, ' '.join(argv)):
            return instead(argv, sandbox)
    if variable := re.match(r'([A-Z_]+)=(.*)', argv[0]):
        with mock.patch.dict(os.environ, [variable.groups()]):
            return run(argv[1:], sandbox)
    program, *args = argv
    assert program in ('python', '.venv/bin/python'), f'cannot run {argv}'
    log = check(python(quick(args, sandbox), sandbox))
    if 'tools/train.py' in args:
        losses = [float(x) for x in re.findall(r' loss: (\S+)', log)]
        assert losses and np.isfinite(losses).all(), log
    return log


def quick(args, sandbox):
    """Add to a tool's arguments what makes it do little."""
    script = next((i for i, arg in enumerate(args) if arg.startswith('tools/')), None)
    if script is None:
        return args
    name = Path(args[script]).name
    config = next(iter(args[script + 1 :]), '')
    if name in CONFIG_TOOLS and '--help' not in args and not is_exported(config):
        path = sandbox / config
        name = str(path) if path.is_file() else config
        cfg = load_config(name, classifiers=True)
        steps = STEPS * (2 if '--resume' in args else 1)
        return [*args, '--cfg-options', *smaller(cfg, steps)]
    return [*args, *QUICK.get(name, [])]


def check_backbone(text):
    """Build the backbone of a config alone, and see that its reader fits."""
    settings: dict = {}
    exec(text, settings)
    model = settings['model']
    backbone = model['backbone']
    assert backbone.pop('_delete_')
    channels = MODELS.build(backbone).out_channels
    assert channels == (model['head']['in_channels'],)


def on_several_gpus(argv, sandbox):
    """Run the launcher on two processes of a CPU."""
    at = 3 if 'test' in argv[0] else 2
    assert argv[at].isdigit()
    argv = [*argv[:at], '2', *argv[at + 1 :]]
    argv = [arg for arg in argv if arg != '--amp']
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    script = quick(['tools/train.py', *argv[1:]], sandbox)[1:]
    return check(SERVER.launch([argv[0], *script], sandbox, PORT=port))


def on_slurm(argv, sandbox):
    """Run what the launcher hands to ``srun``, without the launcher of Slurm."""
    stub = sandbox / 'bin/srun'
    stub.parent.mkdir()
    stub.write_text(
        '#!/usr/bin/env bash\n'
        'while [[ $1 == --* ]]; do shift; done\n'
        'printf "%s\\0" "$@"\n'
    )
    stub.chmod(0o755)
    env = {**os.environ, 'PATH': f'{stub.parent}:{os.environ["PATH"]}'}
    result = subprocess.run(argv, cwd=sandbox, env=env, capture_output=True, text=True)
    program, *args = check(result).split('\0')[:-1]
    assert program == 'python' and args[-2:] == ['--launcher', 'slurm']
    args = [arg for arg in args if arg != '-u'][:-2]
    return run([program, *args], sandbox)


def without_network(argv, sandbox):
    """Install the package alone, into a folder of its own."""
    options = ['--no-deps', '--no-build-isolation', '--quiet', '--target', 'installed']
    source = sandbox / 'source'
    ignore = shutil.ignore_patterns('.*', 'build', 'data', 'work_dirs', '*.egg-info')
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [sys.executable, '-m', 'pip', *argv[1:], *options]
    log = check(subprocess.run(command, cwd=source, capture_output=True, text=True))
    assert 'does not provide the extra' not in log
    assert (source / 'installed/mmrecnext/.mim/configs').is_dir()
    return log


def recipe_of_make(argv, sandbox):
    """Run the commands of a target, each on tiny data; not the environment's."""
    ready = sandbox / '.venv/.ready'
    ready.parent.mkdir(exist_ok=True)
    ready.touch()
    for command in commands(named_in_make(argv, sandbox)):
        recipe = words(command, sandbox)
        if recipe[0].removeprefix('PYTHON=') == '.venv/bin/python':
            run(recipe, sandbox)
        else:
            assert recipe[0] == 'echo' or recipe[0].startswith('.venv/bin/'), recipe


def named_in_make(argv, sandbox):
    """Have ``make`` tell what it would do."""
    return really([argv[0], '--dry-run', '--no-print-directory', *argv[1:]], sandbox)


def really(argv, sandbox):
    """Run a command that is not Python's as it is, in a reader's own shell."""
    of_this_run = ('STACK', 'VENV', 'MAKEFLAGS', 'MFLAGS', 'MAKEOVERRIDES', 'MAKELEVEL')
    env = {k: v for k, v in os.environ.items() if k not in of_this_run}
    result = subprocess.run(argv, cwd=sandbox, env=env, capture_output=True, text=True)
    return check(result)


def swap_then_train(argv, sandbox):
    """Write the swapped config, to train with it for a few steps."""
    argv = [arg for arg in argv if arg != '--train']
    run([*argv, '--out', 'swapped.py'], sandbox)
    return run(['python', 'tools/train.py', 'swapped.py'], sandbox)


def of_a_segmentor(argv, sandbox):
    """Write a network of fewer operators; the tests of exports write detectors."""
    program, script, _, _, *options = argv
    return run([program, script, DEMO.format('sem_fpn'), SEGMENTOR, *options], sandbox)


def in_single_precision(argv, sandbox):
    """Train without ``--amp``, which the tests of the tools try."""
    return run([arg for arg in argv if arg != '--amp'], sandbox)


def config_is_there(argv, sandbox):
    """Look up the config of a tool, of a framework that is not installed."""
    assert (sandbox / argv[2]).is_file()


WITHOUT_MMPOSE = [
    (r'make demo-pose$', 'MMPose', named_in_make),
    (r'python tools/\w+\.py configs/pose/', 'MMPose', config_is_there),
]
if importlib.util.find_spec('mmpose'):
    WITHOUT_MMPOSE.clear()

SUBSTITUTES = [
    (
        r'python tools/train.py .*--amp',
        'a processor quick at it',
        in_single_precision,
    ),
    (
        r'python tools/export\.py \S*mask_rcnn\S* CHECKPOINT (?!.*--backbone)',
        'a minute',
        of_a_segmentor,
    ),
    (r'tools/dist_\w+\.sh', 'eight GPUs', on_several_gpus),
    (r'tools/slurm_train\.sh', 'a Slurm cluster', on_slurm),
    (r'pip install', 'a package index', without_network),
    (r'python tools/swap_backbone.py .*--train', 'a whole schedule', swap_then_train),
    *WITHOUT_MMPOSE,
    (
        r'make (demo|demo-seg|demo-pose|data)$',
        'minutes of training',
        recipe_of_make,
    ),
    (
        r'make (env|test|lint|clean)( STACK=onedl)?$',
        'an index, or these very tests',
        named_in_make,
    ),
    (r'make help$', None, really),
]
"""Commands, what they ask for, and what runs instead."""

SUBSTITUTE_CALLS = [
    ('torch.compile(model)', 'minutes', "torch.compile(model, backend='eager')"),
]
"""Calls, what they ask for, and what is called instead."""
