"""What a network makes of a picture: its maps, and what its predictions rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmrecnext.engine.predictions import LabelMap
from mmrecnext.engine.predictor import Predictor, displayable
from mmrecnext.errors import OptionError
from mmrecnext.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mmengine.structures import BaseDataElement


@dataclass
class Seen:
    """A map over its picture.

    Args:
        title: what it is.
        heat: ``[H, W]`` of the picture, from 0 to 1.
    """

    title: str
    heat: np.ndarray


@dataclass
class Look:
    """A picture, what was predicted of it, and the maps on the way, with gradients.

    Args:
        picture: ``[H, W, 3]``, uint8, RGB.
        targets: predictions in words, and the figures that they rest on.
        maps: of each part, such as ``backbone``, its maps ``[1, C, h, w]``.
        input_size: height and width of what the network was given.
        image_size: the part of that which is the picture, not padding.
    """

    picture: np.ndarray
    targets: list[tuple[str, Tensor]]
    maps: dict[str, list[Tensor]]
    input_size: tuple[int, int]
    image_size: tuple[int, int]

    def over_picture(self, heat: Tensor) -> np.ndarray:
        """Enlarge a map ``[h, w]`` to the picture, without what is padding."""
        whole = cv2.resize(heat.numpy(), self.input_size[::-1])
        height, width = self.image_size
        size = self.picture.shape[1::-1]
        return np.asarray(cv2.resize(whole[:height, :width], size))


@contextmanager
def recorded(model: nn.Module, parts: Sequence[str]) -> Iterator[dict[str, list]]:
    """Keep what parts of a model return, while in use."""
    maps: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            many = [output] if isinstance(output, Tensor) else [*output]
            maps[name] = [x for x in many if isinstance(x, Tensor) and x.ndim == 4]

        return hook

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(keep(name))
        for name in parts
        if name in modules
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def look(predictor: Predictor, file: str | Path, parts: Sequence[str]) -> Look:
    """Predict a picture, and keep the maps of parts of the model.

    Args:
        predictor: the model, not deployed.
        file: the picture.
        parts: names of modules, such as ``backbone`` and ``neck``; those that the model
            lacks are left out.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    picture, inputs = predictor.read(file)
    batch = pseudo_collate([inputs])
    with torch.enable_grad(), recorded(predictor.model, parts) as maps:
        data = predictor.model.data_preprocessor(batch, False)
        height, width = data['inputs'].shape[-2:]
        if isinstance(predictor.kind, LabelMap):
            logits = predictor.model(data['inputs'], mode='tensor')
            targets = of_classes(predictor, logits)
        else:
            (sample,) = predictor.model(**data, mode='predict')
            targets = of_detections(predictor, sample)
    rgb = np.ascontiguousarray(displayable(picture)[..., ::-1])
    meta = data['data_samples'][0].metainfo
    image_size = meta.get('img_shape', (height, width))[:2]
    return Look(rgb, targets, maps, (height, width), tuple(image_size))


def strengths(seen: Look) -> list[list[Seen]]:
    """Return how strong each map is at each place, a row of each part.

    That is the root mean square over its channels, scaled from its least to its most.
    """
    rows = []
    for part, maps in seen.maps.items():
        row = []
        for i, x in enumerate(maps):
            heat = x[0].detach().float().square().mean(0).sqrt()
            stride = round(seen.input_size[0] / x.size(2))
            channels, height, width = x.shape[1:]
            what = f'{channels} x {height} x {width}'
            title = f'{part} {i}: stride {stride}\n{what}'
            row.append(Seen(title, seen.over_picture(scaled(heat))))
        rows.append(row)
    return rows


def scaled(heat: Tensor) -> Tensor:
    """Scale a map to 0 to 1."""
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low).clamp(min=1e-12)


