"""The frameworks' own configs: each swapped and built, one of each type trained."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.utils import is_installed

from mmrecnext.engine.configs import configs_of, nodes, read_config, type_of
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import UserError
from mmrecnext.swap.backbone import swap_backbone
from mmrecnext.swap.files import plain
from tests.zoo.trial import Trial, attempt, brief, build_model

CLASSIFIERS = (
    'ResNet',
    'ResNetV1c',
    'ResNeXt',
    'ResNeSt',
    'Res2Net',
    'RegNet',
    'DetectoRS_ResNet',
    'TridentResNet',
    'HRNet',
    'SwinTransformer',
    'PyramidVisionTransformer',
    'PyramidVisionTransformerV2',
    'MixVisionTransformer',
    'PCPVT',
    'SVT',
    'MSCAN',
    'ConvNeXt',
    'PoolFormer',
    'MobileNetV2',
    'MobileNetV3',
    'EfficientNet',
    'TIMMBackbone',
    'Darknet',
    'CSPDarknet',
    'CSPNeXt',
)
"""Hierarchical classifiers, the backbones that ought to be swappable."""

SIDE, LARGE_SIDE = 128, 256
"""Height and width of the pictures that are trained on: the latter for models that
choose hundreds of queries among the pixels of their maps."""

TRIES = 6
"""Configs of a type that are tried until one trains and predicts."""


@dataclass
class Row:
    """What came of one config."""

    name: str
    model: str = ''
    backbone: str = ''
    problem: str = ''
    swapped: bool = False
    built: bool = False

    @property
    def counts(self) -> bool:
        """Whether it has maps of a hierarchical classifier."""
        return self.backbone in CLASSIFIERS and self.model != 'BaseReID'


@dataclass
class Training:
    """What came of the training of one type of model."""

    model: str
    name: str = ''
    trial: Trial | None = None
    problem: str = ''

    @property
    def trained(self) -> str:
        """Whether it trained without fault, in a cell of a table."""
        if self.trial and not self.trial.faults:
            return f'yes: `{self.name}`, loss {self.trial.loss:.3g}'
        fault = self.trial.faults[0] if self.trial else self.problem
        return f'no: {fault}'.replace('|', '/')

    @property
    def predicted(self) -> str:
        """Whether it predicted, likewise."""
        if self.trial and self.trial.predictions:
            return 'yes'
        reason = self.trial.unpredicted if self.trial else 'it was not trained'
        return f'no: {reason}'.replace('|', '/')


def zoo() -> list[str]:
    """Return the names of all complete configs of the installed frameworks."""
    return [
        f'{package}::{file.relative_to(configs_of(package)).as_posix()}'
        for package in filter(is_installed, FRAMEWORKS)
        for file in sorted(configs_of(package).rglob('*.py'))
        if '_base_' not in file.parts
    ]


def make_bert(folder: Path) -> str | None:
    """Make a small language model of random weights, in place of a download.

    Returns:
        Its folder; None where transformers is not installed.
    """
    try:
        from transformers import BertConfig, BertModel, BertTokenizerFast
    except ImportError:
        return None
    letters = 'abcdefghijklmnopqrstuvwxyz'
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *letters]
    words = [*tokens, *(f'##{letter}' for letter in letters)]
    (folder / 'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    config = BertConfig(len(words), num_hidden_layers=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    return str(folder)


def swap(name: str, cfg: Config, arch: str, bert: str | None) -> Config:
    """Swap a config, from scratch, and give it what it would look for elsewhere.

    Args:
        name: of the config.
        cfg: the config.
        arch: whose channels and strides to give it; there is one block per stage.
        bert: folder of a language model, or None.
    """
    tiny = dict(base=arch, depths=(1, 1, 1, 1))
    cfg = swap_backbone(cfg, tiny, pretrained=False)
    localise(cfg, name, bert)
    return cfg


def localise(cfg: Config, name: str, bert: str | None):
    """Give a config what its model would look for elsewhere, in place."""
    folder = configs_of(name.partition('::')[0]).parent
    for node in nodes(cfg.model):
        for key, value in node.items():
            if value == 'bert-base-uncased' and bert:
                node[key] = bert
            elif key == 'teacher_config':
                node[key] = str(folder / value)


def kind_of(model: ConfigDict) -> str:
    """Return the type of a model, of a segmentor also that of its (last) head."""
    heads = model.get('decode_head')
    head = heads[-1] if isinstance(heads, list | tuple) and heads else heads
    return f'{type_of(model)} {type_of(head)}'.strip()


BUILT: dict[str, str] = {}
"""Per model that was built, what was wrong."""


def check(task: tuple[str, str, str | None]) -> Row:
    """Swap a config and build its model, without memory for weights."""
    name, arch, bert = task
    row = Row(name)
    try:
        old = read_config(name)
    except UserError as error:
        row.problem = str(error)
        return row
    model = old.get('model')
    if not model:
        row.problem = 'no model: a part of other configs'
        return row
    row.model = kind_of(model)
    row.backbone = type_of((model.get('detector') or model).get('backbone'))
    try:
        cfg = swap(name, old, arch, bert)
    except UserError as error:
        row.problem = str(error)
        return row
    row.swapped = True
    row.problem = build_problem(cfg)
    row.built = not row.problem
    if row.problem and row.problem == build_problem(old):
        row.problem = f'before the swap as well: {row.problem}'
    return row


def build_problem(cfg: Config) -> str:
    """Return what is wrong with the model of a config, if anything is."""
    key = json.dumps(plain(cfg)['model'], default=repr, sort_keys=True)
    if key not in BUILT:
        try:
            build_model(cfg, weights='language_model' in cfg.model)
            BUILT[key] = ''
        except Exception as error:
            BUILT[key] = brief(error)
    return BUILT[key]


def by_type(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return some configs of each type of model that could be swapped, short first."""
    found = defaultdict(list)
    for row in rows:
        if row.swapped:
            found[row.model].append(row)
    return {
        kind: [row.name for row in sorted(some, key=rank)][:TRIES]
        for kind, some in sorted(found.items())
    }


