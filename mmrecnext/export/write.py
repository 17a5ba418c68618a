"""Writing a file, and proving it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmrecnext.errors import ExportError, OptionError, UserError
from mmrecnext.export.formats import Format, find_format, format_of
from mmrecnext.export.images import made_up
from mmrecnext.export.proof import LIMIT, Run, Trial, try_pictures
from mmrecnext.export.recording import record
from mmrecnext.export.reductions import SINGLE
from mmrecnext.export.subjects import Subject
from mmrecnext.export.timing import ROUNDS, time_in_turn
from mmrecnext.files import atomic_write
from mmrecnext.version import __version__
from mmrecnext_autoload import choices

PICTURES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in choices.PICTURES
}
"""Types that pictures may have in a file, by name."""

PREFIX = 'mmrecnext.'
"""Before the names of what a file tells of itself."""


@dataclass(frozen=True)
class Report:
    """What has been written.

    Args:
        file: the file.
        seconds: that it took to record and to write, without the proof.
        trials: what the proof has shown; empty where there was none.
        rounding: the same of weights in another type, where that was asked for.
        times: of one picture in single precision and in that type, in milliseconds,
            where the file computes in it.
    """

    file: Path
    seconds: float
    trials: Sequence[Trial]
    rounding: Sequence[Trial] = ()
    times: Sequence[float] = ()


def export(
    subject: Subject,
    file: str | os.PathLike[str],
    format: str | None = None,
    size: tuple[int, int] | None = None,
    pictures: str = 'uint8',
    verify: bool = True,
    dtype: str = SINGLE,
    calibration: Sequence[Tensor] = (),
    ios_safe: bool = False,
    progress: Callable[[str, float], None] = lambda text, done: None,
) -> Report:
    """Write a network, and run the file beside it: whole and equal, or not at all.

    Args:
        subject: what to write.
        file: to be written; one that is there is replaced.
        format: a name in ``FORMATS``; None for the one whose files end as this one.
        size: height and width of the pictures; None for any. Their number is free.
        pictures: the type of their numbers, a name in ``PICTURES``.
        verify: whether to run the file; if not, it says so.
        dtype: of the weights: ``fp32``, or another one that the format has. The file is
            proven in single precision before they are rounded, and measured after.
        calibration: pictures ``[3, H, W]`` that ``int8`` needs, as a test reads them.
        ios_safe: whether maps of Core ML are enlarged by transposed convolutions.
        progress: is told what comes next, and what share is done.

    Raises:
        OptionError: for an impossible option, or a package that is missing.
        ExportError: where the network cannot be written, or the file gives other
            results; what was in its place before is then still there.
        OSError: where the file cannot be written.
    """
    row = find_format(format or format_of(file), dtype)
    _check(subject, file, row, size, pictures)
    if ios_safe and not row.elsewhere:
        raise OptionError(
            f'{row.name} files are none of iOS: --ios-safe is for Core ML'
        )
    check_calibration(row, dtype, calibration)
    parts = 3 if dtype == SINGLE else 5
    progress('record', 0)
    start = time.perf_counter()
    shown_as = row.graph_dtype or PICTURES[pictures]
    with _explained(f'PyTorch cannot record this network{_advice(size)}'):
        way = row.way(ios_safe) if row.way else None
        recording = record(subject, size, pictures, shown_as, row.is_single, way)
    with atomic_write(file, *row.companions) as place:
        progress('write', 1 / parts)
        with _explained(f'{row.name} has no way to write this network'):
            row.write(recording, place)
        seconds = time.perf_counter() - start

        def opened() -> Run:
            return recording if row.elsewhere else row.read(place)

        progress('run', 2 / parts)
        trials = prove(subject, opened, size, shown_as) if verify else []
        rounding: list[Trial] = []
        times: list[float] = []
        if dtype != SINGLE:
            single = row.read(place) if verify and calibration else None
            progress(f'turn into {dtype}', 3 / parts)
            start = time.perf_counter()
            reduction = row.reductions[dtype]
            as_input = partial(_as_input, subject, size, PICTURES[pictures])
            with _explained(f'{row.name} has no way to hold this network in {dtype}'):
                reduction.apply(place, recording, calibration, as_input)
            seconds += time.perf_counter() - start
            progress(f'run in {dtype}', 4 / parts)
            if verify and not row.elsewhere:
                limit = reduction.limit(subject.roughly, size, shown_as)
                rounding = prove(subject.roughly, opened, size, shown_as, limit)
            if single:
                batches = [*map(as_input, calibration[:ROUNDS])]
                times = time_in_turn((single, row.read(place)), batches)
        about = dict(
            subject.about,
            outputs=subject.outputs,
            pictures=pictures,
            size=size or 'free',
            dtype=dtype,
            **(dict(calibration=len(calibration)) if calibration else {}),
        )
        row.annotate(place, metadata(about, row, trials, rounding))
    return Report(Path(file), seconds, trials, rounding, times)


def prove(
    subject: Subject,
    opened: Callable[[], Run],
    size: tuple[int, int] | None,
    dtype: torch.dtype,
    limit: float = LIMIT,
) -> list[Trial]:
    """Run a file beside its network.

    Args:
        subject: what was written.
        opened: returns what runs the file.
        size: height and width of the pictures; None for any.
        dtype: of the pictures.
        limit: of the differences.

    Raises:
        ExportError: where it does not run, or its results are others.
    """
    # Coarser weights are tried in files that have been proven in single precision.
    advice = _advice(size) if limit == LIMIT else ''
    with _explained(f'the written file does not run{advice}'):
        run = opened()
        trials = [*try_pictures(run, subject.reference, subject.compare, size, dtype)]
    if misfits := [str(trial) for trial in trials if not trial.within(limit)]:
        raise ExportError(
            'the written file gives other results than the network, and is not kept'
            f'{advice}: {"; ".join(misfits)}'
        )
    return trials


def _advice(size: tuple[int, int] | None) -> str:
    """Return what may help where pictures of any size do not work."""
    return '' if size else '; try --size HEIGHT WIDTH'


def check_calibration(row: Format, dtype: str, calibration: Sequence[Tensor]) -> None:
    """Check that there are pictures to calibrate with where a type needs them.

    Raises:
        OptionError: where there are none, or some for nothing.
    """
    needed = dtype in row.reductions and row.reductions[dtype].is_calibrated
    if needed and not calibration:
        raise OptionError(f'{dtype} needs a folder of pictures to calibrate with')
    if calibration and not needed:
        raise OptionError(f'{dtype} takes no pictures to calibrate with')


def metadata(
    about: Mapping[str, Any],
    row: Format,
    trials: Sequence[Trial],
    rounding: Sequence[Trial] = (),
) -> dict[str, str]:
    """Return what a file tells of itself: names, and texts or JSON."""
    packages = ('torch', *row.packages)
    told = dict(
        about,
        versions=dict(
            mmrecnext=__version__, **{package: version(package) for package in packages}
        ),
        verified=_verified(row, trials),
    )
    if rounding:
        told['rounding'] = [str(trial) for trial in rounding]
    return {
        f'{PREFIX}{name}': value if isinstance(value, str) else json.dumps(value)
        for name, value in told.items()
    }


def _verified(row: Format, trials: Sequence[Trial]) -> list[str] | str:
    """Return what a file tells of its proof."""
    if not trials:
        return 'no: --no-verify'
    shown = [str(trial) for trial in trials]
    if row.elsewhere:
        return f'no: {row.elsewhere}. Its graph in PyTorch: {"; ".join(shown)}'
    return shown


def _check(
    subject: Subject,
    file: str | os.PathLike[str],
    row: Format,
    size: tuple[int, int] | None,
    pictures: str,
) -> None:
    """Check the options before anything that takes long."""
    if pictures not in PICTURES:
        raise OptionError(f'pictures are {" or ".join(PICTURES)}, got {pictures!r}')
    check_place(file, row, size)
    if size is None:
        return
    height, width = size
    with (
        _explained(f'the network takes no pictures of {height} x {width}'),
        torch.no_grad(),
    ):
        subject.reference(torch.zeros(1, 3, height, width, dtype=PICTURES[pictures]))


def check_place(
    file: str | os.PathLike[str], row: Format, size: tuple[int, int] | None
) -> None:
    """Check that a file of a format, for pictures of a size, can be written.

    Args:
        file: to be written.
        row: the format.
        size: height and width of the pictures; None for any.

    Raises:
        OptionError: where it cannot.
    """
    file = Path(file)
    if file.suffix != row.suffix:
        raise OptionError(f'{file}: names of the format {row.name} end in {row.suffix}')
    if file.is_dir() and not row.is_folder:
        raise OptionError(f'{file} is a folder; name a file')
    if not file.absolute().parent.is_dir():
        raise OptionError(f'{file}: there is no such folder')
    if size is None:
        if row.is_single:
            raise OptionError(
                f'{row.name} files take pictures of one size: --size HEIGHT WIDTH'
            )
        return
    if len(size) != 2 or min(size) < 1:
        raise OptionError(f'a size is a height and a width, of 1 or more, got {size}')


def _as_input(
    subject: Subject, size: tuple[int, int] | None, dtype: torch.dtype, image: Tensor
) -> Tensor:
    """Make of a picture ``[3, H, W]`` a batch that a file takes."""
    if size and image.shape[1:] != size:
        image = made_up(image, size, subject.about['preparation'])
    return image[None].to(dtype).contiguous()


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say in a line what libraries cannot do, whatever they raise."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise ExportError(f'{what}: {reason}') from error
