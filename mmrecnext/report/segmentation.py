"""Which pixels a segmentor takes for which class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmrecnext.report.records import Evaluation, Picture


@dataclass
class Shares:
    """Figures of each class, from 0 to 1, NaN of one that does not occur.

    Args:
        iou: intersection over union.
        accuracy: share of its pixels that were told.
        pixels: its own, in the truth.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    pixels: np.ndarray


def confusion(pictures: Iterable[Picture], count: int) -> np.ndarray:
    """Add up how many pixels of a class were taken for which, ``[true, predicted]``."""
    table = np.zeros((count, count), np.int64)
    for picture in pictures:
        for label, row in picture.confusion.items():
            for predicted, pixels in row.items():
                table[label, predicted] += pixels
    return table


def shares(table: np.ndarray) -> Shares:
    """Return the figures of each class, of a table of :func:`confusion`."""
    right, true, told = np.diag(table), table.sum(1), table.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return Shares(right / (true + told - right), right / true, true)


def quality(picture: Picture) -> float:
    """Return the mean IoU of the classes that are in a picture or were told in it."""
    labels = {*picture.confusion, *(p for r in picture.confusion.values() for p in r)}
    order = {label: i for i, label in enumerate(sorted(labels))}
    table = np.zeros((len(order), len(order)), np.int64)
    for label, row in picture.confusion.items():
        for predicted, pixels in row.items():
            table[order[label], order[predicted]] = pixels
    return float(np.nanmean(shares(table).iou)) if order else 1.0


def mistaken(
    evaluation: Evaluation, table: np.ndarray, most: int
) -> list[tuple[str, str, float]]:
    """Return which classes are most often taken for another.

    Returns:
        Of ``most`` pairs: class, what it is taken for, and the share of its pixels.
    """
    with np.errstate(invalid='ignore', divide='ignore'):
        share = np.nan_to_num(table / table.sum(1, keepdims=True))
    np.fill_diagonal(share, 0)
    order = np.argsort(-share, axis=None, kind='stable')[:most]
    names = evaluation.classes
    pairs = (np.unravel_index(i, share.shape) for i in order)
    return [(names[i], names[j], float(share[i, j])) for i, j in pairs if share[i, j]]