def rank(row: Row) -> tuple[bool, int, str]:
    """Order configs by what is to be tried first."""
    return not row.built, len(row.name), row.name


def train(task: tuple[str, list[str], str, str | None]) -> Training:
    """Train a model of a type for a step, and predict."""
    kind, names, arch, bert = task
    result = Training(kind)
    for name in names:
        try:
            cfg = swap(name, read_config(name), arch, bert)
            trial = attempt(cfg, side_of(cfg))
        except Exception as error:
            if not result.name:
                result.name, result.problem = name, brief(error)
            continue
        if trial.passed or not result.trial:
            result.name, result.trial = name, trial
        if trial.passed:
            return result
    return told(result, bert)


def side_of(cfg: Config) -> int:
    """Return the side of the pictures that a model can be tried on."""
    return LARGE_SIDE if 'num_queries' in cfg.model else SIDE


def told(result: Training, bert: str | None) -> Training:
    """Add to what went wrong whether it goes wrong before the swap, too."""
    cfg = read_config(result.name)
    localise(cfg, result.name, bert)
    try:
        before, problem = attempt(cfg, side_of(cfg)), ''
    except Exception as error:
        before, problem = None, brief(error)

    def mark(reason: str, old: str) -> str:
        same = reason and reason == old
        return f'before the swap as well: {reason}' if same else reason

    trial = result.trial
    if trial and before:
        pairs = zip_longest(trial.faults, before.faults[: len(trial.faults)])
        trial = replace(
            trial,
            faults=tuple(mark(new, old) for new, old in pairs),
            unpredicted=mark(trial.unpredicted, before.unpredicted),
        )
    return replace(result, trial=trial, problem=mark(result.problem, problem))
