"""The frameworks' own configs: each swapped and built, one of each type trained."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TypeAlias

import torch
from mmengine.config import Config, ConfigDict

from mmrecnext.engine.configs import configs_of, is_found, nodes, read_config, type_of
from mmrecnext.engine.frameworks import FRAMEWORKS
from mmrecnext.errors import UserError
from mmrecnext.swap.backbone import swap_backbone
from mmrecnext.swap.files import plain
from mmrecnext.swap.fitting import FITTERS
from tests.zoo.trial import Trial, attempt, brief, build_model

CLASSIFIERS = {
    # of MMDetection and MMSegmentation
    *('ResNet', 'ResNetV1c', 'ResNeXt', 'ResNeSt', 'Res2Net', 'RegNet', 'HRNet'),
    *('DetectoRS_ResNet', 'TridentResNet', 'MobileNetV2', 'MobileNetV3'),
    *('SwinTransformer', 'MixVisionTransformer', 'PCPVT', 'SVT', 'MSCAN'),
    *('PyramidVisionTransformer', 'PyramidVisionTransformerV2', 'ConvNeXt'),
    *('PoolFormer', 'EfficientNet', 'TIMMBackbone', 'Darknet', 'CSPDarknet', 'CSPNeXt'),
    # of MMPose besides
    *('ResNetV1d', 'SEResNet', 'SCNet', 'LiteHRNet', 'HRFormer', 'VGG', 'AlexNet'),
    *('ViPNAS_ResNet', 'ViPNAS_MobileNetV3', 'ShuffleNetV1', 'ShuffleNetV2'),
    # of MMPretrain besides
    *('SwinTransformerV2', 'EfficientNetV2', 'RIFormer', 'RepVGG', 'MobileOne'),
    *('ResNet_CIFAR', 'LeViT', 'TinyViT', 'MViT', 'DaViT', 'HiViT', 'MobileViT'),
    *('EdgeNeXt', 'HorNet', 'DenseNet', 'RepLKNet', 'RepMLPNet', 'VAN', 'PyramidVig'),
    *('EfficientFormer', 'SEResNeXt', 'InceptionV3'),
    *('CSPDarkNet', 'CSPResNet', 'CSPResNeXt'),
    # of MMYOLO and MMDetection3D besides
    *('YOLOv5CSPDarknet', 'YOLOXCSPDarknet', 'YOLOv6EfficientRep', 'YOLOv6CSPBep'),
    *('YOLOv7Backbone', 'YOLOv8CSPDarknet', 'PPYOLOECSPResNet', 'DLANet'),
}
"""Hierarchical classifiers, the backbones that ought to be swappable."""

OTHER_MODELS = ('BaseReID', 'ImVoteNet')
"""A classifier of whole pictures, and a detector of points that sees them besides."""

SIDE, LARGE_SIDE = 128, 256
"""Height and width of the pictures that are trained on: the latter for models that
choose hundreds of queries among the pixels of their maps."""

CHOOSERS = ('SASAssigner',)
CHOICE_SIDE = 384
"""Of pictures for models that choose nine pixels of each map, and the height and width
of those, whose coarsest has 3 x 3."""

TRIES = 6
"""Configs of a type that are tried until one trains and predicts."""


@dataclass
class Row:
    """What came of one config.

    Attributes:
        name (str): of the config.
        model (str): its type, and that of its head.
        backbone (str): type of the old one.
        problem (str): why it is not swapped or not built, empty if it is.
        swapped (bool): whether its backbone was swapped.
        built (bool): whether the model was built then.
    """

    name: str
    model: str = ''
    backbone: str = ''
    problem: str = ''
    swapped: bool = False
    built: bool = False

    @property
    def scope(self) -> str:
        """The framework."""
        return self.name.partition('::')[0]

    @property
    def counts(self) -> bool:
        """Whether it has maps of a hierarchical backbone."""
        kind = self.model.partition(' ')[0]
        return self.backbone in CLASSIFIERS and kind not in OTHER_MODELS


@dataclass
class Training:
    """What came of the training of one type of model.

    Attributes:
        scope (str): its framework.
        model (str): the type, as in :class:`Row`.
        name (str): of the config that was trained.
        trial (Trial): what came of it.
        before (Trial): what came of it before the swap; None where all went well after.
    """

    scope: str
    model: str
    name: str
    trial: Trial
    before: Trial | None = None

    @property
    def has_trained(self) -> bool:
        """Whether it trained without fault."""
        return not self.trial.faults

    @property
    def has_predicted(self) -> bool:
        """Whether it predicted."""
        return self.trial.predictions > 0

    @property
    def is_lost(self) -> bool:
        """Whether it trained or predicted before the swap, and does not after."""
        return bool(self.before) and (
            (not self.has_trained and not self._faults_before)
            or (not self.has_predicted and self.before.predictions > 0)
        )

    @property
    def _faults_before(self) -> Sequence[str]:
        """What was wrong with training before the swap: not less than is now."""
        if not self.before or isfinite(self.before.loss) > isfinite(self.trial.loss):
            return ()
        return self.before.faults

    @property
    def trained(self) -> str:
        """Whether it trained without fault, in a cell of a table."""
        if self.has_trained:
            return f'yes: `{self.name}`, loss {self.trial.loss:.3g}'
        return self._no(self.trial.faults, self._faults_before)

    @property
    def predicted(self) -> str:
        """Whether it predicted, likewise."""
        if self.has_predicted:
            return 'yes'
        before = self.before.unpredicted if self.before else ''
        return self._no((self.trial.unpredicted,), (before,) if before else ())

    def _no(self, now: Sequence[str], before: Sequence[str]) -> str:
        if not before:
            return f'no: {several(now)}'
        reason = several(before)
        if now[0] != before[0]:
            reason += f'; after it: {several(now)}'
        return f'not before the swap either: {reason}'


def several(faults: Sequence[str]) -> str:
    """Return the first of some faults, and how many more there are, for a cell."""
    more = f', and {len(faults) - 1} more' if len(faults) > 1 else ''
    return f'{faults[0]}{more}'.replace('|', '/')


def zoo(scopes: Iterable[str] | None = None) -> list[str]:
    """Return the names of all complete configs of frameworks, by default installed."""
    return [
        f'{package}::{file.relative_to(configs_of(package)).as_posix()}'
        for package in scopes or filter(is_found, FRAMEWORKS)
        for file in sorted(configs_of(package).rglob('*.py'))
        if '_base_' not in file.parts
    ]


Files: TypeAlias = Mapping[str, str]
"""What stands for downloads, by the name or the key that a config has for it."""


def make_files(folder: Path) -> Files:
    """Make models of random weights, in place of downloads, where they can be made."""
    return {**make_bert(folder / 'bert'), **make_link(folder / 'link.pth')}


def make_bert(folder: Path) -> Files:
    """Make a small language model, if transformers is installed."""
    try:
        from transformers import BertConfig, BertModel, BertTokenizerFast
    except ImportError:
        return {}
    letters = 'abcdefghijklmnopqrstuvwxyz'
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *letters]
    words = [*tokens, *(f'##{letter}' for letter in letters)]
    folder.mkdir()
    (folder / 'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    config = BertConfig(len(words), num_hidden_layers=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    return {'bert-base-uncased': str(folder)}


def make_link(file: Path) -> Files:
    """Make what StrongSORT links tracks with, if MMDetection is installed."""
    try:
        from mmdet.models.tracking.aflink import AFLinkModel
    except ImportError:
        return {}
    torch.save(AFLinkModel().state_dict(), file)
    return {'AppearanceFreeLink': str(file)}


def swap(name: str, cfg: Config, archs: Sequence[str], files: Files) -> Config:
    """Swap a config, from scratch, and give it what it would look for elsewhere.

    Where that takes a feature pyramid, it gets one.

    Args:
        name: of the config.
        cfg: the config.
        archs: the first of them that fits gives it channels and strides; there is one
            block per stage.
        files: what stands for downloads.

    Raises:
        UserError: where none fits, of the first.
    """
    framework = FRAMEWORKS.get(cfg.get('default_scope'))
    fpn = bool(framework) and FITTERS[framework.fitter].takes_fpn
    errors = []
    for arch in archs:
        tiny = dict(base=arch, depths=(1, 1, 1, 1))
        try:
            swapped = swap_backbone(cfg, tiny, pretrained=False, fpn=fpn)
        except UserError as error:
            errors.append(error)
        else:
            localise(swapped, name, files)
            return swapped
    raise errors[0]


def localise(cfg: Config, name: str, files: Files):
    """Give a config what its model would look for elsewhere, in place."""
    folder = configs_of(name.partition('::')[0]).parent
    for node in nodes(cfg.model):
        for key, value in node.items():
            if isinstance(value, str) and value in files:
                node[key] = files[value]
            elif key == 'teacher_config':
                node[key] = str(folder / value)
        if type_of(node) in files:
            node.checkpoint = files[type_of(node)]


def kind_of(model: ConfigDict) -> str:
    """Return the type of a model, and that of its last head, but of two stages."""
    heads = model.get('decode_head') or model.get('head') or model.get('bbox_head')
    head = heads[-1] if isinstance(heads, list | tuple) and heads else heads
    return f'{type_of(model)} {type_of(head)}'.strip()


def backbones_of(model: ConfigDict) -> Iterator[ConfigDict]:
    """Yield the backbones of a model, or of one inside it."""
    for node in (model, model.get('detector') or {}):
        for key in ('backbone', 'pts_backbone', 'img_backbone'):
            if node.get(key):
                yield node[key]


BUILT: dict[str, str] = {}
"""Per model that was built, what was wrong."""


def check(task: tuple[str, Sequence[str], Files]) -> Row:
    """Swap a config and build its model, without memory for weights."""
    name, archs, files = task
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
    row.backbone = type_of(next(backbones_of(model), None))
    try:
        cfg = swap(name, old, archs, files)
    except UserError as error:
        row.problem = str(error)
        return row
    except Exception as error:  # a fault of the swap, which the report is to show
        row.problem = brief(error)
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


def by_type(rows: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """Return some configs of each type of model that could be swapped, short first."""
    found = defaultdict(list)
    for row in rows:
        if row.swapped:
            found[row.scope, row.model].append(row)
    return {
        kind: [row.name for row in sorted(some, key=rank)][:TRIES]
        for kind, some in sorted(found.items())
    }


def rank(row: Row) -> tuple[bool, int, str]:
    """Order configs by what is to be tried first."""
    return not row.built, len(row.name), row.name


def train(
    task: tuple[tuple[str, str], list[str], Sequence[str], Files],
) -> Training:
    """Train a model of a type for a step, and predict; as it was, too, if that fails.

    Of several configs, the first is told of where none passes.
    """
    kind, names, archs, files = task
    failed = []
    for name in names:
        trial = tried(lambda name=name: swap(name, read_config(name), archs, files))
        if trial.passed:
            return Training(*kind, name, trial)
        failed.append((name, trial))
    name, trial = failed[0]
    return Training(*kind, name, trial, tried(lambda: original(name, files)))


def tried(make: Callable[[], Config]) -> Trial:
    """Return what comes of a config, which may be nothing.

    Args:
        make: makes the config.
    """
    try:
        cfg = make()
        return attempt(cfg, side_of(cfg))
    except Exception as error:
        return Trial(nan, (brief(error),), 0, brief(error))


def original(name: str, files: Files) -> Config:
    """Return a config with the backbone that it has."""
    cfg = read_config(name)
    localise(cfg, name, files)
    return cfg


def side_of(cfg: Config) -> int:
    """Return the side of the pictures that a model can be tried on."""
    if any(type_of(node) in CHOOSERS for node in nodes(cfg.model)):
        return CHOICE_SIDE
    return LARGE_SIDE if 'num_queries' in cfg.model else SIDE
