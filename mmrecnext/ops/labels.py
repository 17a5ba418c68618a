"""The most likely class of each pixel of an image, of logits that are smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrecnext.ops import fast_paths

ENLARGED_BYTES = 128 * 2**20
"""Of the logits that are held at the size of the image at once."""

VECTOR_BYTES = 64
"""Of the longest vectors that processors compute with; shorter ones divide it."""

FEWEST = 16
"""Classes from which on it pays to rule some out."""

MOST = 32
"""Classes left to compare, on average, up to which it pays."""

BAND_BYTES = 2**20
"""Of logits that are looked at together: what they need stays in cache."""

PAIRS = 2**13
"""Contenders that are enlarged together, likewise."""

STRIPES = 8
"""More than the neighbours that a pixel of the image may depend on, along a side."""


@dataclass(frozen=True)
class Enlargement:
    """How logits come to the size of an image, as in MMSegmentation.

    They are enlarged to what the network saw, rid of padding and flips, and brought to
    the size that the image had.

    Args:
        size: height and width of the image.
        align_corners: how maps are enlarged, as of ``F.interpolate``.
        seen: height and width of what the network saw; None of logits that have them.
        padding: pixels of it left, right, above and below that are not of the image.
        flip: ``horizontal`` or ``vertical`` where it was flipped.
    """

    size: tuple[int, int]
    align_corners: bool
    seen: tuple[int, int] | None = None
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip: str | None = None

    def __call__(self, logits: Tensor, finite: bool = False) -> Tensor:
        """Enlarge ``[1, C, h, w]`` to ``[1, C, H, W]``.

        Args:
            logits: what to enlarge.
            finite: whether all of them are known to be so. Brought to the size that
                they have, they are what they were, and it is left out.
        """
        if self.seen:
            logits = self._resize(logits, self.seen, finite)
        left, right, top, bottom = self.padding
        height, width = logits.shape[2:]
        logits = logits[:, :, top : height - bottom, left : width - right]
        if self.flip:
            logits = logits.flip(3 if self.flip == 'horizontal' else 2)
        return self._resize(logits, self.size, finite)

    def _resize(self, logits: Tensor, size: tuple[int, int], finite: bool) -> Tensor:
        if finite and tuple(logits.shape[2:]) == size:
            return logits
        return F.interpolate(
            logits, size, mode='bilinear', align_corners=self.align_corners
        )


@dataclass(frozen=True)
class Taps:
    """Which neighbours the pixels of an image depend on, along a side, and how much.

    Args:
        pixels: ``[S, N]``, those that depend on the neighbours from the ``n``-th on;
            one of them again where they are fewer than ``S``.
        weights: ``[K, S, N]``, of each of the ``K`` neighbours.
        used: ``[N]``, whether there are any.
        first: ``[L]``, of each pixel, the first neighbour.
    """

    pixels: Tensor
    weights: Tensor
    used: Tensor
    first: Tensor


@torch.no_grad()
def label_map(
    logits: Tensor, enlarge: Enlargement, threshold: float | None = None
) -> Tensor:
    """Return the most likely class of each pixel of an image, of equal ones the first.

    It is that of the enlarged logits to the last bit, but most are not enlarged: see
    :func:`_by_contenders`.

    Args:
        logits: ``[1, C, h, w]``, of ``C`` classes, or of the second of two where ``C``
            is 1.
        enlarge: how they come to the size of the image.
        threshold: the least probability, between 0 and 1, of the second class of two.

    Returns:
        ``[H, W]``, int64.
    """
    # To what automatic mixed precision makes of them first.
    logits = logits.to(F.interpolate(logits[:, :1], (1, 1), mode='bilinear').dtype)
    if logits.shape[1] == 1:
        return label_map_plain(logits, enlarge, threshold)
    labels = _by_contenders(logits, enlarge) if _pays(logits, enlarge) else None
    if labels is None:
        labels = _by_portions(logits, enlarge)
    return labels


def label_map_plain(
    logits: Tensor, enlarge: Enlargement, threshold: float | None = None
) -> Tensor:
    """Return what :func:`label_map` does, from all logits at the size of the image."""
    enlarged = enlarge(logits)[0]
    if len(enlarged) == 1:
        assert threshold is not None
        return (enlarged[0].sigmoid() > threshold).long()
    return enlarged.argmax(0)


def _pays(logits: Tensor, enlarge: Enlargement) -> bool:
    """Tell whether it takes less to find the contenders than to enlarge all classes."""
    sides = logits.shape[2:]
    return (
        fast_paths.are_on()
        and logits.device.type == 'cpu'
        and logits.dtype in (torch.float32, torch.float64)
        and logits.shape[1] >= FEWEST
        and 4 * sides.numel() <= enlarge.size[0] * enlarge.size[1]
        and (not enlarge.seen or all(map(int.__le__, sides, enlarge.seen)))
    )


def _by_portions(
    logits: Tensor,
    enlarge: Enlargement,
    among: Tensor | None = None,
    where: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the label map by enlarging a few classes at a time.

    Args:
        logits: ``[1, C, h, w]``.
        enlarge: how they come to the size of the image.
        among: ``[C]``, bool, which classes may win; None for all.
        where: rows and columns, ``[P]``, of the pixels to label, of logits that are all
            finite; None for all pixels.

    Returns:
        ``[H, W]``, or ``[P]``.
    """
    best: Tensor | None = None
    labels: Tensor | None = None
    for classes in _portions(logits, enlarge, among):
        some = enlarge(_select(logits, classes), finite=where is not None)[0]
        if where is not None:
            some = some[:, where[0], where[1]]
        index = some.argmax(0)  # the first of equal ones; that of `max` need not be
        value, index = some.gather(0, index[None])[0], classes[index]
        if best is None or labels is None:
            best, labels = value, index
        else:
            better = (value > best) | (value.isnan() & ~best.isnan())
            labels = torch.where(better, index, labels)
            best = torch.where(better, value, best)
    assert labels is not None  # for there is a class
    return labels


