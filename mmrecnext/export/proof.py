"""Proof that a file does what its network does: pictures, and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EXAMPLE = (224, 256)
"""Height and width of what a graph of any size is recorded with."""

SIZES = ((160, 192), (129, 97))
"""Height and width of what such a graph is proven with: others, one of them odd."""

LIMIT = 1e-4
"""Largest difference of two results that differ by rounding alone.

It is a share of the root mean square of the network's: batch norms merged, in single
precision, leave about a tenth of it.
"""

Results = Mapping[str, Tensor]
Run = Callable[[Tensor], Results]


@dataclass(frozen=True)
class Difference:
    """How far a result of the file is from that of the network.

    Args:
        output: its name.
        value: the largest difference, as a share of the root mean square.
        note: what else there is to tell.
    """

    output: str
    value: float
    note: str = ''

    @property
    def fits(self) -> bool:
        """Whether rounding explains it."""
        return self.within(LIMIT)

    def within(self, limit: float) -> bool:
        """Whether it is no larger."""
        return self.value <= limit  # not so where it is no number

    def __str__(self) -> str:
        return f'{self.output} {self.value:.1e}' + (f' ({self.note})' * bool(self.note))


@dataclass(frozen=True)
class Trial:
    """What one batch of pictures has shown.

    Args:
        pictures: what they are, in words.
        differences: one of each output.
    """

    pictures: str
    differences: tuple[Difference, ...]

    @property
    def fits(self) -> bool:
        """Whether rounding explains all of them."""
        return self.within(LIMIT)

    def within(self, limit: float) -> bool:
        """Whether none of them is larger."""
        return all(difference.within(limit) for difference in self.differences)

    def __str__(self) -> str:
        return f'{self.pictures}: {", ".join(map(str, self.differences))}'


def pictures(
    size: tuple[int, int] | None, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Yield batches ``[N, 3, H, W]`` to prove a file with, and what they are.

    Args:
        size: height and width that the file takes; None for any.
        dtype: of the file's pictures.
    """
    first, second = (size, size) if size else SIZES
    for number, kind, (height, width) in (
        (2, 'pictures', first),
        (1, 'picture', second),
        (1, 'blank picture', first),
    ):
        seed = torch.Generator().manual_seed(number)
        shape = (number, 3, height, width)
        if kind.startswith('blank'):
            batch = torch.full(shape, 114.0)
        else:
            coarse = torch.rand(number, 3, 5, 6, generator=seed)
            smooth = F.interpolate(coarse, (height, width), mode='bilinear')
            batch = (200 * smooth + 55 * torch.rand(shape, generator=seed)).floor()
        yield f'{number} {kind} of {height} x {width}', batch.to(dtype)


def try_pictures(
    run: Run,
    reference: Run,
    compare: Callable[[Results, Results], list[Difference]],
    size: tuple[int, int] | None,
    dtype: torch.dtype,
) -> Iterator[Trial]:
    """Run a file beside its network, batch by batch.

    Args:
        run: runs the file.
        reference: runs the network.
        compare: returns the differences of their results.
        size: height and width that the file takes; None for any.
        dtype: of its pictures.
    """
    for told, batch in pictures(size, dtype):
        with torch.no_grad():
            expected = reference(batch)
        yield Trial(told, tuple(compare(run(batch), expected)))


def compare_values(found: Results, expected: Results) -> list[Difference]:
    """Compare results number by number."""
    return [_difference(name, value, expected[name]) for name, value in found.items()]


def compare_label_maps(
    found: Results, expected: Results, threshold: float | None = None
) -> list[Difference]:
    """Compare label maps, and logits if the file has them.

    Where two classes are as likely but for rounding, either may be told: what counts is
    by how much the network prefers its class to that of the file.

    Args:
        found: ``labels``, ``[N, H, W]``, and perhaps ``logits``.
        expected: both; of one class its probability stands in place of ``logits``.
        threshold: the least probability of a single class.
    """
    logits, labels = expected['logits'], found['labels']
    values = {name: value for name, value in found.items() if name != 'labels'}
    if threshold is not None:
        values = {name: value.sigmoid() for name, value in values.items()}
    rest = compare_values(values, expected)
    if labels.shape != expected['labels'].shape:
        return [_difference('labels', labels, expected['labels']), *rest]
    others = labels != expected['labels']
    if threshold is None:
        preferred = logits.amax(1) - logits.gather(1, labels[:, None])[:, 0]
    else:
        preferred = (logits[:, 0] - threshold).abs()
    largest = float((preferred * others).max() / _spread(logits))
    note = f'{int(others.sum())} of {others.numel()} differ'
    return [Difference('labels', largest, note), *rest]


def _difference(name: str, value: Tensor, expected: Tensor) -> Difference:
    if value.shape != expected.shape:
        note = f'of shape {list(value.shape)}, not {list(expected.shape)}'
        return Difference(name, float('inf'), note)
    return Difference(name, float((value - expected).abs().max() / _spread(expected)))


def _spread(x: Tensor) -> Tensor:
    return x.square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)
