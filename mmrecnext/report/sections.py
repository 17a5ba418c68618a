"""What a page says of a detector, and of a segmentor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mmrecnext.plots import draw_confusion
from mmrecnext.report import detection, segmentation
from mmrecnext.report.drawing import Writer
from mmrecnext.report.page import Cell, Section, Table, number
from mmrecnext.report.plots import draw_bars, draw_calibration, draw_precision
from mmrecnext.report.records import Evaluation

SHOWN = 12
"""Pictures of each kind."""

LISTED = 20
"""Pairs of classes that are listed as mistaken."""

KINDS = {'bbox': 'boxes', 'segm': 'masks'}


def figures_of(evaluation: Evaluation) -> Section:
    """Return what the metrics of the config gave."""
    cards = [
        (name.split('/')[-1], number(value).text)
        for name, value in evaluation.figures.items()
        if value >= 0  # COCO gives -1, and MMSegmentation NaN, for nothing to measure
    ]
    text = '' if cards else 'The metrics of the config measure nothing here.'
    return Section('Figures', text, cards)


class Detector:
    """What is said of the detections of an evaluation.

    Args:
        writer: of its plots and pictures.
    """

    measure = 'F1'
    means = (
        'F1 of a picture: twice the objects that were found, over those that are there '
        'and those that were found.'
    )

    def __init__(self, writer: Writer):
        self.writer, self.evaluation = writer, writer.evaluation
        pictures = self.evaluation.pictures
        self.masks = detection.has_masks(pictures)
        thr = self.evaluation.score_thr
        self.matches = [detection.match(p, thr, self.masks) for p in pictures]
        pairs = zip(self.matches, pictures, strict=True)
        self.qualities = np.array([m.quality(p) for m, p in pairs])
        kinds = ('bbox', 'segm') if self.masks else ('bbox',)
        self.precisions = [detection.measure(self.evaluation, kind) for kind in kinds]

    def by_class(self) -> dict[str, dict[str, float]]:
        """Return the figures that classes are compared by."""
        names = self.evaluation.classes
        return {
            f'AP of {KINDS[p.kind]}': {n: p.row(i)[0] for i, n in enumerate(names)}
            for p in self.precisions
        }

    def caption(self, index: int) -> str:
        """Say what was found in a picture."""
        found = self.matches[index]
        picture = self.evaluation.pictures[index]
        wrong = sum(
            picture.found[i].label != picture.truth[j].label for i, j, _ in found.pairs
        )
        said = (
            f'F1 {self.qualities[index]:.2f}',
            f'{len(found.pairs) - wrong} found',
            f'{len(found.missed)} missed' if found.missed else '',
            f'{wrong} of another class' if wrong else '',
            f'{len(found.spare)} of nothing' if found.spare else '',
        )
        return f'{Path(picture.path).name}: {", ".join(filter(None, said))}'

    def sections(self) -> list[Section]:
        """Return what is said."""
        return [self.precision(), self.mistakes(), *self.looked_at(), self.listing()]

    def precision(self) -> Section:
        """Return precision and recall, of all and by class."""
        section = Section(
            'Precision',
            "Measured by COCO's code, with at most 100 detections a picture; AP is the "
            'mean over overlaps (IoU) of 0.50 to 0.95. s, m and l are objects of less '
            'than 32 x 32 pixels, of up to 96 x 96, and larger ones. A click on a '
            'title sorts by its column.',
        )
        names = self.evaluation.classes
        for p in self.precisions:
            kind = KINDS[p.kind]
            caption = f'Precision and recall of {kind}.'
            figure = draw_precision(p, names)
            section.plots.append(self.writer.plot(f'precision_{kind}', figure, caption))
            rows = [
                [Cell(n), number(p.counts[i], 0), *map(number, p.row(i))]
                for i, n in enumerate(names)
            ]
            head = (f'class ({kind})', 'objects', *detection.COLUMNS)
            section.tables.append(Table(head, rows))
        return section

    def mistakes(self) -> Section:
        """Return what is taken for what, and how sure the network is."""
        pictures, names = self.evaluation.pictures, self.evaluation.classes
        thr = self.evaluation.score_thr
        table = detection.confusion(pictures, self.matches, len(names))
        calibration = detection.calibrate(pictures, self.masks)
        section = Section(
            'Mistakes',
            f'Of detections with a score of {thr} or more that overlap an object by '
            f'{detection.IOU} or more. Objects predicted as background were missed; '
            'background predicted as a class is a detection of nothing.',
        )
        figure = draw_confusion(table, [*names, 'background'], unit='objects')
        section.plots = [
            self.writer.plot('confusion', figure, 'Which objects are taken for which.'),
            self.writer.plot(
                'calibration',
                draw_calibration(calibration),
                'How many detections of a score are right; expected calibration error '
                f'{number(calibration.error).text}.',
            ),
        ]
        np.fill_diagonal(table, 0)
        order = np.argsort(-table, axis=None, kind='stable')[:LISTED]
        all_names = [*names, 'background']
        rows = [
            [Cell(all_names[i]), Cell(all_names[j]), number(table[i, j], 0)]
            for i, j in (np.unravel_index(k, table.shape) for k in order)
            if table[i, j]
        ]
        if rows:
            section.tables = [Table(('truth', 'taken for', 'times'), rows)]
        return section

    def looked_at(self) -> Iterable[Section]:
        """Yield the worst, the most doubtful and the best pictures."""
        pictures = self.evaluation.pictures
        doubts = np.array([detection.doubt(p) for p in pictures])
        text = f'{self.means} Truth on the left, prediction on the right.'
        for title, order, said in (
            ('Worst pictures', self.qualities, text),
            (
                'Most doubtful pictures',
                -doubts,
                'Those whose scores are neither high nor low.',
            ),
            ('Best pictures', -self.qualities, ''),
        ):
            yield gallery(self, title, said, np.argsort(order, kind='stable'))

    def listing(self) -> Section:
        """Return a table of all pictures."""
        rows = []
        for i, picture in enumerate(self.evaluation.pictures):
            found = self.matches[i]
            counts = (len(x) for x in (found.pairs, found.missed, found.spare))
            rows.append(
                [
                    Cell(picture.path),
                    number(self.qualities[i]),
                    *(number(count, 0) for count in counts),
                    number(detection.doubt(picture)),
                ]
            )
        head = ('picture', 'F1', 'found', 'missed', 'of nothing', 'doubt')
        return Section('All pictures', tables=[Table(head, rows)])


class Segmentor:
    """What is said of the label maps of an evaluation.

    Args:
        writer: of its plots and pictures.
    """

    measure = 'mIoU'
    means = 'mIoU of a picture: the mean over the classes that are or were told in it.'

    def __init__(self, writer: Writer):
        self.writer, self.evaluation = writer, writer.evaluation
        pictures = self.evaluation.pictures
        count = len(self.evaluation.classes)
        self.table = segmentation.confusion(pictures, count)
        self.shares = segmentation.shares(self.table)
        self.qualities = np.array([segmentation.quality(p) for p in pictures])

    def by_class(self) -> dict[str, dict[str, float]]:
        """Return the figures that classes are compared by."""
        names = self.evaluation.classes
        return {'IoU': dict(zip(names, self.shares.iou.tolist(), strict=True))}

    def caption(self, index: int) -> str:
        """Say how well a picture was told."""
        name = Path(self.evaluation.pictures[index].path).name
        return f'{name}: mIoU {self.qualities[index]:.2f}'

    def sections(self) -> list[Section]:
        """Return what is said."""
        names, shares = self.evaluation.classes, self.shares
        figures = (shares.iou, shares.accuracy)
        classes = Section(
            'Classes',
            'Intersection over union, and the share of the pixels of a class that were '
            'told. A click on a title sorts by its column.',
        )
        bars = draw_bars(figures, ('IoU', 'accuracy'), names)
        classes.plots = [self.writer.plot('classes', bars, 'Figures of each class.')]
        total = shares.pixels.sum()
        rows = [
            [Cell(n), *(number(x[i]) for x in (*figures, shares.pixels / total))]
            for i, n in enumerate(names)
        ]
        head = ('class', 'IoU', 'accuracy', 'share of the pixels')
        classes.tables = [Table(head, rows)]
        order = np.argsort(self.qualities, kind='stable')
        sides = 'Truth on the left, prediction on the right.'
        return [
            classes,
            self.mistakes(),
            gallery(self, 'Worst pictures', f'{self.means} {sides}', order),
            gallery(self, 'Best pictures', '', order[::-1]),
            self.listing(),
        ]

    def mistakes(self) -> Section:
        """Return what is taken for what."""
        figure = draw_confusion(
            self.table, self.evaluation.classes, in_percent=True, unit='pixels'
        )
        caption = 'Which pixels are taken for which, in percent of a class.'
        section = Section('Mistakes')
        section.plots = [self.writer.plot('confusion', figure, caption)]
        pairs = segmentation.mistaken(self.evaluation, self.table, LISTED)
        rows = [[Cell(a), Cell(b), number(share)] for a, b, share in pairs]
        if rows:
            head = ('class', 'taken for', 'share of its pixels')
            section.tables = [Table(head, rows)]
        return section

    def listing(self) -> Section:
        """Return a table of all pictures."""
        pairs = zip(self.evaluation.pictures, self.qualities, strict=True)
        rows = [[Cell(p.path), number(quality)] for p, quality in pairs]
        return Section('All pictures', tables=[Table(('picture', 'mIoU'), rows)])


Subject = Detector | Segmentor


def subject(writer: Writer) -> Subject:
    """Return what has something to say of the kind of an evaluation."""
    kind = Segmentor if writer.evaluation.predicts == 'label map' else Detector
    return kind(writer)


def gallery(own: Subject, title: str, text: str, order: Iterable[int]) -> Section:
    """Draw the first pictures of an order."""
    section = Section(title, text)
    for i in [*order][:SHOWN]:
        shown = own.writer.draw(f'{i:06d}', own.evaluation.pictures[i], own.caption(i))
        section.pictures.append(shown)
    return section