def _portions(
    logits: Tensor, enlarge: Enlargement, among: Tensor | None
) -> Iterator[Tensor]:
    """Yield classes, in order, such that each of them is computed as among all.

    PyTorch takes classes by the vector and the rest one by one, with other roundings:
    the rest stays together at the end, and of the others as many as fill vectors.
    """
    count = logits.shape[1]
    step = VECTOR_BYTES // logits.itemsize
    rest = count % step
    classes = torch.arange(count, device=logits.device)
    if among is not None and count >= step:
        wanted = among.clone()
        wanted[count - rest :] = True
        full = wanted[: count - rest]
        missing = -int(full.sum()) % step or (0 if full.any() else step)
        full[(~full).nonzero()[:missing, 0]] = True
        classes = wanted.nonzero()[:, 0]
    height, width = enlarge.size
    at_once = ENLARGED_BYTES // (height * width * logits.itemsize)
    at_once = max(1, at_once // step) * step
    portions = -(-(len(classes) - rest) // at_once)
    yield from classes.tensor_split([at_once * i for i in range(1, portions)])


def _select(logits: Tensor, classes: Tensor) -> Tensor:
    """Return some classes of ``[1, C, h, w]``, in the memory format of all."""
    if len(classes) == logits.shape[1]:
        return logits
    first, last = int(classes[0]), int(classes[-1])
    if last - first + 1 == len(classes):
        some = logits[:, first : last + 1]
    else:
        some = logits[:, classes]
    return some.contiguous(memory_format=_format(logits))


def _format(x: Tensor) -> torch.memory_format:
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _by_contenders(logits: Tensor, enlarge: Enlargement) -> Tensor | None:
    """Return the label map by comparing, in each window, the classes that may win.

    A window is the few neighbours that a pixel of the image depends on. Where one class
    is left, it has won; where several are, only these are enlarged, by sums in an order
    of our own. Where that is too close to tell, PyTorch's own decide.

    Returns:
        ``[H, W]``, or None where too many classes are left.
    """
    maps = logits[0].permute(1, 2, 0).contiguous()
    height, width, count = maps.shape
    largest = torch.maximum(maps.amax(), -maps.amin())
    if not largest.isfinite():
        return None
    # Of the largest of what is added up: twice what PyTorch rounds by, and we.
    share = 32 * torch.finfo(maps.dtype).eps
    rows, columns = (
        _taps(enlarge, (height, width), axis, maps.dtype, _format(logits))
        for axis in (0, 1)
    )
    down, across = len(rows.weights), len(columns.weights)
    found = _contenders(maps, down, across, share * float(largest))
    if found is None:
        return None
    window, classes = found
    in_a_row = len(columns.used)
    contenders = window.bincount(minlength=len(rows.used) * in_a_row)
    start = contenders.cumsum(0) - contenders
    winners = classes[start].view(-1, in_a_row)
    labels = winners.index_select(0, rows.first).index_select(1, columns.first)

    used = (rows.used[:, None] & columns.used).flatten()
    flat = maps.flatten()
    places = [(i * width + j) * count for i in range(down) for j in range(across)]
    close, rivals = [], torch.zeros(count, dtype=torch.bool)
    for n in range(2, int(contenders.max()) + 1):
        for some in (used & (contenders == n)).nonzero()[:, 0].split(PAIRS // n):
            row = some.div(in_a_row, rounding_mode='floor')
            column = some - row * in_a_row
            names = classes[start[some] + torch.arange(n)[:, None]]
            corner = (row * width + column) * count + names
            values = torch.stack([flat.take(corner + place) for place in places])
            slack = share * values.abs().amax((0, 1))
            values = values.view(down, across, 1, 1, n, -1)
            weights = rows.weights.index_select(2, row)[:, None, :, None, None]
            values = (values * weights).sum(0)
            weights = columns.weights.index_select(2, column)[:, None, :, None]
            values = (values * weights).sum(0)
            near = values >= values.amax(2, keepdim=True) - slack
            label, nearest = _last_of(near, names)
            y, x = torch.broadcast_tensors(
                rows.pixels.index_select(1, row)[:, None],
                columns.pixels.index_select(1, column)[None],
            )
            labels[y, x] = label
            tight = nearest > 1
            if tight.any():
                close.append((y[tight], x[tight]))
                rivals[names.expand_as(near)[near & tight[:, :, None]]] = True
    if close:
        y, x = map(torch.cat, zip(*close, strict=True))
        labels[y, x] = _by_portions(logits, enlarge, rivals, (y, x))
    return labels


def _last_of(near: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last name that is true, and how many are.

    Args:
        near: ``[Y, X, n, N]``, bool.
        names: ``[n, N]``.

    Returns:
        ``[Y, X, N]`` both.
    """
    label = names[0].expand_as(near[:, :, 0])
    count = near[:, :, 0].to(torch.int8)
    for i in range(1, len(names)):
        label = torch.where(near[:, :, i], names[i], label)
        count += near[:, :, i]
    return label, count


def _contenders(
    maps: Tensor, down: int, across: int, slack: float
) -> tuple[Tensor, Tensor] | None:
    """Find the classes that may win in each window.

    Enlarged logits lie between the least and the greatest that they are made of. So the
    winner has no less than the greatest of all classes' least, and who has that much
    nowhere in the window does not win.

    Args:
        maps: ``[h, w, C]``.
        down: height of a window.
        across: its width.
        slack: what rounding may change.

    Returns:
        Windows, counted in rows, and classes, ``[P]`` both and in order; None where
        they are too many.
    """
    width, count = maps.shape[1:]
    starts = len(maps) - down + 1
    in_a_row = width - across + 1
    windows, classes = [], []
    step = max(1, BAND_BYTES // maps[0].nbytes)
    for top in range(0, starts, step):
        band = maps[top : min(top + step, starts) + down - 1]
        least = most = band
        for axis, span in enumerate((down, across)):
            least = _sliding(torch.minimum, least, axis, span)
            most = _sliding(torch.maximum, most, axis, span)
        enough = least.amax(2, keepdim=True) - slack
        pairs = (most >= enough).flatten().nonzero()[:, 0]
        if len(pairs) > MOST * enough.numel():
            return None
        window = pairs.div(count, rounding_mode='floor')
        windows.append(window + top * in_a_row)
        classes.append(pairs - window * count)
    return torch.cat(windows), torch.cat(classes)


def _sliding(
    pick: Callable[[Tensor, Tensor], Tensor], x: Tensor, axis: int, span: int
) -> Tensor:
    """Return what ``pick`` makes of each ``span`` neighbours along an axis."""
    length = x.shape[axis] - span + 1
    return reduce(pick, (x.narrow(axis, i, length) for i in range(span)))


@lru_cache(maxsize=64)
def _taps(
    enlarge: Enlargement,
    sides: tuple[int, int],
    axis: int,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Taps:
    """Find out what pixels depend on, from what stripes become, along an axis.

    Args:
        enlarge: how logits come to the size of the image, no smaller.
        sides: height and width of the logits.
        axis: 0 for rows, 1 for columns.
        dtype: of the logits.
        layout: their memory format.
    """
    places = torch.arange(sides[axis])
    stripes = F.one_hot(places % STRIPES, STRIPES).T
    probe = torch.cat((stripes, places[None])).to(dtype)
    # Across them no more than it takes for PyTorch to go about it in the same way.
    left, right, top, bottom = enlarge.padding
    size, seen = [*enlarge.size], [*(enlarge.seen or enlarge.size)]
    size[1 - axis] = min(size[1 - axis], 128)
    across = size[1 - axis] + (left + right, top + bottom)[axis]
    seen[1 - axis] = across
    narrow = replace(
        enlarge,
        size=(size[0], size[1]),
        seen=(seen[0], seen[1]) if enlarge.seen else None,
    )
    shape = [1, len(probe), across, across]
    shape[2 + axis] = sides[axis]
    probe = probe[None].unsqueeze(3 - axis).expand(shape)
    made = narrow(probe.contiguous(memory_format=layout))[0].select(2 - axis, 0)

    weights, centre = made[:STRIPES], made[STRIPES]
    base = centre.long() - STRIPES // 2 + 1
    number = torch.arange(STRIPES)[:, None]
    place = base + (number - base) % STRIPES
    first = place.masked_fill(weights == 0, sides[axis]).amin(0)
    last = place.masked_fill(weights == 0, 0).amax(0)
    span = int((last - first).max()) + 1
    first = first.clamp(max=sides[axis] - span)
    weights = weights.gather(0, (first + number[:span]) % STRIPES)

    # In order of the first neighbour; a flip has it the other way round.
    order = first.argsort(stable=True)
    counts = first.bincount(minlength=sides[axis] - span + 1)
    ends = counts.cumsum(0)
    number = torch.arange(int(counts.max()))[:, None]
    pixels = order[(ends - counts + number).minimum(ends - 1).clamp(min=0)]
    return Taps(pixels, weights[:, pixels], counts > 0, first)
