"""What can be measured: models, and the ways to run them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch

from mmrecnext.archs import ARCHS, MLLA_ARCHS, nearest_archs, timm_name
from mmrecnext.errors import OptionError, closest
from mmrecnext.export.engines import ENGINES, engines_for
from mmrecnext_autoload import choices
from mmrecnext_autoload.choices import is_exported

EXPORTED = 'exported'
"""The form of a file, which has been given another before."""

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, whole) for name, whole in choices.DTYPES.items()
}


@dataclass(frozen=True)
class Case:
    """One way to run one model.

    Args:
        model: name, see :func:`kind_of`.
        form: ``original`` for the computation of the published code, in the form of
            its fused files when it infers; ``train`` or ``deploy`` for the library's;
            ``exported`` for a file.
        layout: memory format of images and weights.
        mode: ``eager``, ``compiled``, or ``frozen``: compiled with constant weights; of
            a file, the engine that runs it.
        dtype: a name in ``DTYPES``.
        work: ``forward`` for inference, ``step`` for a forward and a backward pass.
        shape: height and width of the images, in pixels.
        batch: images.
    """

    model: str
    form: str = 'deploy'
    layout: str = 'nhwc'
    mode: str = 'eager'
    dtype: str = 'fp32'
    work: str = 'forward'
    shape: tuple[int, int] = (800, 1344)
    batch: int = 1

    @property
    def pixels(self) -> int:
        """Pixels of the whole batch."""
        return self.batch * self.shape[0] * self.shape[1]


def kind_of(model: str) -> str:
    """Tell what a name means: ``recnext``, ``mlla``, ``config``, ``file`` or ``timm``.

    Args:
        model: ``recnext_m3`` or ``m3``; ``mlla_nano_recattn`` likewise; a config of
            MMDetection or MMSegmentation, as the other tools take it; a file that was
            exported; a name in timm.

    Raises:
        OptionError: for an unknown name, naming similar ones.
    """
    if short_name(model) in ARCHS:
        return 'recnext'
    if short_name(model) in MLLA_ARCHS:
        return 'mlla'
    if model.endswith('.py'):
        return 'config'
    if is_exported(model):
        return 'file'
    known = timm_models()
    if model in known:
        return 'timm'
    own = [*map(timm_name, (*ARCHS, *MLLA_ARCHS))]
    close = closest(model, [*own, *known]) or [*map(timm_name, nearest_archs(model))]
    hint = f'similar are {", ".join(close)}' if close else 'timm.list_models() lists'
    raise OptionError(
        f'unknown model {model!r}: it is none of {", ".join(own)}, no '
        f'config *.py, no exported file and no model of timm; {hint}'
    )


def short_name(model: str) -> str:
    """Return the name of a model in ``ARCHS`` or ``MLLA_ARCHS``."""
    return model.removeprefix('recnext_').removeprefix('mlla_')


@cache
def timm_models() -> list[str]:
    """Return the names of timm's models; none where timm is not installed."""
    try:
        import timm
    except ImportError:
        return []
    return timm.list_models()


def grid(
    models: Sequence[str],
    forms: Sequence[str] = ('original', 'deploy'),
    layouts: Sequence[str] = ('nhwc',),
    modes: Sequence[str] = ('eager',),
    dtypes: Sequence[str] = ('fp32',),
    works: Sequence[str] = ('forward',),
    shape: tuple[int, int] = (800, 1344),
    batches: Sequence[int] = (1,),
    engines: Sequence[str] | None = None,
) -> list[Case]:
    """Return all cases that combine the given ways, each of them once.

    What has no meaning is replaced by what is nearest: the original is run in NCHW, as
    it was published, and only for what contains a RecNeXt; a training step takes the
    training form, and weights that are not constant. A file is run by each engine, in
    the types that the engine has.

    Args:
        models: see :func:`kind_of`.
        forms: some of ``choices.FORMS``.
        layouts: some of ``choices.LAYOUTS``.
        modes: some of ``choices.MODES``.
        dtypes: some of ``DTYPES``.
        works: some of ``choices.WORKS``.
        shape: height and width of the images.
        batches: numbers of images.
        engines: some of ``ENGINES``, for files; by default all that are installed.

    Raises:
        OptionError: for an unknown model, or a file that none of the engines reads.
    """
    for model in models:
        kind_of(model)
    ways = product(works, models, dtypes, modes, forms, layouts, batches)
    cases = (
        Case(model, form, layout, mode, dtype, work, shape, batch)
        for work, model, dtype, mode, form, layout, batch in ways
    )
    return list(dict.fromkeys(meaningful(cases, engines)))


def meaningful(
    cases: Iterable[Case], engines: Sequence[str] | None = None
) -> Iterator[Case]:
    """Yield what each case amounts to, see :func:`grid`."""
    for case in cases:
        changes = {}
        if kind_of(case.model) == 'file':
            yield from run_by_engines(case, engines)
            continue
        if case.form == 'original':
            if kind_of(case.model) in ('timm', 'mlla'):
                continue
            changes['layout'] = 'nchw'
        if case.work == 'step':
            if case.form == 'deploy':
                changes['form'] = 'train'
            if case.mode == 'frozen':
                changes['mode'] = 'compiled'
        yield Case(**{**vars(case), **changes})


def run_by_engines(case: Case, engines: Sequence[str] | None) -> Iterator[Case]:
    """Yield a case of a file once for each engine that can do it."""
    for engine in engines_for(case.model, engines):
        if case.work == 'forward' and case.dtype in ENGINES[engine].dtypes:
            yield replace(case, form=EXPORTED, layout='nchw', mode=engine)
