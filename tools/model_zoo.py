#!/usr/bin/env python
"""Write the model zoo: docs/model_zoo.md, and its summary in README.md.

Results are read from configs/metafile.yml, those of other backbones from
configs/peers.yml. Parameters and multiply-adds in the metafile come from --measure.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from mmrecnext_autoload.arguments import begin, command_line


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__, 'python tools/model_zoo.py --check')
    parser.add_argument(
        '--measure',
        action='store_true',
        help='first build every model, and enter it with its size into the metafile',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='change nothing; fail where a file is out of date',
    )
    return parser.parse_args()


if __name__ == '__main__':
    args = begin(parse_args)  # first: to import the rest takes seconds

import yaml

from mmrecnext import ARCHS
from mmrecnext.benchmark.markdown import table
from mmrecnext.benchmark.operations import MASKS, PROPOSALS, network_cost
from mmrecnext.cli import run
from mmrecnext.engine.configs import load_config
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.engine.terminal import tracked
from mmrecnext.errors import ConfigError
from mmrecnext.files import write_file

ROOT = Path(__file__).resolve().parent.parent
METAFILE = ROOT / 'configs/metafile.yml'
PEERS = ROOT / 'configs/peers.yml'
DOCUMENT = ROOT / 'docs/model_zoo.md'
README = ROOT / 'README.md'
BEGIN, END = '<!-- model zoo: begin -->', '<!-- model zoo: end -->'

COLLECTIONS = {
    'MaskRCNN': 'Mask R-CNN',
    'RetinaNet': 'RetinaNet',
    'EncoderDecoder': 'Semantic FPN',
}
"""How the metafile calls the models that configs build."""

FAMILIES = {
    'Mask R-CNN': 'configs/mask_rcnn_recnext_{}_coco.py',
    'with drop path': 'configs/drop_path/mask_rcnn_recnext_{}_coco_drop_path.py',
    'RetinaNet': 'configs/retinanet/retinanet_recnext_{}_coco.py',
    'Semantic FPN, 80k': 'configs/sem_fpn_recnext_{}_ade20k.py',
    'Semantic FPN, 40k': 'configs/sem_fpn_40k/sem_fpn_recnext_{}_ade20k_40k.py',
}
"""Where the configs of a kind stand, by arch."""

AT_THE_END = tuple(
    f'{kind} AP{threshold}' for kind in ('box', 'mask') for threshold in ('', 50, 75)
)
"""Metrics of the last epoch."""

RESULTS_NOTE = """
The rows of RecNeXt are the authors' numbers, from their logs; they have not been rerun
here. AP, AP50 and AP75 are of the end of training; *best* is the epoch of highest box
AP, which the authors' own table quotes for M4, M5, A4 and A5. Their 80,000 iterations
on ADE20K are twice the peers' 40,000, at the same batch of 32. The peers' rows are what
their authors publish."""

SUMMARY_NOTE = """
Mask R-CNN 1x on COCO and Semantic FPN on ADE20K, in percent. [All configs, with their
sizes, and the trained weights](docs/model_zoo.md)."""


def image_size(framework: str) -> str:
    """Return width and height that operations are counted for."""
    return ' x '.join(map(str, FRAMEWORKS[framework].image_size[::-1]))


DOCUMENT_NOTE = f"""
Which epoch the released weights are of is not published. Parameters and multiply-adds
(MACs) are those of the whole model in its inference form: on COCO for
{image_size('mmdet')} pixels, {PROPOSALS} proposals and {MASKS}
masks, on ADE20K for {image_size('mmseg')} pixels. Memory is the
peak of one GPU in the logs. Written by `tools/model_zoo.py`."""

CONFIGS_NOTE = """
Each cell tells parameters and MACs, and links to the config. Results are published of
those above; all others build and are checked by tests, but have not been trained."""


def main(args: argparse.Namespace):
    """Bring the files up to date."""
    texts = {}
    metafile, peers = read(METAFILE), read(PEERS)
    if args.measure:
        known = {model['Config']: model for model in metafile['Models']}
        with tracked(list_configs(), 'measuring', 'configs') as files:
            metafile['Models'] = [entry(file, known) for file in files]
        texts[METAFILE] = yaml.safe_dump(metafile, sort_keys=False, width=88)
    texts[DOCUMENT] = document(metafile, peers)
    texts[README] = replace_section(README.read_text(), summary(metafile, peers))
    outdated = [
        file
        for file, text in texts.items()
        if not file.is_file() or file.read_text() != text
    ]
    if not outdated:
        print(f'up to date: {", ".join(map(str, texts))}')
    for file in outdated:
        if args.check:
            raise ConfigError(f'{file} is out of date: run tools/model_zoo.py')
        write_file(file, texts[file].encode())
        print(f'wrote {file}')


def read(file: Path) -> dict:
    """Read a YAML file."""
    return yaml.safe_load(file.read_text())


def list_configs() -> list[Path]:
    """List the configs of the families, in order of name."""
    return sorted(
        file
        for pattern in FAMILIES.values()
        for file in ROOT.glob(pattern.format('*'))
        if not file.stem.endswith('_shapes')
    )


def entry(file: Path, known: dict[str, dict]) -> dict:
    """Describe a config as the metafile does, and measure its model.

    Args:
        file: the config.
        known: entries of the metafile by config, whose results, weights and records of
            training are kept.
    """
    cfg = load_config(str(file))
    config = str(file.relative_to(ROOT))
    old = known.get(config, {})
    collection = COLLECTIONS[cfg.model.type]
    loop = cfg.train_cfg
    cost = network_cost(cfg)
    length = {'Epochs': loop.get('max_epochs'), 'Iterations': loop.get('max_iters')}
    metadata = {
        'Architecture': [label(cfg.model.backbone.arch), collection],
        'Parameters': cost.params,
        'MACs (G)': round(cost.macs / 1e9, 1),
        **{unit: number for unit, number in length.items() if number},
        'Batch Size': cfg.auto_scale_lr.base_batch_size,
    }
    return {
        'Name': file.stem,
        'In Collection': collection,
        'Config': config,
        'Metadata': metadata | old.get('Metadata', {}) | metadata,
        **{key: old[key] for key in ('Results', 'Weights') if key in old},
    }


def label(arch: str) -> str:
    """Return the published name of a model."""
    size, _, rest = arch.partition('_')
    return f'RecNeXt-{size.upper()} {rest.replace("_", " ")}'.rstrip()


def summary(metafile: dict, peers: dict) -> str:
    """Write the section of the README.

    Args:
        metafile: what the metafile holds.
        peers: metrics of other backbones, by name.
    """
    rows = []
    for coco, ade20k in zip(
        published(metafile, 'Mask R-CNN'),
        published(metafile, 'Semantic FPN'),
        strict=True,
    ):
        aps = coco_metrics(coco)
        epoch = coco['Metadata']['Best Epoch']
        rows.append(
            [backbone(coco), *aps[:6], f'{aps[6]}, {aps[7]} ({epoch})', *miou(ade20k)]
        )
    for name, found in peers.items():
        aps = peer_metrics(found, *AT_THE_END)
        rows.append([name, *aps, '', '', *peer_metrics(found, 'mIoU')])
    header = ['backbone', *AT_THE_END, 'both, best (epoch)']
    return '\n\n'.join(
        [
            wrap(SUMMARY_NOTE),
            table([*header, 'mIoU, 80k', 'mIoU, 40k'], rows),
            wrap(RESULTS_NOTE),
        ]
    )


def document(metafile: dict, peers: dict) -> str:
    """Write the model zoo in full; see :func:`summary`."""
    coco = [
        [*sizes(model), *coco_metrics(model), *training(model, 'Best Epoch')]
        for model in published(metafile, 'Mask R-CNN')
    ]
    ade20k = [
        [*sizes(model), *miou(model), *training(model)]
        for model in published(metafile, 'Semantic FPN')
    ]
    for name, found in peers.items():
        aps = peer_metrics(found, *AT_THE_END)
        coco.append([name, '', '', *aps, '', '', '', '', ''])
        if 'mIoU' in found:
            ade20k.append([name, '', '', '', *peer_metrics(found, 'mIoU'), '', ''])
    start, end = ['backbone', 'parameters (M)', 'MACs (G)'], ['memory (MB)', 'files']
    aps = [*AT_THE_END, 'box AP, best', 'mask AP, best', 'epoch']
    parts = [
        '# Model zoo',
        wrap(RESULTS_NOTE),
        wrap(DOCUMENT_NOTE),
        '## Mask R-CNN 1x on COCO',
        table([*start, *aps, *end], coco),
        '## Semantic FPN on ADE20K',
        table([*start, 'mIoU, 80k', 'mIoU, 40k', *end], ade20k),
        '## All configs',
        wrap(CONFIGS_NOTE),
        table(['backbone', *FAMILIES], config_rows(metafile)),
    ]
    return '\n\n'.join(parts) + '\n'


def published(metafile: dict, collection: str) -> list[dict]:
    """List the models of a collection that have results, in the order of ``ARCHS``."""
    found = {
        backbone(model): model
        for model in metafile['Models']
        if model['In Collection'] == collection and 'Results' in model
    }
    return [found[name] for name in map(label, ARCHS) if name in found]


def backbone(model: dict) -> str:
    """Return the name of a model's backbone."""
    return model['Metadata']['Architecture'][0]


