"""The module that is loaded as ``mmcv._ext`` where mmcv lacks its compiled one.

``mmcv.ops`` asserts on import that every one of its operators is an attribute of this
module, so an unsupported operator is one too, and fails when it is called.

Imports are absolute because a relative one would look inside mmcv.
"""

from collections.abc import Callable

import torch
import torchvision

from mmrecnext.mmcv_ext import OPERATORS, announce
from mmrecnext.mmcv_ext.carafe import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
)
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
from mmrecnext.mmcv_ext.masks import (
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)
from mmrecnext.mmcv_ext.ms_deform_attn import (
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from mmrecnext.mmcv_ext.nms import nms, nms_match, softnms
from mmrecnext.mmcv_ext.orientation import (
    active_rotated_filter_backward,
    active_rotated_filter_forward,
)
from mmrecnext.mmcv_ext.overlaps import (
    bbox_overlaps,
)
from mmrecnext.mmcv_ext.points import (
    ball_query_forward,
    chamfer_distance_backward,
    chamfer_distance_forward,
    furthest_point_sampling_forward,
    furthest_point_sampling_with_dist_forward,
    gather_points_backward,
    gather_points_forward,
    group_points_backward,
    group_points_forward,
    knn_forward,
    stack_ball_query_forward,
    stack_group_points_backward,
    stack_group_points_forward,
    three_interpolate_backward,
    three_interpolate_forward,
    three_nn_forward,
)
from mmrecnext.mmcv_ext.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from mmrecnext.mmcv_ext.rotated import (
    box_iou_quadri,
    box_iou_rotated,
    convex_giou,
    convex_iou,
    diff_iou_rotated_sort_vertices_forward,
    iou3d_boxes_overlap_bev_forward,
    iou3d_nms3d_forward,
    iou3d_nms3d_normal_forward,
    min_area_polygons,
    nms_quadri,
    nms_rotated,
    points_in_polygons_forward,
)
from mmrecnext.mmcv_ext.rotated_align import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    riroi_align_rotated_backward,
    riroi_align_rotated_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
    rotated_feature_align_backward,
    rotated_feature_align_forward,
)
from mmrecnext.stacks import here

__all__ = [
    'OPERATORS',
    'active_rotated_filter_backward',
    'active_rotated_filter_forward',
    'ball_query_forward',
    'bbox_overlaps',
    'box_iou_quadri',
    'box_iou_rotated',
    'carafe_backward',
    'carafe_forward',
    'carafe_naive_backward',
    'carafe_naive_forward',
    'chamfer_distance_backward',
    'chamfer_distance_forward',
    'convex_giou',
    'convex_iou',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'deform_conv_forward',
    'deform_roi_pool_backward',
    'deform_roi_pool_forward',
    'diff_iou_rotated_sort_vertices_forward',
    'furthest_point_sampling_forward',
    'furthest_point_sampling_with_dist_forward',
    'gather_points_backward',
    'gather_points_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'group_points_backward',
    'group_points_forward',
    'iou3d_boxes_overlap_bev_forward',
    'iou3d_nms3d_forward',
    'iou3d_nms3d_normal_forward',
    'knn_forward',
    'masked_col2im_forward',
    'masked_im2col_forward',
    'min_area_polygons',
    'modulated_deform_conv_backward',
    'modulated_deform_conv_forward',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'nms_match',
    'nms_quadri',
    'nms_rotated',
    'points_in_polygons_forward',
    'psamask_backward',
    'psamask_forward',
    'riroi_align_rotated_backward',
    'riroi_align_rotated_forward',
    'roi_align_backward',
    'roi_align_forward',
    'roi_align_rotated_backward',
    'roi_align_rotated_forward',
    'roi_pool_backward',
    'roi_pool_forward',
    'rotated_feature_align_backward',
    'rotated_feature_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softnms',
    'stack_ball_query_forward',
    'stack_group_points_backward',
    'stack_group_points_forward',
    'three_interpolate_backward',
    'three_interpolate_forward',
    'three_nn_forward',
]

COMPILED = 'mmcv>=2.0.0rc4,<2.2.0'

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
            f'`mim install "{here(COMPILED)}"` with a PyTorch that it is built '
            'for, or build mmcv from source. '
            f'Provided here: {", ".join(OPERATORS)}'
        )

    unsupported.__name__ = name
    return unsupported
