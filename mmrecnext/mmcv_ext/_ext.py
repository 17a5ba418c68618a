"""The module that is loaded as ``mmcv._ext`` where mmcv lacks its compiled one.

``mmcv.ops`` asserts on import that every one of its operators is an attribute of this
module, so an unsupported operator is one too, and fails when it is called.

Imports are absolute because a relative one would look inside mmcv.
"""

from collections.abc import Callable

import torch
import torchvision

from mmrecnext.mmcv_ext import OPERATORS, announce
from mmrecnext.mmcv_ext.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmrecnext.mmcv_ext.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmrecnext.mmcv_ext.ms_deform_attn import (
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from mmrecnext.mmcv_ext.nms import nms, nms_match, softnms
from mmrecnext.mmcv_ext.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

__all__ = [
    'OPERATORS',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'roi_align_backward',
    'roi_align_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
]

announce()


def get_compiler_version() -> str:
    """Say that nothing was compiled, where mmcv names its C++ compiler."""
    return f'none (mmrecnext stand-in on torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Say that nothing was compiled, and name the CUDA version of PyTorch."""
    return f'{get_compiler_version()}, PyTorch CUDA {torch.version.cuda}'


def __getattr__(name: str) -> Callable:
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def unsupported(*args, **kwargs):
        raise NotImplementedError(
            f'{name} is not among the operators that mmrecnext provides in place of '
            "mmcv's compiled ones. Install the compiled mmcv to use it: "
            '`mim install "mmcv>=2.0.0rc4,<2.2.0"` with a PyTorch that it is built '
            'for, or build mmcv from source. '
            f'Provided here: {", ".join(OPERATORS)}'
        )

    unsupported.__name__ = name
    return unsupported
