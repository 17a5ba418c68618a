"""Building what is measured: a model, its input, and a function that runs it once."""

from __future__ import annotations

import timeit
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmrecnext.benchmark.cases import DTYPES, Case, kind_of, short_name
from mmrecnext.benchmark.detector import build_detector, detector_calls, mixed_precision
from mmrecnext.benchmark.original import original_of
from mmrecnext.compat import allow_many_compilations
from mmrecnext.errors import OptionError
from mmrecnext.export.engines import ENGINES
from mmrecnext.export.exported import open_exported
from mmrecnext.models.classifier import backbone_class

MEMORY_FORMATS = {
    'nchw': torch.contiguous_format,
    'nhwc': torch.channels_last,
}
MATMUL_SIDE = {'cpu': 2048, 'cuda': 8192}
MATMUL_SECONDS = 5  # one that takes longer is made smaller


@dataclass
class Workload:
    """Something to run.

    Args:
        forward: runs the network once.
        backward: runs it back from what ``forward`` returned; None for inference.
        model: the network.
        device: where it is.
    """

    forward: Callable[[], object]
    backward: Callable[[Any], object] | None
    model: nn.Module
    device: str

    def call(self):
        """Run all of it once."""
        result = self.forward()
        if self.backward is not None:
            self.backward(result)


def build(case: Case, device: str, checkpoint: str | None = None) -> Workload:
    """Build a model and its input, both random but the same each time.

    Args:
        case: what to build.
        device: where, such as ``cpu`` or ``cuda``.
        checkpoint: weights of a detector or segmentor. Without them it finds nothing,
            so that little is left to do after the network.
    """
    torch.manual_seed(0)
    if kind_of(case.model) == 'config':
        detector: Any = build_detector(case, checkpoint)
        detector.to(device).to(memory_format=MEMORY_FORMATS[case.layout])
        detector.backbone = compiled(detector.backbone, case.mode)
        return Workload(*detector_calls(detector, case, device), detector, device)

    if kind_of(case.model) == 'file':
        return Workload(run_of_file(case), None, nn.Identity(), device)

    model = build_backbone(case).to(device)
    model = model.to(memory_format=MEMORY_FORMATS[case.layout])
    images = make_images(case, device)
    if case.work == 'step':
        calls = training_step(compiled(model, case.mode), images, case)
        return Workload(*calls, model, device)
    model, images = model.to(DTYPES[case.dtype]), images.to(DTYPES[case.dtype])
    forward = inference(compiled(model, case.mode), images)
    return Workload(forward, None, model, device)


def build_backbone(case: Case) -> nn.Module:
    """Build the network that turns images into the maps of its stages."""
    training = case.work == 'step'
    if kind_of(case.model) in ('recnext', 'mlla'):
        arch = short_name(case.model)
        model: Any = backbone_class(arch)(arch).train(training)
        if case.form == 'original':
            return original_of(model, fused=not training)
        if case.form == 'deploy':
            model.switch_to_deploy()
        return model
    import timm

    model = timm.create_model(case.model, features_only=True).train(training)
    return fold_peer(model) if case.form == 'deploy' else model


def run_of_file(case: Case) -> Callable[[], object]:
    """Return a function that runs a file once, of noise.

    Raises:
        OptionError: for a file that takes images of another size.
    """
    file = open_exported(case.model)
    if file.size not in (None, case.shape):
        height, width = file.size or case.shape
        raise OptionError(
            f'{case.model} takes images of {height} x {width}: --shape {height} {width}'
        )
    run = ENGINES[case.mode].read(file.path, case.dtype)
    images = torch.randint(0, 256, (case.batch, 3, *case.shape)).to(file.dtype)
    return lambda: run(images)


def fold_peer(model: nn.Module) -> nn.Module:
    """Bring a model of timm into its inference form: as it says itself, or folded."""
    from timm.utils import reparameterize_model
    from torch.fx.experimental.optimization import fuse

    folded = reparameterize_model(model)
    if not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules()):
        return folded
    try:
        return fuse(folded)
    except Exception as error:  # of tracing, which not every model allows
        warnings.warn(f'measured with its batch norms: {error}', stacklevel=2)
        return folded


def compiled(model: nn.Module, mode: str) -> nn.Module:
    """Compile a model whole, for the one shape that it will be given."""
    if mode == 'eager':
        return model
    # All cases share the code of their layers, and so its table of compiled forms.
    allow_many_compilations(10_000)
    whole: Any = torch.compile(
        model,
        fullgraph=True,
        dynamic=False,
        options={'freezing': True} if mode == 'frozen' else None,
    )
    return whole


def make_images(case: Case, device: str) -> Tensor:
    """Return random images ``[batch, 3, *shape]``."""
    images = torch.randn(case.batch, 3, *case.shape, device=device)
    return images.contiguous(memory_format=MEMORY_FORMATS[case.layout])


def inference(model: Callable, images: Tensor) -> Callable[[], object]:
    """Return a function that infers once."""
    return torch.no_grad()(lambda: model(images))


def training_step(
    model: nn.Module, images: Tensor, case: Case
) -> tuple[Callable[[], object], Callable[[object], None]]:
    """Return functions that run a forward and a backward pass; there is no optimiser.

    Other types than fp32 are those of automatic mixed precision.
    """
    kept: list[Tensor] = []

    def forward() -> object:
        model.zero_grad(set_to_none=True)
        with mixed_precision(case.dtype, images.device.type):
            return model(images)

    def backward(maps):
        if not kept:  # as a neck would send them back
            kept.extend(torch.randn_like(each) for each in maps)
        torch.autograd.backward(maps, kept)

    return forward, backward


def matmul(dtype: str, device: str) -> tuple[Workload, int]:
    """Return a large matrix product, to compare rates with, and its operations."""
    side = MATMUL_SIDE.get(torch.device(device).type, MATMUL_SIDE['cuda'])

    def product(side: int) -> Callable[[], Tensor]:
        a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in 'ab')
        out = torch.empty_like(a)
        return torch.no_grad()(lambda: torch.mm(a, b, out=out))

    # Types that a processor has no instructions for take minutes at full size.
    seconds = min(timeit.repeat(product(side // 8), number=1))
    if seconds * 8**3 > MATMUL_SECONDS:
        side //= 4
    return Workload(product(side), None, nn.Identity(), device), 2 * side**3