def attributed(seen: Look, target: Tensor, part: str) -> np.ndarray:
    """Return where the maps of a part speak for a figure, by HiResCAM.

    At each place the channels are added up, each times its gradient there; what is
    negative counts as nothing. Grad-CAM takes the mean gradient of all places instead,
    which tells nothing of a box, whose score rests on a few of them. The maps of
    several levels are added up as they are.

    Source: Draelos and Carin, https://arxiv.org/abs/2011.08891; Grad-CAM is of
    Selvaraju et al., https://arxiv.org/abs/1610.02391.

    Args:
        seen: what the figure was computed from.
        target: the figure.
        part: name of the part.

    Returns:
        ``[H, W]`` of the picture, from 0 to 1.
    """
    maps = seen.maps[part]
    grads = torch.autograd.grad(target, maps, retain_graph=True, allow_unused=True)
    total = np.zeros(seen.picture.shape[:2], np.float32)
    for x, grad in zip(maps, grads, strict=True):
        if grad is None:
            continue
        heat = (grad * x.detach())[0].float().sum(0).relu()
        total += seen.over_picture(heat)
    return np.asarray(scaled(torch.from_numpy(total)))


def explained(
    predictor: Predictor, seen: Look, part: str, most: int = 6
) -> Iterator[Seen]:
    """Yield what each prediction of a picture rests on.

    Args:
        predictor: that predicted it.
        seen: the picture.
        part: of the model, whose maps are looked at.
        most: so many predictions.

    Raises:
        OptionError: for a part that gave no map, or predictions without gradients.
    """
    if not seen.maps.get(part):
        parts = ', '.join(name for name, _ in predictor.model.named_children())
        raise OptionError(f'--part {part} gave no maps; the model consists of {parts}')
    for title, target in seen.targets[:most]:
        if not target.requires_grad:
            kind = type(predictor.model).__name__
            raise OptionError(f'{kind} predicts in a way that has no gradients')
        yield Seen(title, attributed(seen, target, part))


def of_detections(
    predictor: Predictor, sample: BaseDataElement
) -> list[tuple[str, Tensor]]:
    """Return the detections of a picture and their scores, the surest first."""
    if 'pred_instances' not in sample or 'bboxes' not in sample.pred_instances:
        return []
    found = sample.pred_instances
    told = []
    for i in found.scores.detach().argsort(descending=True).tolist():
        if found.scores[i] >= predictor.score_thr:
            x1, y1, x2, y2 = (round(x) for x in found.bboxes[i].tolist())
            name = predictor.kind.name(int(found.labels[i]))
            title = f'{name} {found.scores[i]:.2f}\n({x1}, {y1}) to ({x2}, {y2})'
            told.append((title, found.scores[i]))
    return told


def of_classes(predictor: Predictor, logits: Tensor) -> list[tuple[str, Tensor]]:
    """Return the classes of a label map and their mean logits, the largest first.

    Args:
        predictor: a segmentor.
        logits: ``[1, classes, h, w]``.
    """
    labels = logits[0].detach().argmax(0)
    classes, pixels = labels.unique(return_counts=True)
    told = []
    for i in pixels.argsort(descending=True).tolist():
        label, share = int(classes[i]), pixels[i].item() / labels.numel()
        title = f'{predictor.kind.name(label)}\n{share:.1%} of the pixels'
        told.append((title, logits[0, label][labels == label].mean()))
    return told


def draw_maps(picture: np.ndarray, rows: Sequence[Sequence[Seen]]) -> Figure:
    """Draw a picture, and maps over it.

    Args:
        picture: ``[H, W, 3]``, uint8, RGB.
        rows: maps, from 0 to 1.
    """
    height, width = picture.shape[:2]
    columns = max(map(len, rows)) + 1
    side = 2.6
    figure = new_figure(
        side * columns + 0.8, (side * height / width + 0.55) * len(rows) + 0.2
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    image = None
    for axes in grid.flat:
        axes.set_axis_off()
    for axes_of_row, row in zip(grid, rows, strict=True):
        axes_of_row[0].imshow(picture)
        axes_of_row[0].set_title('picture\n', fontsize=9)
        for axes, seen in zip(axes_of_row[1:], row, strict=False):
            axes.imshow(picture)
            image = axes.imshow(seen.heat, cmap='inferno', alpha=0.65, vmin=0, vmax=1)
            axes.set_title(seen.title, fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.8).set_label('least to most')
    return figure