def metrics(model: dict) -> dict[str, float]:
    """Return the metrics of all tasks, in percent."""
    return {k: v for task in model['Results'] for k, v in task['Metrics'].items()}


def coco_metrics(model: dict) -> list[str]:
    """Return the APs of the last epoch, then box and mask AP of the best."""
    best = [f'{kind} AP (best epoch)' for kind in ('box', 'mask')]
    return [f'{metrics(model)[name]:.2f}' for name in (*AT_THE_END, *best)]


def miou(model: dict) -> list[str]:
    """Return the mIoU of the last iteration, for its column and an empty one."""
    return [f'{metrics(model)["mIoU"]:.2f}', '']


def peer_metrics(found: dict, *names: str) -> list[str]:
    """Return metrics of a peer, empty where nothing is published."""
    return [f'{found[name]:.1f}' if name in found else '' for name in names]


def sizes(model: dict) -> list[str]:
    """Return a backbone's name, and parameters and multiply-adds of the model."""
    metadata = model['Metadata']
    params = f'{metadata["Parameters"] / 1e6:.1f}'
    return [backbone(model), params, f'{metadata["MACs (G)"]:.1f}']


def training(model: dict, *more: str) -> list[str]:
    """Return records of the training, memory last, and links to the files."""
    metadata = [str(model['Metadata'][key]) for key in (*more, 'Training Memory (MB)')]
    links = f'[config](../{model["Config"]}), [weights]({model["Weights"]})'
    return [*metadata, links]


def config_rows(metafile: dict) -> list[list[str]]:
    """Return a row for each arch of configs, with a cell for each family of them."""
    known = {model['Config']: model for model in metafile['Models']}

    def cell(config: str) -> str:
        if config not in known:
            return ''
        _, params, macs = sizes(known[config])
        return f'[{params} M, {macs} G](../{config})'

    rows = [
        [label(arch), *(cell(path.format(arch)) for path in FAMILIES.values())]
        for arch in ARCHS
    ]
    return [row for row in rows if any(row[1:])]


def wrap(text: str) -> str:
    """Return a paragraph in lines of the width of the sources."""
    return textwrap.fill(' '.join(text.split()), 88, break_on_hyphens=False)


def replace_section(text: str, section: str) -> str:
    """Put a section between the two marks in a text.

    Raises:
        ConfigError: where the marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ConfigError(f'{README} lacks the lines {BEGIN} and {END}')
    return f'{before}{begin}\n{section}\n{end}{after}'


if __name__ == '__main__':
    run(main, args)
