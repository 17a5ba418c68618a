"""What a classifier takes for what, in pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import collect_results
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

from mmrecnext.classification.recipe import PicturesByClass
from mmrecnext.engine.pictures import in_colours
from mmrecnext.files import write_file
from mmrecnext.plots import draw_confusion, new_figure, save_figure

COLUMNS = 6


class Seen(NamedTuple):
    """How a picture was classified.

    Args:
        label: its class, by number.
        predicted: the likeliest one.
        likelihood: what its own class was given, from 0 to 1.
    """

    label: int
    predicted: int
    likelihood: float


@HOOKS.register_module()
class MistakesHook(Hook):
    """Shows what the last validation of a training, or a test, got wrong.

    In the work dir it writes ``confusion.png``, how many pictures of each class were
    taken for which; ``mistakes.png``, the pictures whose own classes were held least
    likely; and ``mistakes.csv``, all that were taken for others.

    Args:
        shown: pictures in ``mistakes.png``.
    """

    priority = 'LOW'

    def __init__(self, shown: int = 24):
        self.shown = shown

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin anew."""
        self.seen: list[Seen] = []

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=()
    ) -> None:
        """Look at a batch, as the model predicts it."""
        (batch,) = outputs
        shares = batch['logits'][''].float().softmax(1)
        own = shares.gather(1, batch['labels'][:, None])[:, 0]
        columns = batch['labels'], shares.argmax(1), own
        self.seen += map(Seen, *(column.tolist() for column in columns))

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        """Write what was seen, after the last epoch."""
        if runner.epoch == runner.max_epochs:
            self._write(runner, runner.val_dataloader.dataset)

    before_test_epoch = before_val_epoch
    after_test_iter = after_val_iter

    def after_test_epoch(self, runner: Runner, metrics=None) -> None:
        """Write what was seen."""
        self._write(runner, runner.test_dataloader.dataset)

    def _write(self, runner: Runner, dataset: PicturesByClass) -> None:
        seen = collect_results(self.seen, len(dataset), 'cpu')
        if seen is None:  # in all processes but the first
            return
        folder = Path(runner.work_dir)
        classes = dataset.metainfo['classes']
        figure = draw_confusion(count(seen, len(classes)), classes)
        save_figure(figure, folder / 'confusion.png')
        wrong = [i for i, one in enumerate(seen) if one.label != one.predicted]
        wrong.sort(key=lambda i: seen[i].likelihood)
        text = io.StringIO(newline='')
        table = csv.writer(text)
        table.writerow(('picture', 'class', 'predicted', 'likelihood of its class'))
        for i in wrong:
            label, predicted, likelihood = seen[i]
            row = dataset.filename(i), classes[label], classes[predicted]
            table.writerow((*row, f'{likelihood:.4f}'))
        write_file(folder / 'mistakes.csv', text.getvalue().encode())
        draw_pictures(dataset, seen, wrong[: self.shown], folder / 'mistakes.png')
        runner.logger.info(
            f'{len(wrong)} of {len(seen)} pictures were taken for another class: see '
            f'confusion.png, mistakes.png and mistakes.csv in {folder}'
        )


def count(seen: Sequence[Seen], num_classes: int) -> np.ndarray:
    """Count pictures, ``[classes, predicted classes]``."""
    pairs = torch.tensor([one.label * num_classes + one.predicted for one in seen])
    counts = torch.bincount(pairs, minlength=num_classes**2)
    return np.asarray(counts.reshape(num_classes, num_classes))


def draw_pictures(
    dataset: Any, seen: Sequence[Seen], indices: Sequence[int], file: Path
) -> None:
    """Show some pictures, with their classes and what they were taken for.

    Args:
        dataset: that holds them.
        seen: how each picture was classified.
        indices: those to show, in this order.
        file: to write; one of an earlier run goes where there is nothing to show.
    """
    if not indices:
        file.unlink(missing_ok=True)
        return
    classes = dataset.metainfo['classes']
    rows = -(-len(indices) // COLUMNS)
    figure = new_figure(2.2 * COLUMNS, 2.7 * rows)
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.set_axis_off()
    for axes, i in zip(figure.axes, indices, strict=False):
        with dataset.reader[i][0] as content:
            axes.imshow(in_colours(Image.open(content)))
        label, predicted, likelihood = seen[i]
        told = f'{classes[label]} ({likelihood:.0%})\ntaken for {classes[predicted]}'
        axes.set_title(told, fontsize=8)
    save_figure(figure, file)
